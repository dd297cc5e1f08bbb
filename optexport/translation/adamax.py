"""Moves of the Adamax family.

Where ε is in the state, exp_inf lies between u and u + ε: max(β2·u, |ĝ|) + ε decays to ε, and
max(β2·u, |ĝ| + ε) does too, but from the whole of it. max(β2·u + ε, |ĝ|) decays to ε/(1 − β2).
"""

from __future__ import annotations

from ..ir import absolute, maximum, where
from .moves import Maps, MoveInput, Situation, move

__all__: list[str] = []

INF = float("inf")


def _no_eps(at: Situation) -> bool:
    return at.values["eps"] == 0


_PLACES = ("outside", "accumulated", "decayed")
for _from, _to in ((a, b) for a in _PLACES for b in _PLACES if a != b):

    @move("adamax", "at ε = 0 it has one place", eps=(_from, _to), when=_no_eps)
    def one_place(x: MoveInput) -> Maps:
        return {}


for _kind in _PLACES:

    @move("adamax", "no ε is ε = 0", eps=("none", _kind))
    def add_eps(x: MoveInput) -> Maps:
        return {"hyper:eps": x.tracer.const(0.0)}

    @move("adamax", "ε = 0 is none", eps=(_kind, "none"), when=_no_eps)
    def drop_no_eps(x: MoveInput) -> Maps:
        return {}


@move(
    "adamax",
    "ε is dropped",
    eps=("outside", "none"),
    level="bounded",
    when=lambda at: not _no_eps(at),
    bound_text="ε/u, infinite where u is 0",
)
def drop_eps(x: MoveInput) -> Maps:
    u = x.hyper("beta2") * x.slot("exp_inf")
    return {"bound": where(u <= 0, INF, x.hyper("eps") / u)}


@move(
    "adamax",
    "u' = u + ε: ε enters the state",
    eps=("outside", "accumulated"),
    level="bounded",
    when=lambda at: not _no_eps(at),
    bound_text="ε/u': u' falls below u + ε by up to ε",
)
def eps_into_state(x: MoveInput) -> Maps:
    kept = x.slot("exp_inf") + x.hyper("eps")
    return {"slot:exp_inf": kept, "bound": x.hyper("eps") / (x.hyper("beta2") * kept)}


@move(
    "adamax",
    "u' = u − ε: ε leaves the state",
    eps=("accumulated", "outside"),
    level="bounded",
    when=lambda at: not _no_eps(at),
    bound_text="ε/u: u' + ε stays above u by up to ε",
)
def eps_out_of_state(x: MoveInput) -> Maps:
    u, eps = x.slot("exp_inf"), x.hyper("eps")
    decayed = x.hyper("beta2") * u
    return {"slot:exp_inf": maximum(u - eps, 0.0), "bound": where(decayed <= 0, 0.0, eps / decayed)}


for _from, _to in (("outside", "decayed"), ("decayed", "outside")):

    @move(
        "adamax",
        "ε joins u before the maximum, or after it",
        eps=(_from, _to),
        level="bounded",
        when=lambda at: not _no_eps(at),
        bound_text="ε/(β2·u), infinite where u is 0",
    )
    def eps_beside_maximum(x: MoveInput) -> Maps:
        decayed = x.hyper("beta2") * x.slot("exp_inf")
        return {"bound": where(decayed <= 0, INF, x.hyper("eps") / decayed)}


for _starts, _ends in ((False, True), (True, False)):

    @move(
        "adamax",
        "bias correction starts" if _ends else "bias correction ends",
        bias_correction=(_starts, _ends),
        level="bounded",
        bound_text="1/c1 − 1, falling to 0 as t grows",
    )
    def change_correction(x: MoveInput) -> Maps:
        return {"bound": absolute(1 / (1 - x.hyper("beta1") ** (x.step + 1)) - 1)}
