"""Optax state under an alias' slots, once the alias and its arguments are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.native import NativeGroup, NativeState

from ._tree import find_states, flat, refuse_emitted, take
from .optimizers.common import RATE, OptaxNative, State

__all__ = ["arrange"]


def arrange(native: NativeState, entry: OptaxNative, given: Mapping[str, Any], where: str) -> NativeState:
    """``native`` with its arrays under the slots of ``entry``.

    The alias' state is looked for anywhere in the tree: below the links of a chain, the labels of
    `optax.multi_transform`, `optax.inject_hyperparams`. given: arguments that the file does not hold.

    Raises:
        CheckpointError: the state at these arguments is not in the file, or the file holds arrays that it
            has no place for.
    """
    tree = native.extras.get("tree")
    if tree is None:
        return native
    (group,) = native.groups
    known = {k: v for k, v in group.arguments.items() if k in entry.arguments}
    if "links" in entry.arguments and "links" in given:  # a chain has its learning rate in a link
        known = {"links": given["links"]}
    named = {entry.aliases.get(k, k): v for k, v in given.items()}
    layout = entry.state(entry.complete({**known, **named}))
    found = find_states(layout, tree)
    held = sorted({".".join(p) for p, _ in _arrays(tree)})
    if not found:
        refuse_emitted(tree, where)
        raise CheckpointError(
            f"{where}: expected the state of {entry.qualified} at these arguments, nested as {_text(layout)}; "
            f"found arrays under {', '.join(held) or 'nothing'}; was it another optimizer, or other arguments?"
        )
    parts = [take(layout, part) for _, part in found]
    slots: dict[str, dict[str, np.ndarray]] = {}
    steps: dict[str, int | None] = {}
    for own, counts in parts:
        for name, arrays in own.items():
            if name in slots:
                raise CheckpointError(
                    f"{where}: parameter {name!r} has state in {len(found)} places, "
                    f"{', '.join(p or 'the root' for p, _ in found)}; expected one"
                )
            slots[name], steps[name] = arrays, counts[0] if counts else None
    warnings = [*native.warnings, *_left_over(tree, [p for p, _ in found], where)]
    if any(_scheduled(layout, part) for _, part in found):
        warnings.append(
            "the learning rate follows a schedule, which the file does not hold: the given number stays; give the "
            "schedule as the spec's to go on with it"
        )
    counts = [c for _, own in parts for c in own]
    names = list(native.weights) or list(slots)
    alone = [n for n in slots if n not in set(names)]
    # Without a count in the state, a training state's own says how far it is.
    other = counts[0] if counts else next(iter(native.steps.values()), None)
    known_steps = {n: s for n, s in steps.items() if s is not None}
    steps = {n: known_steps.get(n, other) for n in (*names, *alone)}
    if _masked(tree):
        warnings.append(
            "a link is masked, which the file tells no more about: give its parameters as a group"
        )
    if native.weights and len(found) > 1:
        names = [n for n in names if n in slots]  # the others are another label's
    return replace(
        native,
        groups=[NativeGroup(known, [*names, *alone])],
        slots=slots,
        steps=steps,
        extras={k: v for k, v in native.extras.items() if k != "tree"},
        warnings=warnings,
    )


def _scheduled(layout: State, tree: Any) -> bool:
    """Whether the learning rate's place holds a count."""
    if layout is RATE:
        return bool(tree)
    if isinstance(layout, tuple):
        return any(_scheduled(part, tree[str(i)]) for i, part in enumerate(layout))
    return isinstance(layout, Mapping) and any(
        _scheduled(part, tree[k]) for k, part in layout.items() if k in tree
    )


def _masked(tree: Any, labels: bool = False) -> bool:
    """Whether some part of the state is `optax.masked`'s; labels: whether these are multi_transform's."""
    if not isinstance(tree, Mapping):
        return False
    if set(tree) == {"inner_state"} and not labels:
        return True
    return any(
        _masked(
            v["inner_state"] if labels and isinstance(v, Mapping) and set(v) == {"inner_state"} else v,
            k == "inner_states",
        )
        for k, v in tree.items()
    )


_HYPER = ("hyperparams", "hyperparams_states")


def _arrays(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """(path up to a field, array) of every array with dimensions that is no hyperparameter."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and key not in _HYPER:
            if (
                key.isdigit()
                or key in ("inner_state", "inner_states", "inner_opt_state")
                or path[-1:] == ("inner_states",)
            ) or any(isinstance(v, Mapping) and set(v) & {"0", "inner_state"} for v in value.values()):
                yield from _arrays(value, (*path, key))
            else:
                yield from (((*path, key), a) for _, a in flat(value))


def _left_over(tree: Mapping[str, Any], places: list[str], where: str) -> list[str]:
    """Refuse arrays outside ``places``, those of `optax.MultiSteps` between two steps apart."""
    rest = sorted({".".join(p) for p, _ in _arrays(tree) if not _inside(".".join(p), places)})
    warnings = []
    if "acc_grads" in rest:
        done = int(np.asarray(tree.get("mini_step", 0)).reshape(()))
        if done:
            raise CheckpointError(
                f"{where}: MultiSteps has gathered {done} gradients; expected a file of a moment after an update, "
                "or optax:chain with the links MultiSteps, then the rest, which carries them"
            )
        rest.remove("acc_grads")
        warnings.append("the gathered gradients of MultiSteps are empty and are left out")
    rest += _counters(tree, places, where, warnings)
    labels = sorted({r.split(".")[1] for r in rest if r.startswith("inner_states.")})
    if labels:
        raise CheckpointError(
            f"{where}: multi_transform gives the label {', '.join(map(repr, labels))} another optimizer, or other "
            f"arguments ({', '.join(rest)}); expected one optimizer for all labels; save each label's inner_state alone"
        )
    if rest:
        raise CheckpointError(
            f"{where}: also holds {', '.join(rest)}, which that optimizer does not have; was it another?"
        )
    return warnings


# Numbers that tell nothing a run needs: counts of schedules and of injected numbers, and what was counted.
_TOLD = frozenset(("count", "total_notfinite", "last_finite", "gradient_step", "mini_step"))


def _counters(tree: Any, places: list[str], where: str, warnings: list[str], path: str = "") -> list[str]:
    """Paths of single numbers outside ``places`` that a run goes on from."""
    out: list[str] = []
    for key, value in tree.items():
        at = f"{path}.{key}" if path else key
        if _inside(at, places) or key == "hyperparams" or key in _TOLD:
            continue
        if isinstance(value, Mapping):
            out += _counters(value, places, where, warnings, at)
        elif key == "notfinite_count" and not np.any(value):
            warnings.append(
                "apply_if_finite: its counters are left out; with optax:chain and the link apply_if_finite first "
                "they are carried"
            )
        elif key == "notfinite_count":
            raise CheckpointError(
                f"{where}: apply_if_finite has skipped {int(np.asarray(value))} updates in a row; name it to carry "
                "that: optax:chain with the links apply_if_finite, then the rest"
            )
        elif np.size(value) == 1:
            out.append(at)
    return out


def _inside(path: str, places: list[str]) -> bool:
    return any(not p or path == p or path.startswith(p + ".") for p in places)


def _text(layout: Any) -> str:
    if isinstance(layout, tuple):
        return "(" + ", ".join(map(_text, layout)) + ("," if len(layout) == 1 else "") + ")"
    if isinstance(layout, Mapping):
        return "{" + ", ".join(layout) + "}"
    return "an array"
