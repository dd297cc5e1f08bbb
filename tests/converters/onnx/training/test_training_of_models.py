"""50 steps of whole models against PyTorch's: losses, parameters, slots and running statistics.

The referee is PyTorch in float64. The bound is 10 times what rounding explains: the larger of the derived
bound of 50 updates and the distance of PyTorch's own float32 run from its float64 run, which says how much
the model amplifies a rounding. So that this cannot excuse everything, the amplification (that distance over
the derived bound) is stated for each model, and asserted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.parity.bounds import rounding_bound

ort = pytest.importorskip("onnxruntime", reason="runs graphs on stock onnxruntime (extra test-stock)")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript (extra test-stock)")
import torch  # noqa: E402

from optexport.converters.onnx.training_graph import Meant, build  # noqa: E402

from .stepping import Stepper  # noqa: E402
from .torch_models import CASES, Case, exported  # noqa: E402

STEPS = 50
WITHIN = 10  # times PyTorch's own float32 distance from float64
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "torch:AdamW": {"lr": 3e-3, "weight_decay": 0.05},
    "torch:SGD": {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.001},
}
# Largest distance of PyTorch's float32 run from its float64 run, in derived bounds. CNN: Adam divides gradients of
# nearly dead channels by their own size. ResNet: ten batch normalisations one after the other, the last of 24 numbers.
AMPLIFICATION = {"cnn": 300.0, "resnet_silu": 200.0}
LONG = [n for n in CASES if n != "resnet"]  # see `ResNet`


def arguments(case: Case, name: str) -> dict[str, Any]:
    return {**OPTIMIZERS[name], "lr": OPTIMIZERS[name]["lr"] * case.slower}


@dataclass
class Run:
    """What a run ends with. tensors: (name, slot or ``param`` or ``buffer``) -> value."""

    losses: list[float] = field(default_factory=list)
    tensors: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)


def in_torch(case: Case, dtype: torch.dtype, name: str) -> Run:
    module = case.module().train().to(dtype)
    optimizer = getattr(torch.optim, name.partition(":")[2])(module.parameters(), **arguments(case, name))
    run = Run()
    for i in range(STEPS):
        x, label = (torch.from_numpy(a) for a in case.batch(i % 10))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x.to(dtype) if x.is_floating_point() else x), label)
        loss.backward()
        optimizer.step()
        run.losses.append(loss.item())
    for n, p in module.named_parameters(remove_duplicate=False):
        run.tensors[n, "param"] = p.detach().numpy()
        for slot, value in optimizer.state[p].items():
            if slot != "step":
                run.tensors[n, slot] = value.numpy()
    for n, b in module.named_buffers():
        if "running" in n:
            run.tensors[n, "buffer"] = b.numpy()
    return run


def in_onnx(case: Case, name: str) -> Run:
    built = build(
        exported(case.name, True), "softmax_cross_entropy", ox.native(name, **arguments(case, name)),
        meant=Meant(**case.meant),
    )  # fmt: skip
    stepper = Stepper(built)
    run = Run([stepper(*case.batch(i % 10), lr=arguments(case, name)["lr"]) for i in range(STEPS)])
    state = stepper.state()
    assert set(state.steps.values()) == {STEPS}
    for n, slots in ox.lower(state, name).items():
        run.tensors[n, "param"] = state.params[n]
        for slot, value in slots.items():
            if slot != "step":
                run.tensors[n, slot] = value
    run.tensors |= {(n, "buffer"): a for n, a in state.buffers.items()}
    return run


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", LONG)
def test_fifty_steps_follow_pytorchs(name: str, optimizer: str) -> None:
    case = CASES[name]
    exact, single = in_torch(case, torch.float64, optimizer), in_torch(case, torch.float32, optimizer)
    got = in_onnx(case, optimizer)
    program = ox.native(optimizer).groups[0].rule.program
    bound = [rounding_bound(program, t, "float32") for t in range(1, STEPS + 1)]
    for t in range(STEPS):
        own = max(abs(single.losses[i] - exact.losses[i]) for i in range(t + 1))
        allowed = WITHIN * max(own, bound[t] * abs(exact.losses[t]))
        error = abs(got.losses[t] - exact.losses[t])
        assert error <= allowed, f"loss of step {t + 1}: {error:.3g}, allowed {allowed:.3g}"
    assert got.losses[-1] < got.losses[0]
    limit = AMPLIFICATION.get(name, 10.0)
    for key, value in got.tensors.items():
        want = exact.tensors[key]
        rounding = bound[-1] * np.abs(want).max()
        own = np.abs(single.tensors[key] - want).max()
        if not any(part in key[0] for part in case.noise):
            assert own <= limit * rounding, (
                f"{key}: PyTorch's float32 run is {own / rounding:.3g} bounds away"
            )
        error, allowed = np.abs(value - want).max(), WITHIN * max(own, rounding)
        assert error <= allowed, f"{key}: {error:.3g}, allowed {allowed:.3g}"
    module = case.module()
    names = {n for n, _ in module.named_parameters(remove_duplicate=False)}
    assert {n for n, _ in got.tensors} <= names | {n for n, _ in module.named_buffers()}
    assert sum(slot == "buffer" for _, slot in got.tensors) == sum(
        "running" in n for n, _ in module.named_buffers()
    )
