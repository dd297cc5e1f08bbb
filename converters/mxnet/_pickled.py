"""What MXNet's pickles may name: its optimizers with their attributes, schedulers and arrays.

The table of attributes is MXNet 1.9.1's: un-pickling does not run a constructor, so a file must
hold every attribute that the class uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from optexport.state.pickles import BASICS, NUMPY, Constant, record

__all__ = [
    "ALL_COUNTS",
    "CLOSED",
    "COUNTS",
    "OPTIMIZERS",
    "SCHEDULERS",
    "attributes",
    "class_of",
    "is_array",
    "is_emitted",
    "is_optimizer",
    "module_of",
]

_EMITTED_PREFIX = "Optexport"

# The two attributes that count updates. The first is one of the dicts in the second, {device: {index: n}}.
COUNTS, ALL_COUNTS = "_index_update_count", "_all_index_update_counts"

_COMMON: Mapping[str, Any] = {
    "rescale_grad": 1.0,
    "lr_scheduler": None,
    "lr": 0.01,
    "wd": 0.0,
    "lr_mult": {},
    "wd_mult": {},
    "begin_num_update": 0,
    "num_update": 0,
    "clip_gradient": None,
    "multi_precision": False,
    "aggregate_num": 0,
    "idx2name": {},
    "sym_info": (),
    "allow_np_array": False,
}

_SGD = {"momentum": 0.0, "lazy_update": True, "aggregate_num": 4}
_ADAM = {"lr": 0.001, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

# Class -> what it has beside the common attributes, and where its own defaults differ from them.
OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "AdaDelta": {"rho": 0.9, "epsilon": 1e-5},
    "AdaGrad": {"float_stable_eps": 1e-7},
    "Adam": {**_ADAM, "lazy_update": True},
    "Adamax": {"lr": 0.002, "beta1": 0.9, "beta2": 0.999},
    "DCASGD": {"momentum": 0.0, "weight_previous": {}, "lamda": 0.04},
    "FTML": {"beta1": 0.6, "beta2": 0.999, "epsilon": 1e-8},
    "Ftrl": {"lr": 0.1, "lamda1": 0.01, "beta": 1},
    "GroupAdaGrad": {"float_stable_eps": 1e-5},
    "LAMB": {
        **_ADAM,
        "epsilon": 1e-6,
        "lower_bound": None,
        "upper_bound": None,
        "bias_correction": True,
        "aggregate_num": 45,
    },
    "LARS": {
        **_SGD,
        "momentum_correction": True,
        "eta": 0.001,
        "eps": 0,
        "skip": 0,
        "last_lr": None,
        "cur_lr": None,
    },
    "LBSGD": {
        "momentum": 0.0,
        "warmup_strategy": "linear",
        "warmup_epochs": 5,
        "batch_scale": 1,
        "updates_per_epoch": 32,
        "init_updates": 0,
        "num_epochs": 60,
        "lbmult": 1,
        "cumgrads": {},
        "adaptive": False,
        "admult": 1,
    },
    "NAG": {"momentum": 0.0},
    "Nadam": {**_ADAM, "schedule_decay": 0.004, "m_schedule": 1.0},
    "RMSProp": {
        "lr": 0.001,
        "gamma1": 0.9,
        "gamma2": 0.9,
        "centered": False,
        "epsilon": 1e-8,
        "clip_weights": None,
    },
    "SGD": _SGD,
    "SGLD": {},
    "Signum": {"momentum": 0.9, "wd_lh": 0.0},
    "Test": {},
    "ccSGD": _SGD,
}

SCHEDULERS = ("CosineScheduler", "FactorScheduler", "LRScheduler", "MultiFactorScheduler", "PolyScheduler")

# `mxnet.optimizer` and `mxnet.ndarray` were single modules before MXNet 1.2.
_OPTIMIZER_MODULES = ("mxnet.optimizer", "mxnet.optimizer.optimizer", "mxnet.optimizer.contrib")
_ARRAYS = (
    ("mxnet.ndarray.ndarray", "NDArray"),
    ("mxnet.ndarray", "NDArray"),
    ("mxnet.ndarray.sparse", "RowSparseNDArray"),
    ("mxnet.ndarray.sparse", "CSRNDArray"),
    ("mxnet.numpy", "ndarray"),
    ("mxnet.numpy.multiarray", "ndarray"),
)


def class_of(optimizer: str | None) -> str | None:
    """The class of ``Adam``, or of ``adam`` as MXNet's registry calls it; None where MXNet has none."""
    return {name.lower(): name for name in OPTIMIZERS}.get((optimizer or "").lower())


def module_of(optimizer: str) -> str:
    """The module that MXNet 1.9.1 defines the class in."""
    return "mxnet.optimizer.contrib" if optimizer == "GroupAdaGrad" else "mxnet.optimizer.optimizer"


def attributes(optimizer: str | None) -> dict[str, Any]:
    """A new dict of the attributes of a fresh optimizer; None for a class that is not MXNet's own."""
    own = {} if optimizer is None else OPTIMIZERS[optimizer]
    return {k: dict(v) if isinstance(v, dict) else v for k, v in {**_COMMON, **own}.items()}


def is_array(module: str, name: str) -> bool:
    return (module, name) in _ARRAYS


def is_emitted(module: str, name: str) -> bool:
    """Whether this may be an optimizer class that optexport has emitted.

    Its module is the user's own, so only the name tells: an identifier that starts with
    ``Optexport``. Reading such a file never imports the module nor calls the class.
    """
    words = [*module.split("."), name]
    return (
        name.startswith(_EMITTED_PREFIX)
        and len(module) + len(name) <= 200
        and all(word.isascii() and word.isidentifier() for word in words)
    )


def is_optimizer(module: str, name: str) -> bool:
    return is_emitted(module, name) or (module in _OPTIMIZER_MODULES and name in OPTIMIZERS)


class _Closed(Mapping[tuple[str, str], "Callable[..., Any] | Constant"]):
    """The closed list of the pickle reader. MXNet's classes become inert records, without exception.

    NumPy's numbers are on it because arithmetic of the user's own leaves them in ``lr`` and the like.
    """

    def __init__(self) -> None:
        self._fixed: dict[tuple[str, str], Callable[..., Any] | Constant] = {**BASICS, **NUMPY}
        for module, name in _ARRAYS:
            self._fixed[module, name] = record(module, name)
        for name in SCHEDULERS:
            self._fixed["mxnet.lr_scheduler", name] = record("mxnet.lr_scheduler", name)

    def __getitem__(self, key: tuple[str, str]) -> Callable[..., Any] | Constant:
        return record(*key) if is_optimizer(*key) else self._fixed[key]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._fixed)

    def __len__(self) -> int:
        return len(self._fixed)


CLOSED: Mapping[tuple[str, str], Callable[..., Any] | Constant] = _Closed()
