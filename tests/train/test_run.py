"""Runs from recipe to folder: what they leave, and that they go on exactly where they were stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hermes3.prompt.chatml import Template, render
from hermes3.prompt.messages import parse_messages
from hermes3.tokenizer import Tokenizer
from hermes3.train import folders
from hermes3.train.model import Batch
from hermes3.train.packing import example_row
from hermes3.weights.checkpoint import open_checkpoint
from tests.train.runs import go, recipe
from tests.train.tiny import documents

LORA = {"rank": 4, "alpha": 8, "dropout": 0.1}


def test_what_a_run_leaves_is_a_model_of_transformers(tmp_path: Path) -> None:
    made = recipe(tmp_path, data={"train": [str(tmp_path / "chats.jsonl")], "eval_share": 0.1},
                  evaluation={"every": 3, "samples": 2, "sample_tokens": 5})  # fmt: skip
    found = go(made)
    assert len(found) % 3
    assert np.mean(found[-3:]) < found[0] - 0.1
    out = tmp_path / "out" / "model"
    theirs = AutoModelForCausalLM.from_pretrained(out)
    batch = Batch.of(example_row(documents(1)), torch.device("cpu"))
    ours = folders.load(open_checkpoint(out))
    torch.testing.assert_close(ours.logits(batch), theirs(batch.ids[None]).logits[0], rtol=1e-4, atol=1e-5)
    turns = [{"role": "user", "content": "(1)"}, {"role": "assistant", "content": "2"}]
    ids = AutoTokenizer.from_pretrained(out).apply_chat_template(turns)["input_ids"]
    tokenizer = Tokenizer.from_file(out / "tokenizer.json")
    segments = render(parse_messages(turns), template=Template(), add_generation_prompt=False)
    assert ids == tokenizer.encode_segments(segments)
    assert tokenizer.token_id("<|im_end|>") in open_checkpoint(out).eos_ids
    assert json.loads((out / "recipe.json").read_text())["lr"] == 0.01
    events = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.count("evaluation") == 1 + -(-len(found) // 3)
    assert kinds.count("sample") == 2 * kinds.count("evaluation")


@pytest.mark.parametrize(
    ("changes", "stop_after"),
    [
        ({}, 1),
        ({"neftune_alpha": 5.0, "recompute": "all"}, 5),
        ({"lora": LORA, "recompute": "mlp"}, 4),
        ({"method": "dpo", "lora": LORA, "rmsprop": {}, "neftune_alpha": 5.0}, 3),
        ({"precision": "mixed"}, 2),
        ({"precision": "bf16", "method": "dpo"}, 5),
    ],
    ids=["sft", "noise", "lora", "dpo", "mixed", "bf16"],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, changes: dict[str, object], stop_after: int
) -> None:
    whole = go(recipe(tmp_path, output=str(tmp_path / "whole"), **changes))
    assert len(whole) >= 6
    cut = recipe(tmp_path, output=str(tmp_path / "cut"), **changes)
    assert go(cut, stop_after) == whole[:stop_after]
    assert not (tmp_path / "cut" / "model").exists()
    assert go(cut) == whole
    left, right = (open_checkpoint(tmp_path / name / "model") for name in ("whole", "cut"))
    for name in left.names:
        assert np.array_equal(left.tensor(name).data, right.tensor(name).data)
