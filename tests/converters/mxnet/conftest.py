"""MXNet for the tests that check files against it, and the samples with what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from optexport.converters.mxnet._import import import_mxnet

DATA = Path(__file__).parents[2] / "data" / "mxnet"


@pytest.fixture(scope="session")
def mx() -> ModuleType:
    try:
        return import_mxnet()
    except ImportError as error:
        pytest.skip(f"MXNet 1.9.1 is not here: {error}")


@pytest.fixture
def numpy_mode(mx: ModuleType) -> Iterator[None]:
    mx.npx.set_np()
    yield
    mx.npx.reset_np()


def samples() -> list[dict[str, Any]]:
    return list(json.loads((DATA / "expected.json").read_text())["samples"])


def sha256(array: np.ndarray) -> str:
    """Over the little-endian C-order bytes, as in expected.json."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
