"""Optax source for any rule: one gradient transformation that imports jax and optax only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from optexport import source
from optexport.rules import Rule
from optexport.source import Operators, call, entries, number, rule_name
from optexport.specs import Group, Spec
from optexport.state import TrainingState
from optexport.state.native import NativeGroup, NativeState

__all__ = ["OPERATORS", "emit", "emitted_groups", "emitted_paths", "emitted_state", "factory_name"]

_SCALARS, _CAREFUL = source.TRACED_SCALARS("jnp")

OPERATORS = Operators(
    functions={
        **{op: f"jnp.{op}({{0}})" for op in ("sqrt", "exp", "log", "abs", "sign", "floor", "cos")},
        "min": "jnp.minimum({0}, {1})",
        "max": "jnp.maximum({0}, {1})",
        "where": "jnp.where({0}, {1}, {2})",
        # In double where JAX has it.
        "sum": "jnp.sum({0}, dtype=float)",
        "mean": "jnp.mean({0}, dtype=float)",
        "norm": "jnp.linalg.norm({0}.astype(float).ravel())",
        "sum_axis": "jnp.sum({0}, axis={attr}, keepdims=True)",
        "mean_axis": "jnp.mean({0}, axis={attr}, keepdims=True)",
        "max_axis": "jnp.max({0}, axis={attr}, keepdims=True)",
        "mean_rest": "mean_rest({0})",
        # Accelerators multiply matrices in fewer bits unless they are told not to.
        "matmul": 'jnp.matmul({0}, {1}, precision="highest")',
        "transpose": "jnp.swapaxes({0}, -1, -2)",
        "expand": "jnp.broadcast_to({0}, param.shape)",
        "item": "{0}[{attr}]",
        "push": "jnp.concatenate([{0}[1:], {1}[None]])",
        "size": "float({0}.size)",
        "size_along": "float({0}.shape[{attr}])",
        "rounded": 'rounded({0}, "{attr}")',
    },
    scalar_bound={"min": "jnp.minimum({0}, {1})", "max": "jnp.maximum({0}, {1})"},
    full="jnp.full_like(param, {0})",
    zeros="jnp.zeros_like(param)",
    copy="{0}",
    lift={},
    modules=("jax", "jnp", "np", "math", "optax", "NamedTuple", "Any"),
    helpers={
        "mean_rest": '''\
def mean_rest(x):
    """Mean over all axes but the first, which stay; 0 for a vector."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim)), keepdims=True) if x.ndim > 1 else jnp.zeros_like(x)
''',
        "f32": '''\
def f32(x):
    """A number rounded to float32: what a float32 kernel receives."""
    return jax.lax.reduce_precision(jnp.asarray(x, float), 8, 23)
''',
        "rounded": '''\
def rounded(x, dtype):
    """``x`` with the bits of ``dtype``; a cast there and back may be left out by the compiler."""
    kind = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, kind.nexp, kind.nmant)
''',
        "complement": '''\
def complement(base, exponent):
    """1 - base**exponent; where numbers are float32, without the cancellation in that difference."""
    if jnp.result_type(float) == jnp.float64:
        return 1 - base**exponent
    known = isinstance(base, (int, float)) and base > 0
    return -jnp.expm1(exponent * (math.log(base) if known else jnp.log(base)))
