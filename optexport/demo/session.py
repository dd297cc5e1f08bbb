"""A training graph on ONNX Runtime, by nothing but the names of its inputs and outputs.

Any program in any language can run the graph so. `optexport.converters.onnx.runtime.Trainer` is the
faster way from Python: it keeps the tensors in the runtime's memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ..errors import OptexportError

__all__ = ["losses_of", "runtime_version"]


def runtime_version() -> str:
    """Of the installed onnxruntime.

    Raises:
        OptexportError: it is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as e:
        if e.name != "onnxruntime":
            raise
        raise OptexportError(
            "demo: expected onnxruntime, found none installed; pip install optexport[demo]"
        ) from None
    return str(onnxruntime.__version__)


def losses_of(
    graph: str | os.PathLike[str],
    start: Mapping[str, np.ndarray],
    batches: list[dict[str, np.ndarray]],
    lr: float,
) -> list[float]:
    """One update a batch; the loss before each.

    start: what goes in as ``x`` and comes out as ``x.new``: parameters, slots (``<param>.<slot>``), ``step``.
    batches: the model's inputs and ``label`` by name.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.fspath(graph), options, providers=["CPUExecutionProvider"])
    state, losses = dict(start), []
    names = ["loss", *(f"{n}.new" for n in state)]
    for batch in batches:
        loss, *new = session.run(names, {**state, **batch, "lr": np.array(lr, np.float32)})
        state = dict(zip(state, new, strict=True))
        losses.append(float(loss))
    return losses
