"""adan, fromage, noisy_sgd, optimistic_gradient_descent, optimistic_adam_v2 (``optax/_src/alias.py``)."""

from __future__ import annotations

from typing import Any

from optexport.dialects import Link
from optexport.rules.base import OptionValue

from .common import EMPTY, RATE, Arguments, Constant, fields, native

__all__ = ["ROWS"]

# True before the first update alone; a state with nothing in it needs no file.
_OPTIMISTIC: dict[str, Any] = {"is_initial_step": Constant(False), "previous_gradient": "previous_gradient"}
_OPTIMISM = {"optimism_gain": Link("alpha"), "optimism": Link("beta")}


def _adan(_: Arguments) -> dict[str, OptionValue]:
    return {}


def _gradient(_: Arguments) -> dict[str, OptionValue]:
    return {"direction": "gradient", "decay": "none"}


def _adam(a: Arguments) -> dict[str, OptionValue]:
    return {"direction": "nadam" if a["nesterov"] else "adam", "decay": "none"}


def _plain(_: Arguments) -> dict[str, OptionValue]:
    return {"decay": "none"}


ROWS = (
    native(
        "adan",
        "adan",
        {
            "b1": 0.98,
            "b2": 0.92,
            "b3": 0.99,
            "eps": 1e-8,
            "eps_root": 1e-8,
            "weight_decay": 0.0,
            "mask": None,
        },
        _adan,
        state=lambda _: (fields("m v n g", t="#count"), EMPTY, EMPTY),
        links={
            "beta1": Link("b1"),
            "beta2": Link("b2"),
            "beta3": Link("b3"),
            "eps": Link("eps"),
            "eps_root": Link("eps_root"),
        },
        slots=(("m", "exp_avg"), ("v", "exp_avg_diff"), ("n", "exp_avg_sq"), ("g", "previous_grad")),
        transform="scale_by_adan",
    ),
    native(
        "optimistic_gradient_descent",
        "optimistic",
        {"alpha": 1.0, "beta": 1.0},
        _gradient,
        state=lambda _: (_OPTIMISTIC, EMPTY),
        links=_OPTIMISM,
        slots=(("previous_gradient", "previous_grad"),),
    ),
    native(
        "optimistic_adam_v2",
        "optimistic",
        {
            "alpha": 1.0,
            "beta": 1.0,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "eps_root": 0.0,
            "mu_dtype": None,
            "nesterov": True,
        },
        _adam,
        state=lambda _: (fields("count mu nu"), _OPTIMISTIC, EMPTY),
        links={
            **_OPTIMISM,
            "beta1": Link("b1"),
            "beta2": Link("b2"),
            "eps": Link("eps"),
            "eps_root": Link("eps_root"),
        },
        slots=(("mu", "exp_avg"), ("nu", "exp_avg_sq"), ("previous_gradient", "previous_grad")),
        variants=({"nesterov": True}, {"nesterov": False}),
    ),
    native(
        "fromage",
        "fromage",
        {"min_norm": 1e-6},
        _plain,
        state=lambda _: (EMPTY, RATE, RATE),
        links={"min_norm": Link("min_norm")},
    ),
    native(
        "noisy_sgd",
        "noisy_sgd",
        {"eta": 0.01, "gamma": 0.55, "key": 0},
        _plain,
        state=lambda _: ({"count": "#count", "rng_key": Constant(None)}, EMPTY),
        links={"noise_variance": Link("eta"), "noise_decay": Link("gamma")},
        note="its noise comes from a random key, which is not carried: a port goes on with noise of its own",
    ),
)
