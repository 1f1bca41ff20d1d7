"""Text to ids and back without an answer: /tokenize, /detokenize, /apply-template, as in vLLM and llama.cpp.

Tokenizing happens beside the event loop, as for every prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal, cast

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse

from hermes3.llm import LLM, Answering
from hermes3.prompt.chatml import text_of
from hermes3.server.desk import Desk
from hermes3.server.endpoints import read_body
from hermes3.server.failures import Failure
from hermes3.server.protocol import MAX_MESSAGES, Strict, refusal

Messages = Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]


class _Text(Strict):
    model: str | None = None


class _Conversation(_Text):
    """What decides about a prompt's text."""

    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None
    call_order: Literal["name", "arguments"] | None = None

    def asked(self) -> Answering:
        """What the hall is asked."""
        given = {"tools": self.tools, "response_format": self.response_format, "call_order": self.call_order}
        return cast(Answering, {name: value for name, value in given.items() if value is not None})


class TokenizeRequest(_Conversation):
    """A text, or a conversation as the model would get it."""

    prompt: str | None = None
    messages: Messages | None = None
    allow_special: bool = False
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise refusal("prompt", "Give either 'prompt' or 'messages'.")
        if self.allow_special and self.prompt is None:
            raise refusal("allow_special", "'allow_special' is for 'prompt'; messages are always plain text.")
        if self.prompt is not None and (given := self.asked()):
            name = next(iter(given))
            raise refusal(name, f"'{name}' is for 'messages'; 'prompt' is taken as it stands.")
        return self


class DetokenizeRequest(_Text):
    """Ids of this model's vocabulary."""

    tokens: list[int]


class TemplateRequest(_Conversation):
    """A conversation."""

    messages: Messages


class Texts:
    """The routes.

    Args:
        check_model: raises where a request names a model that is not here.
    """

    def __init__(self, llm: LLM, desk: Desk, check_model: Callable[[str], None]) -> None:
        self._llm = llm
        self._desk = desk
        self._check_model = check_model

    async def tokenize(self, http: Request) -> JSONResponse:
        request = TokenizeRequest.model_validate_json(await read_body(http, self._desk))
        self._check(request)
        if request.messages is not None:
            encode_chat = partial(self._llm.encode_chat, request.messages, **request.asked())
            ids = await asyncio.to_thread(encode_chat)
        else:
            encode = partial(self._llm.tokenizer.encode, allow_special=request.allow_special)
            ids = await asyncio.to_thread(encode, request.prompt or "")
        names = [self._llm.tokenizer.token_bytes(each).decode("utf-8", "replace") for each in ids]
        return JSONResponse(
            {
                "count": len(ids),
                "max_model_len": self._llm.n_ctx,
                "tokens": list(ids),
                "token_strs": names if request.return_token_strs else None,
            }
        )

    async def detokenize(self, http: Request) -> JSONResponse:
        request = DetokenizeRequest.model_validate_json(await read_body(http, self._desk))
        self._check(request)
        n_vocab = self._llm.tokenizer.vocab_size
        if outside := [each for each in request.tokens if not 0 <= each < n_vocab]:
            raise Failure(
                HTTPStatus.BAD_REQUEST,
                f"'tokens' holds {outside[0]!s:.40}, ids are 0 to {n_vocab - 1}.",
                param="tokens",
                code="invalid_value",
            )
        text = await asyncio.to_thread(self._llm.tokenizer.decode, request.tokens)
        return JSONResponse({"prompt": text})

    async def apply_template(self, http: Request) -> JSONResponse:
        """The prompt's text, its marks written out; the model is not asked."""
        request = TemplateRequest.model_validate_json(await read_body(http, self._desk))
        self._check(request)
        segments = partial(self._llm.segments, request.messages, **request.asked())
        return JSONResponse({"prompt": text_of(await asyncio.to_thread(segments))})

    async def embeddings(self) -> JSONResponse:
        raise Failure(
            HTTPStatus.BAD_REQUEST,
            "This server has no embeddings: the model was trained to write text, and what it would give was "
            "never trained to be compared. Use an embedding model's server.",
            code="unsupported_endpoint",
        )

    def _check(self, request: _Text) -> None:
        if request.model is not None:
            self._check_model(request.model)
