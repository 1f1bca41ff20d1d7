"""`hermes3 data show`: one row as the model gets it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from hermes3.cli.data.reading import renderer_of
from hermes3.cli.failure import UsageError
from hermes3.cli.screen import PICTURES
from hermes3.errors import RequestError
from hermes3.tokenizer import Tokenizer
from hermes3.train.data.conversation import Conversation, Preference
from hermes3.train.data.files import DataFile, Sample
from hermes3.train.data.rendered import Renderer
from hermes3.train.data.rows import Fault

NEAR = 3  # tokens on each side of a border that the table has
LEARNED, SPECIAL, OTHER = "green", "magenta", "dim"


@dataclass(frozen=True, slots=True)
class Token:
    """A token with the weight of its loss."""

    id: int
    weight: float
    text: str
    is_special: bool

    @property
    def style(self) -> str:
        """Its colour."""
        bold = "bold " if self.is_special else ""
        return bold + (LEARNED if self.weight else SPECIAL if self.is_special else OTHER)


def run(path: Path, number: int, model: str | None, form: str | None, all_tokens: bool) -> bool:
    """Print a row; whether it can be used.

    Raises:
        UsageError: the file has no such row.
        Hermes3Error: the file cannot be opened, or the model cannot be had.
    """
    file = DataFile(path, form)
    item = _row(file, number)
    console = Console(highlight=False, markup=False, soft_wrap=True, emoji=False)
    if isinstance(item, Fault):
        console.print(str(item).translate(PICTURES))
        return False
    renderer = renderer_of(model, needed=True)
    try:
        _show(console, f"{path}:{item.line}: row {number}, {file.form}", item.value, renderer, all_tokens)
    except RequestError as error:
        console.print(str(Fault(path, item.line, number, str(error))).translate(PICTURES))
        return False
    return True


def _row(file: DataFile, number: int) -> Sample | Fault:
    last = 0
    for item in file:
        if item.number == number:
            return item
        last = item.number
    raise UsageError(f"{file.path} has {last} rows, and no row {number}")


def _show(
    console: Console, title: str, sample: Conversation | Preference, renderer: Renderer, all_tokens: bool
) -> None:
    console.print(title.translate(PICTURES), style="bold")
    tokenizer = renderer.tokenizer
    if isinstance(sample, Preference):
        pair = renderer.pair(sample)
        prompt = _tokens(tokenizer, pair.prompt_ids.tolist(), [0.0] * len(pair.prompt_ids))
        sides = (pair.chosen, pair.rejected)
        chosen, rejected = (_tokens(tokenizer, side.ids.tolist(), side.weights.tolist()) for side in sides)
        parts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    else:
        example = renderer.example(sample)
        parts = {"": _tokens(tokenizer, example.ids.tolist(), example.weights.tolist())}
    for name, tokens in parts.items():
        _print_part(console, name, tokens)
    for name, tokens in parts.items():
        _print_table(console, name, tokens, all_tokens)


def _tokens(tokenizer: Tokenizer, ids: Sequence[int], weights: Sequence[float]) -> list[Token]:
    """Tokens with the text that each completes."""
    decoder = tokenizer.stream_decoder()
    marks = tokenizer.control_ids
    return [Token(i, weight, decoder.push(i), i in marks) for i, weight in zip(ids, weights, strict=True)]


def _print_part(console: Console, name: str, tokens: list[Token]) -> None:
    n_trained = sum(bool(token.weight) for token in tokens)
    heading = f"{name}: " if name else ""
    console.print(f"{heading}{len(tokens):,} tokens, {n_trained:,} trained", style="bold")
    plain = console.color_system is None
    text, weight = Text(), 0.0
    for token in tokens:
        if plain and bool(token.weight) != bool(weight):
            text.append("⟦" if token.weight else "⟧")
        weight = token.weight
        text.append(token.text.translate(PICTURES), token.style)
    console.print(text.append("⟧") if plain and weight else text)
    others = sorted({token.weight for token in tokens} - {0.0, 1.0})
    if others:
        console.print(f"weights beside 0 and 1: {', '.join(f'{each:g}' for each in others)}")


def _print_table(console: Console, name: str, tokens: list[Token], all_tokens: bool) -> None:
    console.print(f"{'':>6}{'id':>8}{'weight':>8}  {name + ' ' if name else ''}token", style="bold")
    before = -1
    for index in range(len(tokens)) if all_tokens else _near_borders(tokens):
        if index != before + 1:
            console.print(f"{'...':>6}{'':>16}  {index - before - 1} more", style="dim")
        token = tokens[index]
        console.print(f"{index:>6}{token.id:>8}{token.weight:>8g}  {token.text!r}", style=token.style)
        before = index
    if before + 1 < len(tokens):
        console.print(f"{'...':>6}{'':>16}  {len(tokens) - before - 1} more", style="dim")


def _near_borders(tokens: Sequence[Token]) -> Iterator[int]:
    """Tokens beside a change of weight, at the beginning and at the end."""
    edges = [0, *(i for i in range(1, len(tokens)) if tokens[i].weight != tokens[i - 1].weight), len(tokens)]
    near = {i for edge in edges for i in range(max(0, edge - NEAR), min(len(tokens), edge + NEAR))}
    return iter(sorted(near))
