"""PyTorch files: every sample is read to the bit, and what is written reads back the same."""

from __future__ import annotations

import copy
import os
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from optexport.converters.torch import _pack
from optexport.converters.torch._classes import optimizer_of
from optexport.converters.torch.checkpoint import read, read_weights, sniff, write
from optexport.errors import CheckpointError
from optexport.state.native import NativeGroup, NativeState

from .making import DATA, FILES, FOUR, SAMPLES, digest, optimizer, refused, save, tensor

# -- samples ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path, sample", SAMPLES)
def test_every_tensor_of_every_sample_is_read_to_the_bit(path, sample):
    assert sniff(path)
    state = read(path, verify=True)
    keys = {p["name"]: p["name"] if state.named else str(p["index"]) for p in sample["parameters"]}
    found = {(key, slot): array for key, slots in state.slots.items() for slot, array in slots.items()}
    for want in sample["state"]:
        array = found.pop((keys[want["param"]], want["slot"]))
        assert (list(array.shape), array.dtype.name) == (want["shape"], want["dtype"])
        assert digest(array) == want["sha256"]
        assert not array.flags.writeable
    assert not found
    assert {name: digest(array) for name, array in state.weights.items()} == {
        want["param"]: want["sha256"] for want in sample["weights"]
    }


@pytest.mark.parametrize("path, sample", SAMPLES)
def test_every_sample_gives_its_optimizer_groups_and_steps(path, sample):
    state = read(path)
    assert state.framework == "torch"
    assert state.optimizer == sample["optimizer"]
    assert state.named == (sample["linkage"] == "name")
    assert state.warnings == []
    for index, (group, want) in enumerate(
        zip(state.groups, sample["hyperparameters"]["param_groups"], strict=True)
    ):
        expected = {k: tuple(v) if isinstance(v, list) else v for k, v in want.items() if k != "param_names"}
        assert group.arguments == expected
        members = [p for p in sample["parameters"] if p["group"] == index]
        assert group.params == [p["name"] if state.named else str(p["index"]) for p in members]
    assert set(state.steps) == set(state.slots)
    assert set(state.steps.values()) <= {sample["step"]}


def test_formats_are_told_apart():
    tags = {path.stem: read(path).format for path in FILES}
    assert tags["adam"] == tags["adamw_protocol4"] == "torch-zip"
    assert tags["adam_legacy"] == "torch-legacy"
    assert tags["checkpoint_combined"] == "torch-zip-combined"
    assert read(DATA / "torch_dcp" / "adamw_raw").format == "torch-dcp"


def test_tensors_are_views_on_the_file():
    array = read(DATA / "torch" / "adam.pt").slots["0"]["exp_avg"]
    assert not array.flags.owndata and not array.flags.writeable
    assert read(DATA / "torch" / "adam.pt").slots["0"]["step"].shape == ()


def test_a_combined_file_gives_weights_and_the_rest():
    state = read(DATA / "torch" / "checkpoint_combined.pt")
    assert list(state.weights) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert state.extras["epoch"] == 1 and state.extras["global_step"] == 3
    assert state.extras["scheduler"]["step_size"] == 2
    assert state.extras["rng"].dtype == np.uint8
    weights = read_weights(DATA / "torch" / "checkpoint_combined.pt")
    assert weights.ordered and list(weights.tensors) == list(state.weights)


def test_weights_of_a_dcp_directory_and_of_a_file_without():
    assert "fc1.weight" in read_weights(DATA / "torch_dcp" / "adamw_fqn").tensors
    with pytest.raises(CheckpointError, match="holds no weights; expected a state_dict"):
        read_weights(DATA / "torch" / "adam.pt")


