"""Divergence as a drawing: how many tokens differ by how much."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np

from hermes3.compare.measure import Comparison

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 50, 50
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")  # Paul Tol's "bright"
FLOOR = 1e-7  # divergences below it are rounding


def svg(reference: str, comparisons: Sequence[Comparison]) -> str:
    """Quantiles of the divergence on a logarithmic scale, a line for each model; means as dots.

    Args:
        reference: name of the model that the others were compared with.
        comparisons: of the others.
    """
    quantiles = np.linspace(0, 1, 201)
    curves = [np.maximum(np.quantile(each.divergences, quantiles), FLOOR) for each in comparisons]
    low = 10.0 ** np.floor(np.log10(min(curve[len(curve) // 100] for curve in curves)))
    high = 10.0 ** np.ceil(np.log10(max(max(curve[-1] for curve in curves), 10 * low)))
    parts = [_frame(reference), *_grid(low, high)]
    for index, (each, curve) in enumerate(zip(comparisons, curves, strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        points = " ".join(
            f"{_x(q):.1f},{_y(v, low, high):.1f}" for q, v in zip(quantiles, curve, strict=True)
        )
        mean = max(float(each.divergences.mean()), FLOOR)
        at = float(np.searchsorted(each.divergences, mean)) / each.n_scored
        label = f"{each.name} ({each.description}): mean {mean:.5f}, perplexity {each.perplexities[1]:.2f}"
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{_x(at):.1f}" cy="{_y(mean, low, high):.1f}" r="4" fill="{colour}"/>',
            f'<text x="{LEFT + 12}" y="{TOP + 20 + 18 * index}" fill="{colour}">{escape(label)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(value: float, low: float, high: float) -> float:
    height = np.clip(np.log(value / low) / np.log(high / low), 0, 1)
    return float(HEIGHT - BOTTOM - height * (HEIGHT - TOP - BOTTOM))


def _frame(reference: str) -> str:
    title = f"KL divergence from {reference}, of each token, in nats; dots are means"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        f'<text x="{LEFT}" y="28" font-size="15">{escape(title)}</text>\n'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">share of tokens below</text>'
    )


def _grid(low: float, high: float) -> list[str]:
    lines = []
    for exponent in range(round(np.log10(low)), round(np.log10(high)) + 1):
        y = _y(10.0**exponent, low, high)
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**exponent:g}</text>')
    for share in (0, 0.25, 0.5, 0.75, 0.9, 0.99):
        x = _x(share)
        lines.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        lines.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{share:.0%}</text>')
    return lines
