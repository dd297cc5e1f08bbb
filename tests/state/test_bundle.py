"""The bundle: reproducible bytes, a golden file, the format's own library, and its attacks."""

from __future__ import annotations

import json
import os
import random
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import optexport as ox
from optexport.dialects import natives
from optexport.errors import CheckpointError, HyperparameterError, OptexportError
from optexport.state import MASTER, TrainingState, bundle
from optexport.state.safetensors import is_safetensors
from tests.make_golden import BUNDLE, BUNDLE_2, bits, specs, state, state_with_buffers

# The header's fields, and what a test makes of them.


def parts(path: Path = BUNDLE) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def written(path: Path, header: Any, data: bytes = b"", size: int | None = None) -> str:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    return str(path)


def refused(call, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(a: TrainingState, b: TrainingState) -> None:
    assert (a.spec, a.steps, a.dialect, a.provenance) == (b.spec, b.steps, b.dialect, b.provenance)
    assert a.params.keys() == b.params.keys()
    for name in a.names:
        pairs = [(s, x, b.slots[name][s]) for s, x in a.slots.get(name, {}).items()]
        if name in a.params:
            pairs.append(("value", a.params[name], b.params[name]))
        assert a.slots.get(name, {}).keys() == b.slots.get(name, {}).keys()
        for slot, x, y in pairs:
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), (name, slot)
    assert a.buffers.keys() == b.buffers.keys()
    for name, x in a.buffers.items():
        y = b.buffers[name]
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), name


# Golden.


def test_the_golden_bundle_opens_with_all_that_was_put_in():
    equal(state(), bundle.read(str(BUNDLE), verify=True))


def test_the_golden_bundle_is_what_is_written_today(tmp_path):
    bundle.write(state(), str(tmp_path / "new.safetensors"))
    assert (tmp_path / "new.safetensors").read_bytes() == BUNDLE.read_bytes()


def test_a_bundle_with_buffers_is_of_version_two(tmp_path):
    path = tmp_path / "new.safetensors"
    bundle.write(state_with_buffers(), str(path))
    assert path.read_bytes() == BUNDLE_2.read_bytes()
    found = bundle.read(str(path), verify=True)
    equal(state_with_buffers(), found)
    assert found.warnings == (
        "carries what is the model's and no optimizer's (bn.running_mean, seed); only a bundle and the model's own "
        "file hold it",
    )
    assert set(bundle.digests(str(path))) - set(bundle.digests(str(BUNDLE))) == {"bn.running_mean", "seed"}


def test_a_buffer_with_the_name_of_a_parameter(tmp_path):
    clash = replace(state(), buffers={"fc.weight": np.zeros(2, np.float32)})
    with pytest.raises(CheckpointError, match=r"buffer 'fc\.weight' has the name of a parameter or slot"):
        bundle.write(clash, str(tmp_path / "x.safetensors"))
    assert not list(tmp_path.iterdir())


def test_what_was_read_is_written_back_byte_for_byte(tmp_path):
    path = tmp_path / "again.safetensors"
    bundle.write(bundle.read(str(BUNDLE)), str(path))
    assert path.read_bytes() == BUNDLE.read_bytes()


