"""hermes3: chat with a Hermes-format model on a CPU.

    from hermes3 import LLM
    with LLM("smol") as llm:
        print(llm.chat([{"role": "user", "content": "What is the capital of France?"}]).text)

The names below are loaded when first used, so that ``import hermes3`` costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for True; importing typing would cost most of the import
if TYPE_CHECKING:
    from hermes3.agent import Agent, writes
    from hermes3.engine.sampling import SamplingParams
    from hermes3.errors import Hermes3Error
    from hermes3.llm import LLM, Delta, Reply
    from hermes3.prompt.messages import Message, Tool, ToolCall

    __version__: str

__all__ = [
    "LLM",
    "Agent",
    "Delta",
    "Hermes3Error",
    "Message",
    "Reply",
    "SamplingParams",
    "Tool",
    "ToolCall",
    "writes",
]

_HOME = {
    "LLM": "hermes3.llm",
    "Agent": "hermes3.agent",
    "Delta": "hermes3.llm",
    "Hermes3Error": "hermes3.errors",
    "Message": "hermes3.prompt.messages",
    "Reply": "hermes3.llm",
    "SamplingParams": "hermes3.engine.sampling",
    "Tool": "hermes3.prompt.messages",
    "ToolCall": "hermes3.prompt.messages",
    "writes": "hermes3.agent",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("hermes3")
    if name not in _HOME:
        raise AttributeError(f"module 'hermes3' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
