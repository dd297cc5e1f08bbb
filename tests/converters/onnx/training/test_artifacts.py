"""Files for ONNX Runtime's training API: PyTorch's run goes on there, its numbers are PyTorch's uninterrupted ones.

The bound: both sides do the same arithmetic in float32 and differ in the order of sums. A step's gradient is
off by at most a few units of 2⁻²⁴ of its largest entry, an Adam step then by that part of lr = 1e-2 for entries
that are not lost in rounding; 20 steps of 16·2⁻²⁴·1e-2 are 2e-7, and parameters of size 1 are rounded 20 times
themselves, 20·2⁻²⁴ ≈ 1.2e-6. The net is small and well conditioned: 5e-6 holds for every tensor.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

import optexport as ox
from optexport.cli import cli
from optexport.converters.onnx.artifacts import FILES, write_artifacts
from optexport.converters.onnx.training.forward import Meant
from optexport.errors import CheckpointError, ModelError, VerdictError
from optexport.state import TrainingState

from .small import BUFFERS, LOSS, OPTIONS, PARAMS, SHAPES, batches, model, module, values

BOUND = 5e-6
STEPS = 20
OPTIMIZERS = {
    "adamw": ("AdamW", {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.97), "eps": 1e-7}),
    "adam": ("Adam", {"lr": 1e-2}),
    "sgd": ("SGD", {"lr": 1e-1}),
}


@pytest.fixture(scope="module")
def api() -> Any:
    return pytest.importorskip(
        "onnxruntime.training.api",
        reason="needs ONNX Runtime's training build (1.19.2), not in this environment",
    )


class Run:
    """The net in PyTorch."""

    def __init__(self, name: str) -> None:
        torch = pytest.importorskip("torch", reason="needs torch, which is not in this environment")
        self.torch, self.net = torch, module().train()
        kind, arguments = OPTIMIZERS[name]
        self.optimizer = getattr(torch.optim, kind)(self.net.parameters(), **arguments)

    def step(self, batch: tuple[np.ndarray, np.ndarray]) -> float:
        self.optimizer.zero_grad()
        x, label = (self.torch.from_numpy(a) for a in batch)
        loss = self.torch.nn.functional.cross_entropy(self.net(x), label)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def tensors(self) -> dict[str, np.ndarray]:
        return {n: a.numpy().copy() for n, a in self.net.state_dict().items() if "batches" not in n}

    def state(self, folder: Path) -> TrainingState:
        """The run, ported by its own file."""
        self.torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
        held = self.tensors()
        state = ox.load(folder / "optimizer.pt", names=PARAMS, step=None)
        params, buffers = ({n: held[n] for n in names} for names in (PARAMS, BUFFERS))
        return replace(state, params=params, buffers=buffers)


def fresh(optimizer: str = "AdamWOptimizer", **arguments: Any) -> TrainingState:
    spec = ox.native(f"onnxruntime:{optimizer}", **arguments)
    return ox.init(spec, {n: values()[n] for n in PARAMS}, dtype="float32")


def written(state: TrainingState, folder: Path, **options: Any) -> list[str]:
    return write_artifacts(model(), LOSS, state, folder, meant=Meant(**OPTIONS), **options)


class Continued:
    """The training API on a folder of files."""

    def __init__(self, api: Any, folder: Path, lr: float) -> None:
        paths = [str(folder / n) for n in FILES]
        self.api, self.folder = api, folder
        self.state = api.CheckpointState.load_checkpoint(paths[3])
        self.module = api.Module(paths[0], self.state, paths[1])
        self.optimizer = api.Optimizer(paths[2], self.module)
        # The API starts with 1e-3 whatever its files say.
        self.optimizer.set_learning_rate(lr)

    def step(self, *batch: np.ndarray) -> float:
        self.module.train()
        loss = float(self.module(*batch))
        self.optimizer.step()
        self.module.lazy_reset_grad()
        return loss

    def tensors(self) -> dict[str, np.ndarray]:
        return {n: self.state.parameters[n].data for n in SHAPES}

    def save(self) -> Path:
        path = self.folder / "later" / "checkpoint"
        path.parent.mkdir()
        self.api.CheckpointState.save_checkpoint(self.state, str(path), include_optimizer_state=True)
        (path.parent / FILES[2]).write_bytes((self.folder / FILES[2]).read_bytes())
        return path


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pytorch_goes_on_in_the_training_api(name: str, api: Any, tmp_path: Path) -> None:
    """20 steps in PyTorch, ported; 20 in the API, against 40 in PyTorch; ported back, 20 more against 60."""
    run, data, lr = Run(name), batches(3 * STEPS), OPTIMIZERS[name][1]["lr"]
    for batch in data[:STEPS]:
        run.step(batch)
    paths, report = ox.training_artifacts(model(), LOSS, run.state(tmp_path), tmp_path / "files", **OPTIONS)
    assert [Path(p).name for p in paths] == list(FILES) and str(report.verdict) in ("exact", "conditional")
    there = Continued(api, tmp_path / "files", lr)
    for batch in data[STEPS : 2 * STEPS]:
        assert abs(there.step(*batch) - run.step(batch)) <= BOUND
    want = run.tensors()
    for n, found in there.tensors().items():
        assert np.max(np.abs(found - want[n])) <= BOUND * max(1.0, np.max(np.abs(want[n]))), n
        assert not np.array_equal(found, values()[n])
    # Evaluation is by running statistics.
    there.module.eval()
    run.net.eval()
    x, label = (run.torch.from_numpy(a) for a in data[0])
    measured = run.torch.nn.functional.cross_entropy(run.net(x), label).item()
    assert abs(float(there.module(*data[0])) - measured) <= BOUND
    run.net.train()
    # And back: what the API saved is PyTorch's state after 40 steps.
    back = ox.load(there.save(), arguments={"lr": lr})
    # The API does not count plain descent's updates, which nothing depends on.
    assert set(back.steps.values()) == {STEPS if name == "sgd" else 2 * STEPS}
    moved, _ = ox.translate(back, to=f"torch:{OPTIMIZERS[name][0]}")
    now = run.state(tmp_path)
    for n in PARAMS:
        for slot, array in now.slots.get(n, {}).items():
            off = np.max(np.abs(moved.slots[n][slot] - array))
            assert off <= BOUND * max(1.0, float(np.max(np.abs(array)))), (n, slot)


def test_gradients_are_added_up_until_they_are_reset(api: Any, tmp_path: Path) -> None:
    """Two batches before one update: the API's accumulation, with our gradients."""
    written(fresh(lr=1e-2), tmp_path)
    run, data = Continued(api, tmp_path, 1e-2), batches(2)
    run.module.train()
    for batch in data:
        run.module(*batch)
    found = run.module.get_contiguous_parameters(True)
    run.optimizer.step()
    assert found is not None
    net = Run("adamw")
    net.optimizer = net.torch.optim.AdamW(net.net.parameters(), lr=1e-2, weight_decay=0.01)
    for x, label in data:
        loss = net.torch.nn.functional.cross_entropy(
            net.net(net.torch.from_numpy(x)), net.torch.from_numpy(label)
        )
        loss.backward()
    net.optimizer.step()
    for n, want in net.tensors().items():
        assert np.max(np.abs(run.tensors()[n] - want)) <= BOUND, n


