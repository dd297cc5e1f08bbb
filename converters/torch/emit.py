"""PyTorch source for any rule: one ``torch.optim.Optimizer`` subclass that imports torch only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from optexport import source
from optexport.rules import Rule
from optexport.source import Operators, call, entries, number, rule_name
from optexport.specs import Group, Spec
from optexport.state import TrainingState
from optexport.state.native import NativeGroup, NativeState

__all__ = ["OPERATORS", "emit"]

OPERATORS = Operators(
    functions={
        "sqrt": "torch.sqrt({0})",
        "exp": "torch.exp({0})",
        "log": "torch.log({0})",
        "abs": "torch.abs({0})",
        "sign": "sign({0})",
        "min": "torch.minimum({0}, {1})",
        "max": "torch.maximum({0}, {1})",
        "where": "torch.where({0}, {1}, {2})",
        "sum": "torch.sum({0}, dtype=torch.float64).item()",
        "mean": "torch.mean({0}, dtype=torch.float64).item()",
        "norm": "torch.linalg.vector_norm({0}, dtype=torch.float64).item()",
        "floor": "torch.floor({0})",
        "cos": "torch.cos({0})",
        "sum_axis": "torch.sum({0}, {attr}, keepdim=True)",
        "mean_axis": "torch.mean({0}, {attr}, keepdim=True)",
        "max_axis": "torch.amax({0}, {attr}, keepdim=True)",
        "mean_rest": "mean_rest({0})",
        "matmul": "torch.matmul({0}, {1})",
        "transpose": "{0}.transpose(-1, -2)",
        "expand": "{0}.expand_as(param)",
        "item": "{0}[{attr}]",
        "push": "torch.cat(({0}[1:], {1}.unsqueeze(0)))",
        "size": "float({0}.numel())",
        "size_along": "float({0}.shape[{attr}])",
        "rounded": "{0}.to(torch.{attr}).to(param.dtype)",
    },
    scalar_bound={"min": "torch.clamp({0}, max={1})", "max": "torch.clamp({0}, min={1})"},
    full="torch.full_like(param, {0})",
    zeros="torch.zeros_like(param)",
    copy="{0}.clone()",
    # torch computes number / tensor as number · (1 / tensor), which rounds twice.
    lift={"div": (0,)},
    modules=("torch", "math", "np"),
    filled="torch.full({shape}, {0}, dtype=param.dtype, device=param.device)",
    array_scalar="param.new_tensor({0})",
    helpers={
        "mean_rest": '''\
def mean_rest(x):
    """Mean over all axes but the first, which stay; 0 for a vector."""
    return x.mean(tuple(range(1, x.dim())), keepdim=True) if x.dim() > 1 else torch.zeros_like(x)
''',
        "sign": '''\
def sign(x):
    """-1, 0 or 1; NaN stays NaN, which torch.sign makes 0."""
    return torch.where(torch.isnan(x), x, torch.sign(x))
''',
    },
)

_ABOUT = """\
Scalars are Python floats (double); a tensor has its parameter's dtype, and a scalar that meets one
is rounded to it. State: one entry a slot, and "step", the number of completed updates.
"""

_STEP = '''\
    @torch.no_grad()
    def step(self, closure=None{arguments}):
        """One update of every parameter that has a gradient; returns the closure's loss.{more}"""
{check}        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
{collect}        for group in self.param_groups:
{choose}            for param in group["params"]:
                if param.grad is None:
                    continue
                if param.grad.is_sparse:
                    raise RuntimeError("{name}: expected dense gradients, found a sparse one")
                state = self.state[param]
                if not state:
                    state.update({init}(param, group), step={first})
{run}        return loss
'''

_UPDATE = '{update}(param, param.grad, int(state["step"]), group, state{given})'
_ONE_BY_ONE = """\
                new, slots = {call}
                state.update(slots, step=int(state["step"]) + 1)
                param.copy_(new)
"""
_TOGETHER = """\
                made = {call}
                updates.append((made, param, state))
        for (new, slots), (_, param, state) in zip(together([u for u, _, _ in updates]), updates):
            state.update(slots, step=int(state["step"]) + 1)
            param.copy_(new)
"""
# What `step` takes beside the closure: its documentation, what an update is given, what is checked, and a
# line before the update.
_GIVEN: Mapping[str, tuple[str, str, str, str]] = {
    "noise": (
        "noise: parameter -> independent standard normal numbers of its shape; drawn here when None.",
        "drawn",
        "",
        "                drawn = torch.randn_like(param) if noise is None else noise[param]\n",
    ),
    "hessian": (
        "hessian: parameter -> the diagonal of the Hessian, or its product with a vector; required.",
        "hessian[param]",
        '        if hessian is None:\n            raise ValueError("{name}: expected hessian={{parameter: tensor}}")\n',
        "",
    ),
}

_PARAM_GROUPS = '''\
def param_groups(named_parameters):
    """Parameter groups for the optimizer: every parameter at the values that GROUPS has for its name.

    named_parameters: ``model.named_parameters()``.
    """
    groups = [{**group, "params": []} for group in GROUPS]
    place = {name: i for i, group in enumerate(GROUPS) for name in group["params"] or ()}
    rest = next((i for i, group in enumerate(GROUPS) if group["params"] is None), None)
    for name, param in named_parameters:
        i = place.get(name, rest)
        if i is None:
            raise KeyError(f"parameter {name!r}: expected a name that GROUPS lists")
        groups[i]["params"].append(param)
    return [group for group in groups if group["params"]]
