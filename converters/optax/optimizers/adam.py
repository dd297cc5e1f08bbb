"""Adam, AdamW, AMSGrad (``scale_by_adam``, ``scale_by_amsgrad``).

AMSGrad keeps the maximum of the *corrected* mean square, and corrects nothing afterwards.
``nesterov=True`` is Optax' nadam.
"""

from __future__ import annotations

from optexport.dialects import Link
from optexport.errors import HyperparameterError
from optexport.rules.base import OptionValue

from .common import EMPTY, Arguments, State, fields, native

__all__ = ["ROWS"]

_CORRECTIONS = {(True, True): "both", (True, False): "mean", (False, True): "square", (False, False): "none"}


def _adam(a: Arguments) -> dict[str, OptionValue]:
    return {
        "eps": "outside",
        "eps_root": bool(a["eps_root"]),
        "bias_correction": "both",
        "amsgrad": "none",
        "post_decay": False,
    }


def _amsgrad(a: Arguments) -> dict[str, OptionValue]:
    corrected = bool(a["bias_correction_mu"]), bool(a["bias_correction_nu"])
    return {**_adam(a), "bias_correction": _CORRECTIONS[corrected], "amsgrad": "corrected"}


def _plain(name: str) -> object:
    def check(a: Arguments) -> None:
        if a["nesterov"]:
            raise HyperparameterError(
                f"optax:{name}: argument 'nesterov' expected False, found {a['nesterov']!r}; "
                f"it is optax:n{name}"
            )

    return check


def _adam_state(a: Arguments) -> State:
    return (fields("count mu nu"), EMPTY)


_ARGUMENTS = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0, "mu_dtype": None}
_LINKS = {"beta1": Link("b1"), "beta2": Link("b2"), "eps": Link("eps"), "eps_root": Link("eps_root")}
_SLOTS = (("mu", "exp_avg"), ("nu", "exp_avg_sq"))
_ROOTS = ({"eps_root": 0.0}, {"eps_root": 1.0})

ROWS = (
    native(
        "adam",
        "adam",
        {**_ARGUMENTS, "nesterov": False},
        _adam,
        state=_adam_state,
        links=_LINKS,
        slots=_SLOTS,
        variants=_ROOTS,
        transform="scale_by_adam",
        validate=_plain("adam"),
    ),
    native(
        "adamw",
        "adam",
        {**_ARGUMENTS, "weight_decay": 1e-4, "mask": None, "nesterov": False},
        _adam,
        state=lambda a: (fields("count mu nu"), EMPTY, EMPTY),
        links=_LINKS,
        slots=_SLOTS,
        variants=_ROOTS,
        transform="scale_by_adam",
        validate=_plain("adamw"),
    ),
    native(
        "amsgrad",
        "adam",
        {**_ARGUMENTS, "bias_correction_mu": True, "bias_correction_nu": True},
        _amsgrad,
        state=lambda a: (fields("count mu nu nu_max"), EMPTY),
        links=_LINKS,
        slots=(*_SLOTS, ("nu_max", "max_exp_avg_sq")),
        variants=tuple(
            {**r, "bias_correction_mu": mu, "bias_correction_nu": nu}
            for r in _ROOTS
            for mu, nu in _CORRECTIONS
        ),
        transform="scale_by_amsgrad",
    ),
)
