"""A strict check against the schemas of this folder: the part of JSON Schema 2020-12 that they use, and no more."""

from __future__ import annotations

import json
import re
import reprlib
from functools import cache
from pathlib import Path
from typing import Any

from refimpl.errors import InputError

FOLDER = Path(__file__).resolve().parent
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "null": type(None),
}
KNOWN = {
    "$schema", "title", "type", "additionalProperties", "required", "properties", "const", "enum", "pattern", "minLength",
    "minimum", "maximum", "minItems", "items",
}  # fmt: skip


def shown(value: Any) -> str:
    """``repr(value)`` for an error's text: one line of bounded length, however large or deep the value is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    return short.repr(value)


@cache
def schema(name: str = "case") -> dict[str, Any]:
    """The schema ``NAME.schema.json`` of this folder."""
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    return loaded


def check(value: Any, rules: dict[str, Any], where: str) -> None:
    """Raise :class:`InputError` naming the place where ``value`` breaks ``rules``."""
    unknown = set(rules) - KNOWN
    if unknown:
        raise ValueError(f"the schema uses {sorted(unknown)}, which this checker does not know")
    if "const" in rules and (value != rules["const"] or isinstance(value, bool) != isinstance(rules["const"], bool)):
        raise InputError(f"{where} is {shown(value)}, not {rules['const']!r}")
    if "enum" in rules and value not in rules["enum"]:
        raise InputError(f"{where} is {shown(value)}, not one of {', '.join(map(str, rules['enum']))}")
    if "type" in rules:
        names = rules["type"] if isinstance(rules["type"], list) else [rules["type"]]
        if not any(_is(value, name) for name in names):
            raise InputError(f"{where} is {type(value).__name__}, not {' or '.join(names)}")
    if isinstance(value, str):
        if "pattern" in rules and not re.search(rules["pattern"].removesuffix("$") + r"\Z", value):
            raise InputError(f"{where} is {shown(value)}, which does not match {rules['pattern']}")
        if len(value) < rules.get("minLength", 0):
            raise InputError(f"{where} is empty")
    elif isinstance(value, int) and not isinstance(value, bool):
        if value < rules.get("minimum", value) or value > rules.get("maximum", value):
            raise InputError(f"{where} is {shown(value)}, out of range")
    elif isinstance(value, list):
        if len(value) < rules.get("minItems", 0):
            raise InputError(f"{where} is empty")
        for index, item in enumerate(value):
            check(item, rules.get("items", {}), f"{where}[{index}]")
    elif isinstance(value, dict):
        _check_object(value, rules, where)


def _is(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and not (name == "integer" and isinstance(value, bool))


def _check_object(value: dict[str, Any], rules: dict[str, Any], where: str) -> None:
    properties, more = rules.get("properties", {}), rules.get("additionalProperties", True)
    missing = [name for name in rules.get("required", []) if name not in value]
    if missing:
        raise InputError(f"{where} lacks {missing[0]!r}")
    for name, item in value.items():
        if name in properties:
            check(item, properties[name], f"{where}.{name}")
        elif more is False:
            raise InputError(f"{where} has an unknown field {shown(name)}")
        elif isinstance(more, dict):
            check(item, more, f"{where}.{name}")
