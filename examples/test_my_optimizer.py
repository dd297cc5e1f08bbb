"""A test of an optimizer of one's own with the fixtures that pytest has once optexport is installed.

Needs torch and pytest.  pytest examples/test_my_optimizer.py
"""

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch, which is not in this environment")


class Momentum(torch.optim.Optimizer):
    """SGD with momentum, as somebody wrote it."""

    def __init__(self, params, lr=0.01, momentum=0.9, damped=False):
        super().__init__(params, {"lr": lr, "momentum": momentum, "damped": damped})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                grad = p.grad * (1 - group["momentum"]) if group["damped"] else p.grad
                buffer.mul_(group["momentum"]).add_(grad)
                p.add_(buffer, alpha=-group["lr"])


def test_it_is_sgd_with_momentum(assert_same_update):
    assert_same_update(Momentum, "torch:SGD", arguments={"lr": 0.1, "momentum": 0.9})


def test_a_damped_one_is_another_rule(optimizer_parity):
    found = optimizer_parity(
        Momentum,
        "momentum",
        arguments={"lr": 0.1, "damped": True},
        against_arguments={"lr": 0.1, "momentum": 0.9},
    )
    assert not found.passed
    assert found.first["update"] == 1 and found.first["slot"] == "momentum_buffer"
