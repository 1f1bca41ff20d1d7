"""What a run leaves, read by the engine and by llama.cpp: the logits and the ids of the model in training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.peers import llama_server
from hermes3.compare.measure import Subject
from hermes3.convert.recipes import RECIPES
from hermes3.convert.to_gguf import to_gguf
from hermes3.train import folders
from hermes3.train.build import text_of
from hermes3.train.examples import Example
from hermes3.train.model import Batch
from hermes3.train.packing import Row, example_row
from hermes3.train.ranks import Ranks
from hermes3.weights.checkpoint import open_checkpoint
from tests.cli.program import inside
from tests.convert.quiet import QUIET
from tests.train.runs import go, recipe
from tests.train.tiny import CONFIG, documents

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_the_engine_has_the_logits_of_the_trained_model(tmp_path: Path) -> None:
    go(recipe(tmp_path, max_steps=3))
    out = tmp_path / "out" / "model"
    to_gguf(open_checkpoint(out), tmp_path / "m.gguf", RECIPES["f32"], QUIET)
    (example,) = [each for each in documents(40, longest=24) if len(each) == 24][:1]
    row = example_row([example])
    expected = logits_of(out, row)
    assert np.abs(expected - logits_of(tmp_path / "base", row)).max() > 0.1
    for path in (out, tmp_path / "m.gguf"):
        found = Subject("m", open_checkpoint(path), 24).logits(example.ids)
        assert found.shape == (11, CONFIG.vocab_size)
        np.testing.assert_allclose(found, expected[12:-1], rtol=1e-3, atol=1e-4)


def logits_of(folder: Path, row: Row) -> NDArray[np.float32]:
    """Of all tokens of a row, by our model in torch."""
    with torch.no_grad():
        return folders.load(open_checkpoint(folder)).logits(Batch.of(row, ALONE.device)).numpy()


@pytest.mark.long  # trains SmolLM2
def test_llama_cpp_answers_as_the_trained_model(tmp_path: Path, smol_gguf: Path, llama_cpp: Path) -> None:
    conversation = {"messages": [{"role": "user", "content": "What is six and six?"},
                                 {"role": "assistant", "content": "It is twelve, my friend."}]}  # fmt: skip
    (tmp_path / "chats.jsonl").write_text(json.dumps(conversation))
    out = tmp_path / "out"
    values = {"method": "sft", "model": str(smol_gguf), "output": str(out), "precision": "fp32",
              "data": {"train": [str(tmp_path / "chats.jsonl")]}, "batch_size": 1, "epochs": 4,
              "max_length": 256, "lr": 1e-4, "export_type": "f16"}  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    done = inside("train", "sft", str(tmp_path / "recipe.json"), "--gguf", "f16")
    assert done.returncode == 0, done.stderr
    same_answers(out / "model", out / "model.f16.gguf", llama_cpp)


def same_answers(folder: Path, gguf: Path, llama_cpp: Path) -> None:
    """24 greedy ids and their log-probabilities; none that ends an answer may be chosen."""
    checkpoint = open_checkpoint(folder)
    tokenizer, _ = text_of(checkpoint)
    prompt = tokenizer.encode("What is five and five? It is ten. What is six and six? It is")
    ends = sorted(tokenizer.token_id(text) or 0 for text in ("<|im_end|>", "<|endoftext|>"))
    asked = {"prompt": prompt, "n_predict": 24, "temperature": 0, "n_probs": 1, "ignore_eos": True}
    with llama_server(str(llama_cpp / "llama-server"), gguf, 2, 512, 1) as server:
        tokens = server.post("/completion", asked)["completion_probabilities"]
    model, ids, log_probs = folders.load(checkpoint), list(prompt), []
    for _ in range(24):
        row = example_row([Example(np.array(ids, np.int32), np.ones(len(ids), np.float32))])
        with torch.no_grad():
            scores = model.logits(Batch.of(row, ALONE.device))[-1].log_softmax(-1)
        ids.append(int(scores.index_fill(0, torch.tensor(ends), -np.inf).argmax()))
        log_probs.append(float(scores[ids[-1]]))
    assert [token["id"] for token in tokens] == ids[len(prompt) :]
    assert [token["logprob"] for token in tokens] == pytest.approx(log_probs, abs=0.02)
