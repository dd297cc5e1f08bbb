"""Runs the native operators: ONNX's preview optimizers and those of ONNX Runtime's training build."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper

from optexport.dialects import find
from optexport.errors import UnknownNameError

__all__ = ["native_snapshots"]

Arrays = Mapping[str, Any]
Snapshot = tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]
# (params, grads, slots, lr, completed updates) -> the new params and slots
Update = Callable[
    [dict[str, np.ndarray], Arrays, dict[str, dict[str, np.ndarray]], float, int],
    tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]],
]


def native_snapshots(
    optimizer: str,
    arguments: Mapping[str, Any],
    params: Arrays,
    grads: Sequence[Arrays],
    lrs: Sequence[float | None] | None = None,
    dtype: str = "float32",
) -> Iterator[Snapshot]:
    """Run ``onnx:Adam`` and the like; slots are under the operator's own names, from zeros.

    ``onnx:Momentum | Adam | Adagrad`` run in the reference evaluator, T being ``t0`` at the first
    update; ``onnxruntime:AdamWOptimizer | SGDOptimizerV2`` in onnxruntime-training 1.19.2 (float32).

    arguments: the operator's attributes and ``lr``, ``t0``; the others are as for ``snapshots``.

    Raises:
        UnknownNameError: no such operator, or this ONNX Runtime is not the training build.
    """
    record = find(optimizer)
    values = record.complete(arguments)
    if record.framework == "onnx":
        update, names = _preview(record.name, values), [n for n, _ in record.slots]
    else:
        update, names = _training(record.name, values), [n for n, _ in record.slots]
    now = {n: np.array(v, dtype) for n, v in params.items()}
    slots = {n: {s: np.zeros_like(v) for s in names} for n, v in now.items()}
    for count, gradients in enumerate(grads):
        given = None if lrs is None else lrs[count]
        lr = float(values["lr"] if given is None else given)
        now, slots = update(now, {n: np.asarray(g, dtype) for n, g in gradients.items()}, slots, lr, count)
        yield (
            {n: v.copy() for n, v in now.items()},
            {n: {s: v.copy() for s, v in held.items()} for n, held in slots.items()},
        )


def _preview(name: str, arguments: Mapping[str, Any]) -> Update:
    """One operator of ``ai.onnx.preview.training`` in the reference evaluator, a parameter at a time.

    (Given several, the evaluator's Adam rounds its results to float32, whatever their type.)
    """
    from onnx.reference import ReferenceEvaluator

    attributes = {k: v for k, v in arguments.items() if k not in ("lr", "t0")}
    built: dict[Any, Any] = {}

    def evaluator(dtype: np.dtype[Any], slots: Sequence[str]) -> Any:
        if dtype not in built:
            kind = helper.np_dtype_to_tensor_dtype(dtype)
            ins, outs = ["x", "g", *slots], [f"{n}.new" for n in ("x", *slots)]
            node = helper.make_node(
                name, ["r", "t", *ins], outs, domain="ai.onnx.preview.training", **attributes
            )
            infos = [helper.make_tensor_value_info(i, kind, None) for i in ("r", *ins)]
            graph = helper.make_graph(
                [node],
                name,
                [*infos, helper.make_tensor_value_info("t", T.INT64, [])],
                [helper.make_tensor_value_info(o, kind, None) for o in outs],
            )
            opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.preview.training", 1)]
            made = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets, ir_version=8))
            # Attributes are float32 numbers; as NumPy scalars they would round 1 − β to float32 on NumPy 2.
            for op in made.rt_nodes_:
                for key, value in attributes.items():
                    if isinstance(value, float):
                        setattr(op, key, np.float32(value).item())
            built[dtype] = made
        return built[dtype]

    def update(
        params: dict[str, np.ndarray],
        grads: Arrays,
        slots: dict[str, dict[str, np.ndarray]],
        lr: float,
        count: int,
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
        new, kept = {}, {}
        for n, value in params.items():
            run = evaluator(value.dtype, list(slots[n]))
            feeds = {"r": np.array(lr, value.dtype), "t": np.array(count + arguments["t0"], np.int64)}
            x, *held = run.run(None, {**feeds, "x": value, "g": grads[n], **slots[n]})
            new[n] = np.asarray(x, value.dtype)
            kept[n] = {s: np.asarray(h, value.dtype) for s, h in zip(slots[n], held, strict=True)}
        return new, kept

    return update


def _sequence(name: str, kind: int = T.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, kind, None)


def _training(name: str, arguments: Mapping[str, Any]) -> Update:
    """One operator of ``com.microsoft`` over sequences of all parameters, in the training build."""
    import onnxruntime as ort

    adam = name == "AdamWOptimizer"
    states = ["momentums1", "momentums2"] if adam else []
    attributes = {k: v for k, v in arguments.items() if k != "lr"}
    ins, outs = ["weights", "gradients", *states], ["weights", *states]
    scalars = [helper.make_tensor_value_info("lr", T.FLOAT, [1])]
    if adam:
        scalars.append(helper.make_tensor_value_info("step", T.INT64, [1]))
    node = helper.make_node(
        name,
        [s.name for s in scalars] + ins,
        ["flag", *(f"{o}.new" for o in outs)],
        domain="com.microsoft",
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        name,
        [*scalars, *(_sequence(i) for i in ins)],
        [helper.make_tensor_value_info("flag", T.BOOL, None), *(_sequence(f"{o}.new") for o in outs)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    try:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as e:
        raise UnknownNameError(
            f"onnxruntime:{name}: onnxruntime {ort.__version__} does not have it; install onnxruntime-training-cpu==1.19.2"
        ) from e

    def update(
        params: dict[str, np.ndarray],
        grads: Arrays,
        slots: dict[str, dict[str, np.ndarray]],
        lr: float,
        count: int,
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
        held = list(next(iter(slots.values()), {}))
        # The kernel may work in place: it gets copies. Its step is the number of the update, from 1.
        feeds: dict[str, Any] = {
            "lr": np.array([lr], np.float32),
            "weights": [v.copy() for v in params.values()],
            "gradients": [np.asarray(grads[n]) for n in params],
        }
        if adam:
            feeds["step"] = np.array([count + 1], np.int64)
        for state, slot in zip(states, held, strict=True):
            feeds[state] = [slots[n][slot].copy() for n in params]
        _, *new = session.run(None, feeds)
        return (
            dict(zip(params, new[0], strict=True)),
            {n: {s: new[k + 1][i] for k, s in enumerate(held)} for i, n in enumerate(params)},
        )

    return update
