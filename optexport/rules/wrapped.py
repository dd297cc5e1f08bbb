"""What stands around an update, whatever its rule is, and in which order.

A call goes from the outside in; each line is an option of every family, and idle unless asked for.

    overflow     divide by the loss scale; where a gradient of the step is not finite, do nothing
    average      after the call, average the parameter; now and then overwrite it
    gradient     sign and rescale
    accumulate   collect gradients; only every k-th call goes on
    lookahead    after the update, let slow weights follow
    gradient     centralise, clip by norm, elementwise clip and L2 decay (``common.gradient``)
    rule         the family's own update

So a skipped call changes no slot but those of the loss scale; a call that only accumulates changes the
accumulator and the average (as Keras has it); a norm is that of the accumulated gradient, rescaled.
The rule's step counts updates: calls that were skipped or only accumulated are none. Averages count
updates too, except ``mean``, which counts calls. A scalar slot stands beside every parameter and has
the same value everywhere as long as every parameter has a gradient in every call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..ir import Value, where
from ..transforms import (
    accumulate,
    adapt,
    all_finite,
    count_bad,
    ema,
    lookahead,
    multiple,
    running_mean,
)
from .base import Update
from .common import signed_and_rescaled

__all__ = ["wrapped"]

New = dict[str, Value]


def wrapped(u: Update, rule: Callable[[], Mapping[str, Value]]) -> New:
    """The new values of ``rule``'s update inside what the options put around it.

    rule: traces the family's function on ``u``, whose gradient and step are set here first.
    """
    kind = u.options["overflow"]
    if kind == "none":
        return _averaged(u, rule)
    if kind == "static":
        u.grad = u.grad / u.hyper("loss_scale")
    elif kind == "dynamic":
        u.grad = u.grad / u.slot("loss_scale")
    finite = all_finite(u.grad)
    counted = _Counted(u)
    new = _averaged(u, rule)
    if counted.asked:
        new["updates"] = u.slot("updates") + 1
    if kind != "skip_limited":
        new = {name: where(finite, value, _old(u, name)) for name, value in new.items()}
    else:
        bad = count_bad(finite, u.slot("bad_updates"))
        enough = bad > u.hyper("max_bad_updates")
        new = {n: where(finite, v, where(enough, v, _old(u, n))) for n, v in new.items()}
        new["bad_updates"] = bad
    if kind == "dynamic":
        new["loss_scale"], new["growth_tracker"] = adapt(
            finite,
            u.slot("loss_scale"),
            u.slot("growth_tracker"),
            *(u.hyper(h) for h in ("growth_factor", "backoff_factor", "growth_interval")),
        )
    return new


class _Counted:
    """Calls that were not skipped as the step of everything inside; a slot only where that is read."""

    def __init__(self, u: Update) -> None:
        self.u, self.asked = u, False
        u.count_by(self.count)

    def count(self) -> Value:
        self.asked = True
        return self.u.slot("updates")


def _old(u: Update, name: str) -> Value:
    return u.param if name == "param" else u.slot(name)


def _averaged(u: Update, rule: Callable[[], Mapping[str, Value]]) -> New:
    kind = u.options["average"]
    if kind == "none":
        return _accumulated(u, rule)
    count = u.step if kind == "mean" else None
    new = _accumulated(u, rule)
    average, w = u.slot("weight_average"), new["param"]
    if count is not None:
        return {**new, "weight_average": running_mean(average, w, count)}
    decay = u.hyper("average_decay")
    average = ema(average, w, decay, None if kind == "ema_from_start" else u.step.equals(0.0))
    if kind == "ema_overwrite":
        new["param"] = where(multiple(u.step + 1, u.hyper("average_period")), average, w)
    return {**new, "weight_average": average}


def _accumulated(u: Update, rule: Callable[[], Mapping[str, Value]]) -> New:
    kind = str(u.options["accumulate"])
    if kind == "none":
        return _followed(u, rule)
    steps = u.hyper("accumulation_steps")
    # Gradients are collected as the rule is to see them: nothing is left of sign and factor.
    u.grad = signed_and_rescaled(u)
    u.options = {**u.options, "maximize": False, "rescale": False}
    u.grad, held, updates, done = accumulate(u.grad, u.slot("accumulated_grad"), u.step, steps, kind)
    u.count_by(lambda: done)
    new = {name: where(updates, v, _old(u, name)) for name, v in _followed(u, rule).items()}
    return {**new, "accumulated_grad": held}


def _followed(u: Update, rule: Callable[[], Mapping[str, Value]]) -> New:
    new = dict(rule())
    if u.options["lookahead"] == "sync":
        new["param"], new["slow_weights"] = lookahead(
            new["param"],
            u.slot("slow_weights"),
            u.step + 1,
            u.hyper("sync_period"),
            u.hyper("slow_step_size"),
        )
    return new
