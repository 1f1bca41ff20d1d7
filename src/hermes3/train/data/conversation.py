"""Conversations to learn from: what every form of file becomes, checked for what a model can learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hermes3.prompt.messages import Message, Role, Tool, ToolCall
from hermes3.prompt.refusal import refuse
from hermes3.train.data.results import named_results
from hermes3.train.data.tools import Tools

_A = {"system": "a system", "user": "a user", "assistant": "an assistant", "tool": "a tool"}


@dataclass(slots=True)
class Turn:
    """One turn as a file has it.

    Attributes:
        where: what errors call it.
        role, text: who speaks, and what.
        calls: what the assistant calls.
        call_id, name: the call that a tool's result belongs to; the function that it comes from.
        weight: of the loss on it; None where the file does not say.
    """

    where: str
    role: Role
    text: str
    calls: list[ToolCall] = field(default_factory=list)
    call_id: str | None = None
    name: str | None = None
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, and how much is learned from each.

    Attributes:
        messages: oldest first.
        weights: of the loss on each message's tokens; 0 for all but the assistant's.
        tools: what may be called.
        shows_tools: whether the renderer is to say so; False where the system message does so itself.
        is_rewritten: descriptions of tools were made into JSON Schema; see ``dialects``.
    """

    messages: tuple[Message, ...]
    weights: tuple[float, ...]
    tools: tuple[Tool, ...] = ()
    shows_tools: bool = True
    is_rewritten: bool = False


@dataclass(frozen=True, slots=True)
class Preference:
    """Two conversations that begin alike, of which the first is preferred.

    Attributes:
        n_shared: messages that both have in common; the one after those is the assistant's in both.
    """

    chosen: Conversation
    rejected: Conversation
    n_shared: int


def conversation(turns: Sequence[Turn], known: Tools, *, shows_tools: bool) -> Conversation:
    """A conversation out of turns.

    Raises:
        RequestError: turns that do not follow each other as in a conversation, an empty one, weights on what
            is not the assistant's, results that belong to no call, or nothing to learn from.
    """
    _check_order(turns)
    messages: list[Message] = []
    weights: list[float] = []
    for turn, part in named_results(turns):
        messages.append(part)
        weights.append(_weight(turn))
    if not any(weights):
        refuse(turns[-1].where, "is the last turn, and none has an assistant's answer to learn from")
    return Conversation(tuple(messages), tuple(weights), known.tools, shows_tools, known.is_rewritten)


def preference(chosen: Conversation, rejected: Conversation, where: str) -> Preference:
    """A pair out of two conversations.

    Raises:
        RequestError: they have no prompt in common, part elsewhere than at an answer, or are the same.
    """
    pairs = zip(chosen.messages, rejected.messages, strict=False)
    n_shared = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if n_shared is None:
        if len(chosen.messages) == len(rejected.messages):
            refuse(where, "holds two answers that are the same")
        n_shared = min(len(chosen.messages), len(rejected.messages))
    for each, name in ((chosen, "chosen"), (rejected, "rejected")):
        if n_shared == len(each.messages):
            refuse(where, f"holds a {name} conversation that the other one only continues")
        if each.messages[n_shared].role != "assistant":
            role = each.messages[n_shared].role
            refuse(where, f"holds conversations that part at a {role} message ({name}), not at an answer")
        if not any(each.weights[n_shared:]):
            refuse(where, f"holds a {name} answer whose weight is 0")
    if not n_shared:
        refuse(where, "holds answers without a prompt")
    return Preference(chosen, rejected, n_shared)


def _weight(turn: Turn) -> float:
    if turn.role != "assistant":
        if turn.weight:
            refuse(turn.where, f"has the weight {turn.weight:g}; only what the assistant writes is learned")
        return 0.0
    return 1.0 if turn.weight is None else turn.weight


def _check_order(turns: Sequence[Turn]) -> None:
    before: Turn | None = None
    for turn in turns:
        _check_turn(turn, before)
        before = turn
    if before is None or before.role == "system":
        refuse("the conversation", "has no turns")
    if before.role != "assistant":
        refuse(before.where, f"is {_A[before.role]} turn at the end, which nobody answers")


def _check_turn(turn: Turn, before: Turn | None) -> None:
    role, last = turn.role, before.role if before else None
    if not turn.text.strip() and not turn.calls and role != "system":
        refuse(turn.where, f"is an empty {role} turn")
    if role == "system" and before is not None:
        refuse(turn.where, "is a system turn in the middle; only the first may be one")
    if role == "user" and before is not None and (before.role in ("user", "tool") or before.calls):
        what = "calls without results" if before.calls else f"{_A[before.role]} turn"
        refuse(turn.where, f"is a user turn after {what}")
    if role == "assistant" and last not in ("user", "tool"):
        place = "at the beginning" if last is None else f"after {_A[last]} turn"
        refuse(turn.where, f"is an assistant turn {place}")
    if role == "tool" and not (last == "tool" or (before is not None and before.calls)):
        refuse(turn.where, "is a tool's result, and nothing was called before it")
