"""TensorFlow checkpoints of Keras models: which tensor of a bundle is what.

The string ``_CHECKPOINTABLE_OBJECT_GRAPH`` says how objects hang together: a node's children by name,
the tensors of a variable, and for optimizers before Keras 2.11 the slots of each variable. An
optimizer's node has ``_iterations`` and the list ``_variables``, in the order of ``_variables.py``,
or, before, ``iter`` and slots. Hyperparameters other than the learning rate are there in the last case
alone; the class never is.

Source: ``tensorflow/core/protobuf/trackable_object_graph.proto``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

import numpy as np

from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.native import NativeGroup, NativeState, Weights

from ._beside import beside
from ._keras2 import KERAS2, named_in, with_decay
from ._protobuf import fields
from ._tensor_bundle import Bundle, is_index
from ._variables import Held, native_state

__all__ = ["FORMAT", "is_checkpoint", "read", "read_weights"]

FORMAT = "tensorflow"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"
_LATEST = re.compile(r'^model_checkpoint_path:\s*"([^"\n]+)"', re.MULTILINE)
_NODES = 300_000


def is_checkpoint(path: str) -> bool:
    """Whether ``path`` is a checkpoint: ``X``, ``X.index``, or a folder of them."""
    try:
        return is_index(f"{_prefix(path)}.index")
    except CheckpointError:
        return False


def read(path: str) -> NativeState:
    """The optimizer and the weights of the checkpoint at ``path``."""
    bundle = Bundle(_prefix(path))
    graph = _graph(bundle, path)
    optimizer = graph.optimizer(path)
    if "iter" in graph.nodes[optimizer].children:
        out = _of_keras2(graph, optimizer, bundle)
    else:
        out = _of_list(graph, optimizer, bundle, path)
    if bundle.unchecked:
        out.warnings.append(
            f"the checksums of {len(bundle.unchecked)} tensors were not looked at: the checkpoint is large"
        )
    return out


def read_weights(path: str) -> Weights:
    """The variables that are not an optimizer's, by Keras' names (``fc1/kernel``); every one of a name-based checkpoint."""
    bundle = Bundle(_prefix(path))
    if _GRAPH not in bundle:
        return Weights({n: bundle.array(n) for n in bundle.names()}, False)
    graph = _graph(bundle, path)
    try:
        trained = graph.trained(graph.optimizer(path))
    except CheckpointError:
        trained = None
    weights, ordered = _weights(graph, bundle, trained)
    if not weights:
        raise CheckpointError(f"{path}: expected variables of a model, found none")
    return Weights(weights, ordered)


def _prefix(path: str) -> str:
    """The name that a checkpoint's files have in common.

    Raises:
        CheckpointError: there is none, or a folder has several and does not say which is the latest.
    """
    if not os.path.isdir(path):
        prefix = path.removesuffix(".index")
        if os.path.exists(path) and not os.path.exists(f"{prefix}.index"):
            raise CheckpointError(
                f"{path}: expected a TensorFlow checkpoint, X with X.index, found no {path}.index"
            )
        return prefix
    saved = os.path.join(path, "variables")
    folder = saved if os.path.isfile(os.path.join(path, "saved_model.pb")) else path
    listing = os.path.join(folder, "checkpoint")
    if os.path.isfile(listing) and os.path.getsize(listing) < 1 << 20:
        said = _LATEST.search(bytes(map_file(listing)).decode("utf-8", "replace"))
        if said:
            # A path of where it was written; its files stand beside this one.
            name = said.group(1).replace("\\", "/").rpartition("/")[2]
            return beside(listing, f"{name}.index").removesuffix(".index")
    try:
        found = sorted(n for n in os.listdir(folder) if n.endswith(".index"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if len(found) != 1:
        raise CheckpointError(
            f"{path}: expected the file 'checkpoint' or one X.index, found {', '.join(found[:5]) or 'none'}; "
            "name one of them"
        )
    return beside(os.path.join(folder, "checkpoint"), found[0]).removesuffix(".index")


@dataclass
class _Node:
    """TrackableObject. key, name: of its tensor, where it is a variable. slots: (variable's node, slot name, node)."""

    children: dict[str, int] = field(default_factory=dict)
    key: str = ""
    name: str = ""
    slots: list[tuple[int, str, int]] = field(default_factory=list)


class _Graph:
    """The objects of a checkpoint."""

    def __init__(self, nodes: list[_Node]) -> None:
        self.nodes = nodes

    def optimizer(self, where: str) -> int:
        """The node of the one optimizer.

        Raises:
            CheckpointError: there is none or more than one, or a wrapper around one.
        """
        found = [i for i, n in enumerate(self.nodes) if {"_iterations", "iter"} & set(n.children)]
        wrappers = [
            i
            for i in found
            if {"inner_optimizer", "_inner_optimizer", "loss_scale"} & set(self.nodes[i].children)
        ]
        if wrappers:
            raise CheckpointError(
                f"{where}: holds a LossScaleOptimizer, which a TensorFlow checkpoint does not describe; save the model as "
                ".keras or .weights.h5, or the inner optimizer: tf.train.Checkpoint(optimizer=optimizer.inner_optimizer)"
            )
        if len(found) != 1:
            raise CheckpointError(
                f"{where}: expected one optimizer, found {len(found) or 'none'}; save one checkpoint for each: "
                "tf.train.Checkpoint(model=model, optimizer=optimizer)"
            )
        return found[0]

    def listed(self, parent: int, child: str) -> list[int]:
        """Nodes of a list: its children are called 0, 1, …."""
        at = self.nodes[parent].children.get(child)
        items = {} if at is None else self.nodes[at].children
        return [items[str(i)] for i in range(len(items)) if str(i) in items]

    def trained(self, optimizer: int) -> list[str] | None:
        """Names of the variables that the optimizer updates, in its order, where the graph has them."""
        listed = self.listed(optimizer, "_trainable_variables")
        return self.called(listed) if listed else None

    def called(self, nodes: list[int]) -> list[str]:
        """The names of variables: Keras' own where each has another, else their keys."""
        own = [self.nodes[i].name.removesuffix(":0") for i in nodes]
        if all(own) and len(set(own)) == len(own):
            return own
        return [self.nodes[i].key.removesuffix(f"/.ATTRIBUTES/{_VALUE}") for i in nodes]


def _graph(bundle: Bundle, where: str) -> _Graph:
    if _GRAPH not in bundle:
        raise CheckpointError(
            f"{where}: expected a checkpoint of objects (tf.train.Checkpoint), found one of names alone (tf.compat.v1.train."
            "Saver), which does not say whose slots it holds; load it with TensorFlow and save it with tf.train.Checkpoint"
        )
    said = f"{where}: {_GRAPH}"
    nodes: list[_Node] = []
    for tag, held in fields(bundle.text(_GRAPH), said):
        if tag == 1 and isinstance(held, bytes):
            nodes.append(_node(held, said))
        if len(nodes) > _NODES:
            raise CheckpointError(f"{said}: expected at most {_NODES} objects, found more")
    ids = [i for n in nodes for i in (*n.children.values(), *(x for v, _, s in n.slots for x in (v, s)))]
    if any(i >= len(nodes) for i in ids):
        raise CheckpointError(f"{said}: an object refers to one that there is not; the file is damaged")
    return _Graph(nodes)


def _node(data: bytes, where: str) -> _Node:
    out = _Node()
    for tag, held in fields(data, where):
        if not isinstance(held, bytes):
            continue
        inner = dict(fields(held, where)) if tag in (1, 2, 3) else {}
        if tag == 1:
            out.children[_text(inner.get(2, b""))] = _whole(inner.get(1, 0))
        elif tag == 2 and _text(inner.get(1, b"")) == _VALUE:
            out.name, out.key = _text(inner.get(2, b"")), _text(inner.get(3, b""))
        elif tag == 3:
            out.slots.append((_whole(inner.get(1, 0)), _text(inner.get(2, b"")), _whole(inner.get(3, 0))))
    return out


def _text(value: int | bytes) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
    return text if text.isprintable() else repr(text)


def _whole(value: int | bytes) -> int:
    return value if isinstance(value, int) else 0


def _array(graph: _Graph, node: int, bundle: Bundle) -> np.ndarray:
    key = graph.nodes[node].key
    if key not in bundle:
        raise CheckpointError(
            f"{bundle.where}: expected a tensor {key!r}, found none; the checkpoint is damaged"
        )
    return bundle.array(key)


def _of_list(graph: _Graph, optimizer: int, bundle: Bundle, where: str) -> NativeState:
    """An optimizer with one list of variables: Keras 2.11 and later, and Keras 3."""
    children = graph.nodes[optimizer].children
    heads = [children[c] for c in ("_iterations", "_learning_rate") if c in children]
    skipped = {*heads, *(children[c] for c in ("_current_learning_rate",) if c in children)}
    rest = [i for i in graph.listed(optimizer, "_variables") if i not in skipped]
    trained = graph.trained(optimizer)
    weights, ordered = _weights(graph, bundle, trained)
    if trained is None:
        trained = named_in([graph.nodes[i].name.removesuffix(":0") for i in rest], list(weights))
    variables = [_array(graph, i, bundle) for i in (*heads, *rest)]
    return native_state(Held(variables, None, weights, ordered, trained, "_variables"), FORMAT, where)


def _of_keras2(graph: _Graph, optimizer: int, bundle: Bundle) -> NativeState:
    """An optimizer that keeps slots by variable: Keras before 2.11."""
    node = graph.nodes[optimizer]
    held = {n: _array(graph, i, bundle) for n, i in node.children.items() if graph.nodes[i].key}
    step = held.pop("iter", np.zeros(0))
    if step.shape != () or step.dtype.kind not in "iu" or int(step) < 0:
        raise CheckpointError(
            f"{bundle.where}: optimizer/iter: expected a whole number ≥ 0, found {step.dtype} {step.shape}"
        )
    owners = list(dict.fromkeys(v for v, _, _ in node.slots))
    names = dict(zip(owners, graph.called(owners), strict=True))
    weights, _ = _weights(graph, bundle, list(names.values()))
    out = NativeState("keras", FORMAT, weights=weights, named=True, extras={KERAS2: True})
    slots: dict[str, dict[str, np.ndarray]] = {n: {} for n in names.values()}
    for owner, slot, place in node.slots:
        slots[names[owner]][slot] = _array(graph, place, bundle)
    # Hyperparameters are variables of one number; a schedule is no variable, and nowhere.
    arguments = {n: float(a) for n, a in held.items() if a.shape == () and a.dtype.kind == "f"}
    decay = with_decay(arguments)
    if decay is not None:
        out.extras["schedule"] = decay
    out.slots = slots
    out.groups = [NativeGroup(arguments, list(slots))]
    out.steps = dict.fromkeys(slots, int(step))
    return out


def _weights(graph: _Graph, bundle: Bundle, trained: list[str] | None) -> tuple[dict[str, np.ndarray], bool]:
    """Variables of the model by name: the optimizer's first and in its order, where that is known."""
    own: set[int] = set()
    for node in graph.nodes:
        if {"_iterations", "iter"} & set(node.children):
            own |= {i for _, _, i in node.slots}
            own |= {i for n, i in node.children.items() if graph.nodes[i].key}
            # Every list of an optimizer but that of the model's variables.
            for child, at in node.children.items():
                if child != "_trainable_variables":
                    own |= set(graph.nodes[at].children.values())
    rest = [i for i, n in enumerate(graph.nodes) if n.key in bundle and i not in own]
    rest = [i for i in rest if not graph.nodes[i].key.startswith("save_counter/")]
    called = dict(zip(graph.called(rest), rest, strict=True))
    if len(called) != len(rest):
        called = {graph.nodes[i].key: i for i in rest}
    order = [n for n in trained or () if n in called]
    names = [*order, *(n for n in called if n not in set(order))]
    return {n: _array(graph, called[n], bundle) for n in names}, bool(order)
