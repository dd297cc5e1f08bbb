"""How ZeRO cuts parameters between ranks, and how they are put together again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optexport.converters.torch._interpret import as_array, is_tensor
from optexport.errors import CheckpointError
from optexport.state.lazy import gathered
from optexport.state.pickles import Record
from optexport.state.pickles.objects import brief
from optexport.state.training import MASTER

__all__ = ["Rank", "Segment", "gather_split", "gather_whole"]

# Of each vector: DeepSpeed rounds its length up to a multiple of ranks and of this many elements.
_PADDING = 4096


@dataclass(frozen=True)
class Rank:
    """One rank's optimizer states: ``state`` by the number of the vector, ``masters`` in that order.

    mappings: for each vector, name -> where the rank's piece of the parameter lies; None in old files.
    """

    file: str
    stage: int
    state: Mapping[Any, Any]
    groups: Sequence[Mapping[str, Any]]
    masters: Sequence[Any]
    mappings: Any


@dataclass(frozen=True)
class Segment:
    """One vector of the optimizer: the parameters in it, and for every slot each rank's part.

    numbers: slots that are one number for the whole vector. pieces: for each rank, name ->
    (start, elements); None where the file does not tell.
    """

    shapes: Mapping[str, tuple[int, ...]]
    parts: Mapping[str, Sequence[np.ndarray]]
    numbers: Mapping[str, Any]
    pieces: Sequence[Mapping[str, tuple[int, int]]] | None
    step: Any = None

    @staticmethod
    def of(index: int, shapes: Mapping[str, tuple[int, ...]], ranks: Sequence[Rank], file: str) -> Segment:
        """The vector number ``index``. Raises CheckpointError where ranks do not hold the same slots."""
        parts: dict[str, list[np.ndarray]] = {}
        numbers: dict[str, Any] = {}
        for at, rank in enumerate(ranks):
            held = rank.state.get(index, rank.state.get(str(index), {}))
            if not isinstance(held, dict) or MASTER in held:
                raise CheckpointError(f"{rank.file}: the state of vector {index} is {brief(held)}")
            for slot, value in {**held, MASTER: rank.masters[index]}.items():
                where = f"{rank.file}: vector {index}, slot {brief(slot)}"
                if value is None:
                    continue
                array = as_array(value, where) if is_tensor(value) else value
                if not isinstance(array, np.ndarray) or array.ndim == 0:
                    _same(numbers.setdefault(slot, array), array, where)
                elif array.ndim != 1:
                    raise CheckpointError(f"{where}: expected a vector, found shape {list(array.shape)}")
                elif len(have := parts.setdefault(slot, [])) != at or any(
                    a.dtype != array.dtype for a in have
                ):
                    raise CheckpointError(f"{where}: other ranks do not hold it alike; the file is damaged")
                else:
                    have.append(array)
        for slot, arrays in parts.items():
            if len(arrays) != len(ranks):
                raise CheckpointError(
                    f"{file}: vector {index}, slot {brief(slot)}: expected it of {len(ranks)} ranks, found {len(arrays)}"
                )
        # Fused optimizers count in the group.
        counts = [g.get("step") for g in ranks[0].groups if index in g["params"]]
        return Segment(shapes, parts, numbers, _pieces(index, ranks), counts[0] if counts else None)


def _same(first: Any, value: Any, where: str) -> None:
    if type(value) not in (bool, int, float) and not isinstance(value, np.ndarray):
        raise CheckpointError(f"{where}: expected a tensor or a number, found {brief(value)}")
    if np.asarray(first).tobytes() != np.asarray(value).tobytes():
        raise CheckpointError(f"{where}: ranks differ, {first} and {value}; are they of one checkpoint?")


def _pieces(index: int, ranks: Sequence[Rank]) -> list[Mapping[str, tuple[int, int]]] | None:
    out: list[Mapping[str, tuple[int, int]]] = []
    for rank in ranks:
        if not isinstance(rank.mappings, list) or index >= len(rank.mappings):
            return None
        found: dict[str, tuple[int, int]] = {}
        listed = rank.mappings[index]
        for name, address in listed.items() if isinstance(listed, dict) else ():
            held = address.state if isinstance(address, Record) and isinstance(address.state, dict) else {}
            start, count = held.get("start"), held.get("numel")
            if type(start) is not int or type(count) is not int or start < 0 or count < 0:
                raise CheckpointError(f"{rank.file}: parameter {brief(name)}: its place is {brief(address)}")
            found[name] = start, count
        ends = 0
        for start, count in sorted(found.values()):
            if start < ends:
                raise CheckpointError(f"{rank.file}: pieces of vector {index} overlap; the file is damaged")
            ends = start + count
        out.append(found)
    return out


def gather_whole(segment: Segment, file: str) -> dict[str, dict[str, Any]]:
    """Name -> slots, of stages 1 and 2: one vector of whole parameters, cut between the ranks."""
    places = segment.pieces
    out: dict[str, dict[str, Any]] = {name: dict(segment.numbers) for name in segment.shapes}
    for slot, parts in segment.parts.items():
        told = places if places is not None else _places(segment, [len(p) for p in parts], slot, file)
        for name, shape in segment.shapes.items():
            pieces = []
            for part, held in zip(parts, told, strict=True):
                start, count = held.get(name, (0, 0))
                if start + count > len(part):
                    raise _unfit(file, name, slot, f"{start + count} elements of a rank", len(part))
                if count:
                    pieces.append(part[start : start + count])
            out[name][slot] = _joined(pieces, shape, parts[0].dtype, file, name, slot)
    return out


def _places(
    segment: Segment, lengths: Sequence[int], slot: str, file: str
) -> list[dict[str, tuple[int, int]]]:
    """Where each rank's pieces lie, from the order of the parameters; padding follows the last."""
    total, held = sum(math.prod(s) for s in segment.shapes.values()), sum(lengths)
    if not total <= held <= total + _PADDING * len(lengths):
        raise CheckpointError(
            f"{file}: slot {brief(slot)}: expected {total} elements over all ranks, found {held}; the file is damaged"
        )
    out: list[dict[str, tuple[int, int]]] = [{} for _ in lengths]
    at = 0
    for name, shape in segment.shapes.items():
        first, stop, begin = at, at + math.prod(shape), 0
        for rank, length in enumerate(lengths):
            low, high = max(first, begin), min(stop, begin + length)
            if low < high:
                out[rank][name] = low - begin, high - low
            begin += length
        at = stop
    return out


