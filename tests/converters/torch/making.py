"""Hand-made PyTorch files, honest and otherwise."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optexport.converters.torch.checkpoint import read
from optexport.errors import CheckpointError
from optexport.state.pickles import Global, NewObj, Persistent, Reduce, dumps

DATA = Path(__file__).parents[2] / "data"
FOLDERS = ("torch", "torch_dcp", "torch_dcp_2ranks", "lightning")
SAMPLES = [
    pytest.param(DATA / folder / sample["files"][0], sample, id=sample["id"])
    for folder in FOLDERS
    for sample in json.loads((DATA / folder / "expected.json").read_text())["samples"]
]
FILES = sorted((DATA / "torch").glob("*.pt"))


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def refused(path: Path, **kwargs: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


def tensor(
    key: str, size: Any, stride: Any, *, offset: Any = 0, count: int = 0, kind: str = "FloatStorage"
) -> Reduce:
    storage = Persistent(("storage", Global("torch", kind), key, "cuda:0", count))
    hooks = Reduce(Global("collections", "OrderedDict"))
    return Reduce(Global("torch._utils", "_rebuild_tensor_v2"), (storage, offset, size, stride, False, hooks))


def optimizer(slots: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    group = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False, **arguments, "params": [0]}
    return {"state": {0: slots}, "param_groups": [group]}


def save(
    path: Path,
    value: Any,
    storages: dict[str, bytes] | None = None,
    extra: dict[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
    protocol: int = 2,
) -> Path:
    """A zip file like torch.save's: ``value`` pickled (bytes as they are), storages, further members."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", value if isinstance(value, bytes) else dumps(value, protocol))
        for key, raw in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", raw)
        for name, raw in (extra or {}).items():
            archive.writestr(name, raw)
    return path


FOUR = {"0": np.arange(4, dtype=np.float32).tobytes()}


META = "torch.distributed.checkpoint.metadata"


def dcp(
    folder: Path,
    size: tuple[int, ...],
    chunks: list[tuple[tuple[int, ...], tuple[int, ...]]],
    shared: bool = False,
    stored_as: tuple[int, ...] | None = None,
) -> Path:
    """A directory with one optimizer whose one tensor is cut into ``chunks`` of (offsets, sizes).

    shared: equal chunks are stored once. stored_as: the sizes that the stored chunks have instead.
    """
    folder.mkdir()

    def dims(value: tuple[int, ...]) -> Reduce:
        return Reduce(Global("torch", "Size"), (value,))

    def made(name: str, module: str = META, **state: Any) -> NewObj:
        return NewObj(Global(module, name), state=state)

    blob, stored = io.BytesIO(), []
    items = {("param_groups", 0, "params"): ["w"], ("param_groups", 0, "lr"): 0.1}
    entries: dict[str, Any] = {}
    paths: dict[str, Any] = {}

    def store(key: str, offset: Any, value: Any, raw: bytes = b"") -> None:
        piece = save(folder / "tmp", value, {"0": raw}).read_bytes()
        at = blob.getvalue().find(piece) if shared else -1
        index = made("MetadataIndex", fqn=key, offset=offset, index=None)
        info = made("_StorageInfo", "torch.distributed.checkpoint.filesystem",
                    relative_path="__0_0.distcp", offset=blob.tell() if at < 0 else at, length=len(piece))  # fmt: skip
        stored.append((index, info))
        blob.write(piece if at < 0 else b"")

    for path, value in items.items():
        key = "optim." + ".".join(map(str, path))
        entries[key], paths[key] = made("BytesStorageMetadata"), ("optim", *path)
        store(key, None, value)
    key = "optim.state.w.m"
    properties = NewObj(
        Global(META, "TensorProperties"), state=(Global("torch", "float32"), None, False, None, False)
    )
    listed = [made("ChunkStorageMetadata", offsets=dims(o), sizes=dims(s)) for o, s in chunks]
    entries[key] = made("TensorStorageMetadata", properties=properties, size=dims(size), chunks=listed)
    paths[key] = ("optim", "state", "w", "m")
    for offsets, sizes in chunks:
        sizes = sizes if stored_as is None else stored_as
        count = int(np.prod(sizes))
        strides = tuple(int(np.prod(sizes[axis + 1 :])) for axis in range(len(sizes)))
        store(
            key,
            dims(offsets),
            tensor("0", sizes, strides, count=count),
            np.full(count, count, "<f4").tobytes(),
        )
    index = made("Metadata", state_dict_metadata=entries, planner_data=paths, storage_data=dict(stored))
    (folder / "tmp").unlink()
    (folder / "__0_0.distcp").write_bytes(blob.getvalue())
    (folder / ".metadata").write_bytes(dumps(index, 4))
    return folder
