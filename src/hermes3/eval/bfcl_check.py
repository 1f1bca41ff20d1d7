"""Whether function calls are those that the Berkeley Function Calling Leaderboard (BFCL v4) expects.

Its rules for Python categories, after bfcl-eval 2026.3.23 (``ast_checker``), to which a test holds them:
types as declared, an int where a float is due, any of the values that the answer lists, strings without
regard to case, spaces and ``,./-_*^``, and no parameter that the answer does not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_TYPES: dict[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list,
    "dict": dict, "any": str,
}  # fmt: skip
_LISTS = ("array", "tuple")

Call = Mapping[str, Mapping[str, Any]]  # {name: arguments}
Function = Mapping[str, Any]


def is_right(
    category: str, functions: Sequence[Function], calls: Sequence[Call], answer: Sequence[Any]
) -> bool:
    """Whether calls are right.

    Args:
        category: BFCL's name of it: irrelevance expects no call, parallel ones several in any order.
        functions: the descriptions that the model was given.
        calls: what the model called, in order.
        answer: the expected calls, each {name: {parameter: values allowed}}.
    """
    if category == "irrelevance":
        return not calls
    if len(calls) != len(answer):
        return False
    by_name = {function["name"]: function for function in functions}
    left = list(calls)
    for expected in answer:
        ((name, values),) = expected.items()
        function = by_name.get(name)
        fitting = (i for i, call in enumerate(left) if function is not None and _fits(function, call, values))
        if (found := next(fitting, None)) is None:
            return False
        del left[found]
    return True


def _fits(function: Function, call: Call, answer: Mapping[str, list[Any]]) -> bool:
    arguments = call.get(function["name"])
    parameters = function["parameters"]
    if arguments is None or any(name not in arguments for name in parameters["required"]):
        return False
    for name, value in arguments.items():
        if name not in parameters["properties"] or name not in answer:
            return False
        if not _value_fits(parameters["properties"][name], value, answer[name]):
            return False
    return all(name in arguments or "" in values for name, values in answer.items())


def _value_fits(schema: Mapping[str, Any], value: Any, allowed: list[Any]) -> bool:
    kind = schema["type"]
    expected = _TYPES[kind]
    inner = _TYPES[schema["items"]["type"]] if kind in _LISTS else None
    if kind == "float" and type(value) is int:
        value = float(value)
    fits, is_variable = _type_fits(value, allowed, expected, inner)
    if not fits:
        return False
    if not is_variable:
        if expected is dict:
            return any(_dict_fits(value, each) for each in allowed if each != "")
        if expected is list and inner is dict:
            return any(_dicts_fit(value, each) for each in allowed)
        if expected is str:
            return _plain(value) in [_plain(each) for each in allowed if isinstance(each, str)]
        if expected is list:
            return [_plain(each) for each in value] in [[_plain(item) for item in each] for each in allowed]
    return value in allowed


def _type_fits(value: Any, allowed: list[Any], expected: Any, inner: type | None) -> tuple[bool, bool]:
    """Whether a value's type will do, and whether it is the name of a variable, where the answer has such."""
    answer_type = next((type(each) for each in allowed if each != ""), None)
    is_variable = answer_type is not None and answer_type is not expected
    if type(value) is expected:
        if inner is None:
            return True, is_variable
        for each in allowed:
            if not isinstance(each, list) or all(_type_fits(item, each, inner, None)[0] for item in value):
                return True, is_variable
    return (type(value) is answer_type, True) if answer_type is not None else (False, False)


def _dict_fits(value: Mapping[str, Any], allowed: Mapping[str, list[Any]]) -> bool:
    for key, each in value.items():
        if key not in allowed or _plain(each) not in [_plain(item) for item in allowed[key]]:
            return False
    return all(key in value or "" in values for key, values in allowed.items())


def _dicts_fit(values: list[Any], allowed: Any) -> bool:
    return len(values) == len(allowed) and all(map(_dict_fits, values, allowed))


def _plain(value: Any) -> Any:
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"') if isinstance(value, str) else value
