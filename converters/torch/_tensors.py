"""How a PyTorch pickle spells tensors, and the closed list of globals that its files may ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from optexport.errors import CheckpointError
from optexport.state.limits import holdable
from optexport.state.pickles import BASICS, NUMPY, Constant, GlobalRef, Ordered, record
from optexport.state.pickles.objects import brief

__all__ = ["CONSTRUCTORS", "DTYPES", "STORAGE_CLASSES", "Storage", "Tensor", "storage_of"]

# torch's name of a dtype -> the NumPy dtype with the same bytes.
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name)
    for name in (
        *("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"),
        *("complex64", "complex128", "uint16", "uint32", "uint64"),
    )
}
# Older releases of ml_dtypes lack the newest of these.
DTYPES |= {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in (
        *("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
        *("float8_e8m0fnu",),
    )
    if hasattr(ml_dtypes, name)
}

# Storage class -> dtype name. A dtype without one is written by torch as an untyped storage.
STORAGE_CLASSES: dict[str, str] = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}

# NumPy 1 arrays have at most this many dimensions; no optimizer has more than a handful.
_MAX_DIMS = 32
_MAX_DIM = 1 << 48


@dataclass(frozen=True)
class StorageType:
    """A storage class; dtype None for an untyped one, whose element count is in bytes."""

    dtype: np.dtype[Any] | None


@dataclass(eq=False)
class Storage:
    """One storage: ``count`` elements of ``dtype`` (bytes where that is None), not yet looked at.

    raw: its bytes; None until a legacy file, which keeps them behind the pickle, has been read on.
    """

    file: str
    key: str
    dtype: np.dtype[Any] | None
    count: int
    raw: memoryview | None = None
    big_endian: bool = False
    cache: dict[np.dtype[Any], np.ndarray] = field(default_factory=dict)

    def elements(self, dtype: np.dtype[Any]) -> np.ndarray:
        """All elements, shape (n,), read-only; a copy only where the byte order must change."""
        if self.raw is None:
            raise CheckpointError(f"{self.file}: the bytes of storage {brief(self.key)} are missing")
        have = self.cache.get(dtype)
        if have is None:
            needed = self.count * (self.dtype.itemsize if self.dtype is not None else 1)
            if needed > len(self.raw):
                raise CheckpointError(
                    f"{self.file}: storage {brief(self.key)} should hold {needed} bytes and holds "
                    f"{len(self.raw)}; the file is damaged or was not copied completely"
                )
            have = np.frombuffer(self.raw, dtype, needed // dtype.itemsize)
            if self.big_endian and dtype.itemsize > 1:
                unit = dtype.itemsize // (2 if dtype.kind == "c" else 1)
                have = have.view(f"u{unit}").byteswap().view(dtype)
            have.flags.writeable = False
            self.cache[dtype] = have
        return have


@dataclass(eq=False)
class Tensor:
    """A tensor as the file describes it: nothing about it has been checked."""

    storage: Any
    offset: Any
    size: Any
    stride: Any
    dtype: np.dtype[Any] | None = None

    def array(self, where: str) -> np.ndarray:
        """The tensor as a read-only view on its storage, shape and strides as in the file.

        Raises CheckpointError, naming ``where``, if sizes, strides or offset are not plain numbers
        in range or reach beyond the storage.
        """
        storage = self.storage
        if not isinstance(storage, Storage):
            raise CheckpointError(f"{where}: a tensor is made of {brief(storage)} instead of a storage")
        where = f"{storage.file}: {where}"
        dtype = self.dtype or storage.dtype
        if dtype is None:
            raise CheckpointError(f"{where}: a tensor on an untyped storage has no dtype")
        size, stride = _dims(self.size, "sizes", where), _dims(self.stride, "strides", where)
        _dims((self.offset,), "offset", where)
        if len(size) != len(stride):
            raise CheckpointError(f"{where}: a tensor has {len(size)} sizes and {len(stride)} strides")
        total = math.prod(size)
        if not holdable(size, dtype.itemsize):
            raise CheckpointError(f"{where}: a tensor of sizes {size}, which no array can have")
        if total == 0:
            empty = np.empty(size, dtype)
            empty.flags.writeable = False
            return empty
        if any(step == 0 and length > 1 for length, step in zip(size, stride, strict=True)):
            raise CheckpointError(
                f"{where}: a tensor of sizes {size} has stride 0: its elements are not in the file; refused"
            )
        elements = storage.elements(dtype)
        extent = self.offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1
        # A tensor that has more elements than its storage overlaps itself.
        if extent > elements.size or total > elements.size:
            raise CheckpointError(
                f"{where}: a tensor of sizes {size}, strides {stride} and offset {self.offset} needs "
                f"{max(extent, total)} elements; storage {brief(storage.key)} has {elements.size}"
            )
        steps = tuple(step * dtype.itemsize for step in stride)
        # Not as_strided: this constructor checks the bounds once more, and takes every dtype.
        return np.ndarray(size, dtype, elements.view(np.uint8).data, self.offset * dtype.itemsize, steps)


def _dims(value: Any, what: str, where: str) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > _MAX_DIMS:
        raise CheckpointError(f"{where}: the {what} of a tensor are {brief(value)}; expected a tuple")
    for item in value:
        if type(item) is not int or not 0 <= item <= _MAX_DIM:
            raise CheckpointError(
                f"{where}: the {what} of a tensor hold {brief(item)}; expected a number from 0 up"
            )
    return value


def storage_of(identity: Any, file: str) -> Storage:
    """The storage that a persistent id names, without its bytes; raises CheckpointError if malformed."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise CheckpointError(
            f"{file}: a persistent id is {brief(identity)}; expected a storage of five items"
        )
    kind, key, _, count = identity[1:5]
    if not isinstance(kind, StorageType) or not isinstance(key, str) or type(count) is not int:
        raise CheckpointError(f"{file}: a storage is named by {brief(kind)}, {brief(key)} and {brief(count)}")
    if not 0 <= count <= _MAX_DIM:
        raise CheckpointError(f"{file}: storage {brief(key)} claims {brief(count)} elements")
    if len(identity) == 6 and identity[5] is not None:
        raise CheckpointError(
            f"{file}: storage {brief(key)} is a view on another, which PyTorch stopped writing long ago; "
            "load and save the file again with a current PyTorch"
        )
    return Storage(file, key, kind.dtype, count)


