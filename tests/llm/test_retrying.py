"""Schemas that no grammar can be made of: answers that do not satisfy them are asked for again."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import jsonschema
import pytest

from hermes3.errors import AnswerError, ContextLengthError, Hermes3Error, RequestError
from hermes3.llm import LLM, checks
from hermes3.prompt.messages import Tool
from tests.llm.fakes import FakeEngine, fake_llm

ODD = {"type": "string", "format": "none-such", "maxLength": 3}  # a format that llguidance does not know
SCHEMA = {"type": "object", "properties": {"a": ODD}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
TOOLS = [Tool("odd", None, SCHEMA), Tool("plain", None, {"properties": {"n": {"type": "integer"}}})]
BAD, GOOD = '{"a": "long"}', '{"a": "ab"}'
RETRY: dict[str, Any] = {"on_uncompilable": "retry"}


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def scripted(*answers: str, **engine: Any) -> tuple[LLM, FakeEngine, list[str]]:
    """A model that gives these answers, one after the other, and the prompts that it saw."""
    left, prompts = list(answers), []

    def script(ids: list[int], params: object) -> list[int]:
        prompts.append(bytes(i for i in ids if i < 256).decode())
        return list(left.pop(0).encode())

    llm, made = fake_llm(script, **{"n_ctx": 4000, **engine})
    return llm, made, prompts


def test_by_default_such_a_schema_is_refused() -> None:
    llm, _, prompts = scripted(GOOD)
    with llm:
        for options in ({"response_format": FORMAT}, {"tools": TOOLS}, {"on_uncompilable": "ask"}):
            with pytest.raises(RequestError, match=r"none-such|'ask'"):
                llm.chat("x", **options)  # type: ignore[call-overload]
    assert not prompts


def test_json_that_is_wrong_is_asked_for_again() -> None:
    llm, engine, prompts = scripted(BAD, GOOD, BAD, GOOD, GOOD)
    with llm:
        reply = llm.chat("x", response_format=FORMAT, **RETRY)
        assert (reply.text, reply.finish_reason) == (GOOD, "stop")
        first, second = prompts
        assert "'long' is too long" in second.removeprefix(first.removesuffix("assistant\n"))
        assert BAD in second
        assert json.dumps(SCHEMA) in first, "the model is told the schema as it is"
        assert reply.usage.completion_tokens == len(BAD) + len(GOOD)
        assert reply.usage.prompt_tokens >= len(first) + len(second)
        stream = list(llm.chat("x", response_format=FORMAT, stream=True, **RETRY))
        assert "".join(delta.text for delta in stream) == GOOD, "nothing is given out before it passed"
        assert len(llm.chat("x", response_format=FORMAT, logprobs=0, **RETRY).logprobs or ()) == len(GOOD)
    assert not engine.running


def test_after_three_tries_it_is_an_error() -> None:
    for options in ({"response_format": FORMAT}, {"tools": TOOLS, "tool_choice": "required"}):
        bad = BAD if "response_format" in options else call("odd", BAD)
        llm, _, prompts = scripted(bad, bad, bad)
        with llm:
            stream = llm.chat("x", stream=True, **options, **RETRY)  # type: ignore[call-overload]
            with pytest.raises(AnswerError, match=r"nor did 2 before it: .*'long' is too long"):
                next(stream)
        assert len(prompts) == 3


def test_a_call_that_is_wrong_is_asked_for_again() -> None:
    right = call("odd", GOOD)
    llm, _, prompts = scripted(f"{call('odd', BAD)}\n{call('plain', '{}')}", f"So: {right}")
    with llm:
        reply = llm.chat("x", tools=TOOLS, **RETRY)
    (made,) = reply.tool_calls
    assert (made.name, made.arguments, reply.text) == ("odd", {"a": "ab"}, "So:")
    assert "Error: ['a']: 'long' is too long. Call odd again with correct arguments." in prompts[1]
    assert "Error: not run" in prompts[1]


def test_schemas_that_compile_are_still_enforced() -> None:
    llm, _, _ = scripted(call("plain", '{"n": "x"}'))
    with llm, pytest.raises(Hermes3Error, match="does not allow"):
        llm.chat("x", tools=TOOLS, **RETRY)
    llm, _, _ = scripted(call("odd", '["a"]'))
    with llm, pytest.raises(Hermes3Error, match="does not allow"):
        llm.chat("x", tools=TOOLS, **RETRY)


def test_what_no_grammar_can_be_made_of_together_is_checked_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each schema compiles by itself, none is known to be at fault: all are checked."""
    plain = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    llm, _, _ = scripted(call("f", '{"n": "x"}'), call("f", '{"n": 1}'))
    with llm:
        vocabulary, n_compiled = llm._grammars._made(), []
        real = type(vocabulary).compile

        def compile_later(self: Any, *asked: Any, **more: Any) -> Any:
            n_compiled.append(1)
            if len(n_compiled) == 1:
                raise RequestError("too large", param="tools")
            return real(self, *asked, **more)

        monkeypatch.setattr(type(vocabulary), "compile", compile_later)
        reply = llm.chat("x", tools=[Tool("f", None, plain), Tool("g", None, plain)], **RETRY)
    assert [each.arguments for each in reply.tool_calls] == [{"n": 1}]