def test_the_golden_bundle_has_the_published_form():
    """What other programs rely on: names of tensors, and the manifest in the metadata."""
    header, _ = parts()
    manifest = json.loads(header.pop("__metadata__")["optexport"])
    assert set(header) == {
        *("emb", "fc.weight", "last", "norm.bias", "scale"),
        *(f"{p}/{s}" for p in ("emb", "fc.weight", "last", "norm.bias") for s in
          ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
        "emb/master",
    }  # fmt: skip
    assert manifest["version"] == 1 and manifest["dialect"] == "torch:AdamW"
    assert [p["name"] for p in manifest["parameters"]] == ["fc.weight", "emb", "norm.bias", "last", "scale"]
    assert manifest["parameters"][0]["step"] == "3" and "step" not in manifest["parameters"][4]
    assert manifest["parameters"][0]["slots"]["exp_avg"]["shape"] == ["3", "4"]
    assert len(manifest["spec"]["groups"][0]["rule"]["digest"]) == 64


# The format's own library.


def test_safetensors_opens_it():
    with safetensors.safe_open(str(BUNDLE), "numpy") as f:
        assert set(f.metadata()) == {"optexport"}
        for name in f.keys():  # noqa: SIM118
            assert list(f.get_slice(name).get_shape()) == list(parts()[0][name]["shape"])
        expected = state()
        for name in ("fc.weight", "norm.bias", "last", "scale"):
            assert f.get_tensor(name).tobytes() == expected.params[name].tobytes()


def test_bfloat16_is_bfloat16_for_safetensors():
    torch = pytest.importorskip("torch", reason="safetensors reads bfloat16 for PyTorch only")
    with safetensors.safe_open(str(BUNDLE), "pt") as f:
        tensor = f.get_tensor("emb")
        assert tensor.dtype == torch.bfloat16
        assert tensor.view(torch.uint16).numpy().tobytes() == state().params["emb"].tobytes()


def test_a_file_that_safetensors_wrote(tmp_path):
    from safetensors.numpy import save_file

    path = str(tmp_path / "model.safetensors")
    arrays = {
        "b": np.arange(6, dtype=np.int64).reshape(2, 3),
        "a": np.float16([1.5]),
        "empty": np.zeros((0, 4), np.float32),
        "flag": np.array([True, False]),
    }
    save_file(arrays, path, {"format": "np"})
    found, meta = bundle.read_tensors(path)
    assert meta == {"format": "np"} and found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes() and not found[name].flags.writeable
    assert list(bundle.read_weights(path).tensors) == sorted(arrays)
    assert "without optexport's manifest; it may be a model" in refused(bundle.read, path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_accepted_safetensors_accepts(tmp_path, data):
    """Damage anywhere in the header: what this reader opens, the format's own library opens alike."""
    original = (GOLDEN_SMALL if data.draw(st.booleans()) else BUNDLE.read_bytes())[:]
    (size,) = struct.unpack("<Q", original[:8])
    text = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 8 + size - 1))
        text[at] = data.draw(
            st.sampled_from([*b'0123456789{}[]",: -eE.\\u\x00\xff', text[at] ^ 1, text[at] ^ 0x80])
        )
    path = tmp_path / "a.safetensors"
    path.write_bytes(bytes(text) + b"\0" * data.draw(st.sampled_from([0, 0, 0, 1])))
    try:
        found, meta = bundle.read_tensors(str(path))
    except CheckpointError:
        return
    with safetensors.safe_open(str(path), "numpy") as f:
        assert set(f.keys()) == set(found)
        assert (f.metadata() or {}) == meta
        for name, array in found.items():
            assert tuple(f.get_slice(name).get_shape()) == array.shape


def _small() -> bytes:
    header = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "I8", "shape": [2, 2], "data_offsets": [8, 12]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(12)


GOLDEN_SMALL = _small()


