"""Resume parity, the product's promise: train in A, convert A's own file, go on in B with B's own
API; equals the uninterrupted run in A within the verdict."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.convert import convert
from optexport.parity import problem, relative_error
from optexport.parity.bounds import unit_roundoff
from tests.parity.backends import require_backend

# Two ports of one rule in one process register one name twice; MXNet warns, and the later one counts.
pytestmark = pytest.mark.filterwarnings("ignore:WARNING. New optimizer:UserWarning")

BEFORE, AFTER = 10, 15
# 0.999 in float32 makes 1 − β a 1.3e-5th larger: what a kernel with float32 scalars changes of an update.
FLOAT32_SCALARS = 1.3e-5


@dataclass(frozen=True)
class Port:
    """source trains and saves, target goes on. target: a native optimizer, ``emit:FRAMEWORK`` for an
    optimizer that optexport writes, or ``onnx`` for the update graph. verdict: what must be said."""

    source: str
    target: str
    verdict: str
    arguments: dict[str, Any] = field(default_factory=dict)
    allow: str | None = None
    lr_factor: float = 1.0

    @property
    def id(self) -> str:
        return (
            f"{self.source}_to_{self.target}"
            + ("_lr_drop" if self.lr_factor != 1 else "")
            + f"_{len(self.arguments)}"
        )


PORTS = [
    Port("torch:SGD", "mxnet:sgd", "conditional", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    Port("torch:SGD", "mxnet:sgd", "conditional", {"lr": 0.1, "momentum": 0.9}, lr_factor=0.1),
    Port("torch:SGD", "mxnet:sgd", "exact", {"lr": 0.1, "weight_decay": 0.01}),
    Port(
        "torch:SGD",
        "mxnet:sgd",
        "conditional",
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
    ),
    Port("torch:SGD", "mxnet:nag", "conditional", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    Port("torch:SGD", "mxnet:sgd", "conditional", {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    Port(
        "torch:SGD",
        "emit:mxnet",
        "exact",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    Port("torch:SGD", "onnx", "exact", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, lr_factor=0.1),
    Port(
        "torch:Adam", "mxnet:adam", "bounded", {"lr": 0.01, "eps": 1e-4, "weight_decay": 0.1}, allow="bounded"
    ),
    Port("torch:AdamW", "mxnet:adam", "lossy", {"lr": 0.01, "weight_decay": 0.1}, allow="lossy"),
    Port("torch:AdamW", "emit:mxnet", "exact", {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}, lr_factor=0.1),
    Port("torch:Adam", "emit:mxnet", "exact", {"lr": 0.01, "amsgrad": True}),
    Port("torch:AdamW", "onnx", "exact", {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}, lr_factor=0.1),
    Port("torch:Adam", "onnx", "exact", {"lr": 0.01, "amsgrad": True}),
    Port("torch:RMSprop", "mxnet:rmsprop", "bounded", {"lr": 0.01, "eps": 1e-3}, allow="bounded"),
    Port("torch:RMSprop", "emit:mxnet", "exact", {"lr": 0.01, "momentum": 0.9}),
    Port("torch:RMSprop", "onnx", "exact", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}),
    Port("torch:Adagrad", "mxnet:adagrad", "bounded", {"lr": 0.1, "eps": 1e-3}, allow="bounded"),
    Port("torch:Adagrad", "emit:mxnet", "exact", {"lr": 0.1, "lr_decay": 0.1}),
    Port("torch:Adagrad", "onnx", "exact", {"lr": 0.1, "lr_decay": 0.1}),
    Port("mxnet:sgd", "torch:SGD", "conditional", {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.01}),
    Port(
        "mxnet:sgd",
        "emit:torch",
        "exact",
        {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.01, "clip_gradient": 0.5},
    ),
    Port("mxnet:nag", "emit:torch", "exact", {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.1}),
    Port(
        "mxnet:adam",
        "torch:Adam",
        "bounded",
        {"learning_rate": 0.01, "epsilon": 1e-4, "wd": 0.1},
        allow="bounded",
    ),
    Port(
        "mxnet:adam",
        "emit:torch",
        "exact",
        {"learning_rate": 0.01, "wd": 0.1, "clip_gradient": 0.5, "rescale_grad": 0.5},
    ),
    Port(
        "mxnet:adam", "onnx", "exact", {"learning_rate": 0.01, "wd": 0.1, "clip_gradient": 0.5}, lr_factor=0.1
    ),
    Port("mxnet:rmsprop", "emit:torch", "exact", {"learning_rate": 0.01, "centered": True}),
    Port("mxnet:rmsprop", "onnx", "exact", {"learning_rate": 0.01}),
    Port("mxnet:adagrad", "torch:Adagrad", "bounded", {"learning_rate": 0.1, "eps": 1e-6}, allow="bounded"),
    Port("mxnet:adagrad", "onnx", "exact", {"learning_rate": 0.1, "wd": 0.1}),
    Port("torch:Adadelta", "mxnet:adadelta", "conditional", {"lr": 1.0, "eps": 1e-4}),
    Port("torch:Adadelta", "onnx", "exact", {"lr": 0.5, "weight_decay": 0.1}, lr_factor=0.1),
    Port("mxnet:adadelta", "torch:Adadelta", "exact", {"learning_rate": 0.3}),
    Port("mxnet:adadelta", "emit:torch", "exact", {"learning_rate": 0.3, "wd": 0.01, "clip_gradient": 0.5}),
    Port("torch:Rprop", "emit:mxnet", "exact", {"lr": 0.01}),
    Port("torch:Rprop", "onnx", "exact", {"lr": 0.01}, lr_factor=0.1),
    Port("torch:ASGD", "emit:mxnet", "exact", {"lr": 0.1, "lambd": 0.1, "t0": 5.0, "weight_decay": 0.1}),
    Port("torch:ASGD", "onnx", "exact", {"lr": 0.1, "lambd": 0.1, "t0": 5.0}),
    Port("mxnet:ftrl", "emit:torch", "exact", {"learning_rate": 0.1, "wd": 0.1}),
    Port("mxnet:ftrl", "onnx", "exact", {"learning_rate": 0.1, "lamda1": 0.2}, lr_factor=0.1),
    Port("mxnet:ftml", "emit:torch", "exact", {"learning_rate": 0.1, "wd": 0.1, "beta2": 0.9}),
    Port("mxnet:ftml", "onnx", "exact", {"learning_rate": 0.1, "beta2": 0.9}),
    Port("mxnet:signum", "emit:torch", "exact", {"learning_rate": 0.01, "wd": 0.1, "wd_lh": 0.2}),
    Port("mxnet:dcasgd", "emit:torch", "exact", {"learning_rate": 0.1, "lamda": 0.5, "wd": 0.1}),
    Port("mxnet:dcasgd", "onnx", "exact", {"learning_rate": 0.1, "lamda": 0.5}),
    Port("torch:Adamax", "mxnet:adamax", "bounded", {"lr": 0.01, "eps": 1e-3}, allow="bounded"),
    Port(
        "torch:Adamax", "emit:mxnet", "exact", {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.1}, lr_factor=0.1
    ),
    Port("torch:Adamax", "onnx", "exact", {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.1}, lr_factor=0.1),
    Port("torch:NAdam", "emit:mxnet", "exact", {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}),
    Port("torch:NAdam", "onnx", "exact", {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}),
    Port("torch:NAdam", "mxnet:nadam", "bounded", {"lr": 0.01, "weight_decay": 0.1}, allow="bounded"),
    Port("mxnet:nadam", "emit:torch", "exact", {"learning_rate": 0.01, "wd": 0.1, "clip_gradient": 0.5}),
    Port("mxnet:nadam", "onnx", "exact", {"learning_rate": 0.01, "wd": 0.1}, lr_factor=0.1),
    Port("mxnet:nadam", "torch:NAdam", "bounded", {"learning_rate": 0.01, "wd": 0.1}, allow="bounded"),
    Port("torch:RAdam", "emit:mxnet", "exact", {"lr": 0.01, "weight_decay": 0.1}),
    Port("torch:RAdam", "onnx", "exact", {"lr": 0.01, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    # 10 gradients are two whole batches; the third has a rate of its own in the warm-up.
    Port(
        "mxnet:lbsgd",
        "emit:torch",
        "exact",
        {"learning_rate": 0.01, "momentum": 0.9, "batch_scale": 5, "warmup_epochs": 1, "wd": 0.1},
    ),
]


def _train_torch(port: Port, p: Any, lr: float, folder: Path) -> tuple[list[dict[str, np.ndarray]], str, Any]:
    """Train with PyTorch, save after BEFORE updates as a person would, go on. Weights per update."""
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    tensors = {n: torch.nn.Parameter(torch.from_numpy(v.copy())) for n, v in p.params.items()}
    optimizer = getattr(torch.optim, port.source.partition(":")[2])(list(tensors.values()), **port.arguments)
    weights = []
    for t, g in enumerate(p.grads):
        if t == BEFORE:
            torch.save(optimizer.state_dict(), folder / "run.pt")
            torch.save({n: v.detach() for n, v in tensors.items()}, folder / "model.pt")
            for group in optimizer.param_groups:
                group["lr"] = lr * port.lr_factor
        for n, v in tensors.items():
            v.grad = torch.from_numpy(g[n].copy())
        optimizer.step()
        weights.append({n: v.detach().numpy().copy() for n, v in tensors.items()})
    return weights, str(folder / "run.pt"), str(folder / "model.pt")


def _train_mxnet(port: Port, p: Any, lr: float, folder: Path) -> tuple[list[dict[str, np.ndarray]], str, Any]:
    """Train with MXNet's Updater, save states with the optimizer after BEFORE updates, go on."""
    require_backend("mxnet")
    from optexport.converters.mxnet._import import import_mxnet

    mx = import_mxnet()
    arrays = {n: mx.nd.array(v, dtype=v.dtype) for n, v in p.params.items()}
    optimizer = mx.optimizer.create(port.source.partition(":")[2], **port.arguments)
    updater = mx.optimizer.get_updater(optimizer)
    weights = []
    for t, g in enumerate(p.grads):
        if t == BEFORE:
            (folder / "run.states").write_bytes(updater.get_states(dump_optimizer=True))
            mx.nd.save(str(folder / "model.params"), arrays)
            optimizer.set_learning_rate(lr * port.lr_factor)
        for i, (n, v) in enumerate(arrays.items()):
            updater(i, mx.nd.array(g[n], dtype=g[n].dtype), v)
        weights.append({n: v.asnumpy().copy() for n, v in arrays.items()})
    return weights, str(folder / "run.states"), str(folder / "model.params")


