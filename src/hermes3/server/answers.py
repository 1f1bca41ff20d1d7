"""Response bodies in OpenAI's shapes, from the hall's replies and deltas."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from hermes3.llm import Delta, Reply, Timings, TokenLogprob, ToolCallDelta, Usage
from hermes3.prompt.citations import Citation
from hermes3.prompt.pieces import ParsedCall

Body = dict[str, object]
_IN_USAGE = {"prompt_tokens", "completion_tokens"}


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all bodies of one response share: id, time in Unix seconds, name of the model."""

    id: str
    created: int
    model: str

    def around(self, kind: str, choices: Sequence[Body]) -> Body:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
        }


def usage_body(usages: Iterable[Usage], *, n_per_prompt: int) -> Body:
    """The sum over all answers; a prompt that ``n_per_prompt`` answers share counts once."""
    answers = list(usages)
    prompt = sum(usage.prompt_tokens for usage in answers[::n_per_prompt])
    completion = sum(usage.completion_tokens for usage in answers)
    cached = sum(usage.cached_tokens for usage in answers[::n_per_prompt])
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def timings_body(answers: Iterable[tuple[Timings, Usage]]) -> Body:
    """Seconds and speeds of the answer that took longest, and what its prompt found in the cache."""
    timings, usage = max(answers, key=lambda each: each[0].prefill_s + each[0].decode_s)
    spent = {name: count for name, count in asdict(usage).items() if name not in _IN_USAGE}
    return {**asdict(timings), **spent}


def chat_choice(index: int, reply: Reply) -> Body:
    """One choice of a chat.completion. Calls that cannot be made stand beside the message, not in it."""
    message: Body = {"role": "assistant", "content": reply.text or None if reply.tool_calls else reply.text}
    message["refusal"] = None
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [call.to_dict() for call in reply.tool_calls]
    if reply.citations is not None:
        message["citations"] = _citations(reply.citations)
    if reply.forced_spans is not None:
        message["forced_spans"] = reply.forced_spans
    return {
        "index": index,
        "message": message,
        "logprobs": None if reply.logprobs is None else chat_logprobs(reply.logprobs),
        "finish_reason": reply.finish_reason,
        **_broken(reply.broken_calls),
    }


def chat_opening(index: int, *, may_call: bool) -> Body:
    """The first choice of a chat.completion.chunk, which names the role."""
    delta = {"role": "assistant", "content": None if may_call else ""}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def chat_chunk_choices(index: int, delta: Delta) -> list[Body]:
    """The choices of the chunks that say what a delta says: text in one, each step of a call in one.

    A call that broke was streamed already; the chunk in which that is known names it by its index.
    """
    text: Body = {"content": delta.text} if delta.text else {}
    if delta.forced_spans:
        text["forced_spans"] = delta.forced_spans
    if delta.reasoning:
        text["reasoning_content"] = delta.reasoning
    steps: list[Body] = [text] if text else []
    for call in delta.tool_calls:
        steps += [{"tool_calls": [step]} for step in _call_steps(call)]
    if delta.citations is not None:
        steps.append({"citations": _citations(delta.citations)})
    logprobs = chat_logprobs(delta.logprobs) if delta.logprobs else None
    end = _broken(delta.broken_calls)
    if not steps and (logprobs or end or delta.finish_reason):
        steps = [{}]
    choices: list[Body] = [
        {"index": index, "delta": step, "logprobs": None, "finish_reason": None} for step in steps
    ]
    if choices:
        choices[0]["logprobs"] = logprobs
        choices[-1].update(end, finish_reason=delta.finish_reason)
    return choices


def _call_steps(call: ToolCallDelta) -> Iterator[Body]:
    if call.name is not None:
        function = {"name": call.name, "arguments": ""}
        yield {"index": call.index, "id": call.id, "type": "function", "function": function}
    if call.arguments:
        yield {"index": call.index, "function": {"arguments": call.arguments}}


def _citations(citations: Sequence[Citation]) -> list[Body]:
    """``start`` and ``end`` count the characters of the content as it stands, tags and all."""
    return [
        {"start": each.span[0], "end": each.span[1], "text": each.text, "documents": list(each.documents)}
        for each in citations
    ]


def _broken(calls: Sequence[ParsedCall]) -> Body:
    return {"broken_tool_calls": [asdict(call) for call in calls]} if calls else {}


def chat_logprobs(entries: Sequence[TokenLogprob]) -> Body:
    def body(entry: TokenLogprob) -> Body:
        return {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.bytes)}

    content = [{**body(entry), "top_logprobs": [body(other) for other in entry.top]} for entry in entries]
    return {"content": content, "refusal": None}


def completion_choice(index: int, reply: Reply, *, echoed: str) -> Body:
    return {
        "index": index,
        "text": echoed + reply.text,
        "logprobs": None if reply.logprobs is None else CompletionLogprobs().body(reply.logprobs),
        "finish_reason": reply.finish_reason,
    }


def completion_chunk_choice(index: int, delta: Delta, logprobs: Body | None = None) -> Body:
    return {"index": index, "text": delta.text, "logprobs": logprobs, "finish_reason": delta.finish_reason}


class CompletionLogprobs:
    """The older shape of logprobs: parallel lists, with each token's offset in the answer's characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def body(self, entries: Sequence[TokenLogprob]) -> Body:
        """The lists for the next tokens of the answer."""
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(entry.bytes))
        return {
            "tokens": [_token_name(entry) for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [{_token_name(other): other.logprob for other in entry.top} for entry in entries],
            "text_offset": offsets,
        }


def _token_name(entry: TokenLogprob) -> str:
    """The token's text, or OpenAI's ``bytes:\\xNN`` where it is no text by itself: names must not collide."""
    try:
        return entry.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.bytes)
