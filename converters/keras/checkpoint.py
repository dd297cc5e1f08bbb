"""Files of Keras and of TensorFlow, without either: read by mapping, and written.

| format | files | read by |
|---|---|---|
| ``keras`` | ``.keras``; ``.weights.h5``; ``.weights.json`` with its shards | ``_weights_file.py``; ``_write.py`` writes |
| ``keras-legacy-h5`` | a whole model in one ``.h5`` (Keras 2 and 3) | ``_legacy.py`` |
| ``tensorflow`` | ``X.index`` and ``X.data-…``, given as X, X.index, or their folder | ``_tensorflow.py`` |

HDF5 needs h5py.
"""

from __future__ import annotations

import os

from optexport.errors import CheckpointError
from optexport.state.files import map_file
from optexport.state.formats import Format
from optexport.state.native import NativeState, Weights

from . import _legacy, _tensorflow, _weights_file
from ._archive import is_archive
from ._h5 import SIGNATURE
from ._positions import POSITIONS
from ._shards import is_shard_list
from ._write import write

__all__ = [
    "FORMATS",
    "POSITIONS",
    "read",
    "read_legacy",
    "read_legacy_weights",
    "read_tensorflow",
    "read_tensorflow_weights",
    "read_weights",
    "sniff",
    "sniff_legacy",
    "sniff_tensorflow",
    "write",
]

PathLike = str | os.PathLike[str]


def sniff(path: PathLike) -> bool:
    """Whether ``path`` looks like a ``.keras``, ``.weights.h5`` or ``.weights.json`` file; False if it cannot be read."""
    data = _mapped(path)
    if bytes(data[:8]) == SIGNATURE:
        return not _legacy.is_legacy(data)
    return is_archive(data) or (len(data) > 0 and is_shard_list(os.fspath(path)))


def read(path: PathLike) -> NativeState:
    """The optimizer in ``path``: arguments, slots (views on the mapped file), the step, weights.

    Where the file does not say which optimizer wrote it, every variable is a parameter of its own in
    ``slots``, called by its position, and ``extras["positions"]`` is true; the dialect arranges them
    once the optimizer is known.

    Raises:
        CheckpointError: h5py is missing, the file is damaged or points out of itself, or it holds no
            optimizer.
    """
    return _weights_file.read(os.fspath(path))


def read_weights(path: PathLike) -> Weights:
    """The weights in ``path`` under their places in the file (``layers/dense/vars/0``).

    In the model's order where ``config.json`` tells it.

    Raises:
        CheckpointError: as `read`, and where there are no weights.
    """
    return _weights_file.read_weights(os.fspath(path))


def sniff_legacy(path: PathLike) -> bool:
    """Whether ``path`` looks like a whole model in one HDF5 file; False if it cannot be read."""
    return _legacy.is_legacy(_mapped(path))


def read_legacy(path: PathLike) -> NativeState:
    """As `read`; slots of optimizers before Keras 2.11 are under that one's names until a dialect arranges them.

    Raises:
        CheckpointError: as `read`.
    """
    return _legacy.read(os.fspath(path))


def read_legacy_weights(path: PathLike) -> Weights:
    """The weights in ``path`` by Keras' names (``fc1/kernel``), in the model's order.

    Raises:
        CheckpointError: as `read`, and where there are no weights.
    """
    return _legacy.read_weights(os.fspath(path))


def sniff_tensorflow(path: PathLike) -> bool:
    """Whether ``path`` is a TensorFlow checkpoint's index, or a folder that has one."""
    return _tensorflow.is_checkpoint(os.fspath(path))


def read_tensorflow(path: PathLike) -> NativeState:
    """As `read`, of a checkpoint that ``tf.train.Checkpoint`` or ``model.save_weights`` wrote.

    Raises:
        CheckpointError: the checkpoint is damaged, compressed, of names alone, or has not one optimizer.
    """
    return _tensorflow.read(os.fspath(path))


def read_tensorflow_weights(path: PathLike) -> Weights:
    """The model's variables by Keras' names, those of the optimizer first and in its order.

    Raises:
        CheckpointError: as `read_tensorflow`, and where there are none.
    """
    return _tensorflow.read_weights(os.fspath(path))


def _mapped(path: PathLike) -> memoryview:
    """The bytes of a file; none where it cannot be read."""
    try:
        return memoryview(b"") if os.path.isdir(path) else map_file(path)
    except CheckpointError:
        return memoryview(b"")


FORMATS = (
    Format(
        "keras",
        "keras",
        "a .weights.h5 or .keras file, .weights.json with shards to read",
        sniff,
        read,
        read_weights,
        write,
        (".weights.h5", ".h5", ".keras"),
    ),
    Format(
        _legacy.FORMAT,
        "keras",
        "a whole model in one .h5 file of Keras 2 or 3",
        sniff_legacy,
        read_legacy,
        read_legacy_weights,
    ),
    Format(
        _tensorflow.FORMAT,
        "keras",
        "a TensorFlow checkpoint of a Keras model (X.index, X.data-…)",
        sniff_tensorflow,
        read_tensorflow,
        read_tensorflow_weights,
    ),
)