# Hostile files.

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}
ENTRIES = [
    ({"a": {**A, "dtype": "F4"}}, 8, "tensor 'a': unknown dtype 'F4'; expected one of BOOL, U8, "),
    ({"a": {**A, "dtype": ["F32"]}}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": {**A, "dtype": None}}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": {**A, "shape": [2.0]}}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": {**A, "shape": [-2]}}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": {**A, "shape": [True, 2]}}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": {**A, "shape": "2"}}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": {**A, "data_offsets": [0, 8, 8]}}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": {**A, "data_offsets": [8, 0]}}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": {**A, "data_offsets": [-8, 0]}}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": {**A, "more": 1}}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": [1]}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": None}, 8, "tensor 'a': malformed entry in the header"),
    ({"a": {**A, "shape": [3]}}, 8, "tensor 'a': shape [3] of float32 needs 12 bytes, found 8"),
    ({"a": {**A, "shape": [2, 0]}}, 8, "tensor 'a': shape [2, 0] of float32 needs 0 bytes, found 8"),
    ({"a": {**A, "shape": [2**40, 2**40]}}, 8, f"tensor 'a': shape [{2**40}, {2**40}] of float32 needs {2**82} bytes"),
    ({"a": A, "b": {**B, "data_offsets": [4, 12]}}, 16, "tensor 'b': expected bytes from 8, found 4; holes and overlaps"),
    ({"a": A, "b": {**B, "data_offsets": [0, 8]}}, 16, "tensor 'b': expected bytes from 8, found 0; holes and overlaps"),
    ({"a": A, "b": {**B, "data_offsets": [9, 17]}}, 17, "tensor 'b': expected bytes from 8, found 9; holes and overlaps"),
    ({"b": B}, 16, "tensor 'b': expected bytes from 0, found 8; holes and overlaps are refused"),
    ({"a": A, "b": B}, 15, "tensor 'b' ends at byte "),
    ({"a": A, "b": B}, 17, " the file has a tail"),
    ({"a": A}, 0, "tensor 'a' ends at byte "),
    ({"__metadata__": {"k": 1}, "a": A}, 8, "expected text in __metadata__, found other values"),
    ({"__metadata__": [], "a": A}, 8, "expected text in __metadata__, found other values"),
    ({"\ud800": A}, 8, "tensor '\\ud800': expected a name in Unicode, found half a surrogate pair"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "count", "message"), ENTRIES)
