"""The one place that imports MXNet.

MXNet 1.9.1 still uses NumPy's aliases of Python's own types, which NumPy removed in 1.24.
"""

from __future__ import annotations

import warnings
from types import ModuleType

import numpy as np

__all__ = ["import_mxnet"]

_ALIASES = {"bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str}


def import_mxnet() -> ModuleType:
    """The ``mxnet`` module, after NumPy's removed aliases have been put back where they are missing.

    Raises ImportError if MXNet is not installed or NumPy is 2 or newer, which MXNet cannot use.
    """
    if int(np.__version__.split(".")[0]) >= 2:
        raise ImportError(f"MXNet 1.9.1 needs NumPy 1, found {np.__version__}; pip install 'numpy<2'")
    for name, kind in _ALIASES.items():
        # Not hasattr: NumPy warns when a removed alias is asked for.
        if name not in np.__dict__:
            setattr(np, name, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mxnet
    return mxnet  # type: ignore[no-any-return]
