"""Whole runs beside TRL's trainers, step by step, and adapters beside PEFT's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from hermes3.train import lora, losses
from hermes3.train.events import Step
from hermes3.train.examples import Example
from hermes3.train.loop import Loop, forward
from hermes3.train.model import Batch, Llama
from hermes3.train.objectives import NextToken, Objective, Preference, answer_log_probs
from hermes3.train.optimizer import optimizer_of
from hermes3.train.order import Documents
from hermes3.train.packing import example_row
from hermes3.train.ranks import Ranks
from hermes3.train.recipe import Lora, Recipe
from tests.train.tiny import documents, folder, ours, pairs
from tests.weights.tiny import hf_model

ALONE = Ranks(0, 1, torch.device("cpu"))
N_STEPS, PER_STEP = 20, 4
SFT: dict[str, Any] = {"method": "sft", "lr": 5e-3, "warmup_steps": 3, "schedule": "cosine"}
DPO: dict[str, Any] = {"method": "dpo", "lr": 1e-3, "warmup_steps": 3, "schedule": "linear", "rmsprop": {}}

TRL_NAMES = {"reward_chosen": "chosen", "reward_rejected": "rejected", "margin": "margins",
             "accuracy": "accuracies"}  # fmt: skip


@dataclass(frozen=True)
class InTurn:
    """Documents as they come: two rows of two a step, as two batches of two."""

    n_steps: int = N_STEPS

    def rows(self, step: int) -> list[Documents]:
        first = PER_STEP * step
        return [(first, first + 1), (first + 2, first + 3)]

    def epochs_done(self, n_steps: int) -> float:
        return n_steps / self.n_steps

    def noise_seed(self, step: int, row: int) -> int:
        return step * PER_STEP + row


def our_steps(model: Llama, objective: Objective, changes: dict[str, Any]) -> list[Step]:
    values = {"model": "m", "output": "o", "data": {"train": ["d"]}, "precision": "fp32", **changes}
    recipe = Recipe.of(values)
    seen: list[Step] = []
    Loop(recipe, model, optimizer_of(recipe, model), objective, InTurn(), ALONE, 1e9,  # type: ignore[arg-type]
         lambda event: seen.append(event), lambda n_done: True).run(0)  # type: ignore[arg-type]  # fmt: skip
    return seen


def their_steps(trainer: Any) -> list[dict[str, float]]:
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


def settings(tmp: Path, changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": str(tmp / "trl"), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "max_steps": N_STEPS, "learning_rate": changes["lr"], "warmup_steps": changes["warmup_steps"],
        "lr_scheduler_type": changes["schedule"], "logging_steps": 1, "report_to": "none", "use_cpu": True,
        "save_strategy": "no", "bf16": False, "max_length": None,
        "dataloader_pin_memory": False,
    }  # fmt: skip


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerFast:
    folder(tmp_path / "base")
    file = str(tmp_path / "base" / "tokenizer.json")
    return PreTrainedTokenizerFast(tokenizer_file=file, eos_token="<|im_end|>", pad_token="<|im_end|>")


def test_sft_goes_as_trl_s(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [Example(e.ids, np.float32(e.weights > 0)) for e in documents(N_STEPS * PER_STEP, longest=60)]
    model = ours()
    n_trained = np.array([example.n_trained for example in examples])
    mine = our_steps(model, NextToken(examples, n_trained), {**SFT, "adamw": {"weight_decay": 0.01}})
    rows = [{"input_ids": e.ids.tolist(), "labels": np.where(e.weights > 0, e.ids, -100).tolist()}
            for e in examples]  # fmt: skip
    args = SFTConfig(**settings(tmp_path, SFT), weight_decay=0.01, optim="adamw_torch",
                     dataset_kwargs={"skip_prepare_dataset": True})  # fmt: skip
    theirs = hf_model()
    trainer = SFTTrainer(theirs, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    found = their_steps(trainer)
    assert len(found) == len(mine) == N_STEPS
    for step, line in zip(mine, found, strict=True):
        assert step.values["loss"] == pytest.approx(line["loss"], abs=5e-4)
        assert step.grad_norm == pytest.approx(line["grad_norm"], rel=2e-3)
        assert step.lr == pytest.approx(line["learning_rate"], rel=1e-6)
    assert mine[-1].values["loss"] != pytest.approx(mine[0].values["loss"], abs=5e-3)
    trained = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, trained[name], rtol=1e-2, atol=2e-4, msg=name)


class _Ready(DPOTrainer):
    """TRL's trainer over ids that are there already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


