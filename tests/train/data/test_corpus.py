"""Mixtures: what is in them, in which order, and what is said where rows are bad."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes3.errors import FormatError, RequestError
from hermes3.prompt.chatml import Template
from hermes3.tokenizer import Tokenizer
from hermes3.train.data import tokenized
from hermes3.train.data.corpus import Corpus, Part, load
from hermes3.train.data.files import DataFile, Sample
from hermes3.train.data.rendered import Renderer
from hermes3.train.examples import Example, Pair


@pytest.fixture
def renderer(smol: Tokenizer) -> Renderer:
    return Renderer(smol, Template())


def written(path: Path, name: str, n: int, *, bad: tuple[int, ...] = ()) -> Path:
    answers = ["" if i in bad else f"answer {i} of {name}" for i in range(n)]
    rows = [{"instruction": f"{name} {i}", "output": answer} for i, answer in enumerate(answers)]
    path = path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(path: Path, n: int) -> Path:
    path = path / "pairs.json"
    rows = [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": "bad"} for i in range(n)]
    path.write_text(json.dumps(rows))
    return path


def texts(corpus: Corpus, smol: Tokenizer, order: Any) -> list[str]:
    found = []
    for i in order:
        item = corpus[int(i)]
        assert isinstance(item, Example)
        found.append(smol.decode(item.ids.tolist()).split("\n")[1].removesuffix("<|im_end|>"))
    return found


def test_examples_come_back_as_they_were(tmp_path: Path, renderer: Renderer) -> None:
    paths = [written(tmp_path, "a", 5), written(tmp_path, "b", 3)]
    corpus = load([Part(path) for path in paths], renderer)
    samples = [item.value for path in paths for item in DataFile(path) if isinstance(item, Sample)]
    assert len(corpus) == 8
    assert corpus.kind is Example
    for item, sample in zip(corpus, samples, strict=True):
        direct = renderer.rendered(sample)
        assert isinstance(item, Example)
        assert isinstance(direct, Example)
        assert np.array_equal(item.ids, direct.ids)
        assert np.array_equal(item.weights, direct.weights)
    assert corpus.lengths.tolist() == [len(item) for item in corpus]
    assert corpus.n_trained.tolist() == [item.n_trained for item in corpus if isinstance(item, Example)]
    with pytest.raises(IndexError):
        corpus[8]


def test_pairs_come_back_as_they_were(tmp_path: Path, renderer: Renderer) -> None:
    path = pairs(tmp_path, 4)
    corpus = load([Part(path)], renderer)
    assert corpus.kind is Pair
    for item, sample in zip(corpus, DataFile(path), strict=True):
        assert isinstance(sample, Sample)
        direct = renderer.rendered(sample.value)
        assert isinstance(item, Pair)
        assert isinstance(direct, Pair)
        assert np.array_equal(item.prompt_ids, direct.prompt_ids)
        for mine, theirs in ((item.chosen, direct.chosen), (item.rejected, direct.rejected)):
            assert np.array_equal(mine.ids, theirs.ids)
            assert np.array_equal(mine.weights, theirs.weights)
    assert corpus.lengths.tolist() == [len(item) for item in corpus]


def test_weights_say_how_often_rows_come(tmp_path: Path, renderer: Renderer, smol: Tokenizer) -> None:
    parts = [Part(written(tmp_path, "once", 7)), Part(written(tmp_path, "twice", 5), 2.0),
             Part(written(tmp_path, "seldom", 9), 1 / 3)]  # fmt: skip
    corpus = load(parts, renderer)
    first = Counter(texts(corpus, smol, corpus.order(1, 0)))
    assert [first[f"once {i}"] for i in range(7)] == [1] * 7
    assert [first[f"twice {i}"] for i in range(5)] == [2] * 5
    assert sum(first.values()) == 7 + 10 + 3
    three = Counter(text for epoch in range(3) for text in texts(corpus, smol, corpus.order(1, epoch)))
    assert [three[f"seldom {i}"] for i in range(9)] == [1] * 9


def test_the_order_is_of_seed_and_epoch_alone(tmp_path: Path, renderer: Renderer) -> None:
    path = written(tmp_path, "a", 50)
    once, again = (load([Part(path)], renderer) for _ in range(2))
    orders = {key: tuple(once.order(*key)) for key in ((0, 0), (0, 1), (1, 0), (1, 1))}
    assert orders == {key: tuple(again.order(*key)) for key in orders}
    assert len(set(orders.values())) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())


def test_bad_rows_are_an_error_or_counted(tmp_path: Path, renderer: Renderer) -> None:
    path = written(tmp_path, "a", 9, bad=(2, 5))
    with pytest.raises(FormatError, match=r"^2 rows cannot be used \(.*a\.jsonl:3: row 3: output is"):
        load([Part(path)], renderer)
    corpus = load([Part(path)], renderer, skip_bad=True)
    assert (len(corpus), [fault.line for fault in corpus.faults]) == (7, [3, 6])


def test_a_damaged_file_is_never_skipped(tmp_path: Path, renderer: Renderer) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"instruction": "Q", "output": "A"},')
    with pytest.raises(FormatError, match="what follows in the file cannot be read"):
        load([Part(path)], renderer, skip_bad=True)


def test_what_makes_no_mixture(tmp_path: Path, renderer: Renderer) -> None:
    path = written(tmp_path, "a", 2)
    with pytest.raises(RequestError, match=r"pairs\.json holds pairs, .*a\.jsonl conversations"):
        load([Part(path), Part(pairs(tmp_path, 1))], renderer)
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(RequestError, match="it must be above 0"):
            load([Part(path, weight)], renderer)
    with pytest.raises(RequestError, match="format is 'parquet', it must be one of messages"):
        load([Part(path, form="parquet")], renderer)
    with pytest.raises(FormatError, match="no rows to learn from"):
        load([Part(written(tmp_path, "b", 1, bad=(0,)))], renderer, skip_bad=True)


def test_progress_reaches_the_end(tmp_path: Path, renderer: Renderer) -> None:
    paths = [written(tmp_path, "a", 3), written(tmp_path, "b", 3)]
    seen: list[tuple[int, int]] = []
    load([Part(path) for path in paths], renderer, progress=lambda *now: seen.append(now))
    total = sum(path.stat().st_size for path in paths)
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


def test_several_processes_give_what_one_gives(
    tmp_path: Path, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, faults and their order; and how far it is."""
    paths = [written(tmp_path, "a", 150, bad=(7, 149)), written(tmp_path, "b", 3), written(tmp_path, "c", 70)]

    def read() -> tuple[list[list[int]], list[str], list[int]]:
        told: list[tuple[int, int]] = []
        corpus = load(
            [Part(path) for path in paths], renderer, skip_bad=True, progress=lambda *to: told.append(to)
        )
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1] == (told[0][1], told[0][1])
        items = [item for item in corpus if isinstance(item, Example)]
        return [item.ids.tolist() for item in items], list(map(str, corpus.faults)), corpus.lengths.tolist()

    alone = read()
    started: list[int] = []
    monkeypatch.setattr(tokenized, "n_processes", lambda n_bytes: started.append(n_bytes) or 2)
    assert read() == alone
    assert started == [sum(path.stat().st_size for path in paths)]


def test_small_files_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenized, "n_cores", lambda: 8)
    assert tokenized.n_processes(1000) == 1
    assert tokenized.n_processes(1 << 30) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert tokenized.n_processes(1 << 30) == 2
