"""A batch over many machines: Ray Data hands requests to engines on each, one place writes the answers down.

https://docs.ray.io/en/latest/data/data.html. An engine's process that dies is started again, and what it had
in hand is asked again; an answer counts once it has arrived here, and only the first of a request does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from hermes3.errors import Hermes3Error
from hermes3.llm import EngineChoice
from hermes3.server.batch import Answer, Ledger, Line, Outcome, Told, answers, application

ROUNDS = 4  # of answers at once, that a worker is handed at a time; its death costs so many


@dataclass(frozen=True, slots=True)
class Crew:
    """Who answers.

    Attributes:
        model: name or path that each machine finds it by.
        served_model_name: what the lines call it.
        engine: of each worker.
        at_once: answers in work at a time, in each.
        address: of the Ray cluster: "auto", "host:port", "ray://host:port"; "local" for a new one on this
            machine, for this run.
        n_workers: engines; None for one on each machine.
    """

    model: str
    served_model_name: str
    engine: EngineChoice
    at_once: int
    address: str
    n_workers: int | None


def answer_all_on_ray(
    crew: Crew, source: Path, names: Collection[str], target: Path, *, max_bytes: int, told: Told
) -> Outcome:
    """``batch.answer_all`` by a crew: same files, same promises.

    Raises:
        FormatError, RequestError: see ``answer_all``.
        Hermes3Error: Ray is not installed, no cluster is there, or an engine cannot be started; what was
            answered is kept.
    """
    if find_spec("ray") is None:
        raise Hermes3Error("--ray needs Ray, which is not installed: pip install 'hermes3[ray]'")
    with Ledger(target, names, told) as ledger:
        todo = ledger.open(source, max_bytes)
        if (first := next(todo, None)) is not None:
            for answer in _arriving(crew, chain([first], todo)):
                ledger.take(answer)
    return ledger.outcome


def _arriving(crew: Crew, todo: Iterator[Line]) -> Iterator[Answer]:
    import ray

    alone = {"include_dashboard": False} if crew.address == "local" else {}
    try:
        ray.init(address=crew.address, log_to_driver=False, logging_level="error", **alone)
    except Exception as error:
        raise Hermes3Error(f"no Ray cluster at {crew.address}: {error}"[:1000]) from error
    try:
        for row in _answered(crew, todo).iter_rows():
            yield json.loads(row["answer"])
    except ray.exceptions.RayError as error:
        kept = "What was answered is kept: the same command goes on from there"
        raise Hermes3Error(f"a worker failed: {str(_first(error))[:1500]}. {kept}") from error
    finally:
        ray.shutdown()


def _first(error: BaseException) -> BaseException:
    """What began a chain of errors, which Ray wraps several times."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    return error


def _answered(crew: Crew, todo: Iterator[Line]) -> Any:
    """Ray's data set of the answers, not computed yet."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.addFilter(_is_trouble)
    machines = [node for node in ray.nodes() if node["Alive"]]
    n_workers = crew.n_workers or len(machines)
    n_lines = crew.at_once * ROUNDS
    rows = [{"line": json.dumps(asdict(line))} for line in todo]
    requests = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // n_lines))
    return requests.map_batches(  # a worker that dies begins again, and with it what it had in hand
        Answerer,
        fn_constructor_args=(crew,),
        batch_size=n_lines,
        compute=ray.data.ActorPoolStrategy(size=n_workers),
        num_gpus=_gpus(crew, ray.cluster_resources()),
    )


def _is_trouble(record: logging.LogRecord) -> bool:
    """Whether what Ray Data says is for the user; all of it is in its own log."""
    return record.levelno >= logging.WARNING and "Progress bars" not in record.getMessage()


def _gpus(crew: Crew, resources: dict[str, float]) -> int:
    """Of each worker: those that its vLLM shares the model among, where the cluster has any."""
    options = crew.engine.vllm
    if options is None or not resources.get("GPU"):
        return 0
    return options.tensor_parallel_size * options.pipeline_parallel_size


class Answerer:
    """One engine in a process of Ray's; its application lives on an event loop of its own."""

    def __init__(self, crew: Crew) -> None:
        self._at_once = crew.at_once
        self._llm = crew.engine.open(crew.model)
        self._app = application(self._llm, crew.served_model_name, crew.at_once)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="hermes3-batch", daemon=True).start()
        self._lifespan = AsyncExitStack()
        self._run(self._lifespan.enter_async_context(self._app.router.lifespan_context(self._app)))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answers to lines, both as JSON texts in columns."""
        lines = [Line(**json.loads(raw)) for raw in batch["line"]]
        return {"answer": self._run(self._answers(lines))}

    async def _answers(self, lines: list[Line]) -> list[str]:
        return [json.dumps(answer) async for answer in answers(self._app, iter(lines), self._at_once)]

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
