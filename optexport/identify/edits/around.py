"""What stands around an update: a rate that follows the step, a bound of the step, a norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from ...ir import Program
from ...ir.types import FLOAT64, TENSOR
from ...rules import Hyper
from ..rewrite import Builder
from .edit import Edit, at_node, at_output, grads, is_hyper

__all__ = ["edits"]

_DECAY = Hyper("rate_decay", 0.01, 0.0, inf, "decay of the learning rate")
_FACTOR = Hyper("rate_factor", 0.9, 0.0, 1.0, "factor of the learning rate at each step")
_WARMUP = Hyper("warmup", 6.0, 1.0, inf, "steps of the warm-up")
_BOUND = Hyper("clip_update", 0.01, 0.0, inf, "bound of the update")
_MULTIPLE = Hyper("factor", 0.5, 0.0, inf, "the factor")


def edits(program: Program) -> Iterator[Edit]:
    yield from _schedules(program)
    yield Edit(
        "clip",
        "the update is clipped elementwise",
        at_output(program, "param", lambda b, x, new: _bounded(b, x)),
        (_BOUND,),
    )
    yield Edit(
        "norm",
        "the gradient is divided by its norm",
        at_node(program, *grads(program), make=lambda b, x, new: _normed(b, x)),
    )
    yield Edit(
        "sign",
        "the sign of the gradient stands in place of the gradient",
        at_node(program, *grads(program), make=lambda b, x, new: b.op("sign", x)),
    )
    squares = (
        i for i in program.used() if program.nodes[i].op == "mul" and len({*program.nodes[i].args}) == 1
    )
    yield Edit(
        "scale",
        "the mean square of the gradient is fed with a multiple of it",
        at_node(program, *squares, make=lambda b, x, new: b.op("mul", b.hyper("factor"), x)),
        (_MULTIPLE,),
    )


def _schedules(program: Program) -> Iterator[Edit]:
    def rate(make: Callable[[Builder, int], int]) -> Callable[[], Program]:
        found = (i for i in program.used() if is_hyper(program.nodes[i], "lr"))
        return at_node(program, *found, make=lambda b, x, new: make(b, x))

    def step(b: Builder) -> int:
        return b.given("step", FLOAT64)

    def t(b: Builder) -> int:
        return b.op("add", step(b), b.const(1.0))

    def slower(b: Builder, x: int) -> int:
        return b.op("div", x, b.op("add", b.const(1.0), b.op("mul", b.hyper("rate_decay"), step(b))))

    def warmed(b: Builder, x: int) -> int:
        return b.op("mul", x, b.op("min", b.const(1.0), b.op("div", t(b), b.hyper("warmup"))))

    yield Edit("schedule", "the learning rate decays as 1 / (1 + d·step)", rate(slower), (_DECAY,))
    yield Edit(
        "schedule",
        "the learning rate decays as dˢᵗᵉᵖ",
        rate(lambda b, x: b.op("mul", x, b.op("pow", b.hyper("rate_factor"), step(b)))),
        (_FACTOR,),
    )
    yield Edit(
        "schedule",
        "the learning rate decays as 1 / √t",
        rate(lambda b, x: b.op("div", x, b.op("sqrt", t(b)))),
    )
    yield Edit("schedule", "the learning rate warms up over w steps", rate(warmed), (_WARMUP,))


def _bounded(b: Builder, x: int) -> int:
    w, c = b.given("param", TENSOR), b.hyper("clip_update")
    return b.op("add", w, b.op("max", b.op("neg", c), b.op("min", c, b.op("sub", x, w))))


def _normed(b: Builder, x: int) -> int:
    return b.op("div", x, b.op("add", b.op("norm", x), b.const(1e-30)))
