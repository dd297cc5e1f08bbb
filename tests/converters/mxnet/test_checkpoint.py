"""``.states`` and ``.params``: the samples, files that lie, and what a writer must refuse."""

from __future__ import annotations

import os
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optexport.converters.mxnet import checkpoint
from optexport.errors import CheckpointError, NamingError
from optexport.state.native import NativeGroup, NativeState
from optexport.state.pickles import Global, NewObj, Reduce, dumps

from .conftest import DATA, samples, sha256

STATES = [sample for sample in samples() if sample["format"].startswith("mxnet-updater-pickle")]
HEAD = "mxnet.ndarray.ndarray"


def pickled_array(handle: object = None, module: str = HEAD, name: str = "NDArray") -> Reduce:
    """An array of one float32, or of ``handle``'s bytes, as MXNet pickles it."""
    if handle is None:
        handle = bytearray(struct.pack("<Iiiqiiif", 0xF993FAC9, 0, 1, 1, 1, 0, 0, 0.5))
    return Reduce(Global(module, name), (None,), state={"handle": handle})


def optimizer(cls: str = "SGD", module: str = "mxnet.optimizer.optimizer", **attributes: Any) -> NewObj:
    return NewObj(Global(module, cls), state={"lr": 0.5, **attributes})


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Writes an object as a pickle; returns the path."""

    def save(root: Any) -> Path:
        path = tmp_path / "x.states"
        path.write_bytes(dumps(root, protocol=4))
        return path

    return save


def state(**fields: Any) -> NativeState:
    """Adam with two parameters, three updates in."""
    slots = {name: {"[0]": np.ones((2, 3), "f4"), "[1]": np.ones((2, 3), "f4")} for name in ("0", "1")}
    out = NativeState("mxnet", checkpoint.FORMAT, "Adam", [NativeGroup({"lr": 0.5}, ["0", "1"])], slots)
    out.steps = {"0": 3, "1": 3}
    for name, value in fields.items():
        setattr(out, name, value)
    return out


# -- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", STATES, ids=lambda sample: sample["id"])
def test_samples(sample: dict[str, Any]) -> None:
    path = DATA / sample["files"][0]
    assert checkpoint.sniff(path)
    read = checkpoint.read(path)
    assert (read.framework, read.format) == ("mxnet", sample["format"])
    dumped = sample["format"] == checkpoint.FORMAT
    hyper = sample["hyperparameters"]
    assert read.named == bool(dumped and hyper["idx2name"])
    keys = {p["name"]: p["name"] if read.named else str(p["index"]) for p in sample["parameters"]}
    assert [group.params for group in read.groups] == [list(keys.values())]
    found = {(key, slot) for key, slots in read.slots.items() for slot in slots}
    assert found == {(keys[entry["param"]], entry["slot"]) for entry in sample["state"]}
    for entry in sample["state"]:
        array = read.slots[keys[entry["param"]]][entry["slot"]]
        assert (list(array.shape), array.dtype.name) == (entry["shape"], entry["dtype"]), entry["name"]
        assert sha256(array) == entry["sha256"] and not array.flags.writeable, entry["name"]
    assert read.steps == dict.fromkeys(keys.values(), sample["step"] if dumped else None)
    assert read.optimizer == (sample["optimizer"] if dumped else None)
    if dumped:
        arguments = read.groups[0].arguments
        for table in ("index_update_count", "idx2name"):
            stored = arguments["_index_update_count" if table == "index_update_count" else table]
            assert {str(k): v for k, v in stored.items()} == hyper.pop(table)
        assert {name: arguments[name] for name in hyper} == hyper
        assert not read.warnings
    else:
        assert read.groups[0].arguments == {}
        assert read.warnings == [
            "the file holds no optimizer: its hyperparameters, step counts and parameter names must be given"
        ]


@pytest.mark.parametrize("sample", STATES, ids=lambda sample: sample["id"])
def test_samples_written_again(sample: dict[str, Any], tmp_path: Path) -> None:
    read = checkpoint.read(DATA / sample["files"][0])
    checkpoint.write(read, tmp_path / "x.states", dump_optimizer=read.optimizer is not None)
    again = checkpoint.read(tmp_path / "x.states")
    assert (again.groups, again.steps, again.format) == (read.groups, read.steps, read.format)
    arrays = [
        [(k, s, sha256(a)) for k, slots in x.slots.items() for s, a in slots.items()] for x in (read, again)
    ]
    assert arrays[0] == arrays[1]


def test_weights(tmp_path: Path) -> None:
    weights = checkpoint.read_weights(DATA / "v2_named.params")
    assert weights.ordered and list(weights.tensors)[:4] == [
        "fc1.weight",
        "fc1.bias",
        "fc2.weight",
        "fc2.bias",
    ]
    assert not any(name.endswith("bn_running_mean") for name in weights.tensors)
    module = next(sample for sample in samples() if sample["id"] == "module_adam")
    tensors = checkpoint.read_weights(DATA / "module.params").tensors
    assert {n: sha256(a) for n, a in tensors.items()} == {w["param"]: w["sha256"] for w in module["weights"]}
    unnamed = checkpoint.read_weights(DATA / "v2_unnamed.nd").tensors
    assert list(unnamed) == ["0", "1", "2", "3"]
    checkpoint.write_weights(unnamed, tmp_path / "x.params")
    again = checkpoint.read_weights(tmp_path / "x.params").tensors
    assert {n: a.tobytes() for n, a in again.items()} == {n: a.tobytes() for n, a in unnamed.items()}


def test_weights_named_with_and_without_prefix(tmp_path: Path) -> None:
    checkpoint.write_weights({"w": np.ones(2, "f4"), "arg:w": np.ones(2, "f4")}, tmp_path / "x.params")
    with pytest.raises(
        CheckpointError, match=r"'w' occurs both with and without the prefix 'arg:'; rename one$"
    ):
        checkpoint.read_weights(tmp_path / "x.params")


def test_files_of_the_other_kind(tmp_path: Path) -> None:
    assert checkpoint.sniff(DATA / "v2_named.params") and not checkpoint.sniff(DATA)
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"state": {}, "param_groups": []}))
    assert not checkpoint.sniff(tmp_path / "other.pkl")
    with pytest.raises(CheckpointError, match=r"module\.params: is an array list .*; pass it as weights$"):
        checkpoint.read(DATA / "module.params")
    with pytest.raises(CheckpointError, match=r"expected 0x112, an MXNet array list"):
        checkpoint.read_weights(DATA / "trainer_adam.states")


# -- keys, counts, attributes ---------------------------------------------------------------------


def test_holes_and_order_of_indexes(saved: Any) -> None:
    counts = {12: 7, 3: 5}
    read = checkpoint.read(
        saved(
            (
                {12: pickled_array(), 3: pickled_array(), 0: None},
                optimizer(
                    _index_update_count=counts, _all_index_update_counts={0: counts}, begin_num_update=2
                ),
            )
        )
    )
    assert read.groups[0].params == ["0", "3", "12"] and not read.named
    assert read.steps == {"0": 2, "3": 5, "12": 7}
    assert list(read.slots) == ["3", "12"]


def test_names_must_cover_every_index(saved: Any) -> None:
    states = {0: None, 1: None}
    for table, names in (
        ({0: "a", 1: "b", 2: "never.updated"}, ["a", "b", "never.updated"]),
        ({0: "a"}, ["0", "1"]),
        ({}, ["0", "1"]),
    ):
        read = checkpoint.read(saved((states, optimizer(idx2name=table))))
        assert read.groups[0].params == names and read.named == (names[0] == "a")
    read = checkpoint.read(saved((states, optimizer(idx2name={0: "a", 1: "a"}))))
    assert read.groups[0].params == ["0", "1"]
    assert read.warnings[0].startswith(
        "idx2name gives several indexes one name, as a Module on several devices"
    )


def test_states_keyed_by_names(saved: Any, tmp_path: Path) -> None:
    counts = {"b": 4, "a": 3}
    root = (
        {"b": pickled_array(), "a": pickled_array()},
        optimizer(_index_update_count=counts, idx2name={0: "a"}),
    )
    read = checkpoint.read(saved(root))
    assert read.named and read.groups[0].params == ["b", "a"] and read.steps == {"b": 4, "a": 3}
    checkpoint.write(read, tmp_path / "y.states")
    again = checkpoint.read(tmp_path / "y.states")
    assert again.extras == {"keys": "name"} and again.slots.keys() == {"a", "b"}


def test_counts_of_several_devices(saved: Any) -> None:
    last = {1: 4, 3: 4}
    counts = {"_all_index_update_counts": {0: {0: 4, 2: 4, 3: 5}, 1: last}, "_index_update_count": last}
    read = checkpoint.read(saved((dict.fromkeys(range(4)), optimizer(**counts))))
    assert read.steps == {"0": 4, "1": 4, "2": 4, "3": 4}
    assert read.warnings == ["index 3 has 5 updates on one device and 4 on another"]


def test_what_is_not_plain(saved: Any, tmp_path: Path) -> None:
    numpy_number = Reduce(
        Global("numpy.core.multiarray", "scalar"),
        (Reduce(Global("numpy", "dtype"), ("f8", False, True), state=(3, "<", None, None, None, -1, -1, 0)),
         struct.pack("<d", 0.25)),
    )  # fmt: skip
    scheduler = NewObj(Global("mxnet.lr_scheduler", "FactorScheduler"), state={"base_lr": 0.5, "step": 10})
    attributes = {
        "wd": numpy_number,
        "lr_scheduler": scheduler,
        "cumgrads": {0: {"cum_grad": pickled_array(), "num_cums": 3}},
        "odd": {1, 2},
        "param_dict": {},
    }
    read = checkpoint.read(saved(({0: None}, optimizer("LBSGD", **attributes))))
    assert read.groups[0].arguments == {"lr": 0.5, "wd": 0.25}
    assert read.extras["lr_scheduler"] == {"class": "FactorScheduler", "state": {"base_lr": 0.5, "step": 10}}
    kept = read.extras["attributes"]["cumgrads"][0]
    assert kept["num_cums"] == 3 and kept["cum_grad"].tolist() == [0.5]
    assert read.warnings == [
        "the optimizer's attribute cumgrads holds arrays; only MXNet files keep it",
        "the optimizer's attribute odd is no plain value and is not kept",
    ]
    checkpoint.write(read, tmp_path / "y.states")
    again = checkpoint.read(tmp_path / "y.states")
    assert again.extras["lr_scheduler"] == read.extras["lr_scheduler"]
    assert again.extras["attributes"]["cumgrads"][0]["cum_grad"].tolist() == [0.5]


def test_emitted_optimizers_are_recognized_by_their_name(saved: Any) -> None:
    read = checkpoint.read(
        saved(({0: (pickled_array(),)}, optimizer("OptexportAdamW", "my.trainer", rho=1.5)))
    )
    assert read.optimizer == "OptexportAdamW"
    assert read.groups[0].arguments == {"__module__": "my.trainer", "lr": 0.5, "rho": 1.5}
    for module, name in (("my.trainer", "MyAdamW"), ("my.trainer", "AdamW"), ("mxnet.optimizer.x", "SGD")):
        with pytest.raises(
            CheckpointError, match=f"asks for {re.escape(module)}.{name}, which is not on the closed"
        ):
            checkpoint.read(saved(({0: None}, optimizer(name, module))))
    with pytest.raises(
        CheckpointError, match=r"asks for the dotted or empty name os\.OptexportX\.system; nothing"
    ):
        checkpoint.read(saved(({0: None}, optimizer("OptexportX.system", "os"))))


@pytest.mark.parametrize(
    ("module", "name"), [("mxnet.ndarray", "NDArray"), ("mxnet.numpy", "ndarray"), (HEAD, "NDArray")]
)
def test_other_names_of_arrays(saved: Any, module: str, name: str) -> None:
    read = checkpoint.read(saved({0: (None, pickled_array(module=module, name=name))}))
    assert {slot: array.tolist() for slot, array in read.slots["0"].items()} == {"[1]": [0.5]}


# -- files that lie -------------------------------------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text
    assert message in text


class _Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("place", ["state", "root", "optimizer", "attribute"])
def test_foreign_globals_are_not_executed(tmp_path: Path, place: str) -> None:
    marker, path = tmp_path / "executed", tmp_path / "x.states"
    trap = _Runs(marker)
    root = {
        "state": {0: trap},
        "root": trap,
        "optimizer": ({0: None}, trap),
        "attribute": {0: (None, {"a": trap})},
    }
    path.write_bytes(pickle.dumps(root[place]))
    refused(path, "which is not on the closed list; nothing was executed")
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()


@pytest.mark.parametrize("name", ["trainer_adam.states", "updater_adam_states_only.states"])
def test_truncation_anywhere(tmp_path: Path, name: str) -> None:
    data = (DATA / name).read_bytes()
    path = tmp_path / "x.states"
    for cut in {len(data) * i // 20 for i in range(20)} | {len(data) - 1}:
        path.write_bytes(data[:cut])
        refused(path, f"truncated at byte {cut}")
    path.write_bytes(data + b"x")
    refused(path, "1 bytes follow the end of the pickle")


def test_lies_inside_arrays(saved: Any) -> None:
    def record(*shape: int, magic: int = 0xF993FAC9, tail: bytes = b"\0\0\0\0") -> bytearray:
        head = struct.pack(f"<Iii{len(shape)}q", magic, 0, len(shape), *shape)
        return bytearray(head + struct.pack("<iii", 1, 0, 0) + tail)

    def broken(handle: object, message: str) -> None:
        refused(saved({7: (None, (pickled_array(handle),))}), f": index 7, slot [1][0]: {message}")

    broken(record(1 << 50), "truncated: expected 4503599627370496 bytes of data at byte 32, found 4")
    broken(record(-4), "the array has the shape (-4,); expected no negative dimension; the file is damaged")
    broken(record(1, tail=b"\0" * 5), "1 bytes follow the array; the file is damaged")
    broken(record(1, magic=99), "starts with 0x00000063, which is not an MXNet array; the file is damaged")
    broken(bytearray(), "truncated: expected 4 bytes of the magic number at byte 0, found 0")
    broken({}, "an array without bytes; the file is damaged")
    broken("text", "an array without bytes; the file is damaged")


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ([1], "the pickle holds a list; expected MXNet's states, {index: state}"),
        (({0: None}, {}), "the second item of the pickle is a dict; expected an MXNet optimizer"),
        (
            ({0: None}, pickled_array()),
            "the second item of the pickle is mxnet.ndarray.ndarray.NDArray; expected",
        ),
        ({0: None, "a": None}, "the states are not keyed by indexes; expected numbers from 0"),
        ({-1: None}, "the states are not keyed by indexes; expected numbers from 0"),
        ({True: None}, "the states are not keyed by indexes; expected numbers from 0"),
        ({0: 5}, "index 0, slot []: expected an array, a tuple or None, found a int"),
        ({0: (None, {})}, "index 0, slot [1]: expected an array, a tuple or None, found a dict"),
        (({0: None}, optimizer(_index_update_count={0: -1})), "the update counts are not numbers from 0"),
        (
            ({0: None}, optimizer(_index_update_count={"a": 1})),
            "update counts and states are not keyed alike",
        ),
        (({0: None}, optimizer(_all_index_update_counts=[])), "the update counts are not numbers from 0"),
        (({0: None}, optimizer(begin_num_update="x")), "the update counts are not numbers from 0"),
        (({0: None}, optimizer(idx2name=[])), "idx2name is a list; expected a dict"),
        (({0: None}, NewObj(Global("mxnet.optimizer.optimizer", "SGD"))), "optimizer SGD has no attributes"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_other_lies(saved: Any, root: Any, message: str) -> None:
    refused(saved(root), message)


def test_shared_arrays_are_decoded_once(saved: Any) -> None:
    handle = bytes(pickled_array().state["handle"][:12]) + struct.pack("<qiii", 1000, 1, 0, 0) + bytes(4000)
    shared = Reduce(Global("builtins", "bytearray"), (handle,))
    read = checkpoint.read(
        saved({i: Reduce(Global(HEAD, "NDArray"), (None,), {"handle": shared}) for i in range(50)})
    )
    assert len({slots["[]"].ctypes.data for slots in read.slots.values()}) == 1


# -- what a writer refuses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"groups": []}, CheckpointError, "0 parameter groups; expected one, as MXNet has no more"),
        (
            {"optimizer": "AdamW"},
            CheckpointError,
            "MXNet has no optimizer 'AdamW'; expected one of AdaDelta, ",
        ),
        ({"optimizer": None}, CheckpointError, "MXNet has no optimizer ''; expected one of AdaDelta, "),
        (
            {"groups": [NativeGroup({"__module__": "os", "lr": 1.0}, ["0", "1"])]},
            CheckpointError,
            "os.Adam is not an optimizer that optexport emitted",
        ),
        (
            {"groups": [NativeGroup({"lr": object()}, ["0", "1"])]},
            CheckpointError,
            "optimizer attribute 'lr': expected a plain value, found a object; leave it out",
        ),
        ({"groups": [NativeGroup({}, ["0"])]}, NamingError, "parameter '1' has state and is in no group"),
        ({"groups": [NativeGroup({}, ["0", "1", "1"])]}, NamingError, "a parameter is in the group twice"),
        (
            {"groups": [NativeGroup({"idx2name": {0: "a", 1: "b"}}, ["0", "1"])], "named": True},
            NamingError,
            "parameter '0': expected a name of idx2name, found only 'a', 'b'…; rename them there too",
        ),
        (
            {"slots": {"0": {"mean": np.ones(2, "f4")}}},
            CheckpointError,
            "parameter '0': slot 'mean': expected a place",
        ),
        (
            {"slots": {"0": {"[]": np.ones(2, "f4"), "[1]": np.ones(2, "f4")}}},
            CheckpointError,
            "parameter '0': slot [] is the whole state; found [], [1] as well",
        ),
        (
            {"slots": {"0": {"[0]": np.ones(2, "f4"), "[0][1]": np.ones(2, "f4")}}},
            CheckpointError,
            "parameter '0': slot [0][1] is inside a slot that is an array",
        ),
        (
            {"slots": {"0": {"[0][1]": np.ones(2, "f4"), "[0]": np.ones(2, "f4")}}},
            CheckpointError,
            "parameter '0': slot [0] is taken or beyond [64]",
        ),
        ({"slots": {"0": {"[65]": np.ones(2, "f4")}}}, CheckpointError, "slot [65] is taken or beyond [64]"),
        (
            {"slots": {"1": {"[0]": np.ones(2, "u2")}}},
            CheckpointError,
            "parameter '1', slot [0]: MXNet has no arrays",
        ),
        (
            {"extras": {"lr_scheduler": {"class": "StepLR", "state": {}}}},
            CheckpointError,
            "MXNet has no scheduler StepLR; expected one of CosineScheduler, ",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_refused_by_the_writer(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    path = tmp_path / "x.states"
    path.write_bytes(b"before")
    with pytest.raises(error, match=re.escape(f"{path}: ") + ".*" + re.escape(message)) as caught:
        checkpoint.write(state(**change), path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_indexes_of_written_parameters(tmp_path: Path) -> None:
    path = tmp_path / "x.states"

    def written(named: bool, keys: list[str], **arguments: Any) -> dict[Any, Any]:
        slots = {key: {"[]": np.full(2, i, "f4")} for i, key in enumerate(keys)}
        made = NativeState(
            "mxnet", checkpoint.FORMAT, "SGD", [NativeGroup(arguments, keys)], slots, named=named
        )
        checkpoint.write(made, path)
        return {k: v["[]"][0] for k, v in checkpoint.read(path).slots.items()}

    assert written(False, ["7", "2"]) == {"7": 0, "2": 1}
    assert written(True, ["w", "b"]) == {"0": 0, "1": 1}
    assert written(True, ["w", "b"], idx2name={4: "b", 9: "w"}) == {"w": 0, "b": 1}
    assert written(True, ["10", "3"]) == {"0": 0, "1": 1}, "names that look like numbers"


def test_steps_become_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.states"
    checkpoint.write(state(steps={"0": 9, "1": None}), path)
    read = checkpoint.read(path)
    assert read.steps == {"0": 9, "1": 0}
    assert read.groups[0].arguments["num_update"] == 9
    assert read.groups[0].arguments["_all_index_update_counts"] == {0: {0: 9}}


def test_states_alone_need_no_optimizer(tmp_path: Path) -> None:
    checkpoint.write(state(optimizer=None), tmp_path / "x.states", dump_optimizer=False)
    read = checkpoint.read(tmp_path / "x.states")
    assert read.optimizer is None and read.slots.keys() == {"0", "1"} and read.steps == {"0": None, "1": None}
