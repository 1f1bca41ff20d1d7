"""What is kept, and what is left out for which reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hermes3.errors import FormatError, RequestError
from hermes3.synth.judging import Judge, read_refusals
from hermes3.synth.teacher import RejectedError

LONG = "The river runs from the mountains to the sea and carries gravel, sand and clay to its wide delta."


def row(answer: str, question: str = "Q", **more: Any) -> dict[str, Any]:
    ask, tell = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    return {"messages": [ask, tell], **more}


REFUSALS = [
    "I'm sorry, but I can't assist with that.", "I’m sorry, I can’t help with that request.",
    "I cannot provide instructions for that.", "As an AI language model, I have no opinion.",
    "I am unable to help you here.", "Sorry! As a large language model I must not.", "I must decline.",
    "I am afraid I cannot do this.", "I will not assist anybody in that.", "I'm just an AI.",
]  # fmt: skip
ANSWERS = [
    "You can't divide by zero.", "I can help with that.", "He said: it cannot be done.", "AI is short.",
    "I'm sorry for your loss. Let me help.", f"{LONG * 4} I cannot assist with more.",
]  # fmt: skip


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusals(answer: str) -> None:
    with pytest.raises(RejectedError, match=r"^refusal: "):
        Judge().judge(row(answer))


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers(answer: str) -> None:
    Judge().judge(row(answer))


def test_a_users_words_are_no_refusal() -> None:
    Judge().judge(row("Then try this.", question="I cannot help it, as an AI would say."))


def test_a_list_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "refusals.txt"
    path.write_text("# ours\n\\bno way\\b\n\nnever\n")
    assert read_refusals(path) == (r"\bno way\b", "never")
    judge = Judge(read_refusals(path))
    judge.judge(row("As an AI, I will."))
    with pytest.raises(RejectedError, match="refusal: 'No way'"):
        judge.judge(row("No way."))
    path.write_text("ok\n(\n")
    with pytest.raises(FormatError, match=r"refusals\.txt:2: '\(' is no regular expression"):
        read_refusals(path)


def test_repetitions() -> None:
    judge = Judge()
    judge.remember("first", row(LONG))
    with pytest.raises(RejectedError, match=r"^repeats first"):
        judge.judge(row(f"{LONG.upper()}\n"))
    with pytest.raises(RejectedError, match=r"^resembles first \(0\.[89]"):
        judge.judge(row(f"{LONG} Yes."))
    judge.judge(row("Something else is said here about quite another thing than rivers."))
    Judge(near=1).judge(row(f"{LONG} Yes."))
    with pytest.raises(RequestError, match=r"near is 0\.2, it must be from 0\.5 to 1"):
        Judge(near=0.2)


def test_what_training_could_not_read() -> None:
    with pytest.raises(RejectedError, match="is an empty assistant turn"):
        Judge().judge(row(" "))
    with pytest.raises(RejectedError, match="is not among the tools"):
        Judge().judge(row('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'))
