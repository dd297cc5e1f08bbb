"""What every Keras optimizer has (``keras/src/optimizers/base_optimizer.py``).

The order of an update: the gradient is divided by ``loss_scale_factor``, then clipped by one of
``clipnorm``, ``global_clipnorm``, ``clipvalue``; the parameter is decayed, ``w − w·λ·η``, in every
optimizer, with the current learning rate; then the optimizer's own step follows.

| argument | a rule's |
|---|---|
| ``weight_decay`` | option ``decay``, always ``decoupled``; None and 0 are off |
| ``clipvalue`` | option ``clip``; decay never joins the gradient, so ``before_decay`` says it all |
| ``loss_scale_factor`` | option ``rescale``; ``rescale_grad`` is its inverse |
| ``clipnorm`` | refused |
| ``global_clipnorm`` | refused |
| ``use_ema``, ``ema_momentum``, ``ema_overwrite_frequency`` | refused |
| ``gradient_accumulation_steps`` | refused |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optexport.dialects import Link, Native
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

__all__ = ["BASE", "LINKS", "Arguments", "KerasNative", "common", "native", "variable_order"]

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
}
# Arguments that no rule says yet: at anything but these values they are refused.
_REFUSED = ("clipnorm", "global_clipnorm", "use_ema", "gradient_accumulation_steps")


def _inverse(x: float) -> float:
    return 1.0 / x


LINKS: Mapping[str, Link] = {
    "lr": Link("learning_rate"),
    "weight_decay": Link("weight_decay"),
    "clip_gradient": Link("clipvalue"),
    "rescale_grad": Link("loss_scale_factor", _inverse, _inverse),
}


@dataclass(frozen=True)
class KerasNative(Native):
    """A Keras optimizer.

    blocks: its variables after ``iteration`` and ``learning_rate``, by the framework's slot names:
        blocks follow one another, and a block holds its slots parameter by parameter; see
        `variable_order`. Empty: all slots in one block.
    once: slots that the whole optimizer has once, after all blocks.
    """

    blocks: tuple[tuple[str, ...], ...] = ()
    once: tuple[str, ...] = ()


def common(a: Arguments) -> dict[str, OptionValue]:
    """The options that every family has, ``decay`` included."""
    return {
        "maximize": False,
        "rescale": a["loss_scale_factor"] is not None,
        "clip": "before_decay" if a["clipvalue"] else "none",
        "scalars": "float64",
        "decay": "decoupled" if a["weight_decay"] else "none",
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
    `common` is added. variants: its own; decay, clipping and loss scaling are added.
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
        slots=slots,
        variants=tuple(
            {**v, "weight_decay": decay, "clipvalue": clip, "loss_scale_factor": scale}
            for v in variants
            for decay in (off, 1.0)
            for clip in (None, 1.0)
            for scale in (None, 2.0)
        ),
        aliases={"lr": "learning_rate"},
        inert=frozenset({"name"}),
        validate=check,
        **fields,
    )


def _check(name: str, a: Arguments) -> None:
    for argument in _REFUSED:
        if a[argument] != BASE[argument]:
            raise HyperparameterError(
                f"keras:{name}: argument {argument!r} expected {BASE[argument]!r}, found {a[argument]!r}; "
                "no rule says what it does"
            )
    if a["loss_scale_factor"] == 0:
        raise HyperparameterError(
            f"keras:{name}: argument 'loss_scale_factor' expected a number other than 0, found 0"
        )


def variable_order(entry: KerasNative, arguments: Arguments, count: int) -> list[tuple[int | None, str]]:
    """``optimizer.variables`` after ``iteration`` and ``learning_rate``: (parameter's place, slot).

    arguments: complete. count: number of parameters. The place is None for a slot that the whole
    optimizer has once. Slots that the rule at these arguments does not have are left out.
    """
    roles = set(entry.rule(arguments).slot_names)
    has = [name for name, role in entry.slots if role in roles]
    blocks = entry.blocks or (tuple(n for n in has if n not in entry.once),)
    own: list[tuple[int | None, str]] = [
        (place, slot) for block in blocks for place in range(count) for slot in block if slot in has
    ]
    return own + [(None, slot) for slot in entry.once if slot in has]
