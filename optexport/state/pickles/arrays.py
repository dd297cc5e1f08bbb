"""NumPy arrays and scalars inside a pickle, rebuilt from their bytes without calling NumPy's own hooks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optexport.state.pickles.objects import Constant, GlobalRef, brief

__all__ = ["NUMPY", "PickledArray"]

# Plain numbers only: object arrays are pickles within pickles, text and records have no place in a state.
_CODE = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)")


class _Dtype:
    """``numpy.dtype(code, …)``; its byte order comes with its state."""

    def __init__(self, code: Any, *rest: Any) -> None:
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise ValueError(f"dtype {brief(code)} is not a plain number type")
        self.dtype = np.dtype(code)

    def __optexport_build__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("its state is not that of a plain number type")
        if any(part is not None for part in state[2:5]):
            raise ValueError("it has fields or a shape of its own")
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


class PickledArray:
    """``numpy.ndarray`` as pickled: empty until its state has been read, then `array`."""

    def __init__(self, kind: Any, shape: Any, code: Any) -> None:
        if kind != GlobalRef("numpy", "ndarray"):
            raise ValueError(f"it is a {brief(kind)}; expected a plain array")
        self.array: np.ndarray | None = None

    def __optexport_build__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("its state is not that of an array")
        _, shape, kind, fortran, raw = state
        self.fill(shape, kind, "F" if fortran else "C", raw)

    def fill(self, shape: Any, kind: Any, order: Any, raw: Any) -> None:
        if not isinstance(shape, tuple) or len(shape) > 32:
            raise ValueError(f"its shape is {brief(shape)}")
        if not all(type(length) is int and 0 <= length < 1 << 48 for length in shape):
            raise ValueError("its shape is not made of numbers from 0 up")
        if (
            not isinstance(kind, _Dtype)
            or order not in ("C", "F")
            or not isinstance(raw, (bytes, bytearray, memoryview))
        ):
            raise ValueError("its contents are not plain bytes")
        if math.prod(shape) * kind.dtype.itemsize != len(raw):
            raise ValueError(f"shape {shape} of {kind.dtype} does not fit {len(raw)} bytes")
        array = np.frombuffer(raw, kind.dtype).reshape(shape, order=order)
        array.flags.writeable = False
        self.array = array


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> PickledArray:
    """``numpy.core.numeric._frombuffer``: how protocol 5 spells contiguous arrays."""
    out = PickledArray(GlobalRef("numpy", "ndarray"), (0,), b"b")
    out.fill(shape, kind, order, raw)
    return out


def _scalar(kind: Any, raw: Any) -> Any:
    """``numpy.core.multiarray.scalar``: the plain Python number."""
    if not isinstance(kind, _Dtype) or not isinstance(raw, (bytes, memoryview)):
        raise ValueError("its contents are not plain bytes")
    if len(raw) != kind.dtype.itemsize:
        raise ValueError(f"{kind.dtype} does not fit {len(raw)} bytes")
    return np.frombuffer(raw, kind.dtype)[0].item()


# NumPy 2 renamed the module; files of both spellings are around.
NUMPY: Mapping[tuple[str, str], Callable[..., Any] | Constant] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): Constant(GlobalRef("numpy", "ndarray")),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): PickledArray for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}
