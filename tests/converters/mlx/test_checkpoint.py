"""MLX's safetensors and .npz: read to the byte, and written for the real MLX."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.converters.mlx import checkpoint
from optexport.dialects import converter
from optexport.errors import CheckpointError, HyperparameterError
from optexport.parity import problem
from optexport.state.formats import find_format, formats
from optexport.state.safetensors import write_tensors
from optexport.state.store import detect, read_model, save
from tests.parity.backends import require_native

DATA = Path(__file__).parents[2] / "data" / "mlx"
SAMPLES = {s["id"]: s for s in json.loads((DATA / "expected.json").read_text())["samples"]}
FILES = sorted(p.name for p in DATA.iterdir() if p.suffix != ".json")


def sha(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.mark.parametrize("name", FILES)
def test_every_array_is_read_to_the_byte(name: str) -> None:
    path = str(DATA / name)
    fmt = "mlx-npz" if name.endswith(".npz") else "mlx"
    assert detect(path) == fmt
    assert [n for n in formats() if n != "bundle" and find_format(n).sniff(path)] == [fmt]
    reader = find_format(fmt).read
    assert reader is not None
    found, sample = reader(path), SAMPLES[name.partition(".")[0]]
    for record in sample["state"]:
        array = found.slots[record["param"]][record["slot"]]
        assert (list(array.shape), array.dtype.name, sha(array)) == (
            record["shape"],
            record["dtype"],
            record["sha256"],
        )
    assert sum(len(own) for own in found.slots.values()) == len(sample["state"])
    assert set(found.steps.values()) == {sample["step"]}


@pytest.mark.parametrize(
    ("name", "optimizer", "arguments"),
    [
        ("sgd_momentum", "SGD", {"momentum": 0.9}),
        ("adam", "Adam", {}),
        ("adam_bf16", "Adam", {}),
        ("adamw", "AdamW", {"weight_decay": 0.05}),
        ("rmsprop", "RMSprop", {}),
    ],
)
def test_a_file_is_a_training_state(name: str, optimizer: str, arguments: dict[str, Any]) -> None:
    state = ox.load(DATA / f"{name}.safetensors", optimizer=f"mlx:{optimizer}", arguments=arguments)
    assert set(state.steps.values()) == {3} and len(state.names) == 4
    assert any(f"assumed mlx:{optimizer}'s defaults" in w for w in state.warnings)


def test_a_momentum_that_is_not_read_must_be_0() -> None:
    with pytest.raises(
        CheckpointError, match=r"slot 'v' is not 0, and mlx:SGD without momentum never writes it"
    ):
        ox.load(DATA / "sgd_momentum.safetensors", optimizer="mlx:SGD")


def made(path: Path, tensors: dict[str, Any]) -> Path:
    with open(path, "wb") as file:
        write_tensors(file, str(path), {k: np.asarray(v) for k, v in tensors.items()}, {})
    return path


@pytest.mark.parametrize(("kind", "own"), [(np.uint64, True), (np.float32, False), (np.int64, False)])
def test_a_step_beside_slots_that_others_have(kind: Any, own: bool, tmp_path: Path) -> None:
    """Adafactor's file has no learning rate; PyTorch's state may be called alike."""
    held = {"step": kind(3), "w.exp_avg": np.ones(2, np.float32), "w.exp_avg_sq": np.ones(2, np.float32)}
    path = made(tmp_path / "x.safetensors", held)
    assert checkpoint.sniff(path) is own
    assert detect(str(path)) == ("mlx" if own else "safetensors")


def test_several_optimizers_are_groups(tmp_path: Path) -> None:
    top = {"states.0.step": np.uint64(4), "states.0.learning_rate": np.float32(0.5)}
    other = {"states.1.step": np.uint64(4), "states.1.learning_rate": np.float32(0.25)}
    slots = {"states.0.a.w.v": np.ones(2, np.float32), "states.1.b.v": np.ones(3, np.float32)}
    path = made(tmp_path / "x.safetensors", {**top, **other, **slots})
    found = checkpoint.read(path)
    assert checkpoint.sniff(path)
    assert [(g.params, g.arguments) for g in found.groups] == [
        (["a.w"], {"learning_rate": 0.5}),
        (["b"], {"learning_rate": 0.25}),
    ]


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"w.v": np.ones(2, np.float32)}, "expected MLX's state with its step, found no 'step'"),
        ({"step": np.ones(2, np.uint64)}, r"'step': expected one number, found uint64 \[2\]"),
        ({"step": np.float32(1.5)}, "'step' expected a number of updates, found 1.5"),
        ({"step": np.uint64(1), ".v": np.ones(2, np.float32)}, r"tensor '\.v': expected PARAMETER\.SLOT"),
    ],
)
def test_what_is_no_state(tensors: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=told):
        checkpoint.read(made(tmp_path / "x.safetensors", tensors))


# .npz


def test_weights_of_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.ones((2, 3), np.float32))
    np.savez_compressed(tmp_path / "c.npz", a=np.ones((2, 3), np.float32))
    for name in ("w.npz", "c.npz"):
        assert read_model(str(tmp_path / name)).tensors["a"].shape == (2, 3)
    with pytest.raises(CheckpointError, match="found an optimizer's state"):
        read_model(str(DATA / "adam.npz"))


def test_no_pickle_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", step=np.array([{}], object))
    with pytest.raises(CheckpointError, match=r"array 'step': expected plain numbers, found '\|O'"):
        checkpoint.read_npz_state(tmp_path / "x.npz")


def test_a_damaged_npz(tmp_path: Path) -> None:
    data = bytearray((DATA / "adam.npz").read_bytes())
    (tmp_path / "short.npz").write_bytes(data[:1000])
    with pytest.raises(CheckpointError, match="expected a zip of NumPy arrays"):
        checkpoint.read_npz_state(tmp_path / "short.npz")
    with zipfile.ZipFile(DATA / "adam.npz") as held:
        first = held.infolist()[0]
    data[first.header_offset + 200] ^= 1
    (tmp_path / "flipped.npz").write_bytes(data)
    with pytest.raises(CheckpointError, match="bytes do not have the checksum of the zip"):
        checkpoint.read_npz_state(tmp_path / "flipped.npz")


# The real MLX.

RUNS = [
    ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.1}),
    ("RMSprop", {"learning_rate": 0.01}),
    ("Adagrad", {"learning_rate": 0.1}),
    ("AdaDelta", {"learning_rate": 1.0}),
    ("Adam", {"learning_rate": 0.01, "bias_correction": True}),
    ("AdamW", {"learning_rate": 0.01}),
    ("Adamax", {"learning_rate": 0.01}),
    ("Lion", {"learning_rate": 0.01}),
    ("Adafactor", {}),
    ("Adafactor", {"learning_rate": 0.01, "relative_step": False, "beta_1": 0.9}),
    ("Muon", {"learning_rate": 0.01}),
]


@pytest.mark.parametrize(("name", "arguments"), RUNS, ids=[f"{n}{i}" for i, (n, _) in enumerate(RUNS)])
def test_the_real_mlx_goes_on(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    """Its own file, read and written again, lets the run go on as if nothing had been, bit for bit."""
    require_native(f"mlx:{name}")
    import mlx.core as mx
    from mlx.utils import tree_flatten

    p, run = problem("float32", steps=8), converter("mlx", "run")
    whole = list(run.native_snapshots(f"mlx:{name}", arguments, p.params, p.grads))
    own = run._class(name)(**arguments)
    list(run._steps(own, p.params, p.grads[:5], None, "float32"))
    mx.save_safetensors(str(tmp_path / "own.safetensors"), dict(tree_flatten(own.state)))
    state = ox.load(tmp_path / "own.safetensors", optimizer=f"mlx:{name}", arguments=arguments)
    save(state, tmp_path / "new.safetensors", format="mlx")
    rest = run.native_resume(tmp_path / "new.safetensors", f"mlx:{name}", arguments, whole[4][0], p.grads[5:])
    for (params, slots), (want, wanted) in zip(rest, whole[5:], strict=True):
        assert {n: a.tobytes() for n, a in params.items()} == {n: a.tobytes() for n, a in want.items()}
        for n, held in wanted.items():
            assert {s: a.tobytes() for s, a in slots[n].items()} == {s: a.tobytes() for s, a in held.items()}


def test_every_optimizer_goes_on() -> None:
    assert {n for n, _ in RUNS} == {e.name for e in converter("mlx", "dialect").OPTIMIZERS}


def test_a_bundle_keeps_every_bit(tmp_path: Path) -> None:
    """NaN payloads and denormals included."""
    odd = np.array([0x7FC12345, 0xFFA00001, 1, 0x80000001], np.uint32).view(np.float32)
    held = {"step": np.uint64(1), "learning_rate": np.float32(0.1), "w.v": odd}
    path = made(tmp_path / "x.safetensors", held)
    state = ox.load(path, optimizer="mlx:SGD", arguments={"momentum": 0.9})
    save(state, tmp_path / "b.safetensors", format="bundle")
    save(ox.load(tmp_path / "b.safetensors"), tmp_path / "y.safetensors", format="mlx")
    assert checkpoint.read(tmp_path / "y.safetensors").slots["w"]["v"].tobytes() == odd.tobytes()


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("SGD", {"learning_rate": 0.1, "nesterov": True}, "nesterov=True expected a momentum above 0"),
        ("Adafactor", {"warmup_init": True}, "warmup_init=True makes the rate"),
        ("Adafactor", {"weight_decay": 0.1}, "the decay is multiplied by the scaled and capped rate"),
        ("Adafactor", {"relative_step": False}, "expected a learning_rate, found none"),
    ],
)
def test_what_the_rules_lack_is_refused(name: str, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(HyperparameterError, match=f"^mlx:{name}: .*{told}"):
        ox.native(f"mlx:{name}", **arguments)