def test_outputs_that_are_kept(api: Any, tmp_path: Path) -> None:
    written(fresh(lr=1e-2), tmp_path, keep=["y"])
    run, (batch,) = Continued(api, tmp_path, 1e-2), batches(1)
    for mode in (run.module.train, run.module.eval):
        mode()
        loss, y = run.module(*batch)
        assert np.shape(loss) == () and y.shape == (6, 3)


# -- the files ------------------------------------------------------------------------------------


def opened(folder: Path) -> dict[str, onnx.ModelProto]:
    return {n: onnx.load(folder / n) for n in FILES[:3]}


def test_names_that_the_api_expects(tmp_path: Path) -> None:
    written(fresh(lr=1e-2), tmp_path)
    made = opened(tmp_path)
    training, measured, optimizer = (made[n].graph for n in FILES[:3])
    names = [i.name for i in training.input]
    assert names[:2] == ["x", "label"] and names[-1] == "lazy_reset_grad"
    assert set(names[2:-1]) == {*SHAPES, *(f"{p}_grad.accumulation.buffer" for p in PARAMS)}
    assert [o.name for o in training.output] == ["loss", *(f"{p}_grad.accumulation.out" for p in PARAMS)]
    assert [o.name for o in measured.output] == ["loss"]
    # Parameters stand in both graphs in one order.
    order = [n for n in names if n in SHAPES]
    assert [i.name for i in measured.input] == ["x", "label", *order]
    assert [i.name for i in optimizer.input] == [
        "learning_rate", "step", "params", "gradients", "first_order_moments", "second_order_moments",
    ]  # fmt: skip
    foreign = {n.op_type for g in (training, measured) for n in g.node if n.domain}
    assert foreign == {"InPlaceAccumulatorV2"}


