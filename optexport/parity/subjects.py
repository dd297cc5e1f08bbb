"""Somebody's own optimizer, made ready to be stepped with chosen gradients.

A `Subject` starts `Running` optimizers; what steps one lies in its framework's ``converters/*/foreign.py``.
What it computes is seen through its parameters after each step. Its name and attributes are hints for
those who search, never evidence.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..dialects import converter, frameworks, natives
from ..errors import OptexportError, UnknownNameError
from ..specs import Group
from .runs import Arrays, Snapshot

__all__ = ["Running", "Subject", "SubjectError", "stepped", "subject", "trace"]


class SubjectError(OptexportError):
    """An optimizer that cannot be examined: it raises, gives NaN, changes shapes, or does not repeat itself."""

    exit_code = 1


class Running(Protocol):
    """One optimizer in the middle of a run.

    rates: whether the learning rate can be changed between steps.
    """

    rates: bool

    def step(self, grads: Arrays, rate: float = 1.0) -> None:
        """One update. rate: factor on the optimizer's own learning rate."""

    def params(self) -> dict[str, np.ndarray]:
        """The parameters, as copies."""

    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        """Arrays of its state by parameter, as far as they can be read; names are the framework's."""


@dataclass(frozen=True)
class Subject:
    """An optimizer that can be started afresh on any parameters.

    name: what the user called it. start: parameters, dtype -> a running optimizer.
    dtypes: in which it can run, the best first. shapes: of its parameters where they are fixed.
    hint: ``framework:optimizer`` and arguments that its name suggests, or the group that it says it has; None
        where it suggests nothing.
    """

    name: str
    framework: str
    start: Callable[[Arrays, str], Running]
    dtypes: tuple[str, ...] = ("float64", "float32")
    shapes: Mapping[str, tuple[int, ...]] | None = None
    hint: tuple[str, Mapping[str, Any]] | Group | None = field(default=None, compare=False)


def subject(optimizer: Any, arguments: Mapping[str, Any] | None = None) -> Subject:
    """A subject out of ``MODULE:NAME``, a path of an ``.onnx`` file, or the object itself.

    arguments: of the class or factory.

    Raises:
        UnknownNameError: no such module or name, or nothing that a converter knows how to step.
        SubjectError: the class or factory refuses ``arguments``.
    """
    name, made = (optimizer, None) if isinstance(optimizer, str) else (_called(optimizer), optimizer)
    if isinstance(optimizer, str | os.PathLike) and str(optimizer).endswith(".onnx"):
        found: Subject | None = converter("onnx", "foreign").adopt(optimizer, arguments or {}, str(optimizer))
        assert found is not None
        return found
    if isinstance(optimizer, str):
        made = _imported(optimizer)
    from . import plain

    found = plain.adopt(made, arguments or {}, name)
    if found is not None:
        return found
    # What is imported first: an object is of a framework that is there, and others take seconds to import.
    for framework in sorted(frameworks(), key=lambda f: (f not in sys.modules, f)):
        try:
            module = converter(framework, "foreign")
        except ImportError:
            continue  # it has none, or the framework is not installed
        found = module.adopt(made, arguments or {}, name)
        if found is not None:
            return found
    raise UnknownNameError(
        f"{name}: expected an optimizer of PyTorch, Optax, Keras or MXNet, a function that makes one, or a function "
        f"{plain.SIGNATURE}, found {type(made).__name__}; their frameworks must be installed in this environment"
    )


def hint_of(framework: str, name: str, arguments: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The native optimizer whose name is ``name``, with arguments that it has."""
    entry = natives().get(framework, {}).get(name.lower())
    if entry is None:
        return None
    known = set(entry.arguments) | set(entry.aliases) | entry.inert
    return entry.qualified, {k: v for k, v in arguments.items() if k in known}


def trace(
    made: Subject, params: Arrays, grads: Sequence[Arrays], rates: Sequence[float], dtype: str
) -> list[Snapshot]:
    """Parameters and slots after each step of a fresh optimizer, as `stepped` gives them."""
    return list(stepped(made, params, grads, rates, dtype))


def stepped(
    made: Subject, params: Arrays, grads: Sequence[Arrays], rates: Sequence[float], dtype: str
) -> Iterator[Snapshot]:
    """Parameters and slots after each step of a fresh optimizer.

    rates: factor on the learning rate at each step, all 1 where it cannot be changed.

    Raises:
        SubjectError: it raises, or gives another number of parameters or other shapes.
    """
    try:
        running = made.start(params, dtype)
    except OptexportError:
        raise
    except Exception as e:
        raise SubjectError(f"{made.name}: cannot be made: {_told(e)}") from e
    for number, (given, rate) in enumerate(zip(grads, rates, strict=True), 1):
        try:
            running.step(given, rate)
            now, slots = running.params(), running.slots()
        except OptexportError:
            raise
        except Exception as e:
            raise SubjectError(f"{made.name}: raises at step {number}: {_told(e)}") from e
        for key, value in params.items():
            found = np.shape(now[key]) if key in now else None
            if found != np.shape(value):
                raise SubjectError(
                    f"{made.name}: changes the shape of a parameter at step {number}: expected {np.shape(value)}, "
                    f"found {found}"
                )
        yield now, slots


def _told(e: Exception) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"


def _called(made: Any) -> str:
    return str(getattr(made, "__name__", None) or type(made).__name__)


def _imported(text: str) -> Any:
    module, colon, path = text.partition(":")
    if not colon or not module or not path:
        raise UnknownNameError(
            f"{text!r}: expected MODULE:CLASS, as in torch.optim:Adam, or a file GRAPH.onnx"
        )
    root = module.partition(".")[0]
    if root in frameworks():
        _quietly(root)  # a converter knows how to import its framework
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        made: Any = importlib.import_module(module)
    except Exception as e:
        raise UnknownNameError(f"{text}: cannot import {module}: {_told(e)}") from e
    for part in path.split("."):
        if not hasattr(made, part):
            near = [n for n in dir(made) if n.lower() == part.lower()]
            raise UnknownNameError(
                f"{text}: {module} has no {part!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        made = getattr(made, part)
    return made


def _quietly(framework: str) -> None:
    try:
        converter(framework, "foreign")
    except ImportError:
        return
