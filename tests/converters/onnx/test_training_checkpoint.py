"""Checkpoints of ONNX Runtime's training API: read, written, and gone on from by the API itself."""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.convert import convert
from optexport.converters.onnx import _ort_checkpoint as container
from optexport.converters.onnx import _ort_state, checkpoint
from optexport.converters.onnx._flatbuffer import Scalar, layout
from optexport.errors import CheckpointError
from optexport.state.formats import find_format, formats
from optexport.state.inspect import inspect
from optexport.state.lift import native_state
from optexport.state.store import detect, read_model, read_native

from .making import (
    ATTRIBUTES,
    DATA,
    LR,
    SHAPES,
    Run,
    gradients,
    make_artifacts,
    samples,
    sha256,
    special,
    weights,
)

HERE = DATA / "onnxruntime"
FORMAT = "onnxruntime-training"
ADAMW = "onnxruntime:AdamWOptimizer"


def refused(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files, with an AdamW of PyTorch's kind."""
    return make_artifacts(tmp_path_factory.mktemp("artifacts") / "adamw", **ATTRIBUTES)


@pytest.fixture(scope="module")
def trained(artifacts: Path) -> Path:
    """A checkpoint after three updates, in a folder of its own."""
    (artifacts.parent / "run").mkdir()
    (artifacts.parent / "run" / "optimizer_model.onnx").write_bytes(
        (artifacts / "optimizer_model.onnx").read_bytes()
    )
    return Run(artifacts, artifacts / "checkpoint").steps(0, 3).save(artifacts.parent / "run" / "checkpoint")


def same(a: container.Checkpoint, b: container.Checkpoint) -> None:
    """Equal bits in all that the optimizer has (the initial learning rate is not read)."""
    assert {n: (g[0], g[2]) for n, g in a.groups.items()} == {n: (g[0], g[2]) for n, g in b.groups.items()}
    for x, y in (
        (a.trainable, b.trainable),
        (a.frozen, b.frozen),
        *((a.states[n], b.states[n]) for n in a.states),
    ):
        assert {n: (v.shape, v.dtype, v.tobytes()) for n, v in x.items()} == {
            n: (v.shape, v.dtype, v.tobytes()) for n, v in y.items()
        }


# -- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", samples("onnxruntime"), ids=lambda s: s["id"])
def test_every_tensor_of_every_sample(sample: dict[str, Any]) -> None:
    path = str(HERE / sample["files"][0])
    assert [f for f in formats() if f != "bundle" and find_format(f).sniff(path)] == [FORMAT]
    if sample["id"] == "nominal":
        assert "nominal checkpoint" in refused(read_native, path)
        assert "nominal checkpoint" in refused(read_model, path)
        return
    trained = {p["name"] for p in sample["parameters"]} or {w["param"] for w in sample["weights"]}
    model = read_model(path).tensors
    expected = {w["param"]: w["sha256"] for w in sample["weights"] if w["param"] in trained}
    assert {n: sha256(a) for n, a in model.items() if n in trained} == {
        n: h for n, h in expected.items() if n in model
    }
    if not sample["state"]:
        assert "include_optimizer_state=True" in refused(read_native, path)
        return
    native = read_native(path)
    assert native.optimizer == {"ADAMW": "AdamWOptimizer", "SGD": "SGDOptimizerV2"}[sample["optimizer"]]
    assert native.extras["properties"] == sample["hyperparameters"]["properties"]
    assert set(native.steps.values()) == {sample["step"]} and native.named
    assert {w["param"]: w["sha256"] for w in sample["weights"]} == {
        n: sha256(a) for n, a in native.weights.items()
    }
    found = {
        f"{p}::{s}": (sha256(a), a.flags.writeable)
        for p, held in native.slots.items()
        for s, a in held.items()
    }
    assert found == {e["name"]: (e["sha256"], False) for e in sample["state"]}


@pytest.mark.parametrize("name", ["adamw.ckpt", "sgd.ckpt", "adamw_params_only.ckpt"])
@pytest.mark.parametrize("above", [0, 1 << 30], ids=["external", "inside"])
def test_a_file_written_again_holds_the_same(tmp_path: Path, name: str, above: int) -> None:
    held = container.read_checkpoint(str(HERE / name))
    target = str(tmp_path / "c.ckpt")
    container.write_checkpoint(held, target, external_above=above)
    again = container.read_checkpoint(target)
    same(held, again)
    assert again.properties == held.properties
    assert again.external == os.path.exists(target + ".data") == (above == 0)


def test_the_sample_beside_its_optimizer_model() -> None:
    native = read_native(str(HERE / "adamw.ckpt"))
    arguments = {
        "alpha": 0.9,
        "beta": 0.999,
        "epsilon": 1e-6,
        "weight_decay": 0.0,
        "adam_mode": 1,
        "correct_bias": 1,
    }
    assert native.groups[0].arguments == arguments and not native.warnings
    assert "does not hold lr" in refused(ox.load, HERE / "adamw.ckpt")
    state = ox.load(HERE / "adamw.ckpt", arguments={"lr": 0.002})
    assert (state.dialect, state.spec.groups[0].hyperparameters["eps"]) == (ADAMW, 1e-6)
    assert set(state.params) == {p for g in state.spec.groups for p in g.params or ()}
    found = inspect(str(HERE / "adamw.ckpt"))
    assert (found.optimizer, found.step) == (ADAMW, 3)
    assert {t.role for t in found.tensors} == {"exp_avg", "exp_avg_sq"}


def test_without_the_optimizer_model_its_attributes_are_assumed_aloud(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes((HERE / "adamw.ckpt").read_bytes())
    assert "--hyper lr=" in refused(ox.load, path)
    state = ox.load(path, arguments={"lr": 0.002, "epsilon": 1e-5})
    assert state.spec.groups[0].hyperparameters["eps"] == 1e-5
    assert [w for w in state.warnings if "assumed what generate_artifacts makes" in w and "adam_mode=1" in w]
    assert not [w for w in state.warnings if "epsilon" in w]


def test_sgd_keeps_a_slot_that_nothing_reads() -> None:
    state = ox.load(HERE / "sgd.ckpt", arguments={"lr": 0.002})
    assert (state.dialect, dict(state.slots)) == ("onnxruntime:SGDOptimizerV2", {})
    assert set(state.steps.values()) == {3}


# -- the training API goes on ---------------------------------------------------------------------


@pytest.mark.parametrize("above", [0, 1 << 30], ids=["external", "inside"])
@pytest.mark.parametrize("through", ["native", "bundle"])
def test_the_training_api_goes_on_bit_for_bit(
    tmp_path: Path, artifacts: Path, trained: Path, above: int, through: str
) -> None:
    state = ox.load(trained, arguments={"lr": LR})
    if through == "bundle":
        ox.save(state, tmp_path / "b.safetensors", format="bundle")
        state = ox.load(tmp_path / "b.safetensors")
    target = tmp_path / "checkpoint"
    # The checkpoint that stands there tells the frozen parameters.
    target.write_bytes((artifacts / "checkpoint").read_bytes())
    _ort_state.write_state(native_state(state, "x"), str(target), external_above=above)
    assert target.with_name("checkpoint.data").exists() == (above == 0)
    ported = Run(artifacts, target).steps(3, 4).save(tmp_path / "after")
    whole = Run(artifacts, artifacts / "checkpoint").steps(0, 7).save(tmp_path / "whole")
    same(container.read_checkpoint(str(ported)), container.read_checkpoint(str(whole)))


def test_sgd_goes_on_bit_for_bit(tmp_path: Path) -> None:
    folder = make_artifacts(tmp_path / "sgd", "SGD")
    half = Run(folder, folder / "checkpoint").steps(0, 2).save(tmp_path / "half")
    state = ox.load(half, arguments={"lr": LR})
    target = folder / "checkpoint"
    whole = Run(folder, target).steps(0, 5).save(tmp_path / "whole")
    ox.save(state, folder, format=FORMAT)  # the folder's checkpoint is replaced
    ported = Run(folder, target).steps(2, 3).save(tmp_path / "after")
    same(container.read_checkpoint(str(ported)), container.read_checkpoint(str(whole)))


def test_every_bit_survives_native_bundle_native(tmp_path: Path, trained: Path) -> None:
    held = container.read_checkpoint(str(trained))
    for n, slots in held.states.items():
        for i, s in enumerate(slots):
            slots[s] = np.roll(special(SHAPES[n]), i)
        held.trainable[n] = special(SHAPES[n])
    source = tmp_path / "checkpoint"
    container.write_checkpoint(held, str(source))
    ox.save(ox.load(source, arguments={"lr": LR}), tmp_path / "b.safetensors", format="bundle")
    ox.save(ox.load(tmp_path / "b.safetensors"), tmp_path / "again.ckpt", format=FORMAT)
    again = container.read_checkpoint(str(tmp_path / "again.ckpt"))
    for n, slots in held.states.items():
        assert {s: a.tobytes() for s, a in slots.items()} == {
            s: a.tobytes() for s, a in again.states[n].items()
        }
        assert held.trainable[n].tobytes() == again.trainable[n].tobytes()


# -- from PyTorch and back ------------------------------------------------------------------------


def torch_run(path: Path | None, first: int, count: int, start: dict[str, np.ndarray] | None = None) -> Any:
    """PyTorch's AdamW of `ATTRIBUTES` over the same gradients; (optimizer, parameters)."""
    torch = pytest.importorskip("torch")
    params = {n: torch.nn.Parameter(torch.tensor(v)) for n, v in (start or weights()).items()}
    a = ATTRIBUTES
    optimizer = torch.optim.AdamW(
        list(params.items()),
        lr=LR,
        betas=(a["alpha"], a["beta"]),
        eps=a["epsilon"],
        weight_decay=a["weight_decay"],
    )
    if path is not None:
        held = torch.load(path, weights_only=True)
        optimizer.load_state_dict(held.get("optimizer", held))
    for step in range(first, first + count):
        for n, g in gradients(step).items():
            params[n].grad = torch.tensor(g)
        optimizer.step()
    return optimizer, params


def near(found: np.ndarray, expected: np.ndarray, steps: int, scale: float) -> None:
    """Equal up to float32's rounding.

    Each update rounds about ten times: the result at its own size, the operands at ``scale``, the size
    of what is added to it. An attribute is a float32, too: 0.97 changes 1 − β by 8e-7 of itself.
    """
    eps = float(np.finfo(np.float32).eps)
    bound = steps * (10 * eps + 8e-7) * (np.abs(expected) + scale)
    assert np.all(np.abs(found.astype(np.float64) - expected) <= bound), np.max(
        np.abs(found - expected) / bound
    )


def test_a_run_of_pytorch_goes_on_in_the_training_api_and_back(tmp_path: Path, artifacts: Path) -> None:
    torch = pytest.importorskip("torch")
    optimizer, params = torch_run(None, 0, 3)
    torch.save(optimizer.state_dict(), tmp_path / "sample.pt")
    torch.save({n: p.detach() for n, p in params.items()}, tmp_path / "model.pt")
    folder = tmp_path / "artifacts"
    folder.mkdir()
    for name in os.listdir(artifacts):
        (folder / name).write_bytes((artifacts / name).read_bytes())
    target = str(folder / "checkpoint")
    out = convert(
        str(tmp_path / "sample.pt"),
        target,
        to_format=FORMAT,
        optimizers=(ADAMW,),
        model=str(tmp_path / "model.pt"),
    )
    assert (out.verdict, out.optimizer) == ("exact", ADAMW)
    assert "call optimizer.set_learning_rate(0.02)" in out.warnings[-2]
    assert (
        "optimizer_model.onnx must have alpha=0.8, beta=0.97, epsilon=1e-07, weight_decay=0.05"
        in out.warnings[-1]
    )
    after = container.read_checkpoint(str(Run(folder, Path(target)).steps(3, 4).save(tmp_path / "after")))
    whole, held = torch_run(None, 0, 7)
    state = {n: whole.state[p] for n, p in held.items()}
    assert after.groups["group0"][0] == 7
    for n, p in held.items():
        near(after.trainable[n], p.detach().numpy(), 4, LR)
        near(after.states[n]["momentum0"], state[n]["exp_avg"].numpy(), 4, 0.1)
        near(after.states[n]["momentum1"], state[n]["exp_avg_sq"].numpy(), 4, 0.01)
    # Back: PyTorch takes three more.
    arguments = {"lr": LR}
    (tmp_path / "optimizer_model.onnx").write_bytes((artifacts / "optimizer_model.onnx").read_bytes())
    back = convert(
        str(tmp_path / "after"),
        str(tmp_path / "back.pt"),
        to_format="torch",
        optimizers=("torch:AdamW",),
        arguments=arguments,
    )
    assert back.verdict == "exact"
    order = {n: after.trainable[n] for n in sorted(SHAPES)}
    _, ported = torch_run(tmp_path / "back.pt", 7, 3, order)
    _, uninterrupted = torch_run(None, 0, 10)
    for n, p in uninterrupted.items():
        near(ported[n].detach().numpy(), p.detach().numpy(), 7, LR)


def test_the_file_that_was_written_says_what_its_format_cannot(tmp_path: Path, artifacts: Path) -> None:
    spec = ox.native("torch:AdamW", lr=0.015, betas=(0.85, 0.995), weight_decay=0.02)
    state = ox.init(spec, weights(), dtype="float32")
    state = ox.step(state, gradients(0))
    ported, _ = ox.translate(state, to=ADAMW)
    target = tmp_path / "c.ckpt"
    ox.save(ported, target, format=FORMAT)
    again = ox.load(target)
    assert again.spec.groups[0].hyperparameters == ported.spec.groups[0].hyperparameters
    # After an update by somebody else, nothing tells the learning rate any more.
    held = container.read_checkpoint(str(target))
    held.groups["group0"] = (2, *held.groups["group0"][1:])
    container.write_checkpoint(held, str(target))
    assert "--hyper lr=" in refused(ox.load, target)


def test_the_learning_rate_is_not_taken_from_the_file(tmp_path: Path, artifacts: Path, trained: Path) -> None:
    """Why it is asked for: the API trained at `LR` and its file says another number."""
    assert container.read_checkpoint(str(trained)).groups["group0"][1] == np.float32(0.001) != np.float32(LR)


# -- what a writer refuses ------------------------------------------------------------------------


def adamw_state(**fields: Any) -> Any:
    native = read_native(str(HERE / "adamw.ckpt"))
    native.groups[0].arguments["lr"] = 0.002
    return replace(native, **fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {}}, "parameter 'fc1.bias': expected its values.*--model"),
        ({"optimizer": "LambOptimizer"}, "the training API runs AdamWOptimizer and SGDOptimizerV2; found LambOptimizer"),
        ({"steps": {"fc1.bias": 2}}, "parameters were updated 0, 2 times; the training API has one count"),
        ({"slots": {"fc1.bias": {"momentum0": np.zeros(16)}}}, "momentum0: the training operators take float32"),
        ({"slots": {"fc1.bias": {"momentum0": np.zeros(4, "f4")}}}, r"expected the parameter's shape \[16\], found \[4\]"),
        ({"slots": {"fc1.bias": {"master": np.zeros(16, "f4")}}}, "expected the slots momentum0, momentum1, found master"),
    ],
)  # fmt: skip
def test_what_the_format_cannot_hold_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    target = tmp_path / "c.ckpt"
    target.write_bytes(b"old")
    assert re.search(message, refused(checkpoint.write_training, adamw_state(**change), target))
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["c.ckpt"]


