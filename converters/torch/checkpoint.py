"""PyTorch files without PyTorch: optimizer state and weights, read by mapping and written whole.

Reads what ``torch.save`` has written since 0.1.10 (zip and legacy), alone or inside a training
checkpoint, and directories of ``torch.distributed.checkpoint``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from optexport.converters.torch._dcp import is_dcp, load_dcp
from optexport.converters.torch._deepspeed import is_deepspeed, read_deepspeed, read_deepspeed_weights
from optexport.converters.torch._interpret import native_state, native_weights
from optexport.converters.torch._legacy import is_legacy, load_legacy
from optexport.converters.torch._write import write_zip
from optexport.converters.torch._zip import Archive, is_zip, load_zip
from optexport.errors import CheckpointError
from optexport.state.files import map_file, whole_or_nothing
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
        if is_legacy(data):
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
    found = "an empty file" if not len(data) else f"a file that starts with {bytes(data[:8])!r}"
    raise CheckpointError(f"{name}: expected a file that torch.save wrote (zip or legacy), found {found}")


FORMATS = (
    Format(
        "torch",
        "torch",
        "a file of torch.save, or a directory of distributed checkpoints",
        sniff,
        read,
        read_weights,
        write,
        (".pt", ".pth"),
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