def gather_split(segment: Segment, file: str) -> dict[str, dict[str, Any]]:
    """Name -> slots, of stage 3: every parameter cut in as many equal pieces as there are ranks."""
    out: dict[str, dict[str, Any]] = {name: dict(segment.numbers) for name in segment.shapes}
    for slot, parts in segment.parts.items():
        at = 0
        for name, shape in segment.shapes.items():
            total = math.prod(shape)
            each = -(-total // len(parts))
            if any(at + each > len(p) for p in parts):
                raise _unfit(file, name, slot, f"{at + each} elements of every rank", min(map(len, parts)))
            pieces, left = [], total
            for part in parts:
                count = min(each, left)
                if count:
                    pieces.append(part[at : at + count])
                left -= count
            out[name][slot] = _joined(pieces, shape, parts[0].dtype, file, name, slot)
            at += each
        if any(len(p) > at + _PADDING for p in parts):
            raise CheckpointError(
                f"{file}: slot {brief(slot)}: expected {at} elements of every rank, found {max(map(len, parts))}; "
                "the file is damaged"
            )
    return out


def _joined(
    pieces: Sequence[np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    file: str,
    name: str,
    slot: str,
) -> np.ndarray:
    found, total = sum(map(len, pieces)), math.prod(shape)
    if found != total:
        raise _unfit(file, name, slot, f"{total} elements (shape {list(shape)})", found)
    return gathered(pieces, shape) if pieces else np.empty(shape, dtype)


def _unfit(file: str, name: str, slot: str, expected: str, found: int) -> CheckpointError:
    return CheckpointError(
        f"{file}: parameter {brief(name)}, slot {brief(slot)}: expected {expected}, found {found}; the file is damaged"
    )
