"""Orbax' folders: read to the byte, damaged ones refused, written for the real library."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import optexport as ox
from optexport.converters.optax import _zarr, checkpoint
from optexport.converters.optax._stores import open_store
from optexport.errors import CheckpointError
from optexport.state.formats import find_format, formats
from optexport.state.native import NativeGroup, NativeState

DATA = Path(__file__).parents[2] / "data" / "orbax"
EXPECTED = json.loads((DATA / "expected.json").read_text())
LEAF = "opt_state.0.mu.fc1.weight"


def sha(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def needs(name: str) -> None:
    pytest.importorskip("zstandard")
    if "zarr" not in name:
        pytest.importorskip("tensorstore")


@pytest.mark.parametrize("name", EXPECTED)
def test_every_array_is_read_to_the_byte(name: str) -> None:
    needs(name)
    found, expected = checkpoint.read_orbax(DATA / name), EXPECTED[name]
    for key, (shape, dtype, digest) in expected["state"].items():
        param, _, slot = key.rpartition("/")
        array = found.slots[param][slot]
        assert (list(array.shape), array.dtype.name, sha(array)) == (shape, dtype, digest), key
    assert {f"{p}/{s}" for p, own in found.slots.items() for s in own} == set(expected["state"])
    weights = checkpoint.read_orbax_weights(DATA / name)
    assert {n: sha(a) for n, a in weights.tensors.items()} == expected["weights"] and not weights.ordered


@pytest.mark.parametrize("name", EXPECTED)
def test_no_other_format_claims_it(name: str) -> None:
    path = str(DATA / name)
    assert [f for f in formats() if f != "bundle" and find_format(f).sniff(path)] == ["orbax"]
    assert ox.state.store.detect(path) == "orbax"


def test_states_come_in() -> None:
    needs("adam_inject_ocdbt")
    state = ox.load(DATA / "adam_inject_ocdbt", optimizer="optax:adam")
    assert state.spec.groups[0].hyperparameters["lr"] == np.float32(1e-3)
    assert set(state.steps.values()) == {3} and set(state.params) == set(state.slots)


def test_large_state_is_unpacked_to_a_mapped_file(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("adam_zarr")
    before = checkpoint.read_orbax(DATA / "adam_zarr")
    monkeypatch.setattr(_zarr, "IN_MEMORY", 0)
    after = checkpoint.read_orbax(DATA / "adam_zarr")
    for name, own in before.slots.items():
        for slot, array in own.items():
            assert sha(after.slots[name][slot]) == sha(array)
            assert not after.slots[name][slot].flags.writeable


# -- damaged and hostile ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    needs("adam_zarr")
    shutil.copytree(DATA / "adam_zarr", tmp_path / "c")
    return tmp_path / "c"


def change(file: Path, **new: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **new}))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.read_orbax(folder)
    assert str(folder) in str(caught.value)


def test_a_missing_chunk_is_damage(folder: Path) -> None:
    (folder / LEAF / "0.0").unlink()
    refused(folder, rf"'{LEAF}': the chunk '{LEAF}/0.0' is missing")


def test_a_chunk_of_fill_values_may_be_left_out(folder: Path) -> None:
    (folder / LEAF / "0.0").unlink()
    change(folder / LEAF / ".zarray", fill_value=0.25)
    refused(folder, "is missing")  # _METADATA says that each chunk was written
    change(folder / "_METADATA", store_array_data_equal_to_fill_value=False)
    array = checkpoint.read_orbax(folder).slots["fc1.weight"]["mu"]
    np.testing.assert_array_equal(array, np.full((16, 8), 0.25, np.float32))


def test_a_missing_array_is_damage(folder: Path) -> None:
    shutil.rmtree(folder / LEAF)
    refused(folder, rf"'{LEAF}': listed in _METADATA, and there is no array of that name")


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (
            {"shape": [1 << 40, 8], "chunks": [1 << 40, 8]},
            "its arrays would take .* bytes, and its files have",
        ),
        ({"shape": [1 << 40, 8]}, r"needs \d+ of them, and the checkpoint has \d+ keys"),
        ({"shape": [16, -8]}, "expected whole numbers from 0 up"),
        ({"shape": [16, 9], "chunks": [16, 9]}, "expected 576 bytes unpacked, found 512"),
        ({"shape": [16, 7], "chunks": [16, 7]}, "expected 448 bytes unpacked, found more than 448"),
        ({"chunks": [32, 8]}, "expected them to be parts of it"),
        ({"chunks": [0, 8]}, "expected whole numbers from 1 up"),
        ({"dtype": "|O"}, "expected a real number type"),
        ({"dtype": [["a", "<f4"]]}, "expected a real number type"),
        ({"compressor": {"id": "blosc"}}, "compressed by .*blosc.*; expected zstd, or nothing"),
        ({"filters": [{"id": "delta"}]}, "expected no filters"),
        ({"compressor": None}, "a chunk .* expected 512 bytes, found"),
        ({"fill_value": "x"}, "fill_value is 'x'; expected a number"),
    ],
)
def test_descriptions_are_checked_against_the_bytes(folder: Path, new: dict[str, Any], message: str) -> None:
    change(folder / LEAF / ".zarray", **new)
    refused(folder, message)


@pytest.mark.parametrize("data", [b"", b"\x28\xb5\x2f\xfd", b"hello" * 20])
def test_a_chunk_that_does_not_unpack_is_damage(folder: Path, data: bytes) -> None:
    (folder / LEAF / "0.0").write_bytes(data)
    refused(folder, rf"'{LEAF}': a chunk (does not unpack|expected 512 bytes)")


def test_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / LEAF / "0.0", tmp_path / "outside")
    (folder / LEAF / "0.0").symlink_to(tmp_path / "outside")
    refused(folder, "is a link or no regular file; .* nothing outside it is read")


def test_a_name_does_not_leave_the_folder(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / LEAF, tmp_path / "x")
    text = (folder / "_METADATA").read_text()
    entry = json.loads(text)["tree_metadata"]["('opt_state', '0', 'mu', 'fc1', 'weight')"]
    assert entry
    meta = json.loads(text)
    entry["key_metadata"] = [{"key": "opt_state", "key_type": 2}, {"key": "/../../x", "key_type": 2}]
    meta["tree_metadata"] = {"x": entry}
    (folder / "_METADATA").write_text(json.dumps(meta))
    refused(folder, "there is no array of that name")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100000, "expected JSON: it nests too deep; the file is damaged"),
        ("{}", "expected tree_metadata, found nothing"),
        ('{"tree_metadata": {"a": 3}}', "expected key_metadata and value_metadata"),
        ('{"tree_metadata": {"a": {"key_metadata": [], "value_metadata": {"value_type": "x"}}}}', "expected 1 to 64 keys"),
    ],
)  # fmt: skip
def test_damaged_metadata_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "_METADATA").write_text(text)
    refused(folder, message)


def test_two_leaves_of_one_name_are_refused(folder: Path) -> None:
    meta = json.loads((folder / "_METADATA").read_text())
    meta["tree_metadata"]["again"] = meta["tree_metadata"]["('params', 'fc1', 'bias')"]
    (folder / "_METADATA").write_text(json.dumps(meta))
    refused(folder, "another leaf has the same keys, or begins with them")


def test_a_library_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "zstandard", None)
    refused(folder, r"needs zstandard, which is not installed; run pip install 'optexport\[orbax\]'")
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(CheckpointError, match=r"needs tensorstore, which is not installed"):
        checkpoint.read_orbax(DATA / "adam_ocdbt")


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tensorstore")
    for number, cut in enumerate((0, 7, 40, 100)):
        folder = tmp_path / str(number)
        shutil.copytree(DATA / "adam_ocdbt", folder)
        whole = (folder / "manifest.ocdbt").read_bytes()
        (folder / "manifest.ocdbt").write_bytes(whole[:cut])
        refused(folder, "the OCDBT database is damaged or incomplete")
    for file in (DATA / "adam_ocdbt" / "ocdbt.process_0" / "d").iterdir():
        folder = tmp_path / file.name
        shutil.copytree(DATA / "adam_ocdbt", folder)
        (folder / "ocdbt.process_0" / "d" / file.name).unlink()
        try:
            checkpoint.read_orbax(folder)  # a file of an older version of the tree, or one that is needed
        except CheckpointError as error:
            assert "damaged or incomplete" in str(error)


def test_a_database_does_not_leave_the_folder(tmp_path: Path) -> None:
    """Its values are moved out, and the manifest's paths lead there."""
    ts = pytest.importorskip("tensorstore")
    folder = tmp_path / "deep" / "c"
    config = {"compression": None, "max_inline_value_bytes": 0}
    spec = {
        "driver": "ocdbt",
        "base": folder.as_uri() + "/",
        "config": config,
        "value_data_prefix": "values/aaaa_",
    }
    store = ts.KvStore.open(spec).result()
    store.write("a/0", b"\0" * 400).result()
    (value,) = [f for f in folder.rglob("*") if f.is_file() and "values" in str(f)]
    found = [f for f in folder.rglob("*") if f.is_file() and b"values/aaaa_" in f.read_bytes()]
    assert found  # the paths are in the clear, 12 letters of each are changed
    for file in found:
        data = file.read_bytes().replace(b"values/aaaa_", b"../../xxxx_/")
        made = data[:-4]
        file.write_bytes(made + _zarr._crc32c(made).to_bytes(4, "little"))
    outside = tmp_path / "xxxx_"
    outside.mkdir()
    shutil.move(value, outside / value.name.removeprefix("aaaa_"))
    with pytest.raises(CheckpointError, match=r"damaged or incomplete: .*Invalid key"):
        open_store(folder).get("a/0")


