"""Tool descriptions as public files have them, made into JSON Schema.

Three habits are read, each with one meaning: Python's type names (``dict``, ``float``, ``List[str]``:
Gorilla, BFCL), parameters without an object around them and optional ones marked in their type (``str,
optional``: xLAM), and ``required`` beside ``parameters`` instead of within (ToolACE). Nothing else changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TYPES = {
    "dict": "object", "float": "number", "double": "number", "int": "integer", "long": "integer",
    "str": "string", "bool": "boolean", "list": "array", "tuple": "array", "set": "array",
}  # fmt: skip
_JSON_TYPES = {"object", "number", "integer", "string", "boolean", "array", "null"}
_GENERIC = re.compile(r"(?:list|tuple|set|List|Tuple|Set)\[(\w+)\]")
_OPTIONAL = ", optional"
_HOLDERS = ("properties", "$defs", "definitions", "patternProperties")
_PARTS = ("items", "additionalProperties", "not")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")


def as_openai(raw: object) -> tuple[object, bool]:
    """A tool in OpenAI's form, and whether anything was changed but the wrapping.

    What is no tool of a known form comes back as it is, to be refused by whoever reads it.
    """
    if not isinstance(raw, Mapping) or "inputSchema" in raw:
        return raw, False
    function = raw.get("function", raw)
    if not isinstance(function, Mapping) or "name" not in function:
        return raw, False
    plain = {key: value for key, value in function.items() if key != "type" or "function" in raw}
    changed = dict(plain)
    if isinstance(plain.get("parameters"), Mapping):
        changed["parameters"] = _parameters(plain["parameters"])
    if "required" in changed:
        _move_required(changed)
    return {"type": "function", "function": changed}, changed != plain


def _parameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    is_schema = not raw or "properties" in raw or "$ref" in raw
    if is_schema or not all(isinstance(value, Mapping) for value in raw.values()):
        return _schema(raw)
    required = [name for name, value in raw.items() if not _is_optional(value)]
    properties = {name: _schema(value) for name, value in raw.items()}
    out: dict[str, Any] = {"type": "object", "properties": properties}
    return {**out, "required": required} if any(map(_is_optional, raw.values())) else out


def _is_optional(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("type"), str) and value["type"].endswith(_OPTIONAL)


def _schema(raw: Any) -> Any:
    if not isinstance(raw, Mapping):
        return raw
    out = dict(raw)
    for key in _HOLDERS:
        if isinstance(raw.get(key), Mapping):
            out[key] = {name: _schema(part) for name, part in raw[key].items()}
    for key in _PARTS:
        if key in raw:
            out[key] = _schema(raw[key])
    for key in _LISTS:
        if isinstance(raw.get(key), list):
            out[key] = [_schema(part) for part in raw[key]]
    if isinstance(raw.get("type"), str) and raw["type"] not in _JSON_TYPES:
        _name_type(out, raw["type"].removesuffix(_OPTIONAL))
    return out


def _name_type(out: dict[str, Any], given: str) -> None:
    """JSON Schema's name of a type; one that is not known stays, and is refused when it is followed."""
    generic = _GENERIC.fullmatch(given)
    if given in ("any", "Any"):
        del out["type"]
    elif generic and (inner := _TYPES.get(generic[1], generic[1])) in _JSON_TYPES:
        out["type"] = "array"
        out.setdefault("items", {"type": inner})
    else:
        out["type"] = _TYPES.get(given.lower(), given)


def _move_required(function: dict[str, Any]) -> None:
    required, parameters = function.pop("required"), function.get("parameters")
    if not required:
        return
    if not isinstance(parameters, dict) or "required" in parameters or not isinstance(required, list):
        function["required"] = required  # refused where fields are checked
        return
    names = parameters.get("properties")
    function["parameters"] = {**parameters, "required": [name for name in required if name in (names or ())]}
