"""The tokenizer in a ``tokenizer.json``, and what the files beside it say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from hermes3.errors import FormatError, UnsupportedError
from hermes3.tokenizer.bpe import Parts, build_bpe

MAX_FILE = 1 << 28  # bytes of a tokenizer.json; the largest known, of 262k tokens, has 33 MB

MAX_ID = 1 << 22  # highest id read; the largest vocabularies known have 262,144 tokens


def read_tokenizer_json(path: Path) -> Parts:
    """What ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja`` say, checked.

    Raises:
        UnsupportedError: a tokenizer of a kind that is not byte-level BPE, named.
        FormatError: a file that is damaged or not what its name says.
    """
    spec = read_json(path)
    config_path = path.with_name("tokenizer_config.json")
    config = read_json(config_path) if config_path.is_file() else {}
    model = _bpe_model(spec, path)
    added_tokens = _added_tokens(spec, path)
    added = {entry["content"]: entry["id"] for entry in added_tokens}
    vocab = {**model["vocab"], **added}
    bos, eos = token_named(config, "bos_token"), token_named(config, "eos_token")
    return Parts(
        _encoder(spec, path, model, added),
        tokens=_by_id(vocab, path),
        added=added,
        control_ids=[entry["id"] for entry in added_tokens if entry.get("special")],
        bos_id=None if bos is None else _id_of(bos, vocab, path),
        eos_ids=frozenset() if eos is None else frozenset({_id_of(eos, vocab, path)}),
        add_bos=_adds_bos(spec, config, bos, path),
        chat_template=_chat_template(path, config),
    )


def read_json(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise FormatError(f"{path} has {size} bytes, at most {MAX_FILE} are read.")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path} holds no JSON object.")
    return content


def _bpe_model(spec: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The model of a tokenizer.json, checked to be byte-level BPE without the variants not supported."""
    model = spec.get("model")
    if not isinstance(model, dict):
        raise FormatError(f"{path} holds no tokenizer: 'model' is missing.")
    kind = model.get("type", "BPE")
    decoder = spec["decoder"].get("type") if isinstance(spec.get("decoder"), dict) else None
    if kind != "BPE" or decoder != "ByteLevel":
        raise UnsupportedError(
            f"{path}: model {kind!r} with decoder {decoder!r}; only byte-level BPE is supported."
        )
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise UnsupportedError(f"{path}: model.{option} is {model[option]!r}; it must be unset.")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list) or not all(map(_is_id, vocab.values())):
        raise FormatError(f"{path}: model.vocab must map tokens to ids, model.merges must be a list.")
    return model


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_ID


def _added_tokens(spec: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    entries = spec.get("added_tokens") or []
    for entry in entries:
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str) or not content or not _is_id(entry.get("id")):
            raise FormatError(f"{path}: an entry of added_tokens has no content or no id.")
        for option in ("lstrip", "rstrip", "single_word"):
            if entry.get(option):
                raise UnsupportedError(
                    f"{path}: the added token {content!r} sets {option}, which is not supported."
                )
    return list(entries)


def _encoder(
    spec: Mapping[str, Any], path: Path, model: Mapping[str, Any], added: Mapping[str, int]
) -> Backend:
    """The BPE model with the normalizer and the pre-tokenizer of a tokenizer.json."""
    pairs = (tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"])
    encoder = build_bpe(model["vocab"], pairs, added=added, ignore_merges=bool(model.get("ignore_merges")))
    parts = {name: spec.get(name) for name in ("normalizer", "pre_tokenizer")}
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    try:
        described = Backend.from_str(json.dumps(empty | parts))
    except Exception as error:  # tokenizers raises bare Exception
        raise FormatError(f"{path}: normalizer or pre_tokenizer cannot be read: {error}.") from error
    if described.normalizer is not None:
        encoder.normalizer = described.normalizer
    if described.pre_tokenizer is not None:
        encoder.pre_tokenizer = described.pre_tokenizer
    return encoder


def _by_id(vocab: Mapping[str, int], path: Path) -> list[str | None]:
    tokens: list[str | None] = [None] * (1 + max(vocab.values(), default=-1))
    for text, token_id in vocab.items():
        if tokens[token_id] is not None:
            raise FormatError(
                f"{path}: the tokens {tokens[token_id]!r} and {text!r} have the same id {token_id}."
            )
        tokens[token_id] = text
    return tokens


def _id_of(token: str, vocab: Mapping[str, int], path: Path) -> int:
    if token not in vocab:
        raise FormatError(f"{path}: tokenizer_config.json beside it names {token!r}, which is no token.")
    return vocab[token]


def token_named(config: Mapping[str, Any], key: str) -> str | None:
    """A token in tokenizer_config.json, written as a string or as an object with ``content``."""
    value = config.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _adds_bos(spec: Mapping[str, Any], config: Mapping[str, Any], bos: str | None, path: Path) -> bool:
    """What the config says, else whether the post-processor's template for one text holds the BOS token."""
    if isinstance(config.get("add_bos_token"), bool):
        return bool(config["add_bos_token"])
    outer = spec.get("post_processor") or {}
    try:
        pieces = [piece for part in (outer, *outer.get("processors", ())) for piece in part.get("single", ())]
        return bos in [piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece]
    except (AttributeError, TypeError, KeyError) as error:
        raise FormatError(f"{path}: post_processor is not built as tokenizers builds it: {error}.") from error


def _chat_template(path: Path, config: Mapping[str, Any]) -> str | None:
    """The default chat template: a file of its own, a string, or one of several by name."""
    own = path.with_name("chat_template.jinja")
    if own.is_file():
        return own.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
