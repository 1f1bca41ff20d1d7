"""Log-likelihoods of given texts: what they begin with in common is computed once.

The requests make a tree of token ids (``trie``). A node is computed once, in chunks beside others; its
children go on from its pages of the KV cache, which they share, but for a last page that is not full: that
one is copied. A row's values do not depend on its company, so the results are, bit for bit, those of each
request alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from collections.abc import Sequence as Ids
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hermes3 import _native
from hermes3.engine.cache import PageAllocator
from hermes3.engine.model import F32, KVType, Model
from hermes3.engine.scheduler import Batch
from hermes3.engine.trie import Node, build
from hermes3.errors import CapacityError, ContextLengthError, RequestError

_LOGITS_BYTES = 32 << 20  # of one pass through the head


class Score(NamedTuple):
    """What a continuation is worth after its context.

    Attributes:
        request: its number in the list that was given.
        logprob: sum of the natural logarithms of its ids' probabilities.
        is_greedy: whether each of its ids is the likeliest where it stands.
    """

    request: int
    logprob: float
    is_greedy: bool


class Scorer:
    """Scores continuations with a model, in a KV cache of its own.

    Args:
        model: computes; others may use it in between, under the same lock.
        n_ctx: most ids of a request that go through the model: all but its last.
        n_batch: most tokens of a step.
        n_pages: of the cache; memory is taken as it is needed.
        lock: held while the model computes.
    """

    def __init__(
        self, model: Model, *, n_ctx: int, n_batch: int, n_pages: int, kv_dtype: KVType, lock: threading.Lock
    ) -> None:
        self.n_ctx = n_ctx
        self.n_batch = n_batch
        self._model, self._lock = model, lock
        self._cache = model.new_cache(n_pages, kv_dtype)
        self._allocator = PageAllocator(n_pages, _native.PAGE)
        n_vocab = model.config.vocab_size
        self._logits = np.empty((max(16, min(n_batch, _LOGITS_BYTES // (4 * n_vocab))), n_vocab), np.float32)

    def score(self, pairs: Ids[tuple[Ids[int], Ids[int]]]) -> Scoring:
        """Prepares to score continuations, each given its context.

        Args:
            pairs: (ids of the context, ids of the continuation), at least one id each.

        Returns:
            an iterator that computes, and yields each score when it is there: not in the order of the pairs.

        Raises:
            RequestError: a context or continuation without ids, or an id outside the vocabulary.
            ContextLengthError: a pair of more than n_ctx + 1 ids.
            CapacityError: a pair whose keys and values do not fit into the cache.
        """
        paths, firsts, targets = [], [], []
        for index, (context, continuation) in enumerate(pairs):
            ids = np.array([*context, *continuation], np.int64)
            self._check(index, len(context), len(continuation), ids)
            paths.append(ids[:-1].astype(np.int32))
            firsts.append(len(context) - 1)
            targets.append(ids[len(context) :].astype(np.int32))
        return Scoring(self, paths, firsts, targets)

    def _check(self, index: int, n_context: int, n_continuation: int, ids: NDArray[np.int64]) -> None:
        where, n_vocab = f"request {index}", self._model.config.vocab_size
        if not n_context or not n_continuation:
            what = "context" if not n_context else "continuation"
            raise RequestError(f"{where}: the {what} has no tokens, at least one is needed", param=what)
        if ids.min() < 0 or ids.max() >= n_vocab:
            bad = ids.min() if ids.min() < 0 else ids.max()
            raise RequestError(f"{where} holds id {bad}, the vocabulary ends at {n_vocab - 1}", param="ids")
        if ids.size - 1 > self.n_ctx:
            raise ContextLengthError(
                f"{where} has {ids.size} tokens, the context holds {self.n_ctx} and one to be scored: "
                "shorten its context or load the model with a larger n_ctx",
                param="context",
            )
        room = self._allocator.n_pages * _native.PAGE
        if ids.size - 1 > room:
            raise CapacityError(
                f"{where} has {ids.size} tokens, the memory for keys and values holds {room}: shorten its "
                "context or give more kv_bytes",
                param="kv_bytes",
            )

    def forward(self, batch: Batch) -> F32:
        """Last hidden states of the batch's rows, (n_rows, hidden)."""
        with self._lock:
            return self._model.hidden(batch, self._cache)

    def logprobs(self, hidden: F32, rows: NDArray[np.int32], targets: NDArray[np.int32]) -> tuple[F32, F32]:
        """What targets are worth at rows of hidden states; rows rise.

        Returns:
            log-probabilities (n_targets,), and those of the likeliest id, NaN where the target is that id.
        """
        out, best = np.empty(rows.size, np.float32), np.full(rows.size, np.nan, np.float32)
        step = len(self._logits)
        for low in range(0, len(hidden), step):
            logits = self._logits[: min(step, len(hidden) - low)]
            with self._lock:
                self._model.head(hidden[low : low + step], logits)
            bounds = np.searchsorted(rows, np.arange(low, low + len(logits) + 1))
            for row, first, last in zip(logits, bounds, bounds[1:], strict=False):
                top = int(row.argmax())
                peak = row[top]
                row -= peak
                wanted = targets[first:last]
                values = row[wanted]
                norm = np.log(np.exp(row, out=row).sum())
                out[first:last] = values - norm
                best[first:last][wanted != top] = -norm
        return out, best

    def begin(self, node: Node, parent: Node | None) -> bool:
        """Gives a node its pages, after its parent's; False, and no change, where there are too few."""
        allocator = self._allocator
        n_pages = allocator.pages_for(node.end)
        if parent is None or not parent.ids.size:
            fresh = allocator.take(n_pages)
            if fresh is None:
                return False
            node.pages = fresh
        elif parent.n_forked == len(parent.children) - 1:  # the last one may have them
            fresh = allocator.take(n_pages - parent.pages.size)
            if fresh is None:
                return False
            node.pages = np.concatenate([parent.pages, fresh])
            parent.pages = parent.pages[:0]
        else:
            forked = allocator.fork(parent.pages, node.start, node.end)
            if forked is None:
                return False
            node.pages, copied = forked
            if copied is not None:
                self._cache.copy_pages(*copied)
        return True

    def release(self, node: Node) -> None:
        """Gives back a node's pages."""
        self._allocator.give_back(node.pages)
        node.pages = node.pages[:0]


