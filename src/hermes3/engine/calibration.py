"""Which columns of a matrix matter: what a model feeds them while it reads a text.

A matrix's error shows in its output as the sum over columns of (error x input)^2, on average over tokens: the
mean square of a column's input is the weight of its weights' squared errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hermes3 import _native
from hermes3.engine.model import Layer, Model
from hermes3.engine.windows import window_batch
from hermes3.weights.checkpoint import Checkpoint

F32 = NDArray[np.float32]

# Share of the mean that is added to each column, lest one that the text left out count nothing.
FLOOR = 0.01


def importance(
    checkpoint: Checkpoint,
    windows: NDArray[np.int32],
    show: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, F32]:
    """Reads windows of a text and gives each matrix's importance of columns, 1 on average.

    Args:
        windows: ids, int32 (n_windows, n_ctx).
        show: told how many windows are read, of how many.

    Returns:
        by tensor's name, float32 (columns,), of all matrices that are multiplied with, a tied embedding among
        them as the head that it is.
    """
    n_ctx = windows.shape[1]
    model = Model.from_checkpoint(checkpoint, n_batch=n_ctx, n_rows=n_ctx)
    cache = model.new_cache(-(-n_ctx // _native.PAGE), model.kv_dtype)
    observer = _Observer(model)
    for index, window in enumerate(windows):
        show(index, len(windows))
        model.forward(window_batch(window, 0, n_ctx), cache)
    return observer.importance()


class _Observer:
    """Stands between a model and its products, and sums up the squares of what goes in."""

    def __init__(self, model: Model) -> None:
        self._names = {id(weights): names for weights, names in _named(model)}
        self._squares: dict[str, NDArray[np.float64]] = {}  # of each matrix's inputs, summed up: (columns,)
        self._n_rows: dict[str, int] = {}
        model.linear = self._linear

    def _linear(
        self,
        weights: Sequence[_native.Weight],
        x: F32,
        out: F32,
        norm: F32 | None,
        eps: float,
        swiglu: bool,
        accumulate: bool,
    ) -> None:
        inputs = _activated(x, norm, eps, swiglu)
        squares = np.square(inputs).sum(axis=0, dtype=np.float64)
        for name in self._names[id(weights)]:
            self._squares[name] = squares + self._squares.get(name, 0)
            self._n_rows[name] = self._n_rows.get(name, 0) + len(inputs)
        _native.linear(weights, x, out, norm, eps, swiglu, accumulate)

    def importance(self) -> dict[str, F32]:
        found = {}
        for name, squares in self._squares.items():
            mean = squares / self._n_rows[name]
            scale = float(mean.mean()) or 1.0
            found[name] = ((mean / scale + FLOOR) / (1 + FLOOR)).astype(np.float32)
        return found


def _activated(x: F32, norm: F32 | None, eps: float, swiglu: bool) -> F32:
    """What meets the matrix: float32 (n, columns), as ``_native.linear`` makes it of ``x``."""
    if norm is not None:
        scale = 1 / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + np.float32(eps))
        normed: F32 = (x * scale * norm).astype(np.float32)
        return normed
    if swiglu:
        gate, up = np.split(x, 2, axis=1)
        with np.errstate(over="ignore"):  # exp of a large number: the gate is 0 then
            product: F32 = (gate / (1 + np.exp(-gate)) * up).astype(np.float32)
        return product
    return x


def _named(model: Model) -> list[tuple[list[_native.Weight], list[str]]]:
    """The lists of weights that are multiplied at once, and their tensors' names."""
    head = "model.embed_tokens.weight" if model.config.tie_word_embeddings else "lm_head.weight"
    pairs = [(model._head, [head])]
    for index, layer in enumerate(model._layers):
        pairs += [(weights, [f"model.layers.{index}.{part}.weight" for part in parts])
                  for weights, parts in _parts(layer)]  # fmt: skip
    return pairs


def _parts(layer: Layer) -> list[tuple[list[_native.Weight], tuple[str, ...]]]:
    return [
        (layer.qkv, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        (layer.output, ("self_attn.o_proj",)),
        (layer.gate_up, ("mlp.gate_proj", "mlp.up_proj")),
        (layer.down, ("mlp.down_proj",)),
    ]
