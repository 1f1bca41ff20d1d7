"""What comes of a call, as text."""

from __future__ import annotations

import datetime
import itertools
import json
from dataclasses import dataclass
from decimal import Decimal

import pytest
from pydantic import BaseModel

from hermes3.agent.results import bounded, error_text, text_of


@dataclass
class Point:
    x: int


class Pet(BaseModel):
    name: str


class Odd:
    def __str__(self) -> str:
        return "odd"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ('{"a": 1}', '{"a": 1}'),
        (None, "null"),
        ({"ä": [1, 2.5, True]}, '{"ä": [1, 2.5, true]}'),
        (Point(1), '{"x": 1}'),
        ([Pet(name="Rex")], '[{"name": "Rex"}]'),
        (datetime.date(2024, 2, 29), '"2024-02-29"'),
        (float("nan"), '"NaN"'),
        (Decimal("1.5"), '"1.5"'),
        (b"\x00\xff", '"AP8="'),
        ({"odd": Odd()}, '{"odd": "odd"}'),
        (Odd(), '"odd"'),
        ((number for number in (1, 2)), "[1, 2]"),
    ],
)
def test_values(value: object, text: str) -> None:
    assert text_of(value) == text


def test_what_has_no_end() -> None:
    assert len(json.loads(text_of(itertools.count()))) == 10_000
    loop: list[object] = []
    loop.append(loop)
    assert "..." in text_of(loop)


def test_bounds() -> None:
    assert bounded("x" * 10, 10, len) == "x" * 10
    assert bounded("x" * 11, 10, len) == "x" * 10 + "... (cut: these are the first 10 of 11 characters)"
    thirds = bounded("x" * 10_000_000, 10, lambda text: -(-len(text) // 3))
    kept, _, note = thirds.partition("...")
    assert 25 <= len(kept) <= 30  # of three characters each, ten tokens
    assert note == f" (cut: these are the first {len(kept)} of 10,000,000 characters)"
    assert len(error_text("f", "x" * 10_000)) < 700
