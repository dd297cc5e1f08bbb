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
    cos,
    exp,
    expand,
    floor,
    group_sum,
    item,
    log,
    matmul,
    max_axis,
    maximum,
    mean,
    mean_axis,
    mean_rest,
    minimum,
    norm,
    push,
    rounded,
    sign,
    size,
    sqrt,
    total,
    total_axis,
    transpose,
    where,
)
from .types import ARRAY, BOOL, FLOAT32, FLOAT64, MASK, TENSOR, Type

__all__ = [
    "ARRAY",
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
    "cos",
    "dead_slots",
    "digest",
    "equations",
    "exp",
    "expand",
    "floor",
    "fold",
    "group_sum",
    "item",
    "log",
    "matmul",
    "max_axis",
    "maximum",
    "mean",
    "mean_axis",
    "mean_rest",
    "minimum",
    "norm",
    "push",
    "reach",
    "rounded",
    "sign",
    "size",
    "sqrt",
    "sweep",
    "total",
    "total_axis",
    "transpose",
    "where",
]
