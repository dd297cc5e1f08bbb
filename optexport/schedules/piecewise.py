"""A value for each stretch between breakpoints, constant or on the way from one to the next.

    constant    η = values[i]                             boundaries[i−1] ≤ k < boundaries[i]
    linear      η = a + (b − a)·p                         a, b the values at the breakpoints beside k,
    cosine      η = b + (a − b)/2·(1 + cos πp)            p the part of the way

Breakpoints are static: the program has one comparison for each. Counts before 0 do not occur.
"""

from ..errors import HyperparameterError
from ..ir import Value, cos, where
from ..rules.base import Option, OptionValue
from .base import Clock, Numbers, plan
from .cosine import PI

__all__ = ["piecewise"]


@plan(
    "piecewise",
    options=(
        Numbers("boundaries", "counts at which the next value begins", whole=True, rising="strictly"),
        Numbers("values", "one more than boundaries: the first holds from count 0"),
        Option(
            "between",
            {
                "constant": "each value holds until the next boundary",
                "linear": "a straight line from value to value, reached at the boundary",
                "cosine": "half a cosine from value to value, reached at the boundary",
            },
            default="constant",
        ),
    ),
    hyperparameters=(),
    source="keras PiecewiseConstantDecay; optax.piecewise_constant_schedule, piecewise_interpolate_schedule",
)
def piecewise(
    s: Clock, *, boundaries: tuple[float, ...], values: tuple[float, ...], between: OptionValue
) -> Value:
    """values[i] from boundaries[i−1] on"""
    if len(values) != len(boundaries) + 1:
        raise HyperparameterError(
            f"schedule piecewise: expected {len(boundaries) + 1} values around {len(boundaries)} boundaries, "
            f"found {len(values)}"
        )
    out = s.const(values[-1])
    starts = (0.0, *boundaries)
    for i in reversed(range(len(boundaries))):
        a, b = values[i], values[i + 1]
        value: Value
        part = (s.k - starts[i]) / max(boundaries[i] - starts[i], 1)
        if between == "linear":
            value = (b - a) * part + a
        elif between == "cosine":
            value = b + (a - b) / 2 * (cos(PI * part) + 1)
        else:
            value = s.const(a)
        out = where(s.k < boundaries[i], value, out)
    return out
