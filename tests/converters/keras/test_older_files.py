"""Older Keras files and TensorFlow checkpoints: every sample to the bit, and the run goes on as it did there."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.converters.keras import _crc32c, checkpoint
from optexport.converters.keras._crc32c import _short, crc32c, masked
from optexport.errors import CheckpointError, OptexportError
from optexport.state.formats import find_format, formats
from optexport.state.store import detect, read_model, read_native

pytest.importorskip("h5py", reason="needs h5py, which is not in this environment")

DATA = Path(__file__).parents[2] / "data"
FOLDERS = ("keras_legacy_h5", "tf_checkpoint", "keras2")


def samples() -> list[Any]:
    return [
        pytest.param(DATA / folder / s["files"][0], s, id=f"{folder}-{s['id']}")
        for folder in FOLDERS
        for s in json.loads((DATA / folder / "expected.json").read_text())["samples"]
    ]


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def given(sample: dict[str, Any]) -> dict[str, Any]:
    """What a TensorFlow checkpoint does not hold, as a person gives it."""
    if sample["format"] == "keras-legacy-h5":
        return {}
    known = ("amsgrad", "centered", "momentum", "rho", "beta_1", "beta_2", "weight_decay", "use_ema")
    found = {k: v for k, v in sample["hyperparameters"].items() if k in known}
    if isinstance(sample["hyperparameters"]["learning_rate"], dict):
        found["learning_rate"] = 0.001
    return {"optimizer": f"keras:{sample['optimizer']}", "arguments": found}


def name_of(sample: dict[str, Any], record: dict[str, Any]) -> str:
    """Keras' name of the parameter that a sample calls fc1.weight."""
    return record["param"].replace(".weight", "/kernel").replace(".bias", "/bias")


@pytest.mark.parametrize("path, sample", samples())
def test_every_tensor_of_every_sample_is_read_to_the_bit(path, sample):
    """Under the right parameter; the framework's own slot name is the variable's."""
    native = read_native(str(path))
    held = [a for slots in native.slots.values() for a in slots.values()]
    assert sorted(map(digest, held)) == sorted([s["sha256"] for s in sample["state"]])
    assert not any(a.flags.writeable for a in held)
    weights = {n: digest(a) for n, a in native.weights.items()}
    for want in sample["weights"]:
        assert weights[name_of(sample, want)] == want["sha256"]


@pytest.mark.parametrize("path, sample", samples())
def test_a_sample_is_known_as_its_own_format_and_as_no_other(path, sample):
    wanted = "keras-legacy-h5" if path.suffix == ".h5" else "tensorflow"
    assert detect(str(path)) == wanted
    for name in formats():
        if name not in ("bundle", wanted):
            assert not find_format(name).sniff(str(path)), name


@pytest.mark.parametrize("path, sample", [s for s in samples() if "adagrad" not in s.id])
def test_slots_are_those_of_their_parameters(path, sample):
    state = ox.load(path, **given(sample))
    assert set(state.steps.values()) == {sample["step"]}
    assert list(state.params) == [name_of(sample, w) for w in sample["weights"]]
    for name in state.names:
        wanted = sorted(s["sha256"] for s in sample["state"] if name_of(sample, s) == name)
        assert sorted(map(digest, state.slots[name].values())) == wanted


