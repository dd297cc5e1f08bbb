"""Moves of the L-BFGS family."""

from __future__ import annotations

from ..ir import FLOAT64
from .moves import Maps, MoveInput, Situation, move

__all__: list[str] = []

_STARTED = "at least one update was made"


def _started(at: Situation) -> bool:
    return at.step != 0  # None: no state is at hand, the condition says it


@move("lbfgs", "w_prev = w − s", last=("step", "param"), drops=("last_step",), level="conditional",
      condition="the last update moved the parameter")  # fmt: skip
def step_to_param(x: MoveInput) -> Maps:
    return {"slot:last_param": x.param - x.slot("last_step")}


@move("lbfgs", "s = w − w_prev", last=("param", "step"), drops=("last_param",))
def param_to_step(x: MoveInput) -> Maps:
    return {"slot:last_step": x.param - x.slot("last_param")}


@move("lbfgs", "where every pair is curved every pair is kept", pairs=("curved", "every"), level="conditional",
      condition="yᵀs > {least_curvature} from now on", when=_started)  # fmt: skip
def keep_every(x: MoveInput) -> Maps:
    return {}


@move("lbfgs", "where every pair is curved every pair is kept", pairs=("every", "curved"), level="conditional",
      condition="yᵀs > 1e-10 from now on", when=_started)  # fmt: skip
def keep_curved(x: MoveInput) -> Maps:
    return {"hyper:least_curvature": x.tracer.const(1e-10)}


_FIRST = ("l1", "l2", "gradient")
for _from in _FIRST:
    for _to in _FIRST:
        if _from != _to:

            @move("lbfgs", "only the first update has a length of its own", first=(_from, _to),
                  level="conditional", when=_started, condition=_STARTED)  # fmt: skip
            def past_first(x: MoveInput) -> Maps:
                return {}


@move("lbfgs", "without a stop every gradient makes an update", stop=("tolerance", "never"), level="conditional",
      drops=("iterations",),
      condition="some |g| > {tolerance_grad} and gᵀr ≥ {tolerance_change} in every update")  # fmt: skip
def never_stops(x: MoveInput) -> Maps:
    return {"step": x.tracer.slot("iterations", FLOAT64)}


@move("lbfgs", "above the tolerances nothing stops", stop=("never", "tolerance"), level="conditional",
      condition="some |g| > 1e-7 and gᵀr ≥ 1e-9 in every update")  # fmt: skip
def may_stop(x: MoveInput) -> Maps:
    return {
        "slot:iterations": x.step,
        "hyper:tolerance_grad": x.tracer.const(1e-7),
        "hyper:tolerance_change": x.tracer.const(1e-9),
    }
