"""``LLM``: messages in, text out. Every front end enters by it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from hermes3.engine.model import KVType
from hermes3.engine.pace import LATENCY_S
from hermes3.engine.prefix_store import DEFAULT_BYTES
from hermes3.engine.sampling import SamplingParams
from hermes3.engine.scoring import Scoring
from hermes3.errors import ContextLengthError, Hermes3Error, RequestError
from hermes3.llm.form import Form, form_of
from hermes3.llm.grammars import Grammars
from hermes3.llm.load import Load
from hermes3.llm.options import Answering, ChatOptions, Sampling, parted, split
from hermes3.llm.parts import Parts
from hermes3.llm.prepared import Prepared
from hermes3.llm.reply import Reply
from hermes3.llm.request import Request, Sink
from hermes3.llm.retrying import Retrying
from hermes3.llm.streams import Handle, Stream
from hermes3.llm.worker import Worker
from hermes3.prompt.chatml import Segment, render, system_segments
from hermes3.prompt.messages import Message, parse_messages

if TYPE_CHECKING:
    from hermes3.llm.async_stream import AsyncStream

Conversation = str | Iterable[Message | Mapping[str, Any]]
Prompt = str | Sequence[int]


class LLM:
    """A model that answers, for any number of callers at once.

    Callers of all kinds (threads, tasks, batches) share one engine, which advances all their answers
    together. Sampling arguments are those of ``Sampling``: the fields of ``SamplingParams`` by name, and
    ``stop``.

    Args:
        model: ``smol``, ``3b``, ``8b``, a path to a .gguf file or a folder, ``hf:owner/repo[:file]``; None
            for the best model on this machine, else ``smol``. Fetched where it is not here yet.
        n_ctx: tokens of context, prompt and answer together; None for 8192, or the model's limit if less.
        n_threads: threads to compute with, for the whole process; None for one per core.
        n_sequences: answers that run at once, others wait; None for 16.
        kv_dtype: "f16", "f32" or "q8_0" (8 bits, about half of f16's memory), of the KV cache; None for f16
            beside quantized weights, else f32.
        kv_bytes: memory for the KV cache, taken as it is needed; None for what n_sequences full contexts
            need, and at most half of what is available.
        prefix_caching: whether what a prompt begins with is taken from earlier requests that began alike
            (an earlier turn, the same tools) instead of computed again. No answer changes by a bit.
        speculative: whether a step may bring several ids, where a grammar forces them or the prompt lets
            guess them. No answer changes by a token, at any temperature.
        latency_s: seconds that a step may take while answers run; long prompts of others are computed beside
            them in parts of that size (at least 32 tokens).
        prefix_folder: keep what system turns (instructions, tools) were computed to in this folder, so that
            the next process reads it instead; None for nowhere. No answer changes by a bit.
        prefix_bytes: most that the folder may hold, 4 GiB by default; what was not used for longest goes.
        bos: whether prompts begin with the BOS token; None for what the model's own template says.

    Attributes:
        name: the model's name: the short name it was asked for by, else its file's without the ending.
        path: the file or folder it was loaded from.
        n_ctx: tokens of context.
        tokenizer: text to ids and back.
        template: how prompts differ from plain ChatML.

    Raises:
        ModelNotFoundError, DownloadError, FormatError: the model cannot be had, or cannot be read.
        CapacityError: it does not fit into memory.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        n_sequences: int | None = None,
        kv_dtype: KVType | None = None,
        kv_bytes: int | None = None,
        prefix_caching: bool = True,
        speculative: bool = True,
        latency_s: float = LATENCY_S,
        prefix_folder: str | os.PathLike[str] | None = None,
        prefix_bytes: int = DEFAULT_BYTES,
        bos: bool | None = None,
    ) -> None:
        from hermes3.weights import hub

        name = hub.default_model()[0] if model is None else os.fspath(model)
        path = hub.resolve(model)
        self._set(
            Parts.load(
                path,
                n_ctx=n_ctx,
                n_threads=n_threads,
                n_sequences=n_sequences,
                kv_dtype=kv_dtype,
                kv_bytes=kv_bytes,
                prefix_caching=prefix_caching,
                speculative=speculative,
                latency_s=latency_s,
                prefix_folder=None if prefix_folder is None else Path(prefix_folder),
                prefix_bytes=prefix_bytes,
            ),
            name=name if name in hub.KNOWN else path.stem if path.is_file() else path.name,
            path=path,
            bos=bos,
        )

    @classmethod
    def of_parts(cls, parts: Parts, *, name: str, path: Path, bos: bool | None = None) -> Self:
        """A hall over parts that exist already, which it then owns."""
        llm = cls.__new__(cls)
        llm._set(parts, name=name, path=path, bos=bos)
        return llm

    def _set(self, parts: Parts, *, name: str, path: Path, bos: bool | None) -> None:
        if bos and parts.tokenizer.bos_token is None:
            raise RequestError(f"bos=True, but the vocabulary of {name} has no BOS token", param="bos")
        chosen = parts.tokenizer.bos_token if bos else None
        self.name = name
        self.path = path
        self.n_ctx = parts.engine.n_ctx
        self.tokenizer = parts.tokenizer
        self.template = parts.template if bos is None else replace(parts.template, bos=chosen)
        self._has_bos = parts.tokenizer.add_bos if bos is None else bos  # in front of plain text
        self._end_ids = parts.end_ids
        self._keeps_prefixes = parts.engine.keeps_prefixes
        self._worker = Worker(parts.engine)
        self._grammars = Grammars(parts.tokenizer, parts.end_ids, parts.engine.n_vocab)
        # At the latest when Python ends:
        self._finalizer = weakref.finalize(self, _close, self._worker, self._grammars)

    @property
    def failure(self) -> Hermes3Error | None:
        """Why no answer will come any more, or None where all is well."""
        return self._worker.failure

    def load(self) -> Load:
        """How busy the engine is, and whether it moves.

        Raises:
            Hermes3Error: the model was closed.
        """
        return self._worker.load()

    def abandon(self, error: Hermes3Error) -> None:
        """End all answers in work with an error, even while a step of the engine does not return."""
        self._worker.abandon(error)

    @overload
    def chat(
        self,
        messages: Conversation,
        *,
        stream: Literal[False] = False,
        params: SamplingParams | None = None,
        **options: Unpack[ChatOptions],
    ) -> Reply: ...
    @overload
    def chat(
        self,
        messages: Conversation,
        *,
        stream: Literal[True],
        params: SamplingParams | None = None,
        **options: Unpack[ChatOptions],
    ) -> Stream: ...
    def chat(
        self,
        messages: Conversation,
        *,
        stream: bool = False,
        params: SamplingParams | None = None,
        **options: Unpack[ChatOptions],
    ) -> Reply | Stream:
        """The assistant's next turn.

        Args:
            messages: the conversation, oldest first: ``Message`` objects or OpenAI's dicts; a string is one
                user message.
            stream: give the answer's deltas as they come, instead of the whole.
            params: sampling parameters; those given by name go before.
            options: ``Sampling``'s, and what the answer may look like, ``Answering``'s: tools,
                response_format, grammar and others.

        Raises:
            RequestError: something asked for cannot be honoured; ``param`` names it.
            ContextLengthError: prompt, or prompt and ``max_tokens``, exceed the context.
            Hermes3Error: the engine failed or was closed.
        """
        asked, sampling = parted(options)
        answer = self.start(self.prepare(messages, **asked), params=params, **sampling)
        return answer if stream else answer.reply()

    def chat_batch(
        self,
        conversations: Iterable[Conversation],
        *,
        params: SamplingParams | None = None,
        **options: Unpack[ChatOptions],
    ) -> list[Reply]:
        """The next turns of many conversations at once, each as ``chat`` would give it alone, in their order.

        Raises:
            RequestError, ContextLengthError, Hermes3Error: see ``chat``; nothing runs on after an error.
        """
        asked, sampling = parted(options)
        form = form_of(asked)
        prepared = [self._prepared(messages, form) for messages in conversations]
        # Streams that are dropped cancel themselves.
        answers = [self.start(each, params=params, **sampling) for each in prepared]
        return [answer.reply() for answer in answers]

    def prepare(self, messages: Conversation, **asked: Unpack[Answering]) -> Prepared:
        """A conversation made ready to be answered, once or several times, by ``start`` or ``astart``.

        Raises:
            RequestError, ContextLengthError: see ``chat``.
        """
        return self._prepared(messages, form_of(asked))

    @overload
    def complete(
        self,
        prompt: Prompt,
        *,
        stream: Literal[False] = False,
        allow_special: bool = False,
        params: SamplingParams | None = None,
        **sampling: Unpack[Sampling],
    ) -> Reply: ...
    @overload
    def complete(
        self,
        prompt: Prompt,
        *,
        stream: Literal[True],
        allow_special: bool = False,
        params: SamplingParams | None = None,
        **sampling: Unpack[Sampling],
    ) -> Stream: ...
    def complete(
        self,
        prompt: Prompt,
        *,
        stream: bool = False,
        allow_special: bool = False,
        params: SamplingParams | None = None,
        **sampling: Unpack[Sampling],
    ) -> Reply | Stream:
        """What follows a prompt that is no conversation: text, or token ids taken as they are.

        Args:
            allow_special: text such as ``<|im_end|>`` in the prompt counts as the token of that name.

        Raises:
            RequestError, ContextLengthError, Hermes3Error: see ``chat``.
        """
        prepared = Prepared(self.encode(prompt, allow_special=allow_special))
        answer = self.start(prepared, params=params, **sampling)
        return answer if stream else answer.reply()

    def achat(
        self, messages: Conversation, *, params: SamplingParams | None = None, **options: Unpack[ChatOptions]
    ) -> AsyncStream:
        """``chat`` for asyncio: iterate over the deltas with ``async for``, or await ``.reply()``.

        Raises:
            RequestError, ContextLengthError, Hermes3Error: see ``chat``.
        """
        asked, sampling = parted(options)
        return self.astart(self.prepare(messages, **asked), params=params, **sampling)

    def acomplete(
        self,
        prompt: Prompt,
        *,
        allow_special: bool = False,
        params: SamplingParams | None = None,
        **sampling: Unpack[Sampling],
    ) -> AsyncStream:
        """``complete`` for asyncio.

        Raises:
            RequestError, ContextLengthError, Hermes3Error: see ``chat``.
        """
        prepared = Prepared(self.encode(prompt, allow_special=allow_special))
        return self.astart(prepared, params=params, **sampling)

    def astart(
        self, prepared: Prepared, *, params: SamplingParams | None = None, **sampling: Unpack[Sampling]
    ) -> AsyncStream:
        """Start an answer to what was prepared, for asyncio; nothing here takes long.

        Raises:
            RequestError, ContextLengthError, Hermes3Error: see ``chat``.
        """
        from hermes3.llm.async_stream import AsyncStream

        answer = AsyncStream(with_logprobs=_wants_logprobs(params, sampling), form=prepared.form)
        answer.attach(self._start(prepared, params, sampling, answer.sink))
        return answer

    def segments(self, messages: Conversation, **asked: Unpack[Answering]) -> list[Segment]:
        """The text of a conversation, up to where the assistant's answer begins.

        Raises:
            RequestError: something that cannot be rendered; ``param`` names its field.
        """
        return self._rendered(messages, form_of(asked))

    def cached_tokens(self, prepared: Prepared) -> int | None:
        """Tokens of a prompt that would come from earlier ones, were it started now; None: cannot be told."""
        return self._worker.n_known(prepared.ids)

    def encode_chat(self, messages: Conversation, **asked: Unpack[Answering]) -> list[int]:
        """Token ids of a conversation, up to where the assistant's answer begins.

        Raises:
            RequestError: something that cannot be rendered; ``param`` names its field.
            ContextLengthError: the conversation leaves no room for an answer.
        """
        return self._encoded(self._rendered(messages, form_of(asked)))

    def encode(self, prompt: Prompt, *, allow_special: bool = False) -> list[int]:
        """Token ids of a plain prompt, BOS in front where the model wants one; ids stay as they are.

        Raises:
            RequestError: no token at all, or an id outside the vocabulary.
            ContextLengthError: the prompt leaves no room for an answer.
        """
        if isinstance(prompt, str):
            self._check_room(self.tokenizer.least(len(prompt)), "prompt", "at least ")
            ids = self.tokenizer.encode(prompt, allow_special=allow_special)
            bos = self.tokenizer.bos_id
            if self._has_bos and bos is not None and ids[:1] != [bos]:
                ids = [bos, *ids]
        else:
            ids = list(prompt)
        self._check_room(len(ids), "prompt")
        n_vocab = self.tokenizer.vocab_size
        for token_id in ids:
            if not isinstance(token_id, int) or not 0 <= token_id < n_vocab:
                raise RequestError(
                    f"prompt holds {token_id!r:.40}, ids are integers from 0 to {n_vocab - 1}", param="prompt"
                )
        if not ids:
            raise RequestError("the prompt is empty, it must hold at least one token", param="prompt")
        return ids

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Scoring:
        """Log-likelihoods of continuations, each given its context; what pairs share is computed once.

        Args:
            pairs: (ids of the context, ids of the continuation), at least one each, n_ctx + 1 together.

        Returns:
            an iterator that computes as it is read and yields each ``Score`` when it is there; its
            ``n_computed`` of ``n_positions`` says how far it is.

        Raises:
            RequestError, ContextLengthError, CapacityError: a pair that cannot be scored, by its number.
            Hermes3Error: the engine failed or was closed.
        """
        return self._worker.scorer().score(pairs)

    def close(self) -> None:
        """Stop the engine and give its memory back. Answers in work end with an error."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rendered(self, messages: Conversation, form: Form) -> list[Segment]:
        return render(
            _turns(messages),
            template=self.template,
            tools=form.tools,
            schema=form.schema,
            call_order=form.call_order,
        )

    def _encoded(self, segments: list[Segment]) -> list[int]:
        n_chars = sum(len(segment.text) for segment in segments)
        self._check_room(self.tokenizer.least(n_chars), "messages", "at least ")
        ids = self.tokenizer.encode_segments(segments)
        self._check_room(len(ids), "messages")
        return ids

    def _prepared(self, messages: Conversation, form: Form) -> Prepared:
        turns = _turns(messages)
        segments = self._rendered(turns, form)
        ids, n_prefix = self._encoded(segments), 0
        if self._keeps_prefixes:
            n_prefix = len(self.tokenizer.encode_segments(system_segments(segments)))
            self._worker.recall(ids[:n_prefix])
        fitted, grammar = self._grammars.fitted(form)
        return Prepared(ids, fitted, grammar, n_prefix, () if fitted.checks is None else tuple(turns))

    def start(
        self, prepared: Prepared, *, params: SamplingParams | None = None, **sampling: Unpack[Sampling]
    ) -> Stream:
        """Start an answer to what was prepared.

        Raises:
            RequestError, ContextLengthError, Hermes3Error: see ``chat``.
        """
        answer = Stream(with_logprobs=_wants_logprobs(params, sampling), form=prepared.form)
        answer.attach(self._start(prepared, params, sampling, answer.sink))
        return answer

    def _start(
        self, prepared: Prepared, params: SamplingParams | None, sampling: Sampling, sink: Sink
    ) -> Handle:
        """Start the answer to a prompt."""
        checks = prepared.form.checks
        if checks is None:
            return self._submit(prepared, params, sampling, sink)

        def submit(turns: Sequence[Message], sink: Sink) -> Handle:
            if turns is prepared.turns:
                return self._submit(prepared, params, sampling, sink)
            ids = self._encoded(self._rendered(turns, prepared.form))
            asked, room = split(params, sampling)[0].max_tokens, self.n_ctx - len(ids)
            fewer: Sampling = {**sampling, "max_tokens": room if asked is None else min(asked, room)}
            return self._submit(replace(prepared, ids=ids), params, fewer, sink)

        return Retrying(prepared.turns, checks, submit, sink).start()

    def _submit(
        self, prepared: Prepared, params: SamplingParams | None, sampling: Sampling, sink: Sink
    ) -> Handle:
        ids, grammar = prepared.ids, prepared.grammar
        asked, stops = split(params, sampling)
        ends = asked.stop_ids if asked.ignore_eos else asked.stop_ids | self._end_ids
        asked = replace(asked, stop_ids=ends, max_tokens=self._max_tokens(len(ids), asked.max_tokens))
        form = prepared.form
        request = Request(
            len(ids), stops, ends, self.tokenizer, form.reader(), sink, tells_forced=form.has_forced_spans
        )
        key = self._worker.submit(ids, asked, request, grammar, prepared.n_prefix)
        return Handle(partial(self._worker.cancel, key), partial(self._worker.progress, key))

    def _check_room(self, n_prompt: int, param: str, about: str = "") -> None:
        if n_prompt >= self.n_ctx:
            raise ContextLengthError(
                f"the prompt has {about}{n_prompt} tokens, the context holds {self.n_ctx} with at least one "
                "for the answer; shorten the prompt or load the model with a larger n_ctx",
                param=param,
            )

    def _max_tokens(self, n_prompt: int, asked: int | None) -> int:
        """Room for the answer: what is asked for, else what the context leaves."""
        room = self.n_ctx - n_prompt
        if asked is not None and asked > room:
            raise ContextLengthError(
                f"the prompt's {n_prompt} tokens and max_tokens = {asked} make {n_prompt + asked}, the "
                f"context holds {self.n_ctx}; ask for at most {room}",
                param="max_tokens",
            )
        return room if asked is None else asked


def _turns(messages: Conversation) -> list[Message]:
    return [Message("user", messages)] if isinstance(messages, str) else parse_messages(messages)


def _close(worker: Worker, grammars: Grammars) -> None:
    worker.close()
    grammars.close()


def _wants_logprobs(params: SamplingParams | None, sampling: Sampling) -> bool:
    return sampling.get("logprobs", params and params.logprobs) is not None
