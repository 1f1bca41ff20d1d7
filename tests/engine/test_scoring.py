"""Log-likelihoods: those of transformers, and the same bits however much is shared."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes3.engine import model as model_module
from hermes3.engine import scoring as scoring_module
from hermes3.engine.model import Model
from hermes3.engine.scoring import Score, Scorer
from hermes3.engine.trie import Node, build
from hermes3.errors import CapacityError, ContextLengthError, RequestError
from hermes3.weights.quant import GGMLType
from tests.engine import numpy_native
from tests.engine.runs import CONFIG, load, model_file, random_ids
from tests.weights import tiny

Pairs = list[tuple[list[int], list[int]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(model_file(tmp_path_factory.mktemp("model")), n_batch=64)


def scorer_of(model: Model, n_pages: int = 64, n_batch: int = 64) -> Scorer:
    return Scorer(
        model, n_ctx=256, n_batch=n_batch, n_pages=n_pages, kv_dtype="f32", lock=threading.Lock()
    )


def family(seed: int = 3) -> Pairs:
    """Requests that branch at the start, within pages, at their borders and inside continuations."""
    shot, ends = random_ids(seed, 70), [random_ids(seed + i, n) for i, n in enumerate((1, 2, 9, 40))]
    pairs: Pairs = []
    for n_own in (0, 1, 26, 27, 58):  # 70 + 26 = 3 pages
        context = shot + random_ids(100 + n_own, n_own)
        pairs += [(context, end) for end in ends]
        pairs += [(context, ends[3][:20] + ends[2]), (context, ends[3][:20])]
    return [*pairs, (ends[2], ends[1]), (ends[2][:1], ends[3]), pairs[0], (shot[:32], shot[32:])]


def by_request(scorer: Scorer, pairs: Pairs) -> list[Score]:
    scores = sorted(scorer.score(pairs))
    assert [score.request for score in scores] == list(range(len(pairs)))
    return scores


def test_log_likelihoods_are_those_of_transformers(model: Model) -> None:
    reference = tiny.hf_model(CONFIG)
    pairs = family()
    pairs += [(context, _greedy(reference, context, 3)) for context, _ in pairs[::7]]
    for (context, continuation), score in zip(pairs, by_request(scorer_of(model), pairs), strict=True):
        with torch.inference_mode():
            logits = reference(torch.tensor([context + continuation])).logits[0].double()
        logits = logits[len(context) - 1 : -1]
        wanted = torch.tensor(continuation)
        expected = torch.log_softmax(logits, -1).gather(1, wanted[:, None]).sum().item()
        assert score.logprob == pytest.approx(expected, abs=1e-4)
        assert score.is_greedy == bool((logits.argmax(-1) == wanted).all())
        assert score.is_greedy or len(continuation) != 3


def _greedy(reference: torch.nn.Module, context: list[int], n: int) -> list[int]:
    ids = list(context)
    for _ in range(n):
        with torch.inference_mode():
            ids.append(int(reference(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(context) :]


@pytest.mark.parametrize(("n_pages", "n_batch"), [(64, 64), (64, 7), (9, 64), (6, 16)])
def test_sharing_changes_no_bit(model: Model, n_pages: int, n_batch: int) -> None:
    pairs = family()
    alone = [next(iter(scorer_of(model).score([pair]))) for pair in pairs]
    scorer = scorer_of(model, n_pages, n_batch)
    assert [score[1:] for score in by_request(scorer, pairs)] == [score[1:] for score in alone]
    assert scorer._allocator.n_free == n_pages


def test_the_scorer_against_plain_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_file(tmp_path, GGMLType.Q8_0)
    for module in (model_module, scoring_module):
        monkeypatch.setattr(module, "_native", numpy_native)
    plain = load(path, n_batch=64)
    alone = [next(iter(scorer_of(plain).score([pair]))) for pair in family()]
    shared = by_request(scorer_of(plain, 9), family())
    assert [score[1:] for score in shared] == [score[1:] for score in alone]


def test_what_is_shared_is_computed_once(model: Model) -> None:
    pairs = family()
    scoring = scorer_of(model).score(pairs)
    prefixes = {tuple(ids[: i + 1]) for c, e in pairs for ids in [(c + e)[:-1]] for i in range(len(ids))}
    rows = {tuple((c + e)[: len(c) + i]) for c, e in pairs for i in range(len(e))}
    list(scoring)
    assert scoring.n_given == sum(len(c) + len(e) - 1 for c, e in pairs)
    assert scoring.n_positions == scoring.n_computed == len(prefixes)
    assert scoring.n_scored == len(rows)


def test_a_run_left_half_way_gives_its_pages_back(model: Model) -> None:
    scorer = scorer_of(model)
    run = iter(scorer.score(family()))
    next(run)
    assert scorer._allocator.n_free < 64
    run.close()  # type: ignore[attr-defined]
    assert scorer._allocator.n_free == 64


def test_no_requests(model: Model) -> None:
    assert list(scorer_of(model).score([])) == []


@pytest.mark.parametrize(
    ("pair", "error", "words"),
    [
        (([], [1]), RequestError, "request 0: the context has no tokens"),
        (([1], []), RequestError, "request 0: the continuation has no tokens"),
        (([1], [320]), RequestError, "holds id 320, the vocabulary ends at 319"),
        (([-1], [1]), RequestError, "holds id -1"),
        (([1] * 257, [1]), ContextLengthError, "has 258 tokens, the context holds 256 and one to be scored"),
        (([1] * 200, [1]), CapacityError, "the memory for keys and values holds 192"),
    ],
)
def test_refusals(
    model: Model, pair: tuple[list[int], list[int]], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        scorer_of(model, n_pages=6).score([pair])
    assert len(list(scorer_of(model).score([([1] * 256, [1])]))) == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12), st.randoms())
def test_trees_hold_each_prefix_once(paths: list[list[int]], random: np.random.Generator) -> None:
    firsts = [random.randrange(len(path)) for path in paths]  # type: ignore[attr-defined]
    arrays = [np.array(path, np.int32) for path in paths]
    root = build(arrays, firsts, [a[f:] + 10 for a, f in zip(arrays, firsts, strict=True)])
    found: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    stack: list[tuple[Node, tuple[int, ...]]] = [(root, ())]
    while stack:
        node, above = stack.pop()
        assert node.start == len(above)
        assert node.ids.size or node is root
        for i in range(node.ids.size):
            prefix = (*above, *node.ids[: i + 1].tolist())
            assert prefix not in found
            here = node.rows == i
            found[prefix] = list(zip(node.requests[here].tolist(), node.targets[here].tolist(), strict=True))
        stack += [(child, above + tuple(node.ids.tolist())) for child in node.children]
    expected: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for request, (path, first) in enumerate(zip(paths, firsts, strict=True)):
        for i in range(len(path)):
            wants = expected.setdefault(tuple(path[: i + 1]), [])
            if i >= first:
                wants.append((request, path[i] + 10))
    assert {prefix: sorted(wants) for prefix, wants in found.items()} == expected
