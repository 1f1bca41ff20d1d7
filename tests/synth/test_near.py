"""MinHash beside exact Jaccard similarities."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from pathlib import Path

import numpy as np

from hermes3.synth.near import Near, shingles, signature_of


def jaccard(a: str, b: str) -> float:
    one, two = shingles(a), shingles(b)
    return len(one & two) / len(one | two)


def texts() -> list[str]:
    """Random texts, and copies of them with more and more words changed."""
    rng = random.Random(1)
    words = [f"w{i}" for i in range(500)]
    made = []
    for _ in range(12):
        text = rng.choices(words, k=120)
        made += [" ".join(rng.choice(words) if rng.random() < share else word for word in text)
                 for share in (0, 0.01, 0.03, 0.06, 0.12, 0.3)]  # fmt: skip
    return made


def test_estimates_are_near_the_truth() -> None:
    made = texts()
    signatures = [signature_of(text) for text in made]
    errors = []
    for i, j in itertools.combinations(range(len(made)), 2):
        truth = jaccard(made[i], made[j])
        if truth > 0.05:
            errors.append(float(np.mean(signatures[i] == signatures[j])) - truth)
    assert len(errors) > 100
    assert abs(np.mean(errors)) < 0.02
    assert np.sqrt(np.mean(np.square(errors))) < 0.045  # sqrt(s (1 - s) / 128) is at most 0.044
    assert np.max(np.abs(errors)) < 0.18


def test_what_is_alike_is_found_and_nothing_else() -> None:
    near, made, found = Near(0.8), texts(), 0
    for index, text in enumerate(made):
        best = max((jaccard(text, before) for before in made[:index]), default=0.0)
        match = near.find(text)
        near.add(str(index), text)
        if best > 0.92:
            assert match is not None, (index, best)
            assert abs(jaccard(text, made[int(match[0])]) - match[1]) < 0.15
            found += 1
        if best < 0.68:
            assert match is None, (index, best, match)
    assert found >= 5


def test_small_changes_of_real_answers(shared_data: Path) -> None:
    raw = gzip.decompress((shared_data / "train" / "gpteacher-codegen.json.gz").read_bytes())
    answers = [row["response"] for row in json.loads(raw)[:400] if len(row["response"].split()) > 40]
    near = Near(0.7)
    for index, answer in enumerate(answers):
        near.add(str(index), answer)
    for index, answer in enumerate(answers):
        match = near.find(f"Sure! {answer.upper()}")
        assert match is not None
        assert match[0] == str(index) or jaccard(answer, answers[int(match[0])]) > 0.7


def test_short_and_strange_texts() -> None:
    near = Near(0.8)
    near.add("a", "Yes.")
    near.add("b", "")
    assert near.find("yes") == ("a", 1.0)
    assert near.find(" \n") == ("b", 1.0)
    assert near.find("no") is None
    assert near.find("\ud800") == ("b", 1.0)  # no word in it
