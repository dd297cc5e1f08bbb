"""Moves of the Adagrad family."""

from __future__ import annotations

from ..ir import maximum, sqrt
from .moves import Maps, MoveInput, move
from .rmsprop import root_change

__all__: list[str] = []

_TEXT = "(√s + ε)/√(s + ε²) − 1 ≤ √2 − 1"


@move("adagrad", "ε' = ε²: ε goes under the root", eps=("outside", "inside"), level="bounded",
      when=lambda at: at.values["eps"] != 0, bound_text=_TEXT)  # fmt: skip
def eps_inside(x: MoveInput) -> Maps:
    eps = x.hyper("eps")
    return {"hyper:eps": eps * eps, "bound": root_change(x.slot("sum"), eps)}


@move("adagrad", "ε' = √ε: ε leaves the root", eps=("inside", "outside"), level="bounded",
      when=lambda at: at.values["eps"] != 0, bound_text=_TEXT)  # fmt: skip
def eps_outside(x: MoveInput) -> Maps:
    eps = sqrt(x.hyper("eps"))
    return {"hyper:eps": eps, "bound": root_change(x.slot("sum"), eps)}


for _from, _to in (("outside", "inside"), ("inside", "outside")):

    @move("adagrad", "at ε = 0 it has one place", eps=(_from, _to), when=lambda at: at.values["eps"] == 0)
    def no_eps(x: MoveInput) -> Maps:
        return {}


@move("adagrad", "t counts from 1 what T counts from 0", lr_decay=("from_zero", "from_one"), level="conditional",
      when=lambda at: at.step != 0, condition="at least one update was made")  # fmt: skip
def count_from_one(x: MoveInput) -> Maps:
    return {"step": maximum(x.step - 1, 0.0)}


@move("adagrad", "T counts from 0 what t counts from 1", lr_decay=("from_one", "from_zero"))
def count_from_zero(x: MoveInput) -> Maps:
    return {"step": x.step + 1}


def _rate(kind: str) -> None:
    @move("adagrad", "no falling rate is a fall of 0", lr_decay=("none", kind))
    def add_rate(x: MoveInput) -> Maps:
        return {"hyper:lr_decay": x.tracer.const(0.0)}

    @move(
        "adagrad", "a fall of 0 is none", lr_decay=(kind, "none"), when=lambda at: at.values["lr_decay"] == 0
    )
    def drop_rate(x: MoveInput) -> Maps:
        return {}


for _kind in ("from_zero", "from_one"):
    _rate(_kind)


@move(
    "adagrad",
    "the fall of the learning rate moves to the caller",
    lr_decay=("from_zero", "none"),
    level="conditional",
    # Decoupled decay does not fall with the rate, so it would fall with the caller's.
    when=lambda at: at.values["lr_decay"] != 0 and at.options["decay"] != "decoupled",
    condition="the caller sets the learning rate of update t to η / (1 + (t − 1)·{lr_decay})",
)
def schedule_rate(x: MoveInput) -> Maps:
    return {}


for _from, _to in (("divided", "zero"), ("zero", "divided")):

    @move("adagrad", "where the sum is 0 so is the gradient: nothing moves, ε keeps the quotient from 0/0",
          empty=(_from, _to), when=lambda at: at.values["eps"] != 0)  # fmt: skip
    def same_empty(x: MoveInput) -> Maps:
        return {}
