"""A map of names out of two weights files: one model, saved by two frameworks.

Equal values decide first: a tensor that has the same elements, its axes in some order, is the same
tensor. What values do not tell apart (zeros, another training state) is matched by equal names, then by
shape. Where two are possible it is an error that lists them: nothing is guessed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import NamingError
from .axes import Axes
from .name_map import Entry, NameMap
from .names import parameters
from .native import Weights
from .patterns import wildcards

__all__ = ["LAYOUTS", "derive_map"]

Shape = tuple[int, ...]
Order = tuple[int, ...]
# Every order of the axes is tried; from here on only the two that frameworks have.
_MOST_AXES = 5
# Convention -> rank -> old place of each new axis. Linear and Dense; convolutions, whose output channels
# come first in PyTorch, MXNet and ONNX and last in Keras and Flax; the second of rank 4 is depthwise.
_TO_LAST: Mapping[int, tuple[Order, ...]] = {
    2: ((1, 0),),
    3: ((2, 1, 0),),
    4: ((2, 3, 1, 0), (2, 3, 0, 1)),
    5: ((2, 3, 4, 1, 0),),
}
_TO_FIRST: Mapping[int, tuple[Order, ...]] = {
    rank: tuple(tuple(int(i) for i in np.argsort(o)) for o in orders) for rank, orders in _TO_LAST.items()
}
LAYOUTS: Mapping[str, Mapping[int, tuple[Order, ...]]] = {
    "torch-to-keras": _TO_LAST,
    "torch-to-flax": _TO_LAST,
    "mxnet-to-keras": _TO_LAST,
    "mxnet-to-flax": _TO_LAST,
    "keras-to-torch": _TO_FIRST,
    "flax-to-torch": _TO_FIRST,
    "keras-to-mxnet": _TO_FIRST,
    "flax-to-mxnet": _TO_FIRST,
    "same": {},
}


# How the axes of one tensor become those of another; None where they stay.
Way = Axes | None
_VALUES, _NAMES, _SHAPES = "equal values", "equal names", "the only shape that fits"


@dataclass
class _Pairs:
    """What is decided, and what is left of both sides."""

    source: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    where: str
    layout: str | None
    entries: dict[str, Entry] = field(default_factory=dict)

    def take(self, source: str, target: str, way: Way, why: str) -> None:
        self.entries[source] = Entry((source,), (target,), axes=way, why=why)
        del self.source[source], self.target[target]

    def several(self, name: str, target: str, ways: Sequence[Way]) -> NamingError:
        shape = list(self.source[name].shape)
        texts = " or ".join("they are" if w is None else repr(w.text) for w in ways[:6])
        return NamingError(
            f"{self.where}: {name!r} {shape} is {target!r} with its axes as {texts}; neither values nor shapes tell: name "
            "the convention (--layout torch-to-keras, …) or map it by hand (--map FILE)"
        )

    def usual(self, ways: Sequence[Way]) -> list[Way]:
        """Of several possible ways the convention's, where there is one."""
        if self.layout is None or len(ways) < 2:
            return list(ways)
        orders = LAYOUTS[self.layout].get(max(len(w.left) for w in ways if w is not None), ())
        found = [w for o in orders for w in ways if w is not None and w.order == o]
        as_it_is: list[Way] = [w for w in ways if w is None]
        return list(found[:1]) or as_it_is or list(ways)


def derive_map(
    source: Weights,
    target: Weights,
    where: str,
    *,
    layout: str | None = None,
    partial: bool = False,
    names: Iterable[str] | None = None,
) -> tuple[NameMap, list[str]]:
    """The map, and what a person should look at, one sentence each.

    Where some tensors have their values in the target, so must every other whose values tell it from
    another: equal shapes with other values are another tensor (a new head), or another order of elements.

    where: what to call the target in messages.
    layout: the convention that the two models follow (`LAYOUTS`), for tensors whose values do not tell;
        without it every order of the axes is possible.
    partial: leave out what has no counterpart.
    names: parameters that the optimizer has; only these must have a counterpart. None: all.

    Raises:
        NamingError: two counterparts are possible; the message lists them. Or there is none.
    """
    if layout is not None and layout not in LAYOUTS:
        raise NamingError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    needed = [n for n in (names if names is not None else parameters(source)) if n in source.tensors]
    starred = [n for n in (*source.tensors, *target.tensors) if wildcards(n)]
    if starred:
        raise NamingError(f"{where}: {starred[0]!r} has a '*', which is a wildcard in a map; rename it")
    pairs = _Pairs(dict(source.tensors), dict(target.tensors), where, layout)
    _by_value(pairs, needed)
    unmatched: dict[str, np.ndarray] = {}
    if pairs.entries:
        unmatched = {n: a for n, a in pairs.source.items() if _telling(a)}
        for name in unmatched:
            del pairs.source[name]
    for name in [n for n in pairs.source if n in pairs.target]:
        if pairs.source[name].shape == pairs.target[name].shape:
            pairs.take(name, name, None, _NAMES)
    told = _by_shape(pairs, [n for n in needed if n in pairs.source])
    _constants(pairs)
    missing = [n for n in needed if n not in pairs.entries]
    if missing and not partial:
        raise NamingError(_without_counterpart(missing[0], source, pairs, missing[0] in unmatched))
    entries = [pairs.entries[n] for n in source.tensors if n in pairs.entries]
    entries += [Entry((n,), (), why="no counterpart") for n in missing]
    return NameMap(tuple(entries), where=f"the map of names to {where}"), told