def test_a_hostile_header_is_refused_with_its_reason(tmp_path, header, count, message):
    path = written(tmp_path / "a.safetensors", header, bytes(count))
    found = refused(bundle.read_tensors, path)
    assert found.startswith(f"{path}: ") and message in found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a safetensors file, found 0 bytes"),
        (b"\x02\0\0\0\0\0\0\0", "expected a safetensors file, found 8 bytes"),
        (struct.pack("<Q", 2) + b"[]", "expected a safetensors header in JSON, found other bytes"),
        (struct.pack("<Q", 2) + b"{]", "expected a safetensors header in JSON, found other bytes"),
        (struct.pack("<Q", 3) + b" {}", "expected a safetensors header in JSON, found other bytes"),
        (struct.pack("<Q", 4) + b"{\xff\xff}", "expected a safetensors header in JSON, found other bytes"),
        (struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995, "expected a safetensors header in JSON, found other"),
        (struct.pack("<Q", 3) + b"{}", "declares a header of 3 bytes in a file of 10; truncated, or no safetensors"),
        (struct.pack("<Q", 2**63) + b"{}", f"declares a header of {2**63} bytes in a file of 10; truncated, or no"),
        (struct.pack("<Q", 17) + b'{"a": 1, "a": 2 }', "a name occurs twice in the header"),
    ],
)  # fmt: skip
def test_what_is_no_header(tmp_path, data, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    assert refused(bundle.read_tensors, str(path)).startswith(f"{path}: {message}")


def test_a_header_beyond_the_formats_cap_is_not_parsed(tmp_path):
    path = tmp_path / "a.safetensors"
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", 100_000_001) + b"{")
        f.truncate(100_000_100)
    assert "declares a header of 100000001 bytes" in refused(bundle.read_tensors, str(path))
    assert not bundle.sniff(str(path))


def test_sniffing_never_raises(tmp_path):
    for data in (b"", b"\0" * 9, b"{" * 20, struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 99) + b"{}"):
        (tmp_path / "a").write_bytes(data)
        assert is_safetensors(str(tmp_path / "a")) == (data == struct.pack("<Q", 2) + b"{}")
        assert not bundle.sniff(str(tmp_path / "a"))
    assert bundle.sniff(str(BUNDLE))
    assert not bundle.sniff(str(tmp_path)) and not bundle.sniff(str(tmp_path / "none"))


@pytest.mark.parametrize("cut", [0, 7, 8, 9, 100, -1, -100])
def test_a_truncated_bundle(tmp_path, cut):
    path = tmp_path / "a.safetensors"
    path.write_bytes(BUNDLE.read_bytes()[:cut])
    assert refused(bundle.read, str(path)).startswith(f"{path}: ")


# The manifest against the file.


def changed(tmp_path: Path, change, data: bytes | None = None) -> str:
    """The golden bundle with its manifest (and its header) changed."""
    header, original = parts()
    manifest = json.loads(header["__metadata__"]["optexport"])
    change(manifest, header)
    header["__metadata__"]["optexport"] = json.dumps(manifest)
    return written(tmp_path / "changed.safetensors", header, original if data is None else data)


def parameter(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    return next(p for p in manifest["parameters"] if p["name"] == name)


def drop_slot(m, h):
    del parameter(m, "fc.weight")["slots"]["exp_avg"]


def add_slot(m, h):
    parameter(m, "fc.weight")["slots"]["grad_avg"] = parameter(m, "fc.weight")["slots"]["exp_avg"]


def foreign_slot(m, h):
    slots = parameter(m, "fc.weight")["slots"]
    slots["grad_avg"] = slots.pop("exp_avg")
    h["fc.weight/grad_avg"] = h.pop("fc.weight/exp_avg")


def other_shape(m, h):
    parameter(m, "fc.weight")["value"]["shape"] = ["4", "3"]


def other_shape_everywhere(m, h):
    parameter(m, "fc.weight")["slots"]["exp_avg"]["shape"] = ["12"]
    h["fc.weight/exp_avg"]["shape"] = [12]


def other_dtype(m, h):
    parameter(m, "fc.weight")["value"]["dtype"] = "int32"


def twice(m, h):
    m["parameters"].append(m["parameters"][0])


def not_in_spec(m, h):
    m["spec"]["groups"][1]["params"].remove("scale")


def not_in_manifest(m, h):
    m["spec"]["groups"][1]["params"].append("ghost")


def in_two_groups(m, h):
    m["spec"]["groups"][0]["params"].append("scale")


def rule(key, value):
    def change(m, h):
        m["spec"]["groups"][0]["rule"][key] = value

    return change


def group(key, value):
    def change(m, h):
        m["spec"]["groups"][0][key] = value

    return change


def top(key, value):
    def change(m, h):
        m[key] = value

    return change


def no_hyper(m, h):
    del m["spec"]["groups"][0]["hyperparameters"]["eps"]


def other_constant(m, h):
    node = next(n for n in m["spec"]["groups"][0]["rule"]["program"]["nodes"] if n["op"] == "const")
    node["constant"] = 2.5


def other_operator(m, h):
    node = next(n for n in m["spec"]["groups"][0]["rule"]["program"]["nodes"] if n["op"] == "mul")
    node["op"] = "matmul"


def hyper(value):
    def change(m, h):
        m["spec"]["groups"][0]["hyperparameters"]["beta1"] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_slot, "tensor 'fc.weight/exp_avg' is not in the manifest; the file was changed"),
        (add_slot, "tensor 'fc.weight/grad_avg' of the manifest is missing; the file was changed"),
        (foreign_slot, "parameter 'fc.weight': expected the slots exp_avg, exp_avg_sq, master, max_exp_avg_sq, found"),
        (other_shape, "tensor 'fc.weight': the manifest says float32 [4, 3], the file float32 [3, 4]"),
        (other_shape_everywhere, "parameter 'fc.weight': expected tensors of one shape, found value [3, 4], exp_avg [12]"),
        (other_dtype, "tensor 'fc.weight': the manifest says int32 [3, 4], the file float32 [3, 4]"),
        (twice, "parameter 'fc.weight' is in the manifest twice; the file was changed"),
        (not_in_spec, "parameter 'scale' of the manifest is in no group of the spec; the file was changed"),
        (not_in_manifest, "parameter 'ghost' of the spec is not in the manifest; the file was changed"),
        (in_two_groups, "parameter 'scale' is in two groups of the spec; the file was changed"),
        (top("version", 3), "format version 3; this optexport reads up to 2, install a newer one"),
        (top("version", 10**12), f"format version {10**12}; this optexport reads up to 2, install a newer one"),
        (top("version", 0), "expected a Manifest with a format version, found none"),
        (top("surprise", 1), "expected a Manifest in optexport's JSON, found "),
        (top("parameters", 7), "expected a Manifest in optexport's JSON, found "),
        (rule("digest", "0" * 64), "rule 'adam' has digest "),
        (rule("program", {}), "rule 'adam': rule: expected an output 'param', found none"),
        (rule("options", {"eps": "{"}), "expected JSON, found '{'"),
        (other_constant, "rule 'adam' has digest "),
        (other_operator, "rule 'adam': node "),
        (no_hyper, "rule 'adam': hyperparameter 'eps' has no value; the file was changed"),
        (group("arguments", "[1]"), "expected a group's arguments by name, found '[1]'"),
        (group("arguments", "{"), "expected JSON, found '{'"),
        (group("arguments", '{"a":{"{}":7}}'), "expected a group's arguments by name, found "),
        (group("arguments", "[" * 5000), "expected "),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_its_file(tmp_path, change, message):
    path = changed(tmp_path, change)
    assert refused(bundle.read, path).startswith(f"{path}: {message}")


@pytest.mark.parametrize("value", [1.5, "NaN", "-Infinity"])
def test_a_hyperparameter_out_of_range(tmp_path, value):
    path = changed(tmp_path, hyper(value))
    with pytest.raises(HyperparameterError) as caught:
        bundle.read(path)
    assert str(caught.value).startswith(f"{path}: 'beta1' expected a number in [0, 1), found ")


def test_a_newer_version_is_named_even_where_it_has_new_fields(tmp_path):
    def newer(m, h):
        m["version"], m["schedules"] = 7, [{"kind": "cosine"}]

    assert "format version 7; this optexport reads up to 2" in refused(bundle.read, changed(tmp_path, newer))


def test_changed_bytes_are_found_when_asked_for(tmp_path):
    _, data = parts()
    flipped = bytearray(data)
    flipped[40] ^= 1
    path = changed(tmp_path, lambda m, h: None, bytes(flipped))
    bundle.read(path)
    found = refused(bundle.read, path, verify=True)
    assert found.endswith("bytes do not have the manifest's sha256; the file is damaged")


def test_a_rule_that_this_release_does_not_know_keeps_its_meaning(tmp_path):
    """The file's own program, run by the referee: an old or foreign rule is never guessed at."""

    def renamed(m, h):
        for g in m["spec"]["groups"]:
            g["rule"]["family"] = "adam_of_tomorrow"

    found = bundle.read(changed(tmp_path, renamed))
    assert found.spec.groups[0].rule.family == "adam_of_tomorrow"
    assert found.spec.groups[0].rule.digest == state().spec.groups[0].rule.digest
    grads = {"fc.weight": np.ones((3, 4))}
    new, expected = ox.step(found, grads), ox.step(state(), grads)
    np.testing.assert_array_equal(new.params["fc.weight"], expected.params["fc.weight"])

    def more_options(m, h):
        for g in m["spec"]["groups"]:
            g["rule"]["options"]["amsgrad"] = '"corrected"'

    found = bundle.read(changed(tmp_path, more_options))
    assert found.spec.groups[0].rule.options["amsgrad"] == "corrected"
    np.testing.assert_array_equal(ox.step(found, grads).params["fc.weight"], expected.params["fc.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rule("slots", []), "rule 'x': expected the slots exp_avg, exp_avg_sq, max_exp_avg_sq, found "),
        (rule("slots", [{"name": s, "init": "zeta"} for s in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")]),
         "rule 'x': hyperparameter 'zeta' is read and not listed; the file was changed"),
        (rule("hyperparameters", ["lr"]), "rule 'x': hyperparameter 'beta1' is read and not listed; the file was ch"),
    ],
)  # fmt: skip
def test_an_unknown_rule_agrees_with_its_program(tmp_path, change, message):
    def both(m, h):
        rule("family", "x")(m, h)
        change(m, h)

    path = changed(tmp_path, both)
    assert refused(bundle.read, path).startswith(f"{path}: {message}")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_manifest_is_read_as_it_was_or_refused(tmp_path, data):
    """One value anywhere in the manifest replaced: no exception but the library's own."""

    def spoil(m, h):
        at, key = None, None
        node: Any = m
        while isinstance(node, dict | list) and node:
            at, key = (
                node,
                data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))),
            )
            node = node[key]
            if data.draw(st.integers(0, 3)) == 0:
                break
        at[key] = data.draw(
            st.sampled_from([None, "", "x", -1, 0, 1, 2**70, 0.5, True, [], {}, [[]], {"a": 1}, "\ud800"])
        )

    try:
        bundle.read(changed(tmp_path, spoil), verify=True)
    except OptexportError as e:
        assert "\n" not in str(e)


