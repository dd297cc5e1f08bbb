"""Arrays that are made when they are needed: a tensor that a file holds in pieces, or that is computed.

A conversion touches one tensor at a time, so that a state of any size needs memory for one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

__all__ = ["LazyArray", "gathered", "lazy"]


class LazyArray:
    """Shape and dtype now, values each time that somebody looks: nothing is kept.

    Everything that NumPy takes it takes; any attribute beyond those that follow from shape and dtype
    makes the array first.

    pieces: vectors that are the elements in C order, one after another; None where it is not made so.
    """

    __array_priority__ = 0.0

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        make: Callable[[], np.ndarray],
        pieces: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.shape, self.dtype, self._make, self.pieces = shape, np.dtype(dtype), make, pieces

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        made = self._make()
        return made if dtype is None else made.astype(dtype, copy=False)

    def reshape(self, *shape: Any, **order: Any) -> Any:
        """Still unmade where the shape is told in full and the order is the usual one."""
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        if order or any(n < 0 for n in wanted) or math.prod(wanted) != self.size:
            return self.__array__().reshape(*shape, **order)
        wanted = tuple(int(n) for n in wanted)
        return LazyArray(wanted, self.dtype, lambda: self.__array__().reshape(wanted), self.pieces)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__array__(), name)

    def __getitem__(self, key: Any) -> Any:
        return self.__array__()[key]

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __float__(self) -> float:
        return float(self.__array__())

    def __repr__(self) -> str:
        return f"LazyArray({self.shape}, {self.dtype})"


def lazy(shape: Sequence[int], dtype: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
    """A `LazyArray`, which stands wherever an array does.

    make: gives an array of this shape and dtype, the same each time.
    """
    return cast(np.ndarray, LazyArray(tuple(shape), np.dtype(dtype), make))


def gathered(pieces: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Vectors of one dtype, one after another, as an array of ``shape``, which has as many elements.

    One piece stays a view; several are put together when they are needed.
    """
    shape = tuple(shape)
    if len(pieces) == 1:
        return pieces[0].reshape(shape)
    made = LazyArray(shape, pieces[0].dtype, lambda: np.concatenate(list(pieces)).reshape(shape), pieces)
    return cast(np.ndarray, made)
