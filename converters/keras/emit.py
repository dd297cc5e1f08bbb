"""Keras source for any rule: one ``keras.optimizers.Optimizer`` subclass that imports Keras only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from optexport import source
from optexport.rules import Rule
from optexport.source import call, entries, number
from optexport.source.operators import HELPERS
from optexport.specs import Spec

from ._emitted import configuration, emitted_groups, emitted_paths, emitted_state
from ._operators import OPERATORS

__all__ = ["OPERATORS", "emit", "emitted_groups", "emitted_paths", "emitted_state"]

_ABOUT = """\
Scalars that depend on the step, on the learning rate or on a tensor are tensors without dimensions,
in float64 where the backend has it and in float32 on JAX without its 64-bit mode; where one meets a
tensor it is rounded to the dtype of the model's variable. The optimizer's variables: `iteration` and
`learning_rate`, then for each variable of the model `step`, its completed updates, and its slots.
What Keras' base class can do besides (decay, clipping, averaging, accumulation) is off.
"""

# With the rule's digest: Keras keeps one class a name, and a name does not tell all of a rule.
_DECORATOR = '@keras.saving.register_keras_serializable(package="optexport", name="{name}_{digest}")'

_BUILD = '''\
    def build(self, variables):
        """A step count and the slots of each variable."""
        if self.built:
            return
        super().build(variables)
{names}        self._steps, self._slots = [], []
        for i, variable in enumerate(variables):
            hyper = self._hyper(i, self.learning_rate)
            first = {init}(ops.convert_to_tensor(variable), hyper)
            self._steps.append(self._add(variable, "step", ops.convert_to_tensor({first}, "int32")))
            self._slots.append([self._add(variable, slot, value) for slot, value in first.items()])

    def _add(self, variable, slot, value):
        """An optimizer variable that starts at ``value``."""
        name = variable.path.replace("/", "_") + "_" + slot
        dtype = keras.backend.standardize_dtype(value.dtype)
        return self.add_variable(value.shape, lambda *_, **__: ops.copy(value), dtype, name=name)
'''

_UPDATE = '''\
    def _new(self, gradient, variable, learning_rate):
        """The new value of a variable, and its new slots."""
        i = self._get_variable_index(variable)
        slots = dict(zip({slots}, map(ops.convert_to_tensor, self._slots[i])))
        param = ops.stop_gradient(ops.convert_to_tensor(variable))
        gradient = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)
        step, hyper = scalar(self._steps[i]), self._hyper(i, learning_rate)
        return {update}(param, gradient, step, hyper, slots)

    def _store(self, variable, new, slots):
        i = self._get_variable_index(variable)
        for slot, value in zip(self._slots[i], slots.values()):
            self.assign(slot, value)
        self.assign(variable, new)
        self.assign_add(self._steps[i], 1)
'''

_ONE_BY_ONE = '''\
    def update_step(self, gradient, variable, learning_rate):
        """One update of one variable."""
        self._store(variable, *self._new(gradient, variable, learning_rate))
'''

_IN_STEP = '''\
    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        """One update of every variable; they advance together, because the rule sums over all of them."""
        running = [self._new(g, v, learning_rate) for g, v in zip(grads, trainable_variables)]
        for variable, (new, slots) in zip(trainable_variables, together(running)):
            self._store(variable, new, slots)
'''

_REFUSE = """\
    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        raise ValueError("decay is part of the rule: give variables without it a group of their own")
"""

_CONFIG = """\
        base = super().get_config()
        config = {key: base[key] for key in ("name", "learning_rate")}"""

# A schedule inside the rule: Keras' base class is given a function, so that it keeps no variable of a
# learning rate that nothing reads. What it tells a callback is NaN, and whoever sets one is refused.
_NO_RATE_CONFIG = """\
        config = {"name": self.name}"""

_NO_RATE_INIT = """\
        if learning_rate is not None:
            raise ValueError("the learning rate follows the schedule inside this class: pass no "
                             "learning_rate, but the arguments lr_*")
        super().__init__(learning_rate=lambda: float("nan"), name=name)"""

_INIT = "        super().__init__(learning_rate=learning_rate, name=name)"

_NO_RATE = """\
    @keras.optimizers.Optimizer.learning_rate.setter
    def learning_rate(self, value):
        raise ValueError("the learning rate follows the schedule inside this class; it cannot be set")