def test_groups_are_one(tmp_path: Path) -> None:
    native = adamw_state()
    native.groups = [native.groups[0], native.groups[0]]
    assert "expected one group of parameters, found 2" in refused(
        checkpoint.write_training, native, tmp_path / "c"
    )


def test_an_optimizer_model_that_computes_otherwise_is_refused(tmp_path: Path) -> None:
    (tmp_path / "optimizer_model.onnx").write_bytes((HERE / "adamw_optimizer_model.onnx").read_bytes())
    native = adamw_state()
    checkpoint.write_training(native, tmp_path / "checkpoint")
    native.groups[0].arguments["epsilon"] = 1e-8
    message = refused(checkpoint.write_training, native, tmp_path / "checkpoint")
    assert "has epsilon=1e-06; the state needs epsilon=1e-08; set these attributes of its node" in message
    native = replace(read_native(str(HERE / "sgd.ckpt")))
    native.groups[0].arguments["lr"] = 0.1
    assert "has AdamWOptimizer; expected SGDOptimizerV2" in refused(
        checkpoint.write_training, native, tmp_path / "checkpoint"
    )


def test_external_data_of_the_file_that_stands_there_is_not_replaced(tmp_path: Path) -> None:
    held = container.read_checkpoint(str(HERE / "adamw.ckpt"))
    target = str(tmp_path / "c.ckpt")
    container.write_checkpoint(held, target, external_above=0)
    assert "a checkpoint with external data stands there" in refused(
        container.write_checkpoint, held, target, external_above=0
    )
    container.write_checkpoint(held, target)  # all inside: one file, replaced as one
    same(container.read_checkpoint(target), held)


