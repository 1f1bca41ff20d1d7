"""Schemas that no grammar can be made of: what the grammar leaves open, and what is wrong with an answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from hermes3.llm.form import Form, GrammarText
from hermes3.llm.grammar_text import Schema, arguments_schema, grammar_of
from hermes3.llm.reply import Reply
from hermes3.prompt.checking import Checker
from hermes3.prompt.json_text import read_json
from hermes3.prompt.messages import Message
from hermes3.prompt.schema import ANY_OBJECT

MAX_S = 1.0  # of computing for one value
MAX_SAID = 5  # things wrong that the model is told at once


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with an answer.

    Attributes:
        calls: with some of its calls, by their indexes.
        text: with its JSON; None for nothing.
    """

    calls: Mapping[int, str]
    text: str | None

    def __str__(self) -> str:
        return self.text or "; ".join(self.calls.values())


@dataclass(frozen=True, slots=True)
class Checks:
    """What an answer must satisfy beside its grammar.

    Attributes:
        arguments: of calls, by the function's name.
        answer: of the JSON that the answer is; None where the grammar says it all.
    """

    arguments: Mapping[str, Checker]
    answer: Checker | None

    def faults(self, reply: Reply) -> Faults | None:
        """What is wrong with a whole reply, None for nothing; what was cut is no JSON, and not judged.

        Raises:
            RequestError: a schema cannot be followed, or takes too long.
        """
        calls = {}
        for index, call in enumerate(reply.tool_calls):
            if call.name in self.arguments and (wrong := _wrong(self.arguments[call.name], call.arguments)):
                calls[index] = wrong
        text = None
        if self.answer is not None and reply.finish_reason == "stop":
            try:
                text = _wrong(self.answer, read_json(reply.text))
            except ValueError as error:
                text = f"it is not JSON: {error}"
        return Faults(calls, text or None) if calls or text else None


def _wrong(checker: Checker, value: object) -> str:
    return "; ".join(islice(checker.errors(value), MAX_SAID))


def schemas_of(form: Form) -> dict[str, Schema]:
    """The schemas that an answer is held to, by the names of the fields that they came from."""
    schemas = {
        f"tools[{index}].function.parameters": arguments_schema(tool)
        for index, tool in enumerate(form.tools)
        if tool in form.callable
    }
    if form.schema is not None and form.answer_schema is not None:
        name = "response_format" if form.kind else "response_format.json_schema.schema"
        schemas[name] = form.answer_schema
    return schemas


def loosened(form: Form, names: Collection[str]) -> Form:
    """A form whose grammar asks for any JSON where some schemas stood, and whose checks ask for those.

    Args:
        names: of the schemas, as ``schemas_of`` has them.

    Raises:
        RequestError: a schema that answers cannot be held against either.
    """
    checkers = {}
    for name, schema in schemas_of(form).items():
        if name in names:
            checkers[name] = Checker(name, schema, max_s=MAX_S)
            checkers[name].check_schema()
    arguments: dict[str, Checker] = {}
    calls = form.calls
    if calls is not None:
        for index, tool in enumerate(form.tools):
            if (name := f"tools[{index}].function.parameters") in checkers:
                arguments[tool.name] = checkers.pop(name)
        loose = [replace(tool, parameters=ANY_OBJECT) if tool.name in arguments else tool
                 for tool in calls.tools]  # fmt: skip
        calls = replace(calls, tools=loose)
    answer = next(iter(checkers.values()), None)
    bound = form.answer_schema
    if answer is not None and bound is not None:
        bound = _any_like(bound)
    text = grammar_of(calls, bound, has_thoughts=form.has_thoughts)
    grammar = GrammarText("lark", text, "tools" if calls is not None else "response_format")
    return replace(form, grammar=grammar, checks=Checks(arguments, answer))


def asked_again(turns: Sequence[Message], reply: Reply, faults: Faults) -> list[Message]:
    """The conversation, with an answer that is wrong and what is wrong with it."""
    content = reply.text or None if reply.tool_calls else reply.text
    said = [*turns, Message("assistant", content, tool_calls=reply.tool_calls)]
    for index, call in enumerate(reply.tool_calls):
        wrong = faults.calls.get(index, "not run, for another call of this answer was wrong")
        text = f"Error: {wrong}. Call {call.name} again with correct arguments."
        said.append(Message("tool", text, tool_call_id=call.id, name=call.name))
    if not reply.tool_calls:
        text = f"This does not satisfy the schema: {faults.text}. Answer again, with JSON that does."
        said.append(Message("user", text))
    return said


def _any_like(schema: Schema) -> Schema:
    """Of an object, where the schema plainly is, else of anything."""
    return ANY_OBJECT if schema.get("type") == "object" or "properties" in schema else {}
