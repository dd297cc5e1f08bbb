"""The update inside a training graph: every rule, groups, schedules, transforms, and what it costs in nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

import optexport as ox
from optexport.cli import main
from optexport.converters.onnx.training_graph import Built, build
from optexport.errors import HyperparameterError
from optexport.parity import relative_error, rounding_bound
from optexport.rules import CATALOGUE
from tests.converters.emitted import build as spec_of
from tests.converters.onnx.test_emit import amplification

pytest.importorskip("onnxruntime", reason="runs graphs on stock onnxruntime (extra test-stock)")

from .stepping import Stepper

RNG = np.random.default_rng(3)
MLP = "(float[N, 6] x) => (float[N, 4] y) {h = MatMul(x, a)  g = Add(h, b)  t = Tanh(g)  y = MatMul(t, c)}"
WEIGHTS = {
    "a": RNG.standard_normal((6, 5)).astype(np.float32),
    "b": RNG.standard_normal((1, 5)).astype(np.float32),
    "c": RNG.standard_normal((5, 4)).astype(np.float32),
}
DATA = [(RNG.standard_normal((8, 6)).astype(np.float32), RNG.integers(0, 4, 8)) for _ in range(6)]


def mlp() -> onnx.ModelProto:
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {MLP}')
    made.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in WEIGHTS.items())
    return made


def started(spec: ox.Spec, **options: Any) -> Stepper:
    return Stepper(build(mlp(), "softmax_cross_entropy", spec, **options), gradients=True)


def gradients(stepper: Stepper) -> dict[str, np.ndarray]:
    return {n: stepper.seen[f"{n}.grad"].astype(np.float64) for n in stepper.built.params}


def follow(stepper: Stepper, steps: int, lr: float | None = None, factor: float = 1.0) -> ox.TrainingState:
    """Run, and compare every step with the referee's on the same gradients from the same state."""
    spec = stepper.built.spec
    live = {"lr"} & set(stepper.types)
    for i in range(steps):
        before = stepper.state()
        given = {n: RNG.standard_normal(stepper.held[n.rpartition(".")[0]].shape) for n in stepper.types
                 if n.endswith((".noise", ".hessian"))}  # fmt: skip
        x, label = DATA[i % len(DATA)]
        stepper(
            {"x": x, **{n: a.astype(np.float32) for n, a in given.items()}}, label, **dict.fromkeys(live, lr)
        )
        tensors = {kind: {n.rpartition(".")[0]: a.astype(np.float32) for n, a in given.items() if n.endswith(kind)}
                   for kind in ("noise", "hessian")}  # fmt: skip
        want = ox.step(
            before, gradients(stepper), lr=lr if live else None, **{k: v for k, v in tensors.items() if v}
        )
        got = stepper.state()
        assert got.steps == want.steps
        for n in want.params:
            rule = spec.group(n).rule
            bound = factor * rounding_bound(rule.program, 1, "float32")
            assert relative_error(got.params[n], want.params[n]) <= bound, (i, n)
            for slot, value in want.slots[n].items():
                assert relative_error(got.slots[n][slot], value) <= bound, (i, n, slot)
    return stepper.state()


@pytest.mark.parametrize("rule", CATALOGUE)
def test_every_rule_of_the_catalogue_updates_in_the_graph(rule: str) -> None:
    stepper = started(spec_of(rule))
    follow(stepper, 3, 0.01, max(amplification(rule), 1.0))


def test_groups_have_their_own_decay_and_rate() -> None:
    """Decay for matrices, none for the bias, a quarter of the rate for one of them; another frozen."""
    spec = ox.spec("adamw", lr=0.01, weight_decay=0.1, groups=[{"params": ["b"], "weight_decay": 0.0}])
    from dataclasses import replace

    first, rest = spec.groups
    spec = ox.Spec((first, replace(rest, params=("a",), lr_mult=0.25), replace(rest, params=("c",))))
    stepper = started(spec)
    end = follow(stepper, 4, 0.01)
    assert {g.params for g in end.spec.groups} == {("a",), ("b",), ("c",)}
    # The referee without multiplier is another run.
    plain = ox.Spec((first, replace(rest, params=("a", "c"))))
    other = started(plain)
    follow(other, 4, 0.01)
    assert relative_error(end.params["a"], other.held["a"]) > 1e-3


def test_a_frozen_parameter_is_a_constant() -> None:
    from optexport.converters.onnx.training_graph import Meant

    stepper = started(ox.spec("adamw", lr=0.01), meant=Meant(freeze=["b"]))
    follow(stepper, 2, 0.01)
    assert set(stepper.built.params) == {"a", "c"}
    assert "b" in {i.name for i in stepper.built.model.graph.initializer}


