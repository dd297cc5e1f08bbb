"""Training on a GPU: placement, and the same numbers as the CPU. Skipped where there is none.

The bounds. A float32 sum of n terms differs with its order by about √n units of 2⁻²⁴; the longest sums here
are of the convolution's weight gradients, over 64·784 terms, hence 2⁻²⁴·√50176 ≈ 1.3e-5 of the gradient. Adam
divides by the gradient's size, so one step moves a parameter by at most lr, and a relative error r of the
gradient by r·lr as long as the gradient is not lost in its own rounding; where it is, by 2·lr at worst.
Ten steps of lr = 1e-3 move parameters by 1e-2, so 10·2·lr bounds every element, and 1e-5 their mean.
"""

from __future__ import annotations

import os

os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

import numpy as np
import pytest

from .benchmarked import benchmark

ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime, which is not in this environment")
torch = pytest.importorskip("torch", reason="needs torch, which is not in this environment")

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        CUDA not in ort.get_available_providers() or not torch.cuda.is_available(),
        reason=f"needs an NVIDIA GPU and onnxruntime-gpu; found onnxruntime {ort.__version__} with "
        f"{', '.join(ort.get_available_providers())}",
    ),
]
cuda = benchmark("cuda")
MODELS = benchmark("models").MODELS


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """ONNX Runtime finds CUDA's libraries where PyTorch has them."""
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


@pytest.mark.parametrize("name", MODELS)
def test_no_node_falls_back(name: str) -> None:
    found = cuda.placement(MODELS[name], CUDA)
    assert found["strays"] == {}
    assert found["providers"][CUDA] > 50


@pytest.mark.parametrize("name", MODELS)
def test_ten_steps_are_the_processors(name: str) -> None:
    model = MODELS[name]
    values, batch = cuda.started(model)
    runs = {p: cuda.trainer(model, values, p) for p in (CPU, CUDA)}
    losses = {p: [r.step(*batch) for _ in range(10)] for p, r in runs.items()}
    np.testing.assert_allclose(losses[CUDA], losses[CPU], rtol=1e-3)
    np.testing.assert_allclose(losses[CUDA][0], losses[CPU][0], rtol=2e-6 * 10)
    states = {p: r.state() for p, r in runs.items()}
    for n, want in states[CPU].params.items():
        off = np.abs(states[CUDA].params[n] - want)
        assert off.max() <= 10 * 2 * cuda.LR and off.mean() <= 1e-5, n
    assert states[CUDA].steps == states[CPU].steps


@pytest.mark.parametrize("name", MODELS)
def test_in_place_on_the_device(name: str) -> None:
    """Written over or not, the numbers agree as closely as two runs of the same kind do."""
    import optexport as ox

    model = MODELS[name]
    values, batch = cuda.started(model)

    def losses(in_place: bool) -> list[float]:
        run = ox.Trainer(
            model.graph(values, model.size), "softmax_cross_entropy", ox.spec("adamw", lr=cuda.LR),
            providers=cuda.chain(CUDA), in_place=in_place, **model.options,
        )  # fmt: skip
        return [run.step(*batch) for _ in range(10)]

    # Sums by atomic additions have no fixed order, so not bit for bit.
    np.testing.assert_allclose(losses(True), losses(False), rtol=1e-3)


def test_an_update_alone_on_the_device() -> None:
    import optexport as ox
    from optexport.converters.onnx.run import UpdateSession

    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal((64, 32), np.float32) for _ in range(2))
    graph = ox.emit(ox.spec("adamw", lr=1e-2), "onnx", params={"w": w.shape}, blocks=False)
    found = {}
    for provider in (CPU, CUDA):
        session = UpdateSession(graph, providers=cuda.chain(provider))
        session.load({"w": w})
        for _ in range(5):
            session.step({"w": g}, lr=1e-2)
        found[provider] = session.params["w"].copy(), session.slots["w"]["exp_avg_sq"].copy()
    for a, b in zip(found[CUDA], found[CPU], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_benchmark(tmp_path: object) -> None:
    assert cuda.main(["--rounds", "3", "--elements", str(1 << 20), "--out", str(tmp_path)]) == 0
