"""How training data is rendered: the tokenizer and the template of a model, without its weights."""

from __future__ import annotations

from typing import Literal, overload

from hermes3.cli import status
from hermes3.cli.models import located
from hermes3.train.data.rendered import Renderer
from hermes3.weights import hub


@overload
def renderer_of(model: str | None, *, needed: Literal[True]) -> Renderer: ...
@overload
def renderer_of(model: str | None, *, needed: bool) -> Renderer | None: ...
def renderer_of(model: str | None, *, needed: bool) -> Renderer | None:
    """A renderer for a model.

    Args:
        model: None for the best one on this machine.
        needed: fetch one where none is here; else None comes back, and a line says so.

    Raises:
        Hermes3Error: no such model, or it cannot be had.
    """
    if model is None and not needed and hub.find(hub.default_model()[0]) is None:
        status.note("no model on this machine: tokens are not counted; --model NAME fetches one")
        return None
    from hermes3.llm.parts import template_of, tokenizer_of
    from hermes3.weights.checkpoint import open_checkpoint

    name = hub.default_model()[0] if model is None else model
    checkpoint = open_checkpoint(located(name)[1])
    if model is None:
        status.note(f"tokens are those of {name}; --model names another")
    tokenizer = tokenizer_of(checkpoint)
    template = template_of(checkpoint, tokenizer)
    if template.warning:
        status.note(f"warning: {template.warning}")
    return Renderer(tokenizer, template)
