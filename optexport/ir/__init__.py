"""The intermediate representation: update rules as small typed programs.

Where to look: `types` and `ops` say what a program may contain, `program` is the data structure,
`trace` turns a Python function into one, `check` refuses what is malformed, `canonical` decides
when two programs are the same rule, `printer` writes the maths, `wire` the bytes, `analysis` tells
emitters how a program may be scheduled.
"""

from .analysis import Reach, dead_slots, reach
from .canonical import digest, fold, sweep
from .check import check
from .printer import equations
from .program import Input, Node, Program
from .trace import (
    Tracer,
    Value,
    absolute,
    cast,
    exp,
    log,
    maximum,
    mean,
    minimum,
    norm,
    sign,
    sqrt,
    total,
    where,
)
from .types import BOOL, FLOAT32, FLOAT64, MASK, TENSOR, Type

__all__ = [
    "BOOL",
    "FLOAT32",
    "FLOAT64",
    "MASK",
    "TENSOR",
    "Input",
    "Node",
    "Program",
    "Reach",
    "Tracer",
    "Type",
    "Value",
    "absolute",
    "cast",
    "check",
    "dead_slots",
    "digest",
    "equations",
    "exp",
    "fold",
    "log",
    "maximum",
    "mean",
    "minimum",
    "norm",
    "reach",
    "sign",
    "sqrt",
    "sweep",
    "total",
    "where",
]
