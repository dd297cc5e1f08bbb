"""Specs and manifests in wire form: canonical JSON of the protobuf messages.

Canonical: keys sorted, no spaces, default values left out, so equal content gives equal bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from ..ir.wire import from_message, to_message
from ..rules import Rule, Slot, families
from ..rules.base import Hyper
from ..specs import Group, Spec

__all__ = ["message_text", "parse_message", "spec_from_message", "spec_from_text", "spec_text", "spec_to_message"]


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

    from optexport.schemas import FORMAT_VERSION, message

    try:
        m = json_format.Parse(text, message(name)())
    except (json_format.ParseError, RecursionError, UnicodeError) as e:
        raise CheckpointError(f"{where}: expected a {name} in optexport's JSON, found {str(e)[:120]}") from None
    if m.version > FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: format version {m.version}; this optexport reads up to {FORMAT_VERSION}, install a newer one"
        )
    return m


def spec_to_message(spec: Spec) -> Any:
    from optexport.schemas import FORMAT_VERSION, message

    out = message("Spec")(version=FORMAT_VERSION)
    for group in spec.groups:
        g = out.groups.add(lr_mult=group.lr_mult, params=group.params or (), native=group.native)
        if group.arguments:
            g.arguments = json.dumps(_plain(group.arguments), sort_keys=True, separators=(",", ":"))
        for name, value in group.hyperparameters.items():
            g.hyperparameters[name] = value
        g.rule.family, g.rule.digest = group.rule.family, group.rule.digest
        for name, option in group.rule.options.items():
            g.rule.options[name] = json.dumps(option)
        g.rule.program.CopyFrom(to_message(group.rule.program))
        for slot in group.rule.slots:
            g.rule.slots.add(name=slot.name, init=slot.init)
        g.rule.hyperparameters.extend(h.name for h in group.rule.hyperparameters)
    return out


def spec_from_message(m: Any, where: str = "spec") -> Spec:
    groups = []
    for g in m.groups:
        arguments = _tuples(json.loads(g.arguments)) if g.arguments else {}
        groups.append(
            Group(_rule(g.rule, where), dict(g.hyperparameters), tuple(g.params) or None, g.lr_mult, g.native, arguments)
        )
    return Spec(tuple(groups))


def _rule(m: Any, where: str) -> Rule:
    """The rule of a message: the family's own where it is still the same mathematics, else the
    program that the file carries. Old files keep their meaning for ever."""
    program = from_message(m.program)
    options = {k: json.loads(v) for k, v in m.options.items()}
    fam = families().get(m.family)
    if fam is not None and set(options) == set(fam.options):
        rule = fam.rule(**options)
        if rule.digest == m.digest:
            return rule
    inf = float("inf")
    known: Mapping[str, Hyper] = fam.hyperparameters if fam else {}
    hypers = tuple(known.get(h) or Hyper(h, math.nan, -inf, inf, "") for h in m.hyperparameters)
    rule = Rule(m.family, options, program, tuple(Slot(s.name, "", s.init) for s in m.slots), hypers, where)
    if rule.digest != m.digest:
        raise CheckpointError(f"{where}: rule {m.family!r} has digest {rule.digest[:12]}, expected {m.digest[:12]}; damaged")
    return rule


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
