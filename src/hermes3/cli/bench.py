"""`hermes3 bench`: how fast prompts are read and answers written, beside what the machine could do."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from hermes3 import _native
from hermes3.cli import status
from hermes3.cli.failure import UsageError
from hermes3.cli.models import located
from hermes3.cli.roofline import Limits, Work
from hermes3.engine.engine import Engine
from hermes3.engine.sampling import SamplingParams
from hermes3.engine.sequence import Sequence
from hermes3.errors import CapacityError, Hermes3Error
from hermes3.weights.checkpoint import Checkpoint, open_checkpoint
from hermes3.weights.hub import KNOWN
from hermes3.weights.hub.progress import size_text

PROBE_S = 0.5  # for each look at what the machine can do


@dataclass(frozen=True, slots=True)
class Bench:
    """A model's speed on a machine.

    Attributes:
        prefills: of each run: prompt tokens over the seconds until the first token of the answer was there.
        decodes: of each run: tokens after the first over the seconds that they took.
        limits: what the machine did in the same minutes.
    """

    model: str
    checkpoint: Checkpoint
    n_prefill: int
    n_decode: int
    load_s: float
    prefills: list[float]
    decodes: list[float]
    limits: Limits

    def figures(self) -> dict[str, Any]:
        """What is printed as JSON."""
        work = Work.of(self.checkpoint)
        prefill, decode = median(self.prefills), median(self.decodes)
        decode_gb_s = decode * work.bytes_per_token / 1e9
        prefill_gop_s = prefill * work.prefill_operations(self.n_prefill) / self.n_prefill / 1e9
        return {
            "model": self.model,
            "path": str(self.checkpoint.source),
            "weights": self.checkpoint.description,
            "weight_bytes": self.checkpoint.n_bytes,
            "isa": _native.isa(),
            "threads": _native.threads(),
            "runs": len(self.prefills),
            "load_s": round(self.load_s, 3),
            "prefill_tokens": self.n_prefill,
            "prefill_tokens_per_s": round(prefill, 2),
            "prefill_tokens_per_s_runs": [round(rate, 2) for rate in self.prefills],
            "prefill_gop_s": round(prefill_gop_s, 1),
            "int8_peak_gop_s": round(self.limits.int8_gop_s, 1),
            "prefill_share_of_int8_peak": round(prefill_gop_s / self.limits.int8_gop_s, 3)
            if work.is_int8
            else None,
            "decode_tokens": self.n_decode,
            "decode_tokens_per_s": round(decode, 2),
            "decode_tokens_per_s_runs": [round(rate, 2) for rate in self.decodes],
            "decode_gb_s": round(decode_gb_s, 2),
            "read_bandwidth_gb_s": round(self.limits.read_gb_s, 2),
            "decode_share_of_read_bandwidth": round(decode_gb_s / self.limits.read_gb_s, 3),
        }


def run(
    model: str | None, prefill: int, decode: int, runs: int, threads: int | None, json_only: bool
) -> None:
    """Measure, and print a card and one line of JSON, or that line alone.

    Args:
        prefill, decode: tokens of prompt and answer.
        threads: None for one per core.

    Raises:
        UsageError: prompt and answer are longer than the model's context.
        CapacityError: their keys and values do not fit into memory.
        Hermes3Error: no such model, or it cannot be fetched or loaded.
    """
    name, path = located(model)
    checkpoint = open_checkpoint(path)
    limit = checkpoint.config.max_position_embeddings
    if prefill + decode > limit:
        raise UsageError(
            f"--prefill {prefill} and --decode {decode} make {prefill + decode} tokens, the context of "
            f"{name} ends at {limit}; ask for less"
        )
    if threads is not None:
        _native.set_threads(threads)
    figures = _measured(name if name in KNOWN else path.stem, checkpoint, prefill, decode, runs).figures()
    if not json_only:
        print(_card(figures), end="\n\n")
    print(json.dumps(figures))


def _measured(name: str, checkpoint: Checkpoint, n_prefill: int, n_decode: int, n_runs: int) -> Bench:
    with status.Line() as line:
        line.show("measuring the machine")
        before = Limits.now(PROBE_S)
        load_s, prefills, decodes = _timed(checkpoint, n_prefill, n_decode, n_runs, line)
        line.show("measuring the machine again")  # the engine's memory is free by now
        limits = before.best(Limits.now(PROBE_S))
    return Bench(name, checkpoint, n_prefill, n_decode, load_s, prefills, decodes, limits)


def _timed(
    checkpoint: Checkpoint, n_prefill: int, n_decode: int, n_runs: int, line: status.Line
) -> tuple[float, list[float], list[float]]:
    """Seconds of loading, then tokens per second of prompt and of answer, one each for a run."""
    line.show("loading")
    start = time.perf_counter()
    n_ctx = n_prefill + n_decode
    engine = Engine(checkpoint, n_ctx=n_ctx, n_sequences=1, prefix_caching=False, speculative=False)
    load_s = time.perf_counter() - start
    ids = random.Random(1)  # which ones makes no difference to the time, that they differ in each run may
    n_vocab = checkpoint.config.vocab_size
    prefills, decodes = [], []
    _answered(engine, ids.choices(range(n_vocab), k=min(n_prefill, engine.n_batch)), 2, "warming up", line)
    for index in range(n_runs):
        prompt, label = ids.choices(range(n_vocab), k=n_prefill), f"run {index + 1} of {n_runs}"
        sequence = _answered(engine, prompt, n_decode, label, line)
        prefills.append(n_prefill / sequence.prefill_s)
        decodes.append((n_decode - 1) / sequence.decode_s)
    return load_s, prefills, decodes


def _answered(engine: Engine, prompt: list[int], n_decode: int, label: str, line: status.Line) -> Sequence:
    """One prompt answered with so many tokens, and nothing beside it."""
    params = SamplingParams(temperature=0, max_tokens=n_decode, ignore_eos=True)
    sequence = engine.add(prompt, params)
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise Hermes3Error(f"the engine gave up: {output.error}") from output.error
        read = min(sequence.n_computed, len(prompt))
        line.show(f"{label}: prompt {read} of {len(prompt)}, answer {sequence.n_answer} of {n_decode}")
    if sequence.n_answer < n_decode:
        raise CapacityError(
            f"after {len(sequence.ids)} tokens the memory for keys and values is full; ask for less than "
            f"--prefill {len(prompt)} --decode {n_decode}, or free some memory"
        )
    return sequence


def _card(figures: dict[str, Any]) -> str:
    """What a person reads."""
    size, n_runs = size_text(figures["weight_bytes"]), figures["runs"]
    of = "one run" if n_runs == 1 else f"medians of {n_runs} runs"
    share = figures["prefill_share_of_int8_peak"]
    peak = "(float weights)" if share is None else f"{share:.0%} of {figures['int8_peak_gop_s']:.0f} in int8"
    bandwidth = f"{figures['decode_share_of_read_bandwidth']:.0%} of {figures['read_bandwidth_gb_s']:.1f}"
    rows = [
        ("", "tokens", "tokens/s", "lowest", "highest", "reached", "of what the machine can do"),
        _row("prefill", figures, f"{figures['prefill_gop_s']:.1f} Gop/s", peak),
        _row("decode", figures, f"{figures['decode_gb_s']:.1f} GB/s", f"{bandwidth} in reading"),
    ]
    return "\n".join([
        f"{figures['model']}: {figures['weights']}, {size}, loaded in {figures['load_s']:.1f} s",
        f"{figures['isa']}, {figures['threads']} threads, {of}",
        "",
        *(f"{a:8}{b:>7}{c:>10}{d:>10}{e:>10}{f:>14}   {g}" for a, b, c, d, e, f, g in rows),
    ])  # fmt: skip


def _row(name: str, figures: dict[str, Any], reached: str, share: str) -> tuple[str, ...]:
    rates = figures[f"{name}_tokens_per_s_runs"]
    spread = (figures[f"{name}_tokens_per_s"], min(rates), max(rates))
    return (name, str(figures[f"{name}_tokens"]), *(f"{rate:.1f}" for rate in spread), reached, share)