# -- folders --------------------------------------------------------------------------------------


def test_the_folder_of_the_four_files(tmp_path: Path, trained: Path) -> None:
    state = ox.load(trained.parent, arguments={"lr": LR})
    assert detect(str(trained.parent)) == FORMAT
    assert state.spec.groups[0].hyperparameters["beta1"] == ATTRIBUTES["alpha"]
    prefixed = tmp_path / "p"
    prefixed.mkdir()
    (prefixed / "run_checkpoint").write_bytes(trained.read_bytes())
    (prefixed / "run_nominal_checkpoint").write_bytes((HERE / "nominal.ckpt").read_bytes())
    (prefixed / "run_optimizer_model.onnx").write_bytes(
        (trained.parent / "optimizer_model.onnx").read_bytes()
    )
    assert ox.load(prefixed, arguments={"lr": LR}).spec == state.spec
    (prefixed / "checkpoint").write_bytes(trained.read_bytes())
    assert "expected a folder with one file checkpoint, found none or several" in refused(
        checkpoint.read_training, prefixed
    )


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    held = container.read_checkpoint(str(HERE / "adamw.ckpt"))
    (tmp_path / "a").mkdir()
    target = tmp_path / "a" / "c.ckpt"
    container.write_checkpoint(held, str(target), external_above=0)
    data = target.with_name("c.ckpt.data")
    data.rename(tmp_path / "elsewhere")
    assert "no such file; keep the files of one model together" in refused(read_native, str(target))
    data.symlink_to(tmp_path / "elsewhere")
    assert "is a link that leads out of the folder" in refused(read_native, str(target))
    # An optimizer model behind such a link is as if it were not there.
    (tmp_path / "a" / "optimizer_model.onnx").symlink_to(HERE / "adamw_optimizer_model.onnx")
    (tmp_path / "a" / "d.ckpt").write_bytes((HERE / "adamw.ckpt").read_bytes())
    assert read_native(str(tmp_path / "a" / "d.ckpt")).groups[0].arguments == {}


