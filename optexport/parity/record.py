"""A row of the parity table, and short ways to write one a framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..dialects import home
from ..reference import init
from ..specs import Spec, native, spec
from ..state import TrainingState
from .problems import Problem, problem

__all__ = [
    "ADAM_TEXT",
    "BOTH",
    "CENTERED",
    "F32",
    "MLX32",
    "PADDLE_DECAY",
    "STATE32",
    "Row",
    "correction32",
    "keras",
    "mlx",
    "mxnet",
    "onnx",
    "optax",
    "ort",
    "paddle",
    "torch",
]

BOTH = ("float64", "float32")


@dataclass(frozen=True)
class Row:
    """optimizer (``framework:name``, or a rule of the catalogue) and its arguments; dtypes the framework
    can run it in; why the others are missing;
    amplification: condition number of the rule, with its reason; floor: an error of the framework's
    own beyond rounding, relative, with its reason; floor32: the same, in float32 runs alone;
    floor16: the same, in runs of float16 parameters with float32 masters alone;
    done: updates that count as made before the run (a rule that changes late);
    shapes: of the parameters, the standard problem's where None; drop, spike: see `problem`."""

    optimizer: str
    arguments: dict[str, Any]
    desc: str
    dtypes: tuple[str, ...] = BOTH
    reason: str = ""
    amplification: float = 1.0
    floor: float = 0.0
    steps: int = 30
    floor32: float = 0.0
    floor16: float = 0.0
    shapes: Mapping[str, tuple[int, ...]] | None = None
    drop: float = 0.1
    spike: float = 8.0
    done: int = 0

    @property
    def id(self) -> str:
        return f"{self.optimizer}-{self.desc}".replace(" ", "_")

    @property
    def framework(self) -> str:
        """The converter that runs the optimizer itself; empty for a rule of the catalogue."""
        return home(self.optimizer.partition(":")[0].lower()) if ":" in self.optimizer else ""

    def spec(self) -> Spec:
        """The optimizer as its dialect reads it, or the catalogue's rule."""
        return (
            native(self.optimizer, **self.arguments)
            if self.framework
            else spec(self.optimizer, **self.arguments)
        )

    @property
    def lr(self) -> float | None:
        """None for a rule that computes its own."""
        given = self.arguments.get("lr", self.arguments.get("learning_rate"))
        if given is None:
            values = self.spec().groups[-1].hyperparameters
            return float(values["lr"]) if "lr" in values else None
        return float(given)

    def problem(self, dtype: str) -> Problem:
        return problem(dtype, self.steps, drop=self.drop, shapes=self.shapes, spike=self.spike)

    def start(self, spec: Spec, params: Mapping[str, Any], dtype: Any = None) -> TrainingState:
        """Where the referee begins. dtype: as for `init`."""
        first = init(spec, params, dtype)
        return replace(first, steps=dict.fromkeys(params, self.done)) if self.done else first

    def floor_in(self, dtype: str) -> float:
        return self.floor + (self.floor32 if dtype == "float32" else 0.0)


_ROW = (
    "dtypes",
    "reason",
    "amplification",
    "floor",
    "steps",
    "floor32",
    "floor16",
    "shapes",
    "drop",
    "spike",
    "done",
)


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


def mlx(name: str, desc: str, dtypes: tuple[str, ...] = BOTH, reason: str = "", **arguments: Any) -> Row:
    extra = {k: arguments.pop(k) for k in _ROW if k in arguments}
    return Row(f"mlx:{name}", arguments, desc, dtypes, reason, **extra)


def paddle(name: str, desc: str, dtypes: tuple[str, ...] = BOTH, reason: str = "", **arguments: Any) -> Row:
    extra = {k: arguments.pop(k) for k in _ROW if k in arguments}
    return Row(f"paddle:{name}", arguments, desc, dtypes, reason, **extra)


F32 = ("float32",)
MLX32 = "MLX computes numbers that follow from the step alone in float32"
STATE32 = "MXNet keeps this state in float32 and fails on float64 parameters"
# n − a² cancels where the gradient's mean is large against its spread; measured condition numbers
# of the standard problem stay below this.
CENTERED = 16.0
# MXNet passes scalars to its kernels as decimal text; its parser may miss the nearest float32 by one
# unit in the last place. Adam's step size is a new long decimal at every update.
ADAM_TEXT = 2.0**-23
# Paddle adds L2 decay before its kernels, with a λ in double; the rule's is an attribute, 2⁻²⁵ off, and
# squares of gradients twice that. AdamW's λ is an attribute where the rule's is double: 2⁻²⁵ of the ηλ
# of an update, of which a run is as long as 16.5 at the first rate.
PADDLE_DECAY = 2.0**-24


def correction32(beta: float) -> float:
    """Without 64-bit JAX, Optax computes 1 − βᵗ in float32, as does MXNet's FTML: β and its power each round by 2⁻²⁴, which
    the first update's division by 1 − β magnifies."""
    return 2 * 2.0**-24 / (1 - beta)
