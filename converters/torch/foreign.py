"""Steps anybody's PyTorch optimizer. Imports torch."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from optexport.parity.runs import Arrays
from optexport.parity.subjects import Subject, SubjectError, hint_of

__all__ = ["adopt"]


def adopt(made: Any, arguments: Mapping[str, Any], name: str) -> Subject | None:
    """A subject of a ``torch.optim.Optimizer`` class or instance, or of a function ``f(params, **arguments)``
    that returns one; None where ``made`` is none of these."""
    kind = made if inspect.isclass(made) else type(made)
    if issubclass(kind, torch.optim.Optimizer):
        hint = hint_of("torch", kind.__name__, dict(arguments) if inspect.isclass(made) else made.defaults)
    elif inspect.isfunction(made) and _first_argument(made) in ("params", "parameters"):
        hint = hint_of("torch", made.__name__, arguments)
    else:
        return None
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    return Subject(name, "torch", lambda params, dtype: _Run(made, given, name, params, dtype), hint=hint)


def _first_argument(function: Any) -> str:
    return next(iter(inspect.signature(function).parameters), "")


class _Run:
    def __init__(
        self, made: Any, arguments: Mapping[str, Any], name: str, params: Arrays, dtype: str
    ) -> None:
        kind = getattr(torch, dtype)
        self.name = name
        self.tensors = {
            n: torch.nn.Parameter(torch.tensor(np.asarray(v), dtype=kind)) for n, v in params.items()
        }
        ours = list(self.tensors.values())
        if isinstance(made, torch.optim.Optimizer):
            first = {k: copy.deepcopy(v) for k, v in made.param_groups[0].items() if k != "params"}
            held, made.param_groups, state = made.param_groups, [], made.state
            made.state = defaultdict(dict)
            try:
                self.optimizer = copy.deepcopy(made)
            finally:
                made.param_groups, made.state = held, state
            self.optimizer.param_groups = [{**first, "params": ours}]
        else:
            self.optimizer = made(ours, **arguments)
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise SubjectError(
                f"{name}: expected a torch.optim.Optimizer, found {type(self.optimizer).__name__}"
            )
        self.base: list[Any] = [g.get("lr") for g in self.optimizer.param_groups]
        self.rates = all(isinstance(lr, float | int) for lr in self.base)
        self.sparse = self.closure = False

    def step(self, grads: Arrays, rate: float = 1.0) -> None:
        if self.rates:
            for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
                group["lr"] = base * rate
        for name, tensor in self.tensors.items():
            grad = torch.tensor(np.asarray(grads[name]), dtype=tensor.dtype)
            tensor.grad = _every_row(grad) if self.sparse else grad
        try:
            self._called()
        except RuntimeError as e:
            if self.sparse or not ("sparse gradients" in str(e) or "dense gradients" in str(e)):
                raise
            self.sparse = True  # it takes sparse gradients alone
            self.step(grads, rate)

    def _called(self) -> None:
        if not self.closure:
            try:
                self.optimizer.step()
                return
            except TypeError as e:
                if "closure" not in str(e):
                    raise
                self.closure = True
        calls = 0

        def closure() -> Any:
            nonlocal calls
            calls += 1
            return torch.zeros(())  # the gradients are there already

        self.optimizer.step(closure)
        if calls > 1:
            raise SubjectError(
                f"{self.name}: needs a closure and evaluates it {calls} times a step; an update that is a function of "
                "one gradient is expected (LBFGS: max_iter=1)"
            )

    def params(self) -> dict[str, np.ndarray]:
        return {n: t.detach().numpy().copy() for n, t in self.tensors.items()}

    def slots(self) -> dict[str, dict[str, np.ndarray]]:
        return {
            n: {
                str(k): v.detach().numpy().copy()
                for k, v in self.optimizer.state.get(t, {}).items()
                if torch.is_tensor(v) and v.shape == t.shape and not v.is_sparse
            }
            for n, t in self.tensors.items()
        }


def _every_row(grad: torch.Tensor) -> torch.Tensor:
    """A sparse gradient that holds every row, those of zeros too."""
    rows = torch.arange(len(grad))[None]
    return torch.sparse_coo_tensor(rows, grad, grad.shape, is_coalesced=True, check_invariants=True)
