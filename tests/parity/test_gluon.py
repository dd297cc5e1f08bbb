"""The main job as a person does it: a PyTorch run, ported, goes on under gluon.Trainer with the same losses."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optexport.convert import convert
from tests.parity.backends import require_backend

# Two ports of one rule in one process register one name twice; MXNet warns, and the later one counts.
pytestmark = pytest.mark.filterwarnings("ignore:WARNING. New optimizer:UserWarning")

ORDER = ("0.weight", "0.bias", "2.weight", "2.bias")
STEPS = 20


def _torch_run(
    make: Any, x: np.ndarray, y: np.ndarray, folder: Path
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Train, save, go on: the losses after saving, and the weights at that moment."""
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    optimizer = make(torch, net.parameters())
    losses = []
    for t in range(2 * STEPS):
        if t == STEPS:
            torch.save(optimizer.state_dict(), folder / "run.pt")
            torch.save(net.state_dict(), folder / "model.pt")
            weights = {k: v.numpy().copy() for k, v in net.state_dict().items()}
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[STEPS:], weights


def _gluon_run(
    make: Any, states: Path, x: np.ndarray, y: np.ndarray, weights: dict[str, np.ndarray]
) -> list[float]:
    from optexport.converters.mxnet._import import import_mxnet

    mx = import_mxnet()
    gluon, autograd = mx.gluon, mx.autograd
    net = gluon.nn.Sequential()
    net.add(gluon.nn.Dense(8, in_units=6, activation="tanh"), gluon.nn.Dense(3, in_units=8))
    net.initialize()
    params = [net[0].weight, net[0].bias, net[1].weight, net[1].bias]
    for p, name in zip(params, ORDER, strict=True):
        p.set_data(mx.nd.array(weights[name]))
    trainer = gluon.Trainer(params, make())
    trainer.load_states(str(states))
    loss_of, losses = gluon.loss.SoftmaxCrossEntropyLoss(), []
    for _ in range(STEPS):
        with autograd.record():
            loss = loss_of(net(mx.nd.array(x)), mx.nd.array(y)).mean()
        loss.backward()
        trainer.step(1)
        losses.append(float(loss.asnumpy()[0]))
    return losses


CASES = {
    "AdamW emitted": (lambda torch, p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1), None),
    "SGD native": (lambda torch, p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.01), "mxnet:sgd"),
}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.replace(" ", "_"))
def test_losses_go_on(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_backend("mxnet")
    make, native = CASES[case]
    x = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
    y = np.random.default_rng(1).integers(0, 3, 64)
    want, weights = _torch_run(make, x, y, tmp_path)
    states, module = tmp_path / "run.states", tmp_path / "gluon_optimizer.py"
    target: dict[str, Any] = {"optimizers": (native,)} if native else {"emit_optimizer": str(module)}
    convert(str(tmp_path / "run.pt"), str(states), model=str(tmp_path / "model.pt"), **target)

    def optimizer() -> Any:
        if native:
            return native.partition(":")[2]
        monkeypatch.syspath_prepend(str(tmp_path))
        made = importlib.import_module(module.stem)
        return next(v for k, v in vars(made).items() if k.startswith("Optexport"))()

    got = _gluon_run(optimizer, states, x, y, weights)
    # Forward and backward passes of two frameworks differ in the last place; over 20 steps of a
    # contracting run that stays within some units. A run whose momentum restarts is off by 1e-2.
    np.testing.assert_allclose(got, want, rtol=2e-5)
