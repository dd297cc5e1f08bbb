"""25 steps in PyTorch, 25 on ONNX Runtime, 25 in PyTorch: the run that never left PyTorch."""

from __future__ import annotations

from pathlib import Path
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
from .torch_models import CASES, Case, export  # noqa: E402

LEG = 25
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 3e-3, "weight_decay": 0.05},
    "SGD": {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.001},
}


def train(case: Case, module: Any, optimizer: Any, first: int, steps: int) -> list[float]:
    losses = []
    module.train()
    for i in range(first, first + steps):
        x, label = (torch.from_numpy(a) for a in case.batch(i))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x.to(next(module.parameters()).dtype)), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def start(case: Case, name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    module = case.module().to(dtype)
    return module, getattr(torch.optim, name)(module.parameters(), **OPTIMIZERS[name])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_run_goes_there_and_back(name: str, optimizer: str, tmp_path: Path) -> None:
    case = CASES[name]
    whole = start(case, optimizer)
    uninterrupted = train(case, *whole, 0, 3 * LEG)
    referee = start(case, optimizer, torch.float64)
    exact = train(case, *referee, 0, 3 * LEG)

    # PyTorch saves as people do, and the trained model is exported.
    module, opt = start(case, optimizer)
    losses = train(case, module, opt, 0, LEG)
    torch.save(opt.state_dict(), tmp_path / "optimizer.pt")
    torch.save(dict(module.named_parameters()), tmp_path / "model.pt")
    model = export(module, case.batch(0)[0], symbolic=True)

    # ONNX Runtime goes on.
    state = ox.load(
        tmp_path / "optimizer.pt", model=tmp_path / "model.pt", optimizer=f"torch:{optimizer}",
        names=[n for n, _ in module.named_parameters()],
    )  # fmt: skip
    built = build(model, "softmax_cross_entropy", state.spec, meant=Meant(**case.meant))
    stepper = Stepper(built)
    stepper.start(state, built.buffers)
    lr = OPTIMIZERS[optimizer]["lr"]
    losses += [stepper(*case.batch(i), lr=lr) for i in range(LEG, 2 * LEG)]
    # SGD's file has no count: its rule only asks whether it is the first update.
    counted = 1 if optimizer == "SGD" else LEG
    assert int(stepper.step_count) == counted + LEG

    # And back: the optimizer's own file and the weights under their own names.
    ported = stepper.state()
    ox.save(ported, tmp_path / "back.pt", format="torch")
    module, opt = start(case, optimizer)
    opt.load_state_dict(torch.load(tmp_path / "back.pt", weights_only=True))
    weights = {**ported.params, **ported.buffers}
    missing = module.load_state_dict(
        {n: torch.from_numpy(a.copy()) for n, a in weights.items()}, strict=False
    )
    assert not missing.unexpected_keys
    assert all(n.endswith("num_batches_tracked") for n in missing.missing_keys)
    losses += train(case, module, opt, 2 * LEG, LEG)

    program = ox.native(f"torch:{optimizer}").groups[0].rule.program
    for t in range(3 * LEG):
        bound = rounding_bound(program, t + 1, "float32") * abs(exact[t])
        own = max(abs(u - e) for u, e in zip(uninterrupted[: t + 1], exact, strict=False))
        error = abs(losses[t] - exact[t])
        assert error <= 10 * max(bound, own), f"loss of step {t + 1}: {error:.3g}"
    bound = rounding_bound(program, 3 * LEG, "float32")
    for (n, got), whole_p, want in zip(
        module.named_parameters(), whole[0].parameters(), referee[0].parameters(), strict=True
    ):
        w = want.detach().numpy()
        own = np.abs(whole_p.detach().numpy() - w).max()
        assert np.abs(got.detach().numpy() - w).max() <= 10 * max(own, bound * np.abs(w).max()), n


def test_a_port_that_forgets_the_moments_is_noticed(tmp_path: Path) -> None:
    """What the test above must see: the second leg from fresh slots is another run."""
    case = CASES["mlp"]
    module, opt = start(case, "AdamW")
    train(case, module, opt, 0, LEG)
    model = export(module, case.batch(0)[0])
    want = train(case, module, opt, LEG, 5)
    built = build(model, "softmax_cross_entropy", ox.native("torch:AdamW", **OPTIMIZERS["AdamW"]))
    stepper = Stepper(built)
    got = [stepper(*case.batch(i), lr=3e-3) for i in range(LEG, LEG + 5)]
    assert abs(got[-1] - want[-1]) > 1e-4
