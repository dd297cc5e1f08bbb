"""Files that a file names: they stand beside it, and nowhere else."""

from __future__ import annotations

import os

from optexport.errors import CheckpointError

__all__ = ["beside"]


def beside(path: str, name: str) -> str:
    """The file called ``name`` in the folder of ``path``.

    Raises:
        CheckpointError: the name has a folder in it, or is a link that leads out of the folder.
    """
    folder = os.path.dirname(path) or "."
    if name in ("", ".", "..") or os.path.basename(name) != name or "\\" in name or "\0" in name:
        raise CheckpointError(
            f"{path}: expected the name of a file beside it, found {name!r}, which is never opened"
        )
    found = os.path.join(folder, name)
    if os.path.realpath(found) != os.path.join(os.path.realpath(folder), name):
        raise CheckpointError(f"{path}: {name} is a link that leads out of its folder, which is never opened")
    return found
