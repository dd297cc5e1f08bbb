"""The interpreter: each operator against values written by hand, and where numbers are rounded."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

import optexport as ox
from optexport.errors import CheckpointError, HyperparameterError
from optexport.ir import (
    ARRAY,
    FLOAT32,
    FLOAT64,
    Tracer,
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
from optexport.ir.ops import OPS
from optexport.reference import run
from optexport.reference.interpreter import run_together

W = np.array([[1.0, -4.0], [9.0, 0.25]])
G = np.array([[2.0, 2.0], [-3.0, 0.5]])
HISTORY = np.array([[[0.0, 0.0], [0.0, 0.0]], [[3.0, 4.0], [5.0, 6.0]]])

# Expectations are numbers, worked out by hand for W and G.
OPERATORS = [
    ("add", lambda w, g: w + g, [[3.0, -2.0], [6.0, 0.75]]),
    ("sub", lambda w, g: w - g, [[-1.0, -6.0], [12.0, -0.25]]),
    ("mul", lambda w, g: w * g, [[2.0, -8.0], [-27.0, 0.125]]),
    ("div", lambda w, g: w / g, [[0.5, -2.0], [-3.0, 0.5]]),
    ("neg", lambda w, g: -w, [[-1.0, 4.0], [-9.0, -0.25]]),
    ("pow", lambda w, g: w**2, [[1.0, 16.0], [81.0, 0.0625]]),
    ("sqrt", lambda w, g: sqrt(absolute(w)), [[1.0, 2.0], [3.0, 0.5]]),
    ("exp", lambda w, g: exp(w * 0), [[1.0, 1.0], [1.0, 1.0]]),
    ("log", lambda w, g: log(exp(g)), [[2.0, 2.0], [-3.0, 0.5]]),
    ("abs", lambda w, g: absolute(w), [[1.0, 4.0], [9.0, 0.25]]),
    ("sign", lambda w, g: sign(w - 1), [[0.0, -1.0], [1.0, -1.0]]),
    ("min", lambda w, g: minimum(w, g), [[1.0, -4.0], [-3.0, 0.25]]),
    ("max", lambda w, g: maximum(w, 0.5), [[1.0, 0.5], [9.0, 0.5]]),
    ("eq", lambda w, g: where(w.equals(9.0), 1.0, 0.0), [[0.0, 0.0], [1.0, 0.0]]),
    ("lt", lambda w, g: where(w < 1.0, 1.0, 0.0), [[0.0, 1.0], [0.0, 1.0]]),
    ("le", lambda w, g: where(w <= 1.0, 1.0, 0.0), [[1.0, 1.0], [0.0, 1.0]]),
    ("where", lambda w, g: where(g > 0, w, g), [[1.0, -4.0], [-3.0, 0.25]]),
    ("sum", lambda w, g: w * 0 + total(w), [[6.25, 6.25], [6.25, 6.25]]),
    ("mean", lambda w, g: w * 0 + mean(w), [[1.5625, 1.5625], [1.5625, 1.5625]]),
    ("norm", lambda w, g: w * 0 + norm(g), [[math.sqrt(17.25)] * 2] * 2),
    (
        "cast",
        lambda w, g: w * 0 + cast(w.tracer.hyper("lr"), FLOAT32),
        [[0.1 + 1.4901161193847656e-09] * 2] * 2,
    ),
    ("floor", lambda w, g: floor(g), [[2.0, 2.0], [-3.0, 0.0]]),
    ("cos", lambda w, g: cos(w * 0), [[1.0, 1.0], [1.0, 1.0]]),
    ("sum_axis", lambda w, g: w * 0 + total_axis(w, -1), [[-3.0, -3.0], [9.25, 9.25]]),
    ("mean_axis", lambda w, g: w * 0 + mean_axis(w, 0), [[5.0, -1.875], [5.0, -1.875]]),
    ("mean_rest", lambda w, g: w * 0 + mean_rest(w), [[-1.5, -1.5], [4.625, 4.625]]),
    ("max_axis", lambda w, g: w * 0 + max_axis(w, -2), [[9.0, 0.25], [9.0, 0.25]]),
    ("matmul", lambda w, g: expand(matmul(w, g)), [[14.0, 0.0], [17.25, 18.125]]),
    ("transpose", lambda w, g: expand(transpose(w)), [[1.0, 9.0], [-4.0, 0.25]]),
    ("expand", lambda w, g: expand(total_axis(w, 0)), [[10.0, -3.75], [10.0, -3.75]]),
    ("item", lambda w, g: item(w.tracer.slot("h", ARRAY), 1), [[3.0, 4.0], [5.0, 6.0]]),
    ("push", lambda w, g: item(push(w.tracer.slot("h", ARRAY), g), 1), [[2.0, 2.0], [-3.0, 0.5]]),
    ("size", lambda w, g: w * 0 + size(w) / size(w, -1), [[2.0, 2.0], [2.0, 2.0]]),
    ("rounded", lambda w, g: rounded(g * 1.001, "bfloat16"), [[2.0, 2.0], [-3.0, 0.5]]),
    ("group_sum", lambda w, g: w * 0 + group_sum(total(w)), [[6.25, 6.25], [6.25, 6.25]]),
]


def compute(make, dtype=np.float64, **inputs):
    r = Tracer()
    program = r.program({"new": make(r.param, r.grad)})
    return run(
        program, {"param": W, "grad": G, "step": 2, "hyper:lr": 0.1, "slot:h": HISTORY, **inputs}, dtype
    )["new"]


@pytest.mark.parametrize(("op", "make", "expected"), OPERATORS, ids=[o for o, *_ in OPERATORS])
def test_each_operator(op, make, expected):
    found = compute(make)
    assert found.dtype == np.float64
    np.testing.assert_array_almost_equal_nulp(found, np.array(expected), nulp=1)


def test_every_operator_is_above():
    assert {o for o, *_ in OPERATORS} == set(OPS)


def test_a_group_sum_sees_every_member():
    r = Tracer()
    shared = r.program(
        {"new": r.grad * group_sum(total(r.grad)), "again": r.grad * group_sum(total(r.grad) ** 2)}
    )
    alone = Tracer()
    plain = alone.program({"new": alone.grad * 2})
    made = run_together(
        [
            (shared, {"grad": np.array([1.0, 2.0])}),
            (plain, {"grad": np.array([3.0])}),
            (shared, {"grad": np.array([4.0])}),
        ]
    )
    assert made[0]["new"].tolist() == [7.0, 14.0] and made[2]["new"].tolist() == [28.0]
    assert made[0]["again"].tolist() == [25.0, 50.0] and made[1]["new"].tolist() == [6.0]


def test_scalar_operators():
    r = Tracer()
    lr, t = r.hyper("lr"), r.step
    out = {
        "pow": lr**t,
        "where": where(t.equals(2), 3.0, 4.0),
        "less": where(t < 2, 1.0, where(lr <= 0.1, 5.0, 6.0)),
        "min": minimum(lr, t),
        "root": sqrt(t + 2),
    }
    found = run(r.program(out), {"hyper:lr": 0.1, "step": 2})
    assert found == {"pow": 0.1**2, "where": 3.0, "less": 5.0, "min": 0.1, "root": 2.0}
    assert all(type(v) is float for v in found.values())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda w: w / 0.0, [np.inf, np.nan, -np.inf]),
        (lambda w: sqrt(w), [1.0, 0.0, np.nan]),
        (lambda w: log(w), [0.0, -np.inf, np.nan]),
        (lambda w: maximum(w, w / w), [1.0, np.nan, 1.0]),
        (lambda w: sign(w / w), [1.0, np.nan, 1.0]),
    ],
)
def test_special_values_pass_without_a_warning(make, expected):
    r = Tracer()
    found = run(r.program({"new": make(r.param)}), {"param": np.array([1.0, 0.0, -1.0])})
    np.testing.assert_array_equal(found["new"], expected)


# Where numbers are rounded.


def test_scalars_are_double_and_rounded_where_they_meet_a_tensor():
    """(1 − 0.9) is made in double and rounded once; made in float32 it is another number."""
    r = Tracer()
    beta = r.hyper("beta")
    found = run(
        r.program({"new": (1 - beta) * r.param}), {"hyper:beta": 0.9, "param": np.ones(1)}, np.float32
    )["new"]
    assert found.dtype == np.float32
    once, twice = np.float32(1 - 0.9), np.float32(1) - np.float32(0.9)
    assert once != twice and found[0] == once


def test_float32_scalars_round_at_every_operation():
    r = Tracer()
    beta = cast(r.hyper("beta"), FLOAT32)
    out = {"gain": 1 - beta, "square": (1 - beta) * (1 - beta)}
    found = run(r.program(out), {"hyper:beta": 0.9})
    gain = np.float32(1) - np.float32(0.9)
    assert found == {"gain": float(gain), "square": float(gain * gain)}
    assert found["square"] != float(gain) ** 2


def test_a_kernel_that_takes_float32_computes_on_in_double():
    """Rounded on the way in, then double again: the family option ``scalars="float32"``."""
    r = Tracer()
    beta = cast(cast(r.hyper("beta"), FLOAT32), FLOAT64)
    assert run(r.program({"gain": 1 - beta}), {"hyper:beta": 0.9}) == {"gain": 1 - float(np.float32(0.9))}


def test_a_comparison_is_made_in_the_tensors_dtype():
    r = Tracer()
    program = r.program({"new": where(r.param.equals(r.hyper("lr")), 1.0, 0.0)})
    for dtype, expected in ((np.float32, 1.0), (np.float64, 0.0)):
        assert run(program, {"param": np.float32([0.1]), "hyper:lr": 0.1}, dtype)["new"] == [expected]


def test_reductions_are_double_whatever_the_tensor():
    r = Tracer()
    values = np.full(3, 0.1, np.float32)
    program = r.program({"sum": total(r.param), "norm": norm(r.param)})
    found = run(program, {"param": values}, np.float32)
    tenth = float(np.float32(0.1))
    assert found == {"sum": tenth + tenth + tenth, "norm": math.sqrt(tenth**2 + tenth**2 + tenth**2)}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_tensors_are_of_the_dtype_that_is_asked_for(dtype):
    found = compute(lambda w, g: w * 0.1 + g, dtype)
    assert found.dtype == dtype and found.shape == W.shape
    tenth = np.asarray(0.1, dtype)
    np.testing.assert_array_equal(found, (W.astype(dtype) * tenth + G.astype(dtype)).astype(dtype))


def test_inputs_are_not_changed():
    w, g = W.copy(), G.copy()
    for array in (w, g):
        array.flags.writeable = False
    r = Tracer()
    found = run(r.program({"new": r.param, "sum": r.param + r.grad}), {"param": w, "grad": g})
    np.testing.assert_array_equal(found["new"], W)


# Whole rules, worked out by hand.


def test_one_step_of_adam():
    """g = 1: m̂ = v̂ = 1 at the first update, so the step is η/(1 + ε), whatever β1 and β2 are."""
    state = ox.init(ox.spec("adam", lr=0.5, eps=0.25), {"w": np.array([2.0])})
    state = ox.step(state, {"w": np.array([1.0])})
    assert state.steps == {"w": 1}
    np.testing.assert_allclose(state.slots["w"]["exp_avg"], [0.1], rtol=1e-15)
    np.testing.assert_allclose(state.slots["w"]["exp_avg_sq"], [0.001], rtol=1e-13)
    np.testing.assert_allclose(state.params["w"], [2.0 - 0.5 / 1.25], rtol=1e-15)


def test_two_steps_of_adam_with_betas_of_a_half():
    """β1 = β2 = 1/2, η = 1, ε = 0; gradients 2 and −2.

    t = 1: m = 1, v = 2, c = 1/2: m̂ = 2, v̂ = 4, step 2/2 = 1.
    t = 2: m = −1/2, v = 3, c = 3/4: m̂ = −2/3, v̂ = 4, step −1/3.
    """
    spec = ox.spec("adam", lr=1.0, beta1=0.5, beta2=0.5, eps=0.0)
    state = ox.init(spec, {"w": np.array([0.0])})
    for grad, m, v, w in ((2.0, 1.0, 2.0, -1.0), (-2.0, -0.5, 3.0, -1.0 + 1 / 3)):
        state = ox.step(state, {"w": np.array([grad])})
        assert state.slots["w"]["exp_avg"] == [m] and state.slots["w"]["exp_avg_sq"] == [v]
        np.testing.assert_allclose(state.params["w"], [w], rtol=1e-15)


def test_adam_with_epsilon_hat():
    """As above at t = 1, ε = 1: outside 2/(2 + 1), hat √c2·2/(√2 + 1)."""
    for eps, length in (("outside", 2 / 3), ("hat", math.sqrt(0.5) * 2 / (math.sqrt(2) + 1))):
        spec = ox.spec("adam", lr=1.0, beta1=0.5, beta2=0.5, **{"eps": 1.0} if eps == "outside" else {})
        if eps == "hat":
            spec = ox.spec("adam_hat", lr=1.0, beta1=0.5, beta2=0.5, eps=1.0)
        state = ox.step(ox.init(spec, {"w": np.array([0.0])}), {"w": np.array([2.0])})
        np.testing.assert_allclose(state.params["w"], [-length], rtol=1e-15)


@pytest.mark.parametrize(
    ("rule", "arguments", "expected"),
    [
        ("sgd", {"lr": 0.5}, [-1.0, -2.0]),
        # B = 2, then 0.5·2 + 2 = 3.
        ("momentum", {"lr": 0.5, "momentum": 0.5}, [-1.0, -2.5]),
        # g + μB: 2 + 1 = 3, then 2 + 1.5 = 3.5.
        ("nesterov", {"lr": 0.5, "momentum": 0.5}, [-1.5, -3.25]),
        # The same run while η is constant.
        ("folded_momentum", {"lr": 0.5, "momentum": 0.5}, [-1.0, -2.5]),
        ("folded_nesterov", {"lr": 0.5, "momentum": 0.5}, [-1.5, -3.25]),
        # n = 0.75·0 + 0.25·4 = 1, then 1.75.
        ("rmsprop", {"lr": 1.0, "alpha": 0.75, "eps": 0.0}, [-2.0, -2.0 - 2 / math.sqrt(1.75)]),
        # s = 4, then 8.
        ("adagrad", {"lr": 1.0, "eps": 0.0}, [-1.0, -1.0 - 2 / math.sqrt(8)]),
    ],
)  # fmt: skip
def test_two_steps_with_a_gradient_of_two(rule, arguments, expected):
    state = ox.init(ox.spec(rule, **arguments), {"w": np.array([0.0])})
    for w in expected:
        state = ox.step(state, {"w": np.array([2.0])})
        np.testing.assert_allclose(state.params["w"], [w], rtol=1e-15)


def test_decoupled_decay_does_not_enter_the_moments():
    """w·(1 − ηλ) = 2·(1 − 0.5·0.5) = 1.5, then the step of a gradient of 1: η = 0.5."""
    state = ox.init(ox.spec("adamw", lr=0.5, weight_decay=0.5, eps=0.0), {"w": np.array([2.0])})
    state = ox.step(state, {"w": np.array([1.0])})
    np.testing.assert_allclose(state.params["w"], [1.0], rtol=1e-15)
    np.testing.assert_allclose(state.slots["w"]["exp_avg"], [0.1], rtol=1e-15)


# Stepping states.


def test_a_fresh_state():
    spec = ox.spec("adagrad", initial_accumulator_value=0.5)
    state = ox.init(spec, {"w": np.ones((2, 3), np.float32)})
    assert state.dtype == "float64" and state.params["w"].dtype == np.float64
    np.testing.assert_array_equal(state.slots["w"]["sum"], np.full((2, 3), 0.5))
    single = ox.init(spec, {"w": np.ones(2)}, dtype="float32")
    assert single.params["w"].dtype == single.slots["w"]["sum"].dtype == np.float32
    assert ox.step(single, {"w": np.ones(2)}).params["w"].dtype == np.float32


def test_a_parameter_without_a_gradient_is_left_alone():
    state = ox.init(ox.spec("adam"), {"a": np.ones(2), "b": np.ones(2)})
    state = ox.step(state, {"a": np.ones(2)})
    assert state.steps == {"a": 1, "b": 0}
    np.testing.assert_array_equal(state.params["b"], 1.0)
    assert not state.slots["b"]["exp_avg"].any()


def test_stepping_leaves_the_old_state_as_it_was():
    old = ox.init(ox.spec("adam"), {"w": np.ones(2)})
    ox.step(old, {"w": np.ones(2)})
    assert old.steps == {"w": 0} and not old.slots["w"]["exp_avg"].any() and (old.params["w"] == 1).all()


def test_gradients_that_do_not_fit():
    state = ox.init(ox.spec("sgd"), {"w": np.ones((2, 3))})
    with pytest.raises(HyperparameterError, match=r"gradient for 'v': expected a parameter among w"):
        ox.step(state, {"v": np.ones(1)})
    for shape in ((3, 2), (6,), (), (1, 3)):
        with pytest.raises(HyperparameterError) as caught:
            ox.step(state, {"w": np.ones(shape)})
        assert str(caught.value) == f"gradient for 'w': expected shape (2, 3), found {shape}"


def test_a_parameter_without_a_value():
    from dataclasses import replace

    state = replace(ox.init(ox.spec("sgd"), {"w": np.ones(1)}), params={})
    with pytest.raises(
        CheckpointError, match="parameter 'w': expected a value, found none; pass the weights"
    ):
        ox.step(state, {"w": np.ones(1)})
