"""DeepSpeed's checkpoints: ZeRO stages 1 to 3, one file a rank, and universal ones, a folder a parameter.

``DIR/latest`` names ``DIR/TAG``, which holds the model states (names, shapes and half-precision weights)
and the optimizer states of every rank. Stages 1 and 2 put the parameters of a group into one vector and
cut that in as many parts as there are ranks: a parameter may be split between two. Stage 3 cuts every
parameter in as many pieces, so that each rank's vector holds a piece of each. Universal checkpoints
have ``zero/NAME/fp32.pt`` and a file a slot. Read from the layout of DeepSpeed 0.19 (``zero/stage_1_and_2.py``,
``zero/stage3.py``, ``checkpoint/ds_to_universal.py``, ``utils/zero_to_fp32.py``).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optexport.converters.torch._interpret import as_array, is_tensor, native_state
from optexport.converters.torch._partitions import Rank, Segment, gather_split, gather_whole
from optexport.converters.torch._tensors import CONSTRUCTORS
from optexport.converters.torch._zip import load_zip
from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.lazy import lazy
from optexport.state.native import NativeState, Weights
from optexport.state.pickles import Record, record
from optexport.state.pickles.objects import brief
from optexport.state.training import MASTER

__all__ = ["is_deepspeed", "read_deepspeed", "read_deepspeed_weights"]

_OPTIM = re.compile(r"(?:bf16_)?zero_pp_rank_([0-9]{1,6})_mp_rank_([0-9]{1,6})_optim_states\.pt")
_MODEL = re.compile(r"(?:zero_pp_rank_([0-9]{1,6})_)?mp_rank_([0-9]{1,6})_model_states\.pt")
_MAX_TAG = 4096
_INERT = (
    *(("deepspeed.runtime.fp16.loss_scaler", n) for n in ("LossScaler", "DynamicLossScaler")),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)
_TABLE = {**CONSTRUCTORS, **{(module, name): record(module, name) for module, name in _INERT}}
_Shapes = dict[str, tuple[int, ...]]


def is_deepspeed(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a checkpoint's directory, or the one whose ``latest`` names it."""
    try:
        return os.path.isdir(path) and _is_tag(_tag(Path(path)))
    except (CheckpointError, OSError):
        return False


def read_deepspeed(path: str | os.PathLike[str]) -> NativeState:
    """The whole optimizer, its tensors put together over the ranks when they are looked at.

    float32 masters are slots beside the moments where the model is in half precision; else they are
    the weights.
    Raises CheckpointError for a missing rank, tensor or model parallelism, a slot that is no vector of
    the parameters, and pieces that do not make up the parameters exactly.
    """
    return _Checkpoint(Path(path)).native()


def read_deepspeed_weights(path: str | os.PathLike[str]) -> Weights:
    """The model's weights; of stage 3, whose model states hold none, the optimizer's masters."""
    checkpoint = _Checkpoint(Path(path))
    return Weights(checkpoint.native().weights, ordered=True)


def _is_tag(folder: Path) -> bool:
    names = set(os.listdir(folder))
    return any(map(_MODEL.fullmatch, names)) and ("zero" in names or any(map(_OPTIM.fullmatch, names)))


def _tag(folder: Path) -> Path:
    """The folder that ``latest`` names, this one without such a file."""
    for name in ("latest", "latest_universal"):
        if not os.path.isfile(folder / name):
            continue
        text = bytes(map_file(_inside(folder, name))[: _MAX_TAG + 1])
        try:
            tag = text.decode().strip()
        except UnicodeDecodeError:
            tag = ""
        if not tag or len(text) > _MAX_TAG:
            raise CheckpointError(f"{folder}/{name}: expected the name of a folder, found {brief(text)}")
        return _inside(folder, tag)
    return folder


def _inside(folder: Path, name: str) -> Path:
    """A file or folder directly in ``folder``, not reached by a link."""
    if not name or name in (".", "..") or any(c in name for c in "/\\\0:"):
        raise CheckpointError(f"{folder}: {brief(name)} is not inside the directory; refused")
    path = folder / name
    if path.is_symlink():
        raise CheckpointError(f"{folder}: {brief(name)} is a symbolic link; refused")
    return path


