"""Every file format in one list: what ``--from`` and ``--to`` take, and who reads and writes it.

A converter's ``checkpoint.py`` says what it has in ``FORMATS``. One framework may keep its state in
several formats (PyTorch: a file of ``torch.save``, a directory of distributed checkpoints, …).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

from ..dialects import converter, frameworks
from ..errors import CheckpointError, UnknownNameError
from .native import NativeState, Weights

__all__ = ["BUNDLE", "Format", "find_format", "formats", "needed"]

BUNDLE = "bundle"


@dataclass(frozen=True)
class Format:
    """One format.

    name: as ``--from`` and ``--to`` take it (``"torch"``, ``"torch-dcp"``, ``"orbax"``).
    framework: whose optimizers its state belongs to, where it is written.
    what: in words, for a list of formats.
    sniff: whether a path looks like it; looks at names and first bytes only and raises nothing.
    read: path -> NativeState, arrays mapped where the file allows it. None where it is only written.
    read_weights: path -> Weights, for ``--model``. None where the format never holds weights.
    write: NativeState, path -> nothing; the file or directory appears whole or not at all.
    keyed: whether ``read`` takes ``optimizer_key``, which chooses one of several optimizers in a file.
    suffixes: of target names that mean this format (``".pt"``), lower case; a directory's end in "/".
    """

    name: str
    framework: str
    what: str
    sniff: Callable[[str], bool]
    read: Callable[..., NativeState] | None = None
    read_weights: Callable[[str], Weights] | None = None
    write: Callable[[NativeState, str], None] | None = None
    suffixes: tuple[str, ...] = ()
    keyed: bool = False


@lru_cache(maxsize=1)
def _registered() -> dict[str, Format]:
    found: dict[str, Format] = {}
    for framework in sorted(frameworks()):
        package = frameworks()[framework]
        if importlib.util.find_spec(f"{package}.checkpoint") is None:
            continue
        for fmt in converter(framework, "checkpoint").FORMATS:
            if fmt.name in found or fmt.name == BUNDLE:
                raise UnknownNameError(f"format {fmt.name!r} is registered twice")
            found[fmt.name] = fmt
    return found


def formats(*, written: bool = False) -> list[str]:
    """Names of the formats, the bundle first; written: only those that can be written."""
    return [BUNDLE, *sorted(n for n, f in _registered().items() if f.write is not None or not written)]


def find_format(name: str) -> Format:
    """The format of this name, other than the bundle.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in _registered():
        raise UnknownNameError(f"unknown format {name!r}; expected one of {', '.join(formats())}")
    return _registered()[name]


def needed(module: str, extra: str, path: str) -> ModuleType:
    """A library that reads ``path``, imported.

    module: its import name. extra: of this package, that installs it.

    Raises:
        CheckpointError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise CheckpointError(
            f"{path}: needs {module}, which is not installed; run pip install 'optexport[{extra}]'"
        ) from None
