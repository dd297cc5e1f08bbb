"""Moves of the LAMB family."""

from __future__ import annotations

from .moves import Maps, MoveInput, Situation, move

__all__: list[str] = []

INF = float("inf")


def _open(at: Situation) -> bool:
    return at.values["lower_bound"] <= 0 and at.values["upper_bound"] == INF


@move("lamb", "no decay is decay of 0", decay=("none", "in_update"))
def add_decay(x: MoveInput) -> Maps:
    return {"hyper:weight_decay": x.tracer.const(0.0)}


for _kind in ("norm", "ratio"):

    @move("lamb", "no bounds are 0 and ∞", bounds=("none", _kind))
    def add_bounds(x: MoveInput) -> Maps:
        return {"hyper:lower_bound": x.tracer.const(0.0), "hyper:upper_bound": x.tracer.const(INF)}

    @move("lamb", "bounds of 0 and ∞ are none", bounds=(_kind, "none"), when=_open)
    def drop_open_bounds(x: MoveInput) -> Maps:
        return {}

    @move(
        "lamb",
        "the bounds are dropped",
        bounds=(_kind, "none"),
        level="lossy",
        when=lambda at: not _open(at),
        dropped="bounds {lower_bound} and {upper_bound} (the target has none of this kind)",
    )
    def drop_bounds(x: MoveInput) -> Maps:
        return {}


@move("lamb", "nothing under the root is ε_root = 0", eps_root=(False, True))
def add_root(x: MoveInput) -> Maps:
    return {"hyper:eps_root": x.tracer.const(0.0)}


@move("lamb", "ε_root = 0 is nothing", eps_root=(True, False), when=lambda at: at.values["eps_root"] == 0)
def drop_root(x: MoveInput) -> Maps:
    return {}
