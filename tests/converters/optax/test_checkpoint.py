"""Optax state in Flax' msgpack files and in pickles: read to the byte, written for the real library."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.converters.optax import checkpoint
from optexport.converters.optax._msgpack import encode, load_msgpack
from optexport.errors import CheckpointError, UnknownNameError
from optexport.parity import problem
from optexport.parity.compare import relative_error

pytest.importorskip("msgpack")
DATA = Path(__file__).parents[2] / "data" / "optax"
EXPECTED = json.loads((DATA / "expected.json").read_text())


def sha(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.mark.parametrize("name", EXPECTED)
def test_every_array_is_read_to_the_byte(name: str) -> None:
    found, expected = checkpoint.read(DATA / name), EXPECTED[name]
    assert checkpoint.sniff(DATA / name) and ox.state.store.detect(str(DATA / name)) == "optax"
    for key, (shape, dtype, digest) in expected["state"].items():
        param, _, slot = key.rpartition("/")
        array = found.slots[param][slot]
        assert (list(array.shape), array.dtype.name, sha(array)) == (shape, dtype, digest), key
    assert {f"{p}/{s}" for p, own in found.slots.items() for s in own} == set(expected["state"])
    weights = checkpoint.read_weights(DATA / name).tensors
    assert {n: sha(a) for n, a in weights.items()} == expected["weights"]


@pytest.mark.parametrize(
    ("name", "optimizer", "arguments", "step"),
    [
        ("adam.msgpack", "adam", {"learning_rate": 1e-3}, 3),
        ("adam_bf16.msgpack", "adam", {"learning_rate": 1e-3}, 3),
        ("sgd_momentum.msgpack", "sgd", {"learning_rate": 0.1, "momentum": 0.9}, 3),
        (
            "rmsprop_centered.msgpack",
            "rmsprop",
            {"learning_rate": 0.01, "centered": True, "momentum": 0.9},
            3,
        ),
        ("adamw_clip_schedule.msgpack", "adamw", {"learning_rate": 0.01}, 3),
        ("adam_inject.msgpack", "adam", {}, 3),
        ("multisteps.msgpack", "adam", {"learning_rate": 1e-3}, 1),
        ("adamw_jax.pkl", "adamw", {"learning_rate": 0.002}, 3),
        ("adam_numpy.pkl", "adam", {"learning_rate": 0.001}, 3),
        ("sgd_momentum.msgpack", "chain", {"links": [("trace", {"decay": 0.9}), ("scale", {"step_size": -0.1})]}, 3),
    ],
)  # fmt: skip
def test_states_come_in(name: str, optimizer: str, arguments: dict[str, Any], step: int) -> None:
    if name == "multisteps.msgpack" and _gathered(name):
        with pytest.raises(CheckpointError, match="MultiSteps has gathered 1 gradients"):
            ox.load(DATA / name, optimizer=f"optax:{optimizer}", arguments=arguments)
        return
    state = ox.load(DATA / name, optimizer=f"optax:{optimizer}", arguments=arguments)
    assert set(state.params) == set(state.slots) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    assert set(state.steps.values()) == {step}
    held = {sha(a) for own in state.slots.values() for a in own.values()}
    assert held <= {digest for _, _, digest in EXPECTED[name]["state"].values()}
    if optimizer == "adam" and "inject" in name:
        assert state.spec.groups[0].hyperparameters["lr"] == np.float32(1e-3)


def _gathered(name: str) -> bool:
    tree = checkpoint.read(DATA / name).extras["tree"]
    return int(tree["mini_step"]) != 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CheckpointError, match="holds no hyperparameters; give them in optax's own names"):
        ox.load(DATA / "adam.msgpack", optimizer="optax:adam")
    with pytest.raises(
        CheckpointError, match=r"expected the state of optax:rmsprop .* found arrays under 0.mu"
    ):
        ox.load(DATA / "rmsprop_centered.msgpack", optimizer="optax:rmsprop", arguments={"learning_rate": 1})
    with pytest.raises(UnknownNameError, match="does not say which optimizer wrote it; name it"):
        ox.load(DATA / "adam.msgpack", arguments={"learning_rate": 1e-3})


ROUND = [
    ("adamw", {"learning_rate": 0.01, "weight_decay": 0.1}),
    ("sgd", {"learning_rate": 0.1, "momentum": 0.9}),
    ("rmsprop", {"learning_rate": 0.01, "centered": True, "momentum": 0.9, "eps": 1e-3}),
    ("adagrad", {"learning_rate": 0.1}),
    ("amsgrad", {"learning_rate": 0.01}),
    ("chain", {"links": [("add_decayed_weights", {"weight_decay": 0.1}), ("adam", {"learning_rate": 0.01})]}),
]


@pytest.mark.parametrize(("name", "arguments"), ROUND, ids=[n for n, _ in ROUND])
def test_the_library_goes_on_from_a_written_file(
    tmp_path: Path, name: str, arguments: dict[str, Any]
) -> None:
    """10 updates here, a file, 10 in the real Optax: the same as 20 here."""
    pytest.importorskip("jax")
    from optexport.converters.optax import run

    p = problem("float64", 20)
    state = ox.init(ox.native(f"optax:{name}", **arguments), p.params)
    for g in p.grads[:10]:
        state = ox.step(state, g)
    path = tmp_path / "state.msgpack"
    ox.save(state, path, format="optax")
    again = ox.load(path, optimizer=f"optax:{name}", arguments=arguments)
    assert all(sha(again.slots[n][s]) == sha(a) for n, own in state.slots.items() for s, a in own.items())
    now = {n: np.asarray(v) for n, v in state.params.items()}
    for g, (params, _) in zip(
        p.grads[10:],
        run.native_resume(path, f"optax:{name}", arguments, now, p.grads[10:], dtype="float64"),
        strict=True,
    ):
        state = ox.step(state, g)
        assert max(relative_error(params[n], state.params[n]) for n in params) <= 1e-12


def test_groups_become_labels(tmp_path: Path) -> None:
    spec = ox.native("optax:adamw", learning_rate=0.1, groups=[{"params": ["b"], "weight_decay": 0.0}])
    state = ox.step(ox.init(spec, {"w": np.ones(2), "b": np.ones(3)}), {"w": np.ones(2), "b": np.ones(3)})
    path = tmp_path / "state.msgpack"
    ox.save(state, path, format="optax")
    tree = checkpoint.read(path).extras["tree"]
    assert set(tree["inner_states"]) == {"0", "1"}
    assert tree["inner_states"]["0"]["inner_state"]["0"]["mu"]["w"] == {}
    again = ox.load(path, optimizer="optax:adamw", arguments={"learning_rate": 0.1})
    assert {n: sha(s["exp_avg"]) for n, s in again.slots.items()} == {
        n: sha(s["exp_avg"]) for n, s in state.slots.items()
    }


def test_one_count_for_all(tmp_path: Path) -> None:
    state = ox.init(ox.native("optax:adam"), {"w": np.ones(2), "b": np.ones(3)})
    state = ox.step(state, {"w": np.ones(2)})
    with pytest.raises(CheckpointError, match=r"expected one step count for all parameters, found \[0, 1\]"):
        ox.save(state, tmp_path / "state.msgpack", format="optax")
    assert not list(tmp_path.iterdir())


def test_large_arrays_go_in_pieces(tmp_path: Path) -> None:
    tree = {"a": {"w": np.arange(10.0).reshape(5, 2)}, "n": 3, "empty": {}}
    made = bytearray()
    encode(tree, made.extend, chunk=24)
    assert b"__msgpack_chunked_array__" in made
    found = load_msgpack(memoryview(bytes(made)), "x")
    np.testing.assert_array_equal(found["a"]["w"], tree["a"]["w"])
    assert found["n"] == 3 and found["empty"] == {}


@pytest.mark.parametrize("cut", range(1, 2900, 97))
def test_a_damaged_file_is_refused(tmp_path: Path, cut: int) -> None:
    whole = (DATA / "adam.msgpack").read_bytes()
    path = tmp_path / "cut.msgpack"
    path.write_bytes(whole[:cut])
    with pytest.raises(CheckpointError, match=r"cut.msgpack: "):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (((2, 2), "float32", b"\0" * 12), "does not fit 12 bytes"),
        (((1 << 40,), "float32", b"\0" * 4), "does not fit 4 bytes"),
        (((-1,), "float32", b""), "expected numbers from 0 up"),
        (((1,), "object", b"\0" * 8), "expected a real number type"),
        (((1,), "float32"), "expected shape, dtype and bytes"),
        (((1,) * 40, "float32", b"\0" * 4), "expected at most 32"),
    ],
)
def test_arrays_are_checked_against_their_bytes(tmp_path: Path, body: Any, message: str) -> None:
    import msgpack

    data = msgpack.packb({"0": {"mu": {"w": msgpack.ExtType(1, msgpack.packb(body))}}})
    path = tmp_path / "bad.msgpack"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read(path)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    import os
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("touch ran",)

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"opt_state": Evil(), "optax.": 1}))
    with pytest.raises(CheckpointError, match="not on the closed list; nothing was executed"):
        checkpoint.read(path)
    assert not (tmp_path / "ran").exists() and not Path("ran").exists()
