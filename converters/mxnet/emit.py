"""MXNet 1.9.1 source for any rule: one registered ``mx.optimizer.Optimizer`` that imports MXNet only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optexport import source
from optexport.errors import HyperparameterError
from optexport.rules import Rule
from optexport.source import Operators, call, entries, number, rule_name
from optexport.specs import Group, Spec
from optexport.state import MASTER, TrainingState
from optexport.state.native import NativeGroup, NativeState

__all__ = ["OPERATORS", "emit"]

OPERATORS = Operators(
    functions={
        "sqrt": "mx.nd.sqrt({0})",
        "exp": "mx.nd.exp({0})",
        "log": "mx.nd.log({0})",
        "abs": "mx.nd.abs({0})",
        "sign": "sign({0})",
        "min": "mx.nd.minimum({0}, {1})",
        "max": "mx.nd.maximum({0}, {1})",
        "where": "mx.nd.where({0}, {1}, {2})",
        # In double: MXNet adds up float32 arrays in float32.
        "sum": 'float(mx.nd.sum(mx.nd.cast({0}, "float64")).asscalar())',
        "mean": 'float(mx.nd.mean(mx.nd.cast({0}, "float64")).asscalar())',
        "norm": 'float(mx.nd.norm(mx.nd.cast({0}, "float64")).asscalar())',
        "floor": "mx.nd.floor({0})",
        "cos": "mx.nd.cos({0})",
        "sum_axis": "mx.nd.sum({0}, axis={attr}, keepdims=True)",
        "mean_axis": "mx.nd.mean({0}, axis={attr}, keepdims=True)",
        "max_axis": "mx.nd.max({0}, axis={attr}, keepdims=True)",
        "mean_rest": "mean_rest({0})",
        "matmul": "mx.nd.linalg.gemm2({0}, {1})",
        "transpose": "transpose({0})",
        "expand": "mx.nd.broadcast_to({0}, param.shape)",
        "item": "{0}[{attr}]",
        "push": "mx.nd.concat({0}[1:], mx.nd.expand_dims({1}, 0), dim=0)",
        "size": "float({0}.size)",
        "size_along": "float({0}.shape[{attr}])",
        "rounded": 'rounded({0}, "{attr}")',
    },
    scalar_bound={"min": "mx.nd.minimum({0}, {1})", "max": "mx.nd.maximum({0}, {1})"},
    full="full(param.shape, {0}, param)",
    zeros="mx.nd.zeros(param.shape, ctx=param.context, dtype=param.dtype)",
    copy="{0}.copy()",
    lift={},
    modules=("mx", "math", "np"),
    helpers={
        "mean_rest": '''\
def mean_rest(x):
    """Mean over all axes but the first, which stay; 0 for a vector."""
    return mx.nd.mean(x, axis=0, exclude=True, keepdims=True) if x.ndim > 1 else mx.nd.zeros_like(x)
''',
        "sign": '''\
def sign(x):
    """-1, 0 or 1; NaN stays NaN, which mx.nd.sign makes 0."""
    return mx.nd.where(x == x, mx.nd.sign(x), x)
''',
        "full": '''\
def full(shape, value, param):
    """An array filled with ``value``, where ``param`` is and typed like it."""
    return mx.nd.full(shape, value, ctx=param.context, dtype=param.dtype)
''',
        "transpose": '''\
def transpose(x):
    """The last two axes exchanged."""
    return mx.nd.swapaxes(x, x.ndim - 2, x.ndim - 1)
''',
        "rounded": '''\
def rounded(x, dtype):
    """``x`` rounded to ``dtype``; MXNet has no bfloat16 on every build, so that is done on its bits."""
    if dtype != "bfloat16":
        return x.astype(dtype).astype(x.dtype)
    bits = x.asnumpy().astype(np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    near = ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)
    near = np.where(np.isnan(bits.view(np.float32)), np.nan, near)
    return mx.nd.array(near, ctx=x.context, dtype=x.dtype)
''',
    },
    filled="full({shape}, {0}, param)",
    array_scalar="mx.nd.array([{0}], ctx=param.context, dtype=param.dtype)",
    # MXNet has no arrays without dimensions.
    scalar_slot='mx.nd.array([{0}], ctx=param.context, dtype="{dtype}")',
    read_scalar="float({0}.asscalar())",
    refused={
        "group_sum": "a sum over all parameters of the step, but MXNet updates one parameter at a time",
        "hessian": "the Hessian, which MXNet gives to no optimizer",
    },
)

# Hyperparameters that the base class keeps: rule's name -> (its argument, how an update reads it,
# what a group's table calls its factor).
_BASE: Mapping[str, tuple[str, str, str]] = {
    "lr": ("learning_rate", "self._get_lr(index)", "lr_mult"),
    "weight_decay": ("wd", "self._get_wd(index)", "wd_mult"),
    "rescale_grad": ("rescale_grad", "self.rescale_grad", "rescale_mult"),
}
_CLIP = "clip_gradient"

_ABOUT = """\
Scalars are Python floats (double); an array has its parameter's dtype, and a scalar that meets one
is rounded to it. The gradient is multiplied by `rescale_grad` first (gluon.Trainer sets it to
1/batch_size). State of a parameter: a tuple of one array a slot, None where the rule has no slot.
The step is counted per index from `begin_num_update`; states saved without the optimizer do not
hold it, so pass `begin_num_update` when such a run continues. Parameter names have no effect, other
than through the table GROUPS where there is one: MXNet's own rule that names other than *_weight
and *_gamma do not decay is off.
"""

_GROUP_METHOD = '''\
    def _group(self, index):
        """What GROUPS has for the parameter at ``index``, found by its name."""
        param = self.param_dict.get(index)
        name = self.idx2name.get(index, index) if param is None else param.name
        if not isinstance(name, str):
            raise ValueError(f"parameter {index}: no name; pass param_idx2name or use gluon.Trainer")
        group = BY_NAME.get(name, REST)
        if group is None:
            raise ValueError(f"parameter {name!r}: expected a name that GROUPS lists")
        return group
'''

_LOOKUP = """\
BY_NAME = {name: group for group in GROUPS for name in group["params"] or ()}
REST = next((group for group in GROUPS if group["params"] is None), None)
"""

_WD_MULT = '''\
    def set_wd_mult(self, args_wd_mult):
        """As in the base class, but a parameter's name alone never switches its decay off."""
        names, self.idx2name = self.idx2name, {}
        super().set_wd_mult(args_wd_mult)
        self.idx2name = names
