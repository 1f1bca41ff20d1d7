"""Calls from a random model, over vocabularies that have the tags as tokens, and over one that has not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hermes3.engine.engine import Engine
from hermes3.llm import LLM, Parts
from hermes3.prompt.chatml import Template
from hermes3.tokenizer import Tokenizer
from tests.engine import runs
from tests.llm.accepting import Judge

TAGS = ["<tool_call>", "</tool_call>"]
SCHEMA = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
    "required": ["unit", "days"],
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("f", "weather")]
CALL = '\n{"name": "f", "arguments": {"unit": "C", "days": 3}}\n'
KINDS = {"special tokens": (TAGS, True), "added tokens": (TAGS, False), "text": ([], True)}

Make = Callable[[str], Tokenizer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A tokenizer of single bytes, ChatML's marks, and the tags as they may be."""

    def made(kind: str) -> Tokenizer:
        tags, is_special = KINDS[kind]
        letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
        backend = tokenizers.Tokenizer(models.BPE(vocab=letters, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        backend.add_tokens([tokenizers.AddedToken(tag, special=is_special) for tag in tags])
        backend.save(str(tmp_path / "tokenizer.json"))
        return Tokenizer.from_file(tmp_path / "tokenizer.json")

    return made


def end_of(tokenizer: Tokenizer) -> frozenset[int]:
    end = tokenizer.token_id("<|im_end|>")
    assert end is not None
    return frozenset({end})


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_model_calls(make: Make, tmp_path: Path, kind: str) -> None:
    tokenizer = make(kind)
    engine = Engine(runs.load(runs.model_file(tmp_path)), n_ctx=4096)
    parts = Parts(engine, tokenizer, Template(), end_of(tokenizer))
    with LLM.of_parts(parts, name="random", path=tmp_path) as llm:
        for seed in range(6):
            reply = llm.chat("x", tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=seed)
            (call,) = reply.tool_calls
            assert call.name in ("f", "weather")
            jsonschema.validate(call.arguments, SCHEMA)
            assert (reply.finish_reason, reply.text, reply.broken_calls) == ("tool_calls", "", ())
            n_bytes = len(f'<tool_call>\n{{"name": "{call.name}", "arguments": {{}}}}\n</tool_call>')
            n_tags = 2 * (kind != "text")
            assert reply.usage.completion_tokens >= n_bytes - n_tags * 10  # whitespace is the model's own
            assert (reply.usage.completion_tokens < 75) or kind == "text"


@pytest.mark.parametrize("kind", KINDS)
def test_free_text_before_a_call_in_either_form(make: Make, kind: str) -> None:
    tokenizer = make(kind)
    judge = Judge(tokenizer, end_of(tokenizer))
    grammar = judge.compiled(tools=TOOLS)
    for inner, is_call in ((CALL, True), (CALL.replace('"C"', '"K"'), False)):
        assert judge.takes(grammar, f"So: <tool_call>{inner}</tool_call>") == is_call  # as bytes
        ids = [
            *tokenizer.encode("So: "),
            *tokenizer.encode(TAGS[0], allow_special=True),
            *tokenizer.encode(inner),
            *tokenizer.encode(TAGS[1], allow_special=True),
        ]
        matcher = grammar._matcher.deep_copy()
        assert (matcher.try_consume_tokens(ids) == len(ids)) == is_call
        if is_call:
            assert matcher.is_accepting()
    judge.grammars.close()


def test_what_must_come_is_written_with_the_tag_as_a_token(make: Make) -> None:
    tokenizer = make("special tokens")
    judge = Judge(tokenizer, end_of(tokenizer))
    matcher = judge.compiled(tools=TOOLS, tool_choice="required").matcher()
    assert matcher.forced[0] == tokenizer.token_id("<tool_call>")
    judge.grammars.close()
