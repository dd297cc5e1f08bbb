"""The main job: one file in, one file (and perhaps an optimizer) out, and how exact that is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .dialects import converter, natives
from .emitters import emit
from .errors import CheckpointError, NamingError, UnknownNameError, VerdictError
from .specs import Spec
from .state import TrainingState, load, save
from .state.formats import BUNDLE, find_format, formats
from .state.lift import says_optimizer
from .state.matching import derive_map
from .state.name_map import read_map, write_map
from .state.native import Weights
from .state.rearrange import rearrange
from .state.store import detect, is_named, read_model, read_native
from .translation import LEVELS, Report, translate

__all__ = ["Conversion", "convert"]


@dataclass
class Conversion:
    """What was done. Fields as in the command's JSON; ``optimizer`` is the target's.

    fresh: parameters of the target that start without state. frozen: those that nothing trains.
    """

    source: str
    target: str
    optimizer: str
    verdict: str
    conditions: tuple[str, ...]
    bound: float | None
    bound_text: str | None
    dropped: tuple[str, ...]
    tensors: int
    bytes: int
    seconds: float
    warnings: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    written: list[str] = field(default_factory=list)
    fresh: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()


def convert(
    source: str,
    target: str,
    *,
    from_format: str | None = None,
    to_format: str | None = None,
    optimizers: tuple[str, ...] = (),
    optimizer_key: str | None = None,
    model: str | None = None,
    names: str | Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    step: int | None = None,
    lr: float | None = None,
    allow: str | None = None,
    emit_optimizer: str | None = None,
    map_file: str | None = None,
    reverse_map: bool = False,
    target_model: str | None = None,
    layout: str | None = None,
    write_map_file: str | None = None,
    partial: bool = False,
    shard_size: int | None = None,
    on_size: Callable[[int], Callable[[int], None]] | None = None,
) -> Conversion:
    """Convert a file.

    optimizers: ``framework:name`` of the target and, where its file does not say, of the source.
    optimizer_key: which optimizer of a source file with several (``"optimizer_states.0"``).
    arguments, step: what the source file does not hold (arguments in its framework's own names).
    lr: learning rate of the next step, where it is not the file's.
    allow: consent to ``bounded`` or ``lossy``.
    emit_optimizer: a file to write an optimizer to that computes the source's rule exactly; the
        state is then written for that optimizer.
    map_file: which tensor of the target each of the source is, and how its axes stand (``read_map``).
    reverse_map: it is of the way back.
    target_model: the target's weights: names and shapes that the state must fit; without ``map_file``
        the map is found from both files' values and shapes.
    layout: the convention that the two models follow, where values do not tell (`matching.LAYOUTS`).
    write_map_file: a file to write the map that was used to.
    partial: consent to parameters that start fresh and to state that is left out.
    shard_size: bytes of state from which on a bundle is cut into shards (`save`).
    on_size: called with the number of bytes of state; what it returns is called as they are written.

    Raises:
        OptexportError: one sentence a cause; nothing was written.
    """
    start = time.perf_counter()
    from_format = from_format or detect(source)
    to_format = to_format or _by_suffix(target)
    if to_format not in formats(written=True):
        raise UnknownNameError(
            f"--to {to_format}: expected one of the formats {', '.join(formats(written=True))}"
        )
    own, wanted = _sides(optimizers, from_format, to_format, source, optimizer_key)
    state = load(
        source, format=from_format, model=model, names=names, optimizer=own, arguments=arguments, step=step,
        optimizer_key=optimizer_key,
    )  # fmt: skip
    if not is_named(state):
        raise NamingError(
            f"{source}: parameters are known by index only, {', '.join(state.names[:4])}…; give their names with "
            "--model FILE (weights) or --names FILE (a list in the order the optimizer was given them)"
        )
    state, moved = _rearranged(
        state, model, map_file, reverse_map, target_model, layout, write_map_file, partial, allow
    )
    if shard_size is not None and (to_format != BUNDLE or emit_optimizer is not None):
        raise CheckpointError(f"{target}: only a bundle, without --emit-optimizer, is cut into shards")
    made = [target]
    if to_format == "mxnet" and target.endswith(".params"):
        new, report, name = _write_weights(state, target)
    elif emit_optimizer is not None:
        new, report = _keep_rule(state, lr)
        name = _write_emitted(new, to_format, target, emit_optimizer, on_size)
    else:
        new, report = _translated(state, to_format, wanted, allow, lr)
        made = save(
            new, target, format=to_format, model=target_model or model, on_tensor=_progress(new, on_size),
            shard_size=shard_size,
        )  # fmt: skip
        name = new.dialect
    report = _after(moved, report)
    carried = new.slots if new.slots else {"": new.params if name == "weights" else {}}
    sizes = [a.nbytes for s in carried.values() for a in s.values()]
    return Conversion(
        source, target, name, report.verdict, report.conditions, report.bound, report.bound_text, report.dropped,
        len(sizes), sum(sizes), round(time.perf_counter() - start, 6),
        [*new.warnings, *([] if name == "weights" else _advice(new, to_format, emit_optimizer))], report.notes,
        [*made, *([emit_optimizer] if emit_optimizer else []), *([write_map_file] if write_map_file else [])],
        moved.fresh, moved.frozen,
    )  # fmt: skip


def _rearranged(
    state: TrainingState,
    model: str | None,
    map_file: str | None,
    reverse: bool,
    target_model: str | None,
    layout: str | None,
    write_to: str | None,
    partial: bool,
    allow: str | None,
) -> tuple[TrainingState, Report]:
    """The state for the target's model, by a map that is given or found."""
    if map_file is None and target_model is None:
        given = {"--layout": layout, "--write-map": write_to, "--reverse-map": reverse, "--partial": partial}
        for option, value in given.items():
            if value:
                raise UnknownNameError(
                    f"{option}: is of a map; expected --map FILE or --target-model FILE too, found none"
                )
        return state, Report("exact")
    target = read_model(target_model) if target_model is not None else None
    source = read_model(model) if model is not None else Weights(dict(state.params), True)
    told: list[str] = []
    if map_file is not None:
        names = read_map(map_file).reversed() if reverse else read_map(map_file)
    else:
        assert target is not None
        if not source.tensors:
            raise NamingError(
                f"{target_model}: the map is found from the weights of both models; pass the source's (--model FILE), or a "
                "map (--map FILE)"
            )
        names, told = derive_map(
            source, target, target_model or "", layout=layout, partial=partial, names=state.names
        )
        if write_to is not None:
            about = (
                f"from {os.path.basename(model or 'the source')} to {os.path.basename(target_model or '')}"
            )
            write_map(names, write_to, about)
    return rearrange(
        replace(state, warnings=(*state.warnings, *told)),
        names,
        source_model=source,
        target_model=target,
        partial=partial,
        allow=allow,
    )


def _after(moved: Report, report: Report) -> Report:
    """The report of both: names and layouts, then the rule."""
    level = max(moved.verdict, report.verdict, key=LEVELS.index)
    return replace(
        report,
        verdict=level,
        dropped=(*moved.dropped, *report.dropped),
        notes=(*moved.notes, *report.notes),
    )


def _by_suffix(path: str) -> str:
    lower = os.path.basename(path).lower()
    if lower.endswith((".safetensors", ".safetensors.index.json")):
        return BUNDLE
    written = [f for f in formats(written=True) if f != BUNDLE]
    fitting = [(s, f) for f in written for s in find_format(f).suffixes if lower.endswith(s)]
    if not fitting:
        raise UnknownNameError(
            f"{path}: the name does not tell the format; give it with --to, one of "
            f"{', '.join(formats(written=True))}"
        )
    return max(fitting, key=lambda f: len(f[0]))[1]


def _sides(
    optimizers: tuple[str, ...], from_format: str, to_format: str, source: str, key: str | None = None
) -> tuple[str | None, str | None]:
    """Which of the named optimizers is the source's and which the target's."""
    own = wanted = None
    source_side, target_side = _framework(from_format), _framework(to_format)
    for name in optimizers:
        framework = name.partition(":")[0].lower()
        # Where both sides are of one framework the name is the target's, unless the source needs it.
        if framework == source_side and (
            framework != target_side or (own is None and _unsaid(source, from_format, key))
        ):
            own = name
        else:
            wanted = name
    return own, wanted


def _framework(fmt: str) -> str:
    return "" if fmt == BUNDLE else find_format(fmt).framework


def _unsaid(source: str, fmt: str, key: str | None) -> bool:
    return fmt != BUNDLE and not says_optimizer(read_native(source, fmt, key))


def _translated(
    state: TrainingState, to_format: str, wanted: str | None, allow: str | None, lr: float | None
) -> tuple[TrainingState, Report]:
    if wanted is not None:
        return translate(state, wanted, allow=allow, lr=lr)
    framework = _framework(to_format)
    if to_format == BUNDLE or state.dialect.partition(":")[0] == framework:
        return state, Report("exact", source=state.dialect, target=state.dialect, warnings=state.warnings)
    best: tuple[int, str] | None = None
    reasons = []
    own = state.dialect.partition(":")[2].lower()
    # One of the same name first: where several are as exact, it is the one that a person would take.
    for entry in sorted(natives()[framework].values(), key=lambda e: e.name.lower() != own):
        if entry.asked or any(entry.family != g.rule.family for g in state.spec.groups):
            continue
        try:
            _, report = translate(state, entry.qualified, allow="lossy", lr=lr)
        except VerdictError as e:
            reasons.append(str(e))
            continue
        rank = LEVELS.index(report.verdict)
        if best is None or rank < best[0]:
            best = rank, entry.qualified
        if rank == 0:  # nothing is better, and each try goes over the whole state
            break
    if best is None:
        raise VerdictError(
            reasons[0]
            if reasons
            else f"{state.dialect or 'this state'} to {framework}: verdict none: {framework} has no optimizer of this "
            "family; write the rule itself with --emit-optimizer FILE"
        )
    return translate(state, best[1], allow=allow, lr=lr)


def _keep_rule(state: TrainingState, lr: float | None) -> tuple[TrainingState, Report]:
    """The state as it is, for an optimizer that computes its rule."""
    if lr is not None:
        groups = tuple(replace(g, hyperparameters={**g.hyperparameters, "lr": lr}) for g in state.spec.groups)
        state = replace(state, spec=Spec(groups))
    notes = ("the emitted optimizer computes the rule itself",)
    return state, Report(
        "exact", notes=notes, source=state.dialect, target="emitted", warnings=state.warnings
    )


def _write_emitted(
    state: TrainingState,
    to_format: str,
    target: str,
    path: str,
    on_size: Callable[[int], Callable[[int], None]] | None,
) -> str:
    """Write the optimizer, then the state it goes on from; the optimizer's name."""
    from .state.files import told_of_writes, whole_or_nothing

    framework = _framework(to_format)
    if framework != "mxnet":
        state = state.without_masters()
    if to_format == BUNDLE:
        shapes = {n: state.shape(n) for n in state.names}
        unknown = [n for n, s in shapes.items() if s is None]
        if unknown:
            raise CheckpointError(
                f"{target}: parameter {unknown[0]!r} has no known shape; pass the weights (--model)"
            )
        model = emit(state.spec, "onnx", shapes, steps=dict(state.steps), dtype=_graph_dtype(state))
        full = replace(state, slots={n: state.full_slots(n) for n in state.names})
        data = model.SerializeToString(deterministic=True)
        with whole_or_nothing(path) as f:
            f.write(data)
            save(full, target, format=BUNDLE, on_tensor=_progress(full, on_size))
        return "onnx update graph"
    stem = os.path.splitext(os.path.basename(path))[0]
    if not stem.isidentifier():
        raise UnknownNameError(
            f"{path}: expected a name that Python can import, as in opt.py, found {stem!r}"
        )
    text = emit(
        state.spec, framework, {n: s for n in state.names if (s := state.shape(n)) is not None} or None
    )
    emitter = converter(framework, "emit")
    native = emitter.emitted_state(state, module=stem)
    with whole_or_nothing(path) as f:
        f.write(text.encode())
        with told_of_writes(_progress(state, on_size)):
            writer = find_format(to_format).write
            assert writer is not None
            writer(native, target)
    return f"{stem}.{native.optimizer}"


def _write_weights(state: TrainingState, target: str) -> tuple[TrainingState, Report, str]:
    """Write the parameters alone, for the framework that keeps them in a file of their own."""
    if not state.params:
        raise CheckpointError(
            f"{target}: expected the parameters' values, found none; pass the weights (--model)"
        )
    converter("mxnet", "checkpoint").write_weights(dict(state.params), target)
    alone = replace(
        state, slots={}, warnings=(*state.warnings, "parameters alone: the optimizer's state is not in it")
    )
    return alone, Report("exact", source=state.dialect, target="weights"), "weights"


def _graph_dtype(state: TrainingState) -> str:
    kinds = {
        state.params[n].dtype.name if n in state.params else state.state_dtype(n).name for n in state.names
    }
    if len(kinds) > 1:
        raise CheckpointError(f"parameters have dtypes {', '.join(sorted(kinds))}; an update graph has one")
    return kinds.pop()


def _progress(state: TrainingState, on_size: Callable[[int], Callable[[int], None]] | None) -> Any:
    if on_size is None:
        return None
    total = sum(a.nbytes for s in state.slots.values() for a in s.values())
    return on_size(total + sum(a.nbytes for a in state.params.values()))


def _advice(state: TrainingState, to_format: str, emitted: str | None) -> list[str]:
    """What a person must do in the target framework for the run to go on as promised."""
    order = state.ordered_names
    if to_format == "keras":
        return [
            "build the optimizer before it loads: optimizer.build(model.trainable_variables); else Keras skips the state",
            f"variables go by position, {', '.join(order[:4])}{'…' if len(order) > 4 else ''}: the model's trainable "
            "variables must be these, in this order and of these shapes",
        ]
    if to_format == "onnxruntime-training":
        (group,) = state.spec.groups
        needed = ", ".join(f"{k}={v}" for k, v in group.arguments.items() if k != "lr")
        return [
            f"the training API does not take the learning rate from its file: call optimizer.set_learning_rate("
            f"{group.at(state.clock).values()['lr']})",
            *([f"the node in optimizer_model.onnx must have {needed}"] if needed else []),
        ]
    if to_format != "mxnet":
        return []
    out = [
        "gluon.Trainer.step(batch_size) divides the gradient by batch_size: call it with 1 if your loss is a mean",
        f"index i is parameter i of {', '.join(order[:4])}{'…' if len(order) > 4 else ''}: build the "
        "Trainer on the parameters in the file's order",
    ]
    if emitted is None and len(state.spec.groups) > 1:
        out.append(
            "groups became lr_mult and wd_mult by index; gluon.Trainer reads them from the parameters instead: set "
            "Parameter.lr_mult and Parameter.wd_mult alike"
        )
    if emitted is not None:
        out.append(f"the states name a class of {emitted}: keep that file importable where they are loaded")
    return out