'''

_DEFAULT_LR = """\
        if learning_rate is None and kwargs.get("lr_scheduler") is None:
            learning_rate = {lr}"""

_OWN_LR = """\
        if learning_rate is not None or kwargs.get("lr_scheduler") is not None:
            raise ValueError("the learning rate follows the schedule inside this class: pass neither "
                             "learning_rate nor lr_scheduler, but the arguments lr_*")"""

_NOISE = '''\
    def _noise(self, index, weight):
        """Standard normal numbers: what the attribute ``noise`` has for the index, else drawn here."""
        given = getattr(self, "noise", None)
        if given is not None:
            return given[index].astype(weight.dtype)
        return mx.nd.random.normal(shape=weight.shape, dtype=weight.dtype, ctx=weight.context)
'''

_UPDATE = '''\
    def create_state(self, index, weight):
        """One array a slot, or None."""
{choose}        return tuple({init}(weight, self._values(index)).values()) or None

    def update(self, index, weight, grad, state):
        """One update in place; with float16 and multi_precision, ``weight`` is the float32 master."""
{check}{choose}        state = () if state is None else state
        if not isinstance(state, (tuple, list)) or len(state) != len({slots}):
            raise ValueError(f"parameter {{index}}: expected a state of {{len({slots})}} arrays: {{{slots}}}")
        self._update_count(index)
        step = self._index_update_count[index] - 1
        if grad.stype != "default":
            grad = grad.tostype("default")
{rescale}        slots = dict(zip({slots}, state))
        new, slots = {update}(weight, grad, step, self._values(index), slots{noise})
        for old, value in zip(state, slots.values()):
            old[:] = value
        weight[:] = new