@pytest.mark.parametrize(
    "path, sample", [s for s in samples() if s.id.startswith("keras2") and "adagrad" not in s.id]
)
def test_keras_2_goes_on_here_as_it_did_there(path, sample):
    """The referee, in float32, against the weights of tf_keras after each of three more updates."""
    identity = sample["id"].rpartition("_")[0]
    with np.load(DATA / "keras2" / "after.npz") as file:
        rows = list(zip(file[f"{identity}/gradients"], file[f"{identity}/weights"], strict=True))
    scheduled = isinstance(sample["hyperparameters"]["learning_rate"], dict)
    if scheduled and sample["format"] == "tensorflow":
        pytest.skip("a TensorFlow checkpoint does not hold the schedule")
    state = ox.load(path, **given(sample))
    sizes = np.cumsum([a.size for a in state.params.values()])[:-1]
    for gradients, weights in rows:
        parts = zip(state.params, np.split(gradients, sizes), strict=True)
        state = ox.step(state, {n: g.reshape(state.params[n].shape) for n, g in parts})
        got = np.concatenate([a.reshape(-1) for a in state.params.values()])
        # float32 there, float64 here: some units in the last place of weights below 2.
        np.testing.assert_allclose(got, weights, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("kind", [".index"])
def test_keras_2s_other_optimizers_are_refused_by_name(kind):
    path = DATA / "keras2" / f"old_adagrad{kind}"
    with pytest.raises(
        CheckpointError, match="another one than that of Keras 3: it adds epsilon to the root"
    ):
        ox.load(path, optimizer="keras:Adagrad")


def test_a_checkpoint_is_given_by_its_prefix_its_index_or_its_folder(tmp_path):
    prefix = DATA / "tf_checkpoint" / "adam"
    for file in prefix.parent.glob("adam.*"):
        shutil.copy(file, tmp_path / file.name.replace("adam", "ckpt-7"))
    wanted = {n: digest(a) for n, a in read_model(f"{prefix}.index").tensors.items()}
    for given in (tmp_path, tmp_path / "ckpt-7", tmp_path / "ckpt-7.index"):
        assert detect(str(given)) == "tensorflow"
        state = ox.load(given, optimizer="keras:Adam")
        assert {n: digest(a) for n, a in state.params.items()} == wanted
    shutil.copy(tmp_path / "ckpt-7.index", tmp_path / "ckpt-8.index")
    assert not checkpoint.sniff_tensorflow(tmp_path)
    # The path of where it was written is not followed: its last part is a name beside the listing.
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/somewhere/else/ckpt-7"\n')
    assert detect(str(tmp_path)) == "tensorflow"
    assert ox.load(tmp_path, optimizer="keras:Adam").steps["fc1/kernel"] == 3


def test_what_a_tensorflow_checkpoint_does_not_hold_is_asked_for_or_said():
    with pytest.raises(OptexportError, match="does not say which optimizer wrote it"):
        ox.load(DATA / "tf_checkpoint" / "adam")
    state = ox.load(DATA / "keras2" / "old_adam.index", optimizer="keras:Adam")
    assert state.warnings == ("the file does not hold epsilon; assumed keras:Adam's default epsilon=1e-07",)
    assert state.spec.groups[0].arguments["beta_2"] == pytest.approx(0.99)
    with pytest.raises(CheckpointError, match="the learning rate is a schedule"):
        ox.load(
            DATA / "keras2" / "new_adam_schedule.index", optimizer="keras:Adam", arguments={"amsgrad": True}
        )


def test_the_decay_of_keras_2_is_a_schedule():
    state = ox.load(DATA / "keras2" / "old_sgd_decay", optimizer="keras:SGD")
    (group,) = state.spec.groups
    assert group.schedules["lr"].name == "inverse_time"
    assert group.hyperparameters["lr"] == pytest.approx(0.1 / (1 + 0.01 * 3), rel=1e-7)


# -- hostile and damaged files ------------------------------------------------------------------------


def test_crc_32c_is_the_published_one(monkeypatch):
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(bytes([0xFF] * 32)) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    data = np.random.default_rng(0).bytes(70_001)
    monkeypatch.setattr(_crc32c, "_CHUNK", 1 << 14)
    # Over the bounds of a short message and of one piece: the same as byte by byte.
    assert crc32c(data[:5000]) == _short(data[:5000])
    assert crc32c(data) == _short(data)


def changed(tmp_path: Path, part: str, at: int, bits: int = 1) -> Path:
    """A copy of a checkpoint with one byte changed."""
    for file in (DATA / "tf_checkpoint").glob("adam.*"):
        data = bytearray(file.read_bytes())
        if part in file.name:
            data[at] ^= bits
        (tmp_path / file.name).write_bytes(data)
    return tmp_path / "adam.index"


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_tensorflow(path)
    assert "\n" not in str(caught.value) and path.name.split(".")[0] in str(caught.value)
    return str(caught.value)


def test_every_changed_byte_of_a_tensor_is_noticed(tmp_path):
    size = (DATA / "tf_checkpoint" / "adam.data-00000-of-00001").stat().st_size
    for at in range(0, size, 101):
        assert "checksum" in refused(changed(tmp_path, "data", at))


def test_every_changed_byte_of_the_index_is_noticed(tmp_path):
    size = (DATA / "tf_checkpoint" / "adam.index").stat().st_size
    for at in range(0, size, 11):
        path = changed(tmp_path, "index", at, 0x55)
        try:
            native = checkpoint.read_tensorflow(path)
        except CheckpointError:
            continue
        # What is not covered by a checksum: the footer's filling and the block that names no tensor.
        assert at >= size - 100
        assert digest(native.weights["fc1/kernel"]) == digest(
            checkpoint.read_tensorflow(DATA / "tf_checkpoint" / "adam").weights["fc1/kernel"]
        )


@cache
def first_block(data: bytes) -> int:
    """Its size: where a checksum of all before follows."""
    sizes = range(len(data) - 5)
    fits = (n for n in sizes if masked(crc32c(data[: n + 1])).to_bytes(4, "little") == data[n + 1 : n + 5])
    return next(fits)


def rewritten(tmp_path: Path, change: Any) -> Path:
    """A copy of a checkpoint whose first block is changed by ``change``, with a checksum that fits."""
    shutil.copy(DATA / "tf_checkpoint" / "adam.data-00000-of-00001", tmp_path)
    data = bytearray((DATA / "tf_checkpoint" / "adam.index").read_bytes())
    size = first_block(bytes(data))
    change(data, size)
    data[size + 1 : size + 5] = masked(crc32c(bytes(data[: size + 1]))).to_bytes(4, "little")
    (tmp_path / "adam.index").write_bytes(data)
    return tmp_path / "adam.index"


def test_a_compressed_block_is_refused_by_name(tmp_path):
    def snappy(data: bytearray, size: int) -> None:
        data[size] = 1

    assert "expected blocks as they are, found blocks compressed with snappy" in refused(
        rewritten(tmp_path, snappy)
    )


def test_an_index_that_lies_is_refused_before_anything_is_allocated(tmp_path):
    """Bytes of the entries changed at random, with a good checksum: read or refused, never anything else."""
    rng = np.random.default_rng(0)

    def lie(data: bytearray, size: int) -> None:
        for at in rng.integers(0, size, 3):
            data[at] = rng.integers(0, 256)

    for _ in range(150):
        try:
            checkpoint.read_tensorflow(rewritten(tmp_path, lie))
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_a_shard_that_leads_out_of_the_folder_is_never_opened(tmp_path):
    shutil.copy(DATA / "tf_checkpoint" / "adam.index", tmp_path)
    (tmp_path / "adam.data-00000-of-00001").symlink_to(DATA / "tf_checkpoint" / "adam.data-00000-of-00001")
    assert "is a link that leads out of its folder, which is never opened" in refused(tmp_path / "adam.index")


def test_a_missing_or_cut_shard_is_said(tmp_path):
    shutil.copy(DATA / "tf_checkpoint" / "adam.index", tmp_path)
    assert "no such file" in refused(tmp_path / "adam.index")
    (tmp_path / "adam.data-00000-of-00001").write_bytes(b"0" * 100)
    assert "bytes at" in refused(tmp_path / "adam.index")


@pytest.mark.parametrize("name", ["keras2/old_adam.h5", "keras_legacy_h5/adam.h5"])
def test_an_older_file_cut_or_changed_anywhere_is_read_or_refused(tmp_path, name):
    whole, path = (DATA / name).read_bytes(), tmp_path / "x.h5"
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(whole), 40):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError):
            checkpoint.read_legacy(path)
    for _ in range(150):
        bad = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            bad[place] = rng.integers(0, 256)
        path.write_bytes(bad)
        try:
            checkpoint.read_legacy(path)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_long_lists_of_names_are_read_in_their_pieces(tmp_path):
    """Keras cuts an attribute of more than 64 KiB into weight_names0, weight_names1, …."""
    import h5py

    names = [f"adam/{'x' * 40}_{i:04d}_kernel_{s}" for i in range(900) for s in ("momentum", "velocity")]
    path = tmp_path / "long.h5"
    with h5py.File(path, "w") as f:
        layer = f.create_group("model_weights/dense")
        kernels = np.array([f"{'x' * 40}_{i:04d}/kernel".encode() for i in range(900)])
        f["model_weights"].attrs["layer_names"] = [b"dense"]
        layer.attrs["weight_names0"], layer.attrs["weight_names1"] = np.array_split(kernels, 2)
        for i, name in enumerate(kernels):
            layer[name.decode()] = np.full(2, i, np.float32)
        group = f.create_group("optimizer_weights")
        for part, piece in enumerate(
            np.array_split(np.array([b"adam/iteration", *map(str.encode, names)]), 3)
        ):
            group.attrs[f"weight_names{part}"] = piece
        group["adam/iteration"] = np.int64(5)
        for i, name in enumerate(names):
            group[name] = np.full(2, i, np.float32)
    state = ox.load(path, optimizer="keras:Adam", arguments={"learning_rate": 0.1})
    assert len(state.names) == 900
    assert state.slots[f"{'x' * 40}_0007/kernel"]["exp_avg_sq"].tolist() == [15, 15]


