"""L-BFGS' one flat state: read with the model's shapes, written, and gone on from by PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import optexport as ox
from tests.parity.test_lbfgs import LR, SMALL, Function

torch = pytest.importorskip("torch", reason="needs PyTorch")


def _run(f, params, steps, load=None):
    tensors = {n: torch.nn.Parameter(torch.tensor(np.array(v))) for n, v in params.items()}
    optimizer = torch.optim.LBFGS(tensors.values(), lr=LR, max_iter=1, **SMALL)
    if load is not None:
        optimizer.load_state_dict(torch.load(load, weights_only=True))
    for _ in range(steps):
        g = f.gradient({n: t.detach().numpy() for n, t in tensors.items()})
        for n, t in tensors.items():
            t.grad = torch.tensor(g[n])
        optimizer.step(lambda: torch.zeros(()))
    return tensors, optimizer


@pytest.fixture
def half(tmp_path):
    f = Function()
    tensors, optimizer = _run(f, f.start, 9)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save({n: t.detach() for n, t in tensors.items()}, tmp_path / "model.pt")
    return f, tensors, optimizer, tmp_path


def test_read_written_and_gone_on_from(half):
    f, tensors, _, folder = half
    state = ox.load(folder / "optimizer.pt", model=folder / "model.pt")
    assert state.dialect in ("torch:LBFGS", "") and state.spec.groups[0].native == "torch:LBFGS"
    assert state.steps == {"w": 9, "b": 9} and state.slots["w"]["gradient_differences"].shape == (5, 4, 2)
    moved, report = ox.translate(state, to="torch:LBFGS")
    assert report.verdict == "exact"
    ox.save(moved, folder / "again.pt", format="torch")

    on, _ = _run(f, {n: t.detach().numpy() for n, t in tensors.items()}, 8, folder / "again.pt")
    whole, _ = _run(f, f.start, 17)
    for n in tensors:
        np.testing.assert_allclose(on[n].detach().numpy(), whole[n].detach().numpy(), rtol=1e-12)


def test_the_referee_goes_on_from_it(half):
    f, _, _, folder = half
    state = ox.load(folder / "optimizer.pt", model=folder / "model.pt")
    for _ in range(8):
        state = ox.step(state, f.gradient(state.params))
    whole, _ = _run(f, f.start, 17)
    for n, t in whole.items():
        np.testing.assert_allclose(state.params[n], t.detach().numpy(), rtol=1e-12)


def test_without_the_weights_there_are_no_shapes(half):
    *_, folder = half
    with pytest.raises(
        ox.CheckpointError, match=r"one vector for all .* 2 shapes, found none; pass the weights"
    ):
        ox.load(folder / "optimizer.pt")


def test_weights_of_another_size(half):
    *_, folder = half
    torch.save({"w": torch.zeros(3, 2), "b": torch.zeros(4)}, folder / "other.pt")
    with pytest.raises(
        ox.CheckpointError, match=r"expected vectors of 10 elements, found .* are these the weights"
    ):
        ox.load(folder / "optimizer.pt", model=folder / "other.pt")
