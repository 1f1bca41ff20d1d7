"""The one thread that drives the engine, for all who wait on it."""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import Any

from hermes3.engine.grammar import Grammar
from hermes3.engine.protocol import Answer, EngineProtocol, StepOutput
from hermes3.engine.sampling import SamplingParams
from hermes3.engine.scoring import Scorer
from hermes3.errors import Hermes3Error
from hermes3.llm.load import Load, Progress
from hermes3.llm.request import Request

_WAKE, _STOP = "wake", "stop"


class Worker:
    """Steps the engine while it has work and sleeps while it has none.

    Submitting and cancelling are for any thread. What a thread needs to be told of a running answer, its
    deltas or an error, reaches it through the request's sink; whatever happens here, every waiting caller
    gets one of the two.
    """

    def __init__(self, engine: EngineProtocol[Any]) -> None:
        self._engine = engine
        self._lock = threading.Lock()  # of the two below, and never held while anything waits
        self._running: dict[int, tuple[Answer, Request]] = {}
        self._thread: threading.Thread | None = None
        # SimpleQueue.put may be interrupted by itself, so a stream that garbage collection drops anywhere can
        # cancel its answer: https://docs.python.org/3/library/queue.html#queue.SimpleQueue.put
        self._inbox: SimpleQueue[int | str] = SimpleQueue()
        self._is_closed = False
        self._moved = time.monotonic()  # when the engine last brought anything, or began to have work
        self._is_stepping = False
        self._failure: Hermes3Error | None = None

    @property
    def failure(self) -> Hermes3Error | None:
        """The error that stopped the engine for good, or None."""
        return self._failure or (None if self._is_closed else self._engine.failure)

    def submit(
        self,
        ids: list[int],
        params: SamplingParams,
        request: Request,
        grammar: Grammar | None = None,
        n_prefix: int = 0,
    ) -> int:
        """Start an answer; what comes of it goes to the request's sink.

        Args:
            grammar: what the answer must follow; None for none.
            n_prefix: ids that are worth keeping on disk.

        Returns:
            the key to cancel it by.

        Raises:
            RequestError: the engine refuses the request.
            Hermes3Error: the engine has stopped.
        """
        with self._lock:
            if (failure := self.failure) is not None:
                raise _copy(failure)
            if not self._running and not self._is_stepping:
                self._moved = time.monotonic()
            sequence = self._engine.add(ids, params, grammar, n_prefix)
            self._running[id(sequence)] = sequence, request
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hermes3-engine", daemon=True)
                self._thread.start()
        self._inbox.put(_WAKE)
        return id(sequence)

    def scorer(self) -> Scorer:
        """The engine's scorer, for any thread.

        Raises:
            Hermes3Error: the engine has stopped.
        """
        with self._lock:
            if (failure := self.failure) is not None:
                raise _copy(failure)
            return self._engine.scorer()

    def recall(self, ids: list[int]) -> None:
        """Read a prompt's beginning from disk, if it is kept there. For any thread."""
        with self._lock:
            engine = None if self.failure is not None else self._engine
        if engine is not None:
            engine.recall(ids)

    def n_known(self, ids: list[int]) -> int | None:
        """See ``EngineProtocol.n_known``; 0 where the engine has stopped."""
        with self._lock:
            engine = None if self.failure is not None else self._engine
        return 0 if engine is None else engine.n_known(ids)

    def progress(self, key: int) -> Progress | None:
        """How far an answer is, None where it is over. For any thread."""
        with self._lock:
            found = self._running.get(key)
            if found is None:
                return None
            own, _ = found
            waiting = [each for each, _ in self._running.values() if each.started is None]
        return Progress(
            n_ahead=sum(each.added < own.added for each in waiting) if own in waiting else None,
            n_prompt=own.n_prompt,
            n_read=min(own.n_computed, own.n_prompt),
            n_written=own.n_answer,
        )

    def cancel(self, key: int) -> None:
        """End an answer, unless it has ended, before the next step; its last delta says ``cancelled``."""
        self._inbox.put(key)

    def load(self) -> Load:
        """How busy the engine is now.

        Raises:
            Hermes3Error: the model was closed.
        """
        with self._lock:
            if self._is_closed:
                raise _copy(self._failure or Hermes3Error("the model was closed"))
            engine, is_busy = self._engine, bool(self._running) or self._is_stepping
        return Load(
            n_running=engine.n_running,
            n_waiting=engine.n_waiting,
            n_kv_tokens=engine.n_kv_tokens,
            n_free_kv_tokens=engine.n_free_kv_tokens,
            n_computed=engine.counters.n_computed,
            n_generated=engine.counters.n_generated,
            stalled_s=time.monotonic() - self._moved if is_busy else 0.0,
            n_drafts=engine.counters.n_drafts,
            n_drafted=engine.counters.n_drafted,
            n_accepted=engine.counters.n_accepted,
        )

    def abandon(self, error: Hermes3Error) -> None:
        """End every answer in work with an error, now, whatever the engine is doing.

        For a step that does not return: who waits is told. Should it return after all, the engine goes on
        with what was submitted since.
        """
        with self._lock:
            left, self._running = list(self._running.values()), {}
        for sequence, request in left:
            self._engine.cancel(sequence)
            request.failed(_copy(error))

    def close(self) -> None:
        """Stop for good and let go of the engine's memory. Answers in work end with an error."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if self._failure is None:
                self._failure = Hermes3Error("the model was closed; open it again to go on")
            thread = self._thread
        self._inbox.put(_STOP)
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._engine.close()
        del self._engine

    def _run(self) -> None:
        try:
            while self._obey():
                n_steps = self._engine.counters.n_steps
                self._is_stepping = True
                outputs = self._engine.step()
                self._is_stepping = False
                if outputs or self._engine.counters.n_steps > n_steps:
                    self._moved = time.monotonic()
                for output in outputs:
                    self._deliver(output)
        except BaseException as error:
            failure = Hermes3Error(
                f"the engine failed ({type(error).__name__}: {error}); load the model again"
            )
            failure.__cause__ = error
            with self._lock:
                self._failure = failure
        self._fail_all()

    def _obey(self) -> bool:
        """Do what the inbox says; wait there while there is no work. False: stop."""
        while True:
            try:
                word = self._inbox.get(block=not self._engine.has_work)
            except Empty:
                return True
            if word == _STOP:
                return False
            if isinstance(word, int):
                self._cancel(word)

    def _cancel(self, key: int) -> None:
        with self._lock:
            found = self._running.pop(key, None)
        if found is not None:
            sequence, request = found
            self._engine.cancel(sequence)
            request.cancelled()

    def _deliver(self, output: StepOutput[Any]) -> None:
        key = id(output.sequence)
        with self._lock:
            found = self._running.get(key)
        if found is None:  # cancelled, or its submitter was interrupted before it was noted
            self._engine.cancel(output.sequence)
            return
        _, request = found
        try:
            is_over = request.take(output)
        except Exception as error:  # this answer's text is at fault, the engine is not
            is_over = request.failed(error)
        if is_over:
            with self._lock:
                self._running.pop(key, None)  # unless it was abandoned meanwhile
            self._engine.cancel(output.sequence)  # nothing to an answer that the engine has ended

    def _fail_all(self) -> None:
        with self._lock:
            failure = self._failure or Hermes3Error("the engine stopped")
            left, self._running = list(self._running.values()), {}
        for _, request in left:
            request.failed(_copy(failure))


def _copy(failure: Hermes3Error) -> Hermes3Error:
    """The same error for one more thread: an exception carries the traceback of whoever raised it."""
    copy = Hermes3Error(str(failure))
    copy.__cause__ = failure.__cause__
    return copy
