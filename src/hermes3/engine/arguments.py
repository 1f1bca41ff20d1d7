"""Arguments of the engine's, held to their limits."""

from __future__ import annotations

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
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise RequestError(f"{name} is {value!r:.80}, it must be an integer from 1 to {most}", param=name)
    return value
