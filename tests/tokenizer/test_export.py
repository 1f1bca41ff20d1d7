"""Tokenizers carried from GGUF to tokenizer.json and back give the ids that they gave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers
from transformers import AutoTokenizer

from hermes3.errors import FormatError, UnsupportedError
from hermes3.tokenizer import Tokenizer
from hermes3.tokenizer.export import FullVocabulary, to_config, to_json, to_lists
from hermes3.weights.gguf_llama import GGUFVocabulary
from tests.tokenizer import corpus
from tests.tokenizer.conftest import Llama3Vocabulary

TEXTS = [*corpus.SCRIPTS, *corpus.EMOJI, *corpus.SPECIAL, corpus.CONTRACTIONS, "  a\n\n b\t12345678 1.5\r\n"]


def as_full(vocabulary: Llama3Vocabulary) -> FullVocabulary:
    fields = {name: getattr(vocabulary, name) for name in vocabulary.__dataclass_fields__}
    return GGUFVocabulary(**fields, eos_ids=frozenset(), unknown_id=None, padding_id=None)


def written(folder: Path, vocabulary: FullVocabulary) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(to_json(vocabulary)))
    config = to_config(vocabulary, "{{ messages }}", 8192)
    path.with_name("tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(params=["smol", "llama3"])
def vocabulary(
    request: pytest.FixtureRequest, smol_vocabulary: GGUFVocabulary, llama3_vocabulary: Llama3Vocabulary
) -> FullVocabulary:
    return smol_vocabulary if request.param == "smol" else as_full(llama3_vocabulary)


def test_transformers_gives_the_same_ids(tmp_path: Path, vocabulary: FullVocabulary) -> None:
    ours = Tokenizer.from_gguf(vocabulary)
    theirs = AutoTokenizer.from_pretrained(written(tmp_path, vocabulary).parent)
    assert len(theirs) == ours.vocab_size
    for text in TEXTS:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode(text, allow_special=True), text
    head = [ours.bos_id] if ours.add_bos else []
    assert theirs("hello")["input_ids"] == head + ours.encode("hello")
    assert theirs.eos_token_id == vocabulary.eos_id
    assert theirs.chat_template == "{{ messages }}"


def test_and_back(tmp_path: Path, vocabulary: FullVocabulary) -> None:
    path = written(tmp_path, vocabulary)
    lists = to_lists(path, len(vocabulary.tokens) + 5)
    n_tokens = len(vocabulary.tokens)
    assert lists.tokens[:n_tokens] == list(vocabulary.tokens)
    assert lists.tokens[n_tokens:] == [f"[PAD{n_tokens + i}]" for i in range(5)]
    assert lists.token_types[:n_tokens] == list(vocabulary.token_types or ())
    assert lists.merges == list(vocabulary.merges)
    assert (lists.pre, lists.bos_id, lists.eos_id) == (vocabulary.pre, vocabulary.bos_id, vocabulary.eos_id)
    assert (lists.padding_id, lists.unknown_id) == (vocabulary.padding_id, vocabulary.unknown_id)
    again = Tokenizer.from_gguf(lists)
    ours = Tokenizer.from_gguf(vocabulary)
    assert again.add_bos == ours.add_bos
    for text in TEXTS:
        assert again.encode(text, allow_special=True) == ours.encode(text, allow_special=True)
    assert to_json(lists)["model"] == to_json(vocabulary)["model"]


def test_what_gguf_cannot_say_is_refused(tmp_path: Path, smol_vocabulary: GGUFVocabulary) -> None:
    path = written(tmp_path, smol_vocabulary)
    with pytest.raises(FormatError, match="has 49152 tokens, the embedding 49151 rows"):
        to_lists(path, 49151)
    backend = Backend.from_file(str(path))
    backend.normalizer = normalizers.NFC()
    backend.save(str(path))
    with pytest.raises(UnsupportedError, match="a normalizer, which a GGUF file cannot hold"):
        to_lists(path, 49152)
    spec = to_json(smol_vocabulary)
    spec["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    path.write_text(json.dumps(spec))
    with pytest.raises(UnsupportedError, match=r"not known; known are llama-bpe, smollm, gpt-2"):
        to_lists(path, 49152)
