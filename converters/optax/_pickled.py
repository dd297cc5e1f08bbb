"""Pickles of Optax state: named tuples by class name, arrays of JAX or NumPy. Nothing is executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.pickles import (
    BASICS,
    NUMPY,
    Constant,
    GlobalRef,
    Limits,
    PickledArray,
    Record,
    loads,
    record,
)
from optexport.state.pickles.objects import brief

from ._classes import FIELDS

__all__ = ["load_pickle", "looks_like_pickle"]


class _JaxArray:
    """``jax._src.array._reconstruct_array(fun, args, state, aval)``: a NumPy array in parts."""

    def __init__(self, function: Any, arguments: Any, state: Any, aval: Any = None) -> None:
        del aval  # weak type or not: nothing that a file has to keep
        known = isinstance(function, GlobalRef) and NUMPY.get((function.module, function.name))
        if known is not PickledArray or not isinstance(arguments, tuple):
            raise ValueError("its parts are not those of an array")
        made = PickledArray(*arguments)
        made.__optexport_build__(state)
        self.array = made.array


class _Listed(dict[tuple[str, str], Any]):
    """The closed list, with Optax' named tuples in whichever module a version of it defines them."""

    def get(self, key: tuple[str, str], default: Any = None) -> Any:
        module, name = key
        if module.startswith("optax.") and name in FIELDS:
            return record(module, name)
        return super().get(key, default)


CLOSED: Mapping[tuple[str, str], Callable[..., Any] | Constant] = _Listed(
    {**BASICS, **NUMPY, ("jax._src.array", "_reconstruct_array"): _JaxArray}
)


# An array takes some thirty opcodes, and every value becomes an entry of a dictionary here.
_LIMITS = Limits(opcodes=2_000_000)


def looks_like_pickle(head: bytes) -> bool:
    """Whether a pickle names Optax early."""
    return head[:1] == b"\x80" and b"optax." in head


def load_pickle(data: memoryview, file: str) -> dict[str, Any]:
    """The root as nested dictionaries: named tuples by their fields, tuples and lists by "0", "1", ….

    Raises:
        CheckpointError: the pickle asks for anything but arrays and Optax' states, or is damaged.
    """
    root = _plain(loads(data, file=file, constructors=CLOSED, limits=_LIMITS), file)
    if not isinstance(root, dict):
        raise CheckpointError(f"{file}: expected Optax state, found {brief(root)}")
    return root


def _plain(value: Any, file: str) -> Any:
    if isinstance(value, PickledArray | _JaxArray):
        if value.array is None:
            raise CheckpointError(f"{file}: an array without contents; the file is damaged")
        return value.array
    if isinstance(value, Record):
        names = FIELDS[value.name].split() if value.name in FIELDS else None
        if names is None or len(value.args) != len(names):
            raise CheckpointError(
                f"{file}: {brief(value)} has {len(value.args)} entries; expected {names and len(names)}"
            )
        return {n: _plain(v, file) for n, v in zip(names, value.args, strict=True)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v, file) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return {str(i): _plain(v, file) for i, v in enumerate(value)}
    if value is None or isinstance(value, bool | int | float | str | np.ndarray | np.generic):
        return value
    raise CheckpointError(f"{file}: found {brief(value)}; expected arrays, numbers and Optax' states")
