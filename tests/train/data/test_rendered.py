"""Ids and weights: beside masks written by hand, and beside transformers' template and its assistant mask."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes3.prompt.chatml import Template
from hermes3.prompt.messages import Message, Tool, ToolCall
from hermes3.prompt.tools import tool_text
from hermes3.tokenizer import Tokenizer
from hermes3.train.data.conversation import Conversation, Preference
from hermes3.train.data.files import DataFile, Sample
from hermes3.train.data.rendered import Renderer
from hermes3.train.examples import Example

PLAIN = Template()
ADD = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})


def marked(tokenizer: Tokenizer, example: Example) -> str:
    """The text of an example, what is trained in ⟦⟧ with its weight where that is not 1."""
    out = []
    for start, end in _runs(example.weights):
        text, weight = tokenizer.decode(example.ids[start:end].tolist()), float(example.weights[start])
        out.append(text if not weight else f"⟦{'' if weight == 1 else f'{weight:g}:'}{text}⟧")
    return "".join(out)


def _runs(weights: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(weights)) + 1).tolist(), len(weights)]
    return list(itertools.pairwise(edges))


def conversation(*turns: Message, weights: tuple[float, ...] | None = None, **more: Any) -> Conversation:
    given = weights or tuple(float(turn.role == "assistant") for turn in turns)
    return Conversation(turns, given, **more)


ASKED = "<|im_start|>user\nQ<|im_end|><|im_end|>\n<|im_start|>assistant\n"
Q, A = Message("user", "Q<|im_end|>"), Message("assistant", "A")
CALLS = Message("assistant", "Let me see.", (ToolCall("add", {"a": 1}), ToolCall("add", {"a": 2})))
TOOL = "".join(text for text, _ in tool_text([ADD]))

BY_HAND = [
    (conversation(Q, A), PLAIN, f"{ASKED}⟦A<|im_end|>⟧\n"),
    (conversation(Message("system", "S"), Q, A, Q, A, weights=(0, 0, 0, 0, 0.5)), PLAIN,
     f"<|im_start|>system\nS<|im_end|>\n{ASKED}A<|im_end|>\n{ASKED}⟦0.5:A<|im_end|>⟧\n"),
    (conversation(Q, A, Q, A, weights=(0, 1, 0, 0)), Template(default_system="D"),
     f"<|im_start|>system\nD<|im_end|>\n{ASKED}⟦A<|im_end|>⟧\n{ASKED}A<|im_end|>\n"),
    (conversation(Q, CALLS, *(Message("tool", text, name="add") for text in "34"), A, tools=(ADD,)),
     PLAIN, f"<|im_start|>system\n{TOOL}<|im_end|>\n{ASKED}"
     '⟦Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n'
     '{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>⟧\n<|im_start|>tool\n<tool_response>\n'
     '{"name": "add", "content": 3}\n</tool_response>\n<tool_response>\n{"name": "add", "content": 4}\n'
     "</tool_response>\n<|im_end|>\n<|im_start|>assistant\n⟦A<|im_end|>⟧\n"),
    (conversation(Message("system", "<tools>x</tools>"), Q, A, tools=(ADD,), shows_tools=False), PLAIN,
     f"<|im_start|>system\n<tools>x</tools><|im_end|>\n{ASKED}⟦A<|im_end|>⟧\n"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "template", "text"), BY_HAND, ids=range(len(BY_HAND)))
def test_masks_by_hand(smol: Tokenizer, given: Conversation, template: Template, text: str) -> None:
    assert marked(smol, Renderer(smol, template).example(given)) == text


def test_the_weights_of_two_answers_side_by_side(smol: Tokenizer) -> None:
    given = conversation(Q, A, Q, A, Q, A, weights=(0, 0.25, 0, 0, 0, 2))
    example = Renderer(smol, PLAIN).example(given)
    found = re.findall(r"⟦(.*?)⟧", marked(smol, example))
    assert found == ["0.25:A<|im_end|>", "2:A<|im_end|>"]
    assert example.n_trained == 4


def test_the_order_of_keys_in_calls(smol: Tokenizer) -> None:
    given = conversation(Q, CALLS, tools=(ADD,))
    text = marked(smol, Renderer(smol, PLAIN, call_order="arguments").example(given))
    assert '{"arguments": {"a": 1}, "name": "add"}' in text


def test_a_pair_is_a_prompt_and_two_answers(smol: Tokenizer) -> None:
    chosen = conversation(Q, A, Q, CALLS, Message("tool", "3", name="add"), A, tools=(ADD,))
    rejected = conversation(Q, A, Q, Message("assistant", "B"), tools=(ADD,))
    renderer = Renderer(smol, PLAIN)
    pair = renderer.pair(Preference(chosen, rejected, 3))
    prompt = smol.decode(pair.prompt_ids.tolist())
    assert prompt.endswith(f"{ASKED}A<|im_end|>\n{ASKED}")
    assert marked(smol, pair.rejected) == "⟦B<|im_end|>⟧\n"
    chosen_text = marked(smol, pair.chosen)
    assert chosen_text.startswith("⟦Let me see.\n<tool_call>")
    assert chosen_text.endswith("</tool_response>\n<|im_end|>\n<|im_start|>assistant\n⟦A<|im_end|>⟧\n")
    for whole, answer in ((chosen, pair.chosen), (rejected, pair.rejected)):
        alone = renderer.example(whole)
        assert np.array_equal(alone.ids, np.concatenate([pair.prompt_ids, answer.ids]))
        assert np.array_equal(alone.weights[len(pair.prompt_ids) :], answer.weights)


@pytest.mark.parametrize("name", ["reason-tool-use-50.jsonl.gz", "glaive-toolcall-300.json.gz",
                                  "dpo-sharegpt-300.json.gz"])  # fmt: skip
def test_what_is_trained_stands_behind_the_assistants_header(
    shared_data: Path, smol: Tokenizer, name: str
) -> None:
    """Read off the text, without the flags of segments."""
    renderer, n_calls = Renderer(smol, PLAIN), 0
    for item in list(DataFile(shared_data / "train" / name))[:60]:
        assert isinstance(item, Sample)
        value = item.value
        for each in [value.chosen, value.rejected] if isinstance(value, Preference) else [value]:
            example = renderer.example(each)
            text = smol.decode(example.ids.tolist())
            answers = re.findall(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", text, re.DOTALL)
            assert re.findall(r"⟦(.*?)⟧", marked(smol, example), re.DOTALL) == answers
            assert len(answers) == sum(message.role == "assistant" for message in each.messages)
            n_calls += sum(answer.count("<tool_call>") for answer in answers)
    assert (n_calls > 20) == ("tool" in name)


PLAIN_FILES = ["alpaca-999.json.gz", "sft-messages-500.jsonl.gz", "gpteacher-codegen.json.gz"]


def is_alike(message: Message, tokenizer: Tokenizer) -> bool:
    """Whether transformers' template means the same by a message.

    It does not where an answer begins with space, which it joins with the line break before and generation
    cannot; nor where a text spells a special token (SmolLM2's ``<filename>``), which stays text with us.
    """
    text = message.content or ""
    is_plain = tokenizer.encode(text) == tokenizer.encode(text, allow_special=True)
    return is_plain and not (message.role == "assistant" and text[:1].isspace())


@pytest.mark.parametrize("name", PLAIN_FILES)
def test_transformers_gives_the_same_ids_and_mask(
    shared_data: Path, smol: Tokenizer, transformers_smol: Any, name: str
) -> None:
    renderer, n_alike, n_other = Renderer(smol, PLAIN), 0, 0
    for item in list(DataFile(shared_data / "train" / name))[:400]:
        assert isinstance(item, Sample)
        assert isinstance(item.value, Conversation)
        example = renderer.example(item.value)
        theirs = transformers_smol.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in item.value.messages],
            return_assistant_tokens_mask=True, return_dict=True,
        )  # fmt: skip
        is_same = example.ids.tolist() == list(theirs["input_ids"])
        if all(is_alike(message, smol) for message in item.value.messages):
            n_alike += 1
            assert is_same, (name, item.line)
            assert example.weights.tolist() == [float(bit) for bit in theirs["assistant_masks"]]
        else:
            n_other += 1
            assert smol.decode(example.ids.tolist()) == smol.decode(theirs["input_ids"])
    assert n_alike > 0.9 * (n_alike + n_other)
