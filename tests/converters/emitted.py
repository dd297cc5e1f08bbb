"""What the tests of emitted optimizers share: cases, data, the referee's run, and the comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

import optexport as ox
from optexport import ir
from optexport.ir import Program
from optexport.rules import Rule, families
from optexport.rules.base import Hyper, Slot
from optexport.rules.catalogue import CATALOGUE
from optexport.specs import Group, Spec

STEPS = 30
# Values at which every hyperparameter matters.
VALUES = {
    "weight_decay": 0.05,
    "post_decay": 0.01,
    "momentum": 0.8,
    "dampening": 0.3,
    "eps": 1e-3,
    "lr_decay": 0.1,
    "initial_accumulator_value": 0.2,
    "rescale_grad": 0.5,
    "clip_gradient": 0.7,
    "clip_weights": 1.5,
}
# Per family the entry whose options are varied one by one.
RICHEST = {"sgd": "folded_nesterov", "adam": "amsgrad", "rmsprop": "rmsprop_momentum", "adagrad": "adagrad"}


def build(name: str, **options: Any) -> Spec:
    """A catalogue's rule at these options, its hyperparameters at `VALUES`."""
    rule = CATALOGUE[name].rule(**options)
    values = {h.name: VALUES.get(h.name, h.default) for h in rule.hyperparameters}
    return Spec((Group(rule, {**values, "lr": 0.01}),))


def cases() -> dict[str, Spec]:
    """Every catalogue entry, and every choice of every option of every family."""
    out = {name: build(name) for name in CATALOGUE}
    for family, name in RICHEST.items():
        for option in families()[family].options.values():
            for choice in option.choices:
                if choice != CATALOGUE[name].options.get(option.name, option.default):
                    out[f"{name}-{option.name}={choice}"] = build(name, **{option.name: choice})
    return out


CASES = cases()


# Families whose parameters are matrices.
MATRICES = frozenset({"group_adagrad"})


