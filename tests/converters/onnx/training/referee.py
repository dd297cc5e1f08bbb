"""One operator at a time: our gradient on stock onnxruntime against torch's in float64.

A `Case` is a small graph with the same function in torch. The graph is differentiated with a random
gradient of its output, in every mode (static shapes, symbolic batch, shapes unknown), in float32 and
float64. Where torch has no such function, the referee is the central difference of ONNX' own reference
evaluator in float64.

The bound in float32 for a gradient is 10 times torch's own distance in float32 from float64 (how well the
function is conditioned), and for the roundings that are ours: a sum of n terms of random signs is off by
about √n units, and a rule has fewer than 16 other roundings on the way; so (16 + 2√n)·u·max |gradient|,
u = 2⁻²⁴ and n the size of the output. The bound in float64 is the same with u = 2⁻⁵³. A central
difference of step h is itself off by h² and u/h; with h = 1e-5, 1e-8 of the largest entry covers both.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from optexport.converters.onnx.training.backward import differentiate
from optexport.converters.onnx.training.composites import write_out
from optexport.converters.onnx.training.forward import _names
from optexport.converters.onnx.training.passes import simplify
from optexport.converters.onnx.training.tape import Tape

ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not in this environment")
torch = pytest.importorskip("torch", reason="needs torch, which is not in this environment")
if tuple(int(i) for i in ort.__version__.split(".")[:2]) < (1, 24):
    pytest.skip(
        f"needs onnxruntime 1.24 (operator set 24, products in float64), found {ort.__version__}",
        allow_module_level=True,
    )

NotImplementedKernel = ort.capi.onnxruntime_pybind11_state.NotImplemented
Arrays = dict[str, np.ndarray]
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
# The newest operator set of this onnxruntime.
NEWEST = 24


@dataclass(frozen=True)
class Case:
    """A graph and its function in torch.

    name: what is special about it. nodes: the last one's first output is ``y``. real: inputs with a
    gradient, arrays or shapes (then standard normal). other: inputs without one. fixed: initializers.
    torch: the function, by keywords of the inputs' names; None: finite differences.
    batch: inputs whose first dimension is the symbol N in the mode "batch". modes: of "static",
    "batch" and "free" (no dimension is known). doubles: False where neither
    onnxruntime nor ONNX' reference evaluator runs it in float64.
    """

    name: str
    nodes: Sequence[onnx.NodeProto]
    real: Mapping[str, Any]
    torch: Callable[..., Any] | None
    other: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 18
    batch: Sequence[str] = ("x",)
    modes: Sequence[str] = ("static", "batch")
    doubles: bool = True

    def arrays(self, dtype: str) -> Arrays:
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        # The same numbers in both types: those that float32 holds.
        return {
            n: np.asarray(rng.standard_normal(v) if isinstance(v, tuple) else v)
            .astype(np.float32)
            .astype(dtype)
            for n, v in self.real.items()
        }

    def model(self, dtype: str, mode: str) -> onnx.ModelProto:
        kind = {"float32": T.FLOAT, "float64": T.DOUBLE}[dtype]
        inputs = [helper.make_tensor_value_info(n, kind, self.dims(n, a.shape, mode))
                  for n, a in self.arrays(dtype).items()]  # fmt: skip
        inputs += [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype),
                                                 self.dims(n, np.shape(a), mode))
                   for n, a in self.other.items()]  # fmt: skip
        held = [numpy_helper.from_array(_typed(a, dtype), n) for n, a in self.fixed.items()]
        y = helper.make_tensor_value_info("y", kind, None)
        graph = helper.make_graph(self.nodes, "case", inputs, [y], held)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def dims(self, name: str, shape: Sequence[int], mode: str) -> list[Any]:
        if mode == "free":
            return [None] * len(shape)
        if mode == "batch" and name in self.batch and len(shape):
            return ["N", *shape[1:]]
        return list(shape)


def _typed(a: Any, dtype: str) -> np.ndarray:
    """A float64 initializer has the model's type; others keep theirs."""
    a = np.asarray(a)
    return a.astype(dtype) if a.dtype == np.float64 else a


