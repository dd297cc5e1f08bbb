"""The models of the benchmarks, which lie in a folder that is no package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[4] / "benchmarks"


def benchmark(name: str) -> Any:
    """A module of ``benchmarks/``."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    return importlib.import_module(name)
