"""Muon (``contrib/_muon.py``): matrices by Newton–Schulz, everything else by Adam, nadamw by default."""

from __future__ import annotations

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, Constant, State, fields, native

__all__ = ["ROWS"]

# Arguments that no rule says yet: at anything but these values they are refused.
_REFUSED = {
    "adaptive": False,
    "preconditioning": "frobenius",
    "adam_learning_rate": None,
    "muon_weight_dimension_numbers": None,
}
_STANDARD = (3.4445, -4.7750, 2.0315)


def _muon(a: Arguments) -> dict[str, OptionValue]:
    return {
        "shape": "wide",
        "others": "nadam" if a["nesterov"] else "adam",
        "momentum": "corrected",
        "nesterov": "lookahead" if a["nesterov"] else "none",
        "norm": "added",
        "precision": "tensor",
        "scale": "columns" if a["consistent_rms"] is None else "rms",
        "decay": "decoupled" if a["weight_decay"] or a["adam_weight_decay"] else "none",
        "ns_steps": int(a["ns_steps"]),
    }


def _state(a: Arguments) -> State:
    """One state for the matrices, one for the rest; each has masked nodes where the other works."""
    matrices = (fields("count mu ns_coeffs", ns_coeffs=Constant(a["ns_coeffs"])), EMPTY, EMPTY, EMPTY)
    rest = (fields("count mu nu"), EMPTY, EMPTY)
    return {
        "inner_states": {
            "muon": {"inner_state": matrices},
            "adam": {"inner_state": rest},
        }
    }


def _check(a: Arguments) -> None:
    for name, value in _REFUSED.items():
        if a[name] != value:
            raise HyperparameterError(
                f"optax:muon: argument {name!r} expected {value!r}, found {a[name]!r}; no rule says what it does"
            )
    coefficients = a["ns_coeffs"]
    if (
        not isinstance(coefficients, tuple | list)
        or [isinstance(c, int | float) for c in coefficients] != [True] * 3
    ):
        raise HyperparameterError(
            f"optax:muon: argument 'ns_coeffs' expected three numbers, found {coefficients!r}; "
            "no rule has other coefficients at each iteration"
        )


ROWS = (
    native(
        "muon",
        "muon",
        {
            "ns_coeffs": _STANDARD,
            "ns_steps": 5,
            "beta": 0.95,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "weight_decay_mask": None,
            "mu_dtype": None,
            "nesterov": True,
            "adam_b1": 0.9,
            "adam_b2": 0.999,
            "adam_eps_root": 0.0,
            "adam_weight_decay": 0.0,
            "consistent_rms": None,
            **_REFUSED,
        },
        _muon,
        state=_state,
        links={
            "momentum": Link("beta"),
            "eps": Link("eps"),
            "adam_eps": Link("eps"),
            "ns_a": Link("ns_coeffs[0]"),
            "ns_b": Link("ns_coeffs[1]"),
            "ns_c": Link("ns_coeffs[2]"),
            "rms_scale": Link("consistent_rms"),
            "beta1": Link("adam_b1"),
            "beta2": Link("adam_b2"),
            "adam_eps_root": Link("adam_eps_root"),
            "adam_weight_decay": Link("adam_weight_decay"),
        },
        slots=(("mu", "momentum_buffer"), ("nu", "exp_avg_sq")),
        variants=tuple(
            {"nesterov": nesterov, "consistent_rms": rms} for nesterov in (True, False) for rms in (None, 0.2)
        ),
        validate=_check,
    ),
)