def case(
    name: str, kind: str, args: str, torch: Callable[..., Any] | None, real: Mapping[str, Any], *,
    outputs: str = "y", other: Mapping[str, Any] | None = None, fixed: Mapping[str, Any] | None = None,
    opset: int = 18, batch: Sequence[str] = ("x",), modes: Sequence[str] = ("static", "batch"),
    doubles: bool = True, **attributes: Any,
) -> Case:  # fmt: skip
    """A case of one node; args: names of its inputs, ``-`` where one is left out."""
    ins = ["" if a == "-" else a for a in args.split()]
    node = helper.make_node(kind, ins, outputs.split(), name=f"the_{kind}", **attributes)
    return Case(f"{kind} {name}", [node], real, torch, other or {}, fixed or {}, opset, batch, modes, doubles)


@dataclass
class Differentiated:
    """The case's graph with its gradients: outputs ``y`` and ``d.<input>``, one more input ``d.y``."""

    model: onnx.ModelProto
    tape: Tape


def derive(model: onnx.ModelProto, wanted: Sequence[str], rank: int) -> Differentiated:
    """Forward and backward of a model whose output is ``y`` of this rank, by our rules."""
    opset = model.opset_import[0].version
    tape = Tape(opset, _names(model) | {"d.y"})
    tape.constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    simplify(model, tape, {})
    tape.types["d.y"] = tape.types["y"]
    if "y" in tape.shapes:
        tape.shapes["d.y"] = tape.shapes["y"]
    grads = differentiate(tape, "y", wanted, "d.y")
    write_out(tape)
    for name, g in grads.items():
        tape.op("Identity", g, name=f"d.{name}")
    kind = tape.types["y"]
    ranks = {"y": rank} | {f"d.{i.name}": len(i.type.tensor_type.shape.dim) for i in model.graph.input}
    outputs = [helper.make_tensor_value_info(n, kind, [None] * ranks[n])
               for n in ("y", *(f"d.{n}" for n in grads))]  # fmt: skip
    seed = helper.make_tensor_value_info("d.y", kind, [None] * rank)
    graph = helper.make_graph(tape.nodes, "derived", [*model.graph.input, seed], outputs, tape.initializers())
    made = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=10)
    onnx.checker.check_model(made)
    return Differentiated(made, tape)