''',
    },
    filled="jnp.full({shape}, {0}, param.dtype)",
    array_scalar="jnp.asarray({0}, param.dtype)",
    scalar_slot='jnp.asarray({0}, jax.dtypes.canonicalize_dtype("{dtype}"))',
    read_scalar="jnp.asarray({0}, float)",
    traced=True,
    scalars=_SCALARS,
    careful=_CAREFUL,
    hyper='hyper["{name}"]',
    meet="cast({0})",
    prologue={"cast": "    def cast(x):\n        return jnp.asarray(x, param.dtype)\n"},
    complement="complement({0}, {1})",
)

_ABOUT = """\
Scalars are traced: float64 where JAX' 64-bit mode is on, else float32. In float32 the correction
1 - beta**t is computed as -expm1(t*log(beta)), which keeps its digits; what a rule makes of scalars
besides is rounded to 2**-24 at each operation, numbers in the state too, and steps above 2**24 are no
longer told apart. A scalar that meets a tensor is rounded to the parameter's dtype. State: the number
of completed updates, one for all parameters, and one tree a slot.
"""

_STATE = '''\
class {name}State(NamedTuple):
    """count: completed updates. Then one tree a slot, shaped like the parameters'."""

    count: Any
{fields}'''

_FACTORY = '''\
    def now(count{of}):
        """The hyperparameters of the update after ``count`` others."""
        return {{k: v(count) if callable(v) else v for k, v in {values}.items()}}

    def init(params):
        leaves, tree = jax.tree.flatten(params)
        count = jnp.asarray({first}, jnp.int32)
{names}        slots = [{init} for {each} in {leaves}]
        trees = (tree.unflatten([s{get} for s in slots]) for slot in SLOTS)
        return {name}State(count, *trees)

    def update(updates, state, params=None{arguments}):
        if params is None:
            raise ValueError("{factory}: "
                             "expected update(updates, state, params), found no params")
{check}        grads, tree = jax.tree.flatten(updates)
        weights = tree.flatten_up_to(params)
        held = [dict(zip(SLOTS, s)) for s in zip(*map(tree.flatten_up_to, state[1:]))] or [{{}}] * len(grads)
        step = jnp.asarray(state.count, float)
{names}        made = []
        for {row}:
            grad = jnp.asarray(grad, param.dtype)
            made.append({update}(param, grad, step, {hyper}, slots{given}))
{together}        changes = [new - param for param, (new, _) in zip(weights, made)]
        trees = (tree.unflatten([s{get} for _, s in made]) for slot in SLOTS)
        state = {name}State(optax.safe_increment(state.count), *trees)
        return tree.unflatten(changes), state

    return optax.GradientTransformationExtraArgs(init, update)
'''

_GROUPS = '''\
def name_of(path):
    """A leaf's name: its keys joined by dots."""
    return ".".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)


