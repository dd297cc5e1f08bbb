"""Schedules: hyperparameters as programs of the step. One file a schedule; `catalogue` has the names,
`natives` the frameworks' own, `inline` puts a schedule inside a rule."""

from .base import Schedule, plans
from .catalogue import schedule
from .natives import NativeCall, lower_schedule, native_schedule, translate_schedule

__all__ = [
    "NativeCall",
    "Schedule",
    "lower_schedule",
    "native_schedule",
    "plans",
    "schedule",
    "translate_schedule",
]
