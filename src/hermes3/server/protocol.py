"""What a request may say: OpenAI's fields and what we add, each honoured or refused by name.

The fields stand in docs/api.md, which is made from this code (``reference.py``). Choice i of n is drawn with
seed + i.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from hermes3.llm import Sampling

MAX_MESSAGES = 2048
MAX_CHOICES = 64  # answers of one request: n times the prompts
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_LOGIT_BIAS = 1024
COMPLETION_MAX_TOKENS = 16  # OpenAI's default for /v1/completions


class Refused(NamedTuple):
    """A field of OpenAI's that is not honoured.

    Attributes:
        why: the reason.
        harmless: values that say what happens anyway, and are taken.
        remedy: what to do instead.
    """

    why: str
    harmless: tuple[object, ...] = ()
    remedy: str = "Leave it out."


REFUSED_ALWAYS = {
    "store": Refused("nothing is stored on this server", (False,)),
    "service_tier": Refused("this server has one tier", ("auto", "default")),
}
_REFUSED_IN_COMPLETIONS = {
    **REFUSED_ALWAYS,
    "suffix": Refused("the model was not trained to fill in the middle"),
    "best_of": Refused("answers are not ranked; ask for n and choose", (1,)),
}


class Strict(BaseModel):
    """Nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class AnswerRequest(Strict):
    """What chats and completions have in common."""

    refused: ClassVar[dict[str, Refused]] = REFUSED_ALWAYS

    model: str = Field(description="the served model's name, its file's, or the short name")
    stream: bool | None = Field(None, description="server-sent events as the answer grows")
    stream_options: StreamOptions | None = Field(
        None, description="`include_usage`: a last chunk with the usage; only with `stream`"
    )
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None, description=f"answers to each prompt, 1 to {MAX_CHOICES}"
    )
    seed: Int64 | None = Field(None, description="answer i is drawn with seed + i, the same at any load")
    stop: Stop | Annotated[list[Stop], Field(min_length=1, max_length=MAX_STOPS)] | None = Field(
        None, description=f"up to {MAX_STOPS} strings of up to {MAX_STOP_CHARS} characters that end an answer"
    )
    temperature: float | None = Field(None, description="0 for the likeliest token each time")
    top_p: float | None = Field(None, description="the likeliest tokens of this probability in all")
    max_tokens: Int64 | None = Field(None, description="at most so many tokens of an answer")
    presence_penalty: float | None = Field(None, description="-2 to 2, for tokens that came already")
    frequency_penalty: float | None = Field(None, description="-2 to 2, for each time that a token came")
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_LOGIT_BIAS)] | None = Field(
        None, description="-100 to 100 by token id of this model (`/tokenize`)"
    )
    user: Annotated[str, Field(max_length=512)] | None = Field(None, description="written to the log")
    top_k: Int64 | None = Field(None, description="the so many likeliest tokens; 0 for all")
    min_p: float | None = Field(None, description="tokens of at least this share of the likeliest one's")
    repetition_penalty: float | None = Field(None, description="above 0, 1 for none")
    ignore_eos: bool | None = Field(None, description="go on until `max_tokens`, for measurements")

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        return refuse_fields(data, cls.refused)

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> AnswerRequest:
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
    def _logit_bias_by_token_id(self) -> AnswerRequest:
        for key in self.logit_bias or {}:
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise refusal(
                    "logit_bias", f"'logit_bias' maps token ids to numbers; {key[:40]!r} is no token id."
                )
        return self


class CompletionRequest(AnswerRequest):
    """POST /v1/completions."""

    refused = _REFUSED_IN_COMPLETIONS

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[
            list[Annotated[list[int], Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)
        ]
    ) = Field(description="a text, token ids, or a list of either")
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="the so many likeliest tokens at each place, 0 to 20"
    )
    echo: bool | None = Field(None, description="the prompt in front of the answer; not with `logprobs`")
    allow_special: bool = Field(False, description="text such as `<|im_end|>` counts as that token")

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


def refuse_fields(data: Any, refused: Mapping[str, Refused]) -> Any:
    """A body without the fields that are not honoured, for a validator that sees it first.

    Raises:
        PydanticCustomError: one of them says more than what happens anyway.
    """
    if not isinstance(data, dict):
        return data
    for name, (why, harmless, remedy) in refused.items():
        value = data.pop(name, None)
        if value is None or any(type(value) is type(other) and value == other for other in harmless):
            continue
        raise refusal(name, f"'{name}' is not supported: {why}. {remedy}")
    return data


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
    if loc[0] in ("stream_options", "structured_outputs") and len(loc) > 1:
        return f"{loc[0]}.{loc[1]}"
    return str(loc[0])[:100]
