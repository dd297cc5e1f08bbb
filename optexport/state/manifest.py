"""Specs and manifests in wire form: canonical JSON of the protobuf messages.

Canonical: keys sorted, no spaces, default values left out, so equal content gives equal bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import CheckpointError, HyperparameterError, RuleError
from ..ir import Program, digest
from ..ir.wire import from_message, to_message
from ..rules import Rule, Slot, families
from ..rules.base import Hyper
from ..schedules.base import Schedule
from ..schedules.wire import schedule_from_message, schedule_to_message
from ..specs import Group, Spec
from .limits import parse_json

__all__ = [
    "message_text",
    "parse_message",
    "spec_from_message",
    "spec_from_text",
    "spec_text",
    "spec_to_message",
]


def spec_text(spec: Spec) -> str:
    """Canonical JSON of a spec; what ONNX graphs carry in their metadata."""
    return message_text(spec_to_message(spec))


def spec_from_text(text: str, where: str = "spec") -> Spec:
    """The spec of `spec_text`'s output.

    Raises:
        CheckpointError: not such a text, or written by a newer format version.
    """
    return spec_from_message(parse_message("Spec", text, where), where)


def message_text(m: Any) -> str:
    from google.protobuf import json_format

    return json.dumps(
        json_format.MessageToDict(m, preserving_proto_field_name=True), sort_keys=True, separators=(",", ":")
    )


def parse_message(name: str, text: str, where: str) -> Any:
    from google.protobuf import json_format

    from optexport.schemas import message

    try:
        m = json_format.Parse(text, message(name)())
    except Exception as e:  # which ones a hostile text raises differs between releases of protobuf
        # A newer version may have fields that this one does not know.
        _check_version(name, _version(text), where)
        # The innermost cause stands behind one such part for every level above it.
        said = " ".join(str(e).split()).rpartition(" field: ")[2] or type(e).__name__
        raise CheckpointError(f"{where}: expected a {name} in optexport's JSON, found {said[:120]}") from None
    _check_version(name, m.version, where)
    if not m.version:
        raise CheckpointError(f"{where}: expected a {name} with a format version, found none")
    return m


def _version(text: str) -> int:
    try:
        value = parse_json(text)["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return value if isinstance(value, int) else 0


def _check_version(name: str, found: int, where: str) -> None:
    from optexport.schemas import FORMAT_VERSION, SPEC_VERSION

    newest = FORMAT_VERSION if name == "Manifest" else SPEC_VERSION
    if found > newest:
        raise CheckpointError(
            f"{where}: format version {found}; this optexport reads up to {newest}, install a newer one"
        )


def spec_to_message(spec: Spec) -> Any:
    from optexport.schemas import SPEC_VERSION, message

    out = message("Spec")(version=SPEC_VERSION)
    for group in spec.groups:
        if group.stated is not None:
            # What was put inside the rule to run it is stated as it was.
            group = replace(group.stated, params=group.params)
        g = out.groups.add(lr_mult=group.lr_mult, params=group.params or (), native=group.native)
        if group.arguments:
            g.arguments = json.dumps(_plain(group.arguments), sort_keys=True, separators=(",", ":"))
        for name, value in group.hyperparameters.items():
            g.hyperparameters[name] = value
        g.rule.family, g.rule.digest = group.rule.family, group.rule.digest
        known = families()[group.rule.family].options if group.rule.family in families() else {}
        for name, option in group.rule.options.items():
            # An addition that is not in use goes unsaid, as in files older than it.
            if name not in known or known[name].default is None or known[name].default != option:
                g.rule.options[name] = json.dumps(option)
        g.rule.program.CopyFrom(to_message(group.rule.program))
        for slot in group.rule.slots:
            g.rule.slots.add(
                name=slot.name,
                init=slot.init,
                # What older files mean by leaving them out.
                shape="" if slot.shape == "param" else slot.shape,
                dtype="" if slot.dtype == "param" else slot.dtype,
            )
        g.rule.hyperparameters.extend(h.name for h in group.rule.hyperparameters)
        for name, schedule in group.schedules.items():
            g.schedules[name].CopyFrom(schedule_to_message(schedule))
    return out


def spec_from_message(m: Any, where: str = "spec") -> Spec:
    groups = []
    for g in m.groups:
        rule = _rule(g.rule, where)
        arguments = _arguments(g.arguments, where) if g.arguments else {}
        made = Group(rule, _values(g, rule, where), tuple(g.params) or None, g.lr_mult, g.native, arguments)
        groups.append(replace(made, schedules=_schedules(g, rule, where)))
    return Spec(tuple(groups))


def _schedules(g: Any, rule: Rule, where: str) -> dict[str, Schedule]:
    known = {h.name for h in rule.hyperparameters}
    unknown = sorted(set(g.schedules) - known)
    if unknown:
        raise CheckpointError(f"{where}: schedule of {unknown[0]!r}, which the rule does not have; damaged")
    return {
        k: schedule_from_message(g.schedules[k], f"{where}: schedule of {k!r}") for k in sorted(g.schedules)
    }


def _values(g: Any, rule: Rule, where: str) -> dict[str, float]:
    missing = [h.name for h in rule.hyperparameters if h.name not in g.hyperparameters]
    if missing:
        raise CheckpointError(
            f"{where}: rule {rule.family!r}: hyperparameter {missing[0]!r} has no value; the file was changed"
        )
    return {h.name: h.check(where, g.hyperparameters[h.name]) for h in rule.hyperparameters}


def _arguments(text: str, where: str) -> dict[str, Any]:
    try:
        value = _tuples(_json(text, where))
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected a group's arguments by name, found {text[:80]!r}")
    return value


def _json(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{where}: expected JSON, found {text[:80]!r}") from None


def _rule(m: Any, where: str) -> Rule:
    """The rule of a message: the family's own where it is still the same mathematics, else the
    program that the file carries. Old files keep their meaning for ever."""
    try:
        program = from_message(m.program)
    except RuleError as e:
        raise CheckpointError(f"{where}: rule {m.family!r}: {e}") from None
    found = digest(program)
    if found != m.digest:
        raise CheckpointError(
            f"{where}: rule {m.family!r} has digest {found[:12]}, expected {m.digest[:12]}; damaged"
        )
    options = {k: _json(v, where) for k, v in m.options.items()}
    fam = families().get(m.family)
    if fam is not None:
        # Options that the family does not have today: the file's program speaks for itself.
        with contextlib.suppress(HyperparameterError):
            rule = fam.rule(**options)
            if rule.digest == m.digest:
                return rule
    inf = float("inf")
    known: Mapping[str, Hyper] = fam.hyperparameters if fam else {}
    hypers = tuple(known.get(h) or Hyper(h, math.nan, -inf, inf, "") for h in m.hyperparameters)
    slots = tuple(Slot(s.name, "", s.init, s.shape or "param", s.dtype or "param") for s in m.slots)
    _check_rule(program, slots, hypers, f"{where}: rule {m.family!r}")
    return Rule(m.family, options, program, slots, hypers, where)


def _check_rule(program: Program, slots: Sequence[Slot], hypers: Sequence[Hyper], where: str) -> None:
    """What the message says beside the program agrees with it."""
    named, written = [s.name for s in slots], set(program.outputs) - {"param"}
    if sorted(named) != sorted(written):
        raise CheckpointError(
            f"{where}: expected the slots {', '.join(sorted(written)) or 'none'}, found {', '.join(named)}"
        )
    values = {h.name for h in hypers}
    needed = {i.name for i in program.inputs("hyper")} | {s.init for s in slots if not _fixed(s.init)}
    if needed - values:
        raise CheckpointError(
            f"{where}: hyperparameter {min(needed - values)!r} is read and not listed; the file was changed"
        )


def _fixed(init: str) -> bool:
    """Whether a slot's initial value is no hyperparameter."""
    try:
        return init in ("zeros", "param") or math.isfinite(float(init))
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    """JSON-able, tuples and non-text keys marked so that they come back."""
    if isinstance(value, tuple):
        return {"()": [_plain(v) for v in value]}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        if all(isinstance(k, str) for k in value):
            return {k: _plain(v) for k, v in value.items()}
        return {"{}": [[_plain(k), _plain(v)] for k, v in value.items()]}
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return [_tuples(v) for v in value]
    if isinstance(value, dict):
        if set(value) == {"()"}:
            return tuple(_tuples(v) for v in value["()"])
        if set(value) == {"{}"}:
            return {_tuples(k): _tuples(v) for k, v in value["{}"]}
        return {k: _tuples(v) for k, v in value.items()}
    return value
