"""What grammars cost: compiling, the mask of each token, and a model's tokens per second with and without.

    python -m bench.masks 3b-q4_0.gguf --data ../shared/data

MODEL is a GGUF file with Llama 3's vocabulary (`python -m bench.make_model` makes one of the 3B's shape).
Masks are timed along BFCL's gold calls and MaskBench's valid instances, on this thread alone. Tokens per
second are those of one answer after the other (batch 1, greedy, without speculation), alternating.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.constrained import SETS, json_types, read
from hermes3 import _native
from hermes3.engine.engine import Engine
from hermes3.engine.grammar import Grammar
from hermes3.engine.sampling import SamplingParams
from hermes3.errors import RequestError
from hermes3.llm.form import form_of
from hermes3.llm.grammars import Grammars
from hermes3.llm.parts import tokenizer_of
from hermes3.prompt.chatml import Segment
from hermes3.prompt.messages import ToolCall
from hermes3.prompt.tools import call_text
from hermes3.tokenizer import Tokenizer
from hermes3.weights.checkpoint import open_checkpoint

FREE = {
    "string of JSON": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "it", "schema": {"type": "string", "minLength": 4000}},
        }
    },
    "words by a regex": {"grammar": {"regex": "([a-z]{1,12}[ ,.]){1000}"}},
}


def calls(data: Path, n: int) -> Iterator[tuple[dict[str, Any], str]]:
    """What is asked, and a text that answers it."""
    for name in SETS:
        answers = {row["id"]: row for row in read(data / "bfcl" / f"possible_answer_{name}.json.gz")}
        for task in read(data / "bfcl" / f"BFCL_v4_{name}.json.gz")[: n // len(SETS)]:
            tools = [
                {"type": "function", "function": {**each, "parameters": json_types(each["parameters"])}}
                for each in task["function"]
            ]
            gold = [
                ToolCall(name, {key: values[0] for key, values in arguments.items() if values[0] != ""})
                for call in answers[task["id"]]["ground_truth"]
                for name, arguments in call.items()
            ]
            text = "".join(piece for piece, _ in call_text(gold, "name", "calls"))
            yield {"tools": tools, "tool_choice": "required"}, text


def objects(data: Path, n: int) -> Iterator[tuple[dict[str, Any], str]]:
    rows = [row for row in read(data / "schemas" / "maskbench-sample.jsonl.gz") if row["tests"]]
    for row in rows[:: max(1, len(rows) // n)]:
        asked = {"type": "json_schema", "json_schema": {"name": "it", "schema": row["schema"]}}
        for test in row["tests"]:
            if test["valid"]:
                yield {"response_format": asked}, json.dumps(test["data"], ensure_ascii=False)
                break


def masks(
    name: str, tokenizer: Tokenizer, grammars: Grammars, given: list[tuple[dict[str, Any], str]]
) -> None:
    first: list[float] = []
    each: list[float] = []
    n_refused = n_left = 0
    for asked, text in given:
        start = time.perf_counter()
        try:
            grammar = grammars.compiled(form_of(asked))
            assert grammar is not None
            grammar.matcher().mask()
        except RequestError:
            n_refused += 1
            continue
        first.append(time.perf_counter() - start)
        ids = tokenizer.encode_segments([Segment(text)])
        times, is_left = along(grammar, ids)
        each += times
        n_left += is_left
    print(f"{name}: {len(first)} grammars compiled, {n_refused} refused, {n_left} texts not followed")
    show("    first mask, compiling included", first)
    show("    mask of a token", each)


def along(grammar: Grammar, ids: list[int]) -> tuple[list[float], bool]:
    """Seconds of each mask along a text, and whether the grammar would not have it."""
    matcher = grammar._matcher.deep_copy()
    buffer = np.zeros(grammar._n_words, np.uint32)
    times = []
    for token in ids:
        start = time.perf_counter()
        matcher.unsafe_compute_mask_ptr(buffer.ctypes.data, buffer.nbytes)
        times.append(time.perf_counter() - start)
        if not matcher.consume_token(token):
            return times, True
    return times, False


def show(what: str, seconds: list[float]) -> None:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e6
    print(f"{what}: {len(seconds)}, p50 {p50:,.0f} us, p99 {p99:,.0f} us, most {max(seconds) * 1e6:,.0f} us")


def steps(engine: Engine, grammar: Grammar | None, n_tokens: int) -> tuple[list[float], list[float]]:
    """Seconds of each token's step, and what of it went into choosing the token."""
    choosing: list[float] = []
    choose = engine._choose

    def timed(*args: Any) -> Any:
        start = time.perf_counter()
        chosen = choose(*args)
        choosing.append(time.perf_counter() - start)
        return chosen

    engine._choose = timed  # type: ignore[method-assign]
    params = SamplingParams(temperature=0.0, max_tokens=n_tokens)
    sequence = engine.add(range(100, 104), params, None if grammar is None else grammar.matcher())
    times = []
    while engine.has_work:
        start = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - start)
    del engine._choose
    if sequence.error is not None:
        raise sequence.error
    return times[1:], choosing[1:]  # without the prompt's


def speeds(engine: Engine, grammars: Grammars, rounds: int, n_tokens: int, bytes_read: int) -> None:
    held: dict[str, Grammar | None] = {"free": None}
    held |= {name: grammars.compiled(form_of(asked)) for name, asked in FREE.items()}
    found: dict[str, list[tuple[list[float], list[float]]]] = {name: [] for name in held}
    steps(engine, None, 4)
    for index in range(rounds):
        names = list(held)
        for name in names[index % 3 :] + names[: index % 3]:
            found[name].append(steps(engine, held[name], n_tokens))
    free = [statistics.median(times) for times, _ in found["free"]]
    for name, runs in found.items():
        own = [statistics.median(times) for times, _ in runs]
        ratio = statistics.median(one / other for one, other in zip(own, free, strict=True))
        choosing = statistics.median(time for _, times in runs for time in times)
        step = statistics.median(own)
        print(
            f"    {name}: {1 / step:.2f} tokens/s, a step takes {100 * (ratio - 1):+.1f} % "
            f"(median of {rounds} rounds), choosing {choosing * 1e6:,.0f} us of {step * 1e3:.1f} ms"
        )
    limit, rate = _native.read_bandwidth(1.0), bytes_read / statistics.median(free) / 1e9
    print(f"    free: {rate:.1f} GB/s of weights; this machine reads {limit:.1f} GB/s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n", type=int, default=120, help="grammars of each kind")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=9, help="of an answer")
    parser.add_argument("--runs", default="masks,speed", help="which of them")
    args = parser.parse_args()
    checkpoint = open_checkpoint(args.model)
    tokenizer = tokenizer_of(checkpoint)
    ends = tokenizer.eos_ids | checkpoint.eos_ids
    grammars = Grammars(tokenizer, ends, checkpoint.config.vocab_size)
    start = time.perf_counter()
    grammars.compiled(form_of({"grammar": {"regex": "a"}}))
    print(f"{tokenizer.vocab_size} tokens; made ready for grammars in {time.perf_counter() - start:.2f} s")
    if "masks" in args.runs:
        masks("BFCL's calls", tokenizer, grammars, list(calls(args.data, args.n)))
        masks("MaskBench's instances", tokenizer, grammars, list(objects(args.data, args.n)))
    if "speed" in args.runs:
        engine = Engine(checkpoint, n_ctx=1024, n_sequences=4, speculative=False)
        print(f"batch 1, {args.tokens} tokens, {args.rounds} rounds, {_native.isa()}")
        speeds(engine, grammars, args.rounds, args.tokens, args.model.stat().st_size)
    grammars.close()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
