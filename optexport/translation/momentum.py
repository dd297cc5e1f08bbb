"""Moves of the option ``momentum``, which SGD and RMSprop share: where the learning rate stands."""

from __future__ import annotations

from collections.abc import Callable

from .moves import Maps, MoveInput, Situation, move

__all__ = ["has_lr", "momentum_moves"]


def has_lr(at: Situation) -> bool:
    """Whether there is a learning rate to divide by."""
    return at.values["lr"] != 0


def momentum_moves(
    family: str, folds: Callable[[Situation], bool] = has_lr, *, idle: Callable[[Situation], bool]
) -> None:
    """Register the moves between no, unfolded and folded momentum.

    folds: where a buffer has both forms. idle: where momentum 0 leaves nothing in the buffer.
    """

    @move(
        family,
        "M = −η·B: the buffer takes in the next step's learning rate",
        momentum=("unfolded", "folded"),
        level="conditional",
        when=folds,
        condition="the learning rate stays {lr}; when it changes, multiply the momentum by η_new/η_old",
    )
    def fold(x: MoveInput) -> Maps:
        return {"slot:momentum_buffer": -x.hyper("lr") * x.slot("momentum_buffer")}

    @move(
        family,
        "B = −M/η: the learning rate leaves the buffer",
        momentum=("folded", "unfolded"),
        level="conditional",
        when=folds,
        condition="the learning rate stays {lr}; when it changes, multiply the momentum by η_old/η_new",
    )
    def unfold(x: MoveInput) -> Maps:
        return {"slot:momentum_buffer": -x.slot("momentum_buffer") / x.hyper("lr")}

    for kind in ("unfolded", "folded"):

        @move(family, "no momentum is momentum 0", momentum=("none", kind))
        def add_momentum(x: MoveInput) -> Maps:
            return {"slot:momentum_buffer": x.tracer.const(0.0), "hyper:momentum": x.tracer.const(0.0)}

        @move(
            family,
            "momentum 0 is no momentum",
            momentum=(kind, "none"),
            when=lambda at: at.values["momentum"] == 0 and idle(at),
            drops=("momentum_buffer",),
        )
        def drop_momentum(x: MoveInput) -> Maps:
            return {}
