"""A run's schedule out of its own file and back: read in the middle, went on with, on both sides."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.errors import CheckpointError, VerdictError
from tests.parity.backends import require_backend

from .real import import_module, mxnet_scheduler, torch_scheduler
from .table import MXNET, TORCH, Row, name_of

MIDDLE, AFTER = 77, 60
SHAPE = (3, 2)


def _grads(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal(SHAPE) for _ in range(n)]


class TorchRun:
    """A real PyTorch optimizer with a scheduler."""

    def __init__(self, row: Row, kind: str = "AdamW") -> None:
        self.torch = pytest.importorskip("torch")
        self.given = dict(row[1])
        name = row[0].partition(":")[2]
        self.every = 1 if name == "OneCycleLR" else self.given.pop("steps_per_epoch", 1)
        self.w = self.torch.nn.Parameter(self.torch.ones(*SHAPE, dtype=self.torch.float64))
        make = getattr(self.torch.optim, kind)
        more = {"momentum": 0.9} if kind == "SGD" else {}
        self.optimizer = make([("w", self.w)], lr=self.given.get("lr", 0.1), **more)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.scheduler = torch_scheduler(self.optimizer, name, self.given)
        self.count = 0

    def step(self, grad: np.ndarray) -> float:
        """One update; the learning rate that it used."""
        lr = float(self.optimizer.param_groups[0]["lr"])
        self.w.grad = self.torch.tensor(grad, dtype=self.torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.optimizer.step()
            self.count += 1
            if self.count % self.every == 0:
                self.scheduler.step()
        return lr

    def save(self, path: Path, key: str = "scheduler") -> None:
        held = {"optimizer": self.optimizer.state_dict(), "model": {"w": self.w.detach()}}
        self.torch.save({**held, key: self.scheduler.state_dict()}, path)


@pytest.mark.parametrize("row", TORCH, ids=name_of)
def test_out_of_a_torch_file_and_back(row: Row, tmp_path: Path) -> None:
    run = TorchRun(row)
    middle = MIDDLE // run.every * run.every
    grads = _grads(middle + AFTER)
    for g in grads[:middle]:
        run.step(g)
    run.save(tmp_path / "run.pt")
    state = ox.load(tmp_path / "run.pt")
    assert state.clock == middle
    group = state.spec.groups[0]
    assert set(group.schedules) == {"lr", "beta1"} if "OneCycle" in row[0] else {"lr"}
    ox.save(state, tmp_path / "again.pt", format="torch")

    held = run.torch.load(tmp_path / "again.pt", weights_only=True)
    other = TorchRun(row)
    with run.torch.no_grad():
        other.w.copy_(run.w)
    other.optimizer.load_state_dict(held["optimizer"])
    other.scheduler.load_state_dict(held["lr_scheduler"])
    other.count = middle
    for k, g in enumerate(grads[middle:], middle):
        real = run.step(g)
        assert math.isclose(group.values(step=k)["lr"], real, rel_tol=1e-11, abs_tol=1e-14), k
        assert math.isclose(other.step(g), real, rel_tol=1e-11, abs_tol=1e-14), k
    assert np.allclose(other.w.detach().numpy(), run.w.detach().numpy(), rtol=1e-11, atol=1e-13)


class MXNetRun:
    """A real MXNet optimizer with a scheduler, behind an Updater."""

    def __init__(self, row: Row, name: str = "sgd", **arguments: Any) -> None:
        self.mx = import_module("mxnet")
        made = mxnet_scheduler(row[0].partition(":")[2], row[1])
        lr = {} if row[1].get("learning_rate") is None else {"learning_rate": row[1]["learning_rate"]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.optimizer = self.mx.optimizer.create(
                name, lr_scheduler=made, param_idx2name={0: "w"}, **lr, **arguments
            )
        self.updater = self.mx.optimizer.get_updater(self.optimizer)
        self.w = self.mx.nd.ones(SHAPE, dtype="float64")

    def step(self, grad: np.ndarray) -> float:
        self.updater(0, self.mx.nd.array(grad, dtype="float64"), self.w)
        return float(self.updater.optimizer.learning_rate)


@pytest.mark.parametrize("row", MXNET, ids=name_of)
def test_out_of_an_mxnet_file_and_back(row: Row, tmp_path: Path) -> None:
    run = MXNetRun(row, momentum=0.9)
    grads = _grads(MIDDLE + AFTER)
    for g in grads[:MIDDLE]:
        run.step(g)
    (tmp_path / "run.states").write_bytes(run.updater.get_states(dump_optimizer=True))
    state = ox.load(tmp_path / "run.states")
    group = state.spec.groups[0]
    assert state.clock == MIDDLE and set(group.schedules) == {"lr"}
    assert not any("scheduler" in w for w in state.warnings)
    ox.save(state, tmp_path / "again.states", format="mxnet")

    other = MXNetRun(row, momentum=0.9)
    other.updater.set_states((tmp_path / "again.states").read_bytes())
    other.w[:] = run.w
    for k, g in enumerate(grads[MIDDLE:], MIDDLE):
        real = run.step(g)
        assert math.isclose(group.values(step=k)["lr"], real, rel_tol=1e-12), k
        assert math.isclose(other.step(g), real, rel_tol=1e-12), k
    assert np.allclose(other.w.asnumpy(), run.w.asnumpy(), rtol=1e-6)
    # What MXNet itself would hold at this point, and what was written.
    before, after = vars(run.updater.optimizer.lr_scheduler), vars(other.updater.optimizer.lr_scheduler)
    assert before.keys() == after.keys()


@pytest.mark.parametrize(
    "row",
    [
        ("torch:StepLR", {"lr": 0.1, "step_size": 11, "gamma": 0.5}),
        ("torch:MultiStepLR", {"lr": 0.1, "milestones": [10, 40], "gamma": 0.3}),
        ("torch:PolynomialLR", {"lr": 0.1, "total_iters": 60, "power": 2.0}),
        (
            "torch:SequentialLR",
            {
                "lr": 0.1,
                "schedulers": [
                    ("LinearLR", {"start_factor": 0.1, "total_iters": 8}),
                    ("PolynomialLR", {"total_iters": 40}),
                ],
                "milestones": [8],
            },
        ),
    ],
    ids=name_of,
)
def test_a_torch_run_goes_on_in_mxnet(row: Row, tmp_path: Path) -> None:
    """Plain SGD, so that nothing but the schedule can differ."""
    require_backend("mxnet")
    run = TorchRun(row, "SGD")
    run.optimizer.param_groups[0]["momentum"] = 0.0
    grads = _grads(60)
    for g in grads[:25]:
        run.step(g)
    run.save(tmp_path / "run.pt", "lr_schedulers")
    state = ox.load(tmp_path / "run.pt", step=25)
    new, report = ox.translate(state, to="mxnet:sgd")
    assert report.verdict == "exact"
    assert new.spec.groups[0].schedules == state.spec.groups[0].schedules
    ox.save(new, tmp_path / "run.states", format="mxnet")
    other = MXNetRun(MXNET[0])
    other.updater.set_states((tmp_path / "run.states").read_bytes())
    other.w[:] = other.mx.nd.array(run.w.detach().numpy(), dtype="float64")
    for g in grads[25:]:
        assert math.isclose(run.step(g), other.step(g), rel_tol=1e-12)
    # MXNet's kernel receives the rate in float32.
    assert np.allclose(other.w.asnumpy(), run.w.detach().numpy(), rtol=35 * 2.0**-24)


def test_an_mxnet_run_goes_on_in_torch(tmp_path: Path) -> None:
    require_backend("torch")
    row: Row = ("mxnet:FactorScheduler", {"step": 9, "factor": 0.5, "base_lr": 0.3, "stop_factor_lr": 0.0})
    run = MXNetRun(row)
    grads = _grads(60)
    for g in grads[:25]:
        run.step(g)
    (tmp_path / "run.states").write_bytes(run.updater.get_states(dump_optimizer=True))
    new, _ = ox.translate(ox.load(tmp_path / "run.states"), to="torch:SGD")
    ox.save(new, tmp_path / "run.pt", format="torch")
    other = TorchRun(("torch:StepLR", {"lr": 1.0, "step_size": 9, "gamma": 0.5}), "SGD")
    held = other.torch.load(tmp_path / "run.pt", weights_only=True)
    other.optimizer.load_state_dict(held["optimizer"])
    other.scheduler.load_state_dict(held["lr_scheduler"])
    for g in grads[25:]:
        assert math.isclose(other.step(g), run.step(g), rel_tol=1e-12)


def test_the_optimizers_default_rate_wins_over_the_schedulers() -> None:
    """MXNet's Adam has a learning rate of its own: FactorScheduler follows it, CosineScheduler does not."""
    row: Row = ("mxnet:FactorScheduler", {"step": 5, "factor": 0.5, "base_lr": 0.3})
    run = MXNetRun(row, "adam")
    assert run.step(_grads(1)[0]) == 0.001
    assert ox.native_schedule(*row[:1], **row[1], learning_rate=0.001).at(0) == 0.001
    cosine: Row = ("mxnet:CosineScheduler", {"max_update": 50, "base_lr": 0.3})
    assert MXNetRun(cosine, "adam").step(_grads(1)[0]) == ox.native_schedule(cosine[0], **cosine[1]).at(0)
    assert MXNetRun(row, "sgd").step(_grads(1)[0]) in (0.3, 0.01)


