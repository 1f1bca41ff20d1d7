"""A run's losses as a drawing (SVG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 800, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 48, 48
FAINT, STRONG, HELD_OUT = "#c6d4e6", "#3465a4", "#c8553d"
SMOOTHING = 0.9  # weight of the past in the running mean
Point = tuple[float, float]  # step, loss


def svg(title: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """The loss of each step, its running mean, and the held-out loss.

    Args:
        title: stands above.
        lines: of ``metrics.jsonl``; at least one step.
    """
    steps = [(line["step"], line["values"]["loss"]) for line in lines if line["event"] == "step"]
    held_out = [(line["step"], line["values"]["loss"]) for line in lines if line["event"] == "evaluation"]
    losses = [loss for _, loss in steps + held_out]
    scale = _Scale(max(step for step, _ in steps), min(0.0, *losses), max(losses))
    parts = [_frame(title), *_grid(scale), _line(scale, steps, FAINT, 1)]
    parts.append(_line(scale, _smooth(steps), STRONG, 2))
    if held_out:
        parts.append(_line(scale, held_out, HELD_OUT, 2))
    for point in held_out:
        x, y = scale.at(*point)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{HELD_OUT}"/>')
    return "\n".join([*parts, "</svg>", ""])


@dataclass(frozen=True, slots=True)
class _Scale:
    last: int
    low: float
    high: float

    def at(self, step: float, loss: float) -> tuple[float, float]:
        x = LEFT + step / max(1, self.last) * (WIDTH - LEFT - RIGHT)
        share = (loss - self.low) / ((self.high - self.low) or 1)
        return x, HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _smooth(points: Sequence[Point]) -> list[Point]:
    """Running mean that is not drawn towards where it begins (Adam's correction)."""
    out, mean = [], 0.0
    for n, (step, loss) in enumerate(points, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        out.append((step, mean / (1 - SMOOTHING**n)))
    return out


def _line(scale: _Scale, points: Sequence[Point], colour: str, width: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (scale.at(*point) for point in points))
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _frame(title: str) -> str:
    keys = ((FAINT, "each step"), (STRONG, "running mean"), (HELD_OUT, "held out"))
    legend = "".join(
        f'<text x="{WIDTH - RIGHT - 330 + 120 * i}" y="28" fill="{colour}">{name}</text>'
        for i, (colour, name) in enumerate(keys)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        f'<text x="{LEFT}" y="28" font-size="15">{escape(title)}</text>{legend}\n'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>'
    )


def _grid(scale: _Scale) -> list[str]:
    lines = []
    for i in range(6):
        loss, step = scale.low + i / 5 * (scale.high - scale.low), scale.last * i / 5
        y, x = scale.at(0, loss)[1], scale.at(step, 0)[0]
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{loss:.3g}</text>')
        lines.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step:.0f}</text>')
    return lines
