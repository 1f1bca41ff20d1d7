"""What can go wrong with a request, as OpenAI says it: a status and {error: {message, type, param, code}}."""

from __future__ import annotations

from http import HTTPStatus

from pydantic import ValidationError
from starlette.responses import JSONResponse

from hermes3.errors import AnswerError, CapacityError, ContextLengthError, Hermes3Error, RequestError
from hermes3.server.protocol import explained


class Failure(Exception):
    """A request that gets no answer.

    Attributes:
        status: HTTP status.
        param: the request field at fault, or None.
        code: OpenAI's word for it, or None.
        headers: further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers

    def body(self) -> dict[str, object]:
        """The JSON body, the same in a plain response and in an event stream."""
        kind = "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def failure_of(error: Exception) -> Failure:
    """The failure that an error amounts to; what nobody foresaw is a 500 that tells nothing of the inside."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, ValidationError):
        message, param, code = explained(error)
        return Failure(HTTPStatus.BAD_REQUEST, message, param=param, code=code)
    if isinstance(error, RequestError):
        too_long = isinstance(error, ContextLengthError | CapacityError)
        code = "context_length_exceeded" if too_long else "invalid_value"
        return Failure(HTTPStatus.BAD_REQUEST, str(error), param=error.param, code=code)
    if isinstance(error, AnswerError):  # asking again as clients do after a 5xx would be of no use
        return Failure(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), code="answer_invalid")
    if isinstance(error, Hermes3Error):
        return Failure(HTTPStatus.SERVICE_UNAVAILABLE, str(error), code="engine_error")
    return Failure(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The server failed on this request; its log says how.",
        code="internal_error",
    )