def test_bundle_carries_the_schedule(tmp_path: Path) -> None:
    schedule = ox.native_schedule("torch:OneCycleLR", max_lr=0.1, total_steps=50)
    state = ox.init(ox.native("torch:AdamW", schedule=schedule), {"w": np.ones(SHAPE)})
    for g in _grads(7):
        state = ox.step(state, {"w": g})
    ox.save(state, tmp_path / "run.safetensors", format="bundle")
    again = ox.load(tmp_path / "run.safetensors")
    held = again.spec.groups[0].schedules["lr"]
    assert held == schedule and held.native == "torch:OneCycleLR" and held.arguments["total_steps"] == 50
    g = _grads(8)[-1]
    assert np.array_equal(ox.step(state, {"w": g}).params["w"], ox.step(again, {"w": g}).params["w"])


def test_a_rate_that_was_changed_by_hand_is_no_schedule(tmp_path: Path) -> None:
    run = TorchRun(("torch:StepLR", {"lr": 0.1, "step_size": 30}))
    for g in _grads(4):
        run.step(g)
    run.scheduler._last_lr = [0.05]
    run.save(tmp_path / "run.pt")
    state = ox.load(tmp_path / "run.pt")
    assert not state.spec.groups[0].schedules
    assert any("learning rate is 0.05; the schedule's after 4 updates is 0.1" in w for w in state.warnings)


