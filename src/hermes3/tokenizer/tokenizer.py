"""Ids out of text and text out of ids."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self

from tokenizers import Tokenizer as Backend

from hermes3.tokenizer.bpe import BYTE_OF, Parts
from hermes3.tokenizer.gguf import Vocabulary, read_vocabulary
from hermes3.tokenizer.json_file import read_tokenizer_json

# Texts of tokens that end an answer in the families read here. Their ids differ from model to model.
END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>")
_KEEPING = frozenset({"Sequence", "Split", "Digits", "ByteLevel"})  # pre-tokenizers, if they remove nothing


class SegmentLike(Protocol):
    """A stretch of a prompt; ``hermes3.prompt.chatml.Segment`` is one."""

    @property
    def text(self) -> str: ...
    @property
    def is_special(self) -> bool: ...
    @property
    def is_trained(self) -> bool: ...


class Tokenizer:
    """Encoder and decoder of one model.

    Attributes:
        vocab_size: highest id plus one.
        bos_id, bos_token: the token that opens a prompt, by id and text; None where the model has none.
        add_bos: whether the model's files ask for BOS in front of every text. ``encode`` never adds it.
        eos_ids: ids that end an answer: those the files name and every token out of ``END_TOKENS``.
        control_ids: ids that are no text: BOS, the end tokens and control tokens spelled ``<|...|>``. Others
            such as ``<tool_call>`` are text, whatever the vocabulary says they are.
        missing_bytes: bytes that no token spells; a character that needs one encodes to nothing.
        chat_template: the model's own jinja template, None where the files hold none.
    """

    def __init__(self, parts: Parts) -> None:
        self._backend = parts.backend
        self._tokens = parts.tokens
        self._added = parts.added
        longest_first = sorted(parts.added, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._bytes: dict[int, bytes] = {}
        self.vocab_size = len(parts.tokens)
        self.bos_id = parts.bos_id
        self.bos_token = None if parts.bos_id is None else parts.tokens[parts.bos_id]
        self.add_bos = parts.add_bos and parts.bos_id is not None
        self.eos_ids = parts.eos_ids | {parts.added[text] for text in END_TOKENS if text in parts.added}
        ends = {*self.eos_ids, self.bos_id}
        self.control_ids = frozenset(i for i in parts.control_ids if i in ends or _is_mark(parts.tokens[i]))
        spelled = (byte for letter, byte in BYTE_OF.items() if parts.backend.token_to_id(letter) is not None)
        self.missing_bytes = frozenset(range(256)) - frozenset(spelled)
        self.chat_template = parts.chat_template

    @classmethod
    def from_gguf(cls, vocabulary: Vocabulary) -> Self:
        """The tokenizer that a GGUF file's metadata describe.

        Raises:
            UnsupportedError: a tokenizer model or pre-tokenizer that is not known here, named.
            FormatError: lists that do not fit each other.
        """
        return cls(read_vocabulary(vocabulary))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The tokenizer in a ``tokenizer.json``.

        BOS, EOS and the chat template come from ``tokenizer_config.json`` and ``chat_template.jinja`` beside
        it, where those exist.

        Raises:
            UnsupportedError: a tokenizer of a kind that is not byte-level BPE, named.
            FormatError: a file that is damaged or not what its name says.
        """
        return cls(read_tokenizer_json(path))

    def token_id(self, text: str) -> int | None:
        """Id of the token spelled so in the vocabulary (``<|im_end|>``, ``Ġthe``), None if there is none."""
        found = self._added.get(text)
        return self._backend.token_to_id(text) if found is None else found

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; none for an id without a token, as models have in padding."""
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = self._spelled(token_id)
        return known

    def _spelled(self, token_id: int) -> bytes:
        text = self._tokens[token_id] if 0 <= token_id < len(self._tokens) else None
        if text is None or text in self._added:
            return (text or "").encode()
        try:
            return bytes(map(BYTE_OF.__getitem__, text))
        except (
            KeyError
        ):  # not written in the byte alphabet: it stands for itself, as in tokenizers' ByteLevel
            return text.encode()

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of a text.

        Args:
            text: anything; a lone surrogate counts as U+FFFD.
            allow_special: special tokens in it become their ids; otherwise they stay the text that they are.
        """
        if not allow_special:
            return self._encode_plain(text)
        ids: list[int] = []
        for piece, token_id in self._split(text):
            ids += self._encode_plain(piece) if token_id is None else [token_id]
        return ids

    def encode_segments(self, segments: Iterable[SegmentLike]) -> list[int]:
        """Ids of a prompt.

        Neighbours are encoded as one text, as Hugging Face encodes the whole prompt, except across a special
        token and across the border of what the assistant writes, where generation has a border, too.
        """
        ids: list[int] = []
        run: list[str] = []
        was_trained = False
        for segment in segments:
            pieces = self._split(segment.text) if segment.is_special else [(segment.text, None)]
            for piece, token_id in pieces:
                if run and (token_id is not None or segment.is_trained != was_trained):
                    ids += self._encode_plain("".join(run))
                    run.clear()
                was_trained = segment.is_trained
                if token_id is None:
                    run.append(piece)
                else:
                    ids.append(token_id)
        return ids + self._encode_plain("".join(run))

    def least(self, n_chars: int) -> int:
        """How many ids a text of so many characters has at least; 0 where that cannot be told.

        Encoding takes some 500 bytes an id meanwhile: what has no place anyway need not be encoded.
        """
        return -(-n_chars // self._longest) if self._longest else 0

    @cached_property
    def _longest(self) -> int:
        """Letters, which are bytes, of the longest token; 0 where some characters may be in no token."""
        if self.missing_bytes or not _keeps_all(self._backend):
            return 0
        return max(len(text) for text in self._tokens if text is not None)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: token ids.
            skip_special: leave out ``control_ids``.
        """
        skipped = self.control_ids if skip_special else frozenset()
        return b"".join(self.token_bytes(i) for i in ids if i not in skipped).decode(errors="replace")

    def stream_decoder(self, *, skip_special: bool = False) -> StreamDecoder:
        """A decoder for ids that come one at a time."""
        return StreamDecoder(self, self.control_ids if skip_special else frozenset())

    def _encode_plain(self, text: str) -> list[int]:
        if not text:
            return []
        try:
            encoding = self._backend.encode(text, add_special_tokens=False)
        except TypeError:  # what tokenizers raises for lone surrogates
            whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            encoding = self._backend.encode(whole, add_special_tokens=False)
        return list(encoding.ids)

    def _split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Pieces of a text that may hold special tokens: (text, None) or (text of a token, its id)."""
        end = 0
        for match in self._special.finditer(text):
            if match.start() > end:
                yield text[end : match.start()], None
            yield match[0], self._added[match[0]]
            end = match.end()
        if end < len(text):
            yield text[end:], None


def _keeps_all(backend: Backend) -> bool:
    """Whether every character of a text is in one of its tokens, as far as is known."""
    if backend.normalizer is not None or backend.pre_tokenizer is None:
        return False
    whole = json.loads(backend.pre_tokenizer.__getstate__())
    parts = [whole, *whole.get("pretokenizers", ())]
    return all(part["type"] in _KEEPING and part.get("behavior") != "Removed" for part in parts)


class StreamDecoder:
    """Text out of ids that come one at a time: what is given out is never half a character."""

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that one more token completes, often empty."""
        if token_id in self._skipped:
            return ""
        return self._utf8.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never became whole. Starts anew."""
        return self._utf8.decode(b"", final=True)


def _is_mark(text: str | None) -> bool:
    return text is not None and text.startswith("<|") and text.endswith("|>")
