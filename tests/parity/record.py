"""A row of the parity table, and short ways to write one a framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BOTH = ("float64", "float32")


@dataclass(frozen=True)
class Row:
    """optimizer and its arguments; dtypes the framework can run it in; why the others are missing;
    amplification: condition number of the rule, with its reason; floor: an error of the framework's
    own beyond rounding, relative, with its reason."""

    optimizer: str
    arguments: dict[str, Any]
    desc: str
    dtypes: tuple[str, ...] = BOTH
    reason: str = ""
    amplification: float = 1.0
    floor: float = 0.0
    steps: int = 30

    @property
    def id(self) -> str:
        return f"{self.optimizer}-{self.desc}".replace(" ", "_")

    @property
    def lr(self) -> float:
        return float(self.arguments.get("lr", self.arguments.get("learning_rate")))


_ROW = ("dtypes", "reason", "amplification", "floor", "steps")


def torch(name: str, desc: str, **arguments: Any) -> Row:
    extra = {k: arguments.pop(k) for k in _ROW if k in arguments}
    return Row(f"torch:{name}", arguments, desc, **extra)


def mxnet(name: str, desc: str, dtypes: tuple[str, ...] = BOTH, reason: str = "", **arguments: Any) -> Row:
    extra = {k: arguments.pop(k) for k in _ROW if k in arguments}
    return Row(f"mxnet:{name}", arguments, desc, dtypes, reason, **extra)


def optax(name: str, desc: str, **arguments: Any) -> Row:
    extra = {k: arguments.pop(k) for k in _ROW if k in arguments}
    return Row(f"optax:{name}", arguments, desc, **extra)


def onnx(name: str, desc: str, **arguments: Any) -> Row:
    return Row(f"onnx:{name}", arguments, desc)


def ort(name: str, desc: str, **arguments: Any) -> Row:
    return Row(f"onnxruntime:{name}", arguments, desc, ("float32",), "the kernel takes float32 alone")


def keras(name: str, desc: str, dtypes: tuple[str, ...] = BOTH, reason: str = "", **arguments: Any) -> Row:
    extra = {k: arguments.pop(k) for k in _ROW if k in arguments}
    return Row(f"keras:{name}", arguments, desc, dtypes, reason, **extra)


F32 = ("float32",)
STATE32 = "MXNet keeps this state in float32 and fails on float64 parameters"
# n − a² cancels where the gradient's mean is large against its spread; measured condition numbers
# of the standard problem stay below this.
CENTERED = 16.0
# MXNet passes scalars to its kernels as decimal text; its parser may miss the nearest float32 by one
# unit in the last place. Adam's step size is a new long decimal at every update.
ADAM_TEXT = 2.0**-23