def test_a_plateau_is_not_interpreted(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    w = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([w], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    torch.save(
        {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, tmp_path / "run.pt"
    )
    state = ox.load(tmp_path / "run.pt")
    assert not state.spec.groups[0].schedules
    assert any("ReduceLROnPlateau: depends on a metric" in w for w in state.warnings)


def test_steps_that_fit_no_epoch_are_not_guessed(tmp_path: Path) -> None:
    run = TorchRun(("torch:StepLR", {"lr": 0.1, "step_size": 3, "steps_per_epoch": 10}))
    for g in _grads(25):
        run.step(g)
    run.save(tmp_path / "run.pt")
    state = ox.load(tmp_path / "run.pt")
    assert not state.spec.groups[0].schedules
    assert any("stepped 2 times in 25 updates" in w and "steps_per_epoch=N" in w for w in state.warnings)


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    spec = ox.native("mxnet:sgd", schedule=ox.schedule("inverse_sqrt", base=0.1))
    state = ox.init(spec, {"w": np.ones(SHAPE)})
    with pytest.raises(VerdictError, match="to mxnet: none;"):
        ox.save(state, tmp_path / "x.states", format="mxnet")
    spec = ox.native(
        "mxnet:sgd", momentum=0.9, schedule={"momentum": ox.schedule("linear", start=0.5, end=0.9)}
    )
    with pytest.raises(CheckpointError, match=r"expected one schedule of the learning rate.*'momentum'"):
        ox.save(ox.init(spec, {"w": np.ones(SHAPE)}), tmp_path / "x.states", format="mxnet")
    assert not list(tmp_path.iterdir())


def test_a_map_of_the_rate_needs_a_number() -> None:
    """Dampening moves into the learning rate on the way to MXNet; a schedule has no place for the factor."""
    spec = ox.native("torch:SGD", momentum=0.9, dampening=0.5, schedule=ox.schedule("cosine", base=0.1))
    state = ox.init(spec, {"w": np.ones(SHAPE)})
    for g in _grads(3):
        state = ox.step(state, {"w": g})
    with pytest.raises(VerdictError, match=r"'lr'.* follows"):
        ox.translate(state, to="mxnet:sgd")
    new, _ = ox.translate(state, to="mxnet:sgd", lr=0.1)
    assert not new.spec.groups[0].schedules
    assert replace(new.spec.groups[0]).hyperparameters["lr"] == pytest.approx(0.05)
