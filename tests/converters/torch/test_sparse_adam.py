"""SparseAdam keeps its step as a Python number; as a tensor, its powers would be float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import optexport as ox
from optexport.convert import convert


def test_sparse_adam_goes_on_from_what_is_written(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    from optexport.converters.torch import run

    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((4, 3))}
    grads = [{"w": rng.standard_normal((4, 3))} for _ in range(12)]
    state = ox.init(ox.native("torch:SparseAdam", lr=0.1, eps=1e-2), params)
    for g in grads[:5]:
        state = ox.step(state, g)
    ox.save(state, tmp_path / "run.safetensors", format="bundle")

    convert(str(tmp_path / "run.safetensors"), str(tmp_path / "run.pt"))

    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    held = saved.get("optimizer", saved)["state"][0]
    assert type(held["step"]) is int and held["step"] == 5
    weights = {n: np.asarray(v) for n, v in state.params.items()}
    resumed = run.native_resume(
        tmp_path / "run.pt", "torch:SparseAdam", {"lr": 0.1, "eps": 1e-2}, weights, grads[5:], dtype="float64"
    )
    for g, (got, _) in zip(grads[5:], resumed, strict=True):
        state = ox.step(state, g)
        np.testing.assert_allclose(got["w"], state.params["w"], rtol=1e-13, atol=1e-13)
