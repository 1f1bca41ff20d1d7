"""A model's vocabulary as grammars need it, made when first needed, and what is wrong with a grammar."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from hermes3.engine.grammar import Grammar, GrammarVocabulary
from hermes3.errors import RequestError
from hermes3.llm.checks import loosened, schemas_of
from hermes3.llm.form import Form
from hermes3.prompt.chatml import Segment
from hermes3.prompt.tools import END_TOOL_CALL, TOOL_CALL
from hermes3.tokenizer import Tokenizer

_TAGS = re.compile(f"({TOOL_CALL}|{END_TOOL_CALL})")
_LISTS = ("properties", "$defs", "definitions", "patternProperties", "anyOf", "oneOf", "allOf", "prefixItems")
_REMEDY = "; on_uncompilable='retry' has answers checked instead, and asked for again"
_MAX_PROBES = 256  # schemas that are compiled to find the one at fault
_PROBING_S = 2.0  # and how long that may take


class Grammars:
    """Compiles what answers must follow.

    Args:
        tokenizer: of the model.
        end_ids: ids that end an answer.
        n_vocab: length of a row of logits.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int], n_vocab: int) -> None:
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._n_vocab = n_vocab
        self._lock = threading.Lock()
        self._vocabulary: GrammarVocabulary | None = None

    def compiled(self, form: Form) -> Grammar | None:
        """The grammar of a form, None where it has none. For any thread.

        Raises:
            RequestError: it cannot be compiled, in the compiler's words and with the path to what is wrong.
        """
        if form.grammar is None:
            return None
        vocabulary = self._made()
        try:
            return vocabulary.compile(form.grammar.kind, form.grammar.text, param=form.grammar.param)
        except RequestError as error:
            if (fault := _fault(vocabulary, form)) is None:
                raise
            raise fault from error

    def fitted(self, form: Form) -> tuple[Form, Grammar | None]:
        """A form and its grammar; where it cannot be compiled and may be loosened, those of the looser one.

        Raises:
            RequestError: see ``compiled``; or answers cannot be held against a schema either.
        """
        own = form.grammar
        if form.on_uncompilable == "refuse" or own is None or (form.calls is None and form.schema is None):
            return form, self.compiled(form)
        vocabulary = self._made()
        try:
            return form, vocabulary.compile(own.kind, own.text, param=own.param)
        except RequestError:
            loose = loosened(form, _at_fault(vocabulary, form))
        return loose, self.compiled(loose)

    def close(self) -> None:
        """Stop the threads that compute masks."""
        with self._lock:
            if self._vocabulary is not None:
                self._vocabulary.close()

    def _made(self) -> GrammarVocabulary:
        with self._lock:
            if self._vocabulary is None:
                tokenizer = self._tokenizer
                self._vocabulary = GrammarVocabulary(
                    [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)],
                    control_ids=tokenizer.control_ids,
                    end_ids=self._end_ids,
                    encode=self._encode,
                    n_vocab=self._n_vocab,
                )
            return self._vocabulary

    def _encode(self, raw: bytes) -> list[int]:
        """Ids of text as a model of this family writes it: tags as tokens where the vocabulary has them."""
        return self._tokenizer.encode_segments(_segments(raw.decode(errors="replace")))


def _segments(text: str) -> Iterator[Segment]:
    for piece in _TAGS.split(text):
        if piece:
            yield Segment(piece, is_special=_TAGS.fullmatch(piece) is not None)


def _at_fault(vocabulary: GrammarVocabulary, form: Form) -> frozenset[str]:
    """Names of the schemas that cannot be compiled; of all where each can by itself, or time is up."""
    schemas, found = schemas_of(form), set()
    end = time.monotonic() + _PROBING_S
    for param, schema in schemas.items():
        if time.monotonic() > end or vocabulary.objection("json_schema", json.dumps(schema)) is not None:
            found.add(param)
    return frozenset(found or schemas)


def _fault(vocabulary: GrammarVocabulary, form: Form) -> RequestError | None:
    """Which schema of several is at fault, and where in it; None where none is by itself."""
    for param, schema in schemas_of(form).items():
        words = vocabulary.objection("json_schema", json.dumps(schema))
        if words is not None:
            path = _path(vocabulary, schema, words)
            where = f" (at {path})" if path else ""
            at_fault = param + path.replace("/", ".")
            remedy = _REMEDY if form.on_uncompilable == "refuse" else ""
            return RequestError(f"{param} cannot be compiled: {words}{where}{remedy}", param=at_fault)
    return None


def _path(vocabulary: GrammarVocabulary, schema: Mapping[str, Any], words: str) -> str:
    """JSON pointer of the innermost part of a schema that earns the same words by itself."""
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    path, node, n_probes = "", schema, 0
    end = time.monotonic() + _PROBING_S
    while True:
        for step, child in _children(node):
            n_probes += 1
            if n_probes > _MAX_PROBES or time.monotonic() > end:
                return path
            if vocabulary.objection("json_schema", json.dumps({**definitions, **child})) == words:
                path, node = f"{path}/{step}", child
                break
        else:
            return path


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schemas inside a schema, with the way to each."""
    for key in _LISTS:
        held = schema.get(key)
        if isinstance(held, list):
            held = dict(enumerate(held))
        for name, child in held.items() if isinstance(held, Mapping) else ():
            if isinstance(child, Mapping):
                yield f"{key}/{str(name).replace('~', '~0').replace('/', '~1')}", child
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield key, schema[key]
