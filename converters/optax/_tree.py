"""Optax state as a tree: finding an alias' state in it, taking slots out, and putting them in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.rules import families

from .optimizers.common import (
    COUNT,
    NEXT_COUNT,
    Constant,
    Curvatures,
    Each,
    Gathered,
    Guarded,
    Ring,
    Shared,
    State,
)

__all__ = ["Found", "find_states", "flat", "nested", "place", "refuse_emitted", "take"]

Tree = Mapping[str, Any]


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every leaf, keys joined by dots; numbers and None are left out."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(tree, np.ndarray):
        yield prefix, tree


def nested(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The tree whose leaves have these names.

    Raises:
        CheckpointError: a name is the beginning of another.
    """
    out: dict[str, Any] = {}
    for name, value in values.items():
        at, parts = out, name.split(".")
        for part in parts[:-1]:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                break
        if not isinstance(at, dict) or parts[-1] in at:
            raise CheckpointError(
                f"{where}: parameter {name!r}: its name begins, or is begun by, another's; rename one"
            )
        at[parts[-1]] = value
    return out


def _fits(layout: State, tree: Any) -> bool:
    """Whether ``tree`` is nested like ``layout``."""
    if isinstance(layout, tuple):
        return (
            isinstance(tree, Mapping)
            and list(tree) == [str(i) for i in range(len(layout))]
            and all(_fits(inner, tree[str(i)]) for i, inner in enumerate(layout))
        )
    if isinstance(layout, Mapping):
        if not isinstance(tree, Mapping):
            return False
        if not layout:
            # Nothing; or a learning rate that is a schedule; or a mask around nothing.
            return not tree or set(tree) == {"count"} or tree == {"inner_state": {}}
        return set(tree) == set(layout) and all(_fits(v, tree[k]) for k, v in layout.items())
    if isinstance(layout, str) and layout.startswith("#"):
        return isinstance(tree, int) or (isinstance(tree, np.ndarray) and tree.size == 1)
    return True


def refuse_emitted(tree: Tree, where: str) -> None:
    """Say what it is where ``tree`` is a count and trees under the names of a rule's slots.

    Raises:
        CheckpointError: it is.
    """
    slots = {s for f in families().values() for s in f.slots}
    if "count" in tree and len(tree) > 1 and set(tree) - {"count"} <= slots:
        raise CheckpointError(
            f"{where}: its fields, {', '.join(tree)}, are those of a transformation that optexport emitted, whose file "
            "tells neither rule nor hyperparameters; it cannot be read back: go on in that transformation, or "
            "convert the file that it was made from"
        )


Found = tuple[str, Tree]


def find_states(layout: State, tree: Any, path: str = "") -> list[Found]:
    """(path, subtree) of everything in ``tree`` that is nested like ``layout``, outermost first."""
    if not isinstance(tree, Mapping):
        return []
    if _fits(layout, tree):
        return [(path, tree)]
    found: list[Found] = []
    for key, value in tree.items():
        found += find_states(layout, value, f"{path}.{key}" if path else key)
    return found


def take(layout: State, tree: Any) -> tuple[dict[str, dict[str, np.ndarray]], list[int]]:
    """(parameter -> slot -> array, step counts) of a state that is nested like ``layout``."""
    slots: dict[str, dict[str, np.ndarray]] = {}
    shared: dict[str, np.ndarray] = {}
    counts: list[int] = []
    rings: set[str] = set()

    def walk(part: State, held: Any) -> None:
        nonlocal counts
        if isinstance(part, Gathered):
            walk(part["inner_opt_state"], held["inner_opt_state"])
            walk(part["acc_grads"], held["acc_grads"])
            counts = [_whole(held["gradient_step"]) * part.every + _whole(held["mini_step"])]
        elif isinstance(part, Guarded):
            walk(part["inner_state"], held["inner_state"])
            shared["bad_updates"] = np.asarray(_whole(held["notfinite_count"]), np.float64)
            if part.counted:
                shared["updates"] = np.asarray(counts[0], np.float64)
            counts = [n + _whole(held["total_notfinite"]) for n in counts[:1]]
        elif isinstance(part, tuple):
            for i, inner in enumerate(part):
                walk(inner, held[str(i)])
        elif isinstance(part, Mapping):
            for key, inner in part.items():
                walk(inner, held[key])
        elif isinstance(part, Shared):
            shared[part.slot] = np.asarray(held)
        elif isinstance(part, Each):
            for name, array in flat(held):
                param, _, index = name.rpartition(".")
                slots.setdefault(param, {})[f"{part.slot}[{index}]"] = array
        elif isinstance(part, Ring):
            rings.add(part.slot)
            for name, array in flat(held):
                slots.setdefault(name, {})[part.slot] = array
        elif isinstance(part, str) and part in (COUNT, NEXT_COUNT):
            counts.append(_whole(held) - (part == NEXT_COUNT))
        elif isinstance(part, str) and not part.startswith("#"):
            for name, array in flat(held):
                slots.setdefault(name, {})[part] = array

    walk(layout, tree)
    for own in slots.values():
        own.update(shared)
        own.update({ring: np.roll(own[ring], 1 - counts[0], axis=0) for ring in rings & set(own)})
    return slots, counts


