"""Where ONNX Runtime runs each node of a graph: by a profile of one real run. Imports onnxruntime.

A provider that has no kernel for an operator, its version and types leaves the node to the CPU, and says
nothing; every tensor on the way is copied. `placed` tells which nodes ran where, `strays` which of them
should not have.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from ._session import check_providers

__all__ = ["Ran", "placed", "strays"]

# Elements that a shape, a list of axes or a count has at most.
_SMALL = 64
_COUNTS = {"int64", "int32", "bool"}
_COPIES = {"MemcpyFromHost", "MemcpyToHost"}


@dataclass(frozen=True)
class Ran:
    """One node as it ran.

    provider: as ONNX Runtime calls it. outputs: (element type, shape) of each output.
    """

    name: str
    op: str
    provider: str
    outputs: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def is_shape_arithmetic(self) -> bool:
        """Whether all it makes are a few whole numbers or truth values: sizes, axes, counts."""
        return bool(self.outputs) and all(
            kind in _COUNTS and len(shape) <= 1 and math.prod(shape) <= _SMALL for kind, shape in self.outputs
        )

    @property
    def is_copy(self) -> bool:
        return self.op in _COPIES


def placed(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], providers: Sequence[str]) -> list[Ran]:
    """The nodes of the graph as the runtime has optimized it, in the order they ran once.

    Raises:
        UnknownNameError: a provider is not installed.
    """
    check_providers(providers)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "run")
        options.log_severity_level = 3
        session = ort.InferenceSession(model.SerializeToString(), options, providers=list(providers))
        session.run(None, dict(feeds))
        with open(session.end_profiling(), encoding="utf-8") as file:
            events = json.load(file)
    return [made for e in events if (made := _ran(e)) is not None]


def _ran(event: Mapping[str, Any]) -> Ran | None:
    held = event.get("args", {})
    name = str(event.get("name", ""))
    if event.get("cat") != "Node" or not name.endswith("_kernel_time") or "provider" not in held:
        return None
    outputs = tuple(
        (str(kind), tuple(int(d) for d in shape))
        for described in held.get("output_type_shape", ())
        for kind, shape in described.items()
    )
    return Ran(
        name.removesuffix("_kernel_time"), str(held.get("op_name", "")), str(held["provider"]), outputs
    )


def strays(nodes: Sequence[Ran], provider: str) -> list[Ran]:
    """The nodes that ran somewhere else than on ``provider``, shape arithmetic aside."""
    return [n for n in nodes if n.provider != provider and not n.is_shape_arithmetic]