def _go_on(
    port: Port, file: str, module: Path, start: Any, grads: Any, lr: float
) -> Iterator[dict[str, np.ndarray]]:
    """Continue from the converted file with the target's own API."""
    from tests.parity import resume_with

    kind, _, name = port.target.partition(":")
    if port.target == "onnx":
        yield from resume_with.update_graph(file, str(module), grads, lr)
    elif kind == "emit":
        yield from getattr(resume_with, f"emitted_{name}")(file, module, start, grads, lr)
    else:
        yield from getattr(resume_with, kind)(file, name, start, grads, lr)


@pytest.mark.parametrize("port", PORTS, ids=lambda p: p.id)
def test_port_continues_the_run(port: Port, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    framework = port.target.removeprefix("emit:").partition(":")[0]
    require_backend(framework)
    p = problem("float32", BEFORE + AFTER)
    lr = port.arguments.get("lr", port.arguments.get("learning_rate"))
    train = {"torch": _train_torch, "mxnet": _train_mxnet}[port.source.partition(":")[0]]
    weights, source, model = train(port, p, lr, tmp_path)
    emits = port.target == "onnx" or port.target.startswith("emit:")
    suffix = {"onnx": ".safetensors", "torch": ".pt", "mxnet": ".states"}[framework]
    module = tmp_path / (
        f"emitted_{abs(hash(port.id)) % 10**8}" + (".onnx" if port.target == "onnx" else ".py")
    )
    target = str(tmp_path / f"target{suffix}")
    next_lr = lr * port.lr_factor

    report = convert(
        source, target, model=model, allow=port.allow, lr=next_lr if port.lr_factor != 1 else None,
        optimizers=() if emits else (port.target,), emit_optimizer=str(module) if emits else None,
    )  # fmt: skip

    assert report.verdict == port.verdict, report
    monkeypatch.syspath_prepend(str(tmp_path))
    got = list(_go_on(port, target, module, weights[BEFORE - 1], p.grads[BEFORE:], next_lr))
    assert len(got) == AFTER
    _within_verdict(port, report, weights, got)


def _within_verdict(port: Port, report: Any, weights: Any, got: Any) -> None:
    if port.verdict == "lossy":
        gaps = [relative_error(g["w"], w["w"]) for g, w in zip(got, weights[BEFORE:], strict=True)]
        assert gaps[-1] > 1e-3, "what a lossy port drops must show, or it is not lossy"
        assert report.dropped
        return
    travelled = dict.fromkeys(got[0], 0.0)
    for t in range(AFTER):
        for name, value in got[t].items():
            want, before = weights[BEFORE + t][name], weights[BEFORE + t - 1][name]
            travelled[name] += float(np.abs(want - before).max()) / float(np.abs(want).max())
            # Both runs round every operation of every update; about a dozen operations each.
            rounding = 3 * np.sqrt(2 * 12 * (BEFORE + t + 1)) * unit_roundoff("float32")
            bound = rounding + (FLOAT32_SCALARS + (report.bound or 0.0)) * travelled[name]
            error = relative_error(value, want)
            assert error <= bound, f"update {BEFORE + t + 1}, {name}: {error:.3g}, bound {bound:.3g}"


@pytest.mark.parametrize("framework", ["torch", "mxnet"])
def test_a_run_in_an_emitted_optimizer_comes_back(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch → emitted optimizer, with groups → its own framework's loading → back to torch, bit for bit."""
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    require_backend(framework)
    p = problem("float32", 3)
    tensors = {n: torch.nn.Parameter(torch.from_numpy(v.copy())) for n, v in p.params.items()}
    groups = [{"params": [tensors["w"]]}, {"params": [tensors["b"]], "weight_decay": 0.0, "lr": 0.02}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, eps=1e-3)
    for g in p.grads:
        for n, v in tensors.items():
            v.grad = torch.from_numpy(g[n].copy())
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "run.pt")
    torch.save({n: v.detach() for n, v in tensors.items()}, tmp_path / "model.pt")
    suffix = {"torch": ".pt", "mxnet": ".states"}[framework]
    file, module = tmp_path / f"emitted{suffix}", tmp_path / f"come_back_{framework}.py"
    convert(str(tmp_path / "run.pt"), str(file), model=str(tmp_path / "model.pt"), emit_optimizer=str(module))
    monkeypatch.syspath_prepend(str(tmp_path))
    made = importlib.import_module(module.stem)
    kind = next(v for k, v in vars(made).items() if k.startswith("Optexport"))
    if framework == "torch":
        again = kind(made.param_groups(tensors.items()))
        again.load_state_dict(torch.load(file, weights_only=True))
        torch.save(again.state_dict(), file)
    else:
        from optexport.converters.mxnet._import import import_mxnet

        updater = import_mxnet().optimizer.get_updater(kind())
        updater.set_states(file.read_bytes())
        file.write_bytes(updater.get_states(dump_optimizer=True))

    back = convert(str(file), str(tmp_path / "back.pt"), names=["w", "b"], optimizers=("torch:AdamW",))

    assert back.verdict == "exact"
    state = torch.load(tmp_path / "back.pt", weights_only=True)
    assert [g["weight_decay"] for g in state["param_groups"]] == [0.01, 0.0]
    assert [g["lr"] for g in state["param_groups"]] == [0.01, 0.02]
    for i, own in optimizer.state_dict()["state"].items():
        for slot, value in own.items():
            assert torch.equal(state["state"][i][slot], value), (i, slot)


def test_masters_of_half_precision_become_the_parameters(tmp_path: Path) -> None:
    """MXNet float16 with multi_precision → torch and onnxruntime in float32, from the master on."""
    require_backend("mxnet")
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    from optexport.converters.mxnet._import import import_mxnet

    mx = import_mxnet()
    p = problem("float32", BEFORE + AFTER)
    halves = {n: mx.nd.array(v, dtype="float16") for n, v in p.params.items()}
    updater = mx.optimizer.get_updater(
        mx.optimizer.create("sgd", learning_rate=0.1, momentum=0.9, multi_precision=True)
    )
    grads = [{n: v.astype(np.float16) for n, v in g.items()} for g in p.grads]
    masters = []
    for t, g in enumerate(grads):
        if t == BEFORE:
            (tmp_path / "run.states").write_bytes(updater.get_states(dump_optimizer=True))
            mx.nd.save(str(tmp_path / "model.params"), halves)
        for i, (n, v) in enumerate(halves.items()):
            updater(i, mx.nd.array(g[n], dtype="float16"), v)
        masters.append({n: updater.states[i][1].asnumpy().copy() for i, n in enumerate(halves)})

    arguments = {"model": str(tmp_path / "model.params")}
    done = convert(
        str(tmp_path / "run.states"), str(tmp_path / "run.pt"), optimizers=("torch:SGD",), **arguments
    )
    graph = tmp_path / "update.onnx"
    convert(
        str(tmp_path / "run.states"),
        str(tmp_path / "run.safetensors"),
        emit_optimizer=str(graph),
        **arguments,
    )

    assert any("masters became the parameters" in w for w in done.warnings)
    state = ox.load(tmp_path / "run.safetensors")
    assert {a.dtype.name for a in state.params.values()} == {"float32"}
    wide = [{n: v.astype(np.float32) for n, v in g.items()} for g in grads]
    from tests.parity import resume_with

    runs = [list(resume_with.update_graph(str(tmp_path / "run.safetensors"), str(graph), wide[BEFORE:], 0.1))]
    start = {n: np.array(v) for n, v in state.params.items()}
    runs.append(list(resume_with.torch(str(tmp_path / "run.pt"), "SGD", start, wide[BEFORE:], 0.1)))
    for run in runs:
        for t, got in enumerate(run):
            for n, value in got.items():
                bound = 3 * np.sqrt(2 * 12 * (BEFORE + t + 1)) * unit_roundoff("float32")
                assert relative_error(value, masters[BEFORE + t][n]) <= bound
    del torch


def test_consent_is_one_of_two_words() -> None:
    state = ox.init(ox.native("torch:Adam"), {"w": np.ones(3)})
    with pytest.raises(ox.UnknownNameError, match="allow: expected 'bounded' or 'lossy', found 'all'"):
        ox.translate(state, to="mxnet:adam", allow="all")


def test_weights_for_mxnet_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    """torch state and weights → ``.params`` that MXNet loads with the same bytes."""
    require_backend("mxnet")
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    from optexport.converters.mxnet._import import import_mxnet

    tensors = {n: torch.nn.Parameter(torch.from_numpy(v)) for n, v in problem("float32", 1).params.items()}
    optimizer = torch.optim.SGD(list(tensors.items()), lr=0.1)
    torch.save(
        {"model": {n: v.detach() for n, v in tensors.items()}, "optimizer": optimizer.state_dict()},
        tmp_path / "a.pt",
    )

    done = convert(str(tmp_path / "a.pt"), str(tmp_path / "model.params"))

    assert (done.optimizer, done.tensors) == ("weights", 2)
    loaded = import_mxnet().nd.load(str(tmp_path / "model.params"))
    for n, v in tensors.items():
        np.testing.assert_array_equal(loaded[n].asnumpy(), v.detach().numpy())