# -- the real library ---------------------------------------------------------------------------------


def orbax() -> Any:
    needs("")
    pytest.importorskip("jax")
    pytest.importorskip("optax")
    return pytest.importorskip("orbax.checkpoint")


def run(steps: int, dtype: str = "float32") -> tuple[Any, dict[str, Any], Any]:
    """(transformation, parameters, state) after some updates of Optax itself."""
    import jax.numpy as jnp
    import optax

    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1))
    params = {
        "fc": {"w": jnp.linspace(-1, 1, 48, dtype=dtype).reshape(12, 4), "b": jnp.ones(4, dtype)},
        "s": jnp.ones((), dtype),
    }
    return tx, *onwards(tx, params, tx.init(params), range(steps))


def onwards(tx: Any, params: Any, state: Any, numbers: Any) -> tuple[Any, Any]:
    import jax
    import optax

    @jax.jit
    def once(params: Any, state: Any, number: Any) -> Any:
        grads = jax.tree.map(lambda p: jax.numpy.cos(p * 3 + number), params)
        changes, state = tx.update(grads, state, params)
        return optax.apply_updates(params, changes), state

    for number in numbers:
        params, state = once(params, state, number)
    return params, state


LINKS = {
    "links": [
        ("clip_by_global_norm", {"max_norm": 1.0}),
        ("adamw", {"learning_rate": 1e-2, "weight_decay": 0.1}),
    ]
}


