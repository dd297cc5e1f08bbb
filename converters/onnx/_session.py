"""What every session on ONNX Runtime needs: providers by name, options, and memory that it owns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from optexport.errors import ModelError, OptexportError, UnknownNameError

__all__ = ["Memory", "Opener", "check_providers", "device_of", "runtime", "to_ort"]

_DEVICES = {"CUDAExecutionProvider": "cuda", "ROCMExecutionProvider": "cuda", "DmlExecutionProvider": "dml"}


def runtime() -> Any:
    """onnxruntime, imported on first use.

    Raises:
        OptexportError: it is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as e:
        if e.name != "onnxruntime":
            raise
        raise OptexportError(
            "Trainer: expected onnxruntime, found none installed; run pip install 'optexport[onnxruntime]'"
        ) from None
    return onnxruntime


def to_ort(array: np.ndarray, device: str = "cpu") -> Any:
    """An OrtValue: on the CPU this very array, elsewhere a copy."""
    return runtime().OrtValue.ortvalue_from_numpy(array, device, 0)


def check_providers(providers: Sequence[str]) -> None:
    """Raises UnknownNameError: one is not installed; the message lists those that are."""
    installed = runtime().get_available_providers()
    missing = [p for p in providers if p not in installed]
    if missing or not providers:
        what = repr(missing[0]) if missing else "none given"
        raise UnknownNameError(f"provider {what}: expected one of {', '.join(installed)}")


def device_of(providers: Sequence[str]) -> str:
    """The device on which tensors of the first provider lie."""
    return _DEVICES.get(providers[0], "cpu")


@dataclass(frozen=True)
class Opener:
    """How a trainer's sessions are opened. where: what to call the model in an error."""

    providers: Sequence[str]
    threads: int
    flush_denormals: bool
    where: str

    def open(self, model: onnx.ModelProto, optimized: str | os.PathLike[str] | None = None) -> Any:
        """A session. optimized: a file for the graph that the runtime makes of the model and runs.

        Raises:
            ModelError: the runtime cannot run it.
        """
        ort = runtime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        # One block laid out for a whole step is half as much memory again, and no faster.
        options.enable_mem_pattern = False
        if self.flush_denormals:
            options.add_session_config_entry("session.set_denormal_as_zero", "1")
        if optimized is not None:
            options.optimized_model_filepath = os.fspath(optimized)
            # Frozen tensors go to a file beside the graph, which has room for 2 GiB only.
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", "frozen.bin"
            )
        try:
            return ort.InferenceSession(model.SerializeToString(), options, providers=list(self.providers))
        except Exception as e:
            raise ModelError(
                f"{self.where}: onnxruntime {ort.__version__} cannot run the graph on "
                f"{self.providers[0]}: {' '.join(str(e).split())[:300]}"
            ) from None


class Memory:
    """Tensors in the runtime's memory on one device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._arrays: dict[tuple[int, tuple[int, ...]], np.ndarray] = {}

    def make(self, array: np.ndarray) -> Any:
        """An OrtValue. On the CPU it is this very array, which must be in C order and its own."""
        value = to_ort(array, self.device)
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