def place(
    layout: State,
    slots: Mapping[str, Mapping[str, np.ndarray]],
    params: Sequence[str],
    step: int,
    where: str,
    others: Sequence[str] = (),
) -> Any:
    """The tree of a state: `take`'s inverse.

    params: in the model's order. step: completed updates. others: parameters that this state leaves
        out, as a label's transformation does.
    """

    def tree_of(values: Mapping[str, Any]) -> dict[str, Any]:
        order = [*params, *(n for n in others if n not in params)]
        return nested({n: values.get(n, {}) for n in order}, where)

    def made(part: State, step: int) -> Any:
        if isinstance(part, Gathered):
            done, since = divmod(step, part.every)
            new = {k: made(inner, done) for k, inner in part.items() if not str(inner).startswith("#")}
            return {
                "mini_step": np.asarray(since, np.int32),
                "gradient_step": np.asarray(done, np.int32),
                **new,
            }
        if isinstance(part, Guarded):
            row = int(_shared(slots, params, "bad_updates"))
            done = int(_shared(slots, params, "updates")) if part.counted else step
            return {
                "notfinite_count": np.asarray(row, np.int32),
                "last_finite": np.asarray(row == 0),
                "total_notfinite": np.asarray(step - done, np.int32),
                "inner_state": made(part["inner_state"], done),
            }
        if isinstance(part, tuple):
            return {str(i): made(inner, step) for i, inner in enumerate(part)}
        if isinstance(part, Mapping):
            return {key: made(inner, step) for key, inner in part.items()}
        if isinstance(part, Shared):
            return _shared(slots, params, part.slot)
        if isinstance(part, Each):
            lists = {}
            for name in params:
                own = slots.get(name, {})
                items = [
                    own[s] for s in sorted((s for s in own if s.startswith(part.slot + "[")), key=_index)
                ]
                lists[name] = {str(i): a for i, a in enumerate(items)}
            return tree_of(lists)
        if isinstance(part, str) and part in (COUNT, NEXT_COUNT):
            return np.asarray(step + (part == NEXT_COUNT), np.int32)
        if isinstance(part, Ring):
            held = {n: slots[n][part.slot] for n in params if part.slot in slots.get(n, {})}
            return tree_of({n: np.roll(a, step - 1, axis=0) for n, a in held.items()})
        if isinstance(part, Curvatures):
            return _curvatures(part, slots, params, step)
        if isinstance(part, str):
            return tree_of({n: slots[n][part] for n in params if part in slots.get(n, {})})
        return np.asarray(part.value if isinstance(part, Constant) else part, np.float32)

    return made(layout, step)


def _shared(slots: Mapping[str, Mapping[str, np.ndarray]], params: Sequence[str], slot: str) -> np.ndarray:
    return next(np.asarray(slots[n][slot]) for n in params if slot in slots.get(n, {}))


def _whole(count: Any) -> int:
    return int(np.asarray(count).reshape(()))


def _curvatures(
    part: Curvatures, slots: Mapping[str, Mapping[str, np.ndarray]], params: Sequence[str], step: int
) -> np.ndarray:
    pairs = [(slots[n][part.first], slots[n][part.second]) for n in params if part.first in slots.get(n, {})]
    m, dtype = len(pairs[0][0]), pairs[0][0].dtype
    products = np.sum([(y * s).reshape(m, -1).sum(1) for y, s in pairs], axis=0)
    inverse = np.divide(1.0, products, out=np.zeros(m), where=products != 0)
    return np.roll(inverse, step - 1).astype(dtype)


def _index(slot: str) -> int:
    return int(slot[slot.index("[") + 1 : -1])
