"""The forward pass of a Llama: one page of native calls over buffers made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hermes3 import _native
from hermes3.errors import FormatError, RequestError
from hermes3.weights.config import ModelConfig, rope_frequencies
from hermes3.weights.quant import GGMLType

if TYPE_CHECKING:
    from hermes3.engine.scheduler import Batch
    from hermes3.weights.checkpoint import Checkpoint

F32 = NDArray[np.float32]
KVType = Literal["f16", "f32", "q8_0"]

_FLOAT_TYPES = {GGMLType.F32, GGMLType.F16, GGMLType.BF16}


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer; those of one list share their input and become one native call."""

    input_norm: F32  # (hidden,)
    qkv: list[_native.Weight]
    output: list[_native.Weight]
    mlp_norm: F32  # (hidden,)
    gate_up: list[_native.Weight]
    down: list[_native.Weight]


class Model:
    """Weights in the kernels' layout, and the buffers of a step.

    Args:
        config: the model's shape.
        embedding: token embedding (vocab, hidden), also the head where that is tied.
        layers: in order.
        norm: last norm, float32 (hidden,).
        head: (vocab, hidden).
        frequencies: rotary angle per position, float32 (head_dim // 2,).
        eos_ids: ids that end an answer.
        n_batch: most tokens of a step.
        n_rows: most rows of logits of a step.

    Attributes:
        linear: the native product; calibration puts itself between, to see what goes into each matrix.
    """

    def __init__(
        self,
        config: ModelConfig,
        embedding: _native.Weight,
        layers: list[Layer],
        norm: F32,
        head: _native.Weight,
        frequencies: F32,
        *,
        eos_ids: frozenset[int],
        n_batch: int,
        n_rows: int,
    ) -> None:
        self.config = config
        self.eos_ids = eos_ids
        self.linear: Callable[..., None] = _native.linear
        self.n_batch = n_batch
        self.n_rows = n_rows
        self._embedding, self._layers, self._norm, self._head = embedding, layers, norm, [head]
        self._frequencies = frequencies
        width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self._x = np.empty((n_batch, config.hidden_size), np.float32)
        self._qkv = np.empty((n_batch, width + 2 * kv_width), np.float32)
        self._attention = np.empty((n_batch, width), np.float32)
        self._gate_up = np.empty((n_batch, 2 * config.intermediate_size), np.float32)
        self._logits = np.empty((n_rows, config.vocab_size), np.float32)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, *, n_batch: int = 512, n_rows: int = 16) -> Model:
        """Reads and repacks tensor by tensor, so that no more than one is in memory twice.

        Raises:
            FormatError: the file has changed since it was opened.
            MemoryError: the weights do not fit.
        """
        config = checkpoint.config
        embedding = _weight(checkpoint, "model.embed_tokens")
        layers = [_layer(checkpoint, f"model.layers.{i}") for i in range(config.num_hidden_layers)]
        return cls(
            config,
            embedding,
            layers,
            _norm(checkpoint, "model.norm"),
            embedding if config.tie_word_embeddings else _weight(checkpoint, "lm_head"),
            rope_frequencies(config, checkpoint.rope_factors),
            eos_ids=checkpoint.eos_ids,
            n_batch=n_batch,
            n_rows=n_rows,
        )

    @property
    def kv_dtype(self) -> KVType:
        """What suits the weights: float16 keys and values beside quantized ones, float32 beside floats."""
        weights = [weight for layer in self._layers for weight in (*layer.qkv, *layer.output, *layer.down)]
        return "f32" if all(GGMLType(weight.type) in _FLOAT_TYPES for weight in weights) else "f16"

    def page_bytes(self, dtype: KVType) -> int:
        """Bytes of a page's keys and values, all layers of them.

        Raises:
            RequestError: no such type, or none for heads of this model's size.
        """
        config = self.config
        if dtype not in get_args(KVType):
            names = ", ".join(get_args(KVType))
            raise RequestError(f"kv_dtype is {dtype!r:.80}, it must be one of {names}", param="kv_dtype")
        type = GGMLType[dtype.upper()]
        if config.head_dim % type.block_size:
            raise RequestError(
                f"kv_dtype {dtype} takes heads of a multiple of {type.block_size} values, this model's have "
                f"{config.head_dim}; f16 takes any",
                param="kv_dtype",
            )
        n_values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * _native.PAGE
        return n_values // type.block_size * type.block_bytes

    def new_cache(self, n_pages: int, dtype: KVType) -> _native.KVCache:
        """Keys and values of so many pages; the system commits the memory as it is written.

        Raises:
            MemoryError: not even the addresses are to be had.
        """
        config = self.config
        shape = (config.num_hidden_layers, n_pages, config.num_key_value_heads, config.head_dim)
        return _native.KVCache(*shape, dtype)

    def forward(self, batch: Batch, cache: _native.KVCache) -> F32:
        """Computes a step: writes its keys and values into the cache and returns the logits asked for.

        A row's values depend on its own sequence alone, bit for bit, whatever else is in the batch.

        Args:
            batch: at most n_batch tokens and n_rows rows.
            cache: holds the keys and values of all earlier positions of the batch's sequences.

        Returns:
            float32 (n_rows of the batch, vocab): a view that the next call overwrites.

        Raises:
            ValueError: a batch of more tokens or rows, or ids, slots or pages out of range.
        """
        n = len(batch.ids)
        if n > self.n_batch or len(batch.rows) > self.n_rows:
            raise ValueError(
                f"a batch of {n} tokens and {len(batch.rows)} rows, made for {self.n_batch} and {self.n_rows}"
            )
        return self.head(self.hidden(batch, cache), self._logits[: len(batch.rows)])

    def hidden(self, batch: Batch, cache: _native.KVCache) -> F32:
        """``forward`` up to the head, for any number of rows: hidden states, float32 (n_rows, hidden).

        Raises:
            ValueError: a batch of more tokens than n_batch, or ids, slots or pages out of range.
        """
        n, n_heads, eps = len(batch.ids), self.config.num_attention_heads, self.config.rms_norm_eps
        if n > self.n_batch:
            raise ValueError(f"a batch of {n} tokens, made for {self.n_batch}")
        x, qkv, xb, hb = self._x[:n], self._qkv[:n], self._attention[:n], self._gate_up[:n]
        cos, sin = self._rotations(batch.positions)
        where = (batch.query_offsets, batch.first_positions, batch.tables)
        _native.embed(self._embedding, batch.ids, x)
        for index, layer in enumerate(self._layers):
            self.linear(layer.qkv, x, qkv, layer.input_norm, eps, False, False)
            _native.rope_store(cache, index, qkv, cos, sin, batch.slots, n_heads)
            _native.attention(cache, index, qkv, xb, *where, n_heads)
            if index == len(self._layers) - 1:  # from here on nothing but the rows asked for is of use
                x, xb, hb = x[batch.rows], xb[batch.rows], hb[: len(batch.rows)]
            self.linear(layer.output, xb, x, None, eps, False, True)
            self.linear(layer.gate_up, x, hb, layer.mlp_norm, eps, False, False)
            self.linear(layer.down, hb, x, None, eps, True, True)
        return x

    def head(self, hidden: F32, out: F32) -> F32:
        """Logits of hidden states (n, hidden), into ``out``, float32 (n, vocab), which is returned."""
        self.linear(self._head, hidden, out, self._norm, self.config.rms_norm_eps, False, False)
        return out

    def _rotations(self, positions: NDArray[np.int32]) -> tuple[F32, F32]:
        """Cosine and sine, float32 (n_tokens, head_dim // 2).

        The angle is a float32 product, as in transformers: rough at large positions, but models are trained
        so. Its cosine is exact to a float32.
        """
        angles = (positions.astype(np.float32)[:, None] * self._frequencies).astype(np.float64)
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _layer(checkpoint: Checkpoint, prefix: str) -> Layer:
    return Layer(
        _norm(checkpoint, f"{prefix}.input_layernorm"),
        [_weight(checkpoint, f"{prefix}.self_attn.{part}_proj") for part in "qkv"],
        [_weight(checkpoint, f"{prefix}.self_attn.o_proj")],
        _norm(checkpoint, f"{prefix}.post_attention_layernorm"),
        [_weight(checkpoint, f"{prefix}.mlp.{part}_proj") for part in ("gate", "up")],
        [_weight(checkpoint, f"{prefix}.mlp.down_proj")],
    )


def _weight(checkpoint: Checkpoint, name: str) -> _native.Weight:
    entry = checkpoint.entries[f"{name}.weight"]
    n_rows, n_columns = entry.shape
    if entry.n_rope_heads:  # its rows change places first
        return _native.Weight(int(entry.type), n_rows, n_columns, checkpoint.tensor(f"{name}.weight").data)
    try:
        return _native.Weight.read(int(entry.type), n_rows, n_columns, str(entry.path), entry.offset)
    except RuntimeError as error:
        raise FormatError(f"{entry.path}: tensor {entry.name} cannot be read: {error}") from error


def _norm(checkpoint: Checkpoint, name: str) -> F32:
    return checkpoint.tensor(f"{name}.weight").values()
