"""An attack: a file, and what a reader must say to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ATTACKS", "CANARY", "COMMAND", "SECRET", "SECRET_FILE", "Attack", "attack"]

# What a payload makes if it is ever run, and the command that makes it.
CANARY = "canary"
COMMAND = f"touch {CANARY}"
# A file beside the attack's folder, which no reader may look into, and what it holds.
SECRET_FILE = "secret.bin"
SECRET = b"0123456789abcdefSECRETSECRET" * 64


@dataclass(frozen=True)
class Attack:
    """One hostile file or folder.

    name: of the folder that it is written to.
    build: writes it into an empty folder and gives the path to open. ``folder.parent / SECRET_FILE`` exists.
    says: what the error must say, beside the file's name; None where a reader may accept the file, since
        it takes nothing of it that could do harm.
    format: to open it as; None to have it detected.
    weights: it is a weights file; the error is that of reading it as such.
    needs: modules that must be importable, to make it or to read it as far as the attack.
    heavy: takes seconds: it is read once, not in every way.
    """

    name: str
    build: Callable[[Path], Path]
    says: str | None
    format: str | None = None
    weights: bool = False
    needs: tuple[str, ...] = ()
    heavy: bool = False


ATTACKS: dict[str, Attack] = {}


def attack(
    says: str | None,
    *,
    format: str | None = None,
    weights: bool = False,
    needs: tuple[str, ...] = (),
    name: str | None = None,
    heavy: bool = False,
) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    """Add the decorated function to `ATTACKS` under its own name."""

    def register(build: Callable[[Path], Path]) -> Callable[[Path], Path]:
        called = name or build.__name__
        if called in ATTACKS:
            raise ValueError(f"two attacks are called {called}")
        ATTACKS[called] = Attack(called, build, says, format, weights, needs, heavy)
        return build

    return register


def file(folder: Path, name: str, data: bytes) -> Path:
    """``data`` as a file in ``folder``."""
    path = folder / name
    path.write_bytes(data)
    return path
