"""The closed set of operators. A rule that needs more is a reason to discuss this table.

Each row gives what every other part needs to know about an operator: how many operands it takes,
what comes out, whether operands commute, and how a person writes it. What it computes is defined
by the referee, ``optexport.reference.interpreter``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["OPS", "Op"]

Result = Literal["real", "truth", "scalar", "select", "cast", "array", "matrix", "tensor", "same", "total"]


@dataclass(frozen=True)
class Op:
    """One operator.

    result: ``real`` elementwise on reals; ``truth`` elementwise comparison or logic; ``scalar``
        reduction of a tensor; ``select`` where(truth, real, real); ``cast`` scalar to ``attr``;
        ``array`` reduction over axis ``attr``, which stays with size 1; ``matrix`` of the last two
        axes; ``tensor`` gives the parameter's shape; ``same`` keeps its operand's type; ``total``
        a scalar summed over every parameter that the step updates.
    attr: what the attribute is: nothing, an ``axis``, an ``index`` or a ``dtype``, as text.
    text: how `printer` writes it, ``{0}`` … being the operands.
    binding: how tightly it binds when printed (higher binds tighter; 9 never needs parentheses).
    """

    name: str
    arity: int
    result: Result
    text: str
    binding: int = 9
    commutes: bool = False
    attr: str = ""


OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op("add", 2, "real", "{0} + {1}", 4, commutes=True),
        Op("sub", 2, "real", "{0} − {1}", 4),
        Op("mul", 2, "real", "{0}·{1}", 5, commutes=True),
        Op("div", 2, "real", "{0} / {1}", 5),
        Op("neg", 1, "real", "−{0}", 6),
        Op("pow", 2, "real", "{0}^{1}", 8),
        Op("sqrt", 1, "real", "√({0})"),
        Op("exp", 1, "real", "exp({0})"),
        Op("log", 1, "real", "log({0})"),
        Op("abs", 1, "real", "|{0}|"),
        Op("sign", 1, "real", "sign({0})"),
        Op("min", 2, "real", "min({0}, {1})", commutes=True),
        Op("max", 2, "real", "max({0}, {1})", commutes=True),
        Op("eq", 2, "truth", "{0} = {1}", 3, commutes=True),
        Op("lt", 2, "truth", "{0} < {1}", 3),
        Op("le", 2, "truth", "{0} ≤ {1}", 3),
        Op("where", 3, "select", "({1} if {0} else {2})"),
        Op("sum", 1, "scalar", "sum({0})"),
        Op("mean", 1, "scalar", "mean({0})"),
        Op("norm", 1, "scalar", "‖{0}‖"),
        Op("cast", 1, "cast", "{attr}({0})", attr="dtype"),
        Op("floor", 1, "real", "⌊{0}⌋"),
        Op("cos", 1, "real", "cos({0})"),
        Op("sum_axis", 1, "array", "sum_{attr}({0})", attr="axis"),
        Op("mean_axis", 1, "array", "mean_{attr}({0})", attr="axis"),
        Op("max_axis", 1, "array", "max_{attr}({0})", attr="axis"),
        Op("mean_rest", 1, "array", "mean_rest({0})"),
        Op("matmul", 2, "matrix", "{0} @ {1}", 5),
        Op("transpose", 1, "matrix", "({0})ᵀ"),
        Op("expand", 1, "tensor", "{0}"),
        Op("item", 1, "tensor", "{0}[{attr}]", attr="index"),
        Op("push", 2, "array", "push({0}, {1})"),
        Op("size", 1, "scalar", "size_{attr}({0})", attr="axis"),
        Op("rounded", 1, "same", "{attr}({0})", attr="dtype"),
        Op("group_sum", 1, "total", "Σ_group({0})"),
    )
}
