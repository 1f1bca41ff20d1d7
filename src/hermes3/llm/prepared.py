"""What the hall makes of a conversation before it is answered."""

from __future__ import annotations

from dataclasses import dataclass

from hermes3.engine.grammar import Grammar
from hermes3.llm.form import PLAIN, Form
from hermes3.prompt.messages import Message


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt ready to be answered.

    Attributes:
        ids: its tokens.
        form: what the answer may look like.
        grammar: of the form, compiled; None for none.
        n_prefix: ids of the system turn, where those are kept on disk.
        turns: the conversation, where its answer may be asked for again.
    """

    ids: list[int]
    form: Form = PLAIN
    grammar: Grammar | None = None
    n_prefix: int = 0
    turns: tuple[Message, ...] = ()
