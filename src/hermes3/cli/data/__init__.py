"""`hermes3 data`: what training learns from. Commands with their options; each imports what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hermes3.cli import options
from hermes3.cli.failure import ERROR, exit_codes

HELP = """See, check and make training data.

\b
Forms of files, JSON or JSON Lines, gzipped or not; found by the first row, or named with --format:
  messages     OpenAI's: messages with role and content, tools, tool_calls
  sharegpt     conversations with from and value, function_call and observation too
  alpaca       instruction, input, output
  preference   chosen and rejected, in any of these words

\b
Examples:
  hermes3 data check train.jsonl
  hermes3 data show train.jsonl 3
  hermes3 data synth new.jsonl --seeds prompts.txt --model 3b
"""

app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None)

Files = Annotated[list[Path], typer.Argument(metavar="FILE", help="JSON or JSON Lines, .gz too.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="JSON or JSON Lines, .gz too.")]
Number = Annotated[int, typer.Argument(metavar="N", min=1, help="Which row, from 1.")]
Form = Annotated[
    str | None,
    typer.Option("--format", help="Any of the four forms of `hermes3 data`; default: by the first row."),
]
Tokenizer = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Whose tokens are counted; default: the best model on this machine."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Bad rows are no error; how many, is said.")]
Target = Annotated[Path, typer.Argument(metavar="OUT", help="JSON Lines to write, or to go on with.")]
Seeds = Annotated[
    Path | None, typer.Option("--seeds", metavar="FILE", help="Prompts: lines of a .txt, or rows of JSON.")
]
ToolSets = Annotated[
    Path | None, typer.Option("--tools", metavar="FILE", help="Tools in OpenAI's form; or rows of sets.")
]
TeacherModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Who writes; with --base-url the endpoint's name of it.")
]
BaseUrl = Annotated[str | None, typer.Option(help="Of an OpenAI-compatible endpoint; else our own engine.")]
ApiKey = Annotated[str, typer.Option(envvar="OPENAI_API_KEY", help="Key that the endpoint wants to see.")]
Count = Annotated[int, typer.Option("--n", "-n", min=1, help="Conversations of each prompt or set of tools.")]
Turns = Annotated[int, typer.Option(min=1, max=32, help="Requests of the user in each conversation.")]
Warmth = Annotated[float, typer.Option("--temperature", "-t", min=0, max=2, help="Of the sampling.")]
AnswerTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longer answers are dropped.")]
RunSeed = Annotated[int, typer.Option("--seed", min=0, help="Of the random numbers of the whole run.")]
AtOnce = Annotated[int, typer.Option("--concurrency", min=1, max=1024, help="Conversations written at once.")]
NearAs = Annotated[
    float, typer.Option("--near", min=0.5, max=1, help="Similarity from which on one is dropped.")
]
Refusals = Annotated[
    Path | None, typer.Option("--refusals", metavar="FILE", help="Regular expressions, one a line.")
]
Retries = Annotated[
    int | None, typer.Option(min=0, max=100, help="Of a request without an answer; default: 5.")
]
AllTokens = Annotated[bool, typer.Option("--all", help="Every token in the table, not the borders alone.")]


@app.command()
def check(
    files: Files,
    model: Tokenizer = None,
    form: Form = None,
    skip_bad: SkipBad = False,
    json_only: options.JsonOnly = False,
) -> None:
    """Check training data: every row that cannot be used, with file, line and reason; then what is there.

    Bad are rows that are no JSON or of another form, turns that are empty or do not follow each other, calls
    of unknown tools or with arguments that the tool's schema forbids. Exit code 1 where there are any.

    \b
    Examples:
      hermes3 data check train.jsonl more.json.gz
      hermes3 data check train.jsonl --model 3b --json | jq .trained_tokens
      hermes3 data check train.jsonl --skip-bad && hermes3 train sft recipe.toml
    """
    with exit_codes():
        from hermes3.cli.data.check import run

        if not run(files, model, form, skip_bad, json_only):
            raise typer.Exit(ERROR)


@app.command()
def show(
    file: File,
    number: Number,
    model: Tokenizer = None,
    form: Form = None,
    all_tokens: AllTokens = False,
) -> None:
    """Show a row as the model gets it: what is learned in colour, and the tokens.

    Green is learned, magenta are special tokens; without colours learned text stands in ⟦ ⟧. The table has
    id, weight of the loss and text of each token, around the borders of what is learned.

    \b
    Examples:
      hermes3 data show train.jsonl 3
      hermes3 data show train.jsonl 3 --model 3b --all | less
    """
    with exit_codes():
        from hermes3.cli.data.show import run

        if not run(file, number, model, form, all_tokens):
            raise typer.Exit(ERROR)


@app.command()
def synth(
    out: Target,
    seeds: Seeds = None,
    tools: ToolSets = None,
    model: TeacherModel = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = "none",
    n: Count = 1,
    turns: Turns = 1,
    temperature: Warmth = 0.8,
    max_tokens: AnswerTokens = 1024,
    seed: RunSeed = 0,
    concurrency: AtOnce = 8,
    near: NearAs = 0.8,
    refusals: Refusals = None,
    retries: Retries = None,
    ctx: options.Ctx = None,
    threads: options.Threads = None,
) -> None:
    """Have a teacher write training data, from prompts or for sets of tools.

    For a set of tools the teacher also writes the request, and stands in for the functions. Calls follow
    their schemas, or the conversation is dropped; so are refusals, empty turns, cut answers and what
    resembles a conversation before. NAME.dropped.jsonl beside OUT has them, with the reason. A run that was
    killed goes on where it was when the same is asked for again.

    \b
    Examples:
      hermes3 data synth new.jsonl --seeds prompts.txt --model 3b -n 4
      hermes3 data synth calls.jsonl --tools tools.json -n 100 --turns 2
      hermes3 data synth new.jsonl --seeds prompts.jsonl --base-url https://host/v1 --model NAME

    \b
    Rows of --seeds: prompt (or instruction and input), and as they like system and tools.
    Rows of --tools: tools (a list) and system; or tools alone, which are one set together.
    """
    with exit_codes():
        from hermes3.cli.data.synth import SynthOptions, run

        asked = SynthOptions(
            out, seeds, tools, model, base_url, api_key, n, turns, temperature, max_tokens, seed, concurrency,
            near, refusals, retries, ctx, threads,
        )  # fmt: skip
        if not run(asked):
            raise typer.Exit(ERROR)
