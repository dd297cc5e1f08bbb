"""What every Keras optimizer has (``keras/src/optimizers/base_optimizer.py``).

The order of an update: the gradient is divided by ``loss_scale_factor``, accumulated, then clipped by
one of ``clipnorm``, ``global_clipnorm``, ``clipvalue``; the parameter is decayed, ``w − w·λ·η``, in
every optimizer, with the current learning rate; then the optimizer's own step follows. After every
call, one that only accumulates included, the average takes in the parameter, and may overwrite it.
``iteration`` counts calls.

| argument | a rule's |
|---|---|
| ``weight_decay`` | option ``decay``, always ``decoupled``; None and 0 are off |
| ``clipvalue`` | option ``clip``; decay never joins the gradient, so ``before_decay`` says it all |
| ``loss_scale_factor`` | option ``rescale``; ``rescale_grad`` is its inverse |
| ``clipnorm`` | option ``clip_norm``: ``tensor`` |
| ``global_clipnorm`` | option ``clip_norm``: ``global_strict``; the norm is that of all gradients |
| ``use_ema``, ``ema_momentum``, ``ema_overwrite_frequency`` | option ``average``: ``ema`` or ``ema_overwrite`` |
| ``gradient_accumulation_steps`` | option ``accumulate``: ``mean`` |
| ``initial_scale``, ``dynamic_growth_steps`` | option ``overflow``: ``dynamic`` |

The last two are a ``LossScaleOptimizer``'s around it; ``initial_scale`` is None where there is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optexport.dialects import Link, Native
from optexport.errors import HyperparameterError
from optexport.rules import Rule, families
from optexport.rules.base import OptionValue

__all__ = [
    "BASE",
    "LINKS",
    "SCALE_ROLES",
    "SHARED_ROLES",
    "Arguments",
    "KerasNative",
    "common",
    "native",
    "rule_for",
    "slots_of",
    "variable_order",
]

Arguments = Mapping[str, Any]

BASE: Arguments = {
    "learning_rate": 0.001,
    "weight_decay": None,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "initial_scale": None,
    "dynamic_growth_steps": 2000,
}
_CLIPS = ("clipnorm", "global_clipnorm", "clipvalue")
# The variables of what every optimizer may have stand before its own, a block each.
_SHARED = (("average", "weight_average"), ("gradient_accumulator", "accumulated_grad"))
SHARED_ROLES = frozenset(role for _, role in _SHARED)
# Numbers of a LossScaleOptimizer around it, and the inner optimizer's count, which leaves out skipped calls.
_SCALE = (("step_counter", "growth_tracker"), ("dynamic_scale", "loss_scale"), ("iteration", "updates"))
SCALE_ROLES = frozenset(role for _, role in _SCALE)


@dataclass(frozen=True)
class _Norm(Link):
    """The bound of a norm, in the argument that says which norm."""

    def read(self, arguments: Arguments) -> Any:
        return float(arguments["clipnorm"] or arguments["global_clipnorm"])

    def write(self, arguments: dict[str, Any], value: float) -> None:
        arguments["clipnorm" if arguments["clipnorm"] else "global_clipnorm"] = value


def _inverse(x: float) -> float:
    return 1.0 / x


LINKS: Mapping[str, Link] = {
    "lr": Link("learning_rate"),
    "weight_decay": Link("weight_decay"),
    "clip_gradient": Link("clipvalue"),
    "rescale_grad": Link("loss_scale_factor", _inverse, _inverse),
    "max_norm": _Norm("clipnorm"),
    "average_decay": Link("ema_momentum"),
    "average_period": Link("ema_overwrite_frequency", float, int),
    "accumulation_steps": Link("gradient_accumulation_steps", float, int),
    "loss_scale": Link("initial_scale"),
    "growth_interval": Link("dynamic_growth_steps", float, int),
}
# Settings of what every optimizer has, each of which is another rule.
_EACH: Sequence[Sequence[Arguments]] = (
    tuple({c: 1.0 if c == on else None for c in _CLIPS} for on in (None, *_CLIPS)),
    ({"loss_scale_factor": None}, {"loss_scale_factor": 2.0}),
    ({"gradient_accumulation_steps": None}, {"gradient_accumulation_steps": 2}),
    (
        {"use_ema": False, "ema_overwrite_frequency": None},
        {"use_ema": True, "ema_overwrite_frequency": None},
        {"use_ema": True, "ema_overwrite_frequency": 2},
    ),
)
# Loss scaling is found without any of the others: nobody else has both, and each would double the list.
_NONE = tuple(settings[0] for settings in _EACH)


@dataclass(frozen=True)
class KerasNative(Native):
    """A Keras optimizer.

    blocks: its variables after ``iteration`` and ``learning_rate``, by the framework's slot names:
        blocks follow one another, and a block holds its slots parameter by parameter; see
        `variable_order`. Empty: all slots in one block.
    once: slots that the whole optimizer has once, after all blocks.
    placeholders: slots that a parameter has as an integer 0 where its rule has none.
    """

    blocks: tuple[tuple[str, ...], ...] = ()
    once: tuple[str, ...] = ()
    placeholders: frozenset[str] = frozenset()


def common(a: Arguments) -> dict[str, OptionValue]:
    """The options that every family has, ``decay`` included."""
    return {
        "maximize": False,
        "rescale": a["loss_scale_factor"] is not None,
        "clip": "before_decay" if a["clipvalue"] else "none",
        "scalars": "float64",
        "decay": "decoupled" if a["weight_decay"] else "none",
        "clip_norm": "tensor" if a["clipnorm"] else "global_strict" if a["global_clipnorm"] else "none",
        "accumulate": "mean" if a["gradient_accumulation_steps"] else "none",
        "overflow": "none" if a["initial_scale"] is None else "dynamic",
        "average": ("ema_overwrite" if a["ema_overwrite_frequency"] else "ema") if a["use_ema"] else "none",
    }


def native(
    name: str,
    family: str,
    arguments: Arguments,
    options: Callable[[Arguments], Mapping[str, OptionValue]],
    *,
    links: Mapping[str, Link],
    slots: Sequence[tuple[str, str]],
    variants: Sequence[Arguments] = ({},),
    **fields: Any,
) -> KerasNative:
    """The record of one optimizer.

    arguments: its own, and those of `BASE` whose default it changes. options: the family's own;
    `common` is added. variants: its own; decay and what every optimizer has are added.
    """
    validate = fields.pop("validate", lambda _: None)
    off = 0.0 if "weight_decay" in arguments else None  # an optimizer with a decay of its own refuses None

    def check(a: Arguments) -> None:
        _check(name, a)
        validate(a)

    return KerasNative(
        "keras",
        name,
        family,
        arguments={**BASE, **arguments},
        options=lambda a: {**common(a), **options(a)},
        links={**LINKS, **links},
        slots=(*_SCALE, *_SHARED, *slots),
        variants=tuple(
            {k: value for setting in (v, {"weight_decay": decay}, *each) for k, value in setting.items()}
            for v in variants
            for decay in (off, 1.0)
            for each in (*itertools.product(*_EACH), (*_NONE, {"initial_scale": 1.0}))
        ),
        aliases={"lr": "learning_rate"},
        inert=frozenset({"name"}),
        validate=check,
        **fields,
    )


def _check(name: str, a: Arguments) -> None:
    clips = [c for c in _CLIPS if a[c] is not None]
    if len(clips) > 1:
        raise HyperparameterError(
            f"keras:{name}: expected one of {', '.join(_CLIPS)}, found {', '.join(clips)}"
        )
    for argument in clips:
        if a[argument] < 0:
            # Keras ignores a negative bound.
            raise HyperparameterError(
                f"keras:{name}: argument {argument!r} expected a number above 0, found {a[argument]!r}"
            )
    steps = a["gradient_accumulation_steps"]
    if steps is not None and steps < 2:
        raise HyperparameterError(
            f"keras:{name}: argument 'gradient_accumulation_steps' expected None or a whole number from 2 "
            f"on, found {steps!r}"
        )
    if a["initial_scale"] is not None and a["loss_scale_factor"] is not None:
        raise HyperparameterError(
            f"keras:{name}: expected one of loss_scale_factor and initial_scale (of a LossScaleOptimizer, which sets "
            "the factor to None), found both"
        )
    if a["loss_scale_factor"] == 0:
        raise HyperparameterError(
            f"keras:{name}: argument 'loss_scale_factor' expected a number other than 0, found 0"
        )


def variable_order(
    entry: KerasNative, arguments: Arguments, parameters: int | Sequence[Collection[str]]
) -> list[tuple[int | None, str]]:
    """``optimizer.variables`` after ``iteration`` and ``learning_rate``: (parameter's place, slot).

    arguments: complete. parameters: how many there are, or the slots of each where those follow from
    its shape (see `slots_of`). The place is None for a slot that the whole optimizer has once. Slots
    that the rule at these arguments does not have, and those of a LossScaleOptimizer around it, are
    left out.
    """
    if isinstance(parameters, int):
        parameters = [slots_of(entry, entry.rule(arguments))] * parameters
    names = [name for name, _ in entry.slots]
    shared = tuple((name,) for name, _ in _SHARED)
    apart = {*entry.once, *(name for name, _ in (*_SHARED, *_SCALE))}
    rest = tuple(n for n in names if n not in apart)
    blocks = (*shared, *(entry.blocks or (rest,)))
    own: list[tuple[int | None, str]] = [
        (place, slot)
        for block in blocks
        for place, has in enumerate(parameters)
        for slot in block
        if slot in has
    ]
    at_all = slots_of(entry, entry.rule(arguments))
    return own + [(None, slot) for slot in entry.once if slot in at_all]


def slots_of(entry: KerasNative, rule: Rule) -> list[str]:
    """Keras' names of the slots that a rule has, in Keras' order, placeholders included."""
    return [name for name, role in entry.slots if role in rule.slot_names or name in entry.placeholders]


def rule_for(entry: KerasNative, arguments: Arguments, shape: tuple[int, ...]) -> Rule:
    """The rule of a parameter of this shape, at complete arguments."""
    rule, family = entry.rule(arguments), families()[entry.family]
    return rule if family.fit is None else family.rule(**family.fit(rule.options, shape))
