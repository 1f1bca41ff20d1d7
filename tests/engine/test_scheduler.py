"""Pages and schedules against a cache in which every slot says whose position it holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes3.engine.cache import PageAllocator
from hermes3.engine.sampling import SamplingParams
from hermes3.engine.scheduler import Batch, Chunk, Scheduler, make_batch
from hermes3.engine.sequence import Sequence

PAGE = 4


def sequence(n_prompt: int, n_new: int = 5, first: int = 1) -> Sequence:
    return Sequence(range(first, first + n_prompt), SamplingParams(max_tokens=n_new), 100)


class World:
    """A scheduler, and in place of a model a record of what was written into each slot."""

    def __init__(
        self,
        n_pages: int,
        n_batch: int,
        n_sequences: int,
        *,
        n_idle: int = 0,
        prefix_caching: bool = False,
        n_forced: int = 0,
        n_beside: int | None = None,
    ) -> None:
        self.n_forced, self.n_beside = n_forced, n_beside  # ids that come behind each new one
        self.allocator = PageAllocator(n_pages, PAGE, n_idle)
        self.scheduler = Scheduler(
            self.allocator, n_batch=n_batch, n_sequences=n_sequences, prefix_caching=prefix_caching
        )
        self.slots: dict[int, tuple[int, ...]] = {}  # the ids up to what a slot was computed for
        self.n_computed = 0
        self.arrived: list[Sequence] = []
        self.outgrown: list[Sequence] = []

    def add(self, sequence: Sequence) -> Sequence:
        self.scheduler.add(sequence)
        self.arrived.append(sequence)
        return sequence

    def step(self) -> list[tuple[Sequence, int]]:
        chunks, outgrown = self.scheduler.schedule(self.n_beside)
        if outgrown is not None:
            self.scheduler.remove(outgrown)
            self.outgrown.append(outgrown)
        if chunks:
            self.compute(chunks, make_batch(chunks, PAGE))
        self.check()
        return [(chunk.sequence, chunk.n_tokens) for chunk in chunks]

    def compute(self, chunks: list[Chunk], batch: Batch) -> None:
        assert len(batch.ids) <= self.scheduler.n_batch
        last = batch.query_offsets[1:][[chunk.is_last for chunk in chunks]] - 1
        np.testing.assert_array_equal(batch.rows, last)
        for index, (own, n_tokens, _) in enumerate(chunks):
            rows = slice(batch.query_offsets[index], batch.query_offsets[index + 1])
            first = int(batch.first_positions[index])
            assert first == own.n_computed
            assert batch.ids[rows].tolist() == own.ids[first : first + n_tokens]
            assert batch.positions[rows].tolist() == list(range(first, first + n_tokens))
            for i, slot in enumerate(batch.slots[rows].tolist()):
                self.slots[slot] = tuple(own.ids[: first + i + 1])
                holders = [each for each in self.scheduler.running if slot // PAGE in each.pages]
                assert holders == [own], "a page that somebody else holds was written to"
            self.n_computed += n_tokens
            for position in range(first + n_tokens):  # what attention will read
                slot = int(batch.tables[index, position // PAGE]) * PAGE + position % PAGE
                assert self.slots[slot] == tuple(own.ids[: position + 1])
        for chunk in chunks:
            is_last = chunk.is_last
            self.scheduler.advance(chunk)
            if is_last:
                self.extend(chunk.sequence)

    def extend(self, own: Sequence) -> None:
        for _ in range(min(1 + self.n_forced, own.params.max_tokens - own.n_answer)):
            own.append(7, None)
        if own.n_answer == own.params.max_tokens:
            self.scheduler.remove(own)

    def check(self) -> None:
        running, waiting = self.scheduler.running, self.scheduler.waiting
        in_order = [*running, *waiting]
        assert in_order == sorted(in_order, key=self.arrived.index)
        assert len(running) <= self.scheduler.n_sequences
        taken = [page for own in running for page in own.pages.tolist()]
        assert len(set(taken)) == self.allocator.n_pages - self.allocator.n_free
        assert all(len(set(own.pages.tolist())) == own.pages.size for own in running)
        assert all(own.pages.size == 0 and own.n_computed == 0 for own in waiting)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(2, 12),
    st.integers(1, 12),
    st.integers(1, 6),
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 20), st.integers(0, 9), st.integers(0, 25)), max_size=12
    ),
    st.one_of(st.none(), st.integers(0, 12)),
    st.integers(0, 9),
    st.one_of(st.none(), st.integers(1, 5)),
)
def test_whatever_comes_ends_and_leaves_no_page_behind(
    n_pages: int,
    n_batch: int,
    n_sequences: int,
    requests: list[tuple[int, int, int, int]],
    n_idle: int | None,
    n_forced: int,
    n_beside: int | None,
) -> None:
    """Requests: prompt, answer, steps until it comes, steps until it is dropped (from 20: never).

    All prompts begin alike, the longer with the shorter; every other one differs from its sixth id on.
    """
    options = {"n_idle": n_idle or 0, "prefix_caching": n_idle is not None, "n_forced": n_forced}
    world = World(n_pages, n_batch, min(n_sequences, n_batch), n_beside=n_beside, **options)
    timed = sorted(requests, key=lambda request: request[2])
    dropped: dict[int, list[Sequence]] = {}
    for now in range(3000):
        while timed and timed[0][2] <= now:
            n_prompt, n_new, _, n_steps = timed.pop(0)
            new = sequence(min(n_prompt, n_pages * PAGE), n_new)
            new.ids[5:] = [each + 30 * (n_new % 2) for each in new.ids[5:]]
            world.add(new)
            if n_steps < 20:
                dropped.setdefault(now + n_steps, []).append(new)
        for own in dropped.pop(now, []):
            if own in [*world.scheduler.running, *world.scheduler.waiting]:
                world.scheduler.remove(own)
                world.outgrown.append(own)
        has_work = bool(world.scheduler.running or world.scheduler.waiting)
        chunks = world.step()
        assert chunks or not has_work or world.outgrown, "work, but nothing was scheduled"
        if not timed and not has_work:
            break
    else:
        pytest.fail("never done")
    assert world.allocator.n_free == n_pages
    complete = [own for own in world.arrived if own not in world.outgrown]
    assert all(own.n_answer == own.params.max_tokens for own in complete)


def test_running_answers_come_before_prompts_and_prompts_in_order() -> None:
    world = World(n_pages=50, n_batch=10, n_sequences=4)
    first = world.add(sequence(3, 20))
    world.step()
    second, third, fourth, fifth = [world.add(sequence(n)) for n in (12, 12, 14, 2)]
    steps = [world.step() for _ in range(4)]
    assert steps[0] == [(first, 1), (second, 9)]
    assert steps[1] == [(first, 1), (second, 3), (third, 6)]
    assert steps[2] == [(first, 1), (second, 1), (third, 6), (fourth, 2)]
    assert fifth in world.scheduler.waiting  # four run already
    assert all(fifth not in [own for own, _ in step] for step in steps)


def test_a_question_does_not_wait_for_a_book_nor_the_book_for_questions() -> None:
    """Half of a step for those that are shorter, the rest of it, and what they leave, for the oldest."""
    world = World(n_pages=200, n_batch=20, n_sequences=9)
    book = world.add(sequence(200, 3))
    assert world.step() == [(book, 20)]
    questions = [world.add(sequence(n, 1)) for n in (8, 3, 6, 9)]
    assert world.step() == [(book, 10), (questions[1], 3), (questions[2], 6), (questions[0], 1)]
    assert world.step() == [(book, 10), (questions[0], 7), (questions[3], 3)]
    assert world.step() == [(book, 14), (questions[3], 6)]
    while book.n_left > 10:  # a new question in every step
        world.add(sequence(10, 1))
        assert (book, 10) in world.step()


def test_prompts_beside_answers_are_held_to_what_they_may_take() -> None:
    world = World(n_pages=50, n_batch=20, n_sequences=4, n_beside=4)
    first = world.add(sequence(30, 3))
    assert world.step() == [(first, 20)], "nobody waits for a next token"
    assert world.step() == [(first, 10)]
    second = world.add(sequence(10, 3))
    assert world.step() == [(first, 1), (second, 4)]


def test_forced_ids_are_computed_in_one_step() -> None:
    """As far as the batch has room, and with the pages that they take."""
    world = World(n_pages=50, n_batch=16, n_sequences=4, n_forced=9)
    first = world.add(sequence(3, 30))
    assert world.step() == [(first, 3)]
    assert world.step() == [(first, 10)]
    second = world.add(sequence(8, 30))
    assert world.step() == [(first, 10), (second, 6)]
    assert (first.n_answer, first.finish_reason) == (30, None)


def test_last_come_gives_way_and_is_computed_anew() -> None:
    world = World(n_pages=5, n_batch=64, n_sequences=4)
    first, second = world.add(sequence(7, 9)), world.add(sequence(7, 6))
    while not world.scheduler.n_preemptions:
        world.step()
    assert second in world.scheduler.waiting
    assert first in world.scheduler.running
    n_had = second.n_answer
    assert n_had > 0
    while second not in world.scheduler.running:
        world.step()
    assert first.n_answer == 9
    assert second.ids[: 7 + n_had] == [*range(1, 8), *[7] * n_had]
    while world.scheduler.running:
        world.step()
    assert second.n_answer == 6
    assert world.outgrown == []


def test_a_lone_sequence_that_outgrows_the_cache_is_named_not_stuck() -> None:
    world = World(n_pages=2, n_batch=64, n_sequences=4)
    alone, waiting = world.add(sequence(5, 100)), world.add(sequence(8, 1))
    for _ in range(5):
        world.step()
    assert world.outgrown == [alone]
    assert len(alone.ids) == 2 * PAGE + 1  # the last id needs no room of its own
    world.step()
    assert waiting.n_answer == 1
    assert world.allocator.n_free == 2


def test_no_one_overtakes_a_prompt_that_waits_for_room() -> None:
    world = World(n_pages=6, n_batch=64, n_sequences=4)
    world.add(sequence(12, 4))
    world.step()
    large, small = world.add(sequence(20, 1)), world.add(sequence(1, 1))
    world.step()
    assert list(world.scheduler.waiting) == [large, small]


def test_pages_go_out_again_last_in_first_out() -> None:
    allocator = PageAllocator(6, PAGE)
    first = allocator.take(4)
    assert first is not None
    assert first.tolist() == [0, 1, 2, 3]
    allocator.give_back(first[2:])
    assert allocator.take(5) is None
    assert allocator.n_free == 4
    again = allocator.take(2)
    assert again is not None
    assert sorted(again.tolist()) == [2, 3]
    assert [allocator.pages_for(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_what_prompts_begin_with_is_computed_once() -> None:
    """One after the other, and side by side: who comes second waits for the pages that the first computes."""
    world = World(n_pages=40, n_batch=12, n_sequences=4, n_idle=20, prefix_caching=True)
    first = world.add(sequence(19, 3))
    while world.scheduler.running or world.scheduler.waiting:
        world.step()
    assert (first.n_cached, world.n_computed) == (0, 19 + 2)
    second, third = world.add(sequence(26, 3)), world.add(sequence(26, 3))
    other = world.add(sequence(12, 3, 50))
    world.step()
    assert (second.n_cached, second.n_computed, third.n_computed) == (16, 16 + 10, 16)
    while world.scheduler.running or world.scheduler.waiting:
        world.step()
    assert (second.n_cached, third.n_cached, other.n_cached) == (16, 24, 0)
    assert world.n_computed == 21 + 10 + 2 + 2 + 2 + 12 + 2
    assert world.allocator.n_free == 40


def test_the_last_id_of_a_prompt_is_always_computed() -> None:
    world = World(n_pages=8, n_batch=64, n_sequences=4, n_idle=8, prefix_caching=True)
    for _ in range(2):
        again = world.add(sequence(8, 1))
        while world.scheduler.running or world.scheduler.waiting:
            world.step()
    assert again.n_cached == 4


def test_a_turn_goes_on_where_the_answer_ended() -> None:
    world = World(n_pages=8, n_batch=64, n_sequences=4, n_idle=8, prefix_caching=True)
    first = world.add(sequence(6, 7))
    while world.scheduler.running:
        world.step()
    world.step()
    while world.scheduler.running:
        world.step()
    turn = Sequence([*first.ids, 50, 51], SamplingParams(max_tokens=1), 100)
    world.add(turn)
    world.step()
    assert turn.n_cached == 12
