"""The emitted ONNX graph on ONNX Runtime is the rule: numbers, layouts, in-place updates, the contract."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")

import onnxruntime as ort

import optexport as ox
from optexport import ir
from optexport.converters.onnx import _layout
from optexport.converters.onnx._functions import in_place
from optexport.converters.onnx._lower import OPERATORS, SHAPED
from optexport.converters.onnx.emit import emit
from optexport.converters.onnx.run import UpdateSession, snapshots
from optexport.errors import HyperparameterError, NamingError, UnknownNameError
from optexport.ir.analysis import Reach, reach
from optexport.ir.ops import OPS
from optexport.parity import compare_runs, problem, rounding_bound
from optexport.rules import CATALOGUE, Rule
from optexport.rules.base import Hyper
from optexport.specs import Group, Spec
from tests.converters.emitted import (
    CASES,
    MATRICES,
    MUTATED,
    build,
    every_operator,
    given,
    grouped,
    mutants,
    referee,
)

LAYOUTS = ("parameters", "flat")
SHAPES = {"w": (7, 5), "b": (5,), "one": (), "big": (24, 16)}
# n − a² loses what n and a² have in common; the problem's gradients leave a tenth of a percent at worst.
CENTERED = 1e3
# g − mean(g) loses what they have in common; the root of its square with decay rate 0.99 divides by no
# less than ε = 1e-3: |g|·√(1 − 0.99) / ε, |g| up to 4.
CENTRALIZED = 400.0
# FTRL's √n' − √n: n = 0.2 and the only gradient of a tensor of one element is 0.08, √n' / (√n' − √n).
ROOTS = 60.0
# L-BFGS' difference of two parameters, |w| / |s|: the first step of a tensor of one element is 6.5e-5 long,
# w 0.28. Later steps soon are shorter than a last digit of w, where gradients follow no function, so two
# updates are compared. (Whole runs, on a function: tests/parity/test_lbfgs.py.)
DIFFERENCES = 4.3e3


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which tiny tensors take every path: a bucket, a whole, blocks, several flat rows."""
    monkeypatch.setattr(_layout, "BLOCK", 64)
    monkeypatch.setattr(_layout, "SCAN_FROM", 256)
    monkeypatch.setattr(_layout, "SMALL", 10)
    monkeypatch.setattr(_layout, "ROW", 64)


def amplification(name: str) -> float:
    """Condition number of a case on the data of these tests."""
    named = {"centered": CENTERED, "centralize=True": CENTRALIZED, "ftrl": ROOTS, "lbfgs": DIFFERENCES}
    return math.prod(factor for word, factor in named.items() if word in name)


# Families that take parameters of so many axes at least.
AXES = {"group_adagrad": 2, "sm3": 1}


def shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """`SHAPES`, with axes of one element at the end where a rule takes no fewer."""
    least = max(AXES.get(g.rule.family, 0) for g in spec.groups)
    return {n: (*s, *(1,) * (least - len(s))) for n, s in SHAPES.items()}


def data(
    dtype: str, steps: int, seed: int = 3, spec: Spec | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]], list[float]]:
    """Parameters of every kind of shape, gradients with zeros and a spike, and rates that change."""
    rng = np.random.default_rng(seed)
    sizes = SHAPES if spec is None else shapes(spec)

    def draw(shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape) * scale, np.float32).astype(dtype)

    params = {n: draw(s) for n, s in sizes.items()}
    grads = []
    for t in range(steps):
        g = {n: draw(s, {2: 50.0, 4: 0.0}.get(t, 1.0)) for n, s in sizes.items()}
        g["w"][0] = 0
        grads.append(g)
    # Powers of two: the float input `lr` holds them exactly.
    return params, grads, [2.0 ** -(6 + t % 3) for t in range(steps)]


