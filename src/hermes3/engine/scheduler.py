"""Whose tokens the next step computes: continuous batching with chunked prefill."""

from __future__ import annotations

import time
from collections import deque
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
    """Running answers first, then prompts in chunks: the oldest, and beside it those that are shorter.

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

    def schedule(self, n_beside: int | None = None) -> tuple[list[Chunk], Sequence | None]:
        """The next step's chunks, and the sequence that, though alone, has outgrown the cache, if any.

        Args:
            n_beside: most tokens of prompts in a step in which answers go on; None for what n_batch leaves.
        """
        chunks, outgrown = self._answers()
        budget = self.n_batch - sum(chunk.n_tokens for chunk in chunks)
        if chunks and n_beside is not None:
            budget = min(budget, n_beside)
        while self._admit():
            pass
        return chunks + self._prompts(budget), outgrown

    def _answers(self) -> tuple[list[Chunk], Sequence | None]:
        """Running answers: the last id of each, and what was forced behind it as far as there is room."""
        chunks: list[Chunk] = []
        outgrown = None
        spare = self.n_batch - sum(sequence.is_answering for sequence in self.running)
        for sequence in list(self.running):
            if not sequence.is_answering or not sequence.n_left:
                continue  # a former one may have taken its room; its next id may not be chosen yet
            if self._make_room(sequence):
                chunks.append(Chunk(sequence, min(sequence.n_left, 1 + spare)))
                spare -= chunks[-1].n_tokens - 1
            elif sequence.pages.size:
                outgrown = sequence
        return chunks, outgrown

    def _prompts(self, budget: int) -> list[Chunk]:
        """Parts of prompts, in all so many tokens: the oldest's, then those of shorter ones, then the others.

        Shorter ones have half of the tokens, as far as they need them, and the oldest has the other half: a
        question is not kept waiting by a book, nor a book by questions.
        """
        prompts = [sequence for sequence in self.running if not sequence.is_answering]
        chosen: dict[Sequence, int] = {}
        coming: set[Link] = set()  # pages that this step computes
        for prompt in _in_turn(prompts):
            link = self._take_over(prompt) if self._remembers else None
            if not budget or link in coming:
                continue
            n_most = budget
            if prompt is prompts[0]:
                n_shorter = sum(each.n_left for each in prompts if each.n_left < prompt.n_left)
                n_most = max(budget - n_shorter, budget - budget // 2)
            chosen[prompt] = min(n_most, prompt.n_left)
            budget -= chosen[prompt]
            if link is not None and chosen[prompt] >= self.allocator.page_size:
                coming.add(link)
        if budget and chosen:
            chosen[prompts[0]] += min(budget, prompts[0].n_left - chosen[prompts[0]])
        return [Chunk(prompt, n_tokens) for prompt, n_tokens in chosen.items()]

    def advance(self, chunk: Chunk) -> None:
        """Counts a chunk's ids as computed, and remembers the pages that are full now."""
        sequence, allocator = chunk.sequence, self.allocator
        sequence.n_computed += chunk.n_tokens
        sequence.is_answering = sequence.is_answering or not sequence.n_left
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

    def n_known(self, ids: Ordered[int]) -> int:
        """How many of a prompt's ids need not be computed, were it to come now."""
        size, number, n_full = self.allocator.page_size, 0, 0
        while (n_full + 1) * size < len(ids):
            found = self.allocator.find(Link.of(number, ids[n_full * size : (n_full + 1) * size]))
            if found is None:
                break
            n_full, number = n_full + 1, found[1]
        return n_full * size

    def _skip(self, prompt: Sequence, n_pages: int, number: int) -> None:
        size = self.allocator.page_size
        prompt.prefix = prompt.prefix[0] + n_pages, number
        prompt.n_computed += n_pages * size
        prompt.n_cached = min(prompt.n_cached + n_pages * size, prompt.n_prompt)

    def _link(self, sequence: Sequence, n_full: int, before: int) -> Link:
        size = self.allocator.page_size
        return Link.of(before, sequence.ids[n_full * size : (n_full + 1) * size])

    def _make_room(self, sequence: Sequence) -> bool:
        """Gives it pages for its last ids, if need be those of a later one.

        Returns:
            False where it came last and gave up its own pages, or is alone and keeps them.
        """
        n_missing = self.allocator.pages_for(len(sequence.ids)) - sequence.pages.size
        if not n_missing:
            return True
        while (fresh := self.allocator.take(n_missing)) is None:
            last = self.running[-1]
            if last is not self.running[0]:
                self._preempt(last)
            if last is sequence:
                return False
        sequence.pages = np.append(sequence.pages, fresh)
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
        sequence.is_answering = False
        sequence.prefix = 0, 0

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


def _in_turn(prompts: list[Sequence]) -> list[Sequence]:
    """The oldest, those shorter than it from the shortest on, then the others as they came."""
    if not prompts:
        return []
    n_left = prompts[0].n_left
    shorter = [prompt for prompt in prompts if prompt.n_left < n_left]
    others = [prompt for prompt in prompts[1:] if prompt.n_left >= n_left]
    return [prompts[0], *sorted(shorter, key=lambda prompt: prompt.n_left), *others]
