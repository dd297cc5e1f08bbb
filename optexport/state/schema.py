"""JSON against a schema of ours: the few keywords of JSON Schema that our schemas use.

Ours, because a library for all of JSON Schema would be one more dependency for one small file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import NamingError

__all__ = ["check", "schema"]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "null": (type(None),),
}
KEYWORDS = frozenset(
    {"$schema", "$defs", "$ref", "title", "description", "type", "const", "required", "properties", "items"}
    | {"additionalProperties", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum"}
)


def schema(name: str) -> dict[str, Any]:
    """A schema that is installed with the package, as ``map``."""
    import optexport.schemas as folder

    path = Path(folder.__path__[0]) / f"{name}.schema.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def check(value: Any, rules: Mapping[str, Any], where: str, root: Mapping[str, Any] | None = None) -> None:
    """Whether ``value`` is as the schema says.

    where: what to call the value in a message.

    Raises:
        NamingError: the first thing that is not.
    """
    root = rules if root is None else root
    if "$ref" in rules:
        rules = root["$defs"][rules["$ref"].removeprefix("#/$defs/")]
    if "const" in rules and not (type(value) is type(rules["const"]) and value == rules["const"]):
        raise NamingError(f"{where}: expected {json.dumps(rules['const'])}, found {_shown(value)}")
    allowed = rules.get("type", [])
    kinds = [allowed] if isinstance(allowed, str) else list(allowed)
    if kinds and not any(isinstance(value, _TYPES[k]) and not isinstance(value, bool) for k in kinds):
        raise NamingError(f"{where}: expected {' or '.join(kinds)}, found {_shown(value)}")
    if isinstance(value, str):
        _within(len(value), "Length", "characters", rules, where)
    elif isinstance(value, int):
        _within(value, "imum", "", rules, where)
    elif isinstance(value, list):
        _within(len(value), "Items", "items", rules, where)
        for i, item in enumerate(value):
            check(item, rules.get("items", {}), f"{where}[{i}]", root)
    elif isinstance(value, dict):
        _check_object(value, rules, where, root)


def _check_object(
    value: dict[str, Any], rules: Mapping[str, Any], where: str, root: Mapping[str, Any]
) -> None:
    known: Mapping[str, Any] = rules.get("properties", {})
    rest = rules.get("additionalProperties", {})
    missing = [k for k in rules.get("required", ()) if k not in value]
    if missing:
        raise NamingError(f"{where}: expected {missing[0]!r}, found none")
    for key, item in value.items():
        if key not in known and rest is False:
            raise NamingError(f"{where}: unknown {key!r}; expected one of {', '.join(known)}")
        check(item, known.get(key, rest), f"{where}.{key}", root)


def _within(number: int, suffix: str, unit: str, rules: Mapping[str, Any], where: str) -> None:
    low, high = rules.get(f"min{suffix}"), rules.get(f"max{suffix}")
    if (low is not None and number < low) or (high is not None and number > high):
        limits = [f"at least {low}"] if low is not None else []
        limits += [f"at most {high}"] if high is not None else []
        raise NamingError(f"{where}: expected {' and '.join(limits)} {unit}".rstrip() + f", found {number}")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
