"""What training learns from: token ids, and how much each of them counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Ids = np.ndarray[tuple[int], np.dtype[np.int32]]
Weights = np.ndarray[tuple[int], np.dtype[np.float32]]


def _check(what: str, ids: Ids, weights: Weights) -> None:
    if ids.ndim != 1 or ids.dtype != np.int32:
        raise ValueError(f"{what}: ids are {ids.dtype}{list(ids.shape)}, not int32 of one dimension")
    if weights.shape != ids.shape or weights.dtype != np.float32:
        raise ValueError(f"{what}: weights are {weights.dtype}{list(weights.shape)}, ids {list(ids.shape)}")


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One conversation. ``weights[i]`` is the weight of the loss of predicting ``ids[i]`` from the ids before
    it: 0 where nothing is learned. The first id has nothing before it, so its weight never counts.

    Raises:
        ValueError: another dtype or shape than int32 and float32 of one and the same length.
    """

    ids: Ids  # (n,)
    weights: Weights  # (n,)

    def __post_init__(self) -> None:
        _check("Example", self.ids, self.weights)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_trained(self) -> int:
        """Tokens that something is learned from."""
        return int(np.count_nonzero(self.weights[1:]))


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A prompt and two answers to it, of which the first is preferred. ``chosen`` and ``rejected`` are what
    follows the prompt; all weights of the prompt are 0.

    Raises:
        ValueError: a prompt that is empty or not int32 of one dimension.
    """

    prompt_ids: Ids  # (n_prompt,)
    chosen: Example
    rejected: Example

    def __post_init__(self) -> None:
        if self.prompt_ids.ndim != 1 or self.prompt_ids.dtype != np.int32 or not len(self.prompt_ids):
            raise ValueError("Pair: prompt_ids are not int32 of one dimension with one id at least")

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.chosen) + len(self.rejected)
