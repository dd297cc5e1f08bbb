"""A map of names and layouts: which tensor of one model is which of another.

The file is JSON, described by ``schemas/map.schema.json``:

    {"version": 1,
     "prefixes": ["module."],
     "entries": [
       {"from": "fc*.weight", "to": "layers/dense_*/vars/0", "transpose": [1, 0]},
       {"from": "**.qkv.weight", "to": ["**.q.weight", "**.k.weight", "**.v.weight"], "axis": 0},
       {"from": "old_head.**", "to": null}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import NamingError
from .axes import Axes
from .files import whole_or_nothing
from .limits import parse_json
from .patterns import fill, match, wildcards
from .schema import check, schema

__all__ = ["Entry", "NameMap", "Port", "read_map", "write_map"]

# A map is text that a person can check; nobody checks more.
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Entry:
    """One line of a map.

    sources, targets: names or patterns. One of each renames; one source and several targets split;
        several sources and one target join; no target leaves the tensor out.
    axis, sizes: of the whole tensor, along which it is cut or joined, and the pieces' sizes along it.
    axes: of each piece, after a split and before a join; None leaves them.
    why: how it was found, for people.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    axis: int | None = None
    sizes: tuple[int, ...] | None = None
    axes: Axes | None = None
    why: str = ""

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return f"{', '.join(self.sources)} → {', '.join(self.targets) or 'nothing'}"