def _without_counterpart(name: str, source: Weights, pairs: _Pairs, by_value: bool) -> str:
    shape = source.tensors[name].shape
    alike = [f"{n} {list(a.shape)}" for n, a in pairs.target.items() if sorted(a.shape) == sorted(shape)]
    left = alike or [f"{n} {list(a.shape)}" for n, a in pairs.target.items()]
    why = (
        "its values are nowhere in the target model, in any order of the axes"
        if by_value
        else "no shape fits"
    )
    return (
        f"{pairs.where}: {name!r} {list(shape)} has no counterpart: {why}; left there: {', '.join(left[:6]) or 'nothing'}; "
        "map it by hand (--map FILE), or consent to leaving it out with --partial"
    )


def _bits(array: np.ndarray) -> np.ndarray:
    kinds = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
    return array.view(kinds.get(array.dtype.itemsize, np.uint8))


def _print(array: np.ndarray) -> tuple[object, ...]:
    """Equal for tensors of the same elements in any order."""
    total, squares = 0, np.uint64(0)
    flat = _bits(array).reshape(-1)
    with np.errstate(over="ignore"):
        for at in range(0, flat.size, 1 << 20):
            block = flat[at : at + (1 << 20)].astype(np.uint64)
            total += int(block.sum())
            squares += (block * block).sum(dtype=np.uint64)
    return array.dtype.name, tuple(sorted(n for n in array.shape if n != 1)), total % 2**64, int(squares)


def _telling(array: np.ndarray) -> bool:
    """Whether its values tell it from another: not all of them are one."""
    flat = _bits(array).reshape(-1)
    return flat.size > 1 and bool((flat != flat[0]).any())


def _by_value(pairs: _Pairs, needed: Sequence[str]) -> None:
    """Pair tensors of equal values; those that the optimizer does not have after it."""
    prints: dict[object, list[str]] = {}
    trained = set(needed)
    for name, array in pairs.target.items():
        if _telling(array):
            prints.setdefault(_print(array), []).append(name)
    for own in (True, False):
        found: dict[str, dict[str, list[Way]]] = {}
        for name, array in pairs.source.items():
            if (name in trained) == own and _telling(array):
                alike = [t for t in prints.get(_print(array), ()) if t in pairs.target]
                found[name] = {t: w for t in alike if (w := _ways_of_values(array, pairs.target[t]))}
        claims = _claims(found)
        for name, fits in found.items():
            rivals = [n for t in fits for n in claims[t] if n != name]
            if name in fits:  # equal names tell equal values apart
                fits, rivals = {name: fits[name]}, []
            if (len(fits) > 1 or rivals) and own:
                side = (
                    f"{' and '.join(list(fits)[:6])} of the target"
                    if len(fits) > 1
                    else f"{rivals[0]!r} of the source"
                )
                raise NamingError(
                    f"{pairs.where}: {name!r} and {side} have equal values; only a map tells them apart (--map FILE)"
                )
            for target, ways in itertools.islice(fits.items(), 1):
                if len(pairs.usual(ways)) > 1:
                    raise pairs.several(name, target, ways)
                if target in pairs.target:
                    pairs.take(name, target, pairs.usual(ways)[0], _VALUES)


