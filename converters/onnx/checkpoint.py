"""Files of ONNX Runtime's training API and of ONNX, read and written without either.

``onnxruntime-training``: a checkpoint, or the folder that holds one beside ``optimizer_model.onnx``.
``onnx``: a model with training information (``ai.onnx.preview.training``); for weights, any model.
"""

from __future__ import annotations

import os

from optexport.errors import CheckpointError
from optexport.state.formats import Format
from optexport.state.native import NativeState, Weights

from . import _ort_state, _training_info
from ._model import Model, is_model

__all__ = ["FORMATS", "read_model_state", "read_training", "sniff_model", "sniff_training", "write_training"]

PathLike = str | os.PathLike[str]


def sniff_training(path: PathLike) -> bool:
    """Whether ``path`` is a checkpoint of the training API, or a folder with one."""
    return _ort_state.find_checkpoint(os.fspath(path)) is not None


def read_training(path: PathLike) -> NativeState:
    """See `_ort_state.read_state`."""
    return _ort_state.read_state(os.fspath(path))


def read_training_weights(path: PathLike) -> Weights:
    """Trained parameters of a checkpoint: those that an optimizer has, frozen ones are left out."""
    return _ort_state.read_values(os.fspath(path))


def write_training(state: NativeState, path: PathLike) -> None:
    """See `_ort_state.write_state`."""
    _ort_state.write_state(state, os.fspath(path))


def sniff_model(path: PathLike) -> bool:
    """Whether ``path`` is an ONNX model: protobuf has no signature, so its fields are looked at."""
    return is_model(os.fspath(path))


def read_model_state(path: PathLike) -> NativeState:
    """See `_training_info.read_state`."""
    return _training_info.read_state(os.fspath(path))


def read_model_weights(path: PathLike) -> Weights:
    """The initializers of a model's graph, under their names; types narrower than a byte are left out.

    Exporters order and rename them as they like, so the order is not the model's.
    Raises CheckpointError if the file is damaged, or points out of its folder.
    """
    where = os.fspath(path)
    tensors = {n: t.array for n, t in Model(where).main().tensors.items() if t.is_number}
    if not tensors:
        raise CheckpointError(f"{where}: expected initializers, the model's weights; found none")
    return Weights(tensors, ordered=False)


def write_model_state(state: NativeState, path: PathLike) -> None:
    """See `_training_info.write_state`."""
    _training_info.write_state(state, os.fspath(path))


FORMATS = (
    Format(
        "onnxruntime-training",
        "onnxruntime",
        "a checkpoint of ONNX Runtime's training API, or the folder of its files",
        sniff_training,
        read_training,
        read_training_weights,
        write_training,
    ),
    Format(
        "onnx",
        "onnx",
        "a model with training information (the preview operators); weights are any model's initializers",
        sniff_model,
        read_model_state,
        read_model_weights,
        write_model_state,
        (".onnx",),
    ),
)