def data(
    steps: int = STEPS, spec: Spec | None = None
) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]], list[float | None]]:
    """Parameters, gradients with zeros, spikes and gaps, and learning rates that change."""
    rng = np.random.default_rng(7)
    matrices = spec is not None and any(g.rule.family in MATRICES for g in spec.groups)
    params = {"w": rng.standard_normal((4, 3)), "b": rng.standard_normal((5, 1) if matrices else 5)}
    grads = []
    for t in range(steps):
        scale = {7: 8.0, 9: 1e-6}.get(t, 1.0)
        g = {n: scale * rng.standard_normal(v.shape) for n, v in params.items()}
        if t in (0, 5):
            g["w"][:2] = 0
        if t == 6:
            g["b"][:] = 0
        if t % 8 == 3:
            del g["b"]
        grads.append(g)
    return params, grads, [(None, 0.003, 0.0005)[3 * t // steps] for t in range(steps)]


def referee(
    spec: Spec,
    params: Mapping[str, Any],
    grads: Iterable[Mapping[str, Any]],
    lrs: Iterable[float | None],
    dtype: str,
) -> list[Any]:
    """The training state after each step."""
    state, out = ox.init(spec, params, dtype=dtype), []
    for step, (g, lr) in enumerate(zip(grads, lrs, strict=True)):
        state = ox.step(state, g, lr=lr, noise=noise(params, step), hessian=noise(params, step))
        out.append(state)
    return out


def noise(params: Mapping[str, Any], step: int) -> dict[str, np.ndarray]:
    """Normal numbers of the parameters' shapes, others at each step."""
    rng = np.random.default_rng(100 + step)
    return {n: rng.standard_normal(np.shape(v)).astype(np.float32) for n, v in params.items()}


def given(spec: Spec, params: Mapping[str, Any], steps: int = STEPS) -> dict[str, Any]:
    """What a run of ``spec`` is given beside gradients: the same numbers as `referee`."""
    read = roles(spec)
    return {k: [noise(params, t) for t in range(steps)] for k in ("noise", "hessian") if k in read}


def roles(spec: Spec) -> set[str]:
    """What its rules read: parameters, slots, noise, …"""
    return {i.role for g in spec.groups for i in g.rule.program.inputs()}


def sums(spec: Spec) -> bool:
    """Whether a rule sums over all parameters of a step."""
    return any(n.op == "group_sum" for g in spec.groups for n in g.rule.program.nodes)


def worst(expected: Iterable[Any], found: Iterable[Any]) -> float:
    """Largest max|a−b| / max|b| over parameters and slots of all steps; infinite where one has a NaN."""
    error = 0.0
    for state, (params, slots) in zip(expected, found, strict=True):
        pairs = [(state.params[n], params[n]) for n in state.params]
        for name, wanted in state.slots.items():
            assert set(slots[name]) == set(wanted) or not (slots[name] or state.steps[name])
            pairs += [(wanted[s], slots[name][s]) for s in slots[name]]
        for a, b in pairs:
            assert a.shape == b.shape and a.dtype == b.dtype
            scale = np.abs(a).max()
            difference = np.abs(a.astype(np.float64) - b).max() / (scale if scale > 0 else 1.0)
            error = max(error, difference if np.isfinite(difference) else np.inf)
    return error


def tolerance(dtype: str, steps: int = STEPS) -> float:
    """Two roundings a step: libraries may differ in the last digit of √ and of powers, nothing else."""
    return 2 * steps * float(np.finfo(dtype).eps)


def every_operator() -> Spec:
    """A rule that no optimizer has: every operator of the IR, reductions and masks included."""
    r = ir.Tracer()
    w, g, lr, beta = r.param, r.grad, r.hyper("lr"), r.hyper("beta")
    m = r.let("m", beta * r.slot("m") + (1 - beta) * g)
    small = ir.cast(beta, ir.FLOAT32)
    norm_w, norm_m = r.let("norm_w", ir.norm(w)), r.let("norm_m", ir.norm(m))
    ratio = ir.where(norm_m.equals(0), 1.0, norm_w / norm_m)
    ratio = ir.maximum(ir.minimum(ratio, 10.0), ir.mean(ir.absolute(w)) / (1 + ir.total(g * g)))
    decay = ir.where(r.step < 3, ir.exp(-lr), ir.log(2 + r.step) ** -0.5)
    direction = ir.where(ir.absolute(m) <= small, ir.sign(m), m / (ir.sqrt(ir.absolute(m)) + 1))
    direction = ir.maximum(ir.minimum(direction, ir.exp(-w)), -((2 - ir.absolute(w)) ** 2.0))
    bounded = ir.where(r.step.equals(0), direction, 0.5 / (1 + ir.log(1 + ir.absolute(direction))))
    last = ir.where(g < 0, lr, 1 - small) + ir.sqrt(ir.absolute(lr)) * ir.sign(r.step - 2)
    new = w - lr * ratio * decay * (bounded + ir.maximum(m, g) * ir.minimum(lr, beta)) - lr * last
    program = r.finish(param=new, m=m, previous=w)
    rule = Rule(
        "everything",
        {},
        program,
        (Slot("m", "a mean"), Slot("previous", "the parameter before", init="beta")),
        (Hyper("lr", 0.01, 0, 1, "rate"), Hyper("beta", 0.9, 0, 1, "beta")),
    )
    return Spec((Group(rule, {"lr": 0.01, "beta": 0.9}),))


SWAPS = {"add": "sub", "sub": "add", "mul": "div", "div": "mul", "min": "max", "max": "min"}


def mutants(spec: Spec) -> Iterator[tuple[str, Spec]]:
    """The spec with one constant changed by a thousandth, or one operator by its opposite."""
    (group,) = spec.groups
    program = group.rule.program
    for i in sorted(program.used()):
        node = program.nodes[i]
        if node.op == "const" and node.attr != 0:
            other = replace(node, attr=float(node.attr) * 1.001)  # type: ignore[arg-type]
        elif node.op in SWAPS:
            other = replace(node, op=SWAPS[node.op])
        else:
            continue
        nodes = (*program.nodes[:i], other, *program.nodes[i + 1 :])
        rule = replace(group.rule, program=Program(nodes, program.outputs))
        yield f"{node.op} at {node.line}", Spec((replace(group, rule=rule),))


def seen(expected: Iterable[Any], found: Iterable[Any]) -> bool:
    """Whether the comparison in float64 tells a mutant's run from the referee's."""
    try:
        return worst(expected, found) > tolerance("float64")
    except (ArithmeticError, ValueError):
        return True  # scalars without a value: Python says so


MUTATED = ("adamw", "rmsprop_centered", "folded_nesterov", "adagrad")


def grouped() -> Spec:
    """Two rules, three sets of values, one of them for every parameter that is not listed."""
    plain, decayed = build("adamw", decay="none").groups[0], build("adamw").groups[0]
    other = replace(decayed, hyperparameters={**decayed.hyperparameters, "beta1": 0.5}, lr_mult=0.25)
    return Spec((replace(plain, params=("b",)), replace(other, params=("w",)), decayed))
