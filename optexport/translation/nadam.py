"""Moves of the NAdam family.

A constant momentum and one that rises are different rules, and nothing in a state turns one into
the other. The product P of a rising momentum carries over; where one P serves several tensors
(MXNet), it is another number than a tensor's own, of which less is left with every update: of both
terms of the numerator the factor 1/(1 − P) lies between 1 and 1/(1 − S), S being the larger P.
"""

from __future__ import annotations

from ..ir import Value
from .adaptive import eps_root_moves
from .moves import Maps, MoveInput, Situation, move

__all__: list[str] = []

eps_root_moves("nadam")

_TEXT = "P/(1 − P) of the numerator's two terms, P falling to 0 as t grows"
_ONE = "the optimizer has one tensor"


@move("nadam", "P is rounded to float32", schedule=("own", "float32"))
def to_float32(x: MoveInput) -> Maps:
    return {}


@move("nadam", "P is kept in double", schedule=("float32", "own"))
def to_double(x: MoveInput) -> Maps:
    return {}


def _alone(at: Situation) -> bool:
    return at.values["tensors"] == 1


@move("nadam", "of one tensor P is its own", schedule=("shared", "own"), when=_alone)
def of_one(x: MoveInput) -> Maps:
    return {}


@move("nadam", "of one tensor P is its own", schedule=("shared", "own"), level="conditional",
      when=lambda at: at.values["tensors"] == 0, condition=_ONE)  # fmt: skip
def of_one_perhaps(x: MoveInput) -> Maps:
    return {}


@move("nadam", "a tensor's own P serves one tensor", schedule=("own", "shared"), level="conditional",
      when=lambda at: at.tensors in (None, 1), condition=_ONE)  # fmt: skip
def for_one(x: MoveInput) -> Maps:
    return {"hyper:tensors": x.tracer.const(1.0), "hyper:place": x.tracer.const(1.0)}


def _change(x: MoveInput) -> Value:
    product = x.slot("mu_product")
    return product / (1 - product)


@move("nadam", "the P of all tensors becomes each one's own", schedule=("shared", "own"), level="bounded",
      when=lambda at: at.values["tensors"] > 1, bound_text=_TEXT)  # fmt: skip
def share_out(x: MoveInput) -> Maps:
    return {"bound": _change(x)}


@move("nadam", "a tensor's own P becomes that of all", schedule=("own", "shared"), level="bounded",
      when=lambda at: at.tensors not in (None, 1), bound_text=_TEXT)  # fmt: skip
def share(x: MoveInput) -> Maps:
    # Counted once the parameters' order is known.
    return {"hyper:tensors": x.tracer.const(0.0), "hyper:place": x.tracer.const(0.0), "bound": _change(x)}


@move("nadam", "ψ = 1 is ψ = 1", momentum_decay=(False, True))
def write_psi(x: MoveInput) -> Maps:
    return {"hyper:momentum_decay": x.tracer.const(1.0)}


@move("nadam", "ψ = 1 is ψ = 1", momentum_decay=(True, False),
      when=lambda at: at.values.get("momentum_decay", 1.0) == 1)  # fmt: skip
def leave_psi(x: MoveInput) -> Maps:
    return {}
