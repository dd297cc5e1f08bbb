"""Decay where the rule has none, decay by another rate, and decay that reaches one reader of the gradient alone."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from ...ir import Program
from ...ir.types import TENSOR
from ...rules import Hyper
from ..rewrite import Builder
from .edit import Edit, at_node, at_output, at_uses, grads, is_hyper, told, users

__all__ = ["edits"]

_EXTRA = (Hyper("weight_decay", 0.0, -inf, inf, "weight decay", 0.0),)


def edits(program: Program) -> Iterator[Edit]:
    if all(n.name != "weight_decay" for n in program.inputs("hyper")):
        yield from _decoupled(program)
        yield from _joining(program)
        return
    for i in sorted(program.used()):
        if is_hyper(program.nodes[i], "weight_decay"):
            yield from _other_rate(program, i)
    raw = next(iter(grads(program)), None)
    for i in sorted(program.used()):
        if raw is not None and program.nodes[i].label == "g_eff":
            yield from _raw_gradient(program, i, raw)


def _decoupled(program: Program) -> Iterator[Edit]:
    def rate(b: Builder, scaled: bool) -> int:
        own = b.hyper("weight_decay")
        return b.op("mul", b.hyper("lr"), own) if scaled else own

    def both(scaled: bool, how: str) -> Iterator[Edit]:
        yield Edit(
            "decay",
            f"decoupled decay of the parameter beside the update, {how}",
            at_output(program, "param", lambda b, x, new: b.op(
                "sub", x, b.op("mul", rate(b, scaled), b.given("param", TENSOR))
            )),
            _EXTRA,
        )  # fmt: skip
        yield Edit(
            "decay",
            f"decoupled decay of the updated parameter, {how}",
            at_output(program, "param", lambda b, x, new: b.op(
                "mul", x, b.op("sub", b.const(1.0), rate(b, scaled))
            )),
            _EXTRA,
        )  # fmt: skip

    yield from both(True, "scaled by the learning rate")
    yield from both(False, "not scaled by the learning rate")


def _joining(program: Program) -> Iterator[Edit]:
    def joined(b: Builder, x: int, _: object) -> int:
        return b.op("add", x, b.op("mul", b.hyper("weight_decay"), b.given("param", TENSOR)))

    for i in grads(program):
        yield Edit("decay", "L2 decay joins the gradient", at_node(program, i, make=joined), _EXTRA)
        readers = users(program, i)
        for user in dict.fromkeys(u for u, _ in readers):
            yield Edit(
                "decay",
                f"L2 decay joins the gradient in {told(program, user)} alone",
                at_uses(program, *(r for r in readers if r[0] == user), make=joined),
                _EXTRA,
            )


def _other_rate(program: Program, i: int) -> Iterator[Edit]:
    yield Edit(
        "decay",
        "decay is divided by the learning rate once more: it does not follow the rate",
        at_node(program, i, make=lambda b, x, new: b.op("div", x, b.hyper("lr"))),
    )
    yield Edit(
        "decay",
        "decay is multiplied by the learning rate once more",
        at_node(program, i, make=lambda b, x, new: b.op("mul", x, b.hyper("lr"))),
    )
    yield Edit(
        "decay", "decay has the opposite sign", at_node(program, i, make=lambda b, x, new: b.op("neg", x))
    )


def _raw_gradient(program: Program, i: int, raw: int) -> Iterator[Edit]:
    readers = users(program, i)
    for user in dict.fromkeys(u for u, _ in readers):
        yield Edit(
            "decay",
            f"{told(program, user)} sees the raw gradient, without decay and clip",
            at_uses(program, *(r for r in readers if r[0] == user), make=lambda b, x, new: new[raw]),
        )
