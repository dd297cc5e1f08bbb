"""Taking a forward model in: which tensors train, what is constant, what an exporter has damaged.

Nothing is guessed silently. Where a file does not say what is meant (weights that an exporter merged,
batch normalisation that it froze, padding rows that it lost), the caller does, or gets an error that
says how.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import checker, helper, inliner, numpy_helper, version_converter

from optexport.errors import ModelError

from . import passes
from .half import compute_in_half
from .tape import Tape, reads

__all__ = ["OPSET", "Forward", "Meant", "load_model", "read_forward", "with_initializers"]

OPSET = 18  # the oldest operator set that training graphs are written in; newer models keep theirs
# Names that exporters make up: of a constant of the model, or of a weight that they have transposed.
_MADE_UP = re.compile(r"^(onnx::|val_\d|_val_|scalar_tensor|const|lifted_tensor|/)", re.IGNORECASE)
_REAL = (T.FLOAT, T.DOUBLE, T.FLOAT16, T.BFLOAT16)
_LARGE = 1 << 16  # elements from which on a tensor is worth not to be copied


@dataclass(frozen=True)
class Meant:
    """What the caller states about a model.

    train, freeze: names or patterns (``"encoder.*"``) of the tensors that train or do not; None: all.
    tied: tensors that several nodes share on purpose. frozen_rows: table -> rows that have no
    gradient (``padding_idx``); an empty list says that there are none. batch_norm: whether batch
    normalisation uses the batch's own statistics and moves the running ones, or only reads them.
    dropout: probability by which dropout nodes are overruled; 0 switches them off, None keeps theirs.
    expected: name -> shape of the parameters that the model must have, from its own framework.
    """

    train: Sequence[str] | None = None
    freeze: Sequence[str] = ()
    tied: Sequence[str] = ()
    frozen_rows: Mapping[str, Sequence[int]] = field(default_factory=dict)
    batch_norm: Literal["train", "inference"] | None = None
    dropout: float | None = None
    expected: Mapping[str, Sequence[int]] | None = None


@dataclass
class Forward:
    """A forward model on a tape.

    data: the model's own inputs. outputs: its outputs. params: tensors that train; buffers: running
    statistics that a step moves, and updates: buffer -> its new value. masked: parameter -> rows
    without gradient. notes: one sentence each, for the person who trains. renamed: inner value -> its
    name on the tape, where its own is one of the training graph's.
    """

    tape: Tape
    data: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    params: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray] = field(default_factory=dict)
    updates: dict[str, str] = field(default_factory=dict)
    masked: dict[str, Sequence[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)


def load_model(model: onnx.ModelProto | str | os.PathLike[str]) -> tuple[onnx.ModelProto, str]:
    """The model, and what to call it. Raises ModelError: no ONNX file, or an invalid one."""
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy, "model"
    path = os.fspath(model)
    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as e:
        raise ModelError(f"{path}: expected an ONNX file, found {(e.strerror or str(e)).lower()}") from None
    except Exception:
        raise ModelError(f"{path}: expected an ONNX file, found something else") from None
    try:
        onnx.load_external_data_for_model(proto, os.path.dirname(os.path.abspath(path)))
    except Exception as e:
        raise ModelError(
            f"{path}: expected the files with its weights beside it; {' '.join(str(e).split())[:300]}"
        ) from None
    return proto, path


def read_forward(
    model: onnx.ModelProto | str | os.PathLike[str],
    meant: Meant,
    reserved: Collection[str] = (),
    half: int | None = None,
) -> Forward:
    """The model on a tape, constants folded, ready to be differentiated.

    reserved: names that inner values must not have; see `passes.rename_inner`. half: element type to compute in,
        where it is not the parameters' own; see `half.compute_in_half`.

    Raises:
        ModelError: it is invalid, trains nothing, or leaves open what only the caller can say.
    """
    proto, where = load_model(model)
    order = [i.name for i in proto.graph.initializer]
    try:
        proto, large = _apart(proto)
        checker.check_model(proto)
        proto = inliner.inline_local_functions(proto)
        version = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
        if version < OPSET:
            proto, version = version_converter.convert_version(proto, OPSET), OPSET
    except Exception as e:
        raise ModelError(f"{where}: expected a valid ONNX model; {' '.join(str(e).split())[:300]}") from None
    _check_plain(proto, where)
    renamed = passes.rename_inner(proto, reserved)
    values = large | {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    values = {n: values[n] for n in sorted(values, key=_places(order))}
    data = [i for i in proto.graph.input if i.name not in values]
    trained = _trained(proto, values, large, meant, where)
    tape = Tape(version, _names(proto))
    forward = Forward(tape, data, list(proto.graph.output), {n: values[n] for n in trained})
    forward.renamed = renamed
    tape.constants = {n: a for n, a in values.items() if n not in forward.params}
    passes.simplify(proto, tape, forward.params)
    _check_sharing(tape, forward, meant, where)
    _check_padding(tape, forward, meant, where)
    if half is not None:
        compute_in_half(forward, half, where)
    passes.lower_batch_norm(forward, meant.batch_norm, where)
    passes.lower_dropout(forward, meant.dropout)
    return forward


def _apart(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model with large tensors of real numbers as inputs, and these: every check and conversion of ONNX' own
    copies the whole model, several times. Raises ValueError where one has not the bytes that its shape needs."""
    large = [i for i in proto.graph.initializer if i.data_type in _REAL and math.prod(i.dims) >= _LARGE]
    if not large:
        return proto, {}
    values = {i.name: numpy_helper.to_array(i) for i in large}
    if len(values) < len(large):
        raise ValueError("a tensor is given twice")
    listed = {i.name for i in proto.graph.input}
    infos = [
        helper.make_tensor_value_info(i.name, i.data_type, list(i.dims))
        for i in large
        if i.name not in listed
    ]
    made = with_initializers(proto, [i for i in proto.graph.initializer if i.name not in values])
    made.graph.input.extend(infos)
    return made, values


