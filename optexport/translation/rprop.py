"""Moves of the Rprop family.

The steps at once and the late ones keep the same lengths and signs of gradients, so state goes both
ways; what is done with them differs at every update.
"""

from __future__ import annotations

from ..ir import sign
from .moves import Maps, MoveInput, move

__all__: list[str] = []


@move(
    "rprop",
    "prev' = Δ·sign(prev): the last gradient becomes the step that it made",
    step=("at_once", "late"),
    level="lossy",
    dropped="the place of the run: the target makes each step one update late, so it makes the last one twice, and "
    "makes none where the sign turns (step lengths and signs are carried)",
)
def delay(x: MoveInput) -> Maps:
    return {"slot:prev": x.slot("step_length") * sign(x.slot("prev"))}


@move(
    "rprop",
    "prev' = sign(prev): of the last gradient only the sign matters",
    step=("late", "at_once"),
    level="lossy",
    dropped="the step of the last gradient, which was not made yet (step lengths and signs are carried)",
)
def make_at_once(x: MoveInput) -> Maps:
    return {"slot:prev": sign(x.slot("prev"))}