def same(a: Any, b: Any) -> bool:
    import jax

    left, right = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(left) == len(right) and all(
        x.dtype == y.dtype and x.shape == y.shape and sha(x) == sha(y)
        for x, y in zip(left, right, strict=True)
    )


KINDS = {
    "ocdbt": {"use_ocdbt": True},
    "zarr": {"use_ocdbt": False},
    "zarr3": {"use_ocdbt": False, "use_zarr3": True},
    "ocdbt zarr3": {"use_ocdbt": True, "use_zarr3": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pieces", [None, 64], ids=["whole", "in pieces"])
def test_what_it_writes_is_read(tmp_path: Path, kind: str, dtype: str, pieces: int | None) -> None:
    ocp = orbax()
    import jax

    _, params, state = run(3, dtype)
    tree = {"params": params, "opt_state": state, "step": 3, "name": "text", "rest": {"x": np.ones(2)}}
    handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**KINDS[kind]))
    extra = (
        {}
        if pieces is None
        else {"save_args": jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=pieces), tree)}
    )
    handler.save(tmp_path / "c", tree, **extra)
    found = checkpoint.read_orbax(tmp_path / "c")
    for name, at in (("fc.w", ("fc", "w")), ("fc.b", ("fc", "b")), ("s", ("s",))):
        held = {"mu": state[1][0].mu, "nu": state[1][0].nu, "": params}
        for slot, value in held.items():
            for key in at:
                value = value[key]
            array = found.slots[name][slot] if slot else found.weights[name]
            assert array.dtype == value.dtype and sha(array) == sha(value)
    assert (
        set(found.steps.values()) == {3}
        and "rest: beside the state of the optimizer; not read" in found.warnings
    )
    loaded = ox.load(tmp_path / "c", optimizer="optax:chain", arguments=LINKS)
    assert set(loaded.steps.values()) == {3}