'''


def emit(spec: Spec, params: Mapping[str, Any] | None = None, *, class_name: str | None = None) -> str:
    """Source of a module with one optimizer class that computes exactly the rules of ``spec``.

    Hyperparameters are entries of the parameter groups under the rule's own names, with the spec's
    values as defaults; slots are state entries under the rule's own names, beside ``step``, an int.
    Groups with values of their own become the table ``GROUPS`` and ``param_groups()``, which takes
    ``model.named_parameters()``. Scalars are Python floats; tensors keep the parameter's dtype.

    params: name -> shape; only the names matter, to settle the open group.
    class_name: of the optimizer; made of the rules' names when None.

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
    if any(f.sums for f in made):
        helpers["together"] = source.HELPERS["together"]
    doc = source.docstring(f"{name}: a PyTorch optimizer, generated by optexport.", rules, _ABOUT)
    bodies = [text for f in made for text in (f.init, f.update)]
    return source.module(
        doc, (*helpers.values(), *bodies, *_tables(spec, rules), _class(name, spec, rules)), "import torch"
    )


def _tables(spec: Spec, rules: Mapping[str, Rule]) -> list[str]:
    """``GROUPS`` and ``RULES``, where one rule with one set of values is not all there is."""
    out = []
    if len(spec.groups) > 1:
        lines = [
            "# The groups of the spec; None: every parameter that no other group lists.",
            "GROUPS = [",
        ]
        for group in spec.groups:
            row: dict[str, Any] = {"params": None if group.params is None else list(group.params)}
            row |= {"rule": rule_name(group.rule)} if len(rules) > 1 else {}
            lines += call("    {", entries({**row, **group.values()}), "},")
        out += ["\n".join((*lines, "]", "")), _PARAM_GROUPS]
    if len(rules) > 1:
        rows = [f'"{key}": (init_{key}, update_{key})' for key in rules]
        out.append("\n".join((*call("RULES = {", rows, "}"), "")))
    return out


def _class(name: str, spec: Spec, rules: Mapping[str, Rule]) -> str:
    group = source.default_group(spec)
    key = rule_name(group.rule)
    head = [f"class {name}(torch.optim.Optimizer):"]
    if len(rules) == 1:
        docs = [f"    {h.name}: {h.doc}" for h in group.rule.hyperparameters]
        head += ['    """Every hyperparameter is an entry of each parameter group, read at each step.', ""]
        head += [*docs, '    """', ""]
        arguments = [f"{h}={number(v)}" for h, v in group.values().items()]
        head += call("    def __init__(", ["self", "params", *arguments], "):")
        head += call(
            "        defaults = {", [f'"rule": "{key}"', *(f'"{h}": {h}' for h in group.values())], "}"
        )
        names = {"choose": "", "init": f"init_{key}", "update": f"update_{key}"}
    else:
        head += [
            '    """Each parameter group has a "rule", one of RULES, and that rule\'s hyperparameters.',
            "",
            "    `param_groups` makes the groups.",
            '    """',
            "",
            "    def __init__(self, params):",
            *call("        defaults = {", entries({"rule": key, **group.values()}), "}"),
        ]
        choose = '            init, update = RULES[group["rule"]]\n'
        names = {"choose": choose, "init": "init", "update": "update"}
    return "\n".join(
        (
            *head,
            "        super().__init__(params, defaults)",
            "",
            _step(name, spec, rules, names),
        )
    )


def _step(name: str, spec: Spec, rules: Mapping[str, Rule], names: Mapping[str, str]) -> str:
    """The method ``step``; names: what chooses the rule, and what its functions are called."""
    given = source.given(rules.values())
    sums = any(n.op == "group_sum" for r in rules.values() for n in r.program.nodes)
    docs = [f"        {_GIVEN[g][0]}" for g in given]
    update = _UPDATE.format(update=names["update"], given="".join(f", {_GIVEN[g][1]}" for g in given))
    return _STEP.format(
        name=name,
        first=source.first_step(spec),
        choose=names["choose"],
        init=names["init"],
        arguments=", *, " + ", ".join(f"{g}=None" for g in given) if given else "",
        more="\n".join(("", "", *docs, "        ")) if docs else "",
        check="".join(_GIVEN[g][2].format(name=name) for g in given),
        collect="        updates = []\n" if sums else "",
        run="".join(_GIVEN[g][3] for g in given) + (_TOGETHER if sums else _ONE_BY_ONE).format(call=update),
    )


def emitted_state(state: TrainingState, module: str) -> NativeState:
    """What ``load_state_dict`` of the optimizer that `emit` writes for ``state.spec`` expects.

    Slots stand under the rule's names beside ``step``; the rule's name and every hyperparameter are
    group entries. module: unused; a state_dict names no class.
    """
    del module
    out = NativeState(
        "torch", "", source.class_name(state.spec, None), named=True, weights=dict(state.params)
    )
    for g in state.spec.groups:
        out.groups.append(NativeGroup({"rule": rule_name(g.rule), **g.values()}, list(g.params or ())))
    for name in state.names:
        out.steps[name] = state.steps[name]
        if state.steps[name]:
            out.slots[name] = {**state.full_slots(name), "step": np.asarray(state.steps[name], np.float32)}
    return out


def emitted_groups(native: NativeState) -> list[Group] | None:
    """Groups of a state_dict that an emitted optimizer saved, None where another wrote it.

    Raises:
        UnknownNameError: its rule is not one that this optexport can emit.
    """
    if not native.groups or not all(isinstance(g.arguments.get("rule"), str) for g in native.groups):
        return None
    out = []
    for g in native.groups:
        rule = source.rule_named(g.arguments["rule"])
        values = {
            h.name: h.check(f"rule {g.arguments['rule']}", g.arguments.get(h.name))
            for h in rule.hyperparameters
        }
        out.append(Group(rule, values, tuple(g.params)))
    return out


def emitted_paths(rule: Rule, master: bool) -> dict[str, str]:
    """Place in a state_dict -> slot, for an emitted optimizer."""
    del master
    return {**{s: s for s in rule.slot_names}, "step": "step"}
