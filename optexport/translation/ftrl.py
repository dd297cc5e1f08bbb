"""Moves of the FTRL family."""

from __future__ import annotations

from .moves import Maps, MoveInput, move

__all__: list[str] = []


@move("ftrl", "√n is n^½", power=("root", "free"))
def free_power(x: MoveInput) -> Maps:
    return {"hyper:power": x.tracer.const(0.5)}


@move("ftrl", "n^½ is √n", power=("free", "root"), when=lambda at: at.values["power"] == 0.5)
def root_power(x: MoveInput) -> Maps:
    return {}


@move("ftrl", "no shrinkage is shrinkage 0", shrinkage=(False, True))
def add_shrinkage(x: MoveInput) -> Maps:
    return {"hyper:shrinkage": x.tracer.const(0.0)}


@move("ftrl", "shrinkage 0 is none", shrinkage=(True, False), when=lambda at: at.values["shrinkage"] == 0)
def drop_shrinkage(x: MoveInput) -> Maps:
    return {}


@move(
    "ftrl",
    "shrinkage is dropped",
    shrinkage=(True, False),
    level="lossy",
    when=lambda at: at.values["shrinkage"] != 0,
    dropped="l2 shrinkage {shrinkage} (the target has no penalty that the accumulator does not see)",
)
def lose_shrinkage(x: MoveInput) -> Maps:
    return {}