def compare(states: Iterable[Any], found: Iterable[Any], dtype: str, factor: float = 1.0) -> None:
    """Parameters and slots of every step within `rounding_bound` of the largest value seen so far.

    (Of one step's own values it would be too strict: tensors of one element pass through zero.)
    """
    scale: dict[tuple[str, str], float] = {}
    for update, (state, (params, slots)) in enumerate(zip(states, found, strict=True), 1):
        for name in state.names:
            bound = rounding_bound(state.spec.group(name).rule.program, update, dtype, factor)
            assert set(slots[name]) == set(state.slots[name])
            for slot, want in {"param": state.params[name], **state.slots[name]}.items():
                got = params[name] if slot == "param" else slots[name][slot]
                kinds = {x.name: x.dtype_for(np.dtype(dtype)) for x in state.spec.group(name).rule.slots}
                assert got.dtype == kinds.get(slot, dtype) and got.shape == want.shape
                top = scale[name, slot] = max(scale.get((name, slot), 0.0), float(np.abs(want).max()))
                error = float(np.abs(got.astype(np.float64) - want).max())
                assert error <= bound * top, (
                    f"update {update}, {name!r}, {slot}: {error:.3g}, bound {bound * top:.3g}"
                )


def check(spec: Spec, dtype: str, steps: int = 6, name: str = "", **options: Any) -> None:
    params, grads, lrs = data(dtype, steps, spec=spec)
    states = referee(spec, params, grads, lrs, "float64")
    options |= given(spec, params, steps)
    compare(states, snapshots(spec, params, grads, lrs, dtype=dtype, **options), dtype, amplification(name))


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_catalogue_rule_equals_the_referee(name: str, dtype: str, layout: str) -> None:
    spec = build(name)
    matrices = {"w": (4, 3), "b": (5, 1)} if spec.groups[0].rule.family in MATRICES else None
    p = problem(dtype, shapes=matrices)
    lrs = [float(np.dtype(dtype).type(x)) for x in p.lrs(0.01)]
    if name == "lbfgs":
        p, lrs = replace(p, grads=p.grads[:2]), lrs[:2]
    beside = given(spec, p.params, len(lrs))
    found = snapshots(spec, p.params, p.grads, lrs, dtype=dtype, layout=layout, **beside)
    states = referee(spec, p.params, p.grads, lrs, "float64")
    mismatch, _ = compare_runs(states, found, dtype, amplification=amplification(name))
    assert mismatch is None, str(mismatch)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_every_option_in_buckets_blocks_and_rows(name: str, layout: str, small_blocks: None) -> None:
    check(CASES[name], "float32", 2 if name == "lbfgs" else 6, name=name, layout=layout)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_operator_and_reduction(layout: str, dtype: str, small_blocks: None) -> None:
    check(every_operator(), dtype, layout=layout, name="centered")


