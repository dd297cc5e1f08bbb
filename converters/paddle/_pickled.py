"""Paddle's pickles: a dictionary of arrays by name. Nothing is executed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from optexport.errors import CheckpointError
from optexport.state.pickles import BASICS, NUMPY, Constant, PickledArray, loads
from optexport.state.pickles.objects import brief

__all__ = ["NAMES", "SPLIT", "load_pickle"]

NAMES = "StructuredToParameterName@@"
SPLIT = "UnpackBigParamInfor@@"


def _tuple(items: Any = ()) -> tuple[Any, ...]:
    """``builtins.tuple``: how a tensor in an inner dictionary is spelt, (name, array)."""
    if not isinstance(items, tuple | list):
        raise ValueError("its contents are not a tuple")
    return tuple(items)


CLOSED: Mapping[tuple[str, str], Callable[..., Any] | Constant] = {
    **BASICS,
    **NUMPY,
    **{(module, "tuple"): _tuple for module in ("builtins", "__builtin__")},
}


def load_pickle(data: memoryview, file: str) -> dict[str, Any]:
    """The root: arrays by key, inner dictionaries of plain values or arrays; slices are joined.

    Raises:
        CheckpointError: the pickle asks for anything but arrays, or is damaged.
    """
    root = loads(data, file=file, constructors=CLOSED, views=True)
    if not isinstance(root, Mapping):
        raise CheckpointError(f"{file}: expected a dictionary of Paddle's tensors, found {brief(root)}")
    out = {_text(k, file): _plain(v, file) for k, v in root.items()}
    return _joined(out, file)


def _text(key: Any, file: str) -> str:
    if not isinstance(key, str):
        raise CheckpointError(f"{file}: expected names for keys, found {brief(key)}")
    return key


def _plain(value: Any, file: str) -> Any:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], PickledArray):
        value = value[1]  # (Paddle's name, array)
    if isinstance(value, PickledArray):
        if value.array is None:
            raise CheckpointError(f"{file}: an array without contents; the file is damaged")
        # NumPy has no bfloat16, and Paddle no uint16.
        return value.array.view(ml_dtypes.bfloat16) if value.array.dtype == np.uint16 else value.array
    if isinstance(value, Mapping):
        return {_text(k, file): _plain(v, file) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, file) for v in value]
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        return value
    raise CheckpointError(f"{file}: found {brief(value)}; expected arrays, numbers and names")


def _joined(root: dict[str, Any], file: str) -> dict[str, Any]:
    """Tensors that protocols 2 and 3 cut into slices, whole again."""
    cut = root.pop(SPLIT, None)
    if cut is None:
        return root
    if not isinstance(cut, Mapping):
        raise CheckpointError(f"{file}: {SPLIT} is {brief(cut)}; expected how tensors were cut")
    used: set[str] = set()
    for name, told in cut.items():
        parts = told.get("slices") if isinstance(told, Mapping) else None
        shape = told.get("OriginShape") if isinstance(told, Mapping) else None
        if not isinstance(parts, list) or not isinstance(shape, list) or name in root:
            raise CheckpointError(f"{file}: {SPLIT} does not say how tensor {brief(name)} was cut")
        names = [_text(p, file) for p in parts]
        found = [root.get(p) for p in names]
        flat = [a for a in found if isinstance(a, np.ndarray) and a.ndim == 1]
        sizes = all(type(n) is int and n >= 0 for n in shape)
        if len(flat) != len(names) or len({*names}) != len(names) or used & {*names} or not flat or not sizes:
            raise CheckpointError(
                f"{file}: tensor {brief(name)}: slices are missing, or serve twice; the file is damaged"
            )
        if sum(a.size for a in flat) != math.prod(shape) or len({a.dtype for a in flat}) != 1:
            raise CheckpointError(
                f"{file}: tensor {brief(name)}: expected slices of {shape}, found {sum(a.size for a in flat)} elements"
            )
        used |= {*names}
        root[name] = np.concatenate(flat).reshape(shape)
    return {k: v for k, v in root.items() if k not in used}
