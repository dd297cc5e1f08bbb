"""Moves of what stands around a rule, in every family: clipping by norm, accumulation, loss scaling,
Lookahead, averages."""

from __future__ import annotations

from ..ir import FLOAT64, floor, where
from ..rules import families
from .moves import ANY, Maps, MoveInput, Situation, move

__all__: list[str] = []

INF = float("inf")
_FINITE = "every gradient is finite"


@move("*", "an infinite bound of the norm is none", clip_norm=(ANY, "none"),
      when=lambda at: at.values["max_norm"] == INF)  # fmt: skip
def drop_open_norm(x: MoveInput) -> Maps:
    return {}


@move("*", "clipping by norm is dropped", clip_norm=(ANY, "none"), level="lossy",
      when=lambda at: at.values["max_norm"] != INF,
      dropped="max_norm {max_norm} (clip gradients by their norm before they reach the optimizer)")  # fmt: skip
def drop_norm(x: MoveInput) -> Maps:
    return {}


for _from, _to in (("global", "global_strict"), ("global_strict", "global")):

    @move("*", "finite gradients have a finite norm", clip_norm=(_from, _to), level="conditional",
          condition=_FINITE)  # fmt: skip
    def finite_norm(x: MoveInput) -> Maps:
        return {}


for _kind in ("tensor", "global"):

    @move("*", "no ε is ε = 0", clip_norm=(_kind, f"{_kind}_eps"))
    def add_norm_eps(x: MoveInput) -> Maps:
        return {"hyper:max_norm_eps": x.tracer.const(0.0)}

    @move("*", "ε = 0 is no ε", clip_norm=(f"{_kind}_eps", _kind),
          when=lambda at: at.values["max_norm_eps"] == 0)  # fmt: skip
    def drop_norm_eps(x: MoveInput) -> Maps:
        return {}

    @move("*", "ε beside the norm is dropped", clip_norm=(f"{_kind}_eps", _kind), level="lossy",
          when=lambda at: at.values["max_norm_eps"] != 0,
          dropped="{max_norm_eps} added to the norm (the factor changes by up to ε/{max_norm})")  # fmt: skip
    def lose_norm_eps(x: MoveInput) -> Maps:
        return {}


def _counts_calls(at: Situation) -> bool:
    """Whether the step counts the calls that accumulate."""
    return at.options["overflow"] == "none"


@move(
    "*", "the mean so far is the sum over its count", accumulate=("mean", "running_mean"), when=_counts_calls
)
def to_running_mean(x: MoveInput) -> Maps:
    k = x.hyper("accumulation_steps")
    n = x.step - floor(x.step / k) * k
    return {"slot:accumulated_grad": x.slot("accumulated_grad") / where(n.equals(0.0), 1.0, n)}


@move(
    "*", "the sum is the mean so far times its count", accumulate=("running_mean", "mean"), when=_counts_calls
)
def to_sum(x: MoveInput) -> Maps:
    k = x.hyper("accumulation_steps")
    return {"slot:accumulated_grad": x.slot("accumulated_grad") * (x.step - floor(x.step / k) * k)}


@move("*", "one call makes an update", accumulate=(ANY, "none"), drops=("accumulated_grad",),
      when=lambda at: at.values["accumulation_steps"] == 1)  # fmt: skip
def drop_single(x: MoveInput) -> Maps:
    return {}


@move("*", "accumulation is dropped", accumulate=(ANY, "none"), drops=("accumulated_grad",), level="lossy",
      when=lambda at: at.values["accumulation_steps"] != 1 and _counts_calls(at),
      dropped="gradients since the last update; accumulation over {accumulation_steps} calls (hand over what "
              "they make together)")  # fmt: skip
def drop_accumulation(x: MoveInput) -> Maps:
    return {"step": floor(x.step / x.hyper("accumulation_steps"))}


_COUNTERS = ("updates", "bad_updates", "loss_scale", "growth_tracker")
_SCALES = {
    "skip": _FINITE,
    "skip_limited": _FINITE,
    "static": f"{_FINITE} and was divided by {{loss_scale}} before",
    "dynamic": f"{_FINITE} and was divided by the loss scale before",
}


def _counted(at: Situation) -> bool:
    return "updates" in families()[at.family].rule(**at.options).slot_names


def _no_overflow(kind: str, condition: str) -> None:
    @move("*", f"finite gradients are not skipped ({kind})", overflow=(kind, "none"), drops=_COUNTERS,
          level="conditional", condition=condition, when=_counted)  # fmt: skip
    def drop_overflow(x: MoveInput) -> Maps:
        return {"step": x.tracer.slot("updates", FLOAT64)}

    @move("*", f"finite gradients are not skipped ({kind})", overflow=(kind, "none"), drops=_COUNTERS,
          level="conditional", condition=condition, when=lambda at: not _counted(at))  # fmt: skip
    def drop_uncounted_overflow(x: MoveInput) -> Maps:
        return {}


for _kind, _condition in _SCALES.items():
    _no_overflow(_kind, _condition)


@move("*", "Lookahead is dropped", lookahead=("sync", "none"), drops=("slow_weights",), level="lossy",
      dropped="slow_weights (the target has no Lookahead)")  # fmt: skip
def drop_lookahead(x: MoveInput) -> Maps:
    return {}


@move("*", "the average is dropped", average=(ANY, "none"), drops=("weight_average",), level="lossy",
      dropped="weight_average (the target keeps no average of the parameter)")  # fmt: skip
def drop_average(x: MoveInput) -> Maps:
    return {}


for _from, _to in (("ema", "ema_from_start"), ("ema_from_start", "ema")):

    @move("*", "after the first update its exception is idle", average=(_from, _to), level="conditional",
          when=lambda at: (at.step or 0) > 0 and at.options["accumulate"] == "none" and _counts_calls(at),
          condition="at least one update was made")  # fmt: skip
    def past_first_average(x: MoveInput) -> Maps:
        return {}
