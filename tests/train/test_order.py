from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes3.train.order import Order
from hermes3.train.packing import I64


def order(n: int, batch_size: int, epochs: int, max_steps: int = 0, seed: int = 0) -> Order:
    lengths = np.random.default_rng(5).integers(1, 20, n)

    def documents(epoch: int) -> I64:
        return np.random.default_rng([seed, epoch, 1]).permutation(n)

    return Order(lengths, 32, batch_size, epochs, max_steps, seed, documents)


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 3))
def test_every_epoch_has_every_document_once(n: int, batch_size: int, epochs: int) -> None:
    made = order(n, batch_size, epochs)
    steps = [made.rows(step) for step in range(made.n_steps)]
    assert all(1 <= len(rows) <= batch_size for rows in steps)
    borders = [
        step for step in range(made.n_steps + 1) if made.epochs_done(step) == int(made.epochs_done(step))
    ]
    assert len(borders) == epochs + 1
    for begin, end in pairwise(borders):
        seen = [document for rows in steps[begin:end] for row in rows for document in row]
        assert sorted(seen) == list(range(n))


def test_steps_depend_on_seed_and_step_alone() -> None:
    made = order(50, 3, 4)
    forward = [made.rows(step) for step in range(made.n_steps)]
    again = order(50, 3, 4)
    assert [again.rows(step) for step in reversed(range(made.n_steps))] == forward[::-1]
    assert [order(50, 3, 4, seed=1).rows(step) for step in range(3)] != forward[:3]
    epoch = made.n_steps // 4
    assert forward[:epoch] != forward[epoch : 2 * epoch]
    seeds = {made.noise_seed(step, row) for step in range(40) for row in range(3)}
    assert len(seeds) == 120


def test_a_run_ends_where_it_is_told() -> None:
    assert order(50, 3, 4, max_steps=5).n_steps == 5
    assert order(50, 3, 1, max_steps=10**6).n_steps == order(50, 3, 1).n_steps


def test_epochs_of_parts() -> None:
    made = order(50, 3, 2)
    half = [made.epochs_done(step) for step in range(made.n_steps + 1)]
    assert half[0] == 0
    assert half[-1] == pytest.approx(2)
    assert half == sorted(half)
