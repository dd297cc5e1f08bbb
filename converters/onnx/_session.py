"""What every session on ONNX Runtime needs: providers by name, options, and memory that it owns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from optexport.errors import UnknownNameError

__all__ = ["Memory", "check_providers", "device_of"]

_DEVICES = {"CUDAExecutionProvider": "cuda", "ROCMExecutionProvider": "cuda", "DmlExecutionProvider": "dml"}


def check_providers(providers: Sequence[str]) -> None:
    """Raises UnknownNameError: one is not installed; the message lists those that are."""
    installed = ort.get_available_providers()
    missing = [p for p in providers if p not in installed]
    if missing or not providers:
        what = repr(missing[0]) if missing else "none given"
        raise UnknownNameError(f"provider {what}: expected one of {', '.join(installed)}")


def device_of(providers: Sequence[str]) -> str:
    """The device on which tensors of the first provider lie."""
    return _DEVICES.get(providers[0], "cpu")


class Memory:
    """Tensors in the runtime's memory on one device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._arrays: dict[tuple[int, tuple[int, ...]], np.ndarray] = {}

    def make(self, array: np.ndarray) -> Any:
        """An OrtValue. On the CPU it is this very array, which must be in C order and its own."""
        value = ort.OrtValue.ortvalue_from_numpy(array, self.device, 0)
        if self.device == "cpu":
            # `OrtValue.numpy()` copies in 1.17 and 1.18, so the array is kept.
            self._arrays[_key(value)] = array
        return value

    def read(self, value: Any) -> np.ndarray:
        """A tensor: the session's own memory on the CPU, a copy elsewhere."""
        if self.device == "cpu":
            return self._arrays[_key(value)]
        whole: np.ndarray = value.numpy()
        return whole


def _key(value: Any) -> tuple[int, tuple[int, ...]]:
    """Empty tensors may share an address."""
    return value.data_ptr(), tuple(value.shape())
