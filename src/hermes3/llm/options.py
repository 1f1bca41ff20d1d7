"""What a caller may ask of an answer: sampling parameters by name, stop strings, tools and forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, cast

from hermes3.engine.sampling import SamplingParams
from hermes3.errors import RequestError
from hermes3.prompt.tools import CallOrder

MAX_STOPS = 64
MAX_STOP_CHARS = 1024


OnUncompilable = Literal["refuse", "retry"]


class Sampling(TypedDict, total=False):
    """Keyword arguments of an answer: the fields of ``SamplingParams``, and ``stop``.

    ``stop`` is a string, or several, that end the answer and do not appear in it. It is found across the
    borders of tokens, and text that could become one is held back until that is settled.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    max_tokens: int | None
    stop_ids: frozenset[int]
    ignore_eos: bool
    logprobs: int | None
    stop: str | Sequence[str] | None


class Answering(TypedDict, total=False):
    """Keyword arguments of a chat's answer: what it may look like.

    ``tools``: what the model may call: Python functions, pydantic models, OpenAI's objects, MCP's, ``Tool``.
    ``tool_choice``: "auto", the model decides (the default); "required", it must call; "none", it must not;
    ``{"type": "function", "function": {"name": ...}}``, it must call this one; or OpenAI's ``allowed_tools``.
    ``parallel_tool_calls``: several calls in one answer are allowed; True by default.
    ``response_format``: ``{"type": "json_object"}``, ``{"type": "json_schema", "json_schema": {"name": ...,
    "schema": ...}}`` or ``{"type": "text"}`` as OpenAI has them, or a pydantic model or dataclass, of which
    an instance comes back as ``Reply.parsed``.
    ``grammar``: the text follows ``{"regex": ...}``, ``{"choice": [...]}``, ``{"lark": ...}`` or, in
    llama.cpp's language, ``{"gbnf": ...}``.
    ``call_order``: the key of a call that comes first: "name" (the default), or "arguments" as on the card.
    ``reasoning``: thoughts in tags are allowed in front, and told apart from the text.
    ``citations``: what stands in ``<co: doc_id>...</co>`` is told as ``Reply.citations``; the text stays.
    ``forced_spans``: which characters of the text a grammar left no choice about is told as
    ``Reply.forced_spans``; not beside tools and reasoning.
    ``on_uncompilable``: what becomes of a schema that no grammar can be made of: "refuse" the request (the
    default), or "retry": the answer may be any JSON of its kind, is held against the schema once it is whole,
    and asked for again, up to three times in all, with the model told what is wrong. Nothing is given out
    before it passed, so a stream brings all of it at its end.
    """

    tools: Iterable[object]
    tool_choice: object
    parallel_tool_calls: bool
    response_format: object
    grammar: object
    call_order: CallOrder
    reasoning: bool
    citations: bool
    forced_spans: bool
    on_uncompilable: OnUncompilable


class ChatOptions(Sampling, Answering, total=False):
    """Keyword arguments of a chat's answer."""


def parted(options: ChatOptions) -> tuple[Answering, Sampling]:
    """What is asked of the answer's form, and what of its sampling."""
    given: dict[str, Any] = dict(options)
    form = {name: given.pop(name) for name in Answering.__annotations__ if name in given}
    return cast(Answering, form), cast(Sampling, given)


def split(params: SamplingParams | None, sampling: Sampling) -> tuple[SamplingParams, tuple[str, ...]]:
    """The engine's parameters, with single ones replaced by name, and the stop strings.

    Raises:
        RequestError: a value outside its limits; ``param`` names it.
    """
    named = dict(sampling)
    stops = _stops(named.pop("stop", None))
    return replace(params or SamplingParams(), **named), stops  # type: ignore[arg-type]


def _stops(stop: object) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, Sequence) else (stop,)
    if len(stops) > MAX_STOPS:
        raise RequestError(
            f"stop holds {len(stops)} strings, at most {MAX_STOPS} are watched for", param="stop"
        )
    for each in stops:
        if not isinstance(each, str) or not 0 < len(each) <= MAX_STOP_CHARS:
            raise RequestError(
                f"stop is {each!r:.60}, it must be a string of 1 to {MAX_STOP_CHARS} characters, or several",
                param="stop",
            )
    return stops
