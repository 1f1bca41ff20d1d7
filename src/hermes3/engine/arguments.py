"""Arguments of the engine's, held to their limits."""

from __future__ import annotations

from collections.abc import Sequence as Ids

from hermes3.errors import RequestError

MAX_SECONDS = 3600.0


def checked_seconds(name: str, value: float) -> float:
    """Seconds, as a float.

    Raises:
        RequestError: no number, or outside the limits.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MAX_SECONDS:
        limit = f"it must be a number of seconds above 0, at most {MAX_SECONDS:.0f}"
        raise RequestError(f"{name} is {value!r:.80}, {limit}", param=name)
    return float(value)


def checked_count(name: str, value: int | None, default: int, most: int) -> int:
    """A count from 1 to ``most``; None is the default.

    Raises:
        RequestError: no integer, or outside the limits.
    """
    return default if value is None else checked_integer(name, value, most)


def checked_integer(name: str, value: object, most: int) -> int:
    """An integer from 1 to ``most``.

    Raises:
        RequestError: no integer, or outside the limits.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise RequestError(f"{name} is {value!r:.80}, it must be an integer from 1 to {most}", param=name)
    return value


def check_prompt(ids: Ids[int], n_vocab: int) -> None:
    """Whether ids are a prompt at all.

    Raises:
        RequestError: none, or some outside the vocabulary.
    """
    if not ids:
        raise RequestError("the prompt has no tokens, at least one is needed", param="prompt")
    if outside := [token for token in (min(ids), max(ids)) if not 0 <= token < n_vocab]:
        last = n_vocab - 1
        raise RequestError(f"the prompt holds id {outside[0]}, the vocabulary ends at {last}", param="prompt")


def check_end(*, ignore_eos: bool, is_bound: bool) -> None:
    """Whether an answer has one way to end; ``is_bound``: a grammar says what it is.

    Raises:
        RequestError: it has two.
    """
    if is_bound and ignore_eos:
        raise RequestError("ignore_eos cannot hold where a grammar says how it ends", param="ignore_eos")