class Scoring:
    """A run of the scorer: iterate to compute.

    Attributes:
        n_given: positions that the requests have, each for itself.
        n_positions: positions to be computed: those of the tree.
        n_computed: how many of them have been; more than n_positions at the end where memory was short.
        n_scored: rows of logits that have been computed.
    """

    def __init__(
        self,
        scorer: Scorer,
        paths: Ids[NDArray[np.int32]],
        firsts: Ids[int],
        targets: Ids[NDArray[np.int32]],
    ) -> None:
        self.n_given = sum(path.size for path in paths)
        self.n_positions = self.n_computed = self.n_scored = 0
        self._scorer = scorer
        self._logprobs = np.zeros(len(paths), np.float64)
        self._is_greedy = np.ones(len(paths), bool)
        self._n_left = np.array([ids.size for ids in targets], np.int64)  # targets of each request
        self._active: list[Node] = []  # have pages and ids to compute
        self._open: list[Node] = []  # computed, with children that have not begun; the last goes first
        if paths:
            self._open.append(build(paths, firsts, targets))
            self.n_positions = _n_ids(self._open[0])

    def __iter__(self) -> Iterator[Score]:
        try:
            while self._active or self._open:
                yield from self._step()
        finally:
            for node in (*self._active, *self._open):
                self._scorer.release(node)
            self._active, self._open = [], []

    def _step(self) -> list[Score]:
        chunks, budget = [], self._scorer.n_batch
        for node in self._nodes():
            n = min(node.n_left, budget)
            chunks.append((node, n))
            budget -= n
            if not budget:
                break
        hidden, rows, picks = self._compute(chunks)
        done = self._count(hidden, rows, picks) if rows.size else []
        for node, n in chunks:
            node.n_done += n
            self.n_computed += n
            if not node.n_left:
                self._finish(node)
        return done

    def _nodes(self) -> Iterator[Node]:
        """What can be computed now: what has begun, then new nodes, depth first, as long as pages last."""
        yield from tuple(self._active)
        while (found := self._next()) is not None:
            parent, node = found
            if parent.ids.size and not parent.pages.size:  # it gave its pages up
                node.detach()
            if not self._scorer.begin(node, node.parent):
                if self._active:
                    return
                self._evict()
                continue
            parent.n_forked += 1
            if parent.n_forked == len(parent.children):
                self._open.remove(parent)
            self._active.append(node)
            yield node

    def _next(self) -> tuple[Node, Node] | None:
        """The parent that was computed last, and its next child."""
        return (self._open[-1], self._open[-1].children[self._open[-1].n_forked]) if self._open else None

    def _evict(self) -> None:
        """Frees the pages of the parent whose loss costs least to make good."""
        holders = [node for node in self._open if node.pages.size]
        self._scorer.release(min(holders, key=lambda node: node.end * (len(node.children) - node.n_forked)))

    def _compute(self, chunks: list[tuple[Node, int]]) -> tuple[F32, NDArray[np.int32], NDArray[np.int32]]:
        """Runs a batch.

        Returns:
            hidden states (n_rows, hidden) of its rows that somebody wants; for each target the row it stands
            at, rising, (n_targets,); and targets and requests, int32 (2, n_targets).
        """
        rows, picks, at = [], [], 0
        for node, n in chunks:
            low, high = np.searchsorted(node.rows, (node.n_done, node.n_done + n))
            rows.append(node.rows[low:high] + np.int32(at - node.n_done))
            picks.append(np.stack([node.targets[low:high], node.requests[low:high]]))
            at += n
        wanted, index = np.unique(np.concatenate(rows), return_inverse=True)
        hidden = self._scorer.forward(_batch(chunks, wanted.astype(np.int32)))
        return hidden, index.astype(np.int32), np.concatenate(picks, axis=1)

    def _count(self, hidden: F32, rows: NDArray[np.int32], picks: NDArray[np.int32]) -> list[Score]:
        targets, requests = picks
        logprobs, best = self._scorer.logprobs(hidden, rows, targets)
        self.n_scored += len(hidden)
        np.add.at(self._logprobs, requests, logprobs.astype(np.float64))
        self._is_greedy[requests[~np.isnan(best)]] = False
        np.subtract.at(self._n_left, requests, 1)
        touched = np.unique(requests)
        return [
            Score(int(i), float(self._logprobs[i]), bool(self._is_greedy[i]))
            for i in touched[self._n_left[touched] == 0]
        ]

    def _finish(self, node: Node) -> None:
        self._active.remove(node)
        if node.children:
            self._open.append(node)
        else:
            self._scorer.release(node)


