"""Moves of the Signum family."""

from __future__ import annotations

from .moves import Maps, MoveInput, Situation, move

__all__: list[str] = []

for _from, _to in (("average", "negated"), ("negated", "average")):

    @move("signum", "e = −M: the running mean changes its sign", momentum=(_from, _to))
    def negate(x: MoveInput) -> Maps:
        return {"slot:momentum_buffer": -x.slot("momentum_buffer")}


for _kind in ("average", "negated"):

    @move("signum", "no momentum is momentum 0", momentum=("none", _kind))
    def add_momentum(x: MoveInput) -> Maps:
        return {"slot:momentum_buffer": x.tracer.const(0.0), "hyper:momentum": x.tracer.const(0.0)}

    @move(
        "signum",
        "momentum 0 is no momentum",
        momentum=(_kind, "none"),
        when=lambda at: at.values["momentum"] == 0,
        drops=("momentum_buffer",),
    )
    def drop_momentum(x: MoveInput) -> Maps:
        return {}


@move("signum", "decoupled decay goes by its other name", decay=("decoupled", "none"), wd_lh=(False, True))
def as_wd_lh(x: MoveInput) -> Maps:
    return {"hyper:wd_lh": x.hyper("weight_decay")}


@move("signum", "wd_lh is decoupled decay", decay=("none", "decoupled"), wd_lh=(True, False))
def as_decoupled(x: MoveInput) -> Maps:
    return {"hyper:weight_decay": x.hyper("wd_lh")}


@move("signum", "wd_lh of 0 is none", wd_lh=(True, False), when=lambda at: at.values["wd_lh"] == 0)
def drop_zero(x: MoveInput) -> Maps:
    return {}


@move("signum", "no wd_lh is wd_lh of 0", wd_lh=(False, True))
def add_zero(x: MoveInput) -> Maps:
    return {"hyper:wd_lh": x.tracer.const(0.0)}


@move(
    "signum",
    "decoupled decay beside an L2 one is dropped",
    wd_lh=(True, False),
    level="lossy",
    when=lambda at: at.values["wd_lh"] != 0,
    dropped="wd_lh {wd_lh} (the target has no second decay)",
)
def lose_wd_lh(x: MoveInput) -> Maps:
    return {}


def _no_size(at: Situation) -> bool:
    """Only the gradient's sign counts: nothing keeps its size, and no decay joins it."""
    return at.options["momentum"] == "none" and (
        at.options["decay"] != "l2" or at.values["weight_decay"] == 0
    )


@move("signum", "a positive factor leaves the sign", rescale=(True, False),
      when=lambda at: _no_size(at) and at.values["rescale_grad"] > 0)  # fmt: skip
def drop_rescale(x: MoveInput) -> Maps:
    return {}


for _clip in ("before_decay", "after_decay"):

    @move("signum", "a clip leaves the sign", clip=(_clip, "none"),
          when=lambda at: _no_size(at) and at.values["clip_gradient"] > 0)  # fmt: skip
    def drop_clip(x: MoveInput) -> Maps:
        return {}