class _Checkpoint:
    def __init__(self, path: Path) -> None:
        self.folder = _tag(path)
        self.file = str(self.folder)
        if not self.folder.is_dir():
            raise CheckpointError(f"{path}: latest names {brief(self.folder.name)}, which is not there")
        self.names = sorted(os.listdir(self.folder))
        self.universal = (self.folder / "zero").is_dir()
        self.counted: dict[str, int | None] = {}

    def load(self, folder: Path, name: str) -> Any:
        path = _inside(folder, name)
        return load_zip(map_file(path), str(path), constructors=_TABLE)

    def fail(self, cause: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {cause}")

    # -- model states ---------------------------------------------------------------------------

    def model(self) -> dict[Any, Any]:
        """The model states of the first rank."""
        found = {(int(m[1] or 0), int(m[2])): m[0] for m in map(_MODEL.fullmatch, self.names) if m}
        if any(mp for _, mp in found):
            raise self.fail(
                "model states of several model-parallel ranks; expected one, mp_rank_00: merge them with "
                "DeepSpeed's ds_to_universal"
            )
        if (0, 0) not in found:
            raise self.fail("has no model states of rank 0; expected mp_rank_00_model_states.pt")
        if any(n.startswith(("layer_", "expp_rank_")) for n in self.names):
            raise self.fail("files of pipeline stages or experts; expected plain data parallelism")
        states = self.load(self.folder, found[0, 0])
        if not isinstance(states, dict):
            raise self.fail(f"the model states are {brief(states)}; expected a dict")
        return states

    def shapes(self, model: Mapping[Any, Any]) -> list[_Shapes]:
        """Name -> shape, a dict for each vector of the optimizer, in its order."""
        listed = model.get("param_shapes")
        out: list[_Shapes] = []
        for each in listed if isinstance(listed, list) else [listed]:
            if not isinstance(each, dict) or not all(
                isinstance(n, str) and isinstance(s, tuple) and all(type(d) is int and d >= 0 for d in s)
                for n, s in each.items()
            ):
                raise self.fail(f"param_shapes holds {brief(each)}; expected shapes by name")
            out.append(dict(each))
        names = [n for each in out for n in each]
        if len(set(names)) != len(names):
            raise self.fail("a parameter occurs twice in param_shapes")
        return out

    # -- all together ---------------------------------------------------------------------------

    def native(self) -> NativeState:
        model = self.model()
        shapes = self.shapes(model)
        if self.universal:
            kind, groups, state = "universal", *self.of_universal(model, shapes)
        else:
            kind, groups, state = self.of_ranks(model, shapes)
        weights = self.weights(model, shapes, state)
        root = {"optimizer": {"state": state, "param_groups": groups}, "module": weights}
        for key in ("lr_scheduler", "global_steps", "skipped_steps", "global_samples", "ds_version"):
            if model.get(key) is not None:
                root[key] = model[key]
        out = native_state(root, self.file, "deepspeed")
        out.format = f"deepspeed-{kind}"
        # Not every optimizer counts in its state.
        for name, step in self.counted.items():
            if out.steps.get(name) is None and step is not None:
                out.steps[name] = step
        return out

    def weights(
        self, model: Mapping[Any, Any], shapes: list[_Shapes], state: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        """The model's tensors; takes masters out of ``state`` where they are the weights themselves."""
        module = model.get("module")
        items = module.items() if isinstance(module, dict) else ()
        held = {n: as_array(v, f"weight {brief(n)}") for n, v in items if is_tensor(v)}
        out: dict[str, Any] = dict(held)
        for name, shape in ((n, s) for each in shapes for n, s in each.items()):
            master = state.get(name, {}).get(MASTER)
            here = held.get(name)
            if master is None or here is None:
                continue
            if here.dtype == master.dtype:
                out[name] = master
                del state[name][MASTER]
            elif here.shape != shape:
                # Stage 3 keeps no weights: they are the masters, rounded.
                out[name] = _rounded(master, here.dtype)
        # Frozen parameters of stage 3 are elsewhere, in fragments.
        return {n: a for n, a in out.items() if n in state or a.size}

    def step(self, model: Mapping[Any, Any]) -> int | None:
        """Completed updates, where the optimizer itself does not count them."""
        done, skipped = model.get("global_steps"), model.get("skipped_steps") or 0
        if type(done) is not int or type(skipped) is not int or not 0 <= skipped <= done:
            return None
        return done - skipped

    def whole(self, count: Any) -> int:
        """A step that the optimizer counted."""
        value = _number(count)
        if type(value) not in (int, float) or not 0 <= value < 1 << 62 or value != int(value):
            raise self.fail(f"step: expected a whole number from 0 up, found {brief(count)}")
        return int(value)

    # -- a file a rank --------------------------------------------------------------------------

    def of_ranks(
        self, model: Mapping[Any, Any], shapes: list[_Shapes]
    ) -> tuple[str, list[Any], dict[str, Any]]:
        ranks = [self.rank(i, name) for i, name in enumerate(self.rank_files())]
        stages = {r.stage for r in ranks}
        if len(stages) != 1:
            raise self.fail(f"ranks of stages {', '.join(map(str, sorted(stages)))}; expected one checkpoint")
        stage = stages.pop()
        segments = self.segments(ranks, shapes, stage)
        gather = gather_split if stage == 3 else gather_whole
        state: dict[str, dict[str, Any]] = {}
        step = self.step(model)
        for segment in segments:
            for name, slots in gather(segment, self.file).items():
                state[name] = slots
                self.counted[name] = segment.step if type(segment.step) is int else step
        groups = []
        for given in ranks[0].groups:
            names = [n for i in given["params"] if 0 <= i < len(segments) for n in segments[i].shapes]
            groups.append({**{k: v for k, v in given.items() if k != "step"}, "params": names})
        if sum(len(g["params"]) for g in groups) != len(state):
            raise self.fail("the groups of the optimizer do not list every vector once; the file is damaged")
        return f"zero{stage}", groups, state

    def rank_files(self) -> list[str]:
        found: dict[int, str] = {}
        for match in map(_OPTIM.fullmatch, self.names):
            if match is None:
                continue
            if int(match[2]):
                raise self.fail(
                    f"{match[0]}: optimizer states of several model-parallel ranks; merge them with ds_to_universal"
                )
            if int(match[1]) in found:
                raise self.fail(f"two files of rank {int(match[1])}: {found[int(match[1])]} and {match[0]}")
            found[int(match[1])] = match[0]
        missing = sorted(set(range(len(found))) - set(found))
        if missing:
            raise self.fail(
                f"optimizer states of {len(found)} ranks without rank {missing[0]}; copy the file of every rank"
            )
        return [found[i] for i in sorted(found)]

    def rank(self, index: int, name: str) -> Rank:
        root = self.load(self.folder, name)
        states = root.get("optimizer_state_dict") if isinstance(root, dict) else None
        if not isinstance(states, dict):
            raise self.fail(f"{name}: expected optimizer_state_dict, found {brief(states)}")
        stage = states.get("zero_stage", 1)
        if isinstance(stage, Record) and len(stage.args) == 1:
            stage = stage.args[0]
        if stage not in (1, 2, 3):
            raise self.fail(f"{name}: ZeRO stage {brief(stage)}; expected 1, 2 or 3")
        counts = states.get("partition_count")
        world = {c for c in (counts if isinstance(counts, list) else [counts]) if c is not None}
        if world and world != {len(self.rank_files())}:
            raise self.fail(
                f"{name}: was written by {', '.join(map(brief, world))} ranks, found the files of "
                f"{len(self.rank_files())}; copy the file of every rank"
            )
        key = "optimizer_state_dict" if stage == 3 else "base_optimizer_state"
        inner = states.get(key)
        if isinstance(inner, list):  # without padding, for another number of ranks
            inner = {"state": dict(enumerate(inner)), "param_groups": states.get("param_groups", [])}
        masters = states.get("fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups")
        if not isinstance(inner, dict) or not isinstance(inner.get("state"), dict):
            raise self.fail(f"{name}: {key} is {brief(inner)}; expected an optimizer's state")
        if not isinstance(masters, list):
            raise self.fail(f"{name}: expected a list of float32 vectors, found {brief(masters)}")
        mappings = states.get("param_slice_mappings") if stage != 3 else None
        return Rank(
            f"{self.file}/{name}", int(stage), inner["state"], self.groups(inner, name), masters, mappings
        )

    def groups(self, inner: Mapping[Any, Any], name: str) -> list[dict[str, Any]]:
        groups = inner.get("param_groups")
        if not isinstance(groups, list) or not all(
            isinstance(g, dict)
            and isinstance(g.get("params"), list)
            and all(type(i) is int for i in g["params"])
            for g in groups
        ):
            raise self.fail(f"{name}: param_groups are {brief(groups)}; expected groups with params")
        return groups

    def segments(self, ranks: list[Rank], shapes: list[_Shapes], stage: int) -> list[Segment]:
        """The vectors of the optimizer, each with every rank's part of it."""
        count = len(ranks[0].masters)
        if any(len(r.masters) != count for r in ranks) or count != len(shapes):
            raise self.fail(
                f"{count} vectors of parameters for {len(shapes)} lists of shapes; the file is damaged"
            )
        return [Segment.of(i, shapes[i], ranks, self.file) for i in range(count)]

    # -- universal --------------------------------------------------------------------------------

    def of_universal(
        self, model: Mapping[Any, Any], shapes: list[_Shapes]
    ) -> tuple[list[Any], dict[str, Any]]:
        folder = _inside(self.folder, "zero")
        common = self.load(folder, "optimizer_state.pt") if (folder / "optimizer_state.pt").exists() else {}
        if not isinstance(common, dict):
            raise self.fail(f"zero/optimizer_state.pt is {brief(common)}; expected a dict")
        given = self.groups(common, "zero/optimizer_state.pt") if common else [{"params": [0]}]
        # Stage 3 leaves the step in the state of its first rank, which it keeps as it was.
        inner = common.get("optimizer_state_dict")
        counted = inner.get("state") if isinstance(inner, dict) else None
        vectors = counted.values() if isinstance(counted, dict) else ()
        counts = [v["step"] for v in vectors if isinstance(v, dict) and v.get("step") is not None]
        step = self.whole(counts[0]) if counts else self.step(model)
        state: dict[str, dict[str, Any]] = {}
        for each in shapes:
            for name, shape in each.items():
                state[name] = self.parameter(_inside(folder, name), name, shape)
                self.counted[name] = step
        ids = sorted(i for g in given for i in g["params"])
        if ids != list(range(len(shapes))):
            raise self.fail("the groups of the optimizer do not list every vector once; the file is damaged")
        groups = [{**g, "params": [n for i in g["params"] for n in shapes[i]]} for g in given]
        return groups, state

    def parameter(self, folder: Path, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        where = f"parameter {brief(name)}"
        if not folder.is_dir():
            raise self.fail(f"{where}: has no folder in zero; the checkpoint is incomplete")
        slots: dict[str, Any] = {}
        for file in sorted(os.listdir(folder)):
            slot, ending = os.path.splitext(file)
            if ending != ".pt":
                continue
            value = self.load(folder, file)
            if isinstance(value, dict):
                value = value.get("param")
            if not is_tensor(value) and type(value) not in (int, float):
                raise self.fail(f"{where}, slot {brief(slot)}: expected a tensor, found {brief(value)}")
            if is_tensor(value):
                value = as_array(value, f"{where}, slot {brief(slot)}")
                if value.ndim or slot != "step":
                    value = self.shaped(value, shape, f"{where}, slot {brief(slot)}")
            slots[MASTER if slot == "fp32" else slot] = value
        return slots

    def shaped(self, value: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
        """Stage 3's are flat; padding may follow."""
        if value.shape == shape or value.ndim == 0:
            return value
        if value.ndim != 1 or value.size < math.prod(shape):
            raise self.fail(f"{where}: expected shape {list(shape)}, found {list(value.shape)}")
        return value[: math.prod(shape)].reshape(shape)


def _number(value: Any) -> Any:
    """The number that a tensor of one element is; anything else as it is."""
    array = as_array(value, "step") if is_tensor(value) else None
    return array.item() if array is not None and array.size == 1 else value


def _rounded(master: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    return lazy(master.shape, dtype, lambda: np.asarray(master).astype(dtype))
