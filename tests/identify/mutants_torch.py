"""Optimizers as people write them by hand, each with one thing changed, and what is to be found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["MUTANTS", "Hand"]


class Hand(torch.optim.Optimizer):
    """An Adam with places to change: ``changes`` names what is different."""

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-3,
        weight_decay: float = 0.1,
        changes: str = "",
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "changes": changes}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self._one(p, group, group["changes"])

    def _one(self, p: torch.Tensor, group: dict[str, Any], change: str) -> None:
        lr, (b1, b2), eps, wd = group["lr"], group["betas"], group["eps"], group["weight_decay"]
        s, g = self.state[p], p.grad
        assert g is not None
        if not s:
            s["t"], s["m"], s["v"] = 0, torch.zeros_like(p), torch.zeros_like(p)
        s["t"] += 1
        t, raw, before = s["t"], g, p.clone()
        if change == "float32 lr":
            lr = float(torch.tensor(lr, dtype=torch.float32))
        if change == "rate over t":
            lr = lr / math.sqrt(t)
        if change in ("l2", "l2 in the mean alone", "l2 in the mean square alone"):
            g = g + wd * p
        if change == "decay once more by lr":
            p.mul_(1 - lr * lr * wd)
        elif change == "decay not scaled":
            p.mul_(1 - wd * 0.1)
        elif change == "decay grows":
            p.mul_(1 + lr * wd)
        elif not change.startswith(("l2", "decay last", "no decay")):
            p.mul_(1 - lr * wd)
        m_old, v_old = s["m"].clone(), s["v"].clone()
        s["m"].mul_(b1).add_((raw if change == "l2 in the mean square alone" else g) * (1 - b1))
        if change == "gain of the mean is 1":
            s["m"] = b1 * m_old + g
        square = raw if change == "l2 in the mean alone" else g
        s["v"].mul_(b2).add_(square * square * (1 - b2))
        if change == "eps in the slot":
            s["v"].add_(eps)
        if change == "gain of the square is 1":
            s["v"] = b2 * v_old + g * g
        k = t + 1 if change == "one late" else t
        c1 = 1 - b1 ** (t + 1 if change == "mean one late" else k)
        c2 = 1 - b2 ** (t + 1 if change == "square one late" else k)
        if change == "no correction":
            c1 = c2 = 1.0
        if change == "mean uncorrected":
            c1 = 1.0
        if change == "square uncorrected":
            c2 = 1.0
        if change == "correction without root":
            c2 = c2 * c2
        if change == "float32 correction":
            c2 = float(torch.tensor(c2, dtype=torch.float32))
        m = m_old if change == "old mean" else s["m"]
        v = v_old if change == "old square" else s["v"]
        d = (v / c2).sqrt() + eps
        if change == "eps inside":
            d = (v / c2 + eps).sqrt()
        if change == "eps squared inside":
            d = (v / c2 + eps * eps).sqrt()
        if change == "eps hat":
            d = (v.sqrt() + eps) / math.sqrt(c2)
        if change == "eps under the raw root":
            d = (v + eps).sqrt() / math.sqrt(c2)
        if change == "larger of eps":
            d = torch.clamp((v / c2).sqrt(), min=eps)
        if change == "no root":
            d = v / c2 + eps
        p.sub_(lr / c1 * m / d)
        if change == "decay last":
            p.mul_(1 - lr * wd)
        if change == "decay last, old parameter, not scaled":
            p.sub_(wd * 0.1 * before)
        if change == "clipped update":
            p.copy_(before + (p - before).clamp(-0.008, 0.008))


# (change, kind that differs names, or None where the catalogue has it; a word of it, or the option)
MUTANTS: list[tuple[str, str | None, Any]] = [
    ("eps inside", None, {"eps_root": True}),
    ("eps squared inside", None, {"eps_root": True}),
    ("eps hat", None, {"eps": "hat"}),
    ("eps under the raw root", None, {"eps": "hat", "eps_root": True}),
    ("eps in the slot", "eps", "at every update"),
    ("larger of eps", "eps", "larger"),
    ("no root", "left out", "in place of its root"),
    ("one late", None, 1),
    ("mean one late", "counting", "c1 counts one update late"),
    ("square one late", "counting", "c2 counts one update late"),
    ("no correction", None, {"bias_correction": "none"}),
    ("mean uncorrected", None, {"bias_correction": "square"}),
    ("square uncorrected", None, {"bias_correction": "mean"}),
    ("correction without root", "bias_correction", "in place of its root"),
    ("float32 correction", "float32", "c2"),
    ("float32 lr", None, {"scalars": "float64"}),
    ("old mean", "order", "exp_avg before"),
    ("old square", "order", "exp_avg_sq before"),
    # Both are AdamW again, at ten times the rate, and at a tenth of it and of ε.
    ("gain of the mean is 1", None, {"decay": "decoupled"}),
    ("gain of the square is 1", None, {"decay": "decoupled"}),
    ("l2", None, {"decay": "l2"}),
    ("l2 in the mean alone", "decay", "alone|raw gradient"),
    ("l2 in the mean square alone", "decay", "alone|raw gradient"),
    ("decay last", None, {"decay": "decoupled_last"}),
    ("decay once more by lr", "decay", "once more"),
    # w(1 − λ) − u is (w − u/(1 − λ))(1 − λ).
    ("decay not scaled", None, {"post_decay": True}),
    ("decay grows", None, {"decay": "decoupled"}),
    ("rate over t", "schedule", "√t"),
    ("clipped update", "clip", "clipped"),
]
