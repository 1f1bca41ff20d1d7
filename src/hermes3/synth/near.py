"""Texts that are almost the same: MinHash over three-word shingles, found by bands.

Broder, "On the resemblance and containment of documents" (1997); bands after Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", chapter 3. With 128 hashes the estimate of a Jaccard similarity s has a standard
error of sqrt(s (1 - s) / 128), 0.035 at 0.8; 32 bands of 4 find a pair of 0.8 all but surely, one of 0.5 in
87 of 100 cases.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
from numpy.typing import NDArray

N_WORDS = 3  # of a shingle
N_HASHES, N_BANDS = 128, 32
LEAST = 0.5  # similarity below which bands miss too much

_WORD = re.compile(r"\w+")
_rng = np.random.default_rng(0)
_FACTORS = _rng.integers(1 << 63, size=(N_HASHES, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_SUMMANDS = _rng.integers(1 << 63, size=(N_HASHES, 1), dtype=np.uint64)

U64 = NDArray[np.uint64]


class Near:
    """Texts by name, and which of them another text resembles.

    Args:
        least: Jaccard similarity of the shingles from which on texts are almost the same, 0.5 to 1.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._names: list[str] = []
        self._signatures: list[U64] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def find(self, text: str) -> tuple[str, float] | None:
        """The text that resembles this one most, and how much by estimate; None where none does enough."""
        signature = signature_of(text)
        near = {index for key in _keys(signature) for index in self._bands.get(key, ())}
        found = [(float(np.mean(self._signatures[i] == signature)), i) for i in near]
        best = max(found, default=(0.0, 0), key=lambda each: (each[0], -each[1]))
        return (self._names[best[1]], best[0]) if best[0] >= self._least else None

    def add(self, name: str, text: str) -> None:
        """One more text."""
        signature = signature_of(text)
        for key in _keys(signature):
            self._bands.setdefault(key, []).append(len(self._names))
        self._names.append(name)
        self._signatures.append(signature)


def shingles(text: str) -> set[str]:
    """All runs of three words, in small letters; the whole text where it has fewer."""
    words = _WORD.findall(text.lower())
    if len(words) < N_WORDS:
        return {" ".join(words)}
    return {" ".join(words[i : i + N_WORDS]) for i in range(len(words) - N_WORDS + 1)}


def signature_of(text: str) -> U64:
    """The smallest value of each hash over a text's shingles, (N_HASHES,)."""
    digests = b"".join(hashlib.blake2b(each.encode("utf-8", "replace"), digest_size=8).digest()
                       for each in shingles(text))  # fmt: skip
    values = np.frombuffer(digests, np.uint64)
    signature: U64 = (values[None] * _FACTORS + _SUMMANDS).min(1)
    return signature


def _keys(signature: U64) -> list[tuple[int, bytes]]:
    return [(band, part.tobytes()) for band, part in enumerate(signature.reshape(N_BANDS, -1))]
