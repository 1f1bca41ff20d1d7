"""Tokenizers from one file format to the other: tokenizer.json to the lists of a GGUF file, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, processors

from hermes3.errors import FormatError, UnsupportedError
from hermes3.tokenizer.bpe import Parts, build_bpe
from hermes3.tokenizer.gguf import (
    CONTROL,
    LLAMA3_NAMES,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    merge_pairs,
    pre_tokenizer_named,
)
from hermes3.tokenizer.json_file import read_json, read_tokenizer_json, token_named

_PRE_NAMES = (LLAMA3_NAMES[0], "smollm", "gpt-2")
_FILLER = "[PAD{}]"  # llama.cpp's converter: rows of the embedding that no token has


@dataclass(frozen=True, slots=True)
class ListedVocabulary:
    """A tokenizer as lists: a ``Vocabulary`` made of a tokenizer.json; fields as there."""

    model: str
    pre: str | None
    tokens: list[str]
    merges: list[str]
    token_types: list[int]
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    unknown_id: int | None
    padding_id: int | None
    add_bos: bool | None
    chat_template: str | None


def to_lists(tokenizer_json: Path, n_rows: int) -> ListedVocabulary:
    """What a GGUF file has to say of the tokenizer in a ``tokenizer.json``.

    Args:
        n_rows: of the embedding; ids without a token get a filler that no text becomes.

    Raises:
        UnsupportedError: a normalizer or pre-tokenizer for which GGUF has no name, or none known here.
        FormatError: as ``Tokenizer.from_file``; or more tokens than rows.
    """
    spec = read_json(tokenizer_json)
    parts = read_tokenizer_json(tokenizer_json)
    if len(parts.tokens) > n_rows:
        raise FormatError(f"{tokenizer_json} has {len(parts.tokens)} tokens, the embedding {n_rows} rows")
    tokens = [*parts.tokens, *[None] * (n_rows - len(parts.tokens))]
    end = next(iter(parts.eos_ids), None)
    ids = {text: i for i, text in enumerate(parts.tokens)}
    config_path = tokenizer_json.with_name("tokenizer_config.json")
    config = read_json(config_path) if config_path.is_file() else {}
    eot = next((parts.added[text] for text in ("<|eot_id|>", "<|im_end|>") if text in parts.added), None)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]]
    return ListedVocabulary(
        model="gpt2",
        pre=_name_of(spec, tokenizer_json),
        tokens=[_FILLER.format(i) if text is None else text for i, text in enumerate(tokens)],
        merges=merges,
        token_types=_types(parts, tokens),
        bos_id=parts.bos_id,
        eos_id=end,
        eot_id=None if eot == end else eot,
        unknown_id=ids.get(token_named(config, "unk_token")),
        padding_id=ids.get(token_named(config, "pad_token")),
        add_bos=parts.add_bos and parts.bos_id is not None,
        chat_template=parts.chat_template,
    )


def to_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """The ``tokenizer.json`` of a GGUF vocabulary, such that transformers gives the same ids.

    Raises:
        UnsupportedError, FormatError: as ``Tokenizer.from_gguf``.
    """
    if vocabulary.model != "gpt2" or vocabulary.token_types is None:
        raise UnsupportedError(f"tokenizer.ggml.model is {vocabulary.model!r} or has no token types")
    kinds = dict(zip(vocabulary.tokens, vocabulary.token_types, strict=True))
    added = {text: kind for text, kind in kinds.items() if kind in (CONTROL, USER_DEFINED)}
    words = {text: i for i, text in enumerate(vocabulary.tokens) if not _is_filler(text, i, kinds[text])}
    ids = [words[text] for text in added]
    if ids and min(ids) == len(words) - len(ids):  # behind all others, as in Llama 3's own file
        words = dict(list(words.items())[: min(ids)])
    is_llama3 = vocabulary.pre in LLAMA3_NAMES
    backend = build_bpe(words, merge_pairs(vocabulary.merges), added=(), ignore_merges=is_llama3)
    backend.pre_tokenizer = pre_tokenizer_named(vocabulary.pre)
    backend.decoder = decoders.ByteLevel()
    if vocabulary.bos_id is not None and (is_llama3 if vocabulary.add_bos is None else vocabulary.add_bos):
        bos = vocabulary.tokens[vocabulary.bos_id]
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"],
            pair=[bos, "$A", f"{bos}:1", "$B:1"],
            special_tokens=[(bos, vocabulary.bos_id)],
        )
    spec: dict[str, Any] = json.loads(backend.to_str())
    spec["added_tokens"] = [_entry(i, text, kinds[text]) for i, text in _by_id(vocabulary.tokens, added)]
    return spec


class FullVocabulary(Vocabulary, Protocol):
    """A vocabulary that may name a token for padding and one for the unknown, too."""

    @property
    def unknown_id(self) -> int | None: ...
    @property
    def padding_id(self) -> int | None: ...


def to_config(vocabulary: FullVocabulary, chat_template: str | None, n_positions: int) -> dict[str, Any]:
    """The ``tokenizer_config.json`` beside it, as transformers reads it."""
    named = {"bos_token": vocabulary.bos_id, "eos_token": vocabulary.eos_id}
    named |= {"pad_token": vocabulary.padding_id, "unk_token": vocabulary.unknown_id}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": n_positions,
        **({} if vocabulary.add_bos is None else {"add_bos_token": vocabulary.add_bos}),
        **{key: vocabulary.tokens[i] for key, i in named.items() if i is not None},
        **({} if chat_template is None else {"chat_template": chat_template}),
    }


def _types(parts: Parts, tokens: Sequence[str | None]) -> list[int]:
    special = set(parts.control_ids)
    others = set(parts.added.values())
    return [
        UNUSED if text is None else CONTROL if i in special else USER_DEFINED if i in others else NORMAL
        for i, text in enumerate(tokens)
    ]


def _name_of(spec: Mapping[str, Any], path: Path) -> str:
    """GGUF's name for the pre-tokenizer: the one that spells it as the file does."""
    if spec.get("normalizer") is not None:
        raise UnsupportedError(f"{path}: a normalizer, which a GGUF file cannot hold")
    wanted = _without_offsets(spec.get("pre_tokenizer"))
    for name in _PRE_NAMES:
        probe = Backend(models.BPE())
        probe.pre_tokenizer = pre_tokenizer_named(name)
        if _without_offsets(json.loads(probe.to_str())["pre_tokenizer"]) != wanted:
            continue
        if bool(spec["model"].get("ignore_merges")) == (name in LLAMA3_NAMES):
            return name
    raise UnsupportedError(
        f"{path}: GGUF's name for this pre_tokenizer is not known; known are {', '.join(_PRE_NAMES)}"
    )


def _without_offsets(part: Any) -> Any:
    """A pre-tokenizer's description less what has no influence on ids."""
    if isinstance(part, list):
        return [_without_offsets(each) for each in part]
    if isinstance(part, dict):
        return {key: _without_offsets(value) for key, value in part.items() if key != "trim_offsets"}
    return part


def _is_filler(text: str, token_id: int, kind: int) -> bool:
    return kind == UNUSED and text == _FILLER.format(token_id)


def _by_id(tokens: Sequence[str], added: Mapping[str, int]) -> list[tuple[int, str]]:
    return [(i, text) for i, text in enumerate(tokens) if text in added]


def _entry(token_id: int, text: str, kind: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": text, **flags, "special": kind == CONTROL}
