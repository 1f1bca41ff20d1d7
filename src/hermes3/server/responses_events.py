"""A response of /v1/responses as it grows: its items, and the events that tell of them.

Form: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict

from hermes3.llm import Delta, ToolCallDelta, Usage
from hermes3.prompt.pieces import ParsedCall
from hermes3.server.answers import Body, chat_logprobs, timings_body

ANSWER_INVALID = "answer_invalid"  # the one code of a response's error that OpenAI does not have


class Growing:
    """One response.

    Args:
        body: its fields, without those that come with the answer.

    Attributes:
        body: the response so far.
    """

    def __init__(self, body: Body) -> None:
        self.body: Body = {**body, "status": "in_progress", "output": [], "usage": None, "error": None}
        self.body["incomplete_details"] = None
        self._items: list[Body] = []
        self._open: object = None  # "reasoning", "message", or a call's index
        self._broken: set[int] = set()
        self._cut: list[ParsedCall] = []

    def opening(self) -> Iterator[Body]:
        yield {"type": "response.created", "response": dict(self.body)}
        yield {"type": "response.in_progress", "response": dict(self.body)}

    def take(self, delta: Delta) -> Iterator[Body]:
        """Events of one delta; the last delta ends the response."""
        if delta.reasoning:
            yield from self._enter("reasoning", {"type": "reasoning", "summary": [], "content": []}, "rs")
            yield self._grown("reasoning_text", delta.reasoning)
        if delta.text or delta.logprobs:
            yield from self._enter("message", {"type": "message", "role": "assistant", "content": []}, "msg")
            yield self._grown("output_text", delta.text, logprobs=_logprobs(delta))
        for call in delta.tool_calls:
            yield from self._call(call)
        for broken in delta.broken_calls:
            self._cut.append(broken)
            if broken.index is not None:
                self._broken.add(broken.index)
        if delta.finish_reason is not None:
            yield from self._end(delta)

    def failed(self, message: str, code: str | None) -> Iterator[Body]:
        """Events of an error that ends the response."""
        code = code if code == ANSWER_INVALID else "server_error"
        self.body |= {"status": "failed", "error": {"code": code, "message": message}}
        yield {"type": "response.failed", "response": dict(self.body)}

    def _end(self, last: Delta) -> Iterator[Body]:
        is_cut = last.finish_reason == "length"
        yield from self._close("incomplete" if is_cut else "completed")
        status = {"length": "incomplete", "cancelled": "cancelled"}.get(last.finish_reason or "", "completed")
        self.body["status"] = status
        self.body["output"] = [item for item in self._items if item.pop("index", None) not in self._broken]
        if is_cut:
            self.body["incomplete_details"] = {"reason": "max_output_tokens"}
        if last.usage is not None and last.timings is not None:
            self.body["usage"] = _usage(last.usage)
            self.body["timings"] = timings_body([(last.timings, last.usage)])
        if self._cut:
            self.body["broken_tool_calls"] = [asdict(call) for call in self._cut]
        kind = "completed" if status == "cancelled" else status
        yield {"type": f"response.{kind}", "response": dict(self.body)}

    def _call(self, call: ToolCallDelta) -> Iterator[Body]:
        if call.name is not None:
            item: Body = {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": ""}
            yield from self._enter(call.index, item, "fc")
        if call.arguments:
            item = self._items[-1]
            item["arguments"] = f"{item['arguments']}{call.arguments}"
            yield self._about("function_call_arguments.delta", delta=call.arguments)

    def _enter(self, what: object, item: Body, prefix: str) -> Iterator[Body]:
        if self._open == what:
            return
        yield from self._close("completed")
        self._open = what
        item = {"id": f"{prefix}_{uuid.uuid4().hex}", **item, "status": "in_progress"}
        self._items.append(item if isinstance(what, str) else {**item, "index": what})
        yield self._item("added")
        if what == "message":
            part: Body = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item["content"] = [part]
            yield self._about("content_part.added", content_index=0, part=dict(part))
        elif what == "reasoning":
            item["content"] = [{"type": "reasoning_text", "text": ""}]

    def _grown(self, kind: str, text: str, **more: object) -> Body:
        part = self._part()
        part["text"] = f"{part['text']}{text}"
        if more.get("logprobs"):
            part["logprobs"] = [*part["logprobs"], *more["logprobs"]]  # type: ignore[misc]
        return self._about(f"{kind}.delta", content_index=0, delta=text, **more)

    def _close(self, status: str) -> Iterator[Body]:
        if self._open is None:
            return
        item = self._items[-1]
        is_broken = self._open in self._broken
        item["status"] = "incomplete" if is_broken else status
        if self._open == "message":
            part = self._part()
            done = {"content_index": 0, "text": part["text"], "logprobs": part["logprobs"]}
            yield self._about("output_text.done", **done)
            yield self._about("content_part.done", content_index=0, part=dict(part))
        elif self._open == "reasoning":
            yield self._about("reasoning_text.done", content_index=0, text=self._part()["text"])
        elif not is_broken:
            done = {"name": item["name"], "arguments": item["arguments"]}
            yield self._about("function_call_arguments.done", **done)
        yield self._item("done")
        self._open = None

    def _part(self) -> Body:
        content = self._items[-1]["content"]
        assert isinstance(content, list)
        part: Body = content[0]
        return part

    def _item(self, what: str) -> Body:
        item = {name: value for name, value in self._items[-1].items() if name != "index"}
        return {"type": f"response.output_item.{what}", "output_index": len(self._items) - 1, "item": item}

    def _about(self, kind: str, **fields: object) -> Body:
        where = {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}
        return {"type": f"response.{kind}", **where, **fields}


def _logprobs(delta: Delta) -> list[object]:
    content = chat_logprobs(delta.logprobs)["content"]
    assert isinstance(content, list)
    return content


def _usage(usage: Usage) -> Body:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": 0,  # of a cache that is paid for
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
