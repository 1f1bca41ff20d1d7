"""OpenAI's OpenAPI document (github.com/openai/openai-openapi, openapi.json) as a judge of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match

NULLS = ("user", "usage", "finish_reason")  # null in the document's own examples, and not in its schemas


def _nullable(part: Any) -> Any:
    """With OpenAPI 3.0's ``nullable``, of which the document has some left, as 3.1 says it."""
    if isinstance(part, list):
        return [_nullable(each) for each in part]
    if not isinstance(part, dict):
        return part
    whole = {name: _nullable(each) for name, each in part.items()}
    return {"anyOf": [whole, {"type": "null"}]} if whole.pop("nullable", None) is True else whole


class Document:
    """Its schemas, by name.

    Attributes:
        text: the file.
        events: the schema's name for each event of a streamed response, by its type.
    """

    def __init__(self, path: Path) -> None:
        self.text = path.read_text("utf-8")
        self._whole = _nullable(json.loads(self.text))
        self._validators: dict[str, jsonschema.Draft202012Validator] = {}
        schemas = self._whole["components"]["schemas"]
        self.events: dict[str, str] = {}
        for each in schemas["ResponseStreamEvent"]["anyOf"]:
            name = each["$ref"].rsplit("/", 1)[-1]
            (kind,) = schemas[name]["properties"]["type"]["enum"]
            self.events[kind] = name

    def faults(self, name: str, value: Any) -> list[str]:
        """Where a value is not as the schema says, and why; of alternatives, as the nearest says it."""
        if name not in self._validators:
            schema = {**self._whole, "$ref": f"#/components/schemas/{name}"}
            self._validators[name] = jsonschema.Draft202012Validator(schema)
        nearest = filter(None, (best_match([error]) for error in self._validators[name].iter_errors(value)))
        return [
            f"{name} {'.'.join(str(step) for step in error.absolute_path)}: {error.message[:200]}"
            for error in nearest
            if not (error.instance is None and error.absolute_path and error.absolute_path[-1] in NULLS)
        ]