def with_initializers(proto: onnx.ModelProto, kept: Sequence[onnx.TensorProto]) -> onnx.ModelProto:
    """The model with these initializers and no others. ``proto`` loses its own: a message keeps the memory of what is
    taken out of it until it goes itself, so this is a new one."""
    own = [onnx.TensorProto.FromString(t.SerializeToString()) for t in kept]
    del proto.graph.initializer[:]
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    made.graph.initializer.extend(own)
    return made


def _places(order: Sequence[str]) -> Callable[[str], int]:
    """Where a name stands in the file; behind all others where inlining has made it."""
    at = {n: i for i, n in enumerate(order)}
    return lambda name: at.get(name, len(at))


def _check_plain(proto: onnx.ModelProto, where: str) -> None:
    g = proto.graph
    foreign = next((n for n in g.node if n.domain not in ("", "ai.onnx")), None)
    if foreign is not None:
        raise ModelError(
            f"{where}: node {foreign.name or foreign.output[0]!r}: expected an operator of ai.onnx, found "
            f"{foreign.domain}::{foreign.op_type}; export without it, so that any onnxruntime runs the graph"
        )
    if g.sparse_initializer:
        raise ModelError(
            f"{where}: tensor {g.sparse_initializer[0].values.name!r} is sparse; store it as a dense one"
        )


def _names(proto: onnx.ModelProto) -> set[str]:
    g = proto.graph
    held = {i.name for i in (*g.input, *g.initializer)}
    return held | {o for n in g.node for o in n.output} | {i for n in g.node for i in n.input}


def _statistics(proto: onnx.ModelProto) -> set[str]:
    return {n.input[i] for n in proto.graph.node if n.op_type == "BatchNormalization" for i in (3, 4)}


def _ratios(proto: onnx.ModelProto) -> set[str]:
    """What dropout nodes read as their probability: no parameter of any model."""
    return {n.input[1] for n in proto.graph.node if n.op_type == "Dropout" and len(n.input) > 1}