def session(model: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> Arrays:
    names = [o.name for o in model.graph.output]
    used = {i.name for i in model.graph.input}
    found = session(model).run(names, {n: np.asarray(a) for n, a in feeds.items() if n in used})
    return dict(zip(names, found, strict=True))


def runs(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime has every operator of a model in its types."""
    try:
        session(model)
    except NotImplementedKernel:
        return False
    return True


def by_reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> Arrays:
    names = [o.name for o in model.graph.output]
    found = ReferenceEvaluator(model).run(names, {n: np.asarray(a) for n, a in feeds.items()})
    return {n: np.asarray(a) for n, a in zip(names, found, strict=True)}


def by_torch(c: Case, dtype: str, seed: np.ndarray | None) -> Arrays:
    """y and the gradients; seed None: y alone."""
    assert c.torch is not None
    real = {n: torch.tensor(a, requires_grad=True) for n, a in c.arrays(dtype).items()}
    other = {n: torch.tensor(np.asarray(a)) for n, a in c.other.items()}
    y = c.torch(**real, **other)
    found = {"y": y.detach().numpy()}
    if seed is not None:
        y.backward(torch.tensor(seed.astype(dtype)))
        found |= {f"d.{n}": np.zeros(t.shape) if t.grad is None else t.grad.numpy() for n, t in real.items()}
    return found


def by_differences(c: Case, seed: np.ndarray | None, h: float = 1e-5) -> Arrays:
    evaluate = ReferenceEvaluator(c.model("float64", "static"))
    at = c.arrays("float64")

    def value(**changed: np.ndarray) -> np.ndarray:
        (y,) = evaluate.run(["y"], {**at, **{n: np.asarray(a) for n, a in c.other.items()}, **changed})
        return np.asarray(y)

    found = {"y": value()}
    for name, a in at.items() if seed is not None else ():
        g = np.zeros(a.shape)
        for i in np.ndindex(a.shape):
            low, high = a.copy(), a.copy()
            low[i] -= h
            high[i] += h
            g[i] = np.sum((value(**{name: high}) - value(**{name: low})) * seed) / (2 * h)
        found[f"d.{name}"] = g
    return found


def check(c: Case) -> None:
    """Every mode and type of a case. Raises AssertionError."""
    if c.opset > NEWEST:
        pytest.skip(f"onnxruntime {ort.__version__} has no operator set {c.opset}")
    shape = (by_torch(c, "float64", None) if c.torch else by_differences(c, None))["y"].shape
    rng = np.random.default_rng(3)
    seed = rng.standard_normal(shape).astype(np.float32).astype(np.float64)
    true = by_torch(c, "float64", seed) if c.torch else by_differences(c, seed)
    single = by_torch(c, "float32", seed) if c.torch else {}
    for dtype in ("float32", "float64") if c.doubles else ("float32",):
        for mode in c.modes:
            made = derive(c.model(dtype, mode), list(c.real), seed.ndim)
            assert_plain(made.model)
            feeds = {**c.arrays(dtype), **c.other, "d.y": seed.astype(dtype)}
            try:
                found = run(made.model, feeds)
            except NotImplementedKernel:
                # Only an operator of the model itself may be missing.
                assert dtype == "float64" and not runs(c.model(dtype, mode)), f"{c.name}, {mode}, {dtype}"
                found = by_reference(made.model, feeds)
            for name, want in true.items():
                # A gradient that the graph does not have is zero. The output shows that torch's function is
                # the same one: its float64 kernels are not ours, and some have float32 constants.
                got = found.get(name, np.zeros(want.shape, dtype))
                held = "float32" if name == "y" else dtype
                off = bound(want, single.get(name), held, int(seed.size), differences=c.torch is None)
                where = f"{c.name}, {mode}, {dtype}: {name}"
                assert got.shape == want.shape, f"{where}: shape {got.shape}, torch's is {want.shape}"
                assert got.dtype == np.dtype(dtype), f"{where}: {got.dtype}"
                worst = float(np.max(np.abs(got - want), initial=0.0))
                assert worst <= off, f"{where}: off by {worst:.3g}, bound {off:.3g}"
                assert np.isfinite(want).all(), f"{where}: not a useful case"


def bound(want: np.ndarray, single: np.ndarray | None, dtype: str, n: int, *, differences: bool) -> float:
    """How far a gradient may be off; see the head of this file."""
    u = UNIT[dtype]
    largest = float(np.max(np.abs(want), initial=0.0))
    off = (16 + 2 * np.sqrt(n)) * u * max(largest, 1e-3)
    if single is not None:
        own = float(np.max(np.abs(single.astype(np.float64) - want), initial=0.0))
        off += 10 * own * u / UNIT["float32"]
    if differences:
        off += 1e-8 * max(largest, 1.0)
        off += 100 * u * max(largest, 1.0)
    return float(off)


def assert_plain(model: onnx.ModelProto) -> None:
    """Only operators of ONNX' own domain, and no sum that the runtime does from several threads."""
    for node in model.graph.node:
        assert node.domain in ("", "ai.onnx"), node.domain
        assert onnx.defs.get_schema(node.op_type, model.opset_import[0].version, "")
        if node.op_type == "ScatterND":
            held = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            assert held.get("reduction", b"none") == b"none", node.name
