"""Moves of the schedule-free family."""

from __future__ import annotations

from .moves import Maps, MoveInput, move

__all__: list[str] = []

_STAYS = "the learning rate was {lr} from the first update on and stays so, without warmup"


@move(
    "schedule_free",
    "with one learning rate all updates weigh the same",
    weights=("lr", "step"),
    level="conditional",
    when=lambda at: at.options["warmup"] == "none" and at.values["lr"] > 0,
    condition=_STAYS,
    drops=("weight_total", "max_lr"),
)
def to_steps(x: MoveInput) -> Maps:
    return {}


@move(
    "schedule_free",
    "Σq = t·ηʳ",
    weights=("step", "lr"),
    level="conditional",
    when=lambda at: at.options["warmup"] == "none" and at.values["lr"] > 0,
    condition=_STAYS,
)
def to_rates(x: MoveInput) -> Maps:
    power = x.tracer.const(2.0)
    return {
        "slot:weight_total": x.step * x.hyper("lr") ** power,
        "slot:max_lr": x.hyper("lr"),
        "hyper:weight_lr_power": power,
    }


@move("schedule_free", "no warmup is one over one update", warmup=("none", "steps"))
def add_warmup(x: MoveInput) -> Maps:
    return {"hyper:warmup_steps": x.tracer.const(1.0)}


@move("schedule_free", "a warmup over one update is over", warmup=("none", "late"),
      when=lambda at: at.step is not None and at.step >= 1)  # fmt: skip
def add_late_warmup(x: MoveInput) -> Maps:
    return {"hyper:warmup_steps": x.tracer.const(1.0)}


for _kind in ("steps", "late"):

    @move(
        "schedule_free",
        "the warmup is over",
        warmup=(_kind, "none"),
        when=lambda at: at.step is not None and at.step >= at.values["warmup_steps"],
    )
    def past_warmup(x: MoveInput) -> Maps:
        return {}