def _tensor_v2(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    return Tensor(storage, offset, _plain(size), _plain(stride))


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Tensor:
    if not isinstance(dtype, np.dtype):
        raise ValueError(f"its dtype is {brief(dtype)}")
    return Tensor(storage, offset, _plain(size), _plain(stride), dtype)


def _plain(dims: Any) -> Any:
    return tuple(dims) if isinstance(dims, (list, tuple)) else dims


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _size(dims: Any = ()) -> tuple[Any, ...]:
    return tuple(dims) if isinstance(dims, (list, tuple)) else (dims,)


def _from_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    """A tensor subclass or a tensor with attributes: the tensor inside it."""
    inner = isinstance(function, GlobalRef) and _REBUILD.get((function.module, function.name))
    if not inner:
        raise ValueError(f"it is rebuilt by {brief(function)}")
    return inner(*args)


def _defaultdict(factory: Any = None, *args: Any) -> Ordered:
    if args:
        raise ValueError("a defaultdict is expected to be filled entry by entry")
    return Ordered()


def _counter(*args: Any) -> Ordered:
    """What MultiStepLR keeps its milestones in: milestone -> how often."""
    if len(args) > 1 or not all(isinstance(a, dict) for a in args):
        raise ValueError("a Counter is expected to be made of one dict")
    return Ordered(args[0] if args else {})


_REBUILD: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}

# Exact pairs only: a prefix such as "torch." would admit functions that run code.
CONSTRUCTORS: Mapping[tuple[str, str], Callable[..., Any] | Constant] = {
    **BASICS,
    **NUMPY,
    **_REBUILD,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch", "Size"): _size,
    ("torch", "device"): lambda *args: ":".join(str(arg) for arg in args if isinstance(arg, (str, int))),
    ("torch.serialization", "_get_layout"): lambda name: name,
    **{("torch", name): Constant(dtype) for name, dtype in DTYPES.items()},
    **{
        (module, name): Constant(StorageType(DTYPES[dtype]))
        for module in ("torch", "torch.cuda")
        for name, dtype in STORAGE_CLASSES.items()
    },
    **{(module, "UntypedStorage"): Constant(StorageType(None)) for module in ("torch.storage", "torch")},
    **{
        (module, name): Constant(GlobalRef(module, name))
        for module, name in (
            ("torch", "Tensor"),
            ("torch.nn.parameter", "Parameter"),
            ("torch.nn.parameter", "Buffer"),
        )
    },
    ("collections", "defaultdict"): _defaultdict,
    ("collections", "Counter"): _counter,
    **{
        (module, name): Constant(GlobalRef(module, name))
        for module in ("builtins", "__builtin__")
        for name in ("list", "dict", "int", "float", "str", "bool")
    },
    ("argparse", "Namespace"): record("argparse", "Namespace"),
    **{
        ("pathlib", name): record("pathlib", name)
        for name in ("PosixPath", "WindowsPath", "Path", "PurePosixPath")
    },
}