@pytest.mark.parametrize("mode", [0, 1])
def test_the_optimizer_has_the_run_s_attributes(mode: int, tmp_path: Path) -> None:
    """Generated artifacts always have mode 1, epsilon 1e-6 and no decay."""
    arguments = {
        "alpha": 0.7,
        "beta": 0.95,
        "epsilon": 1e-5,
        "weight_decay": 0.25,
        "adam_mode": mode,
        "correct_bias": 1,
    }
    written(fresh(lr=3e-3, **arguments), tmp_path)
    (node,) = opened(tmp_path)[FILES[2]].graph.node
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert found == pytest.approx(arguments, rel=1e-7)
    state = ox.load(tmp_path / FILES[3])
    assert dict(state.spec.groups[0].arguments) | {"lr": 3e-3} == {**arguments, "lr": 3e-3}


def test_files_are_replaced_together(tmp_path: Path) -> None:
    """Another optimizer's files stand there: all four are the new ones."""
    written(fresh("SGDOptimizerV2", lr=1e-2), tmp_path)
    written(fresh(lr=1e-2), tmp_path)
    assert opened(tmp_path)[FILES[2]].graph.node[0].op_type == "AdamWOptimizer"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES)


# -- what is refused ------------------------------------------------------------------------------


def test_an_optimizer_that_the_api_does_not_have(tmp_path: Path) -> None:
    params = {n: values()[n] for n in PARAMS}
    state = ox.init(ox.spec("rmsprop", lr=1e-2), params, dtype="float32")
    with pytest.raises(VerdictError, match="no map joins them"):
        ox.training_artifacts(model(), LOSS, state, tmp_path / "files", **OPTIONS)
    with pytest.raises(
        CheckpointError, match="runs AdamWOptimizer and SGDOptimizerV2; found a rule of the catalogue"
    ):
        written(state, tmp_path / "files")
    assert not (tmp_path / "files").exists()


def test_several_groups(tmp_path: Path) -> None:
    spec = ox.native("torch:AdamW", lr=1e-2, groups=[{"params": ["head.bias"], "weight_decay": 0.0}])
    state = ox.init(spec, {n: values()[n] for n in PARAMS}, dtype="float32")
    with pytest.raises(CheckpointError, match="expected one group of parameters, found 2"):
        ox.training_artifacts(model(), LOSS, state, tmp_path / "files", **OPTIONS)
    assert not (tmp_path / "files").exists()


def test_a_model_newer_than_the_build(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="operator set 22; the last build of the training API has 21"):
        write_artifacts(model(opset=22), LOSS, fresh(lr=1e-2), tmp_path / "files", meant=Meant(**OPTIONS))
    assert not (tmp_path / "files").exists()


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="expected a folder to write to"):
        written(fresh(lr=1e-2), tmp_path / "file")
    assert (tmp_path / "file").read_text() == ""


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(model().SerializeToString())
    state = ox.step(fresh(lr=1e-2), {n: np.ones(SHAPES[n], np.float32) for n in PARAMS})
    ox.save(state, tmp_path / "run.safetensors", format="bundle")
    usual = ["training-graph", str(tmp_path / "model.onnx"), "--loss", LOSS, "--batch-norm", "train"]
    usual += ["--form", "artifacts", "-o", str(tmp_path / "files"), "--json"]
    result = CliRunner().invoke(cli, [*usual, "--state", str(tmp_path / "run.safetensors")])
    assert result.exit_code == 0, result.output
    record = json.loads(result.output)
    assert [Path(p).name for p in record["files"]] == list(FILES) and record["verdict"] == "exact"
    assert "set_learning_rate" in record["notes"][-1]
    assert set(ox.load(tmp_path / "files").steps.values()) == {1}
    refused = CliRunner().invoke(cli, [*usual, "--rule", "adamw", "--runtime", "lr"])
    assert refused.exit_code == 2 and "--runtime: artifacts take the learning rate alone" in refused.output
