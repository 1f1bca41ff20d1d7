"""Rows of files made into numbers, in the order of the files; large files by several processes.

Half of the time is the tokenizer's own, whose batches take as long (JOURNAL), and most of the rest is what a
row says and how it is rendered. So whole rows go to processes; reading JSON, a twentieth of all, stays here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing.queues import Queue
from pathlib import Path
from typing import TypeAlias

from hermes3.errors import RequestError
from hermes3.ordered import in_order
from hermes3.train.data.files import DataFile, sample
from hermes3.train.data.forms import Form
from hermes3.train.data.rendered import Renderer
from hermes3.train.data.rows import Fault, Row
from hermes3.train.examples import Example, Pair

Made = Example | Pair | Fault
Renderers: TypeAlias = "Queue[Renderer]"
Job = tuple[int, Path, Form | None, Sequence[Row | Fault], int]  # file, path, form, rows, bytes read then

BYTES_EACH = 4 << 20  # of files for each process: as much takes some seconds, to start a process one or two
MOST = 16  # processes
ROWS = 64  # that go to a process at a time

_renderer: Renderer  # of a process that was started for this


def tokenized(files: Sequence[DataFile], renderer: Renderer) -> Iterator[tuple[int, int, Made]]:
    """Every row of some files, in order: the file's number, bytes of it read, what was made of the row."""
    n = n_processes(sum(file.n_bytes for file in files))
    jobs = _jobs(files, ROWS if n > 1 else 1)
    found = (_tokenize(job, renderer) for job in jobs) if n == 1 else _by_processes(jobs, renderer, n)
    for number, n_read, batch in found:
        yield from ((number, n_read, made) for made in batch)


def _by_processes(jobs: Iterable[Job], renderer: Renderer, n: int) -> Iterator[tuple[int, int, list[Made]]]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    # by a queue: an argument of two megabytes keeps each process from starting until the last has read it
    renderers: Renderers = context.Queue()
    for _ in range(n):
        renderers.put(renderer)
    pool = ProcessPoolExecutor(n, context, initializer=_begin, initargs=(renderers,))
    try:
        yield from in_order(pool, n, (partial(_tokenize, job) for job in jobs))
    finally:
        renderers.cancel_join_thread()  # where a process ended before it took its own


def n_processes(n_bytes: int) -> int:
    """For so many bytes: at most this process's share of the cores, where torchrun started several."""
    own = n_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(own, MOST, n_bytes // BYTES_EACH))


def n_cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _jobs(files: Sequence[DataFile], size: int) -> Iterator[Job]:
    for number, file in enumerate(files):
        rows = file.rows()
        while batch := list(islice(rows, size)):
            yield number, file.path, file.form, batch, file.n_read


def _begin(renderers: Renderers) -> None:
    """In a new process, which takes one of the renderers. Ctrl-C is the parent's affair."""
    global _renderer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _renderer = renderers.get()


def _tokenize(job: Job, renderer: Renderer | None = None) -> tuple[int, int, list[Made]]:
    number, path, form, rows, n_read = job
    return number, n_read, [_made(path, form, row, renderer or _renderer) for row in rows]


def _made(path: Path, form: Form | None, row: Row | Fault, renderer: Renderer) -> Made:
    item = row if isinstance(row, Fault) else sample(path, form, row)
    if isinstance(item, Fault):
        return item
    try:
        return renderer.rendered(item.value)
    except RequestError as error:
        return Fault(path, item.line, item.number, str(error))
