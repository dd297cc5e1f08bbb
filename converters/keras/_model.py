"""Which weights of a model are trained, and in which order, out of its configuration.

A file names a layer by its class, ``layers/dense_1/vars/0``; the configuration lists layers in the model's
order. An optimizer's variables follow the model's trainable weights, layer by layer, those of a nested
model in its place; a layer's own trainable weights come before its others. That is known for Sequential
and Functional models of layers that have no layers of their own, or one: an LSTM and its cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Layout", "layout"]

_DEPTH = 64


@dataclass(frozen=True)
class Layout:
    """names: of all weights, in the model's order. trained: of those that an optimizer updates."""

    names: list[str]
    trained: list[str]


def layout(
    config: Mapping[str, Any] | None, groups: Mapping[str, Sequence[np.ndarray]], called: Mapping[str, str]
) -> Layout | None:
    """None where the configuration does not tell all.

    groups: path of each group of variables -> its arrays. called: path -> the layer's name.
    """
    model = (config or {}).get("config")
    if not isinstance(model, dict):
        return None
    names: list[str] = []
    trained: list[str] = []
    found: set[str] = set()
    every = {f"{p}/{i}": a for p, arrays in groups.items() for i, a in enumerate(arrays)}
    # Seeds of random layers are whole numbers, and never trained.
    real = [p for p, arrays in groups.items() if any(a.dtype.kind in "fV" for a in arrays)]
    for path, layer in _layers(model, "", 0):
        if path in groups and called.get(path) != layer["config"].get("name"):
            return None
        own = [p for p in real if p.startswith(path.removesuffix("vars"))]
        if len(own) > 1 or (own and own != [path] and _frozen_inside(layer["config"])):
            return None
        found.update(own)
        places = [f"{p}/{i}" for p in own for i in range(len(groups[p]))]
        names += places
        trained += [n for n in places[: _trainable(layer, len(places))] if every[n].dtype.kind in "fV"]
    # Weights that no layer of the list explains: a layer of many layers, or another model.
    if not found.issuperset(real):
        return None
    return Layout(names + [n for n in every if n not in set(names)], trained)


def _frozen_inside(value: Any) -> bool:
    """Whether something within a layer's configuration is not trained."""
    todo = [v for k, v in value.items() if k != "trainable"]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            if item.get("trainable") is False:
                return True
            todo += item.values()
        elif isinstance(item, list):
            todo += item
    return False


def _layers(model: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path of its variables, configuration) of every layer that is no model, in the model's order."""
    listed = model.get("layers")
    if not isinstance(listed, list) or depth > _DEPTH:
        return
    frozen = model.get("trainable") is False
    used: dict[str, int] = {}
    for layer in listed:
        if not isinstance(layer, dict) or not isinstance(layer.get("config"), dict):
            continue
        name = _snake(str(layer.get("class_name")))
        used[name] = used.get(name, -1) + 1
        path = f"{prefix}layers/{name}" + (f"_{used[name]}" if used[name] else "")
        if frozen:
            layer = {**layer, "config": {**layer["config"], "trainable": False}}
        if isinstance(layer["config"].get("layers"), list):
            yield from _layers(layer["config"], f"{path}/", depth + 1)
        else:
            yield f"{path}/vars", layer


def _trainable(layer: Mapping[str, Any], count: int) -> int:
    """How many of a layer's weights are trained: the first ones."""
    config = layer["config"]
    if config.get("trainable") is False:
        return 0
    if layer.get("class_name") == "BatchNormalization":
        return sum(config.get(part) is not False for part in ("scale", "center"))
    if layer.get("class_name") == "Normalization":
        return 0
    return count


def _snake(name: str) -> str:
    """As Keras does it (``keras/src/utils/naming.py``)."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