def test_sniffing_other_things(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("other", b"")
    assert not any(sniff(p) for p in (tmp_path, tmp_path / "a.pt", tmp_path / "b.zip", tmp_path / "none"))
    assert "found an empty file" in refused(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"without \.metadata"):
        read(tmp_path)


# -- hand-made files --------------------------------------------------------------------------------


def test_views_strides_and_shared_storages(tmp_path):
    raw = np.arange(12, dtype=np.float32)
    slots = {
        "whole": tensor("0", (3, 4), (4, 1), count=12),
        "transposed": tensor("0", (4, 3), (1, 4), count=12),
        "part": tensor("0", (2,), (3,), offset=5, count=12),
        "scalar": tensor("0", (), (), offset=11, count=12),
        "none": tensor("0", (0, 3), (3, 1), count=12),
    }
    found = read(save(tmp_path / "a.pt", optimizer(slots), {"0": raw.tobytes()})).slots["0"]
    assert np.array_equal(found["transposed"], raw.reshape(3, 4).T)
    assert found["part"].tolist() == [5, 8] and found["scalar"] == 11 and found["none"].shape == (0, 3)
    assert np.shares_memory(found["whole"], found["transposed"])


@pytest.mark.parametrize(
    "kind, dtype",
    [
        ("FloatStorage", "float32"),
        ("BFloat16Storage", "bfloat16"),
        ("ComplexFloatStorage", "complex64"),
        ("BoolStorage", "bool"),
    ],
)
def test_big_endian_files(tmp_path, kind, dtype):
    want = np.array([1, 0, 3, 1], np.float32).astype(getattr(ml_dtypes, dtype, dtype))
    unit = {"complex64": 4}.get(dtype, want.dtype.itemsize)
    raw = want.view(f"u{unit}").byteswap().tobytes()
    value = optimizer({"m": tensor("0", (4,), (1,), count=4, kind=kind)})
    path = save(tmp_path / "a.pt", value, {"0": raw}, {"archive/byteorder": b"big"})
    assert np.array_equal(read(path).slots["0"]["m"], want)
    path = save(tmp_path / "b.pt", value, {"0": raw}, {"archive/byteorder": b"pdp"})
    assert "byte order is b'pdp'; expected little or big" in refused(path)


def test_old_files_with_number_steps_and_none(tmp_path):
    value = optimizer({"step": 7, "momentum_buffer": None, "m": tensor("0", (4,), (1,), count=4)})
    state = read(save(tmp_path / "a.pt", value, FOUR))
    assert state.slots["0"]["step"].dtype == np.float32 and state.slots["0"]["step"] == 7
    assert state.steps == {"0": 7} and "momentum_buffer" not in state.slots["0"]


def test_tensor_hyperparameters_and_lists_become_plain_values(tmp_path):
    value = optimizer(
        {}, lr=tensor("0", (), (), offset=2, count=4), betas=[0.5, tensor("0", (), (), count=4)]
    )
    arguments = read(save(tmp_path / "a.pt", value, FOUR)).groups[0].arguments
    assert arguments["lr"] == 2.0 and arguments["betas"] == (0.5, 0.0)


@pytest.mark.parametrize("step", [float("nan"), -1.0, 1.5])
def test_steps_that_are_no_counts(tmp_path, step):
    raw = {"0": np.array([step], np.float32).tobytes()}
    path = save(tmp_path / "a.pt", optimizer({"step": tensor("0", (), (), count=1)}), raw)
    assert "state of parameter 0, slot step: expected one whole number from 0 up" in refused(path)


def test_state_that_is_no_tensor_is_kept_aside(tmp_path):
    value = optimizer({"m": tensor("0", (4,), (1,), count=4), "history": [1, 2]})
    value["state"][9] = {"lost": tensor("0", (4,), (1,), count=4)}
    state = read(save(tmp_path / "a.pt", value, FOUR))
    assert state.extras["state.0.history"] == [1, 2]
    assert state.extras["state.9"]["lost"].tolist() == [0, 1, 2, 3]
    assert any("slot history is a list of 2, not a tensor" in text for text in state.warnings)
    assert any("state entry 9 belongs to no parameter" in text for text in state.warnings)


def test_several_optimizers_need_a_choice(tmp_path):
    both = {"gen": optimizer({}), "nested": [optimizer({}, lr=0.5)]}
    path = save(tmp_path / "a.pt", both)
    assert "holds 2 optimizers, under gen, nested.0; choose one by its key" in refused(path)
    assert "has no optimizer under other; found gen, nested.0" in refused(path, optimizer_key="other")
    assert read(path, optimizer_key="nested.0").groups[0].arguments["lr"] == 0.5


def test_wrapper_prefixes_are_removed_with_a_warning(tmp_path):
    weights = {f"module._orig_mod.{name}": tensor("0", (4,), (1,), count=4) for name in "ab"}
    state = read(save(tmp_path / "a.pt", {"model": weights, "optimizer": optimizer({})}, FOUR))
    assert list(state.weights) == ["a", "b"]
    assert state.warnings == ["weights under model: the prefix module._orig_mod. was removed from every name"]


def test_parameter_ids_and_names_must_fit(tmp_path):
    value = optimizer({})
    value["param_groups"][0].update(params=[0, 1], param_names=["a"])
    assert "2 params and 1 param_names" in refused(save(tmp_path / "a.pt", value))
    value["param_groups"][0].update(param_names=["a", "a"])
    assert "a name occurs twice" in refused(save(tmp_path / "b.pt", value))
    value["param_groups"][0].update(params=[0, 0])
    assert "not all different" in refused(save(tmp_path / "c.pt", value))
    value["param_groups"][0].pop("param_names")
    value["param_groups"][0]["params"] = [140001, 140000]
    value["state"] = {140000: {"m": tensor("0", (4,), (1,), count=4)}}
    state = read(save(tmp_path / "d.pt", value, FOUR))
    assert list(state.slots) == ["1"] and "numbered by their position" in state.warnings[0]


def test_files_without_an_optimizer_say_what_they_hold(tmp_path):
    path = save(tmp_path / "a.pt", {"fc.weight": tensor("0", (4,), (1,), count=4)}, FOUR)
    assert "holds no optimizer state; expected a dict with state and param_groups" in refused(path)
    assert list(read_weights(path).tensors) == ["fc.weight"]


# -- telling the class ------------------------------------------------------------------------------


def test_adam_and_adamw_are_not_guessed():
    old = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    name, warnings = optimizer_of([old], ["step", "exp_avg", "exp_avg_sq"])
    assert name is None and "whether it is Adam or AdamW" in warnings[0]
    assert optimizer_of([{**old, "decoupled_weight_decay": True}], [])[0] == "AdamW"
    assert optimizer_of([{**old, "decoupled_weight_decay": False, "initial_lr": 1.0}], [])[0] == "Adam"
    mixed = [{**old, "decoupled_weight_decay": flag} for flag in (True, False)]
    assert optimizer_of(mixed, [])[0] is None


def test_an_argument_that_the_class_never_had_means_another_class():
    lars = {
        "lr": 1,
        "momentum": 0.9,
        "dampening": 0,
        "nesterov": False,
        "weight_decay": 0,
        "trust_coefficient": 0.001,
    }
    name, warnings = optimizer_of([lars], ["momentum_buffer"])
    assert name is None and "does not say which optimizer" in warnings[0]


# -- writing ----------------------------------------------------------------------------------------


def assert_same(left: NativeState, right: NativeState) -> None:
    assert (left.groups, left.steps, left.named) == (right.groups, right.steps, right.named)
    assert list(left.slots) == list(right.slots)
    for key, slots in left.slots.items():
        assert list(slots) == list(right.slots[key])
        for slot, array in slots.items():
            other = right.slots[key][slot]
            assert (array.dtype, array.shape, digest(array)) == (other.dtype, other.shape, digest(other))


@pytest.mark.parametrize("path, sample", SAMPLES)
def test_what_is_written_reads_back_the_same(tmp_path, path, sample):
    state = read(path)
    write(state, tmp_path / "out.pt")
    again = read(tmp_path / "out.pt", verify=True)
    assert_same(state, again)
    assert again.optimizer == state.optimizer
    write(again, tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "out.pt").read_bytes()


def test_storages_are_stored_and_aligned(tmp_path):
    write(read(DATA / "torch" / "adamw_bf16.pt"), tmp_path / "out.pt")
    raw = (tmp_path / "out.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "out.pt") as archive:
        assert archive.testzip() is None
        for member in archive.infolist():
            assert member.compress_type == zipfile.ZIP_STORED
            name, extra = struct.unpack_from("<HH", raw, member.header_offset + 26)
            assert (member.header_offset + 30 + name + extra) % 64 == 0
        assert archive.read("archive/byteorder") == b"little"


def test_large_files_use_zip64_fields(tmp_path, monkeypatch):
    monkeypatch.setattr(_pack, "ZIP64_FROM", 16)
    state = read(DATA / "torch" / "adam.pt")
    write(state, tmp_path / "out.pt")
    assert_same(state, read(tmp_path / "out.pt", verify=True))
    with zipfile.ZipFile(tmp_path / "out.pt") as archive:
        assert archive.testzip() is None
    torch = pytest.importorskip("torch", reason="compares with the real reader")
    assert len(torch.load(tmp_path / "out.pt", weights_only=True)["state"]) == 4


def simple(array: np.ndarray) -> NativeState:
    return NativeState(
        "torch", "x", "SGD", [NativeGroup({"lr": 0.1}, ["0"])], {"0": {"m": array}}, {"0": None}
    )


def test_dense_strides_are_kept_and_others_become_c_order(tmp_path):
    channels_last = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4).transpose(0, 3, 1, 2)
    for array in (
        channels_last,
        np.arange(20, dtype=np.int64)[::2],
        np.float64(3.5),
        np.zeros((0, 3), np.float16),
    ):
        write(simple(np.asarray(array)), tmp_path / "out.pt")
        found = read(tmp_path / "out.pt").slots["0"]["m"]
        assert found.dtype == array.dtype and np.array_equal(found, array)
    write(simple(channels_last), tmp_path / "out.pt")
    assert read(tmp_path / "out.pt").slots["0"]["m"].strides == channels_last.strides


def test_big_endian_arrays_are_written_little(tmp_path):
    write(simple(np.arange(3, dtype=">f4")), tmp_path / "out.pt")
    assert read(tmp_path / "out.pt").slots["0"]["m"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "change, why",
    [
        ({"groups": []}, "no parameter group to write"),
        ({"groups": [NativeGroup({}, ["0"]), NativeGroup({}, ["0"])]}, "parameter 0 is in two groups"),
        ({"groups": [NativeGroup({}, ["1"])]}, "parameter 0 has state and is in no group"),
        ({"groups": [NativeGroup({"lr": object()}, ["0"])]}, "argument lr of group 0 is a object"),
        ({"slots": {"0": {"m": np.array(["a"])}}}, "parameter 0, slot m: PyTorch has no dtype <U1"),
    ],
)
def test_states_that_cannot_be_written_leave_no_file(tmp_path, change, why):
    state = simple(np.zeros(2, np.float32))
    for name, value in change.items():
        setattr(state, name, value)
    with pytest.raises(CheckpointError, match=why):
        write(state, tmp_path / "out.pt")
    assert os.listdir(tmp_path) == []
    with pytest.raises(CheckpointError, match="there are no weights"):
        write(simple(np.zeros(2)), tmp_path / "out.pt", combined=True)


def test_a_step_is_added_where_only_the_record_knows_it(tmp_path):
    state = simple(np.zeros(2, np.float32))
    state.optimizer, state.steps = "Adam", {"0": 4}
    write(state, tmp_path / "out.pt")
    assert read(tmp_path / "out.pt").slots["0"]["step"] == np.float32(4)


def test_states_are_not_changed_by_writing(tmp_path):
    state = read(DATA / "torch" / "adam.pt")
    before = copy.deepcopy(state)
    write(state, tmp_path / "out.pt")
    assert_same(before, state)
