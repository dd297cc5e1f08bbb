"""Operators beyond the elementwise ones, in a graph on ONNX Runtime: made rules against the referee."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest

import optexport as ox
from optexport.converters.onnx.emit import emit
from optexport.errors import HyperparameterError
from optexport.ir import (
    Tracer,
    Value,
    absolute,
    cos,
    expand,
    floor,
    group_sum,
    item,
    matmul,
    max_axis,
    mean_axis,
    mean_rest,
    push,
    rounded,
    size,
    sqrt,
    total,
    total_axis,
    transpose,
    where,
)
from optexport.rules import Rule, Slot
from optexport.rules.base import Hyper
from optexport.specs import Group, Spec

pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not in this environment")

PARAMS = {"a": np.linspace(-1.0, 2.0, 12).reshape(4, 3), "b": np.linspace(0.5, -1.5, 6).reshape(2, 3)}
RANKS = {"number": (), "vector": (5,), "images": (3, 2, 2, 4)}
LR = Hyper("lr", 0.1, 0.0, 1.0, "")


def rule(make: Callable[..., Mapping[str, Value]], *slots: Slot) -> Rule:
    r = Tracer()
    held = {s.name: r.slot(s.name, s.type) for s in slots}
    made = make(r, r.param, r.grad, r.hyper("lr"), **held)
    return Rule("made", {}, r.finish(**made), slots, (LR,))


def scalar(dtype: str) -> Slot:
    return Slot("s", "", "1", "scalar", dtype)


RULES: dict[str, Rule] = {
    "axes": rule(
        lambda r, w, g, lr: {"param": w - lr * g / sqrt(mean_axis(g * g, -1) + max_axis(absolute(g), -2))}
    ),
    "factored": rule(
        lambda r, w, g, lr, row: {
            "param": w - lr * g / (total_axis(row, -2) + absolute(row)),
            "row": 0.5 * row + mean_axis(g * g, -1),
        },
        Slot("row", "", "1", "without:-1"),
    ),
    "only": rule(
        lambda r, w, g, lr, c: {"param": w - lr * c * g, "c": c + max_axis(absolute(g), 0)},
        Slot("c", "", "zeros", "only:1"),
    ),
    "rest": rule(lambda r, w, g, lr: {"param": w - lr * (g - mean_rest(g))}),
    "matrix": rule(lambda r, w, g, lr: {"param": w - lr * expand(matmul(matmul(g, transpose(g)), w))}),
    "history": rule(
        lambda r, w, g, lr, h: {"param": w - lr * (item(h, 0) + 2.0 * item(h, 2)), "h": push(h, g)},
        Slot("h", "", "zeros", "history:3"),
    ),
    "size": rule(lambda r, w, g, lr: {"param": w - lr * g * sqrt(size(w, -2) / size(w, 1)) / size(w)}),
    "bfloat16": rule(lambda r, w, g, lr: {"param": w - lr * rounded(g, "bfloat16")}),
    "half": rule(lambda r, w, g, lr: {"param": w - lr * rounded(g, "float16")}),
    "schedule": rule(lambda r, w, g, lr: {"param": w - lr * (1.0 + cos(floor(r.step / 2.0))) * g}),
    "waves": rule(lambda r, w, g, lr: {"param": w - lr * (floor(g) + cos(g))}),
    "scalar slot": rule(
        lambda r, w, g, lr, s: {"param": w - lr * s * g, "s": s * (1.0 - lr ** (r.step + 1.0))},
        scalar("float64"),
    ),
    "float32 slot": rule(lambda r, w, g, lr, s: {"param": w - lr * s * g, "s": s * 0.9}, scalar("float32")),
    "scalar of data": rule(
        lambda r, w, g, lr, s: {"param": w - lr * s * g, "s": 0.9 * s + 0.1 * total(g * g)}, scalar("float64")
    ),
    "scalar of the step": rule(
        lambda r, w, g, lr, s: {"param": w - s * g, "s": lr / (r.step + 1.0)}, scalar("float64")
    ),
    "global norm": rule(lambda r, w, g, lr: {"param": w - lr * g / (sqrt(group_sum(total(g * g))) + 1.0)}),
    "two sums": rule(
        lambda r, w, g, lr, s: {
            "param": w - lr * g * group_sum(total(g * w) / (group_sum(total(w * w)) + 1.0)),
            "s": group_sum(total(g)),
        },
        scalar("float64"),
    ),
    "guarded": rule(
        lambda r, w, g, lr, h: {
            "param": where(group_sum(total(g)) > 0.0, w - lr * g, w),
            "h": where(g > 0.0, g, h),
        },
        Slot("h", ""),
    ),
    "noise": rule(lambda r, w, g, lr: {"param": w - lr * (g + r.noise)}),
    "hessian": rule(lambda r, w, g, lr: {"param": w - lr * g / (absolute(r.hessian) + 0.1)}),
}


@pytest.mark.parametrize("layout", ["parameters", "flat"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", RULES)
def test_each_operator_runs(name: str, dtype: str, layout: str) -> None:
    from optexport.converters.onnx.run import snapshots

    spec = Spec((Group(RULES[name], {"lr": 0.05}),))
    rng = np.random.default_rng(3)

    def draw() -> list[dict[str, Any]]:
        return [{n: rng.standard_normal(v.shape).astype(dtype) for n, v in PARAMS.items()} for _ in range(5)]

    start = {n: v.astype(dtype) for n, v in PARAMS.items()}
    grads, noise, hessian = draw(), draw(), draw()
    given = {r: v for r, v in (("noise", noise), ("hessian", hessian)) if RULES[name].program.inputs(r)}
    found = list(snapshots(spec, start, grads, dtype=dtype, layout=layout, **given))
    state = ox.init(spec, start)
    lr = float(np.dtype(dtype).type(0.05))
    tolerance = 1e-13 if dtype == "float64" else 4e-6
    for i, (params, slots) in enumerate(found):
        state = ox.step(state, grads[i], lr=lr, noise=noise[i], hessian=hessian[i])
        for n in PARAMS:
            np.testing.assert_allclose(params[n], state.params[n], rtol=tolerance, atol=tolerance)
            for s, value in state.slots[n].items():
                assert slots[n][s].shape == np.shape(value), (n, s)
                np.testing.assert_allclose(slots[n][s], value, rtol=tolerance, atol=tolerance)


def test_the_mean_over_the_rest_at_every_rank() -> None:
    from optexport.converters.onnx.run import snapshots

    params = {n: np.ones(shape) for n, shape in RANKS.items()}
    grads = [{n: np.random.default_rng(1).standard_normal(s) for n, s in RANKS.items()}]
    spec = Spec((Group(RULES["rest"], {"lr": 0.05}),))
    ((found, _),) = snapshots(spec, params, grads, dtype="float64")
    state = ox.step(ox.init(spec, params), grads[0])
    for n in RANKS:
        np.testing.assert_allclose(found[n], state.params[n], rtol=1e-14)
    assert (found["vector"] != params["vector"]).all()
    assert abs((found["images"] - 1.0).reshape(3, -1).sum(1)).max() < 1e-15


def test_every_operator_is_above() -> None:
    from optexport.converters.onnx._lower import SHAPED

    used = {n.op for r in RULES.values() for n in r.program.nodes}
    assert set(SHAPED) | {"group_sum", "matmul", "floor", "cos"} <= used


@pytest.mark.parametrize("name", RULES)
def test_the_graph_is_valid_and_plain(name: str) -> None:
    model = emit(Spec((Group(RULES[name], {"lr": 0.05}),)), {n: v.shape for n, v in PARAMS.items()})
    onnx.checker.check_model(model, full_check=True)
    assert {n.domain for n in model.graph.node} - {f.domain for f in model.functions} <= {""}


def test_a_sum_goes_over_all_groups() -> None:
    from optexport.converters.onnx.run import snapshots

    norm = RULES["global norm"]
    spec = Spec((Group(norm, {"lr": 0.05}, ("a",)), Group(norm, {"lr": 0.2}, ("b",))))
    grads = [{n: np.ones_like(v) for n, v in PARAMS.items()}]
    ((params, _),) = snapshots(spec, PARAMS, grads, dtype="float64")
    state = ox.step(ox.init(spec, PARAMS), grads[0])
    for n in PARAMS:
        np.testing.assert_allclose(params[n], state.params[n], rtol=1e-14)
    np.testing.assert_allclose(params["b"], PARAMS["b"] - 0.2 / (np.sqrt(18.0) + 1.0), rtol=1e-14)


def test_noise_must_be_given() -> None:
    from optexport.converters.onnx.run import UpdateSession

    session = UpdateSession(emit(Spec((Group(RULES["noise"], {"lr": 0.05}),)), {"a": (4, 3)}))
    session.load({"a": PARAMS["a"]})
    with pytest.raises(HyperparameterError, match=r"^input 'a.noise': expected an array, found none$"):
        session.step({"a": PARAMS["a"]}, 0.1, noise={})