@dataclass(frozen=True)
class Port:
    """An `Entry` with its wildcards filled: real tensors to real tensors. Targets may be none."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    axis: int | None = None
    sizes: tuple[int, ...] | None = None
    axes: Axes | None = None

    @property
    def label(self) -> str:
        return f"{', '.join(self.sources)} → {', '.join(self.targets)}"

    @property
    def keeps(self) -> bool:
        """Whether every tensor stays as it is, by whatever name."""
        return self.axis is None and self.axes is None

    def apply(self, arrays: Sequence[np.ndarray], lead: int = 0) -> list[np.ndarray]:
        """The targets' tensors out of the sources'.

        lead: leading axes of each array that are none of the parameter's.

        Raises:
            NamingError: a shape does not fit.
        """
        if self.axis is None or len(self.targets) > 1:
            arrays = self._cut(arrays[0], lead)
        moved = [a if self.axes is None else self.axes.apply(a, self.label, lead) for a in arrays]
        return [self._joined(moved, lead)] if self.axis is not None and len(self.sources) > 1 else moved

    def _cut(self, array: np.ndarray, lead: int) -> list[np.ndarray]:
        if self.axis is None:
            return [array]
        shape, count = array.shape[lead:], len(self.targets)
        if self.axis >= len(shape):
            raise NamingError(
                f"{self.label}: expected an axis {self.axis} to split, found shape {list(shape)}"
            )
        total = shape[self.axis]
        sizes = self.sizes or (total // count,) * count
        if sum(sizes) != total:
            wanted = f"pieces of {', '.join(map(str, sizes))}" if self.sizes else f"{count} equal pieces"
            raise NamingError(
                f"{self.label}: expected {wanted} along axis {self.axis}, found {total} elements in shape {list(shape)}"
            )
        return np.split(array, np.cumsum(sizes)[:-1], axis=lead + self.axis)

    def _joined(self, arrays: Sequence[np.ndarray], lead: int) -> np.ndarray:
        axis = self.axis or 0
        shapes = [a.shape[lead:] for a in arrays]
        others = {(*s[:axis], *s[axis + 1 :]) for s in shapes}
        if len(others) > 1 or any(len(s) <= axis for s in shapes) or len({a.dtype for a in arrays}) > 1:
            found = ", ".join(
                f"{n} {a.dtype} {list(s)}" for n, a, s in zip(self.sources, arrays, shapes, strict=True)
            )
            raise NamingError(
                f"{self.label}: expected tensors of one dtype that differ along axis {axis} alone, found {found}"
            )
        sizes = tuple(s[axis] for s in shapes)
        if self.sizes is not None and self.sizes != sizes:
            raise NamingError(
                f"{self.label}: expected pieces of {', '.join(map(str, self.sizes))} along axis {axis}, found "
                f"{', '.join(map(str, sizes))}"
            )
        return np.concatenate(arrays, axis=lead + axis)


@dataclass(frozen=True)
class NameMap:
    """entries: the first that matches a name counts. prefixes: taken off the source's names.

    fresh: (pattern, group or None) of target parameters that start without state.
    frozen: patterns of target tensors that are not trained.
    """

    entries: tuple[Entry, ...] = ()
    prefixes: tuple[str, ...] = ()
    fresh: tuple[tuple[str, int | None], ...] = ()
    frozen: tuple[str, ...] = ()
    where: str = "the map"

    def bare(self, name: str) -> str:
        """A source name without prefixes."""
        while True:
            prefix = next((p for p in self.prefixes if name.startswith(p) and name != p), None)
            if prefix is None:
                return name
            name = name.removeprefix(prefix)

    def ports(self, names: Iterable[str]) -> list[Port]:
        """What becomes of each of the names, in their order; a name that nothing matches stays.

        Raises:
            NamingError: two names become one, or a join lacks a tensor.
        """
        names = list(names)
        own = {self.bare(n): n for n in names}
        if len(own) < len(names):
            raise NamingError(f"{self.where}: without their prefixes two parameters have one name")
        done: dict[str, Port] = {}
        for bare in own:
            if bare not in done:
                port = self._port(bare, own)
                done.update(dict.fromkeys(port.sources, port))
        out = list({id(p): p for p in done.values()}.values())
        seen: dict[str, str] = {}
        for port in out:
            for target in port.targets:
                if target in seen:
                    raise NamingError(
                        f"{self.where}: both {seen[target]!r} and {port.sources[0]!r} become {target!r}; a name that no "
                        "entry matches stays as it is"
                    )
                seen[target] = port.sources[0]
        return [Port(tuple(own[s] for s in p.sources), p.targets, p.axis, p.sizes, p.axes) for p in out]

    @cached_property
    def _places(self) -> tuple[dict[str, int], list[tuple[int, str]]]:
        """Exact source -> first entry; (entry, pattern) of the others."""
        exact: dict[str, int] = {}
        patterns: list[tuple[int, str]] = []
        for i, entry in enumerate(self.entries):
            for source in entry.sources:
                if wildcards(source):
                    patterns.append((i, source))
                else:
                    exact.setdefault(source, i)
        return exact, patterns

    def _found(self, name: str) -> tuple[Entry, tuple[str, ...]] | None:
        """The first entry that matches, and what its wildcards stand for."""
        exact, patterns = self._places
        first = exact.get(name, len(self.entries))
        for i, pattern in patterns:
            if i >= first:
                break
            values = match(pattern, name)
            if values is not None:
                return self.entries[i], values
        return (self.entries[first], ()) if first < len(self.entries) else None

    def _port(self, name: str, own: Mapping[str, str]) -> Port:
        found = self._found(name)
        if found is None:
            return Port((name,), (name,))
        entry, values = found
        sources = tuple(fill(s, values) for s in entry.sources)
        missing = [s for s in sources if s not in own]
        if missing:
            raise NamingError(
                f"{self.where}: {entry.label}: joins {name!r} with {missing[0]!r}, which the optimizer does not have"
            )
        targets = tuple(fill(t, values) for t in entry.targets)
        return Port(sources, targets, entry.axis, entry.sizes, entry.axes)

    def unused(self, names: Iterable[str]) -> list[str]:
        """Sources of entries that match none of the names."""
        bare = [self.bare(n) for n in names]
        exact = set(bare)
        return [
            s
            for e in self.entries
            for s in e.sources
            if (s not in exact if not wildcards(s) else all(match(s, n) is None for n in bare))
        ]

    def is_frozen(self, name: str) -> bool:
        return any(match(p, name) is not None for p in self.frozen)

    def fresh_group(self, name: str) -> tuple[bool, int | None]:
        """Whether the map lets a target parameter start fresh, and in which group."""
        for pattern, group in self.fresh:
            if match(pattern, name) is not None:
                return True, group
        return False, None

    def reversed(self) -> NameMap:
        """The map from the target to the source.

        Raises:
            NamingError: something in it cannot be gone back: prefixes, what is left out, a join whose
                sizes are not stated.
        """
        if self.prefixes or self.fresh or self.frozen:
            raise NamingError(
                f"{self.where}: prefixes, fresh and frozen have no way back; write the map of the way back"
            )
        entries = []
        for e in self.entries:
            if not e.targets:
                raise NamingError(f"{self.where}: {e.label}: what is left out does not come back")
            if len(e.sources) > 1 and e.sizes is None:
                raise NamingError(f"{self.where}: {e.label}: to split it again the join needs 'sizes'")
            axes = None if e.axes is None else e.axes.reversed()
            entries.append(Entry(e.targets, e.sources, e.axis, e.sizes, axes, e.why))
        return NameMap(tuple(entries), where=f"{self.where}, reversed")


def read_map(path: str) -> NameMap:
    """The map in a file.

    Raises:
        NamingError: no such file, no JSON, or not as the schema says.
    """
    try:
        with open(path, "rb") as f:
            data = f.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise NamingError(f"{path}: expected a map of names of at most {_MOST_BYTES} bytes")
        value = parse_json(data.decode("utf-8-sig"), object_pairs_hook=lambda pairs: _once(pairs, path))
    except FileNotFoundError:
        raise NamingError(f"{path}: no such file; expected a map of names") from None
    except (OSError, ValueError, RecursionError) as e:
        raise NamingError(f"{path}: expected a map of names in JSON: {e}") from None
    return parse_map(value, path)


def _once(pairs: list[tuple[str, Any]], path: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NamingError(f"{path}: a key occurs twice in one object")
    return found


def parse_map(value: Any, where: str) -> NameMap:
    """The map that a JSON value is. Raises NamingError as `read_map`."""
    check(value, schema("map"), where)
    entries = tuple(_entry(e, f"{where}: entries[{i}]") for i, e in enumerate(value["entries"]))
    fresh = tuple((f["name"], f.get("group")) for f in value.get("fresh", ()))
    return NameMap(entries, tuple(value.get("prefixes", ())), fresh, tuple(value.get("frozen", ())), where)


def _entry(e: Mapping[str, Any], where: str) -> Entry:
    sources = tuple(e["from"]) if isinstance(e["from"], list) else (e["from"],)
    to = e["to"]
    targets = tuple(to) if isinstance(to, list) else () if to is None else (to,)
    pieces = max(len(sources), len(targets))
    if len(sources) > 1 and len(targets) != 1:
        raise NamingError(
            f"{where}: a join has one 'to', found {len(targets)}; split it in an entry of its own"
        )
    if pieces > 1 and "axis" not in e:
        raise NamingError(
            f"{where}: expected 'axis', along which it is {'joined' if len(sources) > 1 else 'split'}"
        )
    if pieces == 1 and ("axis" in e or "sizes" in e):
        raise NamingError(
            f"{where}: 'axis' and 'sizes' are of a split or a join; expected several names in 'from' or 'to'"
        )
    if "sizes" in e and len(e["sizes"]) != pieces:
        raise NamingError(f"{where}: expected {pieces} sizes, found {len(e['sizes'])}")
    counts = {wildcards(n) for n in sources}
    if len(counts) > 1 or any(wildcards(t) != min(counts) for t in targets):
        raise NamingError(f"{where}: expected as many wildcards in each name of 'to' as in 'from'")
    if "transpose" in e and "axes" in e:
        raise NamingError(f"{where}: expected 'transpose' or 'axes', found both")
    if not targets and ("transpose" in e or "axes" in e):
        raise NamingError(f"{where}: what is left out has no axes to move")
    if "axis_sizes" in e and "axes" not in e:
        raise NamingError(f"{where}: 'axis_sizes' are of the names in 'axes', found none")
    try:
        axes = Axes.permuted(e["transpose"]) if "transpose" in e else None
        axes = Axes.parse(e["axes"], e.get("axis_sizes")) if "axes" in e else axes
    except NamingError as error:
        raise NamingError(f"{where}: {error}") from None
    sizes = tuple(e["sizes"]) if "sizes" in e else None
    return Entry(sources, targets, e.get("axis"), sizes, axes, e.get("why", ""))


def write_map(names: NameMap, path: str, about: str = "") -> None:
    """Write a map as a file that `read_map` reads; it appears whole or not at all."""
    value: dict[str, Any] = {"version": 1}
    value |= {"about": about} if about else {}
    value |= {"prefixes": list(names.prefixes)} if names.prefixes else {}
    value["entries"] = [_plain(e) for e in names.entries]
    value |= {"fresh": [_plain_fresh(n, g) for n, g in names.fresh]} if names.fresh else {}
    value |= {"frozen": list(names.frozen)} if names.frozen else {}
    lines = json.dumps(value, indent=1, ensure_ascii=False)
    with whole_or_nothing(path) as f:
        f.write(lines.encode() + b"\n")


def _plain_fresh(name: str, group: int | None) -> dict[str, Any]:
    return {"name": name} if group is None else {"name": name, "group": group}


def _plain(e: Entry) -> dict[str, Any]:
    out: dict[str, Any] = {"from": list(e.sources) if len(e.sources) > 1 else e.sources[0]}
    out["to"] = list(e.targets) if len(e.targets) > 1 else e.targets[0] if e.targets else None
    out |= {} if e.axis is None else {"axis": e.axis}
    out |= {} if e.sizes is None else {"sizes": list(e.sizes)}
    if e.axes is not None:
        order = e.axes.order
        out |= {"axes": e.axes.text} if order is None else {"transpose": list(order)}
        out |= {"axis_sizes": dict(e.axes.sizes)} if order is None and e.axes.sizes else {}
    return out | ({"why": e.why} if e.why else {})
