"""Inspecting: everything that is in a file, its hashes, and what looks wrong."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import optexport as ox
from optexport.errors import UnknownNameError
from optexport.state import bundle
from optexport.state.inspect import Inspection, TensorInfo, inspect
from tests.make_golden import BUNDLE, state

DATA = Path(__file__).parents[1] / "data"
NAMES = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
SAMPLES = [
    (folder, sample)
    for folder in ("torch", "torch_dcp", "torch_dcp_2ranks", "lightning", "mxnet")
    for sample in json.loads((DATA / folder / "expected.json").read_text())["samples"]
    if sample.get("state")
]


@pytest.mark.parametrize(("folder", "sample"), SAMPLES, ids=lambda s: s if isinstance(s, str) else s["id"])
def test_samples_have_the_hashes_that_their_frameworks_gave(folder, sample):
    """sha256, shape and dtype of every tensor against those noted when the framework wrote the file."""
    path = DATA / folder / sample["files"][0]
    found = inspect(str(path if path.name != ".metadata" else path.parent))
    named = {t.param for t in found.tensors}
    index = {p["name"]: str(p["index"]) for p in sample["parameters"] if "index" in p}
    hashes = {(t.param, t.sha256) for t in found.tensors}
    for tensor in sample["state"]:
        if "param" not in tensor or tensor.get("slot") is None:
            continue
        param = tensor["param"] if tensor["param"] in named else index.get(tensor["param"])
        assert (param, tensor["sha256"]) in hashes, tensor["name"]
    for t in found.tensors:
        assert t.slot is None or (t.sha256 and t.norm is not None and t.nan == 0 and t.inf == 0)


def saved(tmp_path: Path, **slots: np.ndarray) -> str:
    """A bundle of an Adam state of one parameter, with slots replaced."""
    shape = next(iter(slots.values())).shape
    made = ox.step(ox.init(ox.spec("adam"), {"w": np.ones(shape)}), {"w": np.ones(shape)})
    bundle.write(replace(made, slots={"w": {**made.slots["w"], **slots}}), str(tmp_path / "a.safetensors"))
    return str(tmp_path / "a.safetensors")


def of(found: Inspection, slot: str, param: str = "w") -> TensorInfo:
    (tensor,) = [t for t in found.tensors if (t.param, t.slot) == (param, slot)]
    return tensor


def test_a_bundle():
    found = inspect(str(BUNDLE))
    assert (found.format, found.optimizer, found.step) == ("bundle", "torch:AdamW", 2**40)
    assert [(g["rule"], g["params"]) for g in found.groups] == [
        ("amsgrad", ["norm.bias"]),
        ("adam", ["fc.weight", "emb", "last", "scale"]),
    ]
    expected = state()
    for name, slots in expected.slots.items():
        for slot, array in slots.items():
            t = of(found, slot, name)
            assert (t.role, t.shape, t.dtype, t.bytes) == (slot, array.shape, array.dtype.name, array.nbytes)
            assert t.sha256 == hashlib.sha256(array.tobytes()).hexdigest()
    assert {t.param: t.sha256 for t in found.weights} == {
        n: hashlib.sha256(a.tobytes()).hexdigest() for n, a in expected.params.items()
    }
    # Never updated, and still there.
    assert [t for t in found.tensors if t.param == "scale"] == [
        TensorInfo("scale", None, None, None, None, 0, None, None, None, None)
    ]


def test_what_a_group_tells():
    (group,) = inspect(str(DATA / "torch" / "adamw.pt")).groups
    assert group["rule"] == "adamw" and group["native"] == "torch:AdamW" and group["params"] == list("0123")
    assert group["hyperparameters"]["weight_decay"] == 0.05 and len(group["digest"]) == 64
    assert group["arguments"]["betas"] == (0.9, 0.999)


def test_roles_beside_the_frameworks_names():
    found = inspect(str(DATA / "mxnet" / "trainer_adam.states"))
    roles = {t.slot: t.role for t in found.tensors}
    assert set(roles.values()) == {"exp_avg", "exp_avg_sq"} and roles.keys() != set(roles.values())
    step = of(inspect(str(DATA / "torch" / "adam.pt")), "step", "0")
    assert step.role == "step" and step.shape == ()


def test_names_when_they_are_given(tmp_path):
    path = str(DATA / "torch" / "adam.pt")
    (tmp_path / "names").write_text("\n".join(NAMES))
    assert [p for g in inspect(path, names=str(tmp_path / "names")).groups for p in g["params"]] == NAMES
    shapes = {"fc1.weight": (16, 8), "fc1.bias": (16,), "fc2.weight": (4, 16), "fc2.bias": (4,)}
    save_file({n: np.zeros(s, np.float32) for n, s in shapes.items()}, tmp_path / "m.safetensors")
    found = inspect(path, model=str(tmp_path / "m.safetensors"))
    assert {t.param: t.shape for t in found.tensors if t.role == "exp_avg"} == shapes


def test_quick_reads_no_tensor():
    for path in (BUNDLE, DATA / "torch" / "adam.pt"):
        found = inspect(str(path), quick=True)
        for t in (*found.tensors, *found.weights):
            assert (t.sha256, t.norm, t.nan, t.inf, t.negative) == (None,) * 5
        assert not any("NaN" in w or "dead" in w for w in found.warnings)


def test_a_file_that_does_not_say_its_optimizer():
    path = str(DATA / "mxnet" / "module_adam.states")
    found = inspect(path)
    assert found.optimizer is None and found.groups[0]["rule"] is None
    assert "the file does not say which optimizer wrote it (--optimizer names it)" in found.warnings
    assert found.tensors and all(t.role is None for t in found.tensors)
    with pytest.raises(UnknownNameError, match="nearest: "):
        inspect(path, optimizer="mxnet:adma")


# Health.


def test_a_healthy_file_has_no_warnings(tmp_path):
    made = ox.step(ox.init(ox.spec("adam"), {"w": np.ones(3)}), {"w": np.ones(3)})
    ox.save(made, tmp_path / "a", format="bundle")
    assert inspect(str(tmp_path / "a")).warnings == []


def test_nan_and_infinity_are_counted(tmp_path):
    path = saved(tmp_path, exp_avg=np.array([np.nan, np.inf, -np.inf, np.nan, 3.0, 4.0]))
    found = inspect(path)
    t = of(found, "exp_avg")
    assert (t.nan, t.inf, t.norm) == (2, 2, 5.0)
    assert "parameter 'w', slot 'exp_avg': 2 NaN and 2 infinite values" in found.warnings


def test_a_dead_slot(tmp_path):
    found = inspect(saved(tmp_path, exp_avg_sq=np.zeros((2, 2))))
    assert found.warnings == ["parameter 'w', slot 'exp_avg_sq': dead, every value is 0 after 1 updates"]


def test_negative_zeros_are_dead_and_not_negative(tmp_path):
    found = inspect(saved(tmp_path, exp_avg_sq=np.full((2, 2), -0.0)))
    assert found.warnings == ["parameter 'w', slot 'exp_avg_sq': dead, every value is 0 after 1 updates"]


def test_a_mean_of_squares_below_zero(tmp_path):
    found = inspect(saved(tmp_path, exp_avg_sq=np.array([1.0, -1e-30, -2.0])))
    assert of(found, "exp_avg_sq").negative == 2 and of(found, "exp_avg").negative is None
    assert found.warnings == [
        "parameter 'w', slot 'exp_avg_sq': 2 negative entries, which exp_avg_sq cannot have by its rule; the file is damaged"
    ]
    # A mean may be negative.
    assert inspect(saved(tmp_path, exp_avg=np.array([-1.0, -2.0]))).warnings == []


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_negative_squares_in_every_dtype(tmp_path, dtype):
    values = np.array([1.0, -0.5], dtype)
    assert "1 negative entries" in inspect(saved(tmp_path, exp_avg_sq=values)).warnings[-1]


def test_no_elements_are_not_dead(tmp_path):
    assert inspect(saved(tmp_path, exp_avg=np.zeros((0, 3)), exp_avg_sq=np.zeros((0, 3)))).warnings == []


def test_numbers_whose_squares_leave_the_range(tmp_path):
    found = inspect(saved(tmp_path, exp_avg=np.array([1e-200, -3e-200]), exp_avg_sq=np.array([1e300, 1e300])))
    assert of(found, "exp_avg").norm == 3e-200 and of(found, "exp_avg_sq").norm == 1e300
    assert found.warnings == []


def test_denormals_are_alive(tmp_path):
    tiny = np.full(4, np.float32(1e-45))
    found = inspect(saved(tmp_path, exp_avg=tiny))
    assert math.isclose(of(found, "exp_avg").norm, 2 * float(tiny[0])) and found.warnings == []


def test_norms_of_more_than_one_block(tmp_path):
    """Tensors are looked at in pieces; the pieces add up."""
    values = np.full((1 << 22) + 5, 0.5, np.float32)
    values[-1] = np.nan
    t = of(inspect(saved(tmp_path, exp_avg=values)), "exp_avg")
    assert t.norm == math.sqrt(0.25 * ((1 << 22) + 4)) and t.nan == 1
    assert t.sha256 == hashlib.sha256(values.tobytes()).hexdigest()


def test_changed_bytes(tmp_path):
    path = saved(tmp_path, exp_avg=np.ones(4))
    data = bytearray(Path(path).read_bytes())
    data[-40] ^= 1  # within w/exp_avg_sq, the last tensor but w itself sorts first
    Path(path).write_bytes(bytes(data))
    found = inspect(path)
    (damaged,) = [w for w in found.warnings if "sha256" in w]
    assert damaged.startswith("tensor 'w/") and damaged.endswith("the manifest's sha256; the file is damaged")
    assert not [w for w in inspect(path, quick=True).warnings if "sha256" in w]
