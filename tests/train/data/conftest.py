"""SmolLM2's vocabulary, ours and as transformers has it, with templates that say what is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from hermes3.tokenizer import Tokenizer
from hermes3.tokenizer.export import to_config, to_json
from hermes3.weights.checkpoint import open_checkpoint
from hermes3.weights.gguf_llama import GGUFVocabulary

# The template of Hermes-3-Llama-3.2-3B, what the assistant generates marked as transformers wants it.
MARKED = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{message['content'] + '<|im_end|>'}}{% endgeneration %}"
    "{% else %}{{message['content'] + '<|im_end|>'}}{% endif %}{{'\n'}}{% endfor %}"
)


@pytest.fixture(scope="session")
def smol_vocabulary(smol_gguf: Path) -> GGUFVocabulary:
    vocabulary = open_checkpoint(smol_gguf).vocabulary
    assert vocabulary is not None
    return vocabulary


@pytest.fixture(scope="session")
def smol(smol_vocabulary: GGUFVocabulary) -> Tokenizer:
    return Tokenizer.from_gguf(smol_vocabulary)


@pytest.fixture(scope="session")
def transformers_smol(smol_vocabulary: GGUFVocabulary, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("smol")
    (folder / "tokenizer.json").write_text(json.dumps(to_json(smol_vocabulary)))
    (folder / "tokenizer_config.json").write_text(json.dumps(to_config(smol_vocabulary, MARKED, 8192)))
    return AutoTokenizer.from_pretrained(folder)
