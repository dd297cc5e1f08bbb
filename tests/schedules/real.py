"""The real frameworks' schedules, value by value."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest

STEPS = 230


def torch_scheduler(optimizer: Any, name: str, arguments: Mapping[str, Any]) -> Any:
    """A real PyTorch scheduler; nested ones are made from their pairs."""
    import torch.optim.lr_scheduler as module

    own = {k: v for k, v in arguments.items() if k != "lr"}
    if "schedulers" in own:
        inner = [torch_scheduler(optimizer, n, a) for n, a in own.pop("schedulers")]
        if name == "ChainedScheduler":
            return module.ChainedScheduler(inner)
        return module.SequentialLR(optimizer, inner, **own)
    return getattr(module, name)(optimizer, **own)


def torch_values(name: str, arguments: Mapping[str, Any], of: str = "lr", steps: int = STEPS) -> list[float]:
    """What each of ``steps`` updates sees; ``scheduler.step()`` once in ``steps_per_epoch`` of them."""
    torch = pytest.importorskip("torch")
    given = dict(arguments)
    every = 1 if name == "OneCycleLR" else given.pop("steps_per_epoch", 1)
    w = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([w], lr=given.get("lr", 0.1), momentum=0.9)
    out = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = torch_scheduler(optimizer, name, given)
        for update in range(steps):
            out.append(float(optimizer.param_groups[0][of]))
            optimizer.step()
            if (update + 1) % every == 0 and not (
                name == "OneCycleLR" and update + 1 > scheduler.total_steps
            ):
                scheduler.step()
    return out


def mxnet_scheduler(name: str, arguments: Mapping[str, Any]) -> Any:
    """A real MXNet scheduler, overwritten as an optimizer with ``learning_rate`` overwrites it."""
    module = import_module("mxnet").lr_scheduler
    own = {k: v for k, v in arguments.items() if k != "learning_rate"}
    made = getattr(module, name)(**own)
    if arguments.get("learning_rate") is not None:
        made.base_lr = arguments["learning_rate"]
    return made


def mxnet_values(name: str, arguments: Mapping[str, Any], of: str = "lr", steps: int = STEPS) -> list[float]:
    """What the optimizer reads: the scheduler at ``num_update``, which an update raises first."""
    made = mxnet_scheduler(name, arguments)
    return [float(made(update + 1)) for update in range(steps)]


def _double(jax: Any) -> Any:
    """Double precision in a block; the context manager moved in newer releases."""
    new = getattr(jax, "enable_x64", None)
    return new(True) if new is not None else jax.experimental.enable_x64()


def _at_all(jax: Any, made: Callable[[Any], Any], steps: int) -> list[float]:
    """A schedule at every count, one compiled call."""
    values = jax.vmap(lambda k: jax.numpy.asarray(made(k)))(jax.numpy.arange(steps))
    return [float(v) for v in values.tolist()]


def optax_schedule(name: str, arguments: Mapping[str, Any]) -> Callable[[Any], Any]:
    import optax

    own = dict(arguments)
    if name == "join_schedules":
        return optax.join_schedules([optax_schedule(n, a) for n, a in own["schedules"]], own["boundaries"])
    return getattr(optax, name)(**own)


def optax_values(name: str, arguments: Mapping[str, Any], of: str = "lr", steps: int = STEPS) -> list[float]:
    """At every count, in double."""
    jax = pytest.importorskip("jax")
    pytest.importorskip("optax")
    with _double(jax):
        return _at_all(jax, optax_schedule(name, arguments), steps)


def keras_values(name: str, arguments: Mapping[str, Any], of: str = "lr", steps: int = STEPS) -> list[float]:
    """At every iteration, in double: Keras computes in its float type."""
    keras = import_module("keras")
    own = {k: v for k, v in arguments.items() if k != "name"}
    made = getattr(keras.optimizers.schedules, name)(**own)
    single = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        if keras.backend.backend() != "jax":
            return [float(made(step)) for step in range(steps)]
        jax = import_module("jax")
        with _double(jax):
            return _at_all(jax, made, steps)
    finally:
        keras.config.set_floatx(single)


@functools.cache
def import_module(name: str) -> Any:
    if name == "mxnet":
        from optexport.converters.mxnet._import import import_mxnet

        if importlib.util.find_spec("mxnet") is None:
            pytest.skip("needs mxnet 1.9.1, which is not in this environment")
        return import_mxnet()
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}, which is not in this environment")
    if name == "keras":
        from optexport.converters.keras import run  # chooses a backend that is installed

        return run.keras
    # Installed, so that it must be importable: a failure here is no reason to skip.
    return importlib.import_module(name)


VALUES = {"torch": torch_values, "mxnet": mxnet_values, "optax": optax_values, "keras": keras_values}
