"""One program inside another: its nodes recorded again, some inputs replaced by values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .program import Input, Program
from .trace import Tracer, Value

__all__ = ["splice"]


def splice(
    tracer: Tracer,
    program: Program,
    inputs: Mapping[str, Value],
    names: Mapping[str, str] | None = None,
) -> dict[str, Value]:
    """Record ``program`` in ``tracer``; its new values by output name.

    inputs: by key (``step``, ``hyper:lr``), the values that stand for an input.
    names: hyperparameter -> what it is called from now on. Inputs in neither stay inputs.
    """
    new: list[Value] = []
    for node in program.nodes:
        if isinstance(node.attr, Input):
            key = node.attr.key
            if key in inputs:
                new.append(inputs[key])
                continue
            if node.attr.role == "hyper" and node.attr.name in (names or {}):
                node = replace(node, attr=Input("hyper", (names or {})[node.attr.name]))
        new.append(tracer._add(replace(node, args=tuple(new[a].index for a in node.args))))
    return {output: new[i] for output, i in program.outputs.items()}
