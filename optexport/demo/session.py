"""An emitted update graph on ONNX Runtime, by nothing but the names of its inputs and outputs.

Any program in any language can run the graph so. `optexport.converters.onnx.run.UpdateSession` is
the faster way from Python: it keeps the tensors in the runtime's memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ..errors import OptexportError

__all__ = ["GraphSession", "runtime_version"]

Arrays = Mapping[str, np.ndarray]


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


class GraphSession:
    """Parameters, slots and a step count that an update graph moves on.

    slots: name -> slot -> value, zeros where None.
    """

    def __init__(
        self, graph: str | os.PathLike[str], params: Arrays, slots: Mapping[str, Arrays] | None, step: int
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.fspath(graph), options, providers=["CPUExecutionProvider"]
        )
        outputs = {o.name.removesuffix(".new") for o in self._session.get_outputs()}
        self._slots = {n: [o.removeprefix(f"{n}.") for o in outputs if o.startswith(f"{n}.")] for n in params}
        self._state = {"step": np.array(step, np.int64), **params}
        for name, kept in self._slots.items():
            for slot in kept:
                value = np.zeros_like(params[name]) if slots is None else slots[name][slot]
                self._state[f"{name}.{slot}"] = value

    @property
    def step_count(self) -> int:
        return int(self._state["step"])

    @property
    def params(self) -> dict[str, np.ndarray]:
        return {name: self._state[name] for name in self._slots}

    @property
    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        return {name: {s: self._state[f"{name}.{s}"] for s in kept} for name, kept in self._slots.items()}

    def step(self, gradients: Arrays, lr: float) -> None:
        """One update: every tensor ``x`` goes in and comes out as ``x.new``."""
        feeds = {
            **self._state,
            **{f"{n}.grad": g for n, g in gradients.items()},
            "lr": np.array(lr, np.float32),
        }
        names = [f"{n}.new" for n in self._state]
        self._state = dict(zip(self._state, self._session.run(names, feeds), strict=True))
