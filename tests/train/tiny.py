"""Small models and made-up documents for the tests of training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hermes3.train.examples import Example, Pair
from hermes3.train.model import Llama
from hermes3.weights.config import ModelConfig
from tests.weights.tiny import CONFIG, hf_model

TIED = replace(CONFIG, tie_word_embeddings=True)


def documents(n: int, seed: int = 0, longest: int = 24) -> list[Example]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        size = int(rng.integers(4, longest + 1))
        weights = (rng.random(size) < 0.6).astype(np.float32)
        weights[-1] = 1
        made.append(Example(rng.integers(0, CONFIG.vocab_size, size, dtype=np.int32), weights))
    return made


def pairs(n: int, seed: int = 0) -> list[Pair]:
    def tail(example: Example) -> Example:
        return Example(example.ids, np.ones(len(example), np.float32))

    made = documents(3 * n, seed, 12)
    return [Pair(made[i].ids, tail(made[i + 1]), tail(made[i + 2])) for i in range(0, 3 * n, 3)]


def ours(config: ModelConfig = CONFIG) -> Llama:
    """Our model with the weights of ``hf_model``."""
    model = Llama(config)
    state = {name: value for name, value in hf_model(config).state_dict().items()
             if name != "lm_head.weight" or not config.tie_word_embeddings}
    model.load_state_dict(state)
    return model


def folder(path: Path, config: ModelConfig = CONFIG) -> Path:
    """A Hugging Face folder with a tokenizer of letters and ChatML's two tokens."""
    hf_model(config).save_pretrained(path)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: config.vocab_size - 3]
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    backend.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    return path


def hf_loss(model: torch.nn.Module, example: Example) -> torch.Tensor:
    """Sum of weighted negative log-likelihoods by transformers' logits, one document alone."""
    logits = model(torch.from_numpy(example.ids[None].astype(np.int64))).logits[0, :-1]
    targets = torch.from_numpy(example.ids[1:].astype(np.int64))
    nll = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (nll * torch.from_numpy(example.weights[1:])).sum()
