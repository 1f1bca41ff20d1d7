"""The card's tables, read and written, and its averages."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from hermes3.eval.card import PRINTED_AVERAGES, card_figures
from hermes3.eval.plot import Point, svg
from hermes3.eval.tables import average, read, rows_of, write
from hermes3.eval.tasks import SUITES


@pytest.fixture(scope="module")
def card(shared_data: Path) -> str:
    return (shared_data.parent / "MODEL_CARD.md").read_text()


def test_the_cards_averages_come_out_of_its_rows(card: str) -> None:
    gpt4all, agieval, bbh = read(card)
    assert f"{average(agieval):.2f}" == "34.36"
    assert f"{average(bbh):.2f}" == "43.76"
    assert f"{average(gpt4all):.2f}" == "63.96"  # the card prints 64.00
    assert [len({row.task for row in table}) for table in (gpt4all, agieval, bbh)] == [7, 8, 24]
    printed = [float(line.split()[1]) for line in card.split("\n") if line.startswith("Average: ")]
    assert printed == list(PRINTED_AVERAGES.values())


def test_tables_are_written_as_the_card_prints_them(card: str) -> None:
    for table in read(card):
        assert write(table) in card


def test_the_figures_kept_are_the_cards(card: str) -> None:
    figures: dict[str, dict[str, float]] = {}
    for row in (row for table in read(card) for row in table):
        figures.setdefault(row.task, {})[row.metric] = row.value
    assert figures == card_figures()
    assert set(figures) == set(SUITES["card"])


def test_rows_out_of_results() -> None:
    results = {
        "results": {
            "a": {"alias": "a", "acc_norm,none": 0.5, "acc_norm_stderr,none": 0.1, "acc,none": 0.25,
                  "acc_stderr,none": "N/A", "sample_len": 4},
        },
        "versions": {"a": 1.0},
        "n-shot": {"a": 3},
    }  # fmt: skip
    rows = rows_of(results, ["a"])
    assert rows == [("a", "1", "none", 3, "acc", 0.25, None), ("a", "1", "none", 3, "acc_norm", 0.5, 0.1)]
    assert read(write(rows)) == [rows]
    assert average(rows) == 50.0


def test_the_picture_is_sound_and_to_scale() -> None:
    picture = svg("a & b", [Point("one <x>", 50.0, 5.0, 25.0), Point("two", 100.0, 0.0, None)])
    root = ET.fromstring(picture)
    dots = [float(dot.attrib["cx"]) for dot in root.iter("{http://www.w3.org/2000/svg}circle")][1:]
    diamonds = [shape.attrib["d"] for shape in root.iter("{http://www.w3.org/2000/svg}path")][1:]
    left = float(next(root.iter("{http://www.w3.org/2000/svg}line")).attrib["x1"])  # 0 percent
    assert len(diamonds) == 1
    assert dots[1] - left == pytest.approx(2 * (dots[0] - left))
    assert float(diamonds[0][1:].split()[0]) - left == pytest.approx((dots[0] - left) / 2)
