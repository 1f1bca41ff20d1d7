"""docs/api.md, out of the code: ``python -m hermes3.server.reference > docs/api.md``."""

from __future__ import annotations

from collections.abc import Iterator

from hermes3.server.chat_request import ChatRequest
from hermes3.server.protocol import AnswerRequest, CompletionRequest

_HEAD = """# Fields of requests

Each field does what it says, or the request is refused with a 400 whose `param` names it; a field that stands
in no table here is refused as unknown. null is as good as leaving a field out. Fields that are not OpenAI's
go through `extra_body` of its client. Made from the code by `python -m hermes3.server.reference`.
"""
_OF_OPENAI = frozenset(
    (
        *("model", "messages", "prompt", "stream", "stream_options", "n", "seed", "stop", "temperature"),
        *("top_p", "max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty"),
        *("logit_bias", "user", "logprobs", "top_logprobs", "safety_identifier", "metadata", "tools"),
        *("tool_choice", "parallel_tool_calls", "response_format", "echo", "prompt_cache_key"),
    )
)
_CALLS_THAT_ARE_NONE = """
A call that the end of the answer cut, or that names no tool, is no call: beside `finish_reason` stands
`broken_tool_calls`, with index, name, arguments, raw text, status (`cut`, `broken`, `unknown`) and error of
each. A streamed call of which that becomes known was streamed before; its index says which it is. A call
whose name was not written yet stays in the text.

With `on_uncompilable: "retry"` (also in /v1/responses and /v1/messages) the answer may be any JSON of its
kind, a call's arguments any object, where a schema cannot be compiled. What does not satisfy the schema is
put into the conversation with what is wrong, and asked for again; after three tries the request fails with
422 (a response of /v1/responses is `failed`) and the code `answer_invalid`. Nothing is sent before it
passed: a stream brings it whole at its end. `usage` counts all tries. JSON Schema is 2020-12, formats are
notes to the model, patterns are Rust's (no look-around), references to other documents are refused.

`citations` and `forced_spans` are fields of this route alone: /v1/responses and /v1/messages refuse them as
unknown, for their own forms have other places for what they call citations, and no document ids in them.

`citations` stand in the message, or in the stream's last delta: `start` and `end` count characters of the
content as it stands, with all tags, `text` has none, `documents` are the ids.

`forced_spans` stand in the message, or beside the content of each of a stream's deltas that holds some, whose
characters they count then: pairs of the first character and the one after the last.

`timings` stand beside `usage`, in a stream with the last delta, on every path. In seconds: `queue_s` until
the first work on the prompt, `prefill_s` until the first token (with `queue_s`), `decode_s` from there,
`mask_s` of computing a grammar's masks beside the model's steps, and `mask_wait_s` that steps waited for
them. Tokens: `cached_tokens` of the prompt; of the answer `forced_tokens`, which a grammar left no choice
about, `drafted_tokens`, which were guessed, and of those `accepted_tokens`, which came. Of several answers
they are those of the one that took longest.
"""


def page() -> str:
    """The page's text."""
    return "\n".join(
        [
            _HEAD,
            *_section("POST /v1/chat/completions", ChatRequest),
            _CALLS_THAT_ARE_NONE,
            *_section("POST /v1/completions", CompletionRequest),
            "",
        ]
    )


def is_of_openai(name: str) -> bool:
    """Whether a field that is honoured is OpenAI's."""
    return name in _OF_OPENAI


def _section(title: str, request: type[AnswerRequest]) -> Iterator[str]:
    yield f"## {title}"
    yield "| field | OpenAI's | |"
    yield "|---|---|---|"
    for name, field in sorted(request.model_fields.items()):
        said = (field.description or "").replace("|", "\\|")
        yield f"| `{name}` | {'yes' if is_of_openai(name) else ''} | {said} |"
    yield "\nRefused by name:\n"
    yield "| field | taken all the same | why |"
    yield "|---|---|---|"
    for name, refused in sorted(request.refused.items()):
        taken = ", ".join(f"`{value}`" for value in refused.harmless)
        remedy = "" if refused.remedy == "Leave it out." else f". {refused.remedy}"
        yield f"| `{name}` | {taken} | {refused.why}{remedy} |"


if __name__ == "__main__":
    print(page(), end="")
