"""Which real frameworks this environment has."""

from __future__ import annotations

import functools
import importlib.util

import pytest


@functools.cache
def has(framework: str) -> bool:
    """Whether the framework behind a native optimizer or an emitted one can run here."""
    if framework == "onnxruntime":
        # The training build's operators, which stock onnxruntime does not register.
        return importlib.util.find_spec("onnxruntime.training") is not None if has("onnx") else False
    module = {"onnx": "onnxruntime"}.get(framework, framework)
    return importlib.util.find_spec(module) is not None


def require_native(optimizer: str) -> None:
    framework = optimizer.partition(":")[0]
    if framework == "onnx":
        return  # the operators' reference evaluator comes with onnx, which the core needs
    if not has(framework):
        names = {"onnxruntime": "onnxruntime-training-cpu 1.19.2", "mxnet": "mxnet 1.9.1"}
        pytest.skip(f"needs {names.get(framework, framework)}, which is not in this environment")


def require_backend(target: str) -> None:
    if not has(target):
        pytest.skip(f"needs {target}, which is not in this environment")