# -- files that lie -------------------------------------------------------------------------------


def test_every_truncation_and_every_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    whole = (HERE / "adamw.ckpt").read_bytes()
    path = str(tmp_path / "c.ckpt")
    rng = np.random.default_rng(1)
    cases = [whole[:n] for n in range(8, len(whole), 61)]
    for at in rng.integers(0, len(whole), 400):
        for value in (0, 1, 0x7F, 0xFF):
            cases.append(whole[:at] + bytes([value]) + whole[at + 1 :])
    refusals = 0
    for data in cases:
        Path(path).write_bytes(data)
        try:
            read_native(path)
        except CheckpointError as error:
            refusals += 1
            assert path in str(error)
    assert refusals > len(range(8, len(whole), 61)) // 2


def flat(root: list[Any]) -> bytes:
    parts, _ = layout(root, b"ODTC")
    return b"".join(bytes(p) for p in parts)


def tensor(
    name: str = "w", dims: tuple[int, ...] = (2,), kind: int = 1, raw: bytes | None = bytes(8)
) -> list[Any]:
    data = None if raw is None else np.frombuffer(raw, np.uint8)
    return [name, None, np.array(dims, "<i8"), Scalar("i", kind), data]


def lying(**change: Any) -> bytes:
    state = ["w", (change.get("slot", tensor("momentum0")), tensor("momentum1"))]
    group = ["group0", Scalar("q", change.get("step", 3)), None, change.get("states", (state,))]
    module = [change.get("params", (tensor(),)), (), None, None]
    return flat([Scalar("i", change.get("version", 2)), module, change.get("groups", (group,))])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, "checkpoint version 9; expected 1 or 2"),
        ({"step": -1}, "step -1"),
        ({"slot": tensor("momentum0", (1 << 40,))}, "8 bytes; its shape [1099511627776] of float32 needs 4398046511104"),
        ({"slot": tensor("momentum0", (-2,))}, "shape [-2]; expected at most 32 sizes ≥ 0"),
        ({"slot": tensor("momentum0", (1,) * 40)}, "expected at most 32 sizes"),
        ({"slot": tensor("momentum0", kind=8)}, "parameter 'w', slot 'momentum0': data type 8; expected a number's"),
        ({"slot": tensor("momentum1")}, "parameter 'w', slot 'momentum1' occurs twice"),
        ({"params": (tensor(), tensor())}, "parameter 'w' occurs twice"),
        ({"params": (tensor("v"),)}, "parameter 'w': has state and is not among the trained parameters (v)"),
    ],
)  # fmt: skip
def test_a_file_that_lies_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "c.ckpt"
    path.write_bytes(lying(**change))
    assert message in refused(read_native, str(path))


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """A vector of a thousand tables that are all the same one."""
    whole = bytearray(lying())
    count = 4000
    at = len(whole)
    # requires_grad_params of the module state becomes a long vector whose items lead to one table.
    root = struct.unpack_from("<I", whole, 0)[0]
    vtable = root - struct.unpack_from("<i", whole, root)[0]
    place = root + struct.unpack_from("<H", whole, vtable + 4 + 2)[0]
    module = place + struct.unpack_from("<I", whole, place)[0]
    mv = module - struct.unpack_from("<i", whole, module)[0]
    vector = module + struct.unpack_from("<H", whole, mv + 4)[0]
    struct.pack_into("<I", whole, vector, at - vector)
    whole += struct.pack("<I", count) + bytes(4 * count)
    tail = len(whole)
    whole += lying()
    for i in range(count):
        struct.pack_into("<I", whole, at + 4 + 4 * i, tail + root - (at + 4 + 4 * i))
    path = tmp_path / "c.ckpt"
    path.write_bytes(whole)
    assert "the file is damaged" in refused(read_native, str(path))


def test_a_note_that_lies_changes_nothing(tmp_path: Path) -> None:
    held = container.read_checkpoint(str(HERE / "adamw.ckpt"))
    path = str(tmp_path / "c.ckpt")
    head = {"step": 3, "optimizer": "AdamWOptimizer"}
    lies = [{**head, "arguments": a} for a in ([1], {"lr": "x", "beta": True, "z": 1}, {"lr": float("nan")})]
    for note in ("[" * 60000, "{", "[]", *map(json.dumps, lies)):
        held.properties["optexport"] = note
        container.write_checkpoint(held, path)
        assert read_native(path).groups[0].arguments == {}
