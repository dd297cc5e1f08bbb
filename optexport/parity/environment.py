"""What a run was made on: versions and the processor. A baseline keeps it, a report shows it."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

__all__ = ["environment"]

# Distributions whose version may change a number. Several may provide one module.
_DISTRIBUTIONS = (
    "optexport",
    "numpy",
    "torch",
    "mxnet",
    "jax",
    "jaxlib",
    "optax",
    "keras",
    "tensorflow",
    "mlx",
    "paddlepaddle",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-training-cpu",
    "onnxruntime-training",
)


def environment() -> dict[str, str]:
    """Name -> version of this interpreter, the machine and each framework that is installed."""
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu(),
        "implementation": sys.implementation.name,
    }
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    for name in ("KERAS_BACKEND", "JAX_PLATFORMS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in os.environ:
            found[name] = os.environ[name]
    return found


def cpu() -> str:
    """The processor's own name where the system says it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
