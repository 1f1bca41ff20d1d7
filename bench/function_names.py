"""How often models call the function that BFCL's prompts ask for, without any constraint.

    python -m bench.function_names --data ../shared/data/bfcl MODEL [MODEL ...]

The first prompts of simple_python and of multiple, half each; greedy. A name is right where the first sound
call of the answer has the name that BFCL expects.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hermes3 import LLM
from hermes3.eval import bfcl
from hermes3.eval.lm import Hermes3LM

CATEGORIES = ("simple_python", "multiple")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100, help="prompts in all")
    parser.add_argument("--max-tokens", type=int, default=128, help="of an answer")
    args = parser.parse_args()
    bfcl.MAX_TOKENS = args.max_tokens
    for model in args.models:
        n_right = n_called = n = 0
        with LLM(model) as llm:
            for category in CATEGORIES:
                tasks, answers = bfcl.tasks_of(args.data, category)
                tasks = tasks[: args.limit // len(CATEGORIES)]
                for task, (calls, _) in zip(tasks, bfcl.called(Hermes3LM(llm), tasks, "free"), strict=True):
                    n += 1
                    n_called += bool(calls)
                    n_right += bool(calls) and calls[0].keys() == answers[task["id"]][0].keys()
        print(f"{model}: {n_right} of {n} names right, {n_called} answers hold a sound call", flush=True)


if __name__ == "__main__":
    main()