def normalized() -> Spec:
    """Normalised gradient descent, w − η·g/‖g‖, and a counter that meets a tensor."""
    r = ir.Tracer()
    program = r.finish(param=r.param - r.hyper("lr") / ir.norm(r.grad) * r.grad - r.step * 1e-3)
    return Spec((Group(Rule("normalized", {}, program, (), (Hyper("lr", 0.1, 0, 1, "rate"),)), {"lr": 0.1}),))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_per_tensor_rule(layout: str, small_blocks: None) -> None:
    params, grads, lrs = data("float32", 4)
    states = referee(normalized(), params, grads, lrs, "float64")
    compare(states, snapshots(normalized(), params, grads, lrs, layout=layout), "float32")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_groups_multipliers_and_runtime_inputs(layout: str, small_blocks: None) -> None:
    spec = grouped()
    spec = Spec(tuple(replace(g, hyperparameters={**g.hyperparameters, "lr": 2.0**-7}) for g in spec.groups))
    check(spec, "float32", layout=layout)
    two = Spec(
        tuple(
            replace(g, hyperparameters={**g.hyperparameters, "lr": 2.0**-i})
            for i, g in enumerate(spec.groups)
        )
    )
    model = emit(two, SHAPES, layout=layout, runtime=("lr", "weight_decay"))
    names = [i.name for i in model.graph.input]
    assert [n for n in names if n.startswith("lr")] == ["lr.0", "lr.1", "lr.2"]
    assert "weight_decay" in names
    params, grads, _ = data("float32", 3)
    states = referee(two, params, grads, [None] * 3, "float64")
    compare(states, snapshots(two, params, grads, layout=layout), "float32")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_that_differ_by_parameter(layout: str, small_blocks: None) -> None:
    spec = build("adamw")
    params, grads, lrs = data("float64", 3)
    steps = {"w": 7, "b": 2, "one": 7, "big": 0}
    state = replace(ox.init(spec, params), steps=steps)
    states = []
    for g, lr in zip(grads, lrs, strict=True):
        state = ox.step(state, g, lr=lr)
        states.append(state)
    compare(
        states, snapshots(spec, params, grads, lrs, dtype="float64", steps=steps, layout=layout), "float64"
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_computes_in_float32(layout: str, small_blocks: None) -> None:
    """Each float16 update is the float32 update of the same numbers, rounded once."""
    spec = build("adamw")
    params, grads, lrs = data("float16", 4)
    state = ox.init(spec, params, dtype="float16")
    for (new, slots), g, lr in zip(
        snapshots(spec, params, grads, lrs, dtype="float16", layout=layout), grads, lrs, strict=True
    ):
        state = ox.step(state, g, lr=lr, dtype="float32")
        for n in params:
            rounded = {"param": state.params[n], **state.slots[n]}
            for key, value in {"param": new[n], **slots[n]}.items():
                assert value.dtype == np.float16
                np.testing.assert_allclose(value, rounded[key].astype(np.float16), rtol=2e-3, atol=1e-7)
        state = replace(state, params=new, slots=slots)


def test_bfloat16_computes_in_float32() -> None:
    """NumPy cannot hand bfloat16 over, so casts around the graph do: exact on the way in and out."""
    spec = build("adamw")
    model = emit(spec, {"w": (6, 5)}, dtype="bfloat16")
    verify(model)
    with pytest.raises(HyperparameterError, match="found bfloat16"):
        UpdateSession(model)
    kind, helper = onnx.TensorProto, onnx.helper
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type != kind.BFLOAT16:
            continue
        name = value.name
        for node in model.graph.node:
            node.input[:] = [f"{x}/half" if x == name else x for x in node.input]
            node.output[:] = [f"{x}/half" if x == name else x for x in node.output]
        if value in model.graph.input:
            model.graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}/half"], to=kind.BFLOAT16))
        else:
            model.graph.node.append(helper.make_node("Cast", [f"{name}/half"], [name], to=kind.FLOAT))
        value.type.tensor_type.elem_type = kind.FLOAT
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)

    def half(x: Any) -> np.ndarray:
        return np.asarray(x, ml_dtypes.bfloat16).astype(np.float32)

    tensors = {
        k: half(np.abs(rng.standard_normal((6, 5)))) for k in ("w", "w.grad", "w.exp_avg", "w.exp_avg_sq")
    }
    feeds = {**tensors, "step": np.array(4), "lr": np.array(0.125, np.float32)}
    found = dict(zip([o.name for o in model.graph.output], session.run(None, feeds), strict=True))
    state = replace(ox.init(spec, {"w": tensors["w"]}, dtype="float32"), steps={"w": 4})
    state = replace(state, slots={"w": {s: tensors[f"w.{s}"] for s in ("exp_avg", "exp_avg_sq")}})
    state = ox.step(state, {"w": tensors["w.grad"]}, lr=0.125)
    for key, want in {"w": state.params["w"], **{f"w.{s}": v for s, v in state.slots["w"].items()}}.items():
        np.testing.assert_allclose(found[f"{key}.new"], half(want), rtol=2.0**-8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_carried(value: float) -> None:
    spec = build("amsgrad", clip="before_decay")
    params, grads, lrs = data("float32", 2)
    grads[0]["w"][1, 1] = value
    states = ox.init(spec, params, dtype="float32")
    for (new, slots), g, lr in zip(snapshots(spec, params, grads, lrs), grads, lrs, strict=True):
        states = ox.step(states, g, lr=lr)
        for n in params:
            assert np.array_equal(np.isnan(new[n]), np.isnan(states.params[n]))
            for s in slots[n]:
                assert np.array_equal(np.isfinite(slots[n][s]), np.isfinite(states.slots[n][s]))


@pytest.mark.parametrize("name", MUTATED)
def test_a_changed_constant_or_operator_is_noticed(name: str) -> None:
    spec = build(name)
    params, grads, lrs = data("float64", 8)
    states = referee(spec, params, grads, lrs, "float64")
    factor = amplification(name)
    compare(states, snapshots(spec, params, grads, lrs, dtype="float64"), "float64", factor)
    survivors = []
    for where, mutant in mutants(spec):
        try:
            compare(states, snapshots(mutant, params, grads, lrs, dtype="float64"), "float64", factor)
            survivors.append(where)
        except AssertionError:
            pass
    assert not survivors


# --- in place ----------------------------------------------------------------------------------


def runs(spec: Spec, layout: str, steps: int = 4) -> Iterator[tuple[Any, Any]]:
    params, grads, lrs = data("float32", steps, spec=spec)
    beside = given(spec, params, steps)
    pairs = [
        snapshots(spec, params, grads, lrs, layout=layout, in_place=flag, **beside) for flag in (True, False)
    ]
    return zip(*pairs, strict=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_in_place_is_bitwise_the_copying_run(name: str, layout: str, small_blocks: None) -> None:
    for (p, s), (q, r) in runs(CASES[name], layout):
        for n in p:
            assert p[n].tobytes() == q[n].tobytes()
            assert all(s[n][k].tobytes() == r[n][k].tobytes() for k in s[n])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["adamw", "momentum"])
def test_in_place_at_real_sizes_on_threads(name: str, layout: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    params = {
        n: rng.standard_normal(s, np.float32)
        for n, s in {"w": (1024, 1280), "v": (300, 300), "b": (9,)}.items()
    }
    grads = {n: rng.standard_normal(v.shape, np.float32) for n, v in params.items()}
    model = emit(build(name), params, layout=layout)
    sessions = [UpdateSession(model, threads=threads, in_place=flag) for flag in (True, False)]
    for session in sessions:
        session.load(params)
        for _ in range(3):
            session.step(grads, lr=0.01)
    one, two = sessions
    for n in params:
        assert one.params[n].tobytes() == two.params[n].tobytes()
        assert all(one.slots[n][k].tobytes() == two.slots[n][k].tobytes() for k in one.slots[n])
    whole = snapshots(build(name), params, [grads] * 3, [0.01] * 3)
    *_, (last, _) = whole
    assert all(last[n].tobytes() == one.params[n].tobytes() for n in params)


REREAD: dict[str, Any] = {"nesterov": "lookahead_reread", "decay": "l2"}


def test_a_rule_that_reads_the_old_parameter_late_is_not_updated_in_place() -> None:
    spec = build("folded_nesterov", **REREAD)
    program = spec.groups[0].rule.program
    assert not in_place(program, "param") and in_place(program, "momentum_buffer")
    model = emit(spec, {"w": (256,)})
    meta = {p.key: p.value for p in model.metadata_props}
    assert json.loads(meta["optexport.copied"]) == ["w.new"]
    # And the check is needed: written over all the same, the numbers change.
    next(p for p in model.metadata_props if p.key == "optexport.copied").value = "[]"
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal(256).astype(np.float32) for _ in range(2))
    wrong, right = UpdateSession(model), UpdateSession(model, in_place=False)
    for session in (wrong, right):
        session.load({"w": w})
        session.step({"w": g}, lr=0.1)
    assert not np.array_equal(wrong.slots["w"]["momentum_buffer"], right.slots["w"]["momentum_buffer"])


# --- the contract ------------------------------------------------------------------------------


def verify(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_graph_is_valid_and_plain(name: str, dtype: str, layout: str, small_blocks: None) -> None:
    spec = build(name)
    model = emit(spec, shapes(spec), dtype=dtype, layout=layout)
    verify(model)
    assert model.ir_version <= 9
    assert {o.domain: o.version for o in model.opset_import} == {"": 18, "optexport": 1}
    bodies = [model.graph, *(a.g for n in model.graph.node for a in n.attribute if a.HasField("g"))]
    assert {n.domain for b in bodies for n in b.node} <= {"", "optexport"}
    local = {f.name for f in model.functions}
    assert {n.op_type for b in bodies for n in b.node if n.domain} <= local
    assert {n.domain for f in model.functions for n in f.node} == {""}
    assert all(f.domain == "optexport" and f.doc_string for f in model.functions)
    meta = {p.key: p.value for p in model.metadata_props}
    assert json.loads(meta["optexport.spec"])["groups"]
    # A flat buffer has no place for a scalar, a row or a history, and no sum over all parameters.
    fitting = [
        all(x.shape == "param" for x in g.rule.slots) and reach(g.rule.program) is not Reach.GROUP
        for g in spec.settle(shapes(spec)).groups
    ]
    assert ("optexport.flat" in meta) == (layout == "flat" and any(fitting))


def test_inputs_and_outputs() -> None:
    model = emit(ox.spec("adamw"), {"w": (4, 3), "b": (4,)})
    assert [i.name for i in model.graph.input] == [
        "step",
        "lr",
        *(n + s for n in ("w", "b") for s in ("", ".grad", ".exp_avg", ".exp_avg_sq")),
    ]
    assert [o.name for o in model.graph.output] == [
        *(f"{n}{s}.new" for n in ("w", "b") for s in ("", ".exp_avg", ".exp_avg_sq")),
        "step.new",
    ]
    shapes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in model.graph.input}
    kinds = {i.name: i.type.tensor_type.elem_type for i in model.graph.input}
    assert shapes["w.exp_avg"] == (4, 3) and shapes["lr"] == () == shapes["step"]
    assert kinds["step"] == onnx.TensorProto.INT64 and kinds["lr"] == onnx.TensorProto.FLOAT
    double = emit(ox.spec("adamw"), {"w": (4, 3)}, dtype="float64")
    assert {i.type.tensor_type.elem_type for i in double.graph.input if i.name in ("lr", "w")} == {
        onnx.TensorProto.DOUBLE
    }
    assert "η" in model.graph.doc_string and "v' = " in model.graph.doc_string


def test_public_emit_and_plain_session() -> None:
    """As other programs do it: `optexport.emit`, then a session fed with NumPy arrays."""
    model = ox.emit(ox.spec("momentum", lr=0.5), "onnx", params={"w": (3,)})
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        "w": np.ones(3, np.float32),
        "w.grad": np.full(3, 2, np.float32),
        "w.momentum_buffer": np.zeros(3, np.float32),
        "step": np.array(4),
        "lr": np.array(0.5, np.float32),
    }
    new, buffer, step = session.run(["w.new", "w.momentum_buffer.new", "step.new"], feeds)
    assert np.array_equal(new, np.zeros(3)) and np.array_equal(buffer, np.full(3, 2)) and step == 5


