"""What the moves of Adam's relatives share: ε under the root, and beside it."""

from __future__ import annotations

from ..ir import Value, sqrt, where
from .moves import Maps, MoveInput, move

__all__ = ["eps_change", "eps_root_moves", "next_c2"]


def next_c2(x: MoveInput) -> Value:
    """c2 of the next update."""
    return 1 - x.hyper("beta2") ** (x.step + 1)


def eps_change(x: MoveInput) -> Value:
    """ε(1/√c2 − 1)/(√v̂ + ε) at the next update, v at the least that any gradient leaves of it.

    Elements that never had a gradient (v = 0) do not move under either rule while that stays so.
    """
    c2, eps, v = next_c2(x), x.hyper("eps"), x.slot("exp_avg_sq")
    change = eps * (1 / sqrt(c2) - 1) / (sqrt(x.hyper("beta2") * v / c2) + eps)
    return where(v <= 0, 0.0, change)


def eps_root_moves(family: str) -> None:
    """ε under the root, for families with the option ``eps_root``."""

    @move(family, "ε_root of 0 is none", eps_root=(True, False), when=lambda at: at.values["eps_root"] == 0)
    def drop_no_root(x: MoveInput) -> Maps:
        return {}

    @move(family, "no ε_root is an ε_root of 0", eps_root=(False, True))
    def add_no_root(x: MoveInput) -> Maps:
        return {"hyper:eps_root": x.tracer.const(0.0)}

    @move(
        family,
        "nothing stands under the root",
        eps_root=(True, False),
        level="bounded",
        when=lambda at: at.values["eps_root"] != 0,
        bound_text="(√(v + ε_root) + ε)/(√v + ε) − 1",
    )
    def drop_root(x: MoveInput) -> Maps:
        # v̂ is at least v, and v at least this after any gradient.
        v, eps = x.hyper("beta2") * x.slot("exp_avg_sq"), x.hyper("eps")
        change = (sqrt(v + x.hyper("eps_root")) + eps) / (sqrt(v) + eps) - 1
        return {"bound": where(v <= 0, 0.0, change)}
