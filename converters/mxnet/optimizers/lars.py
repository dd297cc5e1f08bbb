"""lars (``optimizer/optimizer.py``, ``src/operator/contrib/multi_lars-inl.h``).

Names that end in gamma, beta or bias keep the plain learning rate; decay is that of names that end
in ``_weight`` alone.

``momentum_correction`` multiplies μ by η_t/η_{t−1} where the learning rate has changed. Which tensors
meet that depends on how the class is called: every look-up of the learning rate overwrites η_{t−1},
so that the first call after a change is corrected and no other. No rule of one parameter says that;
the rule here has none of it, and is the class where the learning rate stays or the argument is False.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import MOMENTUM, Arguments, by_index, common, native, split

__all__ = ["ROWS"]


def _lars(a: Arguments) -> dict[str, OptionValue]:
    return {
        "trust": "layer" if a["layer_rate"] else "none",
        "norms": "parts",
        "momentum": "folded" if a["momentum"] != 0 else "none",
        "nesterov": "none",
        "decay": "l2" if a["wd"] != 0 else "none",
        **common(a, "before_decay"),
    }


def _split(
    a: Arguments, params: tuple[str, ...] | None
) -> Sequence[tuple[dict[str, Any], tuple[str, ...] | None, float]]:
    """As every class's, but by name: gamma has no decay, and some names no rate of their own."""
    names: dict[int, str] = by_index(a["param_idx2name"])
    undecayed = {n: 0.0 for n in names.values() if not n.endswith("_weight")}
    out: list[tuple[dict[str, Any], tuple[str, ...] | None, float]] = []
    for made, keys, lr_mult in split({**a, "wd_mult": {**undecayed, **by_index(a["wd_mult"])}}, params):
        made["wd_mult"] = a["wd_mult"]
        if keys is None:
            out.append((made, None, lr_mult))
            continue
        plain = tuple(k for k in keys if _name(k, names).endswith(("gamma", "beta", "bias")))
        fitted = tuple(k for k in keys if k not in plain)
        out += [({**made, "layer_rate": True}, fitted, lr_mult)] if fitted else []
        out += [({**made, "layer_rate": False}, plain, lr_mult)] if plain else []
    return out


def _name(key: str, names: dict[int, str]) -> str:
    """A parameter's name as the class sees it: its index where no table names it."""
    if key in names.values():
        return key
    return names.get(int(key), key) if key.isdigit() else ""


def _check(a: Arguments) -> None:
    if a["rescale_grad"] < 0:
        # The class would subtract ‖g‖ from λ‖w‖.
        raise HyperparameterError(
            f"mxnet:lars: argument 'rescale_grad' expected a number from 0 on, found {a['rescale_grad']!r}"
        )


ROWS = (
    native(
        "lars",
        "lars",
        # layer_rate: what a parameter's name says, no argument of the class.
        {
            "momentum": 0.0,
            "eta": 0.001,
            "eps": 0.0,
            "momentum_correction": True,
            "layer_rate": True,
        },
        class_name="LARS",
        options=_lars,
        links={**MOMENTUM, "trust_coefficient": Link("eta"), "eps": Link("eps")},
        slots=(("mom", "momentum_buffer"),),
        variants=tuple({"momentum": m, "layer_rate": r} for m in (0.0, 0.9) for r in (True, False)),
        split=_split,
        validate=_check,
        note="with momentum_correction (the default) the first call after a change of the learning rate, "
        "and no other, has its momentum multiplied by η_t/η_{t−1}; the rule leaves it out; "
        "with multi_precision both norms are of squares in float16, which vanish below 2⁻¹² and overflow above 255",
    ),
)
