"""`hermes3 train`: models of one's own. Commands with their options; each imports what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hermes3.cli import options
from hermes3.cli.failure import exit_codes

HELP = """Make a model of your own: fine-tune one on conversations, or on preferences.

A recipe says it all: a TOML file, or the name of one that comes with the program:
  smol-cpu, smol-cpu-dpo            SmolLM2-135M on a laptop's CPU
  hermes-3b-sft, hermes-8b-sft      the fine-tune of the Hermes 3 report, on GPUs
  hermes-3b-dpo, hermes-8b-dpo      its preference optimisation
`hermes3 train recipe NAME` prints one, to begin your own with.

\b
Examples:
  hermes3 train recipe smol-cpu > recipe.toml
  hermes3 train plan recipe.toml            what it will take
  hermes3 train sft recipe.toml             all weights, or LoRA where the recipe says so
  hermes3 train dpo recipe.toml             pairs of answers, of which one is preferred
  hermes3 train teacher recipe.toml --teacher 8b --out teacher.npz
  torchrun --nproc-per-node 8 -m hermes3 train sft recipe.toml

\b
A run that was stopped or killed goes on where its last checkpoint was: start the same command again.
What it makes lies in the recipe's output folder: model/ (Hugging Face's form), metrics.jsonl, loss.svg.
"""

app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None)

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A .toml or .json file, or a shipped name.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, as lr=1e-5; may be given again."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Throw away what an earlier run left in the output.")]
GGUF = Annotated[
    str | None, typer.Option("--gguf", metavar="TYPE", help="A GGUF file, too: f16, q8_0, q4_k_m ...")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads; default: physical cores.")
]
Processes = Annotated[int, typer.Option("--processes", min=1, help="As torchrun will start.")]
Teacher = Annotated[str, typer.Option("--teacher", metavar="MODEL", help="Name, path or hf:owner/repo.")]
TeacherOut = Annotated[Path, typer.Option("--out", metavar="FILE.npz", help="The file to write.")]
TopK = Annotated[int, typer.Option("--top-k", min=1, max=1024, help="Tokens kept at each place.")]


@app.command()
def sft(
    recipe: Recipe,
    change: Settings = None,
    fresh: Fresh = False,
    gguf: GGUF = None,
    threads: Threads = None,
) -> None:
    """Fine-tune a model on conversations: loss on what the assistant writes, and on nothing else.

    \b
    Examples:
      hermes3 train sft smol-cpu --set data.train=chats.jsonl
      hermes3 train sft recipe.toml --set lr=1e-5 --set output=runs/second --gguf q8_0
      hermes3 train sft recipe.toml --set lora.rank=16 --set lora.merge=false      LoRA; an adapter for PEFT

    Ctrl-C and SIGTERM end the run after the step; it is saved, and the same command goes on.
    """
    with exit_codes():
        from hermes3.cli.train.run import run

        run("sft", recipe, change or [], fresh, gguf, threads)


@app.command()
def dpo(
    recipe: Recipe,
    change: Settings = None,
    fresh: Fresh = False,
    gguf: GGUF = None,
    threads: Threads = None,
) -> None:
    """Train a model on pairs of answers, of which the first is preferred (DPO).

    \b
    Examples:
      hermes3 train dpo smol-cpu-dpo --set data.train=pairs.jsonl
      hermes3 train dpo recipe.toml --set dpo.beta=0.05 --fresh

    Both answers of a pair share their prompt, which is computed once. What the first model makes of them is
    computed before the first step and kept in the output folder.
    """
    with exit_codes():
        from hermes3.cli.train.run import run

        run("dpo", recipe, change or [], fresh, gguf, threads)


@app.command()
def plan(
    recipe: Recipe,
    change: Settings = None,
    processes: Processes = 1,
    threads: Threads = None,
    json_only: options.JsonOnly = False,
) -> None:
    """See what a run will take, without training: tokens, steps, memory by part, time.

    The time is an estimate: the arithmetic at 40 % of the speed of large products that is measured now.

    \b
    Examples:
      hermes3 train plan smol-cpu --set data.train=chats.jsonl
      hermes3 train plan recipe.toml --processes 8 --json | jq .memory
    """
    with exit_codes():
        from hermes3.cli.train.plan import run

        run(recipe, change or [], processes, threads, json_only)


@app.command()
def teacher(
    recipe: Recipe,
    model: Teacher,
    out: TeacherOut,
    top_k: TopK = 32,
    change: Settings = None,
    threads: Threads = None,
) -> None:
    """Write down what a larger model expects at each trained token, for [distill] of a recipe.

    The teacher must have the student's vocabulary.

    \b
    Examples:
      hermes3 train teacher recipe.toml --teacher 8b --out teacher.npz
      hermes3 train sft recipe.toml --set distill.teacher=teacher.npz
    """
    with exit_codes():
        from hermes3.cli.train.teacher import run

        run(recipe, model, out, top_k, change or [], threads)


@app.command("recipe")
def show_recipe(name: Recipe) -> None:
    """Print a recipe that comes with the program.

    \b
    Examples:
      hermes3 train recipe smol-cpu > recipe.toml
      hermes3 train recipe hermes-3b-sft
    """
    with exit_codes():
        from hermes3.cli.train.plan import show

        show(name)