def _trained(
    proto: onnx.ModelProto,
    values: Mapping[str, np.ndarray],
    large: Collection[str],
    meant: Meant,
    where: str,
) -> list[str]:
    """Names of the tensors that train, in the file's order."""
    statistics = _statistics(proto) | _ratios(proto)
    every = {i.name for i in proto.graph.initializer if i.data_type in _REAL} | {*large}
    real = every - statistics
    # To freeze what does not train anyway changes nothing.
    for kind, patterns, tensors in (("train", meant.train or (), real), ("freeze", meant.freeze, every)):
        for pattern in patterns:
            if not any(fnmatchcase(n, pattern) for n in tensors):
                raise ModelError(
                    f"{where}: {kind}: {pattern!r} expected a tensor of the model, found none; it has {_some(real)}"
                )
    _check_expected(values, real, meant, where)
    if meant.train is not None:
        wanted = [n for n in values if n in real and _any(n, meant.train) and not _any(n, meant.freeze)]
    elif meant.expected is not None:
        wanted = [n for n in values if n in meant.expected and not _any(n, meant.freeze)]
    else:
        open_ = [n for n in values if n in real and not _any(n, meant.freeze)]
        # A made-up name is no parameter's, and no exporter turns a weight into one number.
        open_ = [n for n in open_ if values[n].ndim or not _MADE_UP.match(n)]
        numbers = [n for n in open_ if not values[n].ndim]
        if numbers:
            raise ModelError(
                f"{where}: {_some(numbers)}: single numbers, which may be parameters or constants of the model; say "
                "which tensors train (train=) or do not (freeze=)"
            )
        unclear = [n for n in open_ if _MADE_UP.match(n)]
        if unclear:
            raise ModelError(
                f"{where}: {_some(unclear)}: names that an exporter made up, of constants or of weights that it "
                "transposed or merged; export with optimize=False, or say which tensors train (train=) or do not (freeze=)"
            )
        wanted = open_
    if not wanted:
        raise ModelError(
            f"{where}: expected a tensor that trains, found none among {_some(real) or 'no tensors'}"
        )
    return wanted


def _check_expected(values: Mapping[str, np.ndarray], real: set[str], meant: Meant, where: str) -> None:
    for name, shape in (meant.expected or {}).items():
        if name not in real:
            raise ModelError(
                f"{where}: parameter {name!r}: expected a tensor of this name, found none; exporters merge equal "
                "weights and transpose others, export with optimize=False; a tied weight has one of its two names"
            )
        found = values[name].shape
        if tuple(shape) != found:
            turned = "; the exporter transposed it" if tuple(shape) == found[::-1] else ""
            raise ModelError(
                f"{where}: parameter {name!r}: expected shape {list(shape)}, found {list(found)}{turned}"
            )


def _check_sharing(tape: Tape, forward: Forward, meant: Meant, where: str) -> None:
    readers: Counter[str] = Counter(i for n in tape.nodes for i in reads(n) if i in forward.params)
    for name, count in readers.items():
        if count > 1 and not _any(name, meant.tied):
            nodes = [n.name or n.output[0] for n in tape.nodes if name in n.input]
            raise ModelError(
                f"{where}: parameter {name!r} is shared by {_some(nodes)}: if the model ties its weights, say so "
                "(tied=); if an exporter merged weights that were equal, export with optimize=False"
            )
    unread = [n for n in forward.params if n not in readers]
    for name in unread:
        forward.notes.append(f"parameter {name!r} is read by no node; it does not train")
        del forward.params[name]
    if not forward.params:
        raise ModelError(f"{where}: expected a tensor that trains, found none that a node reads")


def _check_padding(tape: Tape, forward: Forward, meant: Meant, where: str) -> None:
    """A table with one row of zeros looks as torch's ``padding_idx`` leaves it; the file cannot say."""
    tables = dict.fromkeys(
        n.input[0] for n in tape.nodes if n.op_type == "Gather" and n.input[0] in forward.params
    )
    for table in meant.frozen_rows:
        if table not in tables:
            raise ModelError(
                f"{where}: frozen_rows: {table!r} expected a table that trains and that a Gather reads, found none; "
                f"there is {_some(tables) or 'none'}"
            )
    for table in tables:
        value = forward.params[table]
        if table in meant.frozen_rows:
            rows = [int(r) for r in meant.frozen_rows[table]]
            outside = [r for r in rows if not -len(value) <= r < len(value)]
            if outside:
                raise ModelError(
                    f"{where}: frozen_rows: {table!r} has {len(value)} rows, from 0 on; expected rows of it, found "
                    f"{outside[0]}"
                )
            if rows:
                forward.masked[table] = rows
            continue
        zero = np.flatnonzero(~value.reshape(len(value), -1).any(1)) if value.ndim > 1 else np.zeros(0)
        if len(zero) == 1:
            raise ModelError(
                f"{where}: table {table!r} has one row of zeros, {int(zero[0])}, as padding_idx leaves it, which the "
                f"file does not say; state frozen_rows={{{table!r}: [{int(zero[0])}]}}, or an empty list if it trains"
            )


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, p) for p in patterns)


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(map(repr, listed[:6])) + (f", … {len(listed)} in all" if len(listed) > 6 else "")
