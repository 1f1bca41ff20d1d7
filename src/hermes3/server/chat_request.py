"""What a request for a chat's answer may say."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hermes3.llm import Sampling
from hermes3.server.protocol import (
    MAX_MESSAGES,
    REFUSED_ALWAYS,
    AnswerRequest,
    Int64,
    Refused,
    Strict,
    refusal,
)

_TEXT_ALONE = "the model reads and writes text alone"
NO_CACHE = "the cache finds by itself what prompts begin with, and keeps it as long as there is room"
IN_MEMORY = ("in-memory", "in_memory")
_FORMS = ("response_format", "json_schema", "grammar", "guided_json", "guided_regex", "guided_choice",
          "guided_grammar", "structured_outputs")  # fmt: skip

Object = dict[str, Any]
Choices = Annotated[list[str], Field(min_length=1)]


class StructuredOutputs(Strict):
    """vLLM's: one of its fields, and that alone."""

    json_schema: Object | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if len([name for name in type(self).model_fields if getattr(self, name)]) != 1:
            raise refusal(
                "structured_outputs",
                "'structured_outputs' must hold one of json, regex, choice, grammar and json_object.",
            )
        return self


class ChatRequest(AnswerRequest):
    """POST /v1/chat/completions."""

    refused: ClassVar[dict[str, Refused]] = {
        **REFUSED_ALWAYS,
        "functions": Refused(
            "it is deprecated", remedy="Send 'tools': [{'type': 'function', 'function': {...}}] instead."
        ),
        "function_call": Refused("it is deprecated", remedy="Send 'tool_choice' instead."),
        "reasoning_effort": Refused("the model has no reasoning levels", ("none",)),
        "verbosity": Refused("the model has no verbosity levels; say it in the system message"),
        "modalities": Refused(_TEXT_ALONE, (["text"],)),
        "audio": Refused(_TEXT_ALONE),
        "prediction": Refused("what an answer repeats of its prompt is guessed without it"),
        "web_search_options": Refused("the server does not search the web"),
        "moderation": Refused("the server does not moderate"),
        "prompt_cache_options": Refused(NO_CACHE),
        "prompt_cache_retention": Refused(NO_CACHE, IN_MEMORY),
    }

    messages: Annotated[list[Object], Field(min_length=1, max_length=MAX_MESSAGES)] = Field(
        description="roles system (or developer), user, assistant (with `tool_calls`, `reasoning_content`) "
        "and tool (with `tool_call_id`); content is a string or a list of text parts"
    )
    max_completion_tokens: Int64 | None = Field(None, description="the newer name of `max_tokens`")
    logprobs: bool | None = Field(None, description="log-probabilities of the answer's tokens")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="and of the so many likeliest at each place; only with `logprobs`"
    )
    safety_identifier: Annotated[str, Field(max_length=512)] | None = Field(
        None, description="written to the log"
    )
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = Field(
        None, description="written to the log; what prompts begin with is found again without it"
    )
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = Field(None, description="written to the log; a plain answer repeats it")
    tools: list[Object] | None = Field(
        None, description="functions that the model may call; every schema is enforced"
    )
    tool_choice: str | Object | None = Field(
        None, description="`auto`, `required`, `none`, one function by name, or `allowed_tools`"
    )
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call in an answer")
    response_format: Object | None = Field(
        None,
        description="`text`, `json_object` or `json_schema`; the schema is enforced and told to the model",
    )
    json_schema: Object | None = Field(None, description="llama.cpp's name of a schema for the answer")
    grammar: str | Object | None = Field(
        None,
        description='GBNF as in llama.cpp, or Lark; or `{"regex": ...}`, `{"choice": [...]}`, '
        '`{"lark": ...}`, `{"gbnf": ...}`',
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description="vLLM's: one of `json`, `regex`, `choice`, `grammar`, `json_object`"
    )
    guided_json: Object | str | None = Field(None, description="vLLM's older name of a schema for the answer")
    guided_regex: str | None = Field(None, description="vLLM's older name of `structured_outputs.regex`")
    guided_choice: Choices | None = Field(
        None, description="vLLM's older name of `structured_outputs.choice`"
    )
    guided_grammar: str | None = Field(None, description="vLLM's older name of `structured_outputs.grammar`")
    call_order: Literal["name", "arguments"] | None = Field(
        None, description="the key of a call that comes first; `arguments` is the card's order"
    )
    reasoning: bool | None = Field(
        None, description="thoughts in tags may come first, and are told apart as `reasoning_content`"
    )

    on_uncompilable: Literal["refuse", "retry"] | None = Field(
        None,
        description="of a schema that no grammar can be made of: `refuse` the request (the default), or "
        "`retry`: answers are checked when they are whole, and asked for up to three times",
    )
    citations: bool | None = Field(
        None, description="what stands in `<co: doc_id>...</co>` is listed as `citations`, beside the content"
    )
    forced_spans: bool | None = Field(
        None,
        description="which characters of the content a grammar left no choice about is listed as "
        "`forced_spans`; not beside `tools` and `reasoning`",
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise refusal("top_logprobs", "'top_logprobs' is only allowed when 'logprobs' is true.")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise refusal("max_tokens", "'max_tokens' and 'max_completion_tokens' say the same: give one.")
        forms = [name for name in _FORMS if getattr(self, name) is not None]
        if self.response_format == {"type": "text"}:
            forms.remove("response_format")
        if len(forms) > 1:
            raise refusal(forms[1], f"'{forms[0]}' and '{forms[1]}' both say what the answer is: give one.")
        return self

    @property
    def who(self) -> dict[str, object]:
        """What the log says about who asks; None for what was left out."""
        names = ("user", "safety_identifier", "prompt_cache_key", "metadata")
        return {name: getattr(self, name) for name in names}

    def sampling(self, choice: int) -> Sampling:
        sampling = super().sampling(choice)
        if self.max_completion_tokens is not None:
            sampling["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            sampling["logprobs"] = self.top_logprobs or 0
        return sampling