# Writing.


def small(**params: np.ndarray) -> TrainingState:
    given_ = params or {"w": np.ones((2, 3))}
    return ox.init(ox.spec("adam"), given_)


def test_equal_states_are_equal_files(tmp_path):
    one = small(a=np.ones(3), b=np.zeros((2, 2)))
    other = replace(
        one,
        params={k: np.asfortranarray(v).copy(order="F") for k, v in one.params.items()},
        slots={n: dict(reversed(s.items())) for n, s in reversed(one.slots.items())},
        steps=dict(reversed(one.steps.items())),
    )
    for name, made in (("1", one), ("2", other)):
        bundle.write(made, str(tmp_path / name))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    bundle.write(ox.step(one, {"a": np.ones(3)}), str(tmp_path / "3"))
    assert (tmp_path / "3").read_bytes() != (tmp_path / "1").read_bytes()


def test_byte_order_and_strides_do_not_show(tmp_path):
    values = np.arange(12.0).reshape(3, 4)
    for i, array in enumerate(
        [values, values.astype(">f8"), np.asfortranarray(values), np.repeat(values, 2, 1)[:, ::2]]
    ):
        made = small(w=values)
        made = replace(made, slots={"w": {**made.slots["w"], "exp_avg": array}})
        bundle.write(made, str(tmp_path / f"{i}"))
    assert len({(tmp_path / f"{i}").read_bytes() for i in range(4)}) == 1


