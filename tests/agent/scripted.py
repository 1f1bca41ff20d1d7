"""A model whose answers are written down, over the real hall; it keeps what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from hermes3.llm import LLM
from tests.llm.fakes import fake_llm


def calling(name: str, /, **arguments: object) -> str:
    """A call as the model writes it."""
    pair = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{pair}\n</tool_call>"


def scripted(*answers: str, **engine: object) -> tuple[LLM, list[str]]:
    """A model that gives these answers in turn, the last one for ever; and the prompts that it was asked."""
    prompts: list[str] = []

    def script(ids: list[int], params: object) -> list[int]:
        prompts.append(bytes(token for token in ids if token < 256).decode())
        return list(answers[min(len(prompts), len(answers)) - 1].encode())

    llm, _ = fake_llm(script, **{"n_ctx": 20_000, **engine})
    return llm, prompts


@contextmanager
def model(*answers: str, **engine: object) -> Iterator[tuple[LLM, list[str]]]:
    """The same, closed at the end."""
    llm, prompts = scripted(*answers, **engine)
    with llm:
        yield llm, prompts


def results_in(prompt: str) -> list[dict[str, object]]:
    """The results that a prompt's last tool turn holds."""
    turn = prompt.rpartition("tool\n<tool_response>\n")[2]
    return [json.loads(line) for line in turn.splitlines() if line.startswith('{"name"')]
