"""What a request to /v1/messages may say: Anthropic's fields, each honoured or refused by name.

Form: https://docs.anthropic.com/en/api/messages. It becomes a ``ChatRequest``; the answer is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hermes3.server.chat_request import ChatRequest, Object
from hermes3.server.protocol import (
    MAX_MESSAGES,
    MAX_STOPS,
    Int64,
    Refused,
    Stop,
    Strict,
    refusal,
    refuse_fields,
)

CacheControl = dict[str, Any] | None  # what prompts begin with is cached anyway


class TextBlock(Strict):
    type: Literal["text"]
    text: str
    cache_control: CacheControl = None
    citations: None = None


class ToolUseBlock(Strict):
    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    input: Object
    cache_control: CacheControl = None


class ThinkingBlock(Strict):
    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class ToolResultBlock(Strict):
    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1)]
    content: str | list[TextBlock] = ""
    is_error: bool = False
    cache_control: CacheControl = None


UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[TextBlock | ToolUseBlock | ThinkingBlock, Field(discriminator="type")]


class UserMessage(Strict):
    role: Literal["user"]
    content: str | Annotated[list[UserBlock], Field(min_length=1)]


class AssistantMessage(Strict):
    role: Literal["assistant"]
    content: str | Annotated[list[AssistantBlock], Field(min_length=1)]


class CustomTool(Strict):
    name: str
    input_schema: Object
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl = None


class ToolChoice(Strict):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False

    @model_validator(mode="after")
    def _named(self) -> ToolChoice:
        if (self.type == "tool") != (self.name is not None):
            raise refusal("tool_choice", "'tool_choice.name' goes with the type 'tool', and only with it.")
        return self

    def openai(self) -> str | Object:
        """OpenAI's words for it."""
        if self.type == "tool":
            return {"type": "function", "function": {"name": self.name}}
        return "required" if self.type == "any" else self.type


class Metadata(Strict):
    user_id: Annotated[str, Field(max_length=512)] | None = None


class Thinking(Strict):
    type: Literal["disabled"]


class OutputFormat(Strict):
    type: Literal["json_schema"]
    json_schema: Object = Field(alias="schema")


class OutputConfig(Strict):
    format: OutputFormat | None = None


class CountRequest(Strict):
    """POST /v1/messages/count_tokens."""

    refused: ClassVar[dict[str, Refused]] = {
        "mcp_servers": Refused("the server calls no other servers"),
        "container": Refused("the server runs no code"),
        "context_management": Refused("the server leaves conversations as they are"),
        "inference_geo": Refused("the server is where it is"),
        "speed": Refused("the server has one speed"),
    }

    model: str
    messages: Annotated[
        list[Annotated[UserMessage | AssistantMessage, Field(discriminator="role")]],
        Field(min_length=1, max_length=MAX_MESSAGES),
    ]
    system: str | list[TextBlock] | None = None
    tools: list[CustomTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    cache_control: CacheControl = None
    output_config: OutputConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        return refuse_fields(data, cls.refused)

    @model_validator(mode="after")
    def _no_prefill(self) -> CountRequest:
        if self.messages[-1].role == "assistant":
            raise refusal("messages", "'messages' must end with a user's: begun answers are not continued.")
        return self

    def fields(self) -> dict[str, Any]:
        """The fields of a ``ChatRequest`` that say the same; those that say nothing are left out."""
        choice = self.tool_choice
        given = {
            "model": self.model,
            "messages": [*_system(self.system), *(one for each in self.messages for one in _turns(each))],
            "tools": [_tool(tool) for tool in self.tools or ()] or None,
            "tool_choice": None if choice is None else choice.openai(),
            "parallel_tool_calls": False if choice is not None and choice.disable_parallel_tool_use else None,
            "response_format": _format(self.output_config),
        }
        return {name: value for name, value in given.items() if value is not None}

    def chat(self) -> ChatRequest:
        """The same as a request for a chat's answer."""
        return ChatRequest.model_validate(self.fields())


class MessagesRequest(CountRequest):
    """POST /v1/messages."""

    max_tokens: Int64
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int64 | None = None
    stop_sequences: Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    reasoning: bool | None = None
    on_uncompilable: Literal["refuse", "retry"] | None = None

    def fields(self) -> dict[str, Any]:
        given = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "stop": self.stop_sequences or None,
            "user": None if self.metadata is None else self.metadata.user_id,
            "reasoning": self.reasoning,
            "on_uncompilable": self.on_uncompilable,
        }
        return super().fields() | {name: value for name, value in given.items() if value is not None}


def _system(system: str | Sequence[TextBlock] | None) -> Iterator[Object]:
    text = system if isinstance(system, str) else "\n".join(block.text for block in system or ())
    if text:
        yield {"role": "system", "content": text}


def _turns(message: UserMessage | AssistantMessage) -> Iterator[Object]:
    """One message of theirs as one or several of OpenAI's: each tool's result has a message of its own."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
    elif isinstance(message, AssistantMessage):
        yield _assistant(message.content)
    else:
        texts: list[str] = []
        for block in message.content:
            if isinstance(block, TextBlock):
                texts.append(block.text)
                continue
            if texts:
                yield {"role": "user", "content": "\n".join(texts)}
                texts = []
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block)}
        if texts:
            yield {"role": "user", "content": "\n".join(texts)}


def _assistant(blocks: Sequence[TextBlock | ToolUseBlock | ThinkingBlock]) -> Object:
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)},
        }
        for block in blocks
        if isinstance(block, ToolUseBlock)
    ]
    message: Object = {
        "role": "assistant",
        "content": "\n".join(block.text for block in blocks if isinstance(block, TextBlock)) or None,
        "reasoning_content": "\n".join(b.thinking for b in blocks if isinstance(b, ThinkingBlock)) or None,
        "tool_calls": calls or None,
    }
    return {name: value for name, value in message.items() if value is not None or name == "content"}


def _result(block: ToolResultBlock) -> str:
    content = block.content
    text = content if isinstance(content, str) else "\n".join(each.text for each in content)
    return f"Error: {text}" if block.is_error else text


def _tool(tool: CustomTool) -> Object:
    function: Object = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _format(config: OutputConfig | None) -> Object | None:
    if config is None or config.format is None:
        return None
    schema = config.format.json_schema
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
