"""optexport: optimizers, and half-finished runs, moved between frameworks without a silent change.

The public names below are all there is; everything is imported on first use, and no framework is
imported unless you run one.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# A checkout keeps `converters/` and `schemas/` beside this folder; a wheel has them inside it. When
# Python finds the checkout's `optexport/` first (current directory), look beside it as well.
_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not os.path.isdir(
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "converters")
) and os.path.isfile(os.path.join(_root, "converters", "__init__.py")):
    __path__.append(_root)

_HOME = {
    "Checked": "parity.mine",
    "CheckpointError": "errors",
    "Group": "specs",
    "HyperparameterError": "errors",
    "ModelError": "errors",
    "NamingError": "errors",
    "NativeCall": "schedules",
    "OptexportError": "errors",
    "Report": "translation",
    "RuleError": "errors",
    "Spec": "specs",
    "Trainer": "training",
    "TrainingState": "state",
    "UnknownNameError": "errors",
    "VerdictError": "errors",
    "check": "parity.mine",
    "emit": "emitters",
    "init": "reference",
    "load": "state",
    "Schedule": "schedules",
    "lower": "translation",
    "lower_schedule": "schedules",
    "native": "specs",
    "native_schedule": "schedules",
    "read_map": "state.name_map",
    "rearrange": "state.rearrange",
    "save": "state",
    "schedule": "schedules",
    "spec": "specs",
    "step": "reference",
    "training_artifacts": "training",
    "training_graph": "training",
    "training_info": "training",
    "translate": "translation",
    "translate_schedule": "schedules",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .emitters import emit
    from .errors import (
        CheckpointError,
        HyperparameterError,
        ModelError,
        NamingError,
        OptexportError,
        RuleError,
        UnknownNameError,
        VerdictError,
    )
    from .parity.mine import Checked, check
    from .reference import init, step
    from .schedules import NativeCall, Schedule, lower_schedule, native_schedule, schedule, translate_schedule
    from .specs import Group, Spec, native, spec
    from .state import TrainingState, load, save
    from .state.name_map import read_map
    from .state.rearrange import rearrange
    from .training import Trainer, training_artifacts, training_graph, training_info
    from .translation import Report, lower, translate


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(
            f"module 'optexport' has no attribute {name!r}; expected one of {', '.join(__all__)}"
        )
    value = getattr(importlib.import_module(f"optexport.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
