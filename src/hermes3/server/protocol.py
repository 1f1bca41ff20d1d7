"""What a request may say: OpenAI's chat and completion fields, each honoured or refused by name.

Honoured: model, messages, prompt, stream, stream_options.include_usage, n, seed, stop, temperature, top_p,
    max_tokens, max_completion_tokens, presence_penalty, frequency_penalty, logit_bias, logprobs,
    top_logprobs, echo (without logprobs).
Honoured, and not OpenAI's (``extra_body``): top_k, min_p, repetition_penalty, ignore_eos, allow_special.
Written to the request's line in the log: user, safety_identifier, metadata (a plain chat answer repeats it).
Taken where the value says what happens anyway, else refused: store, service_tier, modalities,
    response_format, reasoning_effort, best_of, stream_options.include_obfuscation.
Refused, with a 400 that names it: every other field, OpenAI's or unknown.

Choice i of n is drawn with seed + i. What is left out has the hall's default (``SamplingParams``), except
max_tokens of a completion, 16 as with OpenAI; a chat answer may fill the context.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from hermes3.llm import Sampling

MAX_MESSAGES = 2048
MAX_CHOICES = 64  # answers of one request: n times the prompts
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_LOGIT_BIAS = 1024
COMPLETION_MAX_TOKENS = 16  # OpenAI's default for /v1/completions

Harmless = tuple[object, ...]
_REFUSED_ALWAYS: dict[
    str, tuple[Harmless, str]
] = {  # name -> (values that change nothing, why others are refused)
    "store": ((False,), "nothing is stored on this server"),
    "service_tier": (("auto", "default"), "this server has one tier"),
}
_REFUSED_IN_CHAT: dict[str, tuple[Harmless, str]] = {
    **_REFUSED_ALWAYS,
    "tools": ((), "tool calls are not served yet"),
    "tool_choice": ((), "tool calls are not served yet"),
    "parallel_tool_calls": ((), "tool calls are not served yet"),
    "functions": ((), "deprecated, and tool calls are not served yet"),
    "function_call": ((), "deprecated, and tool calls are not served yet"),
    "response_format": (({"type": "text"},), "constrained output is not served yet"),
    "reasoning_effort": (("none",), "the model has no reasoning levels"),
    "verbosity": ((), "the model has no verbosity levels; say it in the system message"),
    "modalities": ((["text"],), "the model reads and writes text alone"),
    "audio": ((), "the model reads and writes text alone"),
    "prediction": ((), "predicted outputs are not supported"),
    "web_search_options": ((), "the server does not search the web"),
    "moderation": ((), "the server does not moderate"),
    "prompt_cache_key": ((), "there is no prompt cache to steer"),
    "prompt_cache_options": ((), "there is no prompt cache to steer"),
    "prompt_cache_retention": ((), "there is no prompt cache to steer"),
}
_REFUSED_IN_COMPLETIONS: dict[str, tuple[Harmless, str]] = {
    **_REFUSED_ALWAYS,
    "suffix": ((), "the model was not trained to fill in the middle"),
    "best_of": ((1,), "answers are not ranked; ask for n and choose"),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Request(_Strict):
    refused: ClassVar[dict[str, tuple[Harmless, str]]] = _REFUSED_ALWAYS

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Int64 | None = None
    stop: Stop | Annotated[list[Stop], Field(min_length=1, max_length=MAX_STOPS)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: Int64 | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_LOGIT_BIAS)] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    top_k: Int64 | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, (harmless, why) in cls.refused.items():
            value = data.pop(name, None)
            if value is None or any(type(value) is type(other) and value == other for other in harmless):
                continue
            raise refusal(name, f"'{name}' is not supported: {why}. Leave it out.")
        return data

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> _Request:
        if self.stream_options is not None and not self.stream:
            raise refusal("stream_options", "'stream_options' is only allowed when 'stream' is true.")
        return self

    @property
    def n_choices(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, choice: int) -> Sampling:
        """The hall's sampling arguments for one of the n choices; what the request leaves out is left out."""
        given: dict[str, Any] = {
            "seed": None if self.seed is None else self.seed + choice,
            "stop": self.stop,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self._bias_by_id(),
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "ignore_eos": self.ignore_eos,
        }
        return cast(Sampling, {name: value for name, value in given.items() if value is not None})

    def _bias_by_id(self) -> dict[int, float] | None:
        if self.logit_bias is None:
            return None
        return {int(token_id): bias for token_id, bias in self.logit_bias.items()}

    @model_validator(mode="after")
    def _logit_bias_by_token_id(self) -> _Request:
        for key in self.logit_bias or {}:
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise refusal(
                    "logit_bias", f"'logit_bias' maps token ids to numbers; {key[:40]!r} is no token id."
                )
        return self


