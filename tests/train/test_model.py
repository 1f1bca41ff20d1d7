"""Our Llama and losses beside transformers' on the same random weights, each document alone there."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from hermes3.train import folders, losses
from hermes3.train import model as model_module
from hermes3.train.model import Batch, Recompute
from hermes3.train.packing import example_row, pair_row
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.config import ModelConfig
from hermes3.weights.quant import GGMLType
from tests.train.tiny import CONFIG, TIED, documents, folder, hf_loss, ours, pairs
from tests.weights.tiny import gguf_file, hf_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("is_fused", [False, True], ids=["autograd", "fused"])
@pytest.mark.parametrize("recompute", ["none", "mlp", "all"])
@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["untied", "tied"])
def test_logits_and_gradients(
    config: ModelConfig, recompute: Recompute, is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_VALUES", 16 * config.vocab_size)  # several chunks
    examples = documents(5, longest=90)
    model, theirs = ours(config), hf_model(config)
    model.set_recompute(recompute)
    model.set_fused(is_fused)
    batch = Batch.of(example_row(examples), CPU)
    alone = [theirs(torch.from_numpy(e.ids[None].astype(np.int64))).logits[0] for e in examples]
    torch.testing.assert_close(model.logits(batch), torch.cat(alone), rtol=1e-4, atol=1e-5)
    loss = losses.weighted_nll(model(batch)[batch.predictors], model.head, batch.targets, batch.weights)
    expected = sum(hf_loss(theirs, example) for example in examples)
    torch.testing.assert_close(loss, expected)
    (loss / 7).backward()
    (expected / 7).backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("is_fused", [False, True], ids=["autograd", "fused"])
@pytest.mark.parametrize("n_kept", [0, 10**6], ids=["made again", "kept"])
def test_log_probabilities_of_pairs_and_their_gradients(
    n_kept: int, is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_VALUES", 16 * CONFIG.vocab_size)
    monkeypatch.setattr(losses, "most_kept", lambda hidden: n_kept)
    made = pairs(3)
    model, theirs = ours(), hf_model()
    model.set_fused(is_fused)
    batch = Batch.of(pair_row(made), CPU)
    each = losses.token_log_probs(model(batch)[batch.predictors], model.head, batch.targets)
    sums = torch.zeros(6).index_add(0, batch.owners, each)
    expected = []
    for pair in made:
        for answer in (pair.chosen, pair.rejected):
            ids = torch.from_numpy(np.concatenate([pair.prompt_ids, answer.ids]).astype(np.int64))
            scores = theirs(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
            expected.append(scores[len(pair.prompt_ids) - 1 :].sum())
    torch.testing.assert_close(sums, torch.stack(expected))
    signs = torch.tensor([1.0, -2, 3, -1, 2, -3])
    (sums * signs).sum().backward()
    (torch.stack(expected) * signs).sum().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-4, msg=name)


def test_policy_equal_to_reference_gives_ln_2() -> None:
    scores = torch.tensor([-3.0, -40.0])
    each, chosen, rejected = losses.dpo(scores, scores - 5, scores, scores - 5, 0.1)
    torch.testing.assert_close(each, torch.full((2,), math.log(2)))
    assert not chosen.any()
    assert not rejected.any()


def test_a_gguf_file_loads_dequantized(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "m.gguf", CONFIG, GGMLType.Q8_0)
    checkpoint = open_checkpoint(path)
    model = folders.load(checkpoint)
    for name, parameter in model.named_parameters():
        assert np.array_equal(parameter.detach().numpy(), checkpoint.tensor(name).values())


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["untied", "tied"])
def test_transformers_opens_what_is_saved(tmp_path: Path, config: ModelConfig) -> None:
    source = folder(tmp_path / "source", config)
    model = folders.load(open_checkpoint(source))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    folders.save(model.state_dict(), source, tmp_path / "out", torch.float32, end_id=1)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    (example,) = documents(1)
    batch = Batch.of(example_row([example]), CPU)
    expected = theirs(batch.ids[None]).logits[0]
    torch.testing.assert_close(model.logits(batch), expected, rtol=1e-4, atol=1e-5)
    assert 1 in open_checkpoint(tmp_path / "out").eos_ids
    assert 1 in np.atleast_1d(theirs.generation_config.eos_token_id)


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, at: Tensor, until: Tensor, *sizes: int, **more: object
) -> Tensor:
    """What torch documents of ``varlen_attn``, in plain steps: causal, each sequence's last query beside its
    last key."""
    assert more == {"window_size": (-1, 0), "enable_gqa": True}
    assert (at.dtype, until.dtype) == (torch.int32, torch.int32)
    assert sizes == (int(at.diff().max()), int(until.diff().max()))
    group, parts = q.shape[1] // k.shape[1], []
    for i in range(len(at) - 1):
        own, keys = q[at[i] : at[i + 1]], k[until[i] : until[i + 1]].repeat_interleave(group, 1)
        scores = torch.einsum("qhd,khd->hqk", own, keys) / math.sqrt(q.shape[2])
        n, m = scores.shape[1:]
        scores = scores.masked_fill(torch.ones(n, m).tril(m - n) == 0, -math.inf)
        values = v[until[i] : until[i + 1]].repeat_interleave(group, 1)
        parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), values))
    return torch.cat(parts)


@pytest.mark.parametrize("kind", ["conversations", "pairs"])
def test_the_gpu_s_attention_is_asked_for_what_the_cpu_s_gives(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed: the kernel's place is taken by its description."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", _varlen)
    pieces = (example_row(documents(5)) if kind == "conversations" else pair_row(pairs(3))).pieces
    shapes = ((pieces[-1].stop, heads, 16) for heads in (4, 2, 2))
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    found = []
    for attend in (model_module._attend_each, model_module._attend_flash):
        out = attend(*inputs, pieces)
        found.append([out, *torch.autograd.grad((out * out.detach().cos()).sum(), inputs)])
    for each, flash in zip(*found, strict=True):
        torch.testing.assert_close(flash, each, rtol=1e-4, atol=1e-5)
