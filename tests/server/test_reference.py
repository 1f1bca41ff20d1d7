"""docs/api.md says what the code says, and which fields are OpenAI's as OpenAI's package says it."""

from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from hermes3.server.chat_request import ChatRequest
from hermes3.server.protocol import CompletionRequest
from hermes3.server.reference import is_of_openai, page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_made_from_the_code() -> None:
    assert (DOCS / "api.md").read_text() == page(), "run python -m hermes3.server.reference > docs/api.md"


@pytest.mark.parametrize(
    ("request_kind", "module"),
    [(ChatRequest, chat_create_params), (CompletionRequest, completion_create_params)],
)
def test_every_field_stands_there_once(request_kind, module) -> None:
    theirs = set(get_type_hints(module.CompletionCreateParamsStreaming))
    honoured, refused = set(request_kind.model_fields), set(request_kind.refused)
    assert not honoured & refused
    assert theirs <= honoured | refused
    assert {name for name in honoured if is_of_openai(name)} == honoured & theirs
    assert all(field.description for field in request_kind.model_fields.values())
