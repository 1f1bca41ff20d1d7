"""Layers by hand and gradients in place, beside autograd."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from hermes3.train import attention, gradients, losses
from hermes3.train.model import Batch, Llama, Recompute
from hermes3.train.packing import Row, example_row, pair_row
from hermes3.weights.config import ModelConfig
from tests.train.tiny import CONFIG, TIED, documents, ours, pairs

CPU = torch.device("cpu")


def read(states: Tensor, head: Tensor, batch: Batch) -> Tensor:
    return losses.weighted_nll(states, head, batch.targets, batch.weights)


def learn(model: Llama, rows: Sequence[Row]) -> list[float]:
    """One backward pass for each row; the losses."""
    found = []
    for row in rows:
        loss = model(Batch.of(row, CPU), read)
        (loss / 3).backward()
        found.append(float(loss))
    return found


@pytest.mark.parametrize("recompute", ["none", "mlp", "all"])
@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["untied", "tied"])
@pytest.mark.parametrize("n_kept", [0, 10**6], ids=["made again", "kept"])
def test_gradients_in_place_are_autograd_s(
    n_kept: int, config: ModelConfig, recompute: Recompute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_VALUES", 16 * config.vocab_size)
    monkeypatch.setattr(losses, "most_kept", lambda hidden: n_kept)
    monkeypatch.setattr(attention, "BLOCK", 7)
    rows = [example_row(documents(3, longest=40)), pair_row(pairs(2)), example_row(documents(2, seed=5))]
    plain = ours(config)
    model = copy.deepcopy(plain)
    model.set_fused(True)
    model.set_recompute(recompute)
    gradients.add_in_place(model.parameters())
    for _ in range(2):  # the second step finds no gradients again
        torch.testing.assert_close(learn(model, rows), learn(plain, rows))
        expected = dict(plain.named_parameters())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-5, msg=name)
        model.zero_grad(set_to_none=True)
        plain.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("recompute", "share"), [("none", 0.55), ("mlp", 0.65)])
def test_less_is_kept_than_by_autograd(recompute: Recompute, share: float) -> None:
    row = example_row(documents(4, longest=200))
    config = replace(CONFIG, intermediate_size=192, head_dim=16)  # in Llama's proportions

    def kept(is_fused: bool) -> int:
        model = ours(config)
        model.set_fused(is_fused)
        model.set_recompute(recompute)
        own = {parameter.data_ptr() for parameter in model.parameters()}
        sizes: dict[int, int] = {}
        held: list[Tensor] = []  # so that no address is used twice

        def pack(tensor: Tensor) -> Tensor:
            held.append(tensor)
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            model(Batch.of(row, CPU))
        return sum(sizes.values())

    assert kept(True) < share * kept(False)


def test_a_frozen_embedding_stays_autograd_s() -> None:
    """LoRA marks only what it trains."""
    weight = torch.randn(5, 4)
    assert not gradients.does_add(weight)
    torch.testing.assert_close(gradients.embedded(torch.tensor([1, 3]), weight), weight[[1, 3]])
