"""JSON mode: the card's system prompt, and the schemas that people ask for in several forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any

from hermes3.prompt.json_text import json_text
from hermes3.prompt.refusal import first_line, kind_of, refuse, refuse_unknown
from hermes3.prompt.tools import Fragment

Schema = Mapping[str, Any]

ANY_OBJECT: Schema = {"type": "object"}

_HEAD = (
    "You are a helpful assistant that answers in JSON. Here's the json schema you must adhere to:\n<schema>\n"
)
_TAIL = "\n</schema>"


def schema_text(schema: Schema) -> Iterator[Fragment]:
    """What a system turn says in JSON mode, as the card prints it.

    Raises:
        RequestError: a schema that cannot be written as JSON.
    """
    yield _HEAD, True
    yield json_text(schema, "schema"), False
    yield _TAIL, True


def holds_schema(system: str) -> bool:
    """Whether a user's system prompt has a schema of its own already."""
    return "<schema>" in system


def json_schema_of(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a Python type: a pydantic model, a dataclass, ``list[int]``, ...

    Raises:
        RequestError: a type that JSON has no form for.
    """
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(kind).json_schema()
    except (PydanticUserError, NameError, TypeError) as error:
        refuse("schema", f"cannot be made from {kind!r:.80}: {first_line(error)}")


def instance_of(kind: Any, text: str) -> Any:
    """An instance of a class out of its JSON.

    Raises:
        ValueError: the class does not take it.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_json(text)


def pattern_matches(pattern: str, text: str) -> bool:
    """Whether a regular expression is found in a text, in time linear in it: Rust's regex, through pydantic.

    Raises:
        RequestError: no regular expression, or one with back-references or looking around.
    """
    return _finder(pattern)(text)


@lru_cache(256)
def _finder(pattern: str) -> Callable[[str], bool]:
    from pydantic import StringConstraints, TypeAdapter, ValidationError
    from pydantic_core import SchemaError

    try:
        adapter = TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    except (SchemaError, TypeError) as error:
        what = str(error).splitlines()[-1]
        refuse("pattern", f"is {pattern!r:.60}, which cannot be searched for: {what:.100}")

    def found(text: str) -> bool:
        try:
            adapter.validate_python(text, strict=True)
        except ValidationError:
            return False
        return True

    return found


def closed(schema: Schema) -> Schema:
    """The schema without room for properties that it does not name.

    Where objects name properties and do not say whether others may stand beside them, JSON Schema allows any,
    functions and classes take none. Schemas with ``allOf``, whose parts must leave room for each other, stay
    as they are.
    """
    return schema if _holds(schema, "allOf") else _closed(schema)


def _closed(schema: Schema) -> dict[str, Any]:
    out = dict(schema)
    for key in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(key), Mapping):
            out[key] = {name: _closed_part(part) for name, part in schema[key].items()}
    for key in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(schema.get(key), list):
            out[key] = [_closed_part(part) for part in schema[key]]
    for key in ("items", "additionalProperties"):
        if key in schema:
            out[key] = _closed_part(schema[key])
    if "properties" in out and not out.keys() & {"patternProperties", "anyOf", "oneOf", "$ref"}:
        out.setdefault("additionalProperties", False)
    return out


def _closed_part(part: Any) -> Any:
    return _closed(part) if isinstance(part, Mapping) else part


def _holds(value: object, key: str) -> bool:
    """Whether a key stands anywhere inside."""
    if isinstance(value, Mapping):
        return key in value or any(_holds(part, key) for part in value.values())
    return isinstance(value, list) and any(_holds(part, key) for part in value)


def parse_response_format(raw: object, *, param: str = "response_format") -> Schema | None:
    """The schema that OpenAI's ``response_format`` asks for; None where it asks for text.

    ``json_object`` means any object. ``strict`` changes nothing: every schema is enforced. A ``description``
    becomes the schema's own where that has none, for the model to read.

    Raises:
        RequestError: another form; ``param`` names the field.
    """
    if not isinstance(raw, Mapping):
        refuse(param, f"must be an object with a type, not {kind_of(raw)}")
    kind = raw.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        refuse(f"{param}.type", f"is {kind!r:.60}; it must be text, json_object or json_schema")
    known = {"type", "json_schema"} if kind == "json_schema" else {"type"}
    refuse_unknown(raw, known, param)
    if kind == "json_schema":
        return _named_schema(raw.get("json_schema"), f"{param}.json_schema")
    return ANY_OBJECT if kind == "json_object" else None


def _named_schema(raw: object, where: str) -> Schema:
    if not isinstance(raw, Mapping):
        refuse(where, f"must be an object with name and schema, not {kind_of(raw)}")
    refuse_unknown(raw, {"name", "schema", "strict", "description"}, where)
    if not isinstance(raw.get("name"), str) or not raw["name"]:
        refuse(f"{where}.name", "must be a non-empty string")
    if not isinstance(raw.get("strict"), bool | None):
        refuse(f"{where}.strict", "must be true or false")
    description = raw.get("description")
    if not isinstance(description, str | None):
        refuse(f"{where}.description", "must be a string")
    schema = raw.get("schema")
    if not isinstance(schema, Mapping):
        refuse(f"{where}.schema", f"must be a JSON Schema object, not {kind_of(schema)}")
    return schema if not description or "description" in schema else {"description": description, **schema}
