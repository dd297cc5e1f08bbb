"""Moves of the LARS family."""

from __future__ import annotations

from .moves import Maps, MoveInput, Situation, move

__all__: list[str] = []


def _one_norm(at: Situation) -> bool:
    """‖g‖ is the norm of all that the step is made of."""
    plain = at.options["decay"] == "none" and at.options["clip"] == "none"
    factor = at.values.get("rescale_grad", 1.0)
    return at.options["trust"] == "none" or (plain and factor > 0 and at.options["clip_norm"] == "none")


for _from, _to in (("parts", "sum"), ("sum", "parts")):

    @move("lars", "without decay and clip ‖g‖ has one meaning", norms=(_from, _to), when=_one_norm)
    def one_norm(x: MoveInput) -> Maps:
        return {}


@move("lars", "no momentum is momentum 0", momentum=("none", "folded"))
def add_momentum(x: MoveInput) -> Maps:
    return {"slot:momentum_buffer": x.tracer.const(0.0), "hyper:momentum": x.tracer.const(0.0)}


@move(
    "lars",
    "momentum 0 is no momentum",
    momentum=("folded", "none"),
    when=lambda at: at.values["momentum"] == 0,
    drops=("momentum_buffer",),
)
def drop_momentum(x: MoveInput) -> Maps:
    return {}


for _from, _to in (("none", "lookahead"), ("lookahead", "none")):

    @move("lars", "without momentum there is no lookahead", nesterov=(_from, _to),
          when=lambda at: at.options["momentum"] == "none")  # fmt: skip
    def idle_nesterov(x: MoveInput) -> Maps:
        return {}
