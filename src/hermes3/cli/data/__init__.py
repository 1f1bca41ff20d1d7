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
