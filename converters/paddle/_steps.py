"""How many updates a state has seen, out of the powers that it keeps; and slots that nothing reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from optexport.dialects import Native
from optexport.errors import CheckpointError
from optexport.state.native import NativeState

from ._keys import POWERS

__all__ = ["arrange", "power"]

# Powers are multiplied up, one update at a time; further than this nothing is looked for.
_MOST = 2_000_000
_CLEAR = 0.4  # of one update: what rounding may have moved a power that is none exactly


def arrange(native: NativeState, entry: Native, given: Mapping[str, Any], where: str) -> NativeState:
    """``native`` with the step in place of the powers, and without slots that the optimizer never reads.

    given: arguments that the file does not hold; the powers are of their β1 and β2.

    Raises:
        CheckpointError: elements of a power differ, or a slot that nothing reads is not 0.
    """
    held = {k for g in native.groups for k in g.arguments}
    known = {k: v for g in native.groups[:1] for k, v in g.arguments.items() if k in entry.arguments}
    given = {entry.aliases.get(k, k): v for k, v in given.items()}
    arguments = entry.complete({**known, **given})
    out = replace(native, slots={}, steps=dict(native.steps), warnings=list(native.warnings))
    assumed = [f"{k}={v}" for k, v in entry.arguments.items() if k not in held and k not in given]
    told = (
        "the file holds no hyperparameters but the learning rate; assumed "
        f"{entry.qualified}'s defaults {', '.join(assumed)}"
    )
    if held and assumed and told not in out.warnings:
        out.warnings.append(told)
    reasons = {}
    for key, own in native.slots.items():
        at = f"{where}: parameter {key!r}"
        powers = {s: _number(own[s], f"{at}: slot {s!r}") for s in own if s in POWERS}
        if powers:
            out.steps[key], reasons[key] = _counted(powers, arguments)
            out.worked_out = True
        out.slots[key] = _read(own, entry, arguments, at)
    told_why = list(dict.fromkeys(r for r in reasons.values() if r))
    out.warnings += [r for r in told_why if r not in out.warnings]
    return out


def _read(
    own: Mapping[str, np.ndarray], entry: Native, arguments: Mapping[str, Any], at: str
) -> dict[str, np.ndarray]:
    """The slots that the rule reads, and any that are no business of this optimizer."""
    slots = {s: a for s, a in own.items() if s not in POWERS}
    if entry.family == "radam":
        slots.pop("rho", None)  # follows from the step
    if entry.family == "nadam" and "mu_product" in slots:
        slots["mu_product"] = _number(slots["mu_product"], f"{at}: slot 'mu_product'")
    if entry.family == "rmsprop" and not arguments["centered"] and "mean_grad" in slots:
        if np.any(slots["mean_grad"]):
            raise CheckpointError(
                f"{at}: slot 'mean_grad' is not 0, and {entry.qualified} writes it only where it is centered; give "
                "--hyper centered=true"
            )
        del slots["mean_grad"]
    return slots


def _number(array: np.ndarray, where: str) -> np.ndarray:
    """The one number that Paddle keeps in every element, as an array without axes."""
    if array.size == 0 or array.dtype.kind != "f":
        raise CheckpointError(f"{where}: expected one number, found {array.dtype} {list(array.shape)}")
    flat = array.reshape(-1)
    if not (flat == flat[0]).all():
        raise CheckpointError(
            f"{where}: expected one number in every element, found several; the file is damaged"
        )
    return flat[:1].reshape(())


def _counted(powers: Mapping[str, np.ndarray], arguments: Mapping[str, Any]) -> tuple[int | None, str]:
    """Completed updates as all powers say them; else None and the reason."""
    found: dict[str, int] = {}
    strange = []
    for slot, value in powers.items():
        base, start = POWERS[slot]
        name, beta = ("", base) if isinstance(base, float) else (base, float(arguments[base]))
        count = _count(value, beta, start)
        if count is not None:
            found[slot] = count
        elif np.finfo(value.dtype).tiny <= value < 1:
            strange.append((slot, name, beta, float(value), start))
    if not found:
        return (
            None,
            "the powers of the betas say no step: they have run out, or are of other betas; give --step N",
        )
    counts = set(found.values())
    if len(counts) > 1:
        said = ", ".join(f"{s} says {n}" for s, n in found.items())
        return None, f"the powers disagree on the step ({said}); give the betas with --hyper, or --step N"
    (step,) = counts
    for slot, name, beta, number, start in strange:
        other = number ** (1 / (step + start)) if step + start else 0.0
        return None, (
            f"{slot} is {number:.9g}, no power of {name}={beta:g}; after the {step} updates that "
            f"{', '.join(found)} says, it is that of {name}={other:.6g}; give it with --hyper {name}=…, or --step N"
        )
    return step, ""


def _count(value: np.ndarray, beta: float, start: int) -> int | None:
    """n with value = βⁿ⁺ˢᵗᵃʳᵗ, multiplied up as Paddle does; None where there is none, or it has run out."""
    number = float(value)
    if not 0 < beta < 1 or not np.finfo(value.dtype).tiny <= number <= 1:
        return None
    about = math.log(number) / math.log(float(np.float32(beta))) - start
    if not -0.5 < about < _MOST:
        return None
    for factor in (beta, float(np.float32(beta))):
        products = power(value.dtype, beta, start, math.ceil(about * 1.001) + 4, factor)
        (same,) = np.nonzero(products == value)
        if len(same) == 1:
            return int(same[0])
    near = abs(about - round(about))
    # Every product rounds by half a unit; where that leaves one step to be meant, it is this one.
    slack = (about + 2) * float(np.finfo(value.dtype).eps) / -math.log(beta)
    return round(about) if near <= slack < _CLEAR else None


def power(dtype: Any, beta: float, start: int, updates: int, factor: float | None = None) -> np.ndarray:
    """βˢᵗᵃʳᵗ and what each update makes of it, rounded to ``dtype`` every time: (updates + 1,)."""
    kind = np.dtype(dtype).type
    terms = np.full(updates + 1, beta if factor is None else factor, kind)
    terms[0] = kind(beta) if start else kind(1)
    return np.asarray(np.multiply.accumulate(terms))
