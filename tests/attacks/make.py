"""Write the hostile files: ``python -m tests.attacks.make FOLDER [NAME …]``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from tests.attacks.attack import ATTACKS, CANARY, SECRET, SECRET_FILE, Attack

__all__ = ["attacks", "make"]

MODULES = (
    "pickled",
    "torch_files",
    "mxnet_files",
    "tensor_files",
    "hdf5_files",
    "tensorflow_files",
    "other_files",
)


def attacks() -> dict[str, Attack]:
    """Every attack, by name."""
    for module in MODULES:
        importlib.import_module(f"tests.attacks.{module}")
    return ATTACKS


def make(attack: Attack, folder: Path) -> Path:
    """Write one attack below ``folder``; the path to open."""
    own = folder / attack.name
    own.mkdir(parents=True)
    (folder / SECRET_FILE).write_bytes(SECRET)
    # Beside the file, where a careless import would find it.
    (own / "canary_module.py").write_text(f"open({CANARY!r}, 'w').close()\n")
    return attack.build(own)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for name in sys.argv[2:] or attacks():
        print(make(attacks()[name], target))
