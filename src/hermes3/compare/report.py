"""Comparisons as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hermes3.compare.measure import Comparison
from hermes3.weights.hub.progress import size_text

HEADINGS = ("model", "weights", "size", "perplexity", "KL mean", "KL 99 %", "same top", "prefill", "decode")


def figures(comparison: Comparison) -> dict[str, Any]:
    """The figures of one model by name, for JSON."""
    divergences = comparison.divergences
    return {
        "model": comparison.name,
        "weights": comparison.description,
        "weight_bytes": comparison.n_bytes,
        "tokens_scored": comparison.n_scored,
        "perplexity": round(comparison.perplexities[1], 4),
        "perplexity_standard_error": round(comparison.perplexities[1] * comparison.loss_error, 4),
        "reference_perplexity": round(comparison.perplexities[0], 4),
        "kl_mean": float(f"{divergences.mean():.6g}"),
        "kl_mean_standard_error": float(f"{divergences.std() / len(divergences) ** 0.5:.3g}"),
        "kl_median": float(f"{np.median(divergences):.6g}"),
        "kl_99": float(f"{np.quantile(divergences, 0.99):.6g}"),
        "kl_max": float(f"{divergences[-1]:.6g}"),
        "top1_agreement": round(comparison.agreement, 5),
        "prefill_tokens_per_s": round(comparison.prefill_rate, 1),
        "decode_tokens_per_s": round(comparison.decode_rate, 1),
    }


def table(comparisons: Sequence[Comparison]) -> str:
    """Columns of text; the first row is the reference."""
    rows = [HEADINGS, *(_row(each, is_reference=i == 0) for i, each in enumerate(comparisons))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = []
    for row in rows:
        left = [f"{cell:{width}}" for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]))
    n_scored = comparisons[0].n_scored
    return "\n".join([
        *lines,
        "",
        f"{n_scored} tokens scored; KL of {comparisons[0].name} to the model in nats; speeds in tokens/s",
    ])  # fmt: skip


def _row(comparison: Comparison, *, is_reference: bool) -> tuple[str, ...]:
    values = figures(comparison)
    error = values["perplexity_standard_error"]
    compared = ("", "", "") if is_reference else (
        f"{values['kl_mean']:.5f}", f"{values['kl_99']:.4f}", f"{values['top1_agreement']:.2%}",
    )  # fmt: skip
    return (
        comparison.name,
        comparison.description,
        size_text(comparison.n_bytes),
        f"{values['perplexity']:.3f} ± {error:.3f}",
        *compared,
        f"{values['prefill_tokens_per_s']:.0f}",
        f"{values['decode_tokens_per_s']:.1f}",
    )
