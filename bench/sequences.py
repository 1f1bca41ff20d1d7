"""One measurement of the engine in a process of its own, for the tables: a JSON line of its speeds.

    python -m bench.sequences MODEL --prompt 128 --answer 128 --sequences 8

All sequences have prompts of random ids and go on together. A line "first token" is printed with the first
one, so that whoever started the process can take the time.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

from hermes3 import _native
from hermes3.engine.engine import Engine
from hermes3.engine.sampling import SamplingParams
from hermes3.weights.checkpoint import open_checkpoint


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The engine's speed with so many sequences at once.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--answer", type=int, default=128, help="tokens of each answer that are timed")
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--threads", type=int, default=_native.physical_cores())
    parser.add_argument("--warm-up", action="store_true", help="first a run that is not timed")
    return parser.parse_args()


def run(engine: Engine, n_vocab: int, n_prompt: int, n_answer: int, n_sequences: int) -> tuple[float, float]:
    """Seconds of the prompts, and of n_answer steps with all sequences after them."""
    params = SamplingParams(temperature=0, max_tokens=n_prompt + n_answer + 1, ignore_eos=True)
    ids, start = random.Random(time.time()), time.perf_counter()
    sequences = [engine.add(ids.choices(range(n_vocab), k=n_prompt), params) for _ in range(n_sequences)]
    while min(sequence.n_answer for sequence in sequences) == 0:
        engine.step()
    first = time.perf_counter()
    print("first token", flush=True)
    for _ in range(n_answer):
        engine.step()
    end = time.perf_counter()
    for sequence in sequences:
        engine.cancel(sequence)
    while engine.has_work:
        engine.step()
    return first - start, end - first


def main() -> None:
    given = arguments()
    _native.set_threads(given.threads)
    start = time.perf_counter()
    checkpoint = open_checkpoint(given.model)
    n_ctx = 2 * (given.prompt + given.answer) + 64
    engine = Engine(
        checkpoint, n_ctx=n_ctx, n_sequences=given.sequences, prefix_caching=False, speculative=False
    )
    load_s, n_vocab = time.perf_counter() - start, checkpoint.config.vocab_size
    if given.warm_up:
        run(engine, n_vocab, min(given.prompt, 64), 4, given.sequences)
    prompt_s, answer_s = run(engine, n_vocab, given.prompt, given.answer, given.sequences)
    figures = {
        "load_s": load_s,
        "prefill_tokens_per_s": given.sequences * given.prompt / prompt_s,
        "decode_tokens_per_s": given.sequences * given.answer / answer_s if given.answer else None,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