@pytest.mark.parametrize(
    "schedule",
    [("cosine", {"base": 0.1, "total": 5}), ("exponential", {"base": 0.1, "gamma": 0.5})],
    ids=lambda s: s[0],
)
def test_a_schedule_is_evaluated_in_the_graph(schedule: tuple[str, dict[str, float]]) -> None:
    made = ox.schedule(schedule[0], **schedule[1])
    stepper = started(ox.spec("sgd", lr=made))
    assert "lr" not in stepper.types
    for i in range(6):
        before = dict(stepper.held)
        stepper(*DATA[i])
        for n, g in gradients(stepper).items():
            np.testing.assert_allclose(stepper.held[n], before[n] - made.at(i) * g, rtol=1e-5, atol=1e-7)
    assert made.at(0) != made.at(3)


def test_a_scheduled_rate_may_stay_an_input() -> None:
    made = ox.schedule("exponential", base=0.1, gamma=0.5)
    stepper = started(ox.spec("sgd", lr=made), runtime=("lr",))
    before = dict(stepper.held)
    stepper(*DATA[0], lr=0.025)
    for n, g in gradients(stepper).items():
        np.testing.assert_allclose(stepper.held[n], before[n] - 0.025 * g, rtol=1e-5, atol=1e-7)


def test_the_global_norm_is_that_of_all_parameters() -> None:
    stepper = started(ox.spec("sgd", lr=1.0, clip_norm="global", max_norm=0.05))
    before = dict(stepper.held)
    follow(stepper, 1, 1.0)
    moved = np.sqrt(sum(float(((stepper.held[n] - before[n]) ** 2).sum()) for n in WEIGHTS))
    assert moved == pytest.approx(0.05, rel=1e-4)


