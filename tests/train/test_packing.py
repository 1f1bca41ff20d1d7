from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes3.errors import RequestError
from hermes3.train.build import text_of
from hermes3.train.data.corpus import Part, load
from hermes3.train.data.rendered import Renderer
from hermes3.train.packing import I64, best_fit, pack_examples, pack_pairs
from hermes3.weights.checkpoint import open_checkpoint
from tests.train.tiny import documents, pairs


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(100, 300))
def test_every_document_once_and_no_row_too_long(lengths: list[int], capacity: int) -> None:
    rows = best_fit(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= capacity for row in rows)
    # best fit never leaves two rows that would go into one
    totals = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(totals) < 2 or totals[0] + totals[1] > capacity


def test_rows_are_full_where_documents_are_many_and_mixed() -> None:
    lengths = np.random.default_rng(1).lognormal(5, 1, 2000).clip(8, 2048).astype(int).tolist()
    rows = best_fit(lengths, 2048)
    assert sum(lengths) / (len(rows) * 2048) > 0.98


def fewest(lengths: I64, capacity: int) -> int:
    """Rows that no packing can go below: bound L2 of Martello and Toth, Knapsack Problems, 8.3.2 (1990)."""
    best = 0
    for k in range(capacity // 2 + 1):
        large = lengths > capacity - k
        middle = (lengths > capacity // 2) & ~large
        small = lengths[(lengths >= k) & (lengths <= capacity // 2)].sum()
        room = int(middle.sum()) * capacity - lengths[middle].sum()
        best = max(best, int(large.sum() + middle.sum()) + max(0, -(-int(small - room) // capacity)))
    return best


def test_public_samples_fill_their_rows(shared_data: Path, smol_gguf: Path) -> None:
    """Rows are 95 % full, or nobody could take fewer; never more than a few above that."""
    renderer = Renderer(*text_of(open_checkpoint(smol_gguf)))
    names = ("glaive-toolcall-300.json.gz", "sft-messages-500.jsonl.gz", "reason-tool-use-50.jsonl.gz")
    lengths = load([Part(shared_data / "train" / name) for name in names], renderer, skip_bad=True).lengths
    for capacity in (1024, 2048, 4096, 8192):
        fitting = lengths[lengths <= capacity]
        n_rows, bound = len(best_fit(fitting.tolist(), capacity)), fewest(fitting, capacity)
        assert n_rows <= bound + 2
        assert n_rows == bound or fitting.sum() / (n_rows * capacity) > 0.95


def test_too_long_is_refused_with_numbers() -> None:
    with pytest.raises(RequestError, match=r"1 of 2 documents .* 10 tokens, the longest has 11"):
        best_fit([3, 11], 10)


@given(st.integers(0, 1000))
def test_a_row_keeps_documents_apart(seed: int) -> None:
    examples = documents(7, seed)
    rows = pack_examples(examples, 40)
    seen = []
    for row in rows:
        assert row.pieces[0].start == 0
        assert row.pieces[-1].stop == len(row) <= 40
        for owner, piece in enumerate(row.pieces):
            ids = row.ids[piece.start : piece.stop]
            assert list(row.positions[piece.start : piece.stop]) == list(range(len(ids)))
            mine = row.owners == owner
            at = row.predictors[mine] - piece.start
            seen.append((tuple(ids), tuple(at), tuple(row.targets[mine]), tuple(row.weights[mine])))
    expected = [
        (tuple(e.ids), tuple(trained - 1), tuple(e.ids[trained]), tuple(e.weights[trained]))
        for e in examples
        for trained in [np.flatnonzero(e.weights[1:]) + 1]
    ]
    assert sorted(seen) == sorted(expected)


def test_a_pair_shares_its_prompt() -> None:
    (pair,) = pairs(1)
    (row,) = pack_pairs([pair], 100)
    n, c, r = len(pair.prompt_ids), len(pair.chosen), len(pair.rejected)
    assert list(row.positions) == [*range(n + c), *range(n, n + r)]
    assert list(row.predictors) == [n - 1, *range(n, n + c - 1), n - 1, *range(n + c, n + c + r - 1)]
    assert list(row.targets) == [*pair.chosen.ids, *pair.rejected.ids]
    assert list(row.owners) == [0] * c + [1] * r
