"""Resume parity with Keras on one side: train in A, convert A's file, go on in B with B's own API."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.convert import convert
from optexport.parity import problem, relative_error
from optexport.parity.bounds import unit_roundoff
from tests.parity.backends import has

pytest.importorskip("torch", reason="needs PyTorch, which is not in this environment")
if not has("keras"):
    pytest.skip("needs keras, which is not in this environment", allow_module_level=True)

from optexport.converters.keras import run as keras_run
from optexport.converters.torch import run as torch_run

BEFORE, AFTER = 10, 15


def within(got: list[dict[str, np.ndarray]], weights: list[dict[str, np.ndarray]], bound: float) -> None:
    """Asserts that a resumed run is the uninterrupted one, up to rounding and ``bound`` of the way travelled.

    weights: of the uninterrupted run after each update; ``got`` starts after `BEFORE` of them.
    """
    assert len(got) == AFTER
    travelled = dict.fromkeys(got[0], 0.0)
    for t, run in enumerate(got, BEFORE):
        for name, value in run.items():
            want = weights[t][name]
            travelled[name] += float(np.abs(want - weights[t - 1][name]).max()) / float(np.abs(want).max())
            # Both runs round every operation of every update; about a dozen operations each.
            rounding = 3 * np.sqrt(2 * 12 * (t + 1)) * unit_roundoff("float32")
            assert relative_error(value, want) <= rounding + bound * travelled[name]


@pytest.mark.parametrize(
    ("source", "arguments", "target", "verdict"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, "keras:SGD", "conditional"),
        ("AdamW", {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-4}, "keras:AdamW", "bounded"),
        ("RMSprop", {"lr": 0.01, "momentum": 0.9, "eps": 1e-4}, "keras:RMSprop", "bounded"),
        ("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}, "", "exact"),
        ("NAdam", {"lr": 0.01, "momentum_decay": 1.0}, "keras:Nadam", "exact"),
        ("NAdam", {"lr": 0.01, "weight_decay": 0.1}, "", "exact"),
        ("Adamax", {"lr": 0.01, "eps": 1e-3}, "keras:Adamax", "bounded"),
        ("RAdam", {"lr": 0.01, "weight_decay": 0.1}, "", "exact"),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}, "", "exact"),
    ],
)
def test_a_torch_run_goes_on_in_keras(
    source: str, arguments: Any, target: str, verdict: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """target: a native optimizer, or nothing for the optimizer that optexport writes."""
    import torch

    p = problem("float32", BEFORE + AFTER)
    tensors = {n: torch.nn.Parameter(torch.from_numpy(v.copy())) for n, v in p.params.items()}
    optimizer = getattr(torch.optim, source)(list(tensors.items()), **arguments)
    weights = []
    for t, g in enumerate(p.grads):
        if t == BEFORE:
            torch.save(optimizer.state_dict(), tmp_path / "run.pt")
            torch.save({n: v.detach() for n, v in tensors.items()}, tmp_path / "model.pt")
        for n, v in tensors.items():
            v.grad = torch.from_numpy(g[n].copy())
        optimizer.step()
        weights.append({n: v.detach().numpy().copy() for n, v in tensors.items()})
    file, module = str(tmp_path / "run.weights.h5"), tmp_path / f"keras_{source.lower()}_{len(arguments)}.py"

    done = convert(
        str(tmp_path / "run.pt"),
        file,
        model=str(tmp_path / "model.pt"),
        optimizers=(target,) if target else (),
        allow="bounded",
        emit_optimizer=None if target else str(module),
    )

    assert done.verdict == verdict
    assert any("build the optimizer before it loads" in w for w in done.warnings)
    start, rest = weights[BEFORE - 1], p.grads[BEFORE:]
    if target:
        held = dict(ox.load(file).spec.groups[0].arguments)
        got = [w for w, _ in keras_run.native_resume(file, target, held, start, rest)]
    else:
        monkeypatch.syspath_prepend(str(tmp_path))
        made = importlib.import_module(module.stem)
        kind = next(v for k, v in vars(made).items() if k.startswith("Optexport"))
        got = goes_on(kind(), file, start, rest)
    within(got, weights, done.bound or 0.0)


def goes_on(optimizer: Any, file: str, start: Any, grads: Any) -> list[dict[str, np.ndarray]]:
    """``build``, ``load_own_variables``, ``apply``: what a person does."""
    import h5py

    keras = keras_run.keras
    variables = [keras.Variable(v) for v in start.values()]
    optimizer.build(variables)
    with h5py.File(file) as f:
        optimizer.load_own_variables({k: np.array(v) for k, v in f["optimizer/vars"].items()})
    out = []
    for g in grads:
        optimizer.apply([keras.ops.convert_to_tensor(v) for v in g.values()], variables)
        out.append({n: np.array(v.value) for n, v in zip(start, variables, strict=True)})
    return out


@pytest.mark.parametrize(
    ("source", "arguments", "target", "verdict"),
    [
        ("SGD", {"learning_rate": 0.1, "momentum": 0.9}, "torch:SGD", "conditional"),
        ("Adam", {"learning_rate": 0.01, "epsilon": 1e-4}, "torch:Adam", "bounded"),
        ("AdamW", {"learning_rate": 0.01, "amsgrad": True, "epsilon": 1e-4}, "torch:AdamW", "bounded"),
        ("RMSprop", {"learning_rate": 0.01, "momentum": 0.8, "epsilon": 1e-4}, "torch:RMSprop", "bounded"),
    ],
)
def test_a_keras_run_goes_on_in_torch(
    source: str, arguments: Any, target: str, verdict: str, tmp_path: Path
) -> None:
    from keras.src.saving.saving_lib import H5IOStore

    p = problem("float32", BEFORE + AFTER)
    keras = keras_run.keras
    variables = [keras.Variable(v) for v in p.params.values()]
    optimizer = getattr(keras.optimizers, source)(**arguments)
    weights = []
    for t, g in enumerate(p.grads):
        if t == BEFORE:
            store = H5IOStore(str(tmp_path / "run.weights.h5"), mode="w")
            optimizer.save_own_variables(store.make("optimizer"))
            store.close()
        optimizer.apply([keras.ops.convert_to_tensor(v) for v in g.values()], variables)
        weights.append({n: np.array(v.value) for n, v in zip(p.params, variables, strict=True)})

    done = convert(
        str(tmp_path / "run.weights.h5"),
        str(tmp_path / "run.pt"),
        optimizers=(f"keras:{source}", target),
        arguments=arguments,
        names=list(p.params),
        allow="bounded",
    )

    assert done.verdict == verdict
    got = torch_run.native_resume(tmp_path / "run.pt", target, {}, weights[BEFORE - 1], p.grads[BEFORE:])
    within([w for w, _ in got], weights, done.bound or 0.0)