def test_micro_batches_accumulate() -> None:
    """Three calls of a third of the batch are one of the whole batch."""
    x, label = DATA[0][0][:6], DATA[0][1][:6]
    parts = started(ox.spec("adamw", lr=0.01, accumulate="mean", accumulation_steps=3))
    for i in range(3):
        before = dict(parts.held)
        parts(x[2 * i : 2 * i + 2], label[2 * i : 2 * i + 2], lr=0.01)
        assert all((parts.held[n] == before[n]).all() for n in WEIGHTS) == (i < 2)
    whole = started(ox.spec("adamw", lr=0.01))
    whole(x, label, lr=0.01)
    for n in WEIGHTS:
        np.testing.assert_allclose(parts.held[n], whole.held[n], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_loss_scaling_scales_the_loss_before_the_backward_pass(kind: str) -> None:
    plain = started(ox.spec("adamw", lr=0.01))
    scaled = started(ox.spec("adamw", lr=0.01, overflow=kind, loss_scale=1024.0))
    for x, label in DATA[:3]:
        told = scaled(x, label, lr=0.01), plain(x, label, lr=0.01)
        assert told[0] == pytest.approx(told[1], rel=1e-6), "the loss that is told is not scaled"
        for n, g in gradients(plain).items():
            # A power of two: nothing but the order of the update's own roundings may differ.
            np.testing.assert_allclose(gradients(scaled)[n], 1024 * g, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(scaled.held[n], plain.held[n], rtol=1e-6, atol=1e-7)
    follow(scaled, 2, 0.01)


def test_a_loss_scale_may_be_an_input() -> None:
    stepper = started(ox.spec("sgd", lr=0.1, overflow="static", loss_scale=2.0), runtime=("lr", "loss_scale"))
    plain = started(ox.spec("sgd", lr=0.1))
    stepper(*DATA[0], lr=0.1, loss_scale=64.0)
    plain(*DATA[0], lr=0.1)
    for n, g in gradients(plain).items():
        np.testing.assert_array_equal(gradients(stepper)[n], 64 * g)
        np.testing.assert_array_equal(stepper.held[n], plain.held[n])


def test_an_overflow_skips_the_step_and_lowers_the_scale() -> None:
    stepper = started(
        ox.spec(
            "adamw",
            lr=0.01,
            overflow="dynamic",
            loss_scale=2.0**100,
            backoff_factor=2.0**-90,
            growth_interval=2,
        )
    )
    before = dict(stepper.held)
    x, label = DATA[0]
    wrong = x.copy()
    wrong[0, 0] = np.inf
    stepper(wrong, label, lr=0.01)
    # The other gradients are finite: one tensor's overflow holds all of them.
    assert [bool(np.isfinite(g).all()) for g in gradients(stepper).values()] == [False, True, True]
    for n in WEIGHTS:
        np.testing.assert_array_equal(stepper.held[n], before[n])
        assert float(stepper.held[f"{n}.loss_scale"]) == 2.0**10
    for want in (2.0**10, 2.0**11):
        stepper(x, label, lr=0.01)
        assert float(stepper.held["a.loss_scale"]) == want
    assert (stepper.held["a"] != before["a"]).any()


def test_one_loss_has_one_scale() -> None:
    with pytest.raises(
        HyperparameterError, match="the loss has one scale: expected groups with one loss scaling"
    ):
        started(
            ox.spec(
                "sgd",
                lr=0.1,
                overflow="static",
                loss_scale=2.0,
                groups=[{"params": ["a"], "loss_scale": 4.0}],
            )
        )
    with pytest.raises(HyperparameterError, match="found dynamic, none"):
        started(ox.spec("sgd", lr=0.1, groups=[{"params": ["a"], "overflow": "dynamic", "loss_scale": 4.0}]))


def deep(layers: int) -> onnx.ModelProto:
    nodes, tensors, h = [], {}, "x"
    for i in range(layers):
        tensors |= {f"{i}.weight": 0.3 * np.eye(8, dtype=np.float32), f"{i}.bias": np.zeros(8, np.float32)}
        nodes += [helper.make_node("Gemm", [h, f"{i}.weight", f"{i}.bias"], [f"g{i}"]),
                  helper.make_node("Relu", [f"g{i}"], [f"r{i}"])]  # fmt: skip
        h = f"r{i}"
    graph = helper.make_graph(
        nodes, "deep", [helper.make_tensor_value_info("x", 1, ["N", 8])],
        [helper.make_tensor_value_info(h, 1, ["N", 8])],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def update_nodes(built: Built) -> int:
    """Nodes that depend on a gradient's final value, or are the rule's."""
    after = {f"{n}.grad" for n in built.params}
    count = 0
    for node in built.model.graph.node:
        if node.domain or after.intersection(node.input):
            count += 1
            after |= set(node.output)
    return count


@pytest.mark.parametrize("rule", ["adamw", "sgd", "rmsprop", "lion"])
def test_nodes_of_an_elementwise_update_do_not_grow_with_the_parameters(rule: str) -> None:
    counts = [update_nodes(build(deep(n), "mse", ox.spec(rule, lr=0.1))) for n in (3, 300)]
    assert counts[0] == counts[1] < 30


# Half precision. ONNX Runtime's CPU provider has few float16 kernels, computes in float32 between casts and drops
# casts back and forth; ONNX' own evaluator does what the graph says.


def evaluated(stepper: Stepper, x: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients of a step by ONNX' own evaluator."""
    model = onnx.ModelProto()
    model.CopyFrom(stepper.built.model)
    names = list(stepper.built.params)
    model.graph.output.extend(
        helper.make_tensor_value_info(f"{n}.grad", onnx.TensorProto.FLOAT, None) for n in names
    )
    feeds = {
        **stepper.held,
        "step": stepper.step_count,
        "x": x,
        "label": label,
        "lr": np.asarray(0.01, np.float32),
    }
    with np.errstate(all="ignore"):
        got = ReferenceEvaluator(model).run([f"{n}.grad" for n in names], feeds)
    assert {g.dtype for g in got} == {np.dtype(np.float32)}
    return dict(zip(names, got, strict=True))


def test_half_precision_keeps_parameters_slots_and_loss_in_float32() -> None:
    spec = ox.spec("adamw", lr=0.01, overflow="dynamic", loss_scale=256.0)
    half, full = started(spec, compute="float16", keep=("y",)), started(spec)
    inner = onnx.shape_inference.infer_shapes(half.built.model, strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inner.graph.value_info}
    assert types["h"] == types["t"] == onnx.TensorProto.FLOAT16
    assert {t for n, t in half.types.items()} <= {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.INT64,
    }
    outputs = {o.name: o.type.tensor_type.elem_type for o in half.built.model.graph.output}
    assert outputs["y"] == outputs["loss"] == outputs["a.new"] == onnx.TensorProto.FLOAT
    follow(half, 1, 0.01)
    half, full = started(spec, compute="float16"), started(spec)
    exact = evaluated(half, *DATA[0])
    for stepper in (half, full):
        stepper(*DATA[0], lr=0.01)
    for n, g in gradients(full).items():
        # Fewer than 16 roundings to half on the way of any number, u = 2⁻¹¹.
        assert relative_error(gradients(half)[n], g) <= 16 * 2.0**-11, n
        assert 2.0**-13 < relative_error(exact[n], g) <= 16 * 2.0**-11, f"{n} is computed in half"


def test_small_gradients_need_the_loss_scale_in_half() -> None:
    """A gradient below 2⁻²⁵ is 0 in half; scaled it arrives."""
    tiny = {"a": 1.0, "b": 1.0, "c": 2.0**-14}

    def first(spec: ox.Spec) -> Mapping[str, np.ndarray]:
        model = mlp()
        for i, t in enumerate(model.graph.initializer):
            model.graph.initializer[i].CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(t) * np.float32(tiny[t.name]), t.name)
            )
        stepper = Stepper(build(model, "softmax_cross_entropy", spec, compute="float16"))
        x, label = DATA[0]
        return evaluated(stepper, np.float32(2.0**-12) * x, label)

    lost = first(ox.spec("sgd", lr=0.01))["a"]
    kept = first(ox.spec("sgd", lr=0.01, overflow="static", loss_scale=2.0**14))["a"]
    assert np.count_nonzero(kept) > np.count_nonzero(lost)


def test_half_precision_trains() -> None:
    half, full = (started(ox.spec("adamw", lr=0.03), compute=c) for c in ("float16", None))
    ends = []
    for stepper in (half, full):
        losses = [stepper(*DATA[0], lr=0.03) for _ in range(40)]
        assert losses[-1] < 0.2 * losses[0]
        ends.append(losses[-1])
    assert ends[0] == pytest.approx(ends[1], rel=0.05)


def in_bfloat16() -> dict[str, np.ndarray]:
    """Gradients of PyTorch where every tensor between the parameters and the output is bfloat16."""
    torch = pytest.importorskip("torch", reason="PyTorch computes in bfloat16")
    kept = {n: torch.nn.Parameter(torch.from_numpy(v.copy())) for n, v in WEIGHTS.items()}
    a, b, c = (p.bfloat16() for p in kept.values())
    x, label = DATA[0]
    y = torch.tanh(torch.from_numpy(x).bfloat16() @ a + b) @ c
    torch.nn.functional.cross_entropy(y.float(), torch.from_numpy(label)).backward()
    return {n: p.grad.numpy().astype(np.float64) for n, p in kept.items()}


def test_bfloat16_is_pytorchs() -> None:
    """Rounding float32 results is what PyTorch's kernels do, which accumulate in float32, in an order of their own:
    nearly all gradients are equal, and the others one unit away, u = 2⁻⁸."""
    rounded, full = (started(ox.spec("adamw", lr=0.01), compute=c) for c in ("bfloat16", None))
    for stepper in (rounded, full):
        stepper(*DATA[0], lr=0.01)
    for n, g in in_bfloat16().items():
        assert relative_error(gradients(rounded)[n], g) <= 2.0**-8, n
        assert relative_error(gradients(full)[n], g) > 2.0**-9, n
        assert np.mean(gradients(rounded)[n] == g) > 0.9, n
    assert any("bfloat16: numbers are rounded to it" in note for note in rounded.built.notes)
    assert set(rounded.state().params) == set(WEIGHTS)
    assert {v.dtype for v in rounded.state().params.values()} == {np.dtype(np.float32)}


def test_types_that_do_not_compute_are_refused() -> None:
    spec = ox.spec("sgd", lr=0.1)
    with pytest.raises(
        HyperparameterError, match="compute: expected float16, bfloat16 or float32, found 'int8'"
    ):
        build(mlp(), "softmax_cross_entropy", spec, compute="int8")


def test_the_command_computes_in_half(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    arguments = ["training-graph", str(tmp_path / "m.onnx"), "--loss", "softmax_cross_entropy", "--rule", "adamw",
                 "--hyper", "lr=0.01", "--compute", "float16"]  # fmt: skip
    with pytest.raises(SystemExit) as e:
        main([*arguments, "-o", str(tmp_path / "out.onnx")])
    assert not e.value.code
    made = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert any(n.op_type == "Cast" and n.attribute[0].i == onnx.TensorProto.FLOAT16 for n in made.graph.node)
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        main([*arguments, "--form", "training-info", "-o", str(tmp_path / "info.onnx")])
    assert e.value.code == 2
    assert "--compute: only the step graph" in capsys.readouterr().err
