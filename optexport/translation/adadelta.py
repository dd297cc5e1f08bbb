"""Moves of the Adadelta family."""

from __future__ import annotations

from .moves import Maps, MoveInput, Situation, move

__all__: list[str] = []


@move("adadelta", "no learning rate is a learning rate of 1", rate=("none", "lr"))
def add_rate(x: MoveInput) -> Maps:
    return {"hyper:lr": x.tracer.const(1.0)}


@move(
    "adadelta",
    "a learning rate of 1 is none",
    rate=("lr", "none"),
    level="conditional",
    when=lambda at: at.values["lr"] == 1,
    condition="the learning rate stays 1; the target ignores any other",
)
def drop_rate(x: MoveInput) -> Maps:
    return {}


def _odd(at: Situation) -> bool:
    """The step turns with the gradient, unless decay has joined that."""
    return at.options["decay"] != "l2" or at.values["weight_decay"] == 0


for _from, _to, _up in (("ascent", "none", (False, True)), ("none", "ascent", (True, False))):

    @move("adadelta", "a step that is added is the step of the negated gradient, subtracted",
          rate=(_from, _to), maximize=_up, when=_odd)  # fmt: skip
    def turn(x: MoveInput) -> Maps:
        return {}
