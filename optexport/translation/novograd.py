"""Moves of the NovoGrad family."""

from __future__ import annotations

from .moves import Maps, MoveInput, move

__all__: list[str] = []


@move("novograd", "no decay is decay of 0", decay=("none", "normalized"))
def add_zero_decay(x: MoveInput) -> Maps:
    return {"hyper:weight_decay": x.tracer.const(0.0)}
