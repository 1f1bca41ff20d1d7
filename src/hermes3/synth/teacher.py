"""Who writes the conversations: a model of our own engine, or one behind OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from hermes3.errors import ContextLengthError, Hermes3Error, RequestError
from hermes3.llm import LLM
from hermes3.prompt.messages import Message, Tool, ToolCall, parse_message
from hermes3.synth.tasks import Settings, openai_tools

TIMEOUT_S = 600.0  # of one answer


class RejectedError(Exception):
    """A conversation that is no good; the message says why."""


class UnansweredError(Exception):
    """The teacher could not be reached for this one; another run may try again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the teacher said: text and calls."""

    text: str
    calls: tuple[ToolCall, ...] = ()


class Teacher(Protocol):
    """Answers conversations."""

    async def answer(self, messages: Sequence[Message], tools: Sequence[Tool], seed: int) -> Answer:
        """The next turn.

        Raises:
            RejectedError: what came is no good: cut, or a call that is none.
            UnansweredError: nothing came.
            Hermes3Error: nothing will ever come.
        """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class HallTeacher:
    """A model of our own engine, which stays the caller's to close."""

    def __init__(self, llm: LLM, settings: Settings) -> None:
        self._llm = llm
        self._settings = settings

    async def answer(self, messages: Sequence[Message], tools: Sequence[Tool], seed: int) -> Answer:
        """See ``Teacher``."""
        settings = self._settings
        try:
            stream = self._llm.achat(
                messages,
                tools=list(tools),
                temperature=settings.temperature,
                max_tokens=settings.max_tokens,
                seed=seed,
            )
            reply = await stream.reply()
        except (RequestError, ContextLengthError) as error:
            raise RejectedError(str(error)) from error
        if reply.finish_reason == "length":
            raise RejectedError(f"an answer was cut at {settings.max_tokens} tokens")
        if reply.broken_calls:
            raise RejectedError(f"a call is broken: {reply.broken_calls[0].error}")
        return Answer(reply.text, reply.tool_calls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class EndpointTeacher:
    """A model behind OpenAI's protocol, by the ``openai`` client (extra ``synth``).

    Args:
        base_url: of the endpoint, with its /v1.
        api_key: what it wants to see.
        retries: how often a request is sent again where the endpoint is busy or does not answer; the pauses
            are the client's, or what the endpoint asks for.
        settings: of the run.
    """

    def __init__(self, base_url: str, api_key: str, retries: int, settings: Settings) -> None:
        from openai import AsyncOpenAI

        self._client = AsyncOpenAI(
            base_url=base_url, api_key=api_key, max_retries=retries, timeout=TIMEOUT_S
        )
        self._base_url = base_url
        self._settings = settings

    async def answer(self, messages: Sequence[Message], tools: Sequence[Tool], seed: int) -> Answer:
        """See ``Teacher``."""
        settings = self._settings
        asked: dict[str, Any] = {"tools": openai_tools(tools)} if tools else {}
        choice = await self._asked(
            model=settings.teacher,
            messages=[message.to_dict() for message in messages],
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            seed=seed,
            **asked,
        )
        if choice.finish_reason == "length":
            raise RejectedError(f"an answer was cut at {settings.max_tokens} tokens")
        said = choice.message.model_dump(include={"content", "tool_calls"}, exclude_none=True)
        try:
            message = parse_message({"content": "", **said, "role": "assistant"}, "the answer")
        except RequestError as error:
            raise RejectedError(str(error)) from error
        return Answer(message.content or "", message.tool_calls)

    async def _asked(self, **request: Any) -> Any:
        import openai

        try:
            completion = await self._client.chat.completions.create(**request)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            raise RejectedError(f"{self._base_url} refuses it: {error}") from error
        except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
            raise UnansweredError(f"{self._base_url}: {error}") from error
        except openai.OpenAIError as error:
            raise Hermes3Error(
                f"{self._base_url} will not answer: {error}; check --base-url, --model and the key"
            ) from error
        if not completion.choices:
            raise UnansweredError(f"{self._base_url} sent no answer")
        return completion.choices[0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
