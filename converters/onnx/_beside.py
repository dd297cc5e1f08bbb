"""Files that belong to another: found beside it, and never anywhere else."""

from __future__ import annotations

import os
from pathlib import PurePosixPath, PureWindowsPath

from optexport.errors import CheckpointError
from optexport.state.files import map_file

__all__ = ["inside", "map_beside"]


def inside(folder: str, real: str) -> bool:
    """Whether a path is in a folder, links followed on both sides."""
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(real)]) == root


def map_beside(path: str, name: str, what: str) -> memoryview:
    """The bytes of a file that ``path`` names, in the folder of ``path`` or below it.

    Raises:
        CheckpointError: the name leads out of the folder, by itself or by a link, or the file is
            missing or cannot be read.
    """
    parts = PurePosixPath(name).parts
    unsafe = not parts or ".." in parts or "\0" in name or "\\" in name
    if unsafe or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        raise CheckpointError(
            f"{path}: {what}: expected a file in the folder of this one, found {name!r}, which leads out of it"
        )
    folder = os.path.dirname(path) or "."
    target = os.path.join(folder, *parts)
    if os.path.lexists(target) and not inside(folder, target):
        raise CheckpointError(
            f"{path}: {what}: {name!r} is a link that leads out of the folder; put the file itself there"
        )
    try:
        return map_file(target)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {what}: {error}; keep the files of one model together") from None
