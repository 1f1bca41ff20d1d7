"""Who may ask: API keys, of which only hashes are kept, and how much each may ask for."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from hermes3.errors import Hermes3Error

MAX_FILE = 1 << 20  # bytes
_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")
CALLER: ContextVar[str] = ContextVar("CALLER", default="")
"""The name of the key that the request in work came with; empty where none is asked for."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys by name.

    Attributes:
        digests: SHA-256 of each key.
    """

    digests: dict[str, bytes]

    @classmethod
    def of(cls, plain: Sequence[str] = (), file: Path | None = None) -> Keys:
        """Keys given one by one, called key-1, key-2 and so on, and those of a file.

        A line of the file is a key, or ``sha256:`` and the hash of one in hex (``printf %s "$KEY" |
        sha256sum``), then, if wanted, a space and a name; ``#`` begins a remark.

        Raises:
            Hermes3Error: an empty key, a file that cannot be read or holds no key, or a name given twice.
        """
        if any(not key.strip() for key in plain):
            raise Hermes3Error("an API key is empty; give one with characters in it, or none at all")
        digests = {f"key-{number}": _digest(key.strip()) for number, key in enumerate(plain, 1)}
        for number, line in enumerate(_lines(file), 1):
            key, _, name = line.partition("#")[0].strip().partition(" ")
            if not key:
                continue
            name = name.strip() or f"line-{number}"
            if name in digests:
                raise Hermes3Error(f"{file}, line {number}: the name {name!r:.60} was given before")
            hashed = _HASHED.fullmatch(key)
            digests[name] = bytes.fromhex(hashed[1]) if hashed else _digest(key)
        if file is not None and not digests:
            raise Hermes3Error(f"{file} holds no key: write one a line")
        return cls(digests)

    def name_of(self, key: str) -> str | None:
        """The name of a key, or None; takes as long whichever it is, and whether it is one."""
        digest, found = _digest(key), None
        for name, known in self.digests.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found


class Allowance:
    """How much each key may ask for in a minute, as buckets that fill again steadily.

    Args:
        per_minute: of each key; what was saved up is at most that much.
        clock: seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}  # by key: how much is left, and when that was so

    def wait_s(self, name: str, amount: float) -> float:
        """Seconds until so much may be taken; 0.0 for now. More than ``per_minute`` never is."""
        return max(0.0, (amount - self._now(name)) * 60 / self.per_minute)

    def take(self, name: str, amount: float) -> None:
        """Takes so much; a negative amount gives back what was not used."""
        self._left[name] = min(self._now(name) - amount, float(self.per_minute)), self._clock()

    def _now(self, name: str) -> float:
        left, since = self._left.get(name, (float(self.per_minute), self._clock()))
        return min(left + (self._clock() - since) * self.per_minute / 60, float(self.per_minute))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_FILE + 1)
        if len(raw) > MAX_FILE:
            raise Hermes3Error(f"{file} is larger than {MAX_FILE} bytes: that is no file of keys")
        return raw.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Hermes3Error(f"the file of API keys, {file}, cannot be read: {error}") from error
