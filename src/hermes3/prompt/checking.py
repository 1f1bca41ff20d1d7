"""Values against a schema, where both may come from strangers.

References to other documents are not followed. Regular expressions run in linear time (``pattern_matches``),
Python's own may hang. What refers to itself without end, or to so much that it multiplies, is refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from hermes3.errors import RequestError
from hermes3.prompt.json_text import json_text, read_json
from hermes3.prompt.messages import Tool
from hermes3.prompt.refusal import first_line, refuse
from hermes3.prompt.schema import pattern_matches

MAX_REFERENCES = 10_000  # followed for one value
_VALUES = frozenset(("enum", "const", "default", "examples"))  # keys of what is no schema, whatever it holds
_ANY: Mapping[str, Any] = {"type": "object", "properties": {}}


def checker_of(tool: Tool) -> Checker:
    """What checks the arguments of a tool.

    Raises:
        RequestError: a schema that cannot be written as JSON.
    """
    where = f"the schema of {tool.name}"
    return _known_checker(where, json_text(tool.parameters or _ANY, where))


class Checker:
    """A validator of one schema, with a bound on what it follows. For one thread at a time.

    Args:
        where: what errors call the schema.
        schema: of the values; JSON Schema 2020-12, in which a format says nothing about validity.
        max_s: seconds of computing for one value; None for no limit, so that results depend on nothing else.
    """

    def __init__(self, where: str, schema: Any, *, max_s: float | None = None) -> None:
        from jsonschema import Draft202012Validator, validators
        from referencing import Registry

        known = Draft202012Validator.VALIDATORS
        own = {
            "pattern": _pattern,
            "patternProperties": _pattern_properties,
            "additionalProperties": _additional(known["additionalProperties"]),
            "unevaluatedProperties": _unevaluated(known["unevaluatedProperties"]),
            "$ref": self._counted(known["$ref"]),
            "$dynamicRef": self._counted(known["$dynamicRef"]),
        }
        if max_s is not None:
            own = {name: self._timed(keyword) for name, keyword in {**known, **own}.items()}
        self._where = where
        self._schema = schema
        self._n_references = 0
        self._max_s = max_s or 0.0
        self._ends = 0.0
        self._validator = validators.extend(Draft202012Validator, own)(schema, registry=Registry())

    def check_schema(self) -> None:
        """Whether values can be held against the schema at all.

        Raises:
            RequestError: it is none, refers to what it does not hold, or has a pattern that cannot be
                searched for in linear time.
        """
        from jsonschema import Draft202012Validator, SchemaError
        from referencing import Registry, exceptions
        from referencing.jsonschema import DRAFT202012

        # Patterns are held to Rust's rules below, where "format": "regex" would ask Python's re.
        try:
            Draft202012Validator.check_schema(self._schema, format_checker=None)
        except SchemaError as error:
            refuse(self._where, f"is no JSON Schema (2020-12): {error.json_path}: {error.message[:160]}")
        resolver = Registry().resolver_with_root(DRAFT202012.create_resource(self._schema))
        parts = list(_parts(self._schema))
        has_names = any("$id" in part for part in parts)  # to resolve those is the validator's business
        for part in parts:
            for pattern in (part.get("pattern"), *(part.get("patternProperties") or ())):
                if pattern is not None:
                    pattern_matches(pattern, "")
            try:
                if "$ref" in part and not has_names:
                    resolver.lookup(part["$ref"])
            except exceptions.Unresolvable:
                refuse(self._where, f"refers to {part['$ref']!r:.80}, which it does not hold")

    def errors(self, value: Any) -> Iterator[str]:
        """What is wrong with a value.

        Raises:
            RequestError: the schema itself is none, or cannot be followed.
        """
        self._n_references = 0
        self._ends = time.thread_time() + self._max_s
        try:
            for error in self._validator.iter_errors(dict(value) if isinstance(value, Mapping) else value):
                place = "".join(f"[{part!r}]" for part in error.absolute_path)
                yield f"{place + ': ' if place else ''}{error.message[:160]}"
        except RequestError as error:
            refuse(self._where, f"cannot be followed: {error}")
        except Exception as error:  # whatever jsonschema's Python happens to raise: TypeError, KeyError, ...
            refuse(self._where, f"cannot be followed: {first_line(error)}")

    def _counted(self, keyword: Any) -> Any:
        def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            self._n_references += 1
            if self._n_references > MAX_REFERENCES:
                raise RequestError(f"it refers to more than {MAX_REFERENCES} parts")
            yield from keyword(validator, value, instance, schema) or ()

        return check


    def _timed(self, keyword: Any) -> Any:
        def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
            if time.thread_time() > self._ends:
                raise RequestError(f"it takes more than {self._max_s} s")
            yield from keyword(validator, value, instance, schema) or ()

        return check


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """The objects in a schema, those that are values left out."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield part
            waiting += [each for name, each in part.items() if name not in _VALUES]
        elif isinstance(part, list):
            waiting += part


@lru_cache(256)
def _known_checker(where: str, schema: str) -> Checker:
    return Checker(where, read_json(schema))


def _pattern(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not pattern_matches(value, instance):
        yield ValidationError(f"{instance!r:.60} does not match {value!r:.60}")


def _pattern_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    for pattern, part in value.items():
        for name, each in instance.items():
            if pattern_matches(pattern, name):
                yield from validator.descend(each, part, path=name, schema_path=pattern)


def _additional(keyword: Any) -> Any:
    """``additionalProperties``, which asks Python's ``re`` about ``patternProperties``."""

    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        patterns = schema.get("patternProperties") or ()
        if patterns and isinstance(instance, dict):
            instance = {name: each for name, each in instance.items()
                        if not any(pattern_matches(pattern, name) for pattern in patterns)}  # fmt: skip
        plain = {key: schema[key] for key in schema if key != "patternProperties"}
        yield from keyword(validator, value, instance, plain) or ()

    return check


def _unevaluated(keyword: Any) -> Any:
    """``unevaluatedProperties``, which does so, too, wherever a pattern may stand."""

    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if "patternProperties" in json_text(schema, "schema"):
            raise RequestError("unevaluatedProperties beside patternProperties is not followed here")
        yield from keyword(validator, value, instance, schema) or ()

    return check
