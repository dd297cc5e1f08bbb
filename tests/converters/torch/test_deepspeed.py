"""DeepSpeed's checkpoints: every sample is put together to the bit, and what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from optexport.converters.torch._deepspeed import is_deepspeed, read_deepspeed, read_deepspeed_weights
from optexport.converters.torch._pack import Pack
from optexport.converters.torch._partitions import Rank, Segment, gather_split, gather_whole
from optexport.errors import CheckpointError
from optexport.state import load
from optexport.state.lazy import LazyArray
from optexport.state.pickles import Global, NewObj
from optexport.state.store import detect
from optexport.state.training import MASTER

from .making import DATA, digest

FOLDER = DATA / "deepspeed"
SAMPLES = [
    pytest.param(FOLDER / sample["id"], sample, id=sample["id"])
    for sample in json.loads((FOLDER / "expected.json").read_text())["samples"]
]


@pytest.mark.parametrize("path, sample", SAMPLES)
def test_every_tensor_of_every_sample_is_put_together_to_the_bit(path, sample):
    assert detect(str(path)) == "deepspeed"
    state = read_deepspeed(path)
    assert (state.optimizer, state.named) == ("AdamW", True)
    assert set(state.steps.values()) == {sample["step"]}
    for want in sample["state"]:
        array = state.slots[want["param"]][want["slot"]]
        assert (list(array.shape), array.dtype.name) == (want["shape"], want["dtype"])
        assert digest(array) == want["sha256"]
    # What DeepSpeed calls the full float32 parameter is the master, or the weight where there is no other.
    for want in sample["weights"]:
        master = state.slots[want["param"]].get(MASTER)
        assert (master is not None) == ("bf16" in sample["id"])
        assert digest(state.weights[want["param"]] if master is None else master) == want["sha256"]


@pytest.mark.parametrize("path, sample", SAMPLES)
def test_every_sample_gives_its_groups_and_half_precision_weights(path, sample):
    state = read_deepspeed(path)
    (group,) = state.groups
    assert group.params == [p["name"] for p in sample["parameters"]]
    assert (group.arguments["lr"], group.arguments["weight_decay"]) == (0.002, 0.05)
    weights = read_deepspeed_weights(path)
    assert weights.ordered and list(weights.tensors) == group.params
    for name, array in weights.tensors.items():
        assert array.dtype.name == ("bfloat16" if "bf16" in sample["id"] else "float32")
        if MASTER in state.slots[name]:
            rounded = np.asarray(state.slots[name][MASTER]).astype(array.dtype)
            assert np.asarray(array).tobytes() == rounded.tobytes()


def test_a_parameter_within_one_rank_is_a_view_and_one_of_several_is_put_together_when_needed():
    slots = read_deepspeed(FOLDER / "zero2_adamw").slots
    assert isinstance(slots["fc1.weight"]["exp_avg"], LazyArray)  # the ranks meet in it
    assert not slots["fc2.weight"]["exp_avg"].flags.owndata
    assert isinstance(read_deepspeed(FOLDER / "zero3_adamw").slots["fc2.bias"]["exp_avg"], LazyArray)


def test_the_tag_itself_opens_too_and_stages_agree():
    states = [load(FOLDER / p) for p in ("zero2_adamw", "zero2_adamw/global_step3", "zero2_adamw_universal")]
    for state in states[1:]:
        assert state.spec.groups[0].hyperparameters == states[0].spec.groups[0].hyperparameters
        for name, slots in states[0].slots.items():
            for slot, array in slots.items():
                assert np.array_equal(state.slots[name][slot], array)


def test_masters_go_along_as_slots():
    state = load(FOLDER / "zero1_adamw_bf16")
    assert set(state.slots["fc1.weight"]) == {"exp_avg", "exp_avg_sq", MASTER}
    assert state.without_masters().params["fc1.weight"].dtype == np.float32


def test_the_run_counts_where_the_optimizer_does_not(copy):
    path = copy("zero2_adamw") / "global_step3"
    model = {"param_shapes": [{"w": (2,)}], "module": {}, "global_steps": 7, "skipped_steps": 2}
    rewrite(path / "mp_rank_00_model_states.pt", model)
    for rank in (0, 1):
        pack = Pack()
        tensor = pack.tensor(np.full(1, rank, np.float32), "w")
        group = {
            "lr": 0.1,
            "momentum": 0.9,
            "dampening": 0,
            "nesterov": False,
            "weight_decay": 0,
            "params": [0],
        }
        base = {"state": {0: {"momentum_buffer": tensor}}, "param_groups": [group]}
        held = {"zero_stage": 2, "base_optimizer_state": base, "single_partition_of_fp32_groups": [tensor]}
        with open(path / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", "wb") as file:
            pack.write(file, {"optimizer_state_dict": held})
    state = load(path)
    assert (state.dialect, dict(state.steps)) == ("torch:SGD", {"w": 5})
    assert np.asarray(state.slots["w"]["momentum_buffer"]).tolist() == [0, 1]


# -- damage ------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    def made(name: str) -> Path:
        shutil.copytree(FOLDER / name, tmp_path / "ckpt")
        return tmp_path / "ckpt"

    return made


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_deepspeed(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_file_of_every_rank_is_needed(copy):
    path = copy("zero2_adamw")
    (path / "global_step3" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    assert "was written by 2 ranks, found the files of 1; copy the file of every rank" in refused(path)
    other = path / "global_step3" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    other.rename(other.with_name("zero_pp_rank_2_mp_rank_00_optim_states.pt"))
    assert "1 ranks without rank 0" in refused(path)


def test_model_parallelism_is_refused(copy):
    path = copy("zero2_adamw") / "global_step3"
    shutil.copy(path / "mp_rank_00_model_states.pt", path / "mp_rank_01_model_states.pt")
    assert "several model-parallel ranks" in refused(path) and "ds_to_universal" in refused(path)


@pytest.mark.parametrize("text", ["../zero2_adamw", "/etc", "global_step3/..", ".", ""])
def test_latest_names_a_folder_beside_it(copy, text):
    path = copy("zero2_adamw")
    (path / "latest").write_text(text)
    assert not is_deepspeed(path)
    assert "refused" in refused(path) or "expected the name of a folder" in refused(path)


def test_a_link_out_of_the_folder_is_refused(copy):
    path = copy("zero2_adamw_universal")
    inside = path / "zero" / "fc1.bias" / "exp_avg.pt"
    inside.rename(path.parent / "elsewhere.pt")
    inside.symlink_to(path.parent / "elsewhere.pt")
    assert "'exp_avg.pt' is a symbolic link" in refused(path) or "is a symbolic link; refused" in refused(
        path
    )


def test_a_universal_parameter_without_its_folder_is_refused(copy):
    path = copy("zero2_adamw_universal")
    shutil.rmtree(path / "zero" / "fc1.bias")
    assert "parameter fc1.bias: has no folder in zero; the checkpoint is incomplete" in refused(path)


def test_a_universal_slot_of_another_shape_is_refused(copy):
    path = copy("zero3_adamw_universal")
    shutil.copy(path / "zero/fc1.bias/exp_avg.pt", path / "zero/fc1.weight/exp_avg.pt")
    assert "parameter fc1.weight, slot exp_avg: expected shape [16, 8], found [16]" in refused(path)


def test_a_name_that_leaves_the_folder_is_refused(copy):
    path = copy("zero2_adamw_universal")
    rewrite(path / "mp_rank_00_model_states.pt", {"param_shapes": [{"../../x": (4,)}], "module": {}})
    assert "../../x is not inside the directory; refused" in refused(path)


def test_a_global_outside_the_closed_list_is_refused(copy):
    path = copy("zero2_adamw")
    value = {"param_shapes": [], "x": NewObj(Global("os", "system"))}
    rewrite(path / "global_step3" / "mp_rank_00_model_states.pt", value)
    assert "os.system" in refused(path)


@pytest.mark.parametrize(
    "change, cause",
    [
        ({"zero_stage": 7}, "ZeRO stage 7; expected 1, 2 or 3"),
        ({"zero_stage": 2, "base_optimizer_state": 5}, "base_optimizer_state is 5"),
        ({"single_partition_of_fp32_groups": []}, "0 vectors of parameters for 1 lists of shapes"),
    ],
)
def test_a_rank_that_says_other_things_is_refused(copy, change, cause):
    path = copy("zero2_adamw")
    held = {
        "zero_stage": 2,
        "base_optimizer_state": {"state": {}, "param_groups": [{"params": [0]}]},
        "single_partition_of_fp32_groups": [],
    }
    for rank in (0, 1):
        name = f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        rewrite(path / "global_step3" / name, {"optimizer_state_dict": {**held, **change}})
    assert cause in refused(path)


def rewrite(path: Path, value: object) -> None:
    with open(path, "wb") as file:
        Pack().write(file, value)


# -- partitions --------------------------------------------------------------------------------------


def ranks(stage: int, vectors: list[np.ndarray], mappings: object = None) -> list[Rank]:
    group = [{"params": [0]}]
    return [Rank(f"rank{i}", stage, {0: {"m": v}}, group, [v], mappings) for i, v in enumerate(vectors)]


SHAPES = {"a": (3, 2), "b": (5,), "c": (1,), "d": (2, 0)}
FULL = {
    n: np.arange(100.0 * i, 100.0 * i + np.prod(s), dtype=np.float32).reshape(s)
    for i, (n, s) in enumerate(SHAPES.items())
}


@pytest.mark.parametrize("world", [1, 2, 3, 5, 12, 13])
def test_a_vector_cut_between_ranks_is_joined(world):
    whole = np.concatenate([a.reshape(-1) for a in FULL.values()])
    each = -(-len(whole) // world)
    padded = np.append(whole, np.full(each * world - len(whole), np.nan, np.float32))
    segment = Segment.of(0, SHAPES, ranks(1, np.split(padded, world)), "f")
    made = gather_whole(segment, "f")
    for name, array in FULL.items():
        assert (
            np.asarray(made[name]["m"]).tobytes() == array.tobytes() and made[name]["m"].shape == array.shape
        )


@pytest.mark.parametrize("world", [1, 2, 3, 5, 12, 13])
def test_parameters_cut_one_by_one_are_joined(world):
    parts: list[list[np.ndarray]] = [[] for _ in range(world)]
    for array in FULL.values():
        each = -(-array.size // world)
        padded = np.append(array.reshape(-1), np.full(each * world - array.size, np.nan, np.float32))
        for part, piece in zip(parts, np.split(padded, world), strict=True):
            part.append(piece)
    made = gather_split(Segment.of(0, SHAPES, ranks(3, [np.concatenate(p) for p in parts]), "f"), "f")
    for name, array in FULL.items():
        assert (
            np.asarray(made[name]["m"]).tobytes() == array.tobytes() and made[name]["m"].shape == array.shape
        )


def test_a_vector_too_short_or_far_too_long_is_refused():
    for gather, stage in ((gather_whole, 1), (gather_split, 3)):
        for length in (3, 20000):
            segment = Segment.of(0, SHAPES, ranks(stage, [np.zeros(length, np.float32)] * 2), "f")
            with pytest.raises(CheckpointError, match=r"f: .*expected .* found .*the file is damaged"):
                gather(segment, "f")


def test_ranks_that_disagree_are_refused():
    a, b = ranks(1, [np.zeros(6, np.float32)] * 2)
    less = Rank(b.file, 1, {0: {}}, b.groups, b.masters, None)
    with pytest.raises(CheckpointError, match="vector 0, slot m: expected it of 2 ranks, found 1"):
        Segment.of(0, SHAPES, [a, less], "f")
    wide = Rank(b.file, 1, {0: {"m": np.zeros(6)}}, b.groups, b.masters, None)
    with pytest.raises(CheckpointError, match="rank1: vector 0, slot m: other ranks do not hold it alike"):
        Segment.of(0, SHAPES, [a, wide], "f")
    counted = [Rank(r.file, 1, {0: {"step": i}}, r.groups, r.masters, None) for i, r in enumerate((a, b))]
    with pytest.raises(CheckpointError, match="slot step: ranks differ, 0 and 1"):
        Segment.of(0, SHAPES, counted, "f")