def test_an_attribute_that_lies_is_refused(tmp_path):
    """Lengths and addresses of its texts are looked at before anything is read."""
    whole = (DATA / "keras_legacy_h5" / "adam.h5").read_bytes()
    heap = whole.index(b"GCOL")
    path = tmp_path / "x.h5"

    def lying(at: int, data: bytes) -> str:
        path.write_bytes(whole[:at] + data + whole[at + len(data) :])
        with pytest.raises(CheckpointError) as caught:
            checkpoint.read_legacy(path)
        return str(caught.value)

    # An object of no size leaves the others where nobody finds them; one of none at all is what is free.
    assert "which are not in the file" in lying(heap + 24, bytes(8))
    assert "expected a text of" in lying(heap + 16, bytes(8))
    assert "which are not in the file" in lying(heap + 8, (1 << 40).to_bytes(8, "little"))
    assert "expected a heap of texts, found none" in lying(heap, b"X")
    import h5py

    with h5py.File(path, "w", libver="latest") as f:
        f.create_group("optimizer_weights").attrs["weight_names"] = ["a"]
    with pytest.raises(CheckpointError, match="expected an object header of version 1"):
        checkpoint.read_legacy(path)


def test_packed_datasets_are_read_and_a_bomb_is_refused(tmp_path):
    import h5py

    path = tmp_path / "x.weights.h5"
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    with h5py.File(path, "w") as f:
        f["optimizer/vars/0"] = np.int64(1)
        f["optimizer/vars/1"] = np.float32(0.1)
        f.create_dataset("optimizer/vars/2", data=values, compression="gzip", shuffle=True)
    state = ox.load(path, optimizer="keras:SGD", arguments={"momentum": 0.9})
    np.testing.assert_array_equal(state.slots["0"]["momentum_buffer"], values)
    with h5py.File(path, "a") as f:
        f.create_dataset("optimizer/vars/3", (1 << 28,), "f4", compression="gzip", chunks=(1 << 20,))
    with pytest.raises(CheckpointError, match="declares 1073741824 bytes, more than a packed file of"):
        checkpoint.read(path)
