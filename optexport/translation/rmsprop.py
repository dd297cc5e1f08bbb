"""Moves of the RMSprop family."""

from __future__ import annotations

from ..ir import Value, sqrt, where
from .momentum import momentum_moves
from .moves import Maps, MoveInput, move

__all__: list[str] = []


def root_change(d: Value, eps_outside: Value) -> Value:
    """(√d + ε)/√(d + ε²) − 1: between 0 and √2 − 1, the latter at d = ε².

    Where d may still fall below ε² the worst case counts; where d = 0 nothing moves so far.
    """
    root = sqrt(d)
    change = (root + eps_outside) / sqrt(d + eps_outside * eps_outside) - 1
    return where(d <= 0, 0.0, where(root < eps_outside, 2**0.5 - 1, change))


_TEXT = "(√d + ε)/√(d + ε²) − 1 ≤ √2 − 1"


@move("rmsprop", "ε' = ε²: ε goes under the root", eps=("outside", "inside"), level="bounded",
      when=lambda at: at.values["eps"] != 0, bound_text=_TEXT)  # fmt: skip
def eps_inside(x: MoveInput) -> Maps:
    eps = x.hyper("eps")
    return {"hyper:eps": eps * eps, "bound": root_change(x.hyper("alpha") * x.slot("square_avg"), eps)}


@move("rmsprop", "ε' = √ε: ε leaves the root", eps=("inside", "outside"), level="bounded",
      when=lambda at: at.values["eps"] != 0, bound_text=_TEXT)  # fmt: skip
def eps_outside(x: MoveInput) -> Maps:
    eps = sqrt(x.hyper("eps"))
    return {"hyper:eps": eps, "bound": root_change(x.hyper("alpha") * x.slot("square_avg"), eps)}


for _from, _to in (("outside", "inside"), ("inside", "outside")):

    @move("rmsprop", "at ε = 0 it has one place", eps=(_from, _to), when=lambda at: at.values["eps"] == 0)
    def no_eps(x: MoveInput) -> Maps:
        return {}


momentum_moves("rmsprop", idle=lambda _: True)

for _from, _to in (("folded", "folded_positive"), ("folded_positive", "folded")):

    @move("rmsprop", "the buffer changes its sign", momentum=(_from, _to))
    def negate(x: MoveInput) -> Maps:
        return {"slot:momentum_buffer": -x.slot("momentum_buffer")}


@move("rmsprop", "an infinite clip of the weights is none", clip_weights=(True, False),
      when=lambda at: at.values["clip_weights"] == float("inf"))  # fmt: skip
def drop_open_clip(x: MoveInput) -> Maps:
    return {}


@move("rmsprop", "the clip of the weights is dropped", clip_weights=(True, False), level="lossy",
      when=lambda at: at.values["clip_weights"] != float("inf"),
      dropped="clip_weights {clip_weights} (clip the parameters after the update)")  # fmt: skip
def drop_clip(x: MoveInput) -> Maps:
    return {}


for _corrects in (True, False):

    @move(
        "rmsprop",
        "bias correction ends, or starts",
        bias_correction=(_corrects, not _corrects),
        level="bounded",
        # Centered, both means are divided by c, and their difference has no such bound.
        when=lambda at: not at.options["centered"],
        bound_text="1/√c − 1, falling to 0 as t grows",
    )
    def change_correction(x: MoveInput) -> Maps:
        return {"bound": 1 / sqrt(1 - x.hyper("alpha") ** (x.step + 1)) - 1}
