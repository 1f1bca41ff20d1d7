"""Texts held against compiled grammars, over a real vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hermes3.engine.grammar import Grammar
from hermes3.llm.form import form_of
from hermes3.llm.grammars import Grammars
from hermes3.prompt.chatml import Segment
from hermes3.tokenizer import Tokenizer


class Judge:
    """Says whether a grammar takes a text.

    Args:
        tokenizer: its vocabulary has every byte as a token.
        end_ids: ids that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        self.tokenizer = tokenizer
        self.end_ids = end_ids
        self.grammars = Grammars(tokenizer, end_ids, tokenizer.vocab_size)
        texts = ((tokenizer.token_bytes(i), i) for i in range(tokenizer.vocab_size))
        self._byte_ids = {text[0]: i for text, i in texts if len(text) == 1}

    def compiled(self, **asked: Any) -> Grammar:
        """The grammar that the hall would hold such an answer to."""
        grammar = self.grammars.compiled(form_of(asked))
        assert grammar is not None
        return grammar

    def takes(self, grammar: Grammar, text: str) -> bool:
        """Byte by byte, and may the answer end there?"""
        matcher = grammar._matcher.deep_copy()
        ids = [self._byte_ids[byte] for byte in text.encode()]
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    def follows(self, grammar: Grammar, text: str) -> bool:
        """In the model's own tokens, each looked up in its mask as the sampler does; then an id that ends."""
        matcher = grammar.matcher()
        for token in self.tokenizer.encode_segments([Segment(text)]):
            if not self._is_allowed(matcher.mask(), token):
                return False
            matcher.accept(token)
            if matcher.is_over:
                return True
        return any(self._is_allowed(matcher.mask(), end) for end in self.end_ids)

    @staticmethod
    def _is_allowed(mask: Any, token: int) -> bool:
        return bool(mask[token // 32] >> token % 32 & 1)


def in_order(value: Any, schema: Any) -> Any:
    """A JSON value with the keys of each object in an order that its schema names them in.

    Where several objects of the schema could be meant, the one with the most keys in common is.
    """
    orders = list(_orders(schema))

    def ordered(part: Any) -> Any:
        if isinstance(part, list):
            return [ordered(item) for item in part]
        if not isinstance(part, Mapping):
            return part
        order = max(orders, key=lambda names: len(part.keys() & set(names)), default=[])
        keys = [name for name in order if name in part] + [name for name in part if name not in order]
        return {key: ordered(part[key]) for key in keys}

    return ordered(value)


def _orders(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        if isinstance(schema.get("properties"), Mapping):
            yield list(schema["properties"])
        for part in schema.values():
            yield from _orders(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _orders(part)
