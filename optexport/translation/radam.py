"""Moves of the RAdam family."""

from __future__ import annotations

from .adaptive import eps_change, eps_root_moves
from .moves import Maps, MoveInput, Situation, move

__all__: list[str] = []

eps_root_moves("radam")

for _from, _to in (("outside", "hat"), ("hat", "outside")):

    @move("radam", "at ε = 0 it has one place", eps=(_from, _to), when=lambda at: at.values["eps"] == 0)
    def no_eps(x: MoveInput) -> Maps:
        return {}

    @move(
        "radam",
        "ε keeps its value and changes its place",
        eps=(_from, _to),
        level="bounded",
        when=lambda at: at.values["eps"] != 0,
        bound_text="ε(1/√c2 − 1)/(√v̂ + ε), falling to 0 as t grows",
    )
    def move_eps(x: MoveInput) -> Maps:
        return {"bound": eps_change(x)}


def _never_five(at: Situation) -> bool:
    """Whether ρ, which grows with t, passes 5 between two updates and not at one: only there do
    ρ > 5 and ρ ≥ 5 differ."""
    beta2 = at.values["beta2"]
    largest = 2 / (1 - beta2) - 1
    # Rounding of ρ is far below this, and a ρ that stays below 5 − 1e-6 is on one side for both.
    near, t = 1e-6 * largest, 1
    while t < 100_000:
        power = beta2**t
        rho = largest - 2 * t * power / (1 - power)
        if abs(rho - 5) < near:
            return False
        if rho > 5 or power < 1e-18:
            return True
        t += 1
    return False


@move("radam", "ρ is never 5", threshold=("five", "given"), when=_never_five)
def give_threshold(x: MoveInput) -> Maps:
    return {"hyper:threshold": x.tracer.const(5.0)}


@move("radam", "ρ is never 5", threshold=("given", "five"),
      when=lambda at: at.values["threshold"] == 5 and _never_five(at))  # fmt: skip
def leave_threshold(x: MoveInput) -> Maps:
    return {}
