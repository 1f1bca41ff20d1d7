"""What comes of a call, as text that the model may be told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

MIN_TOKENS = 50  # that a result may always have
CHARS_PER_TOKEN = 8  # no text has more on average
MAX_ITEMS = 10_000  # of an iterator
MAX_ERROR = 500  # characters


def text_of(value: Any) -> str:
    """A result as text: a string as it is, all else as JSON.

    Models, dataclasses, dates and the like have pydantic's forms, NaN and infinity their names, bytes are
    base64; what JSON has no form for is its ``str()``. Of an iterator, which may be endless, the first
    ``MAX_ITEMS`` count.
    """
    if isinstance(value, str):
        return whole(value)
    from pydantic_core import to_json

    if isinstance(value, Iterator):
        value = list(islice(value, MAX_ITEMS))
    raw = to_json(value, inf_nan_mode="strings", bytes_mode="base64", serialize_unknown=True)
    return whole(json.dumps(json.loads(raw), ensure_ascii=False))


def bounded(text: str, limit: int, n_tokens: Callable[[str], int]) -> str:
    """A text of at most about ``limit`` tokens, which says so where it was cut.

    Args:
        n_tokens: counts a text's tokens.
    """
    kept = text[: limit * CHARS_PER_TOKEN]
    while (n := n_tokens(kept)) > limit:
        kept = kept[: len(kept) * limit // n]
    if len(kept) == len(text):
        return text
    return f"{kept}... (cut: these are the first {len(kept):,} of {len(text):,} characters)"


def whole(text: str) -> str:
    """The text with a replacement for what UTF-8 has no form for."""
    return text.encode("utf-8", "replace").decode()


def error_text(name: str, what: str) -> str:
    """An error as the model is told it."""
    what = whole(what)[:MAX_ERROR].rstrip(". ")
    return f"Error: {what}. Call {name} again with correct arguments."
