"""The table that a framework supplies, and the rows that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["ATOM", "EXACT", "HELPERS", "IEEE", "PYTHON", "SCALARS", "TRACED_SCALARS", "Operators"]

ATOM = 9
# What Python writes the same way for scalars and for tensors: template and how tightly it binds.
PYTHON: Mapping[str, tuple[str, int]] = {
    "add": ("{0} + {1}", 4),
    "sub": ("{0} - {1}", 4),
    "mul": ("{0} * {1}", 5),
    "div": ("{0} / {1}", 5),
    "neg": ("-{0}", 6),
    "pow": ("{0}**{1}", 8),
    "eq": ("{0} == {1}", 3),
    "lt": ("{0} < {1}", 3),
    "le": ("{0} <= {1}", 3),
}
# Scalars that are Python floats.
SCALARS: Mapping[str, str] = {
    "sqrt": "math.sqrt({0})",
    "exp": "math.exp({0})",
    "log": "math.log({0})",
    "cos": "math.cos({0})",
    "floor": "ieee(np.floor, {0})",
    "abs": "abs({0})",
    "sign": "ieee(np.sign, {0})",
    "min": "min({0}, {1})",
    "max": "max({0}, {1})",
}
# Scalar operators for which Python raises, or drops a NaN, where IEEE arithmetic does not.
IEEE: Mapping[str, str] = {
    "div": "ieee(np.divide, {0}, {1})",
    "pow": "ieee(pow, {0}, {1})",
    "sqrt": "ieee(np.sqrt, {0})",
    "exp": "ieee(np.exp, {0})",
    "log": "ieee(np.log, {0})",
    "cos": "ieee(np.cos, {0})",
    "min": "ieee(np.minimum, {0}, {1})",
    "max": "ieee(np.maximum, {0}, {1})",
}
EXACT = frozenset({"neg", "abs", "sign", "min", "max", "where", "floor"})  # need no rounding of their own


def TRACED_SCALARS(module: str) -> tuple[Mapping[str, str], Mapping[str, str]]:  # noqa: N802  (a table)
    """``scalars`` and ``careful`` of a framework whose ``module`` (``jnp``) has NumPy's names."""
    names = {"min": "minimum", "max": "maximum"}
    plain = {op: f"{module}.{op}({{0}})" for op in ("sqrt", "exp", "log", "cos", "floor", "abs", "sign")}
    plain |= {op: f"{module}.{name}({{0}}, {{1}})" for op, name in names.items()}
    return plain, {"div": f"{module}.divide({{0}}, {{1}})", "pow": f"{module}.power({{0}}, {{1}})"}


HELPERS: Mapping[str, str] = {
    "f32": '''\
def f32(x):
    """``x`` rounded to float32, as a Python float: what a float32 kernel receives."""
    with np.errstate(over="ignore"):
        return float(np.float32(x))
''',
    "ieee": '''\
def ieee(function, *operands):
    """A NumPy function of scalars: infinity and NaN where Python would raise."""
    with np.errstate(all="ignore"):
        return float(function(*map(np.float64, operands)))
''',
    "without": '''\
def without(shape, axis):
    """``shape`` with size 1 along ``axis``, the ``largest`` or ``second`` largest one where it is named."""
    if isinstance(axis, str):
        axis = sorted(range(len(shape)), key=shape.__getitem__)[-1 if axis == "largest" else -2]
    axis %= len(shape)
    return tuple(1 if i == axis else n for i, n in enumerate(shape))
''',
    "only": '''\
def only(shape, axis):
    """``shape`` with size 1 along every axis but ``axis``."""
    return tuple(n if i == axis else 1 for i, n in enumerate(shape))
''',
    "together": '''\
def together(updates):
    """Run updates in lockstep: what they yield is summed, and the sum is sent to each of them.

    An update without a sum over all parameters is a result already.
    """
    done = {i: u for i, u in enumerate(updates) if not hasattr(u, "send")}
    running = {i: u for i, u in enumerate(updates) if hasattr(u, "send")}
    total = None
    while running:
        parts = []
        for i, update in list(running.items()):
            try:
                parts.append(update.send(total))
            except StopIteration as finished:
                done[i] = finished.value
                del running[i]
        total = sum(parts)
    return [done[i] for i in range(len(updates))]
''',
}


@dataclass(frozen=True)
class Operators:
    """How one framework writes what Python's own operators do not say.

    functions: operator -> template of a call on tensors, ``{0}`` … being the operands and ``{attr}``
        the node's attribute. ``sum``, ``mean`` and ``norm`` give a scalar; ``size`` is of a whole
        tensor, ``size_along`` of one axis.
    scalar_bound: ``min`` and ``max`` of a tensor ``{0}`` and a scalar ``{1}``.
    full: a tensor like ``param`` filled with the scalar ``{0}``.
    zeros: a tensor like ``param`` filled with zeros.
    copy: a copy of tensor ``{0}``.
    lift: operator -> operands that must be tensors even where the rule has a scalar.
    helpers: functions that the templates call, by name; emitted where used, and instead of the
        shared ones (``f32``) where they have their name.
    modules: names that the emitted module imports, not to be used for variables.
    filled: an array of the shape ``{shape}`` (an expression), typed like ``param``, filled with
        ``{0}``: slots that are not of the parameter's shape.
    array_scalar: the scalar ``{0}`` as an array that broadcasts, for ``lift`` beside arrays.
    scalar_slot: what a scalar slot holds for the scalar ``{0}``, ``{dtype}`` being float32 or
        float64; read_scalar: the scalar in a slot's value ``{0}``.
    refused: operator or input role -> why this framework cannot have it.

    traced: scalars are not Python floats but values of a traced function: no Python ``if``, ``math`` or
        ``float()`` on them. ``scalars`` and ``careful`` then say how scalars are computed
        (`TRACED_SCALARS`), and ``meet`` how a scalar ``{0}`` is rounded to the parameter's dtype
        where it meets a tensor.
    scalars: operator -> template on scalars. careful: the same by IEEE rules, for scalars that come
        from data, or that a condition may discard; without a row ``scalars`` says it.
    hyper: the hyperparameter ``{name}`` of the mapping ``hyper``.
    prologue: lines at the start of an update function that mentions their first word.
    complement: ``1 − a**b`` of scalars ``{0}``, ``{1}``, where the framework's scalars may be too
        narrow for that difference; empty for plain arithmetic.
    """

    functions: Mapping[str, str]
    scalar_bound: Mapping[str, str]
    full: str
    zeros: str
    copy: str
    lift: Mapping[str, tuple[int, ...]]
    modules: tuple[str, ...]
    helpers: Mapping[str, str] = field(default_factory=dict)
    filled: str = ""
    array_scalar: str = ""
    scalar_slot: str = ""
    read_scalar: str = "float({0})"
    refused: Mapping[str, str] = field(default_factory=dict)
    traced: bool = False
    scalars: Mapping[str, str] = field(default_factory=lambda: SCALARS)
    careful: Mapping[str, str] = field(default_factory=lambda: IEEE)
    hyper: str = 'float(hyper["{name}"])'
    meet: str = ""
    prologue: Mapping[str, str] = field(default_factory=dict)
    complement: str = ""