'''


def emit(spec: Spec, params: Mapping[str, Any] | None = None, *, class_name: str | None = None) -> str:
    """Source of a module with one registered optimizer class that computes exactly the rules of ``spec``.

    It works with ``gluon.Trainer``, ``Module`` and ``Updater``. Constructor arguments are MXNet's for
    what MXNet has (``learning_rate``, ``wd``, ``rescale_grad``, ``clip_gradient``, which are read at
    each update through the base class: schedulers and multipliers apply) and the rule's own for the
    rest. An argument of the base class that the rule does not have (``wd``, ``clip_gradient``) is
    refused. Groups become the table ``GROUPS``, matched by parameter name.

    params: name -> shape; only the names matter, to settle the open group.
    class_name: also the registry's name (lower case); made of the rules' names when None.

    Raises:
        HyperparameterError: no group, a ``class_name`` that is no identifier, groups of which only
            some have ``rescale_grad``, or whose steps count from different numbers.
        UnknownNameError: a group lists a parameter that ``params`` lacks.
        RuleError: a rule sums over all parameters, or reads the Hessian: MXNet has neither at hand.
    """
    if params is not None:
        spec = spec.settle(params)
    rules = source.rules_of(spec)
    if len({"rescale_grad" in g.hyperparameters for g in spec.groups}) > 1:
        raise HyperparameterError(
            "spec: option 'rescale' expected alike in all groups, found both; MXNet has one rescale_grad"
        )
    name = source.class_name(spec, class_name)
    given = source.given(rules.values())
    made = [source.functions(key, rule, OPERATORS, given) for key, rule in rules.items()]
    helpers = {h: text for f in made for h, text in f.helpers.items()}
    doc = source.docstring(f"{name}: an MXNet optimizer, generated by optexport.", rules, _ABOUT)
    bodies = [text for f in made for text in (f.init, f.update)]
    parts = (*helpers.values(), *bodies, *_tables(spec, rules), _class(name, spec, rules))
    return source.module(doc, parts, "import mxnet as mx")


def _defaults(spec: Spec) -> dict[str, float]:
    """Constructor defaults by the rules' names: the default group's values, then the others'.

    What groups multiply (`_BASE`) takes the first value that is not 0, so that every group has a factor.
    """
    first = source.default_group(spec)
    out: dict[str, float] = {}
    for group in (first, *spec.groups):
        for h, value in group.hyperparameters.items():
            if h not in out or (h in _BASE and out[h] == 0):
                out[h] = value
    return out


def _row(group: Group, defaults: Mapping[str, float]) -> dict[str, float]:
    """What sets a group apart from the constructor's defaults: factors, and values of its own."""
    row: dict[str, float] = {}
    for h, value in group.hyperparameters.items():
        if h in _BASE:
            factor = 1.0 if value == defaults[h] else value / defaults[h]
            row[_BASE[h][2]] = factor * group.lr_mult if h == "lr" else factor
        elif value != defaults[h]:
            row[h] = value
    return {k: v for k, v in row.items() if not (k.endswith("_mult") and v == 1)}


def _table_row(group: Group, defaults: Mapping[str, float], named: bool) -> dict[str, Any]:
    """A row of ``GROUPS``; named: whether it must say its rule."""
    row: dict[str, Any] = {"params": None if group.params is None else list(group.params)}
    row |= {"rule": rule_name(group.rule)} if named else {}
    return {**row, **_row(group, defaults)}


def _tables(spec: Spec, rules: Mapping[str, Rule]) -> list[str]:
    """``GROUPS``, ``FACTORS`` and ``RULES``, or the one rule's ``SLOTS``."""
    out = []
    if len(spec.groups) > 1:
        defaults = _defaults(spec)
        lines = [
            "# The groups of the spec, by parameter name; None: every parameter that no other group lists.",
            "# A *_mult multiplies what the optimizer has; any other value stands instead of it.",
            "GROUPS = [",
        ]
        for group in spec.groups:
            lines += call("    {", entries(_table_row(group, defaults, len(rules) > 1)), "},")
        factors = entries({factor: h for h, (_, _, factor) in _BASE.items()})
        out.append("\n".join((*lines, "]", _LOOKUP, *call("FACTORS = {", factors, "}"), "")))
    if len(rules) == 1:
        return [*out, f"SLOTS = {_tuple(next(iter(rules.values())))}\n"]
    rows = [f'"{key}": (init_{key}, update_{key}, {_tuple(rule)})' for key, rule in rules.items()]
    return [*out, "\n".join((*call("RULES = {", rows, "}"), ""))]


def _tuple(rule: Rule) -> str:
    """A rule's slot names as a tuple display."""
    names = ", ".join(f'"{s}"' for s in rule.slot_names)
    return f"({names},)" if len(rule.slot_names) == 1 else f"({names})"


def _class(name: str, spec: Spec, rules: Mapping[str, Rule]) -> str:
    defaults, check = _defaults(spec), _check(name, _defaults(spec))
    key = next(iter(rules))
    names = {"choose": "", "init": f"init_{key}", "update": f"update_{key}", "slots": "SLOTS", "rescale": ""}
    if len(rules) > 1:
        choose = '        init, update, names = RULES[self._group(index)["rule"]]\n'
        names = {"choose": choose, "init": "init", "update": "update", "slots": "names", "rescale": ""}
    if "rescale_grad" not in defaults:
        names["rescale"] = "        if self.rescale_grad != 1:\n            grad = grad * self.rescale_grad\n"
    given = source.given(rules.values())
    names["noise"] = ", self._noise(index, weight)" if "noise" in given else ""
    names["check"] = "        self._check()\n" if check else ""
    # Saved with the states, so that the run can be read back and moved on.
    keep = [f'        self.rule = "{key}"' if len(rules) == 1 else "        self.rule = None"]
    keep += ["        self.groups = GROUPS"] if len(spec.groups) > 1 else []
    docs = {h.name: h.doc for rule in rules.values() for h in rule.hyperparameters}
    if "lr" in defaults:
        docs["lr"] = f"{number(defaults['lr'])} when None, or what the scheduler has"
    parts = (
        *_constructor(defaults, source.first_step(spec), keep, bool(check)),
        *check,
        *_values(spec, defaults),
        *([_GROUP_METHOD] if len(spec.groups) > 1 else []),
        *([_WD_MULT] if "weight_decay" in defaults else []),
        *([_NOISE] if "noise" in given else []),
        _UPDATE.format(**names),
    )
    head = ("@mx.optimizer.register", f"class {name}(mx.optimizer.Optimizer):")
    listed = [f"    {_BASE[h][0] if h in _BASE else h}: {docs[h]}" for h in defaults]
    intro = '    """Arguments beside these are those of ``mx.optimizer.Optimizer``.'
    return "\n".join((*head, intro, "", *listed, '    """', "", *parts))


def _constructor(defaults: Mapping[str, float], first: int, keep: list[str], check: bool) -> list[str]:
    """keep: lines that set what saved states need for telling their rule."""
    own = [h for h in defaults if h not in _BASE and h != _CLIP]
    arguments = ["self", "learning_rate=None", *(f"{h}={number(defaults[h])}" for h in own)]
    passed = ["learning_rate=learning_rate"]
    for h in ("weight_decay", "rescale_grad", _CLIP):
        if h in defaults:
            argument = _BASE[h][0] if h in _BASE else h
            value = "None" if h == _CLIP and math.isinf(defaults[h]) else number(defaults[h])
            arguments.append(f"{argument}={value}")
            passed.append(f"{argument}={argument}")
    return [
        *call("    def __init__(", [*arguments, "**kwargs"], "):"),
        *(_DEFAULT_LR.format(lr=number(defaults["lr"])) if "lr" in defaults else _OWN_LR).splitlines(),
        *([f'        kwargs.setdefault("begin_num_update", {first})'] if first else []),
        *call("        super().__init__(", [*passed, "**kwargs"], ")"),
        *(f"        self.{h} = {h}" for h in own),
        *keep,
        *(["        self._check()"] if check else []),
        "",
    ]


def _check(name: str, defaults: Mapping[str, float]) -> list[str]:
    """The method that refuses what the base class accepts and the rule does not have; none if nothing."""
    lines = []
    if "weight_decay" not in defaults:
        lines += [
            "        if self.wd:",
            f'            raise ValueError("{name}: the rule has no decay; expected wd 0")',
        ]
    if _CLIP not in defaults:
        lines += [
            "        if self.clip_gradient is not None:",
            f'            raise ValueError("{name}: the rule does not clip; expected clip_gradient None")',
        ]
    doc = '        """Refuse what the base class accepts and the rule does not have."""'
    return ["    def _check(self):", doc, *lines, ""] if lines else []


def _values(spec: Spec, defaults: Mapping[str, float]) -> list[str]:
    """The method that gathers an update's hyperparameters."""
    reads = {h: _BASE[h][1] if h in _BASE else f"self.{h}" for h in defaults}
    if _CLIP in reads:
        reads[_CLIP] = f"math.inf if self.{_CLIP} is None else self.{_CLIP}"
    if len(spec.groups) == 1 and spec.groups[0].lr_mult != 1:
        reads["lr"] += f" * {number(spec.groups[0].lr_mult)}"
    items = [f'"{h}": {read}' for h, read in reads.items()]
    doc = '        """Hyperparameters of this update of the parameter at ``index``."""'
    head = ["    def _values(self, index):", doc]
    if len(spec.groups) == 1:
        return [*head, *call("        return {", items, "}"), ""]
    return [
        *head,
        *call("        values = {", items, "}"),
        "        for key, value in self._group(index).items():",
        "            if key in FACTORS:",
        "                values[FACTORS[key]] *= value",
        "            elif key in values:",
        "                values[key] = value",
        "        return values",
        "",
    ]


def emitted_state(state: TrainingState, module: str) -> NativeState:
    """What ``.states`` files of the optimizer that `emit` writes for ``state.spec`` hold.

    module: name of the module that the class will be imported from.
    Index i is parameter i in the model's order where the weights tell it, else group by group.
    """
    names = state.ordered_names
    attributes: dict[str, Any] = {"__module__": module, "param_idx2name": dict(enumerate(names))}
    rules = source.rules_of(state.spec)
    attributes["rule"] = next(iter(rules)) if len(rules) == 1 else None
    defaults = _defaults(state.spec)
    if len(state.spec.groups) > 1:
        attributes["groups"] = [_table_row(g, defaults, len(rules) > 1) for g in state.spec.groups]
    elif state.spec.groups[0].lr_mult != 1:
        defaults["lr"] *= state.spec.groups[0].lr_mult
    for h, value in defaults.items():
        attributes[{"lr": "lr", "weight_decay": "wd"}.get(h, h)] = value
    if math.isinf(attributes.get(_CLIP, 0.0)):
        attributes[_CLIP] = None
    out = NativeState("mxnet", "", source.class_name(state.spec, None), named=True)
    out.groups = [NativeGroup(attributes, names)]
    for name in names:
        out.steps[name] = state.steps[name]
        full = state.full_slots(name) if state.slots.get(name) else {}
        master = full.pop(MASTER, None)
        # A scalar is an array of one: MXNet has none without dimensions.
        scalars = {s.name for s in state.spec.group(name).rule.slots if s.shape == "scalar"}
        paths = {f"[{i}]": a.reshape(1) if s in scalars else a for i, (s, a) in enumerate(full.items())}
        if master is not None:
            attributes["multi_precision"] = True
            paths = {"[0]": master, **{f"[1]{p}": a for p, a in paths.items()}}
        if paths:
            out.slots[name] = paths
    return out


def emitted_groups(native: NativeState) -> list[Group] | None:
    """Groups of states that an emitted optimizer saved, None where another wrote them.

    Raises:
        UnknownNameError: its rule is not one that this optexport can emit.
    """
    held = native.groups[0].arguments if native.groups else {}
    if "__module__" not in held or "rule" not in held:
        return None
    has = {"lr": held.get("lr"), "weight_decay": held.get("wd"), **held}
    if has.get(_CLIP) is None:
        has[_CLIP] = math.inf
    params = list(native.groups[0].params)
    listed = {p for row in held.get("groups", ()) for p in row["params"] or ()}
    out = []
    for row in held.get("groups") or [{"params": None}]:
        rule = source.rule_named(row.get("rule") or held["rule"])
        factors = {h: row.get(factor, 1.0) for h, (_, _, factor) in _BASE.items()}
        values = {h.name: row.get(h.name, has.get(h.name)) for h in rule.hyperparameters}
        values = {h: v * factors.get(h, 1.0) if isinstance(v, float | int) else v for h, v in values.items()}
        names = [p for p in params if (p in row["params"] if row["params"] is not None else p not in listed)]
        checked = {h.name: h.check("emitted optimizer", values[h.name]) for h in rule.hyperparameters}
        out.append(Group(rule, checked, tuple(names)))
    return [g for g in out if g.params]


def emitted_paths(rule: Rule, master: bool) -> dict[str, str]:
    """Place in a state -> slot, for an emitted optimizer."""
    own = {f"[{i}]": s for i, s in enumerate(rule.slot_names)}
    return {"[0]": MASTER, **{f"[1]{p}": s for p, s in own.items()}} if master else own
