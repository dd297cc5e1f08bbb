"""Normalisations: axes, optional inputs left out, ranks; those of operator sets 21 to 23 through their bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .referee import Case, case, check, torch

F = torch.nn.functional
EVERY = ("static", "batch", "free")
EPS = 2.0**-10
MEAN, VAR = np.array([0.5, -1.0, 2.0]), np.array([0.5, 1.0, 2.0])


def _layers() -> list[Case]:
    made = []
    for axis in (-1, 1, 2, -2, 0):
        shape = (2, 3, 4)[axis % 3 :]
        for bias in (True, False):

            def f(x: Any, w: Any, b: Any = None, s: Any = shape) -> Any:
                return F.layer_norm(x, s, w, b, EPS)

            real = {"x": (2, 3, 4), "w": shape} | ({"b": shape} if bias else {})
            modes = ("static", "batch") if axis else ("static",)
            made.append(case(f"axis {axis}, bias {bias}", "LayerNormalization", "x w b" if bias else "x w", f, real,
                             axis=axis, epsilon=EPS, modes=modes))  # fmt: skip
    made.append(case("defaults", "LayerNormalization", "x w b",
                     lambda x, w, b: F.layer_norm(x, (4,), w, b, float(np.float32(1e-5))),
                     {"x": (2, 3, 4), "w": (4,), "b": (4,)}, opset=21, modes=EVERY))  # fmt: skip
    made.append(case("scale of one number", "LayerNormalization", "x w",
                     lambda x, w: F.layer_norm(x, (4,), None, None, EPS) * w,
                     {"x": (2, 4), "w": (1,)}, epsilon=EPS))  # fmt: skip
    return made


def _channels() -> list[Case]:
    made = []
    for shape in ((2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)):
        made.append(case(f"{len(shape)}-D", "InstanceNormalization", "x w b",
                         lambda x, w, b: F.instance_norm(x, None, None, w, b, True, 0.1, EPS),
                         {"x": shape, "w": (3,), "b": (3,)}, epsilon=EPS, modes=EVERY))  # fmt: skip
        made.append(case(f"{len(shape)}-D", "BatchNormalization", "x w b mean var",
                         lambda x, w, b: F.batch_norm(x, torch.tensor(MEAN).to(x), torch.tensor(VAR).to(x), w, b, eps=EPS),
                         {"x": shape, "w": (3,), "b": (3,)}, fixed={"mean": MEAN, "var": VAR}, epsilon=EPS,
                         modes=EVERY))  # fmt: skip
    # From 21 on its body computes in float32 (stash_type), in a float64 model too.
    for groups in (1, 2, 4):
        made.append(case(f"of {groups}", "GroupNormalization", "x w b",
                         lambda x, w, b, n=groups: F.group_norm(x, n, w, b, EPS),
                         {"x": (2, 4, 3, 2), "w": (4,), "b": (4,)}, epsilon=EPS, num_groups=groups, opset=21,
                         doubles=False))  # fmt: skip
        # Before operator set 21, scale and bias were one number a group.
        made.append(case(f"of {groups}, scale a group", "GroupNormalization", "x w b",
                         lambda x, w, b, n=groups: F.group_norm(
                             x, n, w.repeat_interleave(4 // n), b.repeat_interleave(4 // n), EPS),
                         {"x": (2, 4, 3, 2), "w": (groups,), "b": (groups,)}, epsilon=EPS, num_groups=groups))  # fmt: skip
    # onnxruntime has it in float32 and for odd windows; the reference evaluator's sum is another.
    made += [
        case(f"size {n}", "LRN", "x", lambda x, n=n: F.local_response_norm(x, n, 0.25, 0.75, 2.0), {"x": (2, 5, 3, 2)},
             size=n, alpha=0.25, beta=0.75, bias=2.0, doubles=False)
        for n in (1, 3, 5)
    ]  # fmt: skip
    return made


def _norms() -> list[Case]:
    made = [
        case(f"axis {axis}, p {p}", "LpNormalization", "x", lambda x, a=axis, p=p: F.normalize(x, p, a),
             {"x": (2, 3, 4)}, axis=axis, p=p, modes=EVERY)
        for axis in (-1, 0, 1, 2) for p in (1, 2)
    ]  # fmt: skip
    # Its body computes in float32 (stash_type).
    for axis in (-1, 1):
        shape = (2, 3, 4)[axis % 3 :]
        made.append(case(f"axis {axis}", "RMSNormalization", "x w", lambda x, w, s=shape: F.rms_norm(x, s, w, EPS),
                         {"x": (2, 3, 4), "w": shape}, axis=axis, epsilon=EPS, opset=23, doubles=False))  # fmt: skip
    made.append(
        case(
            "axes 0 2 3",
            "MeanVarianceNormalization",
            "x",
            lambda x: (x - x.mean((0, 2, 3), True)) / (x.std((0, 2, 3), correction=0, keepdim=True) + 1e-9),
            {"x": (2, 3, 4, 5)},
            doubles=False,
        )
    )  # fmt: skip  (its body has float32 constants)
    return made


CASES = [*_layers(), *_channels(), *_norms()]


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_gradient(c: Case) -> None:
    check(c)
