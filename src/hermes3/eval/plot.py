"""Accuracies beside the card's, as a picture (SVG)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_LEFT, _SCALE, _LINE, _TOP = 380, 560, 22, 64
_OURS, _CARD = "#0b7a75", "#c8553d"


class Point(NamedTuple):
    """One task: percent that were measured, their standard error, and the card's percent."""

    task: str
    ours: float
    stderr: float
    card: float | None


def svg(title: str, points: Sequence[Point]) -> str:
    """A line for each task: a dot with its standard error for what was measured, a diamond for the card's."""
    height = _TOP + _LINE * len(points) + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _SCALE + 40}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="24" font-size="16">{escape(title)}</text>',
        f'<circle cx="{_LEFT}" cy="42" r="4" fill="{_OURS}"/><text x="{_LEFT + 10}" y="46">measured, '
        "± standard error</text>",
        f'{_diamond(_LEFT + 220, 42)}<text x="{_LEFT + 232}" y="46">card of Hermes 3 3B</text>',
    ]
    for percent in range(0, 101, 20):
        x, bottom = _x(percent), height - 30
        lines.append(f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>')
        lines.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{percent}</text>')
    for index, point in enumerate(points):
        lines += _row(point, _TOP + 6 + _LINE * index)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _row(point: Point, y: int) -> list[str]:
    low, high = _x(max(0.0, point.ours - point.stderr)), _x(min(100.0, point.ours + point.stderr))
    row = [
        f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(point.task)}</text>',
        f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="{_OURS}" stroke-width="2"/>',
        f'<circle cx="{_x(point.ours):.1f}" cy="{y}" r="4" fill="{_OURS}"/>',
    ]
    return row if point.card is None else [*row, _diamond(_x(point.card), y)]


def _diamond(x: float, y: int) -> str:
    return f'<path d="M{x:.1f} {y - 5}l5 5l-5 5l-5 -5z" fill="{_CARD}"/>'


def _x(percent: float) -> float:
    return _LEFT + _SCALE * percent / 100