def test_baked_hyperparameters_vanish() -> None:
    plain = emit(ox.spec("adamw", weight_decay=0.0), {"w": (3,)})
    (update,) = (f for f in plain.functions if not f.name.endswith("_scalars"))
    assert len(update.node) < 14
    baked = emit(ox.spec("adamw"), {"w": (3,)}, runtime=())
    assert [i.name for i in baked.graph.input if i.name in ("lr", "beta1")] == []


def test_one_function_a_rule() -> None:
    names = {f"p{i}": (8,) for i in range(20)}
    model = emit(Spec((replace(build("adamw").groups[0], params=("p0",)), build("adamw").groups[0])), names)
    assert sorted(f.name for f in model.functions) == ["adam", "adam_scalars"]
    (update,) = (f for f in model.functions if f.name == "adam")
    outputs = {o for n in update.node for o in n.output}
    assert {"w_decayed", "denominator"} <= outputs and "step_size" in update.input


def test_table_covers_every_operator_and_no_rule_is_named() -> None:
    assert set(OPERATORS) | set(SHAPED) | {"group_sum"} == set(OPS)


def test_flat_table_says_where_parameters_lie() -> None:
    model = emit(build("adamw"), SHAPES, layout="flat")
    (buffer,) = json.loads({p.key: p.value for p in model.metadata_props}["optexport.flat"])["buffers"]
    ends = 0
    for s in buffer["segments"]:
        assert s["offset"] == ends and tuple(s["shape"]) == SHAPES[s["name"]]
        ends += int(np.prod(s["shape"]))
    assert ends <= int(np.prod(buffer["shape"])) and buffer["name"] == "flat.0" and buffer["group"] == 0
    assert {"flat.0", "flat.0.grad", "flat.0.exp_avg"} <= {i.name for i in model.graph.input}


