"""PyTorch files without PyTorch: optimizer state and weights, read by mapping and written whole.

Reads what ``torch.save`` has ever written (zip, legacy and tar), alone or inside a training
checkpoint, directories of ``torch.distributed.checkpoint``, checkpoint folders of Hugging Face'
Trainer, and safetensors files with the usual keys.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from optexport.converters.torch._dcp import is_dcp, load_dcp
from optexport.converters.torch._deepspeed import is_deepspeed, read_deepspeed, read_deepspeed_weights
from optexport.converters.torch._interpret import native_state, native_weights
from optexport.converters.torch._legacy import is_legacy, load_legacy
from optexport.converters.torch._safetensors import is_state, read_state, write_state
from optexport.converters.torch._safetensors import read_weights as read_safetensors_weights
from optexport.converters.torch._tar import is_tar, load_tar
from optexport.converters.torch._trainer import is_trainer, read_trainer, read_trainer_weights
from optexport.converters.torch._write import write_zip
from optexport.converters.torch._write_dcp import write_dcp
from optexport.converters.torch._write_trainer import write_trainer
from optexport.converters.torch._zip import Archive, is_zip, load_zip
from optexport.errors import CheckpointError
from optexport.state.files import map_file, whole_or_nothing, whole_or_nothing_directory
from optexport.state.formats import Format
from optexport.state.native import NativeState, Weights

__all__ = ["FORMATS", "read", "read_weights", "sniff", "write"]

PathLike = str | os.PathLike[str]


def sniff(path: PathLike) -> bool:
    """Whether ``path`` looks like a PyTorch file or DCP directory; False if it cannot be read."""
    if os.path.isdir(path):
        return is_dcp(path)
    try:
        data = map_file(path)
        if is_legacy(data) or is_tar(data):
            return True
        return is_zip(data) and bool(Archive(data, str(path)).root)
    except CheckpointError:
        return False


def read(path: PathLike, *, optimizer_key: str | None = None, verify: bool = False) -> NativeState:
    """The optimizer in ``path``: groups, slots (views on the mapped file), steps, weights, extras.

    optimizer_key: which optimizer of a file with several, as the dotted path that the error message
    lists (``"optimizer_states.0"``). verify: check the checksums of all tensors too; that reads the
    whole file.

    Raises CheckpointError if the file is damaged, asks for anything outside the closed list, or
    holds no optimizer, or several and no choice.
    """
    root, format = _load(path, verify)
    return native_state(root, os.fspath(path), format, optimizer_key)


def read_weights(path: PathLike, *, verify: bool = False) -> Weights:
    """The weights (buffers included) in ``path``, in the model's order, as views on the mapped file.

    Raises CheckpointError like `read`, and if there are no weights.
    """
    root, _ = _load(path, verify)
    return native_weights(root, os.fspath(path))


def write(state: NativeState, path: PathLike, *, combined: bool = False) -> None:
    """Write ``state`` as a zip that ``torch.load(path, weights_only=True)`` and ``load_state_dict`` take.

    Group arguments, slots and steps are written as given: the groups must hold every key that the
    optimizer class expects. combined: write {"model": weights, "optimizer": state} instead.
    The bytes depend on ``state`` alone.

    Raises CheckpointError if the state is inconsistent or ``path`` cannot be written; then ``path``
    stays as it was.
    """
    if combined and not state.weights:
        raise CheckpointError(f"{os.fspath(path)}: a combined file was asked for and there are no weights")
    with whole_or_nothing(path) as file:
        write_zip(file, state, combined=combined)


def _load(path: PathLike, verify: bool) -> tuple[Any, str]:
    name = os.fspath(path)
    if os.path.isdir(path):
        if not is_dcp(path):
            raise CheckpointError(
                f"{name}: is a directory without .metadata; expected a file of torch.save or a DCP directory"
            )
        return load_dcp(Path(path), verify=verify), "torch-dcp"
    data = map_file(path)
    if is_zip(data):
        return load_zip(data, name, verify=verify), "torch-zip"
    if is_legacy(data):
        return load_legacy(data, name), "torch-legacy"
    if is_tar(data):
        return load_tar(data, name), "torch-tar"
    found = "an empty file" if not len(data) else f"a file that starts with {bytes(data[:8])!r}"
    raise CheckpointError(
        f"{name}: expected a file that torch.save wrote (zip, legacy or tar), found {found}"
    )


def _is_file(path: str) -> bool:
    return not os.path.isdir(path) and sniff(path)


def _file(path: str) -> str:
    if os.path.isdir(path):
        raise CheckpointError(f"{path}: is a directory; expected a file of torch.save")
    return path


def _directory(path: str) -> str:
    if os.path.exists(path) and not os.path.isdir(path):
        raise CheckpointError(f"{path}: is a file; expected a directory of torch.distributed.checkpoint")
    return path


def _read_file(path: str, optimizer_key: str | None = None) -> NativeState:
    return read(_file(path), optimizer_key=optimizer_key)


def _read_directory(path: str, optimizer_key: str | None = None) -> NativeState:
    return read(_directory(path), optimizer_key=optimizer_key)


def _write_directory(state: NativeState, path: str) -> None:
    with whole_or_nothing_directory(path) as folder:
        write_dcp(folder, state)


def _write_safetensors(state: NativeState, path: str) -> None:
    with whole_or_nothing(path) as file:
        write_state(file, path, state)


FORMATS = (
    Format(
        "torch",
        "torch",
        "a file of torch.save: an optimizer's state, a training checkpoint, Lightning's .ckpt",
        _is_file,
        _read_file,
        lambda path: read_weights(_file(path)),
        write,
        (".pt", ".pth", ".ckpt"),
        keyed=True,
    ),
    Format(
        "torch-combined",
        "torch",
        'a file of torch.save with both: {"model": weights, "optimizer": state}',
        # Read as "torch", which knows it too.
        lambda path: False,
        write=partial(write, combined=True),
    ),
    Format(
        "torch-dcp",
        "torch",
        "a directory of torch.distributed.checkpoint, of any number of ranks",
        is_dcp,
        _read_directory,
        lambda path: read_weights(_directory(path)),
        _write_directory,
        keyed=True,
    ),
    Format(
        "hf-trainer",
        "torch",
        "a checkpoint folder of Hugging Face' Trainer",
        is_trainer,
        read_trainer,
        read_trainer_weights,
        write_trainer,
        keyed=True,
    ),
    Format(
        "safetensors",
        "torch",
        "a safetensors file with PyTorch's slot names in its keys",
        is_state,
        read_state,
        read_safetensors_weights,
        _write_safetensors,
    ),
    Format(
        "deepspeed",
        "torch",
        "a directory of DeepSpeed: ZeRO 1, 2 and 3, universal",
        is_deepspeed,
        read_deepspeed,
        read_deepspeed_weights,
    ),
)