def groups_of(params, groups):
    """The row of ``groups`` that each leaf is in."""
    rest = next((g for g in groups if g["params"] is None), None)
    place = {name: g for g in groups for name in g["params"] or ()}
    names = [name_of(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    found = [place.get(name, rest) for name in names]
    if None in found:
        name = names[found.index(None)]
        raise KeyError(f"parameter {name!r}: expected a name that the groups list")
    return found
'''


def factory_name(name: str) -> str:
    """``optexport_adamw`` of ``OptexportAdamw``: what the emitted function is called."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def emit(spec: Spec, params: Mapping[str, Any] | None = None, *, class_name: str | None = None) -> str:
    """Source of a module with a function that makes a ``optax.GradientTransformation``.

    The function takes the rule's hyperparameters under the rule's own names, with the spec's values as
    defaults; each may be a function of the number of completed updates. What ``update`` returns is to
    be added to the parameters (`optax.apply_updates`): learning rate, sign and decay are in it. Groups
    with values of their own become the table ``GROUPS``, by the leaves' names: their keys joined by
    dots. It works under ``jit``, ``scan`` and ``vmap``.

    params: name -> shape; settles the open group, and rules that depend on a parameter's shape.
    class_name: of the state, with ``State`` after it, and in lower case of the function; made of the
        rules' names when None.

    Raises:
        HyperparameterError: no group, a ``class_name`` that is no identifier, or groups whose steps
            count from different numbers.
        UnknownNameError: a group lists a parameter that ``params`` lacks.
        RuleError: a name of a rule is no identifier.
    """
    if params is not None:
        spec = spec.settle(params)
    rules = source.rules_of(spec)
    name = source.class_name(spec, class_name)
    given = source.given(rules.values())
    made = [source.functions(key, rule, OPERATORS, given) for key, rule in rules.items()]
    helpers = {h: text for f in made for h, text in f.helpers.items()}
    sums = any(f.sums for f in made)
    if sums:
        helpers["together"] = source.HELPERS["together"]
    title = f"{factory_name(name)}: an Optax gradient transformation, generated by optexport."
    bodies = [text for f in made for text in (f.init, f.update)]
    parts = (*helpers.values(), *bodies, *_tables(name, spec, rules), _factory(name, spec, rules, sums))
    imports = "from typing import Any, NamedTuple\n\nimport jax\nimport jax.numpy as jnp\nimport optax"
    return _module(source.docstring(title, rules, _ABOUT), parts, imports)


def _module(doc: str, parts: tuple[str, ...], imports: str) -> str:
    body = "\n\n".join(parts)
    math = "import math\n" if "math." in body else ""
    return f"{doc}\n{math}{imports}\n\n\n{body}"


def _slots(rules: Mapping[str, Rule]) -> list[str]:
    """Slot names of all rules, each once."""
    return list(dict.fromkeys(s for rule in rules.values() for s in rule.slot_names))


def _tables(name: str, spec: Spec, rules: Mapping[str, Rule]) -> list[str]:
    slots = _slots(rules)
    listed = ", ".join(f'"{s}"' for s in slots)
    out = [f"SLOTS = ({listed}{',' if len(slots) == 1 else ''})\n"]
    if len(spec.groups) > 1:
        lines = [
            "# The groups of the spec; None: every parameter that no other group lists.",
            "GROUPS = [",
        ]
        for group in spec.groups:
            row = {
                "params": None if group.params is None else list(group.params),
                "rule": rule_name(group.rule),
            }
            lines += call("    {", entries({**row, **group.values()}), "},")
        rows = [f'"{rule_name(rule)}": (init_{key}, update_{key})' for key, rule in rules.items()]
        out += ["\n".join((*lines, "]", "")), "\n".join((*call("RULES = {", rows, "}"), "")), _GROUPS]
    out.append(_STATE.format(name=name, fields="".join(f"    {s}: Any\n" for s in slots)))
    return out


# What `update` takes beside the gradients: trees like the parameters.
_GIVEN: Mapping[str, str] = {
    "noise": "independent standard normal numbers",
    "hessian": "the diagonal of the Hessian, or its product with a vector",
}
_CHECK = """\
        if {0} is None:
            raise ValueError("{1}: "
                             "expected {0}=, a tree like the parameters, found none")
"""


def _factory(name: str, spec: Spec, rules: Mapping[str, Rule], sums: bool) -> str:
    """The function that makes the transformation."""
    factory, group, given = factory_name(name), source.default_group(spec), source.given(rules.values())
    one = len(spec.groups) == 1
    doc = ["    Each hyperparameter is a number, or a function of the number of completed updates.", ""]
    if one:
        head = call(f"def {factory}(", [f"{h}={number(v)}" for h, v in group.values().items()], "):")
        doc += [f"    {h.name}: {h.doc}" for h in group.rule.hyperparameters]
        hyper = call("    hyper = {", [f'"{h}": {h}' for h in group.values()], "}")
    else:
        head = [f"def {factory}(groups=GROUPS):"]
        doc += [
            '    groups: rows with "params" (names, or None for the rest), "rule" and its hyperparameters.'
        ]
        hyper = []
    if given:
        doc += ["", "    ``update`` takes, by name, a tree like the parameters:"]
        doc += [f"    {g}: {_GIVEN[g]}" for g in given]
    key = next(iter(rules))
    trees = "".join(f", tree.flatten_up_to({g})" for g in given)
    columns = ", ".join(("param", "grad", "slots", *(() if one else ("group",)), *given))
    body = _FACTORY.format(
        name=name,
        factory=factory,
        first=source.first_step(spec),
        of="" if one else ", group",
        values="hyper" if one else "group",
        names="" if one else "        rows = groups_of(params, groups)\n",
        init=f"init_{key}(p, now(count))" if one else 'RULES[g["rule"]][0](p, now(count, g))',
        each="p" if one else "p, g",
        leaves="leaves" if one else "zip(leaves, rows)",
        get="[slot]" if len(rules) == 1 else ".get(slot, optax.MaskedNode())",
        arguments=", *, " + ", ".join(f"{g}=None" for g in given) + ", **_" if given else ", **_",
        check="".join(_CHECK.format(g, factory) for g in given),
        row=f"{columns} in zip(weights, grads, held{'' if one else ', rows'}{trees})",
        update=f"update_{key}" if one else 'RULES[group["rule"]][1]',
        hyper="now(state.count)" if one else "now(state.count, group)",
        given="".join(f", {g}" for g in given),
        together="        made = together(made)\n" if sums else "",
    )
    return "\n".join(
        (
            *head,
            '    """A gradient transformation, for optax.apply_updates.',
            "",
            *doc,
            '    """',
            *hyper,
            "",
            body,
        )
    )


def emitted_state(state: TrainingState, module: str) -> NativeState:
    """What the state of the transformation that `emit` writes for ``state.spec`` holds. module: unused."""
    del module
    out = NativeState(
        "optax", "", source.class_name(state.spec, None), named=True, weights=dict(state.params)
    )
    slots = _slots(source.rules_of(state.spec))
    out.extras["state"] = {"count": "#count", **{s: s for s in slots}}
    for g in state.spec.groups:
        out.groups.append(NativeGroup({}, list(g.params or ())))
    for name in state.names:
        out.steps[name] = state.steps[name]
        out.slots[name] = dict(state.full_slots(name))
    return out


def emitted_groups(native: NativeState) -> list[Group] | None:
    """None: a file of Optax state tells neither rule nor hyperparameters."""
    del native
    return None


def emitted_paths(rule: Rule, master: bool) -> dict[str, str]:
    """Slot name in a state -> slot, for an emitted transformation."""
    del master
    return {s: s for s in rule.slot_names}