@pytest.mark.parametrize("n", [1, 17, 1 << 20, (1 << 20) + 7, 13_019_904, 50257 * 768, 1_299_709])
def test_tilings_cover_exactly(n: int) -> None:
    rows, row = _layout.flat_shape(n)
    assert n <= rows * row < n + 16 * rows + 16 and row <= _layout.ROW + 16
    tiles = _layout.blocks((n,))
    if tiles:
        assert tiles[0] * tiles[1] == n and _layout.BLOCK // 4 <= tiles[1] <= 4 * _layout.BLOCK
    else:
        assert n < _layout.SCAN_FROM or n in ((1 << 20) + 7, 1_299_709)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_thousand_parameters_in_seconds(layout: str) -> None:
    shapes = {f"p{i}": (64, 33) if i % 2 else (64,) for i in range(1000)}
    start = time.process_time()
    session = UpdateSession(emit(ox.spec("adamw"), shapes, layout=layout))
    session.load({n: np.zeros(s, np.float32) for n, s in shapes.items()})
    session.step({n: np.ones(s, np.float32) for n, s in shapes.items()}, lr=1.0)
    assert time.process_time() - start < 5
    assert all(np.allclose(v, -1) for v in session.params.values())


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (HyperparameterError, "shapes, found none", {"params": None, "layout": "flat"}),
        (HyperparameterError, "dtype expected one of", {"dtype": "int8"}),
        (HyperparameterError, "layout expected", {"layout": "round"}),
        (HyperparameterError, "'speed' expected one of", {"runtime": ("speed",)}),
        (UnknownNameError, "'x' is no parameter", {"steps": {"x": 1}}),
        (NamingError, "'w.grad' twice", {"params": {"w": (1,), "w.grad": (1,)}}),
        (NamingError, "'lr' twice", {"params": {"lr": (1,)}}),
    ],
)
def test_bad_requests(error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        emit(build("adamw"), **{"params": {"w": (2,)}, **arguments})


def test_without_shapes_one_vector_of_any_length() -> None:
    spec = ox.spec("adamw", lr=0.1, weight_decay=0.1)
    model = ox.emit(spec, "onnx")
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 7):
        w, g = np.linspace(-1, 1, n, dtype=np.float32), np.linspace(2, 3, n, dtype=np.float32)
        state = ox.step(ox.init(spec, {"param": w}), {"param": g}, lr=float(np.float32(0.1)))
        feeds = {"param": w, "param.grad": g, "param.exp_avg": 0 * w, "param.exp_avg_sq": 0 * w}
        (got,) = session.run(
            ["param.new"], {**feeds, "step": np.array(0, np.int64), "lr": np.array(0.1, np.float32)}
        )
        np.testing.assert_allclose(got, state.params["param"], rtol=1e-6)


def test_parameters_that_agree_in_all_but_the_first_axis_join_without_reshapes() -> None:
    spec = ox.spec("adamw", lr=0.1)
    alike = ox.emit(spec, "onnx", {f"p{i}": (i + 1, 3) for i in range(20)})
    assert not any(n.op_type == "Reshape" for n in alike.graph.node)
    assert (
        sum(n.domain == "optexport" and n.name.startswith("optexport/bucket") for n in alike.graph.node) == 1
    )
    unlike = ox.emit(spec, "onnx", {f"p{i}": (2, i + 1) for i in range(20)} | {"scalar": ()})
    assert any(n.op_type == "Reshape" for n in unlike.graph.node)
    for model in (alike, unlike):
        onnx.checker.check_model(model, full_check=True)
