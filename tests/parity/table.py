"""The parity table: one record a case. A new optimizer is proven by adding rows here.

`NATIVE` rows are checked against the real framework, emitted on every backend, and mutated.
"""

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


def torch(name: str, desc: str, **arguments: Any) -> Row:
    extra = {k: arguments.pop(k) for k in ("amplification", "reason") if k in arguments}
    return Row(f"torch:{name}", arguments, desc, **extra)


def mxnet(name: str, desc: str, dtypes: tuple[str, ...] = BOTH, reason: str = "", **arguments: Any) -> Row:
    extra = {k: arguments.pop(k) for k in ("amplification", "floor") if k in arguments}
    return Row(f"mxnet:{name}", arguments, desc, dtypes, reason, **extra)


def onnx(name: str, desc: str, **arguments: Any) -> Row:
    return Row(f"onnx:{name}", arguments, desc)


def ort(name: str, desc: str, **arguments: Any) -> Row:
    return Row(f"onnxruntime:{name}", arguments, desc, ("float32",), "the kernel takes float32 alone")


def keras(name: str, desc: str, dtypes: tuple[str, ...] = BOTH, reason: str = "", **arguments: Any) -> Row:
    extra = {k: arguments.pop(k) for k in ("amplification", "floor") if k in arguments}
    return Row(f"keras:{name}", arguments, desc, dtypes, reason, **extra)


F32 = ("float32",)
STATE32 = "MXNet keeps this state in float32 and fails on float64 parameters"
# n − a² cancels where the gradient's mean is large against its spread; measured condition numbers
# of the standard problem stay below this.
CENTERED = 16.0
# MXNet passes scalars to its kernels as decimal text; its parser may miss the nearest float32 by one
# unit in the last place. Adam's step size is a new long decimal at every update.
ADAM_TEXT = 2.0**-23

