"""ChatML as the model card prints it: messages in, segments out.

One renderer serves chat, server and training. A segment carries two flags: *special*, the text may become
special tokens (what a user writes never may), and *trained*, the loss mask: what the assistant writes and the
``<|im_end|>`` that ends it.

A given model's own template can differ from plain ChatML. Two differences are honoured, by
``Template.of_model``: a BOS token in front and a default system prompt. The template is not run for requests;
it is *probed* once (``hermes3.prompt.probe``) with fixed conversations and compared with plain ChatML:

* conversations with a system message must come out as plain ChatML, with or without the model's BOS in front
  (that decides about BOS);
* those without one either the same, or with one system turn added in front (its text is the default);
* anything else (not ChatML, refused, too large, endless) leaves plain ChatML in force, BOS as for a model
  without a template, and ``Template.warning`` says what was found.

A model without a template gets plain ChatML, and BOS if its tokenizer says ``add_bos``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hermes3.prompt.messages import Message, Role, Tool
from hermes3.prompt.probe import ParsedTemplate, ProbeError
from hermes3.prompt.refusal import refuse
from hermes3.prompt.schema import Schema, holds_schema, schema_text
from hermes3.prompt.tools import CallOrder, Fragment, call_text, response_text, tool_text

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"

_PROBE_TURNS = (
    Message("user", "first question"),
    Message("assistant", "first answer"),
    Message("user", " second question "),
)
_PROBE_SYSTEM = Message("system", "the given system prompt")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of prompt text.

    Attributes:
        text: the text.
        is_special: special tokens in it count as such; where False they stay plain text.
        is_trained: written by the assistant: the loss is taken here.
    """

    text: str
    is_special: bool = False
    is_trained: bool = False


@dataclass(frozen=True, slots=True)
class Template:
    """How one model's prompts differ from plain ChatML.

    Attributes:
        bos: token in front of the prompt, None for none.
        default_system: system prompt where the conversation has none in front, None for none.
        warning: what of the model's own template is not honoured, None where it is honoured whole.
    """

    bos: str | None = None
    default_system: str | None = None
    warning: str | None = None

    @classmethod
    def of_model(cls, chat_template: str | None, *, bos_token: str | None, add_bos: bool | None) -> Template:
        """The template of a model, found by probing its own.

        Args:
            chat_template: the model's jinja template; None where it has none.
            bos_token: text of the tokenizer's BOS token.
            add_bos: whether the tokenizer asks for BOS; counts only where no template decides.
        """
        plain = cls(bos=bos_token if add_bos else None)
        if chat_template is None:
            return plain
        try:
            parsed = ParsedTemplate(chat_template)
            bos = _probed_bos(parsed, bos_token)
            return cls(bos=bos, default_system=_probed_system(parsed, bos, bos_token))
        except ProbeError as error:
            note = f"the model's own chat template is not followed, plain ChatML is used: {error}"
            return cls(bos=plain.bos, warning=note)


def render(
    messages: Sequence[Message],
    *,
    template: Template,
    add_generation_prompt: bool = True,
    tools: Sequence[Tool] = (),
    schema: Schema | None = None,
    call_order: CallOrder = "name",
) -> list[Segment]:
    """A conversation as segments of ChatML.

    The first system message, the text about the tools and that of JSON mode share one system turn. Tool
    messages that follow each other share one turn, too; those with neither name nor ``tool_call_id`` are
    taken for text that is in the card's form already, and stand as they are in a turn of their own.

    Args:
        messages: oldest first.
        template: the model's BOS and default system prompt; the latter stands in for a system turn where
            nothing else asks for one.
        add_generation_prompt: end with ``<|im_start|>assistant\\n``, so that the model answers.
        tools: what the model may call; left out where the system message holds their text already.
        schema: of the JSON that the model shall answer with; left out where the system message has one.
        call_order: which key comes first in the calls of the history.

    Raises:
        RequestError: a message without content, or a result of a call that nobody made; ``param`` names it.
    """
    segments = [] if template.bos is None else [Segment(template.bos, is_special=True)]
    has_system = bool(messages) and messages[0].role == "system"
    system = _system(_content(messages[0], 0) if has_system else None, template, tools, schema)
    if system is not None:
        segments += _turn("system", system)
    for role, body in _bodies(messages, int(has_system), call_order):
        segments += _turn(role, body)
    if add_generation_prompt:
        segments += _header("assistant")
    return segments


def system_segments(segments: Sequence[Segment]) -> Sequence[Segment]:
    """What a rendered conversation begins with, up to the end of its system turn; nothing without one."""
    starts = [i for i, each in enumerate(segments) if each == Segment(IM_START, is_special=True)]
    if not starts or segments[starts[0] + 1 : starts[0] + 2] != [*_header("system")][1:]:
        return []
    return segments[: starts[1]] if len(starts) > 1 else segments


def text_of(segments: Sequence[Segment]) -> str:
    """The prompt as one string, for people and for comparison."""
    return "".join(segment.text for segment in segments)


