"""Whose tokens the next step computes: continuous batching with chunked prefill."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hermes3.engine.cache import Link, PageAllocator, Pages
from hermes3.engine.sequence import Sequence

I32 = NDArray[np.int32]


class Chunk(NamedTuple):
    """The next ``n_tokens`` ids of a sequence that the model has not seen, and guesses at what follows."""

    sequence: Sequence
    n_tokens: int
    guesses: Ordered[int] = ()

    @property
    def is_last(self) -> bool:
        """Whether it reaches the sequence's end, so that its last row gives the next id."""
        return self.n_tokens == self.sequence.n_left


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work as the model takes it; all int32.

    Attributes:
        ids: (n_tokens,), the chunks one after the other.
        positions: (n_tokens,), of each id in its sequence.
        slots: (n_tokens,), where keys and values go: page * page_size + offset.
        query_offsets: (n_sequences + 1,), the chunks' borders in ``ids``.
        first_positions: (n_sequences,), position of each chunk's first id.
        tables: (n_sequences, longest), pages of each sequence, padded with 0.
        rows: (n_rows,), the tokens whose logits are wanted, rising: the last of each sequence, and guesses.
    """

    ids: I32
    positions: I32
    slots: I32
    query_offsets: I32
    first_positions: I32
    tables: I32
    rows: I32


def make_batch(chunks: Ordered[Chunk], page_size: int) -> Batch:
    """Lays chunks side by side; their sequences must have the pages. Logits: see ``Batch.rows``."""
    offsets = np.zeros(len(chunks) + 1, np.int32)
    offsets[1:] = np.cumsum([chunk.n_tokens + len(chunk.guesses) for chunk in chunks])
    ids, positions = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int32)
    slots = np.empty(offsets[-1], np.int32)
    firsts = np.empty(len(chunks), np.int32)
    tables = np.zeros((len(chunks), max(chunk.sequence.pages.size for chunk in chunks)), np.int32)
    wanted: list[int] = []
    for index, (sequence, n_tokens, guesses) in enumerate(chunks):
        first, rows = sequence.n_computed, slice(offsets[index], offsets[index + 1])
        ids[rows] = [*sequence.ids[first : first + n_tokens], *guesses]
        at = positions[rows] = np.arange(first, first + n_tokens + len(guesses))
        slots[rows] = sequence.pages[at // page_size] * page_size + at % page_size
        firsts[index] = first
        tables[index, : sequence.pages.size] = sequence.pages
        if chunks[index].is_last:
            wanted += range(rows.stop - 1 - len(guesses), rows.stop)
    return Batch(ids, positions, slots, offsets, firsts, tables, np.array(wanted, np.int32))


class Scheduler:
    """Running sequences first, one token each, then prompts in order of arrival, in chunks.

    A sequence gets the pages of all its ids when it is admitted, so that no prompt is stuck half-way; an
    answer takes a page when it needs one. Where none is left, the sequence that came last gives up its own
    and computes prompt and answer anew when there is room again: the first always gets on.

    What sequences begin with in common is computed once: a full page is remembered by the ids up to its end,
    and whoever needs one like it takes that. A prompt whose next page another one computes in this step
    waits for it.

    Args:
        allocator: of the cache's pages.
        n_batch: most tokens of a step.
        n_sequences: most sequences that run at once, at most n_batch.
        prefix_caching: whether pages are remembered.
    """

    def __init__(
        self, allocator: PageAllocator, *, n_batch: int, n_sequences: int, prefix_caching: bool = True
    ) -> None:
        self.allocator = allocator
        self.n_batch = n_batch
        self.n_sequences = n_sequences
        self.n_preemptions = 0
        self._remembers = prefix_caching
        # Both in order of arrival, everything that runs before everything that waits.
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence whose ids fit into the cache."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence and frees its pages."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        else:
            self.waiting.remove(sequence)

    def schedule(self) -> tuple[list[Chunk], Sequence | None]:
        """The next step's chunks, and the sequence that, though alone, has outgrown the cache, if any."""
        chunks: list[Chunk] = []
        outgrown = None
        for sequence in list(self.running):
            if sequence.n_left != 1 or not sequence.pages.size:  # without pages: a former one took its room
                continue
            if self._make_room(sequence):
                chunks.append(Chunk(sequence, 1))
            elif sequence.pages.size:
                outgrown = sequence
        budget, prompts = self.n_batch - len(chunks), self._prompts()
        coming: set[Link] = set()  # pages that this step computes
        while budget and (prompt := next(prompts, None)):
            link = self._take_over(prompt) if self._remembers else None
            if link in coming:
                continue
            chunks.append(Chunk(prompt, min(budget, prompt.n_left)))
            budget -= chunks[-1].n_tokens
            if link is not None and chunks[-1].n_tokens >= self.allocator.page_size:
                coming.add(link)
        return chunks, outgrown

    def advance(self, chunk: Chunk) -> None:
        """Counts a chunk's ids as computed, and remembers the pages that are full now."""
        sequence, allocator = chunk.sequence, self.allocator
        sequence.n_computed += chunk.n_tokens
        n_full, before = sequence.prefix
        while self._remembers and (n_full + 1) * allocator.page_size <= sequence.n_computed:
            link = self._link(sequence, n_full, before)
            page, before = allocator.remember(int(sequence.pages[n_full]), link)
            sequence.pages[n_full] = page
            n_full += 1
            sequence.prefix = n_full, before

    def _take_over(self, prompt: Sequence) -> Link | None:
        """Takes what others have computed since of a prompt's next pages; says what the one after holds."""
        known, number, link = self._known(prompt)
        if known.size:
            n_full = prompt.prefix[0]
            self.allocator.share(known)
            self.allocator.give_back(prompt.pages[n_full : n_full + known.size])
            prompt.pages[n_full : n_full + known.size] = known
            self._skip(prompt, known.size, number)
        return link

    def _known(self, prompt: Sequence) -> tuple[Pages, int, Link | None]:
        """The remembered pages that a prompt can go on with; all but its last id may be in them.

        Returns:
            the pages; the number of the prefix that ends with them; and what the next page will hold, None
            where the prompt is at work within a page, or on its last.
        """
        pages: list[int] = []
        size, (n_full, number) = self.allocator.page_size, prompt.prefix
        link = None
        while prompt.n_computed == prompt.prefix[0] * size and (n_full + 1) * size < len(prompt.ids):
            link = self._link(prompt, n_full, number)
            if (found := self.allocator.find(link)) is None:
                break
            pages.append(found[0])
            n_full, number, link = n_full + 1, found[1], None
        return np.array(pages, np.int32), number, link

    def _skip(self, prompt: Sequence, n_pages: int, number: int) -> None:
        size = self.allocator.page_size
        prompt.prefix = prompt.prefix[0] + n_pages, number
        prompt.n_computed += n_pages * size
        prompt.n_cached = min(prompt.n_cached + n_pages * size, prompt.n_prompt)

    def _link(self, sequence: Sequence, n_full: int, before: int) -> Link:
        size = self.allocator.page_size
        return Link(before, np.array(sequence.ids[n_full * size : (n_full + 1) * size], np.int32).tobytes())

    def _make_room(self, sequence: Sequence) -> bool:
        """Gives it a page for its last id, if need be that of a later one.

        Returns:
            False where it came last and gave up its own pages, or is alone and keeps them.
        """
        if self.allocator.pages_for(len(sequence.ids)) == sequence.pages.size:
            return True
        while (page := self.allocator.take(1)) is None:
            last = self.running[-1]
            if last is not self.running[0]:
                self._preempt(last)
            if last is sequence:
                return False
        sequence.pages = np.append(sequence.pages, page)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        sequence.n_cached = 0
        self.waiting.appendleft(sequence)
        self.n_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.allocator.give_back(sequence.pages)
        sequence.pages = sequence.pages[:0]
        sequence.n_computed = 0
        sequence.prefix = 0, 0

    def _prompts(self) -> Iterator[Sequence]:
        yield from [running for running in self.running if running.n_left > 1]
        while self._admit():
            yield self.running[-1]

    def _admit(self) -> bool:
        """Lets the first that waits run, if it fits and leaves a page to each of those that run already."""
        if not self.waiting or len(self.running) >= self.n_sequences:
            return False
        sequence = self.waiting[0]
        known, number, _ = self._known(sequence) if self._remembers else (sequence.pages, 0, None)
        n_pages = self.allocator.pages_for(len(sequence.ids)) - known.size
        self.allocator.share(known)  # so that they are not taken for the rest
        if n_pages + len(self.running) > self.allocator.n_free:
            self.allocator.give_back(known)
            return False
        pages = self.allocator.take(n_pages)
        assert pages is not None  # n_free was enough
        self.waiting.popleft()
        sequence.pages = np.concatenate([known, pages])
        self._skip(sequence, known.size, number)
        sequence.started = sequence.started or time.perf_counter()
        self.running.append(sequence)
        return True
