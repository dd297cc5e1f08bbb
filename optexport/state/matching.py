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


@dataclass
class _Pairs:
    """What is decided, and what is left of both sides."""

    source: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    entries: dict[str, Entry] = field(default_factory=dict)

    def take(self, source: str, target: str, order: Order, why: str) -> None:
        axes = None if list(order) == sorted(order) else Axes.permuted(order)
        self.entries[source] = Entry((source,), (target,), axes=axes, why=why)
        del self.source[source], self.target[target]


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

    where: what to call the target in messages.
    layout: the convention that the two models follow (`LAYOUTS`), for tensors whose values do not tell;
        without it every order of the axes is possible.
    partial: leave out what has no counterpart. Where some values were found again, a tensor whose
        values were not is then another one (a new head), whatever its name and shape.
    names: parameters that the optimizer has; only these must have a counterpart. None: all.

    Raises:
        NamingError: two counterparts are possible; the message lists them. Or there is none.
    """
    if layout is not None and layout not in LAYOUTS:
        raise NamingError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    needed = set(names) if names is not None else set(parameters(source))
    pairs = _Pairs(dict(source.tensors), dict(target.tensors))
    _by_value(pairs, layout, where)
    if partial and pairs.entries:
        others = {n: a for n, a in pairs.source.items() if _telling(a)}
        pairs.source = {n: a for n, a in pairs.source.items() if n not in others}
    else:
        others = {}
    for name in [n for n in pairs.source if n in pairs.target]:
        if pairs.source[name].shape == pairs.target[name].shape:
            pairs.take(name, name, tuple(range(pairs.source[name].ndim)), "equal names")
    told = _by_shape(pairs, layout, where, needed)
    pairs.source |= others
    missing = [n for n in source.tensors if n in pairs.source and n in needed]
    if missing and not partial:
        shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in itertools.islice(pairs.target.items(), 6))
        raise NamingError(
            f"{where}: {missing[0]!r} {list(pairs.source[missing[0]].shape)} has no counterpart; left in the target model: "
            f"{shapes or 'nothing'}; map it by hand (--map FILE), or consent to leaving it out with --partial"
        )
    entries = [pairs.entries[n] for n in source.tensors if n in pairs.entries]
    entries += [Entry((n,), (), why="no counterpart") for n in missing]
    return NameMap(tuple(entries), where=f"the map of names to {where}"), told


def _bits(array: np.ndarray) -> np.ndarray:
    kinds = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
    return np.ascontiguousarray(array).view(kinds.get(array.dtype.itemsize, np.uint8))


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


def _by_value(pairs: _Pairs, layout: str | None, where: str) -> None:
    prints: dict[object, list[str]] = {}
    for name, array in pairs.target.items():
        if _telling(array):
            prints.setdefault(_print(array), []).append(name)
    found: dict[str, list[tuple[str, list[Order]]]] = {}
    for name, array in pairs.source.items():
        if _telling(array):
            fits = [(t, _orders_of_values(array, pairs.target[t])) for t in prints.get(_print(array), ())]
            found[name] = [(t, orders) for t, orders in fits if orders]
    claimed = [t for fits in found.values() for t, _ in fits]
    for name, fits in found.items():
        if not fits:
            continue
        if len(fits) > 1 or claimed.count(fits[0][0]) > 1:
            same = [t for t, _ in fits] if len(fits) > 1 else [n for n, f in found.items() if f == fits]
            kind = "of the target" if len(fits) > 1 else "of the source"
            if name in [t for t, _ in fits] and name in pairs.target:
                fits = [(t, o) for t, o in fits if t == name]
            else:
                raise NamingError(
                    f"{where}: {name!r}: {' and '.join(same[:6])} {kind} have equal values; only a map tells them apart "
                    "(--map FILE)"
                )
        target, orders = fits[0]
        preferred = _by_convention(orders, layout)
        if len(preferred) > 1:
            raise NamingError(_several(where, name, target, pairs, preferred))
        pairs.take(name, target, preferred[0], "equal values")


def _by_convention(orders: Sequence[Order], layout: str | None) -> list[Order]:
    """Of several possible orders those of the convention, where there is one."""
    if layout is None or len(orders) == 1:
        return list(orders)
    rank = len(orders[0])
    usual = [o for o in (*LAYOUTS[layout].get(rank, ()), tuple(range(rank))) if o in orders]
    return usual[:1] or list(orders)


def _orders(source: Shape, target: Shape) -> list[Order]:
    """Orders of the axes that give this shape; those that differ in axes of one element count once."""
    if len(source) != len(target):
        return []
    rank = len(source)
    tried: Iterable[Order] = itertools.permutations(range(rank))
    if rank > _MOST_AXES:
        tried = [tuple(range(rank)), tuple(reversed(range(rank)))]
    seen: dict[Order, Order] = {}
    for order in tried:
        if tuple(source[i] for i in order) == target:
            seen.setdefault(tuple(i for i in order if source[i] != 1), order)
    return list(seen.values())


def _orders_of_values(source: np.ndarray, target: np.ndarray) -> list[Order]:
    bits = _bits(target)
    own = _bits(source)
    return [o for o in _orders(source.shape, target.shape) if np.array_equal(own.transpose(o), bits)]


def _by_shape(pairs: _Pairs, layout: str | None, where: str, needed: set[str]) -> list[str]:
    """Decide the rest where only one is possible; what was taken by the convention."""
    told: list[str] = []
    conventions = LAYOUTS[layout] if layout is not None else None
    target_parameters = set(parameters(Weights(pairs.target, True)))

    def possible(a: np.ndarray, b: np.ndarray) -> list[Order]:
        orders = _orders(a.shape, b.shape)
        if conventions is None:
            return orders
        usual = (*conventions.get(a.ndim, ()), tuple(range(a.ndim)))
        return [o for o in usual if tuple(a.shape[i] for i in o) == b.shape]

    left = [n for n in pairs.source if n in needed]
    fits = {
        n: [t for t in pairs.target if t in target_parameters and possible(pairs.source[n], pairs.target[t])]
        for n in left
    }
    claimed = [t for f in fits.values() for t in f]
    for name in left:
        if not fits[name]:
            continue
        rivals = [n for n in left if fits[name][0] in fits[n]]
        if len(fits[name]) > 1 or claimed.count(fits[name][0]) > 1:
            may = (
                " or ".join(fits[name][:6])
                if len(fits[name]) > 1
                else f"{fits[name][0]}, as may {' and '.join(r for r in rivals[:6] if r != name)}"
            )
            raise NamingError(
                f"{where}: {name!r} {list(pairs.source[name].shape)} may be {may}; neither values nor shapes tell: load the "
                "source's weights into the target model before it is saved, or map it by hand (--map FILE)"
            )
        target = fits[name][0]
        orders = possible(pairs.source[name], pairs.target[target])
        if len(orders) > 1 and conventions is None:
            raise NamingError(_several(where, name, target, pairs, orders))
        if len(orders) > 1:
            told.append(
                f"{name} → {target}: its shape fits with axes {list(orders[0])} and as it is; taken as {layout} has it for "
                "weights of layers (an embedding table would stay as it is): check it"
            )
        pairs.take(name, target, orders[0], "the only shape that fits")
    return told


def _several(where: str, name: str, target: str, pairs: _Pairs, orders: Sequence[Order]) -> str:
    ways = " or ".join(str(list(o)) for o in orders[:6])
    return (
        f"{where}: {name!r} {list(pairs.source[name].shape)} is {target!r} with its axes as {ways}; neither values nor "
        "shapes tell: name the convention (--layout torch-to-keras, …) or map it by hand (--map FILE)"
    )