NATIVE = [
    torch("SGD", "plain", lr=0.1),
    torch("SGD", "huge lr", lr=1e3, momentum=0.5),
    torch("SGD", "momentum and decay", lr=0.1, momentum=0.9, weight_decay=0.1),
    torch("SGD", "dampening", lr=0.1, momentum=0.9, dampening=0.3),
    torch(
        "SGD", "dampening and ascent", lr=0.05, momentum=0.5, dampening=0.9, maximize=True, weight_decay=0.01
    ),
    torch("SGD", "nesterov", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    torch("Adam", "defaults", lr=0.001),
    torch("Adam", "L2 and large eps", lr=0.01, weight_decay=0.1, eps=1e-3),
    torch("Adam", "amsgrad and ascent", lr=0.01, amsgrad=True, maximize=True, betas=(0.5, 0.9)),
    torch("AdamW", "decay and changed betas", lr=0.01, weight_decay=0.1, betas=(0.8, 0.95)),
    torch("AdamW", "huge lr", lr=10.0, weight_decay=0.01, eps=1e-2),
    torch("AdamW", "amsgrad", lr=0.01, weight_decay=0.1, amsgrad=True),
    torch("RMSprop", "plain and decay", lr=0.01, weight_decay=0.1),
    torch("RMSprop", "large eps", lr=0.01, alpha=0.9, eps=0.1),
    torch("RMSprop", "momentum", lr=0.01, momentum=0.9, alpha=0.95),
    torch("RMSprop", "centered", lr=0.01, centered=True, amplification=CENTERED),
    torch("RMSprop", "centered and momentum", lr=0.01, momentum=0.9, centered=True, amplification=CENTERED),
    torch("Adagrad", "plain", lr=0.1),
    torch("Adagrad", "all", lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.1, eps=1e-3),
    mxnet("sgd", "plain and decay", learning_rate=0.1, wd=0.01),
    mxnet(
        "sgd",
        "momentum, rescale, clip",
        learning_rate=0.1,
        momentum=0.9,
        wd=0.1,
        rescale_grad=0.5,
        clip_gradient=0.3,
    ),
    mxnet("sgd", "huge lr", learning_rate=1e3, momentum=0.5),
    mxnet("nag", "decay", learning_rate=0.1, momentum=0.9, wd=0.1),
    mxnet(
        "nag",
        "clip and rescale",
        learning_rate=0.1,
        momentum=0.9,
        wd=0.1,
        rescale_grad=0.3,
        clip_gradient=0.3,
    ),
    mxnet("adam", "defaults", learning_rate=0.001, floor=0.001 * ADAM_TEXT),
    mxnet(
        "adam",
        "decay inside the clip",
        learning_rate=0.01,
        wd=0.1,
        epsilon=1e-3,
        rescale_grad=0.3,
        clip_gradient=0.5,
        floor=0.01 * ADAM_TEXT,
    ),
    mxnet(
        "adam",
        "counting from 10",
        learning_rate=0.01,
        begin_num_update=10,
        beta1=0.5,
        beta2=0.9,
        floor=0.01 * ADAM_TEXT,
    ),
    mxnet("adamw_update", "eta, decay, clip", learning_rate=0.01, wd=0.1, eta=0.5, clip_gradient=0.3),
    mxnet("rmsprop", "plain", F32, STATE32, learning_rate=0.01, wd=0.1, clip_gradient=0.5),
    mxnet(
        "rmsprop",
        "clipped weights",
        F32,
        STATE32,
        learning_rate=0.05,
        gamma1=0.95,
        clip_weights=0.7,
        epsilon=1e-3,
    ),
    mxnet(
        "rmsprop",
        "centered",
        F32,
        STATE32,
        learning_rate=0.01,
        centered=True,
        wd=0.1,
        gamma2=0.8,
        amplification=CENTERED,
    ),
    mxnet(
        "adagrad",
        "decay, clip, rescale",
        F32,
        STATE32,
        learning_rate=0.1,
        wd=0.1,
        clip_gradient=0.3,
        rescale_grad=0.5,
    ),
    mxnet("adagrad", "large eps", F32, STATE32, learning_rate=0.1, eps=0.1),
    onnx("Momentum", "T from 0", lr=0.1, alpha=0.9, beta=0.5, norm_coefficient=0.1, t0=0),
    onnx("Momentum", "T from 1, nesterov", lr=0.1, alpha=0.9, beta=0.7, mode="nesterov", t0=1),
    onnx("Adam", "T from 0", lr=0.01, alpha=0.9, beta=0.99, epsilon=1e-3, norm_coefficient=0.1, t0=0),
    onnx("Adam", "T from 1, post decay", lr=0.01, alpha=0.8, beta=0.9, norm_coefficient_post=0.01, t0=1),
    onnx("Adagrad", "T from 0", lr=0.1, decay_factor=0.1, norm_coefficient=0.1, t0=0),
    onnx("Adagrad", "T from 1", lr=0.1, decay_factor=0.1, epsilon=1e-2, t0=1),
    ort("AdamWOptimizer", "mode 0", lr=0.01, weight_decay=0.1, adam_mode=0, epsilon=1e-4),
    ort(
        "AdamWOptimizer", "mode 1", lr=0.01, weight_decay=0.1, adam_mode=1, alpha=0.8, beta=0.95, epsilon=1e-4
    ),
    ort(
        "AdamWOptimizer",
        "mode 1 uncorrected",
        lr=0.01,
        weight_decay=0.1,
        adam_mode=1,
        correct_bias=0,
        epsilon=1e-3,
    ),
    ort("SGDOptimizerV2", "plain", lr=0.1),
    keras("SGD", "plain and decay", learning_rate=0.1, weight_decay=0.1),
    keras("SGD", "momentum", learning_rate=0.1, momentum=0.9, weight_decay=0.1, clipvalue=0.4),
    keras("SGD", "nesterov", learning_rate=0.1, momentum=0.8, nesterov=True, loss_scale_factor=4.0),
    keras("Adam", "defaults", learning_rate=0.001),
    keras("Adam", "amsgrad and large eps", learning_rate=0.01, amsgrad=True, epsilon=1e-3, beta_2=0.9),
    keras("AdamW", "decay and changed betas", learning_rate=0.01, weight_decay=0.1, beta_1=0.8, beta_2=0.95),
    keras("RMSprop", "plain", learning_rate=0.01, weight_decay=0.1),
    keras("RMSprop", "momentum and large eps", learning_rate=0.01, rho=0.95, momentum=0.9, epsilon=0.1),
    keras(
        "RMSprop",
        "centered and momentum",
        learning_rate=0.01,
        momentum=0.8,
        centered=True,
        amplification=CENTERED,
    ),
    keras("Adagrad", "defaults", learning_rate=0.1),
    keras(
        "Adagrad",
        "decay, clip and large eps",
        learning_rate=0.1,
        weight_decay=0.1,
        initial_accumulator_value=0.3,
        epsilon=0.1,
        clipvalue=0.5,
    ),
]

# (row, dtype) of every case that the framework can run.
NATIVE_CASES = [(row, dtype) for row in NATIVE for dtype in row.dtypes]
