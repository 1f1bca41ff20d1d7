"""What a request to /v1/responses may say: OpenAI's fields, each honoured or refused by name.

Form: https://platform.openai.com/docs/api-reference/responses/create. It becomes a ``ChatRequest``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from hermes3.server.chat_request import IN_MEMORY, NO_CACHE, ChatRequest, Object
from hermes3.server.protocol import MAX_MESSAGES, Int64, Refused, Strict, refusal, refuse_fields

MAX_INSTRUCTIONS = 1 << 20  # characters


class TextPart(Strict):
    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Object] | None = None
    logprobs: list[Object] | None = None


class ReasoningPart(Strict):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class _Item(Strict):
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(_Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[TextPart]
    phase: str | None = None


class CallItem(_Item):
    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    arguments: str


class OutputItem(_Item):
    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1)]
    output: str | list[TextPart]


class ReasoningItem(_Item):
    type: Literal["reasoning"]
    summary: list[ReasoningPart] | None = None
    content: list[ReasoningPart] | None = None
    encrypted_content: None = None


def _typed(raw: Any) -> Any:
    """Without a type an item is a message."""
    return {"type": "message", **raw} if isinstance(raw, dict) else raw


Item = MessageItem | CallItem | OutputItem | ReasoningItem
_AnyItem = Annotated[Item, Field(discriminator="type"), BeforeValidator(_typed)]
_ITEM: TypeAdapter[Item] = TypeAdapter(_AnyItem)


class FunctionTool(Strict):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: Object | None = None
    strict: bool | None = None


class Format(Strict):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    json_schema: Object | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class Text(Strict):
    format: Format | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Strict):
    effort: Literal["none"] | None = None
    summary: Literal["auto"] | None = None  # of no thoughts, which is none; some clients always say it
    generate_summary: None = None
    context: None = None


class StreamOptions(Strict):
    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(Strict):
    """POST /v1/responses."""

    refused: ClassVar[dict[str, Refused]] = {
        "service_tier": Refused("this server has one tier", ("auto", "default")),
        "conversation": Refused("conversations are not kept", remedy="Send 'previous_response_id' instead."),
        "prompt": Refused("prompt templates are not kept here", remedy="Send 'instructions' and 'input'."),
        "prompt_cache_retention": Refused(NO_CACHE, IN_MEMORY),
        "max_tool_calls": Refused("the server runs no tools of its own"),
        "context_management": Refused("the server leaves conversations as they are"),
        "truncation": Refused("nothing is cut off in silence", ("disabled",)),
        "moderation": Refused("the server does not moderate"),
    }

    model: str
    input: str | Annotated[list[_AnyItem], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS)] | None = None
    previous_response_id: str | None = None
    background: bool | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    max_output_tokens: Int64 | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    metadata: dict[str, str] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    seed: Int64 | None = None
    top_k: Int64 | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    on_uncompilable: Literal["refuse", "retry"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        return refuse_fields(data, cls.refused)

    @model_validator(mode="after")
    def _agree(self) -> ResponsesRequest:
        if self.background and self.store is False:
            raise refusal("store", "'store' is false: a response in the background could not be fetched.")
        if self.stream_options is not None and not self.stream:
            raise refusal("stream_options", "'stream_options' is only allowed when 'stream' is true.")
        return self

    def items(self) -> list[Item]:
        """The input as items."""
        return [MessageItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input

    def chat(self, items: Iterable[Item]) -> ChatRequest:
        """The same as a request for a chat's answer, with all items of the conversation."""
        has_logprobs = "message.output_text.logprobs" in (self.include or ()) or self.top_logprobs is not None
        given: dict[str, Any] = {
            "model": self.model,
            "messages": [*_system(self.instructions), *messages_of(items)],
            "tools": [_tool(tool) for tool in self.tools or ()] or None,
            "tool_choice": _choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": _format(self.text),
            "max_completion_tokens": self.max_output_tokens,
            "logprobs": has_logprobs or None,
            "top_logprobs": self.top_logprobs,
        }
        same = ("temperature", "top_p", "metadata", "user", "safety_identifier", "prompt_cache_key", "seed",
                "top_k", "min_p", "repetition_penalty", "on_uncompilable")  # fmt: skip
        given |= {name: getattr(self, name) for name in same}
        return ChatRequest.model_validate({name: each for name, each in given.items() if each is not None})


def item_of(raw: Object) -> Item:
    """One item.

    Raises:
        pydantic.ValidationError: it is none.
    """
    return _ITEM.validate_python(raw)


def messages_of(items: Iterable[Item]) -> Iterator[Object]:
    """A conversation's items as messages: what an assistant thought, said and called is one of them."""
    turn: Object = {}
    for item in items:
        if isinstance(item, OutputItem) or (isinstance(item, MessageItem) and item.role != "assistant"):
            yield from _ended(turn)
            turn = {}
            yield _message(item)
        elif isinstance(item, MessageItem):
            turn["content"] = "\n".join(filter(None, [turn.get("content"), _text(item.content)]))
        elif isinstance(item, CallItem):
            function = {"name": item.name, "arguments": item.arguments}
            turn.setdefault("tool_calls", []).append(
                {"id": item.call_id, "type": "function", "function": function}
            )
        elif thought := "\n".join(part.text for part in item.content or item.summary or ()):
            turn["reasoning_content"] = thought
    yield from _ended(turn)


def _ended(turn: Object) -> Iterator[Object]:
    if turn:
        yield {"role": "assistant", "content": None, **turn}


def _message(item: MessageItem | OutputItem) -> Object:
    if isinstance(item, OutputItem):
        return {"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)}
    return {"role": item.role, "content": _text(item.content)}


def _text(content: str | Sequence[TextPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _system(instructions: str | None) -> Iterator[Object]:
    if instructions:
        yield {"role": "system", "content": instructions}


def _tool(tool: FunctionTool) -> Object:
    given = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": {name: each for name, each in given.items() if each is not None}}


def _choice(raw: str | Object | None) -> str | Object | None:
    """As a chat's: there the name stands in an object of its own."""
    if not isinstance(raw, dict):
        return raw
    if raw.get("type") == "function":
        return {"type": "function", "function": {name: each for name, each in raw.items() if name != "type"}}
    if raw.get("type") == "allowed_tools" and isinstance(raw.get("tools"), list):
        inner = {name: each for name, each in raw.items() if name != "type"}
        inner["tools"] = [_choice(each) for each in raw["tools"]]
        return {"type": "allowed_tools", "allowed_tools": inner}
    return raw


def _format(text: Text | None) -> Object | None:
    given = None if text is None else text.format
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return {"type": "json_object"}
    fields = {"name": given.name, "schema": given.json_schema, "description": given.description,
              "strict": given.strict}  # fmt: skip
    return {"type": "json_schema", "json_schema": {k: v for k, v in fields.items() if v is not None}}