def _system(
    given: str | None, template: Template, tools: Sequence[Tool], schema: Schema | None
) -> list[Fragment] | None:
    """Body of the system turn, None where there is none."""
    added = list(tool_text(tools)) if tools else []
    if given is not None and "".join(text for text, _ in added) in given:
        added = []
    if schema is not None and not holds_schema(given or ""):
        added += [("\n", False), *schema_text(schema)] if added else schema_text(schema)
    if given is None and not added:
        return None if template.default_system is None else [(template.default_system, False)]
    if not given:
        return added or [("", False)]
    return [(given, False), *([("\n", False), *added] if added else [])]


def _bodies(
    messages: Sequence[Message], start: int, call_order: CallOrder
) -> Iterator[tuple[Role, list[Fragment]]]:
    """Turns after the first system message. Results of calls that follow each other become one."""
    called: dict[str, str] = {}  # id of a call -> the function's name
    results: list[Fragment] = []
    for index, message in enumerate(messages[start:], start):
        called.update({call.id: call.name for call in message.tool_calls if call.id is not None})
        name = _name_of_result(message, called, index)
        if name is not None:
            results += response_text(name, _content(message, index))
            continue
        if results:
            yield "tool", results
            results = []
        yield message.role, _body(message, index, call_order)
    if results:
        yield "tool", results


def _name_of_result(message: Message, called: Mapping[str, str], index: int) -> str | None:
    """The function whose result a message is; None for other messages, and for results in the card's form."""
    if message.role != "tool":
        return None
    if message.name is not None or message.tool_call_id is None:
        return message.name
    if message.tool_call_id not in called:
        refuse(
            f"messages[{index}].tool_call_id",
            f"is {message.tool_call_id!r:.60}, an id that no call before it has; give the call's id, or the "
            "function's name as name",
        )
    return called[message.tool_call_id]


def _body(message: Message, index: int, call_order: CallOrder) -> list[Fragment]:
    if not message.tool_calls:
        return [(_content(message, index), False)]
    text = [(f"{message.content}\n", False)] if message.content else []
    return [*text, *call_text(message.tool_calls, call_order, f"messages[{index}].tool_calls")]


def _content(message: Message, index: int) -> str:
    if message.content is None:
        refuse(f"messages[{index}].content", "is missing; give a string")
    return message.content


def _header(role: Role) -> Iterator[Segment]:
    yield Segment(IM_START, is_special=True)
    yield Segment(f"{role}\n")


def _turn(role: Role, body: Sequence[Fragment]) -> Iterator[Segment]:
    is_trained = role == "assistant"
    yield from _header(role)
    for text, is_ours in body:
        yield Segment(text, is_special=is_ours, is_trained=is_trained)
    yield Segment(IM_END, is_special=True, is_trained=is_trained)
    yield Segment("\n")


def _probed_bos(parsed: ParsedTemplate, bos_token: str | None) -> str | None:
    """BOS as the template emits it, from conversations whose system prompt is given."""
    asked = (_PROBE_SYSTEM, *_PROBE_TURNS)
    found = {_prefix(parsed, asked, prompt, bos_token) for prompt in (True, False)}
    if found == {""}:
        return None
    if bos_token and found == {bos_token}:
        return bos_token
    raise ProbeError(f"it puts {_shown(max(found, key=len))} in front of the first turn")


def _probed_system(parsed: ParsedTemplate, bos: str | None, bos_token: str | None) -> str | None:
    """The system prompt that the template puts in front where none is given."""
    found = {_prefix(parsed, _PROBE_TURNS, prompt, bos_token) for prompt in (True, False)}
    found |= {_prefix(parsed, _PROBE_TURNS[:1], True, bos_token)}
    (added, *more) = (prefix.removeprefix(bos or "") for prefix in found)
    start, end = f"{IM_START}system\n", f"{IM_END}\n"
    if more:
        raise ProbeError("what it puts in front of the first turn changes with the conversation")
    if not added:
        return None
    system = added.removeprefix(start).removesuffix(end)
    if added != start + system + end or IM_START in system or IM_END in system:
        raise ProbeError(f"it puts {_shown(added)} in front of the first turn")
    return system


def _prefix(parsed: ParsedTemplate, messages: Sequence[Message], prompt: bool, bos_token: str | None) -> str:
    """What the template puts in front of plain ChatML.

    Raises:
        ProbeError: what follows is not plain ChatML, or there is no result at all.
    """
    plain = text_of(render(messages, template=Template(), add_generation_prompt=prompt))
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = parsed.render(
        {
            "messages": turns,
            "add_generation_prompt": prompt,
            "bos_token": bos_token or "",
            "eos_token": IM_END,
            "tools": None,
        }
    )
    if not text.endswith(plain):
        raise ProbeError(f"it is not ChatML: {_shown(plain)} comes out as {_shown(text)}")
    return text.removesuffix(plain)


def _shown(text: str) -> str:
    """Text as a warning quotes it, at most 120 characters."""
    return repr(text if len(text) <= 120 else text[:117] + "...")
