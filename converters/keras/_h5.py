"""Reading HDF5 as Keras writes it, and nothing else that HDF5 can do.

HDF5 can point out of the file (external links, external storage, virtual datasets), loop (links that
lead back), and declare far more than it holds. Here a path is followed through hard links alone, and
a dataset is one contiguous block whose place and size are checked against the file before it is
looked at; its array is a view on the mapped bytes. A dataset that somebody packed with gzip (and
shuffle) is unpacked into memory, up to a bound for the whole file.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np

from optexport.errors import CheckpointError

from ._attributes import texts_of

__all__ = ["H5", "SIGNATURE", "Mapped", "import_h5py"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEPTH = 64  # groups within groups; Keras nests one level a nested model
_ENTRIES = 1_000_000
_FILTERS = {1: "gzip", 2: "shuffle"}
# What may come out of packed and small datasets of a file, whose length is multiplied.
_UNPACKED, _RATIO = 64 << 20, 8


def import_h5py(where: str) -> Any:
    """The ``h5py`` module.

    Raises:
        CheckpointError: it is not installed; names the extra.
    """
    try:
        import h5py
    except ImportError:
        raise CheckpointError(
            f"{where}: Keras' files need h5py, which is not installed; pip install 'optexport[keras]'"
        ) from None
    return h5py


class Mapped(io.RawIOBase):
    """A read-only file object on bytes in memory, for libraries that take no buffer."""

    def __init__(self, data: memoryview) -> None:
        super().__init__()
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, len(self._data))[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        piece = self._data[self._at : self._at + len(memoryview(buffer).cast("B"))]
        memoryview(buffer).cast("B")[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


class H5:
    """An open HDF5 file. ``where`` is what messages call it."""

    def __init__(self, data: memoryview, where: str) -> None:
        self._h5py, self._data, self._where = import_h5py(where), data, where
        self._unpacked = max(_UNPACKED, _RATIO * len(data))
        self._known: dict[str, dict[str, list[str]]] = {}
        try:
            self._file = self._h5py.File(Mapped(data), "r")
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{where}: expected an HDF5 file, found a damaged one: {' '.join(str(error).split())[:200]}"
            ) from None

    def __enter__(self) -> H5:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def names(self, path: str) -> list[str]:
        """What the group at ``path`` has, in the order of its names; nothing where there is no group."""
        group = self._at(path)
        if not isinstance(group, self._h5py.Group):
            return []
        with self._damage(path):
            return sorted(group.keys())

    def attribute(self, path: str, name: str) -> str | None:
        """A text attribute of the object at ``path``, None where there is none."""
        found = self._texts(path).get(name)
        return found[0] if found else None

    def texts(self, path: str, name: str) -> list[str]:
        """A list of texts among the attributes of the object at ``path``, which Keras cuts into ``name0``, ``name1``, …
        where it is long; empty where there is none.

        Raises:
            CheckpointError: the attributes are damaged.
        """
        held = self._texts(path)
        if name in held:
            return held[name]
        parts = itertools.takewhile(held.__contains__, (f"{name}{i}" for i in itertools.count()))
        return [text for part in parts for text in held[part]]

    def _texts(self, path: str) -> dict[str, list[str]]:
        thing = self._at(path)
        if thing is None:
            return {}
        with self._damage(path):
            address = int(self._h5py.h5o.get_info(thing.id).addr)
        if path not in self._known:
            self._known[path] = texts_of(self._data, address, f"{self._where}: {path or '/'}")
        return self._known[path]

    def variables(self, path: str) -> list[np.ndarray]:
        """The datasets ``0``, ``1``, … of the group at ``path``.

        Raises:
            CheckpointError: their names are not the numbers from 0 on, or one is no plain dataset.
        """
        names = self.names(path)
        if set(names) != {str(i) for i in range(len(names))}:
            raise CheckpointError(
                f"{self._where}: {path}: expected variables numbered from 0 on, found {', '.join(names[:6])}"
            )
        return [self.array(f"{path}/{i}") for i in range(len(names))]

    def groups_of_variables(self) -> Iterator[str]:
        """Every path whose last part is ``vars``, in the order of names."""
        todo, seen, count = [("", 0)], set(), 0
        while todo:
            path, depth = todo.pop()
            thing = self._at(path)
            if not isinstance(thing, self._h5py.Group):
                continue
            with self._damage(path):
                address = self._h5py.h5o.get_info(thing.id).addr
            if address in seen:
                raise CheckpointError(
                    f"{self._where}: {path}: a group that occurs twice; the file is damaged"
                )
            seen.add(address)
            if depth > _DEPTH:
                raise CheckpointError(f"{self._where}: {path[:80]}…: groups nest more than {_DEPTH} deep")
            if path.rpartition("/")[2] == "vars":
                yield path
                continue
            inner = self.names(path)
            count += len(inner)
            if count > _ENTRIES:
                raise CheckpointError(f"{self._where}: expected at most {_ENTRIES} objects, found more")
            todo += [(f"{path}/{n}" if path else n, depth + 1) for n in reversed(inner)]

    def array(self, path: str) -> np.ndarray:
        """A dataset as a read-only view on the mapped file.

        Raises:
            CheckpointError: it is no contiguous block of numbers inside the file.
        """
        data = self._at(path)
        where = f"{self._where}: {path}"
        if not isinstance(data, self._h5py.Dataset):
            raise CheckpointError(f"{where}: expected a dataset, found none")
        with self._damage(path):
            plan, outside = data.id.get_create_plist(), data.is_virtual
            if outside or plan.get_external_count():
                raise CheckpointError(f"{where}: its bytes are in another file, which is never opened")
            if data.shape is None:
                raise CheckpointError(f"{where}: expected an array, found an empty dataset")
            if plan.get_layout() != self._h5py.h5d.CONTIGUOUS:
                return self._unpack(data, plan, path)
            dtype, offset = self._dtype(data, path), data.id.get_offset()
            shape = tuple(int(n) for n in data.shape)
        count = math.prod(shape)
        if count == 0:
            return _frozen(np.empty(shape, dtype))
        if offset is None or offset + count * dtype.itemsize > len(self._data):
            raise CheckpointError(
                f"{where}: declares {count * dtype.itemsize} bytes that the file does not have; it is damaged"
            )
        return _frozen(np.frombuffer(self._data, dtype, count, offset).reshape(shape))

    def _unpack(self, data: Any, plan: Any, path: str) -> np.ndarray:
        """A dataset that is in chunks or in its own header, as an array in memory."""
        filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        strange = [str(f) for f in filters if f not in _FILTERS]
        if strange:
            raise CheckpointError(
                f"{self._where}: {path}: expected no filter but {' and '.join(_FILTERS.values())}, found number "
                f"{', '.join(strange)}; write the file with Keras"
            )
        dtype = self._dtype(data, path)
        size = math.prod(int(n) for n in data.shape) * dtype.itemsize
        if size > self._unpacked:
            raise CheckpointError(
                f"{self._where}: {path}: declares {size} bytes, more than a packed file of {len(self._data)} bytes may "
                "have here; write it as Keras does, without packing"
            )
        self._unpacked -= size
        out = np.asarray(data[()])
        return _frozen(out.view(dtype).reshape(data.shape))

    def _dtype(self, data: Any, path: str) -> np.dtype[Any]:
        dtype = np.dtype(data.dtype)
        if dtype.kind == "V" and dtype.itemsize == 2 and self.attribute(path, "dtype") == "bfloat16":
            return np.dtype(ml_dtypes.bfloat16)
        if dtype.kind not in "fiub" or dtype.names or dtype.subdtype:
            raise CheckpointError(f"{self._where}: {path}: expected numbers, found {dtype}")
        return dtype

    def _at(self, path: str) -> Any:
        """The object at ``path``, found through hard links alone; None where there is none."""
        thing: Any = self._file
        for part in path.split("/") if path else []:
            if not isinstance(thing, self._h5py.Group):
                return None
            with self._damage(path):
                link = thing.get(part, getlink=True)
                if link is None:
                    return None
                if not isinstance(link, self._h5py.HardLink):
                    raise CheckpointError(
                        f"{self._where}: {path}: expected a plain link, found {type(link).__name__}, which may lead out "
                        "of the file"
                    )
                thing = thing[part]
        return thing

    @contextlib.contextmanager
    def _damage(self, path: str) -> Iterator[None]:
        """What h5py raises on a damaged file, in one sentence."""
        try:
            yield
        except CheckpointError:
            raise
        except (OSError, ValueError, RuntimeError, LookupError, TypeError, ArithmeticError) as error:
            said = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{self._where}: {path}: the file is damaged: {said}") from None


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