def test_dpo_goes_as_trl_s(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    made = pairs(N_STEPS * PER_STEP)
    model = ours()
    reference = np.empty((len(made), 2), np.float32)
    objective = Preference(made, 0.1, reference)
    scored = forward(Recipe.of({"model": "m", "output": "o", "data": {"train": ["d"]}, "method": "dpo",
                                "precision": "fp32"}), model, [(i,) for i in range(len(made))], ALONE,
                     objective.row, lambda rows: answer_log_probs)  # fmt: skip
    for (index,), scores in scored:
        reference[index] = scores.numpy()
    mine = our_steps(model, objective, DPO)
    rows = [{"prompt_ids": p.prompt_ids.tolist(), "chosen_ids": p.chosen.ids.tolist(),
             "rejected_ids": p.rejected.ids.tolist()} for p in made]  # fmt: skip
    args = DPOConfig(**settings(tmp_path, DPO), beta=0.1, optim="rmsprop", weight_decay=0.0)
    data = Dataset.from_list(rows)
    trainer = _Ready(hf_model(), hf_model(), args, train_dataset=data, processing_class=tokenizer)
    found = their_steps(trainer)
    assert mine[0].values["loss"] == pytest.approx(np.log(2), abs=1e-6)
    for step, line in zip(mine, found, strict=True):
        assert step.values["loss"] == pytest.approx(line["loss"], abs=1e-3)
        for name, theirs in (
            ("reward_chosen", "chosen"),
            ("reward_rejected", "rejected"),
            ("margin", "margins"),
        ):
            assert step.values[name] == pytest.approx(line[f"rewards/{theirs}"], abs=2e-3)
    assert abs(mine[-1].values["loss"] - np.log(2)) > 0.02


def adapted() -> tuple[Llama, Lora]:
    """Our model with additions that are not zero."""
    settings = Lora(rank=4, alpha=8, dropout=0.0, targets=("q_proj", "v_proj", "down_proj"))
    model = ours()
    lora.add(model, settings)
    lora.begin(model, 3)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model, settings


def test_peft_opens_an_adapter_and_has_its_gradients(tmp_path: Path) -> None:
    model, settings = adapted()
    lora.save(model.state_dict(), settings, "base", tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(hf_model(), tmp_path / "adapter", is_trainable=True)
    (example,) = documents(1, longest=60)
    batch = Batch.of(example_row([example]), torch.device("cpu"))
    logits = theirs(batch.ids[None]).logits[0]
    torch.testing.assert_close(model.logits(batch), logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits, hf_model()(batch.ids[None]).logits[0], atol=1e-3)
    losses.weighted_nll(model(batch)[batch.predictors], model.head, batch.targets, batch.weights).backward()
    scores = logits.log_softmax(-1)[batch.predictors].gather(1, batch.targets[:, None])[:, 0]
    (-scores * batch.weights).sum().backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    mine = {f"base_model.model.{name.replace('.weight', '.default.weight')}": p.grad
            for name, p in model.named_parameters() if p.grad is not None}  # fmt: skip
    assert mine.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_merging_is_peft_s(tmp_path: Path) -> None:
    model, settings = adapted()
    lora.save(model.state_dict(), settings, "base", tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(hf_model(), tmp_path / "adapter").merge_and_unload().state_dict()
    for name, tensor in lora.merged(model.state_dict(), settings).items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-6, atol=1e-7, msg=name)


def test_additions_begin_as_peft_s() -> None:
    settings = Lora(rank=4)
    model = ours()
    lora.add(model, settings)
    lora.begin(model, 0)
    theirs = get_peft_model(hf_model(), LoraConfig(r=4, target_modules=list(settings.targets)))

    def spread(values: Sequence[torch.Tensor]) -> tuple[float, float]:
        flat = torch.cat([value.flatten() for value in values])
        return float(flat.std()), float(flat.abs().max())

    mine = spread([p for name, p in model.named_parameters() if "lora_A" in name])
    other = spread([p for name, p in theirs.named_parameters() if "lora_A" in name])
    assert mine == pytest.approx(other, rel=0.02)
    assert not any(p.any() for name, p in model.named_parameters() if "lora_B" in name)
