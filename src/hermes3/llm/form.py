"""What an answer may look like: read from what a caller asks, with the prompt and the grammar it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from hermes3.engine.gbnf import lark_of
from hermes3.engine.grammar import GrammarKind
from hermes3.errors import AnswerError, RequestError
from hermes3.llm.grammar_text import Calls, choice_grammar, grammar_of, no_calls_grammar
from hermes3.llm.options import Answering, OnUncompilable
from hermes3.llm.reading import Reader
from hermes3.llm.reply import Reply
from hermes3.llm.tool_choice import choice_of
from hermes3.prompt.functions import parse_tools
from hermes3.prompt.messages import Tool
from hermes3.prompt.schema import Schema, closed, instance_of, json_schema_of, parse_response_format
from hermes3.prompt.splitter import REASONING_TAGS, Splitter
from hermes3.prompt.tools import CallOrder

if TYPE_CHECKING:
    from hermes3.llm.checks import Checks

MAX_CHOICES = 1024  # of a grammar
_GRAMMARS = ("regex", "choice", "lark", "gbnf")


@dataclass(frozen=True, slots=True)
class GrammarText:
    """A grammar, and what errors call it."""

    kind: GrammarKind
    text: str
    param: str


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer may look like.

    Attributes:
        tools: what the prompt says about.
        schema: of the JSON that the prompt asks for; None for no word of it.
        call_order: the key of a call that comes first.
        grammar: what the answer must follow; None for anything.
        calls: those that it may hold; None for none.
        has_thoughts: thoughts in tags are told apart from the text.
        kind: the class that the answer becomes an instance of; None for none.
        has_citations: those in the text are told.
        has_forced_spans: which of its characters the grammar forced is told.
        on_uncompilable: what becomes of a schema that no grammar can be made of.
        checks: what the grammar leaves open, to be held against the answer; None where it leaves nothing.
    """

    tools: tuple[Tool, ...] = ()
    schema: Schema | None = None
    call_order: CallOrder = "name"
    grammar: GrammarText | None = None
    calls: Calls | None = None
    has_thoughts: bool = False
    kind: Any = None
    has_citations: bool = False
    has_forced_spans: bool = False
    on_uncompilable: OnUncompilable = "refuse"
    checks: Checks | None = None

    @property
    def callable(self) -> tuple[Tool, ...]:
        """What the answer may call."""
        return () if self.calls is None else tuple(self.calls.tools)

    @property
    def answer_schema(self) -> Schema | None:
        """Of the JSON that the answer is: a class takes no more than it names."""
        return _of_answer(self.schema, self.kind)

    def reader(self) -> Reader:
        """What reads one answer."""
        return Reader(self.splitter(), has_citations=self.has_citations)

    def splitter(self) -> Splitter | None:
        """What takes one answer apart; None where its text is the answer."""
        if not self.callable and not self.has_thoughts:
            return None
        return Splitter(
            tools=[tool.name for tool in self.callable],
            has_calls=bool(self.callable),
            reasoning=REASONING_TAGS if self.has_thoughts else (),
        )

    def finished(self, reply: Reply) -> Reply:
        """The reply with what the whole of it becomes.

        Raises:
            AnswerError: the class that was asked for does not take it.
        """
        if self.kind is None or reply.finish_reason != "stop":
            return reply
        try:
            return replace(reply, parsed=instance_of(self.kind, reply.text))
        except ValueError as error:
            raise AnswerError(f"the answer satisfies the schema, but not its class: {error}") from error


PLAIN = Form()


def form_of(asked: Answering) -> Form:
    """The form that a caller asks for.

    Raises:
        RequestError: something that cannot be honoured; ``param`` names it.
    """
    try:
        return _form_of(asked)
    except RecursionError:
        param = "tools" if asked.get("tools") else "response_format"
        raise RequestError(f"{param} holds a schema that nests too deep", param=param) from None