def test_steps_of_a_manager(tmp_path: Path) -> None:
    ocp = orbax()
    with ocp.CheckpointManager(tmp_path / "m") as manager:
        for step in (2, 9, 10):
            _, params, state = run(step)
            manager.save(step, args=ocp.args.StandardSave({"params": params, "opt_state": state}))
        manager.wait_until_finished()
    newest = checkpoint.read_orbax(tmp_path / "m")
    assert set(newest.steps.values()) == {10}
    assert "the newest of the steps 2, 9, 10 is taken; name another's folder to have it" in newest.warnings
    for path, step in (("m/9", 9), ("m/2/default", 2)):
        assert checkpoint.is_orbax(tmp_path / path)
        assert set(checkpoint.read_orbax(tmp_path / path).steps.values()) == {step}
    assert ox.state.store.detect(str(tmp_path / "m")) == "orbax"


def test_items_of_a_step_are_one_tree(tmp_path: Path) -> None:
    ocp = orbax()
    _, params, state = run(4)
    with ocp.CheckpointManager(tmp_path / "m") as manager:
        items = {"params": ocp.args.StandardSave(params), "opt_state": ocp.args.StandardSave(state)}
        manager.save(4, args=ocp.args.Composite(**items, about=ocp.args.JsonSave({"x": 1})))
        manager.wait_until_finished()
    found = checkpoint.read_orbax(tmp_path / "m")
    assert set(found.weights) == {"fc.w", "fc.b", "s"} == set(found.slots)


def test_a_key_with_a_dot_is_one_key(tmp_path: Path) -> None:
    ocp = orbax()
    import optax

    params = {"fc.w": np.ones((2, 2), np.float32), "fc": {"b": np.ones(2, np.float32)}}
    tree = {"params": params, "opt_state": optax.adam(1e-3).init(params)}
    ocp.PyTreeCheckpointer().save(tmp_path / "c", tree)
    found = checkpoint.read_orbax(tmp_path / "c")
    assert set(found.weights) == {"fc.w", "fc.b"} == set(found.slots)
    assert any("a key of it has a dot" in w for w in found.warnings)


