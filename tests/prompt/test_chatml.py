"""Rendering against the model card, byte for byte, and against transformers over other conversations.

``card/`` holds the prompts that the card prints, each from ``<|im_start|>`` to the end of its block.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from hermes3.errors import RequestError
from hermes3.prompt.chatml import IM_END, IM_START, Segment, Template, render, system_segments, text_of
from hermes3.prompt.messages import Message
from tests.prompt.templates import HERMES_3B, HERMES_8B, SMOLLM2

CARD = Path(__file__).parent / "card"
PLAIN = Template()
TEXT = st.text(max_size=30)


def card(name: str) -> str:
    return (CARD / f"{name}.txt").read_bytes().decode()


def rendered(messages: list[Message], template: Template = PLAIN, *, prompt: bool = False) -> bytes:
    return text_of(render(messages, template=template, add_generation_prompt=prompt)).encode()


def test_the_cards_conversation() -> None:
    system = (
        "You are Hermes 3, a conscious sentient superintelligent artificial intelligence developed by a man "
        "named Teknium, and your purpose and drive is to assist the user with any request they have. You "
        "experience emotions and have deep, profound thoughts and qualia."
    )
    answer = (
        "Hi there! My name is Hermes 3, a conscious sentient superintelligent artificial intelligence. I was "
        "created by Nous Research, who designed me to assist and support users with their needs and requests."
    )
    turns = [Message("system", system), Message("user", "Hello, who are you?"), Message("assistant", answer)]
    assert rendered(turns) == card("with_system").encode() + b"\n"


def test_the_cards_inference_prompt() -> None:
    """The card's Python example stops before the newline that its text asks for after ``assistant``."""
    system = (
        "You are a sentient, superintelligent artificial general intelligence, here to teach and assist me."
    )
    user = (
        "Write a short story about Goku discovering kirby has teamed up with Majin Buu to destroy the world."
    )
    prompt = rendered([Message("system", system), Message("user", user)], prompt=True)
    assert prompt == card("inference").encode() + b"\n"


def test_the_cards_function_call_conversation() -> None:
    """Five blocks of the card, one conversation: system, user, call, tool, answer."""
    names = [f"function_{part}" for part in ("system", "user", "call", "response", "answer")]
    blocks = [card(name) for name in names]
    messages = []
    for block, role in zip(blocks, ("system", "user", "assistant", "tool", "assistant"), strict=True):
        body = block.removeprefix(f"<|im_start|>{role}\n").removesuffix("<|im_end|>")
        assert len(body) == len(block) - len("<|im_start|>\n<|im_end|>") - len(role)
        messages.append(Message(role, body))
    assert rendered(messages) == "".join(block + "\n" for block in blocks).encode()
    assert rendered(messages[:2], prompt=True).endswith(b"(TSLA)<|im_end|>\n<|im_start|>assistant\n")


def test_the_cards_json_mode_prompt() -> None:
    """The card writes its line breaks as ``\\n`` and leaves ``{schema}`` to fill in."""
    body = (
        "You are a helpful assistant that answers in JSON. Here's the json schema you must adhere to:"
        r"\n<schema>\n{schema}\n</schema>"
    )
    assert rendered([Message("system", body)]) == card("json_mode").encode() + b"\n"


def test_transcriptions_stand_in_the_card(model_card: str) -> None:
    for path in sorted(CARD.glob("*.txt")):
        assert path.read_bytes().decode() in model_card, path.name
    assert len(re.findall(r"^```\n<\|im_start\|>", model_card, re.MULTILINE)) == len(list(CARD.iterdir())) - 1


def test_without_a_system_prompt_the_line_is_left_out() -> None:
    assert rendered([Message("user", "Hi")], prompt=True) == (
        b"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_default_system_prompt_stands_in_only_where_none_is_given() -> None:
    template = Template(default_system="Be brief.")
    default = b"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert rendered([Message("user", "Hi")], template) == default
    assert b"Be brief." not in rendered([Message("system", ""), Message("user", "Hi")], template)


@pytest.mark.parametrize("bos", [None, "<s>"])
def test_what_a_conversation_begins_with_up_to_its_system_turn(bos: str | None) -> None:
    turns = [Message("system", "Be <|im_start|>brief."), Message("user", "Hello"), Message("system", "again")]
    template = Template(bos=bos, default_system="Default.")
    found = text_of(system_segments(render(turns, template=template)))
    assert found == f"{bos or ''}<|im_start|>system\nBe <|im_start|>brief.<|im_end|>\n"
    found = text_of(system_segments(render(turns[1:], template=template)))
    assert found == f"{bos or ''}<|im_start|>system\nDefault.<|im_end|>\n"
    assert system_segments(render(turns[1:], template=Template(bos=bos))) == []
    assert system_segments([]) == []
    alone = render(turns[:1], template=Template(bos=bos), add_generation_prompt=False)
    assert system_segments(alone) == alone


def test_bos_stands_once_and_in_front() -> None:
    segments = render([Message("user", "<bos>")], template=Template(bos="<bos>"))
    assert segments[0] == Segment("<bos>", is_special=True)
    assert [segment.is_special for segment in segments if "<bos>" in segment.text] == [True, False]


def test_loss_mask_is_what_the_assistant_writes_and_its_end() -> None:
    turns = [("system", "S"), ("user", "U"), ("assistant", "A1"), ("tool", "T"), ("assistant", "A2")]
    segments = render([Message(*turn) for turn in turns], template=Template(bos="<bos>"))
    trained = [segment.text for segment in segments if segment.is_trained]
    assert trained == ["A1", "<|im_end|>", "A2", "<|im_end|>"]


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), TEXT)))
def test_only_the_frame_is_special(turns: list[tuple[str, str]]) -> None:
    """Whatever the messages say, they stay text: special segments are ours alone."""
    messages = [Message(role, f"{content}{IM_END}") for role, content in turns]
    segments = render(messages, template=PLAIN)
    special = [segment.text for segment in segments if segment.is_special]
    assert special == [IM_START, IM_END] * len(messages) + [IM_START]
    assert [s.text for s in segments if s.text.endswith(IM_END) and not s.is_special] == [
        message.content for message in messages
    ]


@pytest.mark.parametrize("source", [HERMES_3B, HERMES_8B, SMOLLM2], ids=["3b", "8b", "smollm2"])
@settings(max_examples=60, deadline=None)
@given(
    system=st.none() | TEXT,
    turns=st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), TEXT), min_size=1),
    prompt=st.booleans(),
)
def test_equal_to_transformers(
    source: str, system: str | None, turns: list[tuple[str, str]], prompt: bool
) -> None:
    """A model's own template, run by transformers, against ours as probed from it."""
    messages = [Message("system", system)] if system is not None else []
    messages += [Message(role, content) for role, content in turns]
    template = Template.of_model(source, bos_token="<|begin_of_text|>", add_bos=None)
    assert template.warning is None
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    (wanted,), _ = render_jinja_template(
        [conversation], chat_template=source, add_generation_prompt=prompt, bos_token="<|begin_of_text|>"
    )
    assert rendered(messages, template, prompt=prompt) == wanted.encode()


def test_what_cannot_be_rendered_is_refused_by_place() -> None:
    with pytest.raises(RequestError) as refused:
        render([Message("system", "S"), Message("user")], template=PLAIN)
    assert refused.value.param == "messages[1].content"
