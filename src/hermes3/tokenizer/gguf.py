"""The tokenizer that a GGUF file's metadata describe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from tokenizers import Regex, pre_tokenizers

from hermes3.errors import FormatError, UnsupportedError
from hermes3.tokenizer.bpe import Parts, build_bpe

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf-py's TokenType
LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")

# As in Llama 3's tokenizer.json and, as pat_str, in llama_models/llama3/tokenizer.py.
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Vocabulary(Protocol):
    """A tokenizer as GGUF metadata describes it (keys ``tokenizer.*``); None for a missing key."""

    @property
    def model(self) -> str: ...
    @property
    def pre(self) -> str | None: ...
    @property
    def tokens(self) -> Sequence[str]: ...
    @property
    def merges(self) -> Sequence[str]: ...
    @property
    def token_types(self) -> Sequence[int] | None: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    @property
    def eot_id(self) -> int | None: ...
    @property
    def add_bos(self) -> bool | None: ...
    @property
    def chat_template(self) -> str | None: ...


def read_vocabulary(vocabulary: Vocabulary) -> Parts:
    """What a GGUF vocabulary says, checked, and its encoder.

    Raises:
        UnsupportedError: a tokenizer model or pre-tokenizer that is not known here, named.
        FormatError: lists that do not fit each other.
    """
    if vocabulary.model != "gpt2":
        raise UnsupportedError(
            f"tokenizer.ggml.model is {vocabulary.model!r}; only byte-level BPE, 'gpt2', is supported."
        )
    pre_tokenizer = pre_tokenizer_named(vocabulary.pre)
    words = _words(vocabulary)
    apart = [(i, kind) for i, kind in enumerate(_types(vocabulary)) if kind != NORMAL]
    added = {vocabulary.tokens[i]: i for i, kind in apart if kind in (CONTROL, USER_DEFINED)}
    # as llama.cpp's src/llama-vocab.cpp has it: whole words first, and BOS where the file does not say
    is_llama3 = vocabulary.pre in LLAMA3_NAMES
    backend = build_bpe(words, merge_pairs(vocabulary.merges), added=added, ignore_merges=is_llama3)
    backend.pre_tokenizer = pre_tokenizer
    ends = (_special_id(vocabulary, key) for key in ("eos", "eot"))
    return Parts(
        backend,
        tokens=vocabulary.tokens,
        added=added,
        control_ids=[i for i, kind in apart if kind == CONTROL],
        bos_id=_special_id(vocabulary, "bos"),
        eos_ids=frozenset(end for end in ends if end is not None),
        add_bos=is_llama3 if vocabulary.add_bos is None else vocabulary.add_bos,
        chat_template=vocabulary.chat_template,
    )


def _words(vocabulary: Vocabulary) -> dict[str, int]:
    words = dict(zip(vocabulary.tokens, range(len(vocabulary.tokens)), strict=True))
    if len(words) != len(vocabulary.tokens):
        raise FormatError("tokenizer.ggml.tokens holds the same token twice.")
    return words


def _types(vocabulary: Vocabulary) -> Sequence[int]:
    types, n_tokens = vocabulary.token_types, len(vocabulary.tokens)
    if types is None:
        raise FormatError("tokenizer.ggml.token_type is missing: nothing says which tokens are special.")
    if len(types) != n_tokens:
        raise FormatError(f"tokenizer.ggml.token_type has {len(types)} entries for {n_tokens} tokens.")
    return types


def merge_pairs(merges: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Merges as pairs. All at once: split one by one, 280,000 of them take a third longer."""
    halves = " ".join(merges).split(" ") if merges else []
    if len(halves) != 2 * len(merges) or not all(" " in merge for merge in merges):
        raise FormatError("tokenizer.ggml.merges holds an entry that is not two tokens with a space between.")
    half = iter(halves)
    return zip(half, half, strict=True)


def _special_id(vocabulary: Vocabulary, which: str) -> int | None:
    token_id: int | None = getattr(vocabulary, f"{which}_id")
    n_tokens = len(vocabulary.tokens)
    if token_id is not None and not 0 <= token_id < n_tokens:
        raise FormatError(f"tokenizer.ggml.{which}_token_id is {token_id}, but there are {n_tokens} tokens.")
    return token_id


def pre_tokenizer_named(pre: str | None) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer that ``tokenizer.ggml.pre`` names, as the models' tokenizer.json spells it.

    Raises:
        UnsupportedError: a name not known here, or none: any guess would give wrong ids without a word.
    """
    if pre in LLAMA3_NAMES:
        words = pre_tokenizers.Split(Regex(_LLAMA3_WORDS), behavior="isolated")
        return pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    if pre == "gpt-2":
        return gpt2
    known = ", ".join((*LLAMA3_NAMES, "smollm", "gpt-2"))
    raise UnsupportedError(
        f"tokenizer.ggml.pre is {pre!r}; known are {known}. Take a file converted by a current llama.cpp, "
        "or the folder with the model's tokenizer.json."
    )