class ChatRequest(_Request):
    """POST /v1/chat/completions."""

    refused = _REFUSED_IN_CHAT

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Int64 | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise refusal("top_logprobs", "'top_logprobs' is only allowed when 'logprobs' is true.")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise refusal("max_tokens", "'max_tokens' and 'max_completion_tokens' say the same: give one.")
        return self

    def sampling(self, choice: int) -> Sampling:
        sampling = super().sampling(choice)
        if self.max_completion_tokens is not None:
            sampling["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            sampling["logprobs"] = self.top_logprobs or 0
        return sampling


class CompletionRequest(_Request):
    """POST /v1/completions."""

    refused = _REFUSED_IN_COMPLETIONS

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[
            list[Annotated[list[int], Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)
        ]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    allow_special: bool = False

    @model_validator(mode="after")
    def _fields_agree(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise refusal(
                "echo", "'echo' with 'logprobs' is not supported: prompts are not scored. Leave one out."
            )
        if len(self.prompts) * self.n_choices > MAX_CHOICES:
            raise refusal(
                "n", f"{len(self.prompts)} prompts times n = {self.n_choices} exceed {MAX_CHOICES} answers."
            )
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several prompts, as a list of them."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [item for item in self.prompt if isinstance(item, int)]
        if ids:
            return [ids]
        return [item for item in self.prompt if not isinstance(item, int)]

    def sampling(self, choice: int) -> Sampling:
        sampling = super().sampling(choice)
        sampling.setdefault("max_tokens", COMPLETION_MAX_TOKENS)
        if self.logprobs is not None:
            sampling["logprobs"] = self.logprobs
        return sampling


def refusal(param: str, message: str) -> PydanticCustomError:
    """A validator's error that names the field at fault."""
    return PydanticCustomError("unsupported_parameter", "{message}", {"message": message, "param": param})


def explained(error: ValidationError) -> tuple[str, str | None, str]:
    """The first thing wrong with a request body: (sentence, name of the field or None, OpenAI's code)."""
    errors = error.errors(include_url=False)
    first = errors[0]
    kind = first["type"]
    if kind == "json_invalid":
        return (
            f"The body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}.",
            None,
            "invalid_json",
        )
    if kind == "unsupported_parameter":
        return first["msg"], str(first["ctx"]["param"]), kind
    param = _dotted(first)
    if param is None:
        return "The body is not a JSON object.", None, "invalid_type"
    if kind == "extra_forbidden":
        return f"Unknown parameter: '{param}'.", param, "unknown_parameter"
    if kind == "missing":
        return f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
    same = [other["msg"] for other in errors if other["loc"][:1] == first["loc"][:1]]
    return f"Invalid '{param}': {', or: '.join(dict.fromkeys(same))}.", param, "invalid_value"


def _dotted(error: ErrorDetails) -> str | None:
    """The field an error is about; of what pydantic adds (union branches, validators) nothing."""
    loc = error["loc"]
    if not loc:
        return None
    if loc[0] == "stream_options" and len(loc) > 1:
        return f"{loc[0]}.{loc[1]}"
    return str(loc[0])[:100]
