"""Golden files: what this format version writes, kept so that every later one opens it.

    python -m tests.make_golden

writes what ``tests/data/golden`` lacks: a rule that is new in the catalogue. A file that is there is
never rewritten, and a new version of the format gets files of its own beside it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

import optexport as ox
from optexport.rules import CATALOGUE
from optexport.state import MASTER, TrainingState, bundle
from optexport.state.manifest import spec_text

GOLDEN = Path(__file__).parent / "data" / "golden"
BUNDLE = GOLDEN / "bundle_v1.safetensors"
BUNDLE_2 = GOLDEN / "bundle_v2.safetensors"


def bits(dtype: object, start: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers by their bits: NaNs with payloads, −0, infinities, denormals, and then ordinary ones."""
    kind = np.dtype(dtype)  # type: ignore[call-overload]
    width, top = kind.itemsize * 8, 8 if kind.itemsize < 8 else 11
    if kind == np.float16:
        top = 5
    infinity = ((1 << top) - 1) << (width - 1 - top)
    special = [infinity | 5, infinity | 1 << (width - 2 - top) | 3, 1 << (width - 1), infinity, 1, 12345 % 97]
    count = int(np.prod(shape))
    values = [special[i] if i < len(special) else (start + 977 * i) % infinity for i in range(count)]
    return np.array(values, f"<u{kind.itemsize}").view(kind).reshape(shape)


def state() -> TrainingState:
    """Two groups; a parameter in half precision with a master copy; one that was never updated."""
    groups = [{"params": ["norm.bias"], "weight_decay": 0.0}]
    spec = ox.native("torch:AdamW", lr=1e-3, betas=(0.9, 0.99), amsgrad=True, groups=groups)
    params = {
        "fc.weight": bits(np.float32, 1 << 29, (3, 4)),
        "emb": bits(ml_dtypes.bfloat16, 1 << 13, (2, 5)),
        "norm.bias": bits(np.float64, 1 << 61, (8,)),
        "last": np.zeros((0, 2), np.float32),
        "scale": np.float32([0.5]).reshape(()),
    }
    roles = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    slots = {
        "fc.weight": {r: bits(np.float32, (1 << 29) + i, (3, 4)) for i, r in enumerate(roles)},
        "emb": {r: bits(np.float32, (1 << 28) + i, (2, 5)) for i, r in enumerate((*roles, MASTER))},
        "norm.bias": {r: bits(np.float64, (1 << 60) + i, (8,)) for i, r in enumerate(roles)},
        "last": {r: np.zeros((0, 2), np.float32) for r in roles},
    }
    steps = {"fc.weight": 3, "emb": 2**40, "norm.bias": 1, "last": 3, "scale": 0}
    return TrainingState(
        spec.settle(params),
        params,
        slots,
        steps,
        dialect="torch:AdamW",
        provenance=("made for the tests", "β → 1"),
    )


def state_with_buffers() -> TrainingState:
    """The same with what a training graph carries beside: running statistics, dropout's seed. Version 2."""
    buffers = {"bn.running_mean": bits(np.float32, 1 << 27, (8,)), "seed": np.array(7, np.int64)}
    return replace(state(), buffers=buffers)


def specs() -> dict[str, ox.Spec]:
    """One spec a rule of the catalogue, and one of a framework's own optimizer with groups."""
    made = {f"spec_{name}": ox.spec(name) for name in CATALOGUE}
    made["spec_of_torch_sgd"] = ox.native(
        "torch:SGD", momentum=0.9, dampening=0.1, groups=[{"params": ["b"], "lr": 0.25}]
    ).settle(["w", "b"])
    return made


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    if not BUNDLE.exists():
        bundle.write(state(), str(BUNDLE))
    if not BUNDLE_2.exists():
        bundle.write(state_with_buffers(), str(BUNDLE_2))
        sharded = BUNDLE_2.with_name("bundle_v2_sharded.safetensors")
        bundle.write(state_with_buffers(), str(sharded), shard_size=200)
    for name, spec in specs().items():
        path = GOLDEN / f"{name}_v1.json"
        if not path.exists():
            path.write_text(spec_text(spec) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