def test_a_cut_answer_says_so() -> None:
    llm, _, _ = scripted(BAD)
    with llm:
        reply = llm.chat("x", response_format=FORMAT, max_tokens=4, **RETRY)
    assert (reply.text, reply.finish_reason) == (BAD[:4], "length")


def test_arrays_and_what_has_no_type() -> None:
    for schema, bad, good in (
        ({"type": "array", "items": ODD}, '["long"]', '["ab"]'),
        ({"anyOf": [ODD, {"type": "null"}]}, "3", "null"),
    ):
        llm, _, _ = scripted(bad, good)
        wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
        with llm:
            assert llm.chat("x", response_format=wanted, **RETRY).text == good


def test_cancelling_shows_nothing_that_was_not_checked() -> None:
    llm, engine, _ = scripted(GOOD, step_s=0.01)
    with llm:
        stream = llm.chat("x", response_format=FORMAT, stream=True, **RETRY)
        while engine.n_steps < 3:
            time.sleep(0.01)
        stream.cancel()
        (last,) = stream
    assert (last.text, last.finish_reason) == ("", "cancelled")


def test_from_asyncio_and_in_batches() -> None:
    llm, _, _ = scripted(BAD, GOOD, GOOD, GOOD)

    async def asked() -> str:
        return (await llm.achat("x", response_format=FORMAT, **RETRY).reply()).text

    with llm:
        assert asyncio.run(asked()) == GOOD
        both = llm.chat_batch(["x", "y"], response_format=FORMAT, **RETRY)
    assert [each.text for each in both] == [GOOD] * 2


def test_no_room_to_ask_again() -> None:
    llm, _, prompts = scripted(BAD, n_ctx=len(json.dumps(SCHEMA)) + 260)
    with llm, pytest.raises(ContextLengthError):
        llm.chat("x", response_format=FORMAT, **RETRY)
    assert len(prompts) == 1


def with_part(part: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"a": ODD, "b": part}}
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"pattern": "^(?!x)"}, "cannot be searched for"),
        ({"patternProperties": {"(a)\\1": {}}}, "cannot be searched for"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, "refers to 'http"),
        ({"$ref": "file:///etc/passwd"}, "refers to 'file"),
        ({"$ref": "#/$defs/none"}, "refers to '#/"),
        ({"type": "strange"}, "no JSON Schema"),
    ],
)
def test_schemas_that_answers_cannot_be_held_against_are_refused(part: dict[str, Any], said: str) -> None:
    llm, _, prompts = scripted(GOOD)
    with llm, pytest.raises(RequestError, match=said):
        llm.chat("x", response_format=with_part(part), **RETRY)
    assert not prompts


def test_checking_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    schema = {**SCHEMA, "$defs": {**twice, "d40": SCHEMA}, "$ref": "#/$defs/d0"}
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}

    def refused(said: str) -> None:
        llm, _, _ = scripted(GOOD, n_ctx=9000)
        with llm, pytest.raises(RequestError, match=said):
            llm.chat("x", response_format=wanted, **RETRY)

    refused(r"refers to more than|takes more than")
    monkeypatch.setattr(checks, "MAX_S", 1e-9)
    refused("takes more than")


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_a_call_that_does_not_validate(seed: int) -> None:
    values = ['{"a": "ab"}', '{"a": "long"}', '{"a": 1}', "{}", '{"b": []}', '{"a": "é"}', '{"a": null}']
    answers = [call("odd", values[(seed * 5 + n * 3) % len(values)]) for n in range(30)]
    llm, _, _ = scripted(*answers)
    n_reported = 0
    with llm:
        for _ in range(8):
            try:
                reply = llm.chat("x", tools=TOOLS, tool_choice="required", **RETRY)
            except AnswerError:
                continue
            for each in reply.tool_calls:
                jsonschema.validate(each.arguments, SCHEMA)
                n_reported += 1
    assert n_reported