@pytest.mark.parametrize("kind", ["StandardCheckpointer", "PyTreeCheckpointer"])
@pytest.mark.parametrize("alone", [False, True], ids=["with weights", "alone"])
def test_it_goes_on_from_what_is_written(tmp_path: Path, kind: str, alone: bool) -> None:
    """10 updates of Optax, its folder, a bundle, ours, restored by Orbax: 20 end as without."""
    ocp = orbax()
    import jax

    tx, params, state = run(10)
    ocp.PyTreeCheckpointer().save(tmp_path / "theirs", {"params": params, "opt_state": state, "step": 10})
    loaded = ox.load(tmp_path / "theirs", optimizer="optax:chain", arguments=LINKS)
    ox.save(loaded, tmp_path / "b.safetensors", format="bundle")
    again = ox.load(tmp_path / "b.safetensors")
    native = ox.state.lift.native_state(again, "x")
    if alone:
        native.weights = {}
    checkpoint.write_orbax(native, tmp_path / "ours")
    empty = jax.tree.map(jax.numpy.zeros_like, (params, tx.init(params)))
    wanted = empty[1] if alone else {"params": empty[0], "opt_state": empty[1], "step": 0}
    made = getattr(ocp, kind)()
    given = (wanted,) if kind == "StandardCheckpointer" else ()
    restored = made.restore(tmp_path / "ours", *given, **({} if given else {"item": wanted}))
    state_again = restored if alone else restored["opt_state"]
    assert jax.tree.structure(state_again) == jax.tree.structure(state) and same(state_again, state)
    if not alone:
        assert same(restored["params"], params) and restored["step"] == 10
    start = params if alone else restored["params"]
    state_again = jax.tree.map(jax.numpy.asarray, state_again)
    assert same(onwards(tx, start, state_again, range(10, 20)), onwards(tx, params, state, range(10, 20)))


# -- written and read again ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_every_bit_comes_back(tmp_path: Path, dtype: Any) -> None:
    """NaN's payloads, denormal numbers, both zeros, infinities."""
    size = np.dtype(dtype).itemsize
    bits = np.random.default_rng(0).integers(0, 256, 4096 * size, np.uint8)
    array = np.concatenate(
        [bits, np.arange(4 * size, dtype=np.uint8), np.full(4 * size, 255, np.uint8)]
    ).view(dtype)
    native = NativeState("optax", "", "adam", [NativeGroup({"learning_rate": 0.1}, ["a", "b.c"])], named=True)
    native.slots = {n: {"mu": array, "nu": array[::-1].copy()} for n in ("a", "b.c")}
    native.slots["b.c"] = {"mu": array[:1].reshape(()), "nu": array[1:2].reshape(())}
    native.steps = {"a": 7, "b.c": 7}
    checkpoint.write_orbax(native, tmp_path / "c")
    found = checkpoint.read_orbax(tmp_path / "c")
    assert found.steps == native.steps
    for name, own in native.slots.items():
        for slot, held in own.items():
            assert found.slots[name][slot].shape == held.shape and sha(found.slots[name][slot]) == sha(held)
    checkpoint.write_orbax(native, tmp_path / "d")
    files = [f.relative_to(tmp_path / "c") for f in (tmp_path / "c").rglob("*") if f.is_file()]
    assert files and all(
        (tmp_path / "c" / f).read_bytes() == (tmp_path / "d" / f).read_bytes() for f in files
    )


def test_nothing_is_left_where_a_name_does_not_do(tmp_path: Path) -> None:
    native = NativeState(
        "optax", "", "adam", [NativeGroup({"learning_rate": 0.1}, ["a/../../b"])], named=True
    )
    native.slots = {"a/../../b": {"mu": np.ones(2), "nu": np.ones(2)}}
    native.steps = {"a/../../b": 1}
    with pytest.raises(CheckpointError, match="no folder can have this name"):
        checkpoint.write_orbax(native, tmp_path / "c")
    assert not list(tmp_path.iterdir())
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x").touch()
    native.groups[0].params = ["a"]
    with pytest.raises(CheckpointError, match="already exists and is not an empty directory"):
        checkpoint.write_orbax(native, tmp_path / "c")