def test_the_data_starts_on_a_multiple_of_eight(tmp_path):
    for length in range(1, 10):
        bundle.write(small(**{"w" * length: np.ones(1)}), str(tmp_path / "a"))
        (size,) = struct.unpack("<Q", (tmp_path / "a").read_bytes()[:8])
        assert size % 8 == 0


def test_parameters_keep_the_models_order(tmp_path):
    made = small(z=np.ones(1), a=np.ones(1), m=np.ones(1))
    bundle.write(made, str(tmp_path / "a"))
    assert bundle.read(str(tmp_path / "a")).names == ("z", "a", "m")


def test_progress_is_told_in_bytes(tmp_path):
    told: list[int] = []
    bundle.write(small(), str(tmp_path / "a"), on_tensor=told.append)
    assert told == [48, 48, 48]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small(__metadata__=np.ones(1)), "parameter '__metadata__': a bundle cannot have this name; rename the p"),
        (lambda: small(**{"a\ud800": np.ones(1)}), "parameter 'a\\ud800': a bundle cannot have this name; rename the par"),
        (lambda: small(**{"w": np.ones(1), "w/exp_avg": np.ones(1)}),
         "parameter 'w/exp_avg' and slot 'exp_avg' of 'w' have one name; rename the parameter"),
        (lambda: replace(small(), steps={"w": -1}), "parameter 'w': expected a step count ≥ 0, found -1"),
        (lambda: replace(small(), params={"w": np.ones((2, 3), complex)}), "tensor 'w': safetensors has no dtype"),
    ],
)  # fmt: skip
def test_what_a_bundle_cannot_hold(tmp_path, make, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    assert refused(bundle.write, make(), str(path)).startswith(f"{path}: {message}")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize(
    "name", ["a b", "ä.ö", "日本", "a/b/c", "a\nb", 'quo"te', "\\", "", "0", "\x7f", "😀"]
)
def test_names_of_any_text(tmp_path, name):
    made = small(**{name: np.ones(2)})
    bundle.write(made, str(tmp_path / "a"))
    equal(made, bundle.read(str(tmp_path / "a"), verify=True))
    with safetensors.safe_open(str(tmp_path / "a"), "numpy") as f:
        assert set(f.keys()) == {name, f"{name}/exp_avg", f"{name}/exp_avg_sq"}


# Bits.

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
TORCH = [
    ("torch:SGD", {"momentum": 0.9}),
    ("torch:Adam", {"amsgrad": True}),
    ("torch:AdamW", {"amsgrad": True}),
    ("torch:RMSprop", {"centered": True, "momentum": 0.9}),
    ("torch:Adagrad", {}),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize(("optimizer", "arguments"), TORCH, ids=[o for o, _ in TORCH])
def test_every_bit_comes_back_through_a_bundle(tmp_path, optimizer, arguments, dtype):
    """PyTorch file, bundle, PyTorch file: NaN payloads, −0 and denormals of every slot are the same."""
    from optexport.converters.torch import checkpoint
    from optexport.state.native import NativeGroup, NativeState

    entry = natives()["torch"][optimizer.partition(":")[2].lower()]
    full = {**entry.file_defaults, **entry.complete(arguments)}
    slots = {
        key: {s: bits(dtype, 100 * i, (3, 7)) for i, (s, _) in enumerate(entry.slots)} for key in ("w", "b")
    }
    for have in slots.values():
        if entry.step_slot:
            have[entry.step_slot] = np.float32(4).reshape(())
    steps = dict.fromkeys(slots, 4 if entry.step_slot else None)
    groups = [NativeGroup(full, ["w", "b"])]
    native = NativeState("torch", "", entry.name, groups, slots, steps, named=True)
    weights = {k: bits(dtype, 31, (3, 7)) for k in slots}

    first, middle, last = (str(tmp_path / n) for n in ("a.pt", "b.safetensors", "c.pt"))
    checkpoint.write(native, first)
    loaded = ox.load(first, optimizer=optimizer, names=["w", "b"])
    bundle.write(replace(loaded, params=weights), middle)
    opened = ox.load(middle)
    for key in slots:
        assert opened.params[key].tobytes() == weights[key].tobytes()
    ox.save(replace(opened, params={}), last, format="torch")
    again = checkpoint.read(last)
    for key, have in zip(again.groups[0].params, slots.values(), strict=True):
        assert again.slots[key].keys() == have.keys()
        for slot, array in have.items():
            assert again.slots[key][slot].dtype == array.dtype
            assert again.slots[key][slot].tobytes() == array.tobytes(), slot
    assert again.groups[0].arguments == full


@pytest.mark.parametrize("seed", range(20))
def test_random_states_come_back(tmp_path, seed):
    rng = random.Random(seed)
    name, arguments = rng.choice([("adam", {}), ("momentum", {}), ("sgd", {}), ("rmsprop_centered", {})])
    params = {
        f"p{i}": np.ones(tuple(rng.randrange(4) for _ in range(rng.randrange(4))))
        for i in range(rng.randrange(1, 5))
    }
    made = ox.init(
        ox.spec(name, lr=rng.random(), **arguments), params, dtype=rng.choice(["float32", "float64"])
    )
    kept = {n: s for n, s in made.slots.items() if rng.random() < 0.7 and s}
    made = replace(made, slots=kept, params={} if rng.random() < 0.3 else made.params)
    bundle.write(made, str(tmp_path / "a"))
    equal(made, bundle.read(str(tmp_path / "a"), verify=True))


def test_a_master_copy_is_kept_beside_the_rules_slots(tmp_path):
    made = small(w=np.ones(2))
    made = replace(made, slots={"w": {**made.slots["w"], MASTER: np.float32([1, 2])}})
    bundle.write(made, str(tmp_path / "a"))
    assert bundle.read(str(tmp_path / "a")).slots["w"][MASTER].tolist() == [1.0, 2.0]


def test_specs_are_as_many_as_the_catalogue():
    from optexport.rules import CATALOGUE

    assert len(specs()) == len(CATALOGUE) + 1
