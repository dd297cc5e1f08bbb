"""What every family has around its update, on the real frameworks: clipping by norm, accumulation, loss
scaling, Lookahead, averages; with gradients that overflow where that matters. Every changed node is
noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.dialects import converter
from optexport.ir import Reach, reach
from optexport.parity import compare_runs, problem, referee
from optexport.parity.mutants import mutants
from optexport.parity.problems import Problem
from optexport.parity.record import BOTH, F32
from optexport.specs import Spec
from tests.parity.backends import require_backend, require_native
from tests.parity.test_emitted import BACKENDS

Arrays = dict[str, np.ndarray]
Snapshots = Iterator[tuple[Arrays, dict[str, Arrays]]]
LR = 0.05


@dataclass(frozen=True)
class Case:
    """framework: what ``run`` needs. overflows: steps with a gradient that is no finite number."""

    name: str
    framework: str
    spec: Spec
    run: Callable[[Problem], Snapshots]
    overflows: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = BOTH

    def problem(self, dtype: str) -> Problem:
        p = problem(dtype, drop=1.0)
        for i, t in enumerate(self.overflows):
            p.grads[t]["b"][1 + i % 3] = (np.inf, np.nan, -np.inf)[i % 3]
        return p

    def rates(self, p: Problem) -> list[float]:
        return [LR] * len(p.grads)


def _torch(make: Callable[..., Any], step: Callable[..., Any], slots: Callable[..., Any]) -> Any:
    """A run: ``make(parameters)`` gives what ``step`` and ``slots`` are called with."""

    def run(p: Problem) -> Snapshots:
        import torch

        tensors = {n: torch.nn.Parameter(torch.tensor(v)) for n, v in p.params.items()}
        held = make(list(tensors.values()))
        for g in p.grads:
            for n, v in tensors.items():
                v.grad = torch.tensor(g[n])
            step(*held)
            now = {n: v.detach().numpy().copy() for n, v in tensors.items()}
            yield now, {n: slots(v, i, *held) for i, (n, v) in enumerate(tensors.items())}

    return run


def _torch_clip(each: bool) -> Any:
    def make(tensors: list[Any]) -> Any:
        import torch

        return tensors, torch.optim.SGD(tensors, lr=LR, momentum=0.9)

    def step(tensors: list[Any], optimizer: Any) -> None:
        import torch

        for group in [[t] for t in tensors] if each else [tensors]:
            torch.nn.utils.clip_grad_norm_(group, 3.0)
        optimizer.step()

    return _torch(make, step, lambda t, i, _, o: {"momentum_buffer": o.state[t]["momentum_buffer"].numpy()})


def _torch_scaler() -> Any:
    def make(tensors: list[Any]) -> Any:
        import torch

        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_factor=4.0, growth_interval=3)
        scaler.scale(torch.ones(()))  # GradScaler makes its tensors when a loss is scaled
        return torch.optim.AdamW(tensors, lr=LR, weight_decay=0.1), scaler

    def step(optimizer: Any, scaler: Any) -> None:
        scaler.step(optimizer)
        scaler.update()

    def slots(t: Any, i: int, optimizer: Any, scaler: Any) -> Arrays:
        held = optimizer.state[t]
        return {
            "exp_avg": held["exp_avg"].numpy().copy(),
            "exp_avg_sq": held["exp_avg_sq"].numpy().copy(),
            "updates": np.float64(held["step"].item()),
            "loss_scale": np.float32(scaler.get_scale()),
            "growth_tracker": np.float64(scaler._get_growth_tracker()),
        }

    return _torch(make, step, slots)


def _torch_average(kind: str) -> Any:
    def make(tensors: list[Any]) -> Any:
        import torch
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        model = torch.nn.ParameterList(tensors)
        how = {"multi_avg_fn": get_ema_multi_avg_fn(0.8)} if kind == "ema" else {}
        return torch.optim.SGD(tensors, lr=LR), model, AveragedModel(model, **how)

    def step(optimizer: Any, model: Any, average: Any) -> None:
        optimizer.step()
        average.update_parameters(model)

    def slots(t: Any, i: int, optimizer: Any, model: Any, average: Any) -> Arrays:
        return {"weight_average": average.module[i].detach().numpy().copy()}

    return _torch(make, step, slots)


def _optax(make: Callable[[Any], Any], slots: Callable[[Any], dict[str, Any]], pair: bool = False) -> Any:
    def run(p: Problem) -> Snapshots:
        import jax
        import jax.numpy as jnp
        import optax

        dtype = next(iter(p.params.values())).dtype
        # Where JAX has the switch depends on its release.
        wide = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
        with wide(bool(dtype == np.float64)):
            params: Any = {n: jnp.asarray(v) for n, v in p.params.items()}
            params = optax.LookaheadParams.init_synced(params) if pair else params
            transformation = make(optax)
            state = transformation.init(params)
            for g in p.grads:
                given = {n: jnp.asarray(v) for n, v in g.items()}
                updates, state = transformation.update(given, state, params)
                params = optax.apply_updates(params, updates)
                shown, trees = (params.fast, {"slow_weights": params.slow}) if pair else (params, {})
                trees = {**trees, **slots(state)}
                yield (
                    {n: np.asarray(v) for n, v in shown.items()},
                    {
                        n: {s: np.asarray(t[n] if isinstance(t, dict) else t) for s, t in trees.items()}
                        for n in shown
                    },
                )

    return run


def _mxnet_clip(p: Problem) -> Snapshots:
    from optexport.converters.mxnet._import import import_mxnet

    mx = import_mxnet()
    arrays = {n: mx.nd.array(v, dtype=v.dtype) for n, v in p.params.items()}
    updater = mx.optimizer.get_updater(mx.optimizer.create("sgd", learning_rate=LR))
    for g in p.grads:
        given = {n: mx.nd.array(v, dtype=v.dtype) for n, v in g.items()}
        mx.gluon.utils.clip_global_norm(list(given.values()), 3.0, check_isfinite=False)
        for i, n in enumerate(arrays):
            updater(i, given[n], arrays[n])
        yield {n: v.asnumpy() for n, v in arrays.items()}, {n: {} for n in arrays}


def _keras_scaled(p: Problem) -> Snapshots:
    from optexport.converters.keras.run import _floats, keras

    dtype = next(iter(p.params.values())).dtype.name
    with _floats(dtype):
        variables = {n: keras.Variable(v, dtype=dtype, name=n) for n, v in p.params.items()}
        inner = keras.optimizers.Adam(learning_rate=LR)
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0, dynamic_growth_steps=3)
        optimizer.build(list(variables.values()))
        now = [v.value for v in variables.values()]
        state = [v.value for v in optimizer.variables]
    # Its own counter first; the wrapped optimizer's `iteration` comes after its learning rate.
    places = {"growth_tracker": "step_counter", "loss_scale": "dynamic_scale", "updates": "iteration"}
    names = [v.path.rpartition("/")[2] for v in optimizer.variables]
    for g in p.grads:
        with _floats(dtype):
            # On JAX the optimizer works without side effects only, as `fit` calls it.
            given = [keras.ops.convert_to_tensor(g[n], dtype) for n in variables]
            now, state = optimizer.stateless_apply(state, given, now)
            shared = {
                s: np.array([v for v, n in zip(state, names, strict=True) if n == name][-1])
                for s, name in places.items()
            }
            yield (
                dict(zip(variables, map(np.array, now), strict=True)),
                dict.fromkeys(variables, shared),
            )


def _keras_strict(p: Problem) -> Snapshots:
    from optexport.converters.keras.run import native_snapshots

    dtype = next(iter(p.params.values())).dtype.name
    arguments = {"learning_rate": LR, "global_clipnorm": 3.0}
    for params, _ in native_snapshots("keras:SGD", arguments, p.params, p.grads, dtype=dtype):
        yield params, {n: {} for n in params}


def _id(value: Any) -> str:
    return value.name.replace(" ", "_") if isinstance(value, Case) else str(value)


def spec(rule: str, **arguments: Any) -> Spec:
    return ox.spec(rule, lr=LR, **arguments)


CASES = [
    Case("torch clip_grad_norm_ of all", "torch",
         spec("momentum", decay="none", clip_norm="global_eps", max_norm=3.0, max_norm_eps=1e-6), _torch_clip(False)),
    Case("torch clip_grad_norm_ of each", "torch",
         spec("momentum", decay="none", clip_norm="tensor_eps", max_norm=3.0, max_norm_eps=1e-6), _torch_clip(True)),
    Case("torch GradScaler", "torch",
         spec("adamw", weight_decay=0.1, overflow="dynamic", loss_scale=8.0, growth_factor=4.0, growth_interval=3),
         _torch_scaler(), (2, 9, 10, 17)),
    Case("torch AveragedModel, exponential", "torch",
         spec("sgd", decay="none", average="ema", average_decay=0.8), _torch_average("ema")),
    Case("torch AveragedModel, mean", "torch", spec("sgd", decay="none", average="mean"), _torch_average("mean")),
    Case("mxnet clip_global_norm", "mxnet",
         spec("sgd", decay="none", clip_norm="global_eps", max_norm=3.0, max_norm_eps=1e-8, scalars="float32"),
         _mxnet_clip, dtypes=F32),  # MXNet's clip_global_norm refuses float64
    Case("optax clip_by_global_norm", "optax", spec("sgd", decay="none", clip_norm="global", max_norm=3.0),
         _optax(lambda o: o.chain(o.clip_by_global_norm(3.0), o.sgd(LR)), lambda s: {})),
    Case("optax centralize, clip_by_global_norm", "optax",
         spec("adam", decay="none", centralize=True, clip_norm="global", max_norm=3.0),
         _optax(lambda o: o.chain(o.centralize(), o.clip_by_global_norm(3.0), o.adam(LR)),
                lambda s: {"exp_avg": s[2][0].mu, "exp_avg_sq": s[2][0].nu})),
    Case("optax clip_by_block_rms", "optax", spec("sgd", decay="none", clip_norm="rms", max_norm=0.8),
         _optax(lambda o: o.chain(o.clip_by_block_rms(0.8), o.sgd(LR)), lambda s: {})),
    Case("optax MultiSteps, mean", "optax",
         spec("adam", decay="none", accumulate="running_mean", accumulation_steps=3),
         _optax(lambda o: o.MultiSteps(o.adam(LR), 3, accumulator_dtype=None),
                lambda s: {"accumulated_grad": s.acc_grads, "exp_avg": s.inner_opt_state[0].mu})),
    Case("optax MultiSteps, sum", "optax", spec("sgd", decay="none", accumulate="sum", accumulation_steps=3),
         _optax(lambda o: o.MultiSteps(o.sgd(LR), 3, use_grad_mean=False, accumulator_dtype=None),
                lambda s: {"accumulated_grad": s.acc_grads})),
    Case("optax apply_if_finite", "optax", spec("adam", decay="none", overflow="skip_limited", max_bad_updates=2),
         _optax(lambda o: o.apply_if_finite(o.adam(LR), 2),
                lambda s: {"bad_updates": s.notfinite_count, "updates": s.inner_state[0].count}),
         (1, 5, 6, 9, 27, 28, 29)),
    Case("optax lookahead", "optax",
         spec("adam", decay="none", lookahead="sync", sync_period=4, slow_step_size=0.3),
         _optax(lambda o: o.lookahead(o.adam(LR), 4, 0.3), lambda s: {"exp_avg": s.fast_state[0].mu}, pair=True)),
    Case("keras LossScaleOptimizer", "keras",
         spec("adam_hat", decay="none", eps=1e-7, overflow="dynamic", loss_scale=8.0, growth_interval=3),
         _keras_scaled, (2, 9, 10, 17)),
    Case("keras global_clipnorm of an infinite gradient", "keras",
         spec("sgd", decay="none", clip_norm="global_strict", max_norm=3.0), _keras_strict, (29,)),
]  # fmt: skip


@pytest.mark.parametrize(("case", "dtype"), [(c, d) for c in CASES for d in c.dtypes], ids=_id)
def test_rule_is_what_the_framework_computes(case: Case, dtype: str) -> None:
    require_native(f"{case.framework}:x")
    p = case.problem(dtype)
    shown = (
        (params, {n: {**state.slots[n], **have} for n, have in slots.items()})
        for (params, slots), state in zip(
            case.run(p), referee(case.spec, p.params, p.grads, case.rates(p)), strict=True
        )
    )
    states = referee(case.spec, p.params, p.grads, case.rates(p))
    mismatch, _ = compare_runs(states, shown, dtype)
    assert mismatch is None, str(mismatch)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=_id)
def test_emitted_optimizer_is_the_rule(case: Case, backend: str, dtype: str) -> None:
    require_backend(backend)
    p = case.problem(dtype)
    if backend == "mxnet" and reach(case.spec.groups[0].rule.program) is Reach.GROUP:
        with pytest.raises(ox.RuleError, match="MXNet updates one parameter at a time"):
            ox.emit(case.spec, "mxnet")
        return
    lrs = case.rates(p)
    snapshots = converter(backend, "run").snapshots(case.spec, p.params, p.grads, lrs, dtype=dtype)
    # The learning rate is a tensor of this dtype there.
    given = [float(np.dtype(dtype).type(x)) for x in lrs] if backend in ("onnx", "keras") else lrs
    mismatch, _ = compare_runs(referee(case.spec, p.params, p.grads, given), snapshots, dtype)
    assert mismatch is None, str(mismatch)


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_every_changed_rule_is_noticed(case: Case) -> None:
    p = case.problem("float64")
    right = [(s.params, s.slots) for s in referee(case.spec, p.params, p.grads, case.rates(p))]
    survivors = []
    for where, program in mutants(case.spec.groups[0].rule.program):
        (group,) = case.spec.groups
        wrong = Spec((replace(group, rule=replace(group.rule, program=program)),))
        states = referee(wrong, p.params, p.grads, case.rates(p))
        if compare_runs(states, right, "float64")[0] is None:
            survivors.append(where)
    assert not survivors
