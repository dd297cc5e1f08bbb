"""Programs as Python source, with NumPy as the framework: the emitted functions equal the referee."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optexport import ir, source
from optexport.errors import HyperparameterError, RuleError, UnknownNameError
from optexport.ir.ops import OPS
from optexport.reference import run
from optexport.reference.interpreter import run_together
from optexport.rules import Rule
from optexport.rules.base import Hyper, Slot
from optexport.rules.catalogue import CATALOGUE
from optexport.specs import Group, Spec

NUMPY = source.Operators(
    functions={
        **{op: f"np.{op}({{0}})" for op in ("sqrt", "exp", "log", "abs", "sign", "floor", "cos")},
        "pow": "np.power({0}, {1})",
        "min": "np.minimum({0}, {1})",
        "max": "np.maximum({0}, {1})",
        "where": "np.where({0}, {1}, {2})",
        "sum": "float(np.sum({0}, dtype=np.float64))",
        "mean": "float(np.mean({0}, dtype=np.float64))",
        "norm": "float(np.sqrt(np.square({0}, dtype=np.float64).sum()))",
        "sum_axis": "np.sum({0}, axis={attr}, keepdims=True)",
        "mean_axis": "np.mean({0}, axis={attr}, keepdims=True)",
        "max_axis": "np.max({0}, axis={attr}, keepdims=True)",
        "mean_rest": "np.mean({0}, axis=tuple(range(1, {0}.ndim)), keepdims=True)",
        "matmul": "np.matmul({0}, {1})",
        "transpose": "np.swapaxes({0}, -1, -2)",
        "expand": "np.broadcast_to({0}, param.shape)",
        "item": "{0}[{attr}]",
        "push": "np.concatenate([{0}[1:], {1}[None]])",
        "size": "float({0}.size)",
        "size_along": "float({0}.shape[{attr}])",
        "rounded": "{0}.astype(np.{attr}).astype(param.dtype)",
    },
    scalar_bound={"min": "np.minimum({0}, {1})", "max": "np.maximum({0}, {1})"},
    full="np.full_like(param, {0})",
    zeros="np.zeros_like(param)",
    copy="{0}.copy()",
    lift={},
    modules=("np", "math"),
    filled="np.full({shape}, {0}, param.dtype)",
)
HYPERS = (Hyper("lr", 0.1, 0, 1, ""), Hyper("sum", 0.5, 0, 1, ""))
SLOTS = (Slot("m", ""), Slot("step", "", init="lr"))


def rule(program: ir.Program, slots: tuple[Slot, ...] = SLOTS) -> Rule:
    return Rule("random", {}, program, slots, HYPERS)


def compiled(made: Rule) -> tuple[Any, Any]:
    functions = source.functions("f", made, NUMPY)
    text = source.module(
        '"""A test."""\n',
        (*functions.helpers.values(), functions.init, functions.update),
        "import numpy as np",
    )
    module = source.execute(text)
    return module.init_f, module.update_f


def random_program(seed: int) -> ir.Program:
    """Any operators on any operands; host scalars stay where Python has a value for them."""
    r, rng = ir.Tracer(), random.Random(seed)
    tensors = [r.param, r.grad, r.slot("m"), r.slot("step")]
    scalars = [r.hyper("lr"), r.hyper("sum"), r.step, ir.cast(r.hyper("lr"), ir.FLOAT32)]

    def any_value() -> Any:
        return rng.choice([*tensors, *tensors, *scalars, round(rng.uniform(-2, 2), 2)])

    for _ in range(rng.randint(4, 25)):
        a, b = rng.choice(tensors), any_value()
        a, b = (a, b) if rng.random() < 0.5 else (b, a)
        condition = rng.choice([lambda a, b: a < b, lambda a, b: a <= b, lambda a, b: r.value(a).equals(b)])
        tensors.append(
            rng.choice(
                [
                    lambda a, b: a + b,
                    lambda a, b: a - b,
                    lambda a, b: a * b,
                    lambda a, b: a / b,
                    lambda a, b: -(r.value(a) + b),
                    ir.minimum,
                    ir.maximum,
                    lambda a, b: ir.sqrt(a + b),
                    lambda a, b: ir.log(ir.exp(a - b)),
                    lambda a, b: ir.sign(a * b),
                    lambda a, b, c=condition: ir.where(c(a, b), any_value(), r.value(b)) + a * b,
                    lambda a, b: ir.where(r.step < 2, a, b) + b - a,
                    lambda a, b: ir.absolute(a - b) ** r.value(any_value()),
                ]
            )(a, b)
        )
        x, y = rng.choice(scalars), rng.choice([*scalars, 0.75])
        scalars.append(
            rng.choice(
                [
                    lambda x, y: x + y,
                    lambda x, y: 1 - x * y,
                    lambda x, y: ir.minimum(x, y),
                    lambda x, y: ir.where(x < y, x, x / y),
                    lambda x, y: ir.sqrt(ir.absolute(x)),
                    lambda x, y: ir.sign(x) - y,
                    lambda x, y: ir.cast(x, ir.FLOAT32),
                    lambda x, y: ir.mean(rng.choice(tensors)) / y,
                    lambda x, y: ir.minimum(ir.norm(rng.choice(tensors)), 2.0) ** y,
                ]
            )(x, y)
        )
        if rng.random() < 0.3:
            r.let(rng.choice(["m_hat", "t", "lr", "np", "class", "x", "η", "a b"]), tensors[-1])
    return r.finish(param=tensors[-1] + scalars[-1], m=rng.choice(tensors), step=rng.choice(tensors))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", range(150))
def test_source_equals_the_interpreter(seed: int, dtype: str) -> None:
    program = random_program(seed)
    _, update = compiled(rule(program))
    rng = np.random.default_rng(seed)
    tensors = {k: rng.standard_normal(6).astype(dtype) for k in ("param", "grad", "m", "step")}
    hyper = {"lr": 0.1, "sum": 0.7}
    for step in (0, 3):
        inputs = {"param": tensors["param"], "grad": tensors["grad"], "step": step}
        inputs |= {"slot:m": tensors["m"], "slot:step": tensors["step"]}
        inputs |= {f"hyper:{k}": v for k, v in hyper.items()}
        expected = run(program, inputs, dtype)
        slots = {"m": tensors["m"], "step": tensors["step"]}
        with np.errstate(all="ignore"):
            param, new = update(tensors["param"], tensors["grad"], step, hyper, slots)
        for name, value in {"param": param, **new}.items():
            assert value.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(value, expected[name])
            assert not any(np.shares_memory(value, t) for t in tensors.values())


def everything(r: ir.Tracer) -> dict[str, Any]:
    """A rule that has every operator on arrays, every shape of slot, and both scalar slots."""
    w, g, lr = r.param, r.grad, r.hyper("lr")
    rows = 0.5 * r.slot("rows", ir.ARRAY) + ir.mean_axis(g * g, -1)
    columns = ir.maximum(r.slot("columns", ir.ARRAY), ir.max_axis(g, 0)) + ir.total_axis(g, 0)
    gram = ir.matmul(ir.transpose(w), w) / ir.size(w, 0)
    past = ir.push(r.slot("past", ir.ARRAY), g)
    count, scale = r.slot("count", ir.FLOAT64), r.slot("scale", ir.FLOAT32)
    size = ir.floor(ir.size(w) / 5) + ir.cos(lr)
    new = w + ir.expand(ir.matmul(g, gram)) * scale - ir.rounded(rows * columns + w, "float16")
    return {
        "param": new + ir.floor(g * 4) + ir.cos(ir.item(past, 0)) * (size + count) + ir.mean_rest(g),
        "rows": rows,
        "columns": columns,
        "past": past,
        "count": count + ir.norm(g) + ir.total(w),
        "scale": ir.cast(scale * 0.3, ir.FLOAT32),
        "start": r.slot("start"),
    }


EVERY_SLOT = (
    Slot("rows", "", "lr", "without:-1"),
    Slot("columns", "", "zeros", "only:-1"),
    Slot("past", "", "zeros", "history:3"),
    Slot("count", "", "1", "scalar", "float64"),
    Slot("scale", "", "0.7", "scalar", "float32"),
    Slot("start", "", "param"),
)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_arrays_and_slots_of_every_shape_equal_the_interpreter(dtype: str) -> None:
    r = ir.Tracer()
    slots = tuple(
        Slot(s.name, s.doc, s.init, "only:1" if s.shape == "only:-1" else s.shape, s.dtype)
        for s in EVERY_SLOT
    )
    made = Rule("everything", {}, r.finish(**everything(r)), slots, HYPERS)
    init, update = compiled(made)
    rng = np.random.default_rng(0)
    param, grad = (rng.standard_normal((4, 3)).astype(dtype) for _ in range(2))
    hyper = {"lr": 0.1, "sum": 0.7}
    have = init(param, hyper)
    for slot in made.slots:
        want = slot.first(param, param.shape, dtype, hyper)
        np.testing.assert_array_equal(have[slot.name], want)
        assert np.shape(have[slot.name]) == want.shape
    for step in range(3):
        inputs = {"param": param, "grad": grad, "step": step}
        inputs |= {f"hyper:{k}": v for k, v in hyper.items()} | {f"slot:{k}": v for k, v in have.items()}
        expected = run(made.program, inputs, dtype)
        param, have = update(param, grad, step, hyper, have)
        for name, value in {"param": param, **have}.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
            assert not np.shares_memory(value, inputs.get(f"slot:{name}", inputs["param"]))


def test_sums_over_all_parameters_run_in_lockstep() -> None:
    def with_sums(r: ir.Tracer, k: float) -> ir.Program:
        size = ir.group_sum(ir.total(r.grad * r.grad) * k)
        return r.finish(param=r.param - r.grad / ir.sqrt(size) * ir.group_sum(size + r.hyper("lr")))

    r = ir.Tracer()
    programs = [with_sums(ir.Tracer(), 1.0), with_sums(ir.Tracer(), 2.0), r.finish(param=r.param * 2)]
    made = [source.functions(f"f{i}", rule(p, ()), NUMPY) for i, p in enumerate(programs)]
    assert [f.sums for f in made] == [True, True, False]
    helpers = {**made[0].helpers, "together": source.HELPERS["together"]}
    parts = (*helpers.values(), *(f.update for f in made))
    module = source.execute(source.module('"""A test."""\n', parts, "import numpy as np"))
    rng = np.random.default_rng(0)
    values = [(rng.standard_normal(n), rng.standard_normal(n)) for n in (3, 5, 2)]
    updates = [getattr(module, f"update_f{i}")(*v, 0, {"lr": 0.1}, {}) for i, v in enumerate(values)]
    inputs = [{"param": w, "grad": g, "step": 0, "hyper:lr": 0.1} for w, g in values]
    expected = run_together(list(zip(programs, inputs, strict=True)))
    for (param, _), want in zip(module.together(updates), expected, strict=True):
        np.testing.assert_allclose(param, want["param"], rtol=1e-15)


def test_what_a_framework_cannot_have_is_refused() -> None:
    r = ir.Tracer()
    operators = replace(NUMPY, refused={"noise": "it draws no numbers", "group_sum": "one at a time"})
    for value, message in (
        (r.noise * r.grad, "rule f: needs noise: it draws no numbers"),
        (r.grad * ir.group_sum(ir.total(r.grad)), "rule f: needs group_sum: one at a time"),
    ):
        with pytest.raises(RuleError, match=message):
            source.functions("f", rule(r.program({"param": value}), ()), operators)
    with pytest.raises(RuleError, match="'cos': expected a row in the framework's table, found none"):
        bare = replace(NUMPY, functions={})
        source.functions("f", rule(r.program({"param": ir.cos(r.grad)}), ()), bare)


def test_what_the_caller_gives_follows_the_slots() -> None:
    r = ir.Tracer()
    made = source.functions("f", rule(r.program({"param": r.param + r.noise * r.hessian}), ()), NUMPY)
    assert made.given == ("noise", "hessian")
    assert "def update_f(param, grad, step, hyper, slots, noise, hessian):" in made.update


def test_every_operator_of_the_ir_can_be_written() -> None:
    r = ir.Tracer()
    written = {n.op for n in r.finish(**everything(r)).nodes}
    for seed in range(150):
        written |= {n.op for n in random_program(seed).nodes}
    # Those that other tests of this file write.
    assert set(OPS) - written <= {"group_sum"}


def test_parentheses_keep_the_order_of_the_arithmetic() -> None:
    r = ir.Tracer()
    w, g, lr = r.param, r.grad, r.hyper("lr")
    for value, text in (
        (w + (g + lr), "param + (grad + lr)"),
        ((w + g) + lr, "param + grad + lr"),
        (w - (g - lr), "param - (grad - lr)"),
        (w * (g / lr), "param * (grad / lr)"),
        (w / g * lr, "param / grad * lr"),
        (-(w * g), "-(param * grad)"),
        ((-w) * g, "-param * grad"),
        ((w**2.0) ** lr, "(param**2)**lr"),
        ((-w) ** 2.0, "(-param)**2"),
        (w * -2.0, "param * -2"),
        (w - 1e-8, "param - 1e-08"),
        (ir.minimum(w, g + lr), "np.minimum(param, grad + lr)"),
        (ir.minimum(lr, w), "np.minimum(param, lr)"),
    ):
        operators = source.Operators(**{**NUMPY.__dict__, "functions": {**NUMPY.functions}})
        del operators.functions["pow"]  # type: ignore[attr-defined]
        text_found = source.functions("f", rule(r.program({"param": value}), ()), operators).update
        assert f"new_param = {text}\n" in text_found


def test_inputs_that_stay_are_copied_and_constants_filled() -> None:
    r = ir.Tracer()
    program = r.program({"param": r.grad, "m": r.param, "step": r.slot("m")})
    init, update = compiled(rule(program))
    param, grad, m = np.ones(3), np.full(3, 2.0), np.full(3, 3.0)
    new, slots = update(param, grad, 0, {"lr": 0.1}, {"m": m})
    assert (new[0], slots["m"][0], slots["step"][0]) == (2, 1, 3)
    assert not np.shares_memory(new, grad) and not np.shares_memory(slots["m"], param)
    assert {k: v.tolist() for k, v in init(param, {"lr": 0.25}).items()} == {"m": [0] * 3, "step": [0.25] * 3}


@pytest.mark.parametrize("name", ["x']; import os; ['", "class", "a b", "η", "", "1x"])
def test_a_name_that_is_no_identifier_is_refused(name: str) -> None:
    r = ir.Tracer()
    used = r.program({"param": r.param, name: r.grad})
    for made in (
        rule(used, (Slot(name, ""),)),
        rule(r.program({"param": r.param * r.hyper(name)}), ()),
        Rule("random", {}, r.program({"param": r.param}), (), (Hyper(name, 0, 0, 1, ""),)),
    ):
        with pytest.raises(RuleError, match="expected an ASCII Python identifier"):
            source.functions("f", made, NUMPY)


def test_labels_and_documents_cannot_break_out() -> None:
    r = ir.Tracer()
    hostile = 'x\n"""\nraise SystemExit\n"""\\'
    program = r.finish(param=r.let(hostile, r.param + 1) * 2)
    made = rule(program, ())
    functions = source.functions("f", made, NUMPY)
    text = source.docstring("Title", {"f": made}, 'ends in a quote"')
    module = source.execute(source.module(text, (functions.init, functions.update), "import numpy as np"))
    assert module.update_f(np.ones(1), np.ones(1), 0, {}, {})[0].tolist() == [4]


def test_numbers_come_back() -> None:
    import math

    for value in (0.1, -0.0, 1e-300, math.inf, -math.inf, 1 / 3, 2.0**70):
        found = eval(source.number(value))
        assert found == value and math.copysign(1, found) == math.copysign(1, value)
    assert math.isnan(eval(source.number(math.nan)))


def test_an_empty_spec_is_refused() -> None:
    with pytest.raises(HyperparameterError, match="expected at least one parameter group"):
        source.rules_of(Spec(()))


def test_names_of_rules_are_distinct() -> None:
    r = ir.Tracer()
    program = r.finish(param=r.param * 2)
    groups = [Group(Rule("own", {"kind": k}, program, (), ()), {"lr": 0.1}) for k in ("a", "b", "a")]
    assert len(source.rules_of(Spec(tuple(groups)))) == 2
    assert source.class_name(Spec(tuple(groups)), None) == "OptexportOwnGroups"


def test_a_name_tells_its_rule() -> None:
    for options in ({}, {"eps": "hat"}, {"decay": "none", "clip": "before_decay", "scalars": "float32"}):
        made = CATALOGUE["adam"].rule(**options)
        name = source.rule_name(made)
        assert name.isidentifier() and source.rule_named(name) == made
    assert source.rule_name(CATALOGUE["adam"].rule()) == "adam"
    for unknown in ("adam_000000000001", "adams", "adam_zz"):
        with pytest.raises(UnknownNameError, match="expected one that this optexport can emit"):
            source.rule_named(unknown)