"""

_ONE_CONFIG = """\
    def _hyper(self, i, learning_rate):
        return {{**self.hyper, "lr": scalar(learning_rate)}}

    def get_config(self):
{config}
        return {{**config, **self.hyper, "rule": "{rule}"}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {{key: value for key, value in config.items() if key != "rule"}}
        return super().from_config(config, custom_objects)
"""

_GROUP_CONFIG = '''\
    def _group(self, i):
        """The row of the groups that variable ``i`` is in."""
        rest = None
        for group in self.groups:
            if group["params"] is None:
                rest = group
            elif self.names[i] in group["params"]:
                return group
        if rest is None:
            raise KeyError(f"variable {{self.names[i]!r}}: expected a name that the groups list")
        return rest

    def _hyper(self, i, learning_rate):
        group = self._group(i)
        return {{**group, "lr": scalar(learning_rate) * group["lr_mult"]}}

    def get_config(self):
{config}
        return {{**config, "names": self.names, "groups": self.groups}}
'''


def emit(spec: Spec, params: Mapping[str, Any] | None = None, *, class_name: str | None = None) -> str:
    """Source of a module with one optimizer class that computes exactly the rules of ``spec``.

    It works with ``model.fit`` on Keras' backends, JAX, PyTorch and TensorFlow; the learning rate is
    the base class's own, so a schedule or a callback may drive it. Constructor arguments are
    ``learning_rate`` and the rule's hyperparameters under the rule's own names, with the spec's values
    as defaults. Groups with values of their own become the table ``GROUPS``, found by the names that
    the constructor is given, in the order of the model's trainable variables (their paths otherwise).
    Every variable has a step count of its own.

    On JAX without its 64-bit mode scalars are float32: each of their operations rounds like a
    tensor's, ``1 − βᵗ`` is computed without cancellation, and a scalar slot that a rule keeps in float64
    is float32, so that what falls below 1e-38 (NAdam's product) becomes 0.

    params: name -> shape; settles the open group, and rules that depend on a parameter's shape.
    class_name: of the optimizer; made of the rules' names when None.

    Raises:
        HyperparameterError: no group, a ``class_name`` that is no identifier, or groups whose steps
            count from different numbers.
        UnknownNameError: a group lists a parameter that ``params`` lacks.
        RuleError: the rule needs random numbers or a Hessian, for which Keras has no place.
    """
    if params is not None:
        spec = spec.settle(params)
    rules = source.rules_of(spec)
    name = source.class_name(spec, class_name)
    made = [source.functions(key, rule, OPERATORS) for key, rule in rules.items()]
    together = any(f.sums for f in made)
    always = {h: OPERATORS.helpers[h] for h in ("scalar_dtype", "tensor", "scalar")}
    helpers = {**always, **{h: text for f in made for h, text in f.helpers.items()}}
    if together:
        helpers["together"] = HELPERS["together"]
    doc = source.docstring(f"{name}: a Keras optimizer, generated by optexport.", rules, _ABOUT)
    bodies = [text for f in made for text in (f.init, f.update)]
    parts = (*helpers.values(), *bodies, *_tables(spec, rules), _class(name, spec, rules, together))
    return source.module(doc, parts, "import keras\nfrom keras import ops")


def _tables(spec: Spec, rules: Mapping[str, Rule]) -> list[str]:
    """``GROUPS`` and ``RULES``, where one rule with one set of values is not all there is."""
    slots = {key: repr(rule.slot_names).replace("'", '"') for key, rule in rules.items()}
    if len(spec.groups) == 1:
        return [f"SLOTS = {slots[next(iter(rules))]}\n"]
    lines = ["# The groups of the spec; params None: every variable that no other group lists.", "GROUPS = ["]
    for row in configuration(spec.groups, None)["groups"]:
        lines += call("    {", entries(row), "},")
    rows = [f'"{key}": (init_{key}, update_{key}, {slots[key]})' for key in rules]
    return ["\n".join((*lines, "]", "")), "\n".join((*call("RULES = {", rows, "}"), ""))]


def _class(name: str, spec: Spec, rules: Mapping[str, Rule], together: bool) -> str:
    one, driven = len(spec.groups) == 1, bool(spec.lrs)
    key = next(iter(rules))
    places = {
        "config": _CONFIG if driven else _NO_RATE_CONFIG,
        "name": name,
        "rule": key,
        "first": source.first_step(spec),
        "digest": hashlib.sha256("".join(r.digest for r in rules.values()).encode()).hexdigest()[:8],
        "names": "" if one else "        self.names = self.names or [v.path for v in variables]\n",
        "init": f"init_{key}" if one else 'RULES[self._group(i)["rule"]][0]',
        "update": f"update_{key}" if one else 'RULES[self._group(i)["rule"]][1]',
        "slots": "SLOTS" if one else 'RULES[self._group(i)["rule"]][2]',
    }
    return "\n".join(
        (
            _DECORATOR.format(**places),
            *_head(name, spec, rules),
            _BUILD.format(**places),
            _UPDATE.format(**places),
            _IN_STEP if together else _ONE_BY_ONE,
            (_ONE_CONFIG if one else _GROUP_CONFIG).format(**places),
            *([] if driven else [_NO_RATE]),
            _REFUSE,
        )
    )


def _head(name: str, spec: Spec, rules: Mapping[str, Rule]) -> list[str]:
    """The class line, its docstring and its constructor."""
    values = configuration(spec.groups, None)
    rate = number(values["learning_rate"]) if spec.lrs else "None"
    starts = (_INIT if spec.lrs else _NO_RATE_INIT).splitlines()
    if len(spec.groups) > 1:
        return [
            f"class {name}(keras.optimizers.Optimizer):",
            '    """Each variable is updated by the rule and the values of its group.',
            "",
            "    names: of the model's trainable variables in their order, as the groups list them; their paths",
            "        when None. groups: as `GROUPS`.",
            '    """',
            "",
            f"    def __init__(self, learning_rate={rate}, names=None, groups=None, name=None):",
            *starts,
            "        self.names = None if names is None else list(names)",
            "        self.groups = [dict(group) for group in groups or GROUPS]",
            "",
        ]
    (rule,) = rules.values()
    own = [h for h in rule.hyperparameters if h.name != "lr"]
    arguments = [f"{h.name}={number(values[h.name])}" for h in own]
    # Where the rule computes the rate, ``learning_rate`` is there to be refused.
    arguments.insert(0 if spec.lrs else len(arguments), f"learning_rate={rate}")
    lines = [f"class {name}(keras.optimizers.Optimizer):", '    """One rule for all variables.', ""]
    if spec.lrs:
        lines += ["    learning_rate: a number, a schedule of Keras', or a function without arguments"]
    lines += [f"    {h.name}: {h.doc}" for h in own]
    lines += ['    """', ""]
    lines += call("    def __init__(", ["self", *arguments, "name=None"], "):")
    lines += starts
    lines += call("        self.hyper = {", [f'"{h.name}": {h.name}' for h in own], "}")
    return [*lines, ""]