def _claims(found: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Target -> sources that may be it."""
    out: dict[str, list[str]] = {}
    for name, targets in found.items():
        for target in targets:
            out.setdefault(target, []).append(name)
    return out


def _ways(source: Shape, target: Shape) -> list[Way]:
    """Orders of the axes that give this shape; those that differ in axes of one element count once."""
    if sorted(source) != sorted(target):
        return []
    rank = len(source)
    tried: Iterable[Order] = itertools.permutations(range(rank))
    if rank > _MOST_AXES:
        tried = [tuple(range(rank)), tuple(reversed(range(rank)))]
    seen: dict[Order, Order] = {}
    for order in tried:
        if tuple(source[i] for i in order) == target:
            seen.setdefault(tuple(i for i in order if source[i] != 1), order)
    return [None if list(o) == sorted(o) else Axes.permuted(o) for o in seen.values()]


def _ways_of_values(source: np.ndarray, target: np.ndarray) -> list[Way]:
    own, bits = _bits(source), _bits(target)
    ways = _ways(source.shape, target.shape)
    if source.ndim == 2:
        ways = [*ways, *_flattened(source.shape, target.shape)]
    found = [w for w in ways if np.array_equal(own if w is None else w.apply(own, ""), bits)]
    # Without cut axes where that is possible: the others are then the same for this tensor.
    return [w for w in found if w is None or w.order is not None] or found[:1]


def _flattened(source: Shape, target: Shape) -> list[Way]:
    """A layer behind a flattened image, whose channels come first on one side and last on the other."""
    texts = []
    if target == source:
        texts += [("o ({0} {1}) -> o ({1} {0})", 1), ("({0} {1}) o -> ({1} {0}) o", 0)]
    if target == source[::-1]:
        texts += [("o ({0} {1}) -> ({1} {0}) o", 1), ("({0} {1}) o -> o ({1} {0})", 0)]
    return [
        Axes.parse(text.format("c", "s"), {"c": c})
        for text, axis in texts
        for c in range(2, source[axis])
        if source[axis] % c == 0
    ]


def _constants(pairs: _Pairs) -> None:
    """Pair what is left and nothing trains: tensors of one value, where only one has that shape and value."""

    def kind(array: np.ndarray) -> object:
        return None if _telling(array) else (array.shape, array.dtype.name, array.reshape(-1)[:1].tobytes())

    left = {n: kind(a) for n, a in pairs.source.items()}
    there = {n: kind(a) for n, a in pairs.target.items()}
    for name, own in left.items():
        alike = [t for t, k in there.items() if k == own]
        if own is not None and len(alike) == 1 and list(left.values()).count(own) == 1:
            pairs.take(name, alike[0], None, _VALUES)


def _by_shape(pairs: _Pairs, needed: Sequence[str]) -> list[str]:
    """Decide the rest where only one is possible; what a person should look at."""
    known = set(parameters(Weights(pairs.target, True)))
    orders = LAYOUTS[pairs.layout] if pairs.layout is not None else None

    def possible(name: str, target: str) -> list[Way]:
        shape = pairs.source[name].shape
        ways = _ways(shape, pairs.target[target].shape)
        usual = None if orders is None else orders.get(len(shape), ())
        return ways if usual is None else [w for w in ways if w is None or w.order in usual]

    fits = {n: {t: w for t in pairs.target if t in known and (w := possible(n, t))} for n in needed}
    told, alone = [], []
    claims = _claims(fits)
    for name, ways_to in fits.items():
        rivals = [n for t in ways_to for n in claims[t] if n != name]
        if len(ways_to) > 1 or rivals:
            may = " or ".join(list(ways_to)[:6])
            may += f", as may {' and '.join(map(repr, rivals[:6]))}" if len(ways_to) == 1 else ""
            raise NamingError(
                f"{pairs.where}: {name!r} {list(pairs.source[name].shape)} may be {may}; neither values nor shapes tell: "
                "load the source's weights into the target model before it is saved, or map it by hand (--map FILE)"
            )
        for target, ways in ways_to.items():
            way = pairs.usual(ways)
            if len(way) > 1:
                raise pairs.several(name, target, ways)
            if len(ways) > 1:
                told.append(
                    f"{name} → {target}: either order of the axes fits; taken as {pairs.layout} has it for the weights of "
                    "layers, which is wrong for a table of embeddings: check it"
                )
            alone += [name] if pairs.source[name].ndim > 1 else []
            pairs.take(name, target, way[0], _SHAPES)
    if alone:
        some = ", ".join(alone[:4]) + (f", … {len(alone)} in all" if len(alone) > 4 else "")
        told.append(
            f"{some}: matched by shape alone, which does not tell the order of elements behind a flattened image or of "
            "heads and gates: check the map (--write-map FILE)"
        )
    return told
