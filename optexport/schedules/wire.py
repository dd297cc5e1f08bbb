"""Schedules as protobuf messages, both ways."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

from ..errors import CheckpointError, HyperparameterError, RuleError
from ..ir import digest
from ..ir.program import Program
from ..ir.wire import from_message, to_message
from ..rules.base import Hyper
from .base import Schedule, Static, combine, plans
from .combinations import COMBINATIONS

__all__ = ["schedule_from_message", "schedule_to_message"]

# A file's schedules inside schedules; nobody needs more, and reading recurses.
_DEPTH = 8


def schedule_to_message(schedule: Schedule) -> Any:
    """The ``Schedule`` message."""
    from optexport.schemas import message

    out = message("Schedule")(name=schedule.name, digest=schedule.digest, native=schedule.native)
    for name, value in schedule.options.items():
        out.options[name] = json.dumps(value)
    out.program.CopyFrom(to_message(schedule.program))
    for name, number in schedule.values.items():
        out.values[name] = number
    for part in schedule.parts:
        out.parts.add().CopyFrom(schedule_to_message(part))
    if schedule.arguments:
        plain = {
            k: [list(x) for x in v.items()] if isinstance(v, dict) else v
            for k, v in schedule.arguments.items()
        }
        out.arguments = json.dumps(plain, sort_keys=True, separators=(",", ":"), default=repr)
    return out


def schedule_from_message(m: Any, where: str, depth: int = 0) -> Schedule:
    """The schedule of a message: optexport's own where it is still the same function, else the
    program that the file carries.

    Raises:
        CheckpointError: the message is damaged.
    """
    if depth > _DEPTH:
        raise CheckpointError(f"{where}: expected at most {_DEPTH} schedules inside one another, found more")
    try:
        program = from_message(m.program, rule=False)
    except RuleError as e:
        raise CheckpointError(f"{where}: {e}") from None
    values = dict(m.values)
    _check(program, values, where)
    if digest(Program(program.nodes, {"param": program.outputs["value"]}), values) != m.digest:
        raise CheckpointError(f"{where}: its program and values are not those of its digest; damaged")
    options = {k: _option(v, where) for k, v in m.options.items()}
    parts = tuple(schedule_from_message(p, where, depth + 1) for p in m.parts)
    native, arguments = m.native, _arguments(m.arguments, where)
    with contextlib.suppress(HyperparameterError, KeyError):
        if parts or m.name in COMBINATIONS:
            made = combine(m.name, parts, **options)
        else:
            made = plans()[m.name].schedule({**options, **values})
        if made.digest == m.digest:
            return Schedule(
                made.name,
                made.options,
                made.program,
                made.hyperparameters,
                made.values,
                parts,
                native,
                arguments,
            )
    hypers = tuple(Hyper(h, math.nan, -math.inf, math.inf, "") for h in values)
    return Schedule(m.name, options, program, hypers, values, parts, native, arguments)


def _check(program: Program, values: dict[str, float], where: str) -> None:
    if list(program.outputs) != ["value"] or program.nodes[program.outputs["value"]].type.is_tensor:
        raise CheckpointError(
            f"{where}: expected one scalar output 'value', found {', '.join(program.outputs)}"
        )
    foreign = [i.key for i in program.inputs() if i.role not in ("step", "hyper")]
    if foreign:
        raise CheckpointError(f"{where}: expected inputs step and hyperparameters, found {foreign[0]}")
    missing = sorted({i.name for i in program.inputs("hyper")} - set(values))
    if missing:
        raise CheckpointError(f"{where}: hyperparameter {missing[0]!r} has no value; the file was changed")


def _option(text: str, where: str) -> Static:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{where}: expected JSON, found {text[:80]!r}") from None
    return tuple(value) if isinstance(value, list) else value


def _arguments(text: str, where: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected a schedule's arguments by name, found {text[:80]!r}")
    return value