def _form_of(asked: Answering) -> Form:
    order, has_thoughts = asked.get("call_order", "name"), asked.get("reasoning", False)
    if order not in ("name", "arguments"):
        shown = f"{order!r:.60}"
        raise RequestError(f"call_order is {shown}, it must be 'name' or 'arguments'", param="call_order")
    _check_bool("reasoning", has_thoughts)
    has_citations = asked.get("citations", False)
    _check_bool("citations", has_citations)
    is_parallel = asked.get("parallel_tool_calls", True)
    _check_bool("parallel_tool_calls", is_parallel)
    tools = tuple(parse_tools(asked.get("tools") or ()))
    choice, allowed = choice_of(asked.get("tool_choice"), tools)
    schema, kind = _response_format(asked.get("response_format"))
    calls = Calls(allowed, choice == "auto", not is_parallel, order) if allowed else None
    given = asked.get("grammar")
    if given is not None:
        if schema is not None or allowed:
            other = "tools" if allowed else "response_format"
            raise RequestError(f"grammar and {other} both say what the answer is: give one", param="grammar")
        grammar: GrammarText | None = _own_grammar(given)
    elif allowed or schema is not None:
        text = grammar_of(calls, _of_answer(schema, kind), has_thoughts=has_thoughts)
        grammar = GrammarText("lark", text, "tools" if allowed else "response_format")
    else:
        grammar = GrammarText("lark", no_calls_grammar(), "tool_choice") if tools else None
    if choice == "required":
        schema = kind = None
    return Form(
        tools=tools,
        schema=schema,
        call_order=order,
        grammar=grammar,
        calls=calls,
        has_thoughts=has_thoughts,
        kind=kind,
        has_citations=has_citations,
        has_forced_spans=_forced_spans(asked, is_parted=bool(allowed) or has_thoughts),
        on_uncompilable=_on_uncompilable(asked),
    )


def _forced_spans(asked: Answering, *, is_parted: bool) -> bool:
    given = asked.get("forced_spans", False)
    _check_bool("forced_spans", given)
    if given and is_parted:
        raise RequestError(
            "forced_spans counts characters of an answer that is text alone; with tools or reasoning it is "
            "taken apart: leave forced_spans out",
            param="forced_spans",
        )
    return given


def _on_uncompilable(asked: Answering) -> OnUncompilable:
    given, known = asked.get("on_uncompilable", "refuse"), get_args(OnUncompilable)
    if given not in known:
        raise RequestError(
            f"on_uncompilable is {given!r:.60}, it must be {' or '.join(map(repr, known))}",
            param="on_uncompilable",
        )
    return given


def _response_format(raw: object) -> tuple[Schema | None, Any]:
    """The schema, and the class that it was made from."""
    if raw is None:
        return None, None
    if isinstance(raw, Mapping):
        return parse_response_format(raw), None
    if not isinstance(raw, type):
        raise RequestError(
            f"response_format is {raw!r:.60}, it must be an object with a type, or a class",
            param="response_format",
        )
    return json_schema_of(raw), raw


def _of_answer(schema: Schema | None, kind: Any) -> Schema | None:
    return closed(schema) if kind is not None and schema is not None else schema


def _own_grammar(raw: object) -> GrammarText:
    """A grammar that the caller wrote."""
    keys = list(raw) if isinstance(raw, Mapping) else []
    if not isinstance(raw, Mapping) or len(keys) != 1 or keys[0] not in _GRAMMARS:
        raise RequestError(
            f"grammar is {raw!r:.60}, it must be an object with one of the keys {', '.join(_GRAMMARS)}",
            param="grammar",
        )
    kind, value = keys[0], raw[keys[0]]
    if kind == "choice":
        return GrammarText("lark", choice_grammar(_choices(value)), "grammar")
    if not isinstance(value, str) or not value:
        raise RequestError(f"grammar.{kind} is {value!r:.60}, it must be a text", param="grammar")
    if kind == "gbnf":
        return GrammarText("lark", lark_of(value), "grammar")
    return GrammarText("regex" if kind == "regex" else "lark", value, "grammar")


def _choices(raw: object) -> list[str]:
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not 0 < len(raw) <= MAX_CHOICES:
        raise RequestError(f"grammar.choice must be a list of 1 to {MAX_CHOICES} texts", param="grammar")
    if not all(isinstance(each, str) and each for each in raw):
        raise RequestError("grammar.choice holds something that is not a text, or is empty", param="grammar")
    return list(raw)


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise RequestError(f"{name} is {value!r:.60}, it must be true or false", param=name)