def _n_ids(root: Node) -> int:
    total, stack = 0, [root]
    while stack:
        node = stack.pop()
        total += node.ids.size
        stack += node.children
    return total


def _batch(chunks: list[tuple[Node, int]], rows: NDArray[np.int32]) -> Batch:
    """Chunks side by side, as ``make_batch`` lays them, with the rows that are wanted."""
    n_all = np.array([n for _, n in chunks])
    offsets = np.concatenate([[0], np.cumsum(n_all)]).astype(np.int32)
    firsts = np.array([node.start + node.n_done for node, _ in chunks], np.int32)
    positions = np.arange(offsets[-1], dtype=np.int32) + np.repeat(firsts - offsets[:-1], n_all)
    tables = np.zeros((len(chunks), max(node.pages.size for node, _ in chunks)), np.int32)
    for index, (node, _) in enumerate(chunks):
        tables[index, : node.pages.size] = node.pages
    page = tables[np.repeat(np.arange(len(chunks)), n_all), positions // _native.PAGE]
    slots = page * np.int32(_native.PAGE) + positions % np.int32(_native.PAGE)
    ids = np.concatenate([node.ids[node.n_done : node.n_done + n] for node, n in chunks])
    return Batch(ids, positions.astype(np.int32), slots.astype(np.int32), offsets, firsts, tables, rows)
