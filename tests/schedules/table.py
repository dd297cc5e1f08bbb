"""Native schedules at several settings each: what the value-by-value tests run on.

Each row is (``framework:schedule``, arguments). Settings cover counts before, at and after every break.
"""

from __future__ import annotations

from typing import Any

Row = tuple[str, dict[str, Any]]

_WARM_UP = ("LinearLR", {"start_factor": 0.1, "total_iters": 12})

TORCH: list[Row] = [
    ("torch:ConstantLR", {"lr": 0.3}),
    ("torch:ConstantLR", {"lr": 0.1, "factor": 0.25, "total_iters": 60}),
    ("torch:StepLR", {"lr": 0.1, "step_size": 30}),
    ("torch:StepLR", {"lr": 0.7, "step_size": 7, "gamma": 0.9}),
    ("torch:StepLR", {"lr": 0.7, "step_size": 3, "gamma": 1.1, "steps_per_epoch": 7}),
    ("torch:MultiStepLR", {"lr": 0.1, "milestones": [30, 80, 150]}),
    ("torch:MultiStepLR", {"lr": 0.2, "milestones": [80, 10, 10], "gamma": 0.5}),
    ("torch:ExponentialLR", {"lr": 0.1, "gamma": 0.97}),
    ("torch:ExponentialLR", {"lr": 0.1, "gamma": 0.8, "steps_per_epoch": 13}),
    ("torch:LinearLR", {"lr": 0.1}),
    ("torch:LinearLR", {"lr": 0.3, "start_factor": 0.9, "end_factor": 0.05, "total_iters": 120}),
    ("torch:PolynomialLR", {"lr": 0.1}),
    ("torch:PolynomialLR", {"lr": 0.1, "total_iters": 150, "power": 2.5}),
    ("torch:CosineAnnealingLR", {"lr": 0.1, "T_max": 50}),
    ("torch:CosineAnnealingLR", {"lr": 0.1, "T_max": 90, "eta_min": 0.003}),
    ("torch:CosineAnnealingLR", {"lr": 0.1, "T_max": 10, "eta_min": 0.02, "steps_per_epoch": 11}),
    ("torch:CosineAnnealingWarmRestarts", {"lr": 0.1, "T_0": 13}),
    ("torch:CosineAnnealingWarmRestarts", {"lr": 0.1, "T_0": 10, "T_mult": 2, "eta_min": 0.001}),
    ("torch:CosineAnnealingWarmRestarts", {"lr": 0.1, "T_0": 5, "T_mult": 3}),
    ("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": 220}),
    ("torch:OneCycleLR", {"max_lr": 0.4, "epochs": 10, "steps_per_epoch": 23, "pct_start": 0.17}),
    (
        "torch:OneCycleLR",
        {
            "max_lr": 0.1,
            "total_steps": 230,
            "three_phase": True,
            "div_factor": 10.0,
            "final_div_factor": 50.0,
        },
    ),
    (
        "torch:OneCycleLR",
        {
            "max_lr": 0.1,
            "total_steps": 210,
            "anneal_strategy": "linear",
            "base_momentum": 0.7,
            "max_momentum": 0.99,
        },
    ),
    (
        "torch:SequentialLR",
        {"lr": 0.1, "schedulers": [_WARM_UP, ("CosineAnnealingLR", {"T_max": 60})], "milestones": [12]},
    ),
    (
        "torch:SequentialLR",
        {
            "lr": 0.2,
            "schedulers": [
                ("ConstantLR", {"factor": 0.1, "total_iters": 40}),
                ("ExponentialLR", {"gamma": 0.95}),
                ("StepLR", {"step_size": 9, "gamma": 0.5}),
            ],
            "milestones": [20, 90],
        },
    ),
    (
        "torch:SequentialLR",
        {
            "lr": 0.2,
            "schedulers": [_WARM_UP, ("CosineAnnealingWarmRestarts", {"T_0": 15, "T_mult": 2})],
            "milestones": [30],
        },
    ),
    (
        "torch:ChainedScheduler",
        {
            "lr": 0.1,
            "schedulers": [
                ("ConstantLR", {"factor": 0.1, "total_iters": 5}),
                ("ExponentialLR", {"gamma": 0.97}),
            ],
        },
    ),
    (
        "torch:ChainedScheduler",
        {
            "lr": 0.1,
            "schedulers": [
                _WARM_UP,
                ("MultiStepLR", {"milestones": [30, 70], "gamma": 0.3}),
                ("PolynomialLR", {"total_iters": 100, "power": 2.0}),
                ("StepLR", {"step_size": 20, "gamma": 0.9}),
            ],
        },
    ),
]

MXNET: list[Row] = [
    ("mxnet:FactorScheduler", {"step": 20, "factor": 0.5, "base_lr": 0.3}),
    ("mxnet:FactorScheduler", {"step": 3, "factor": 0.5, "base_lr": 0.3, "stop_factor_lr": 0.01}),
    ("mxnet:FactorScheduler", {"step": 7, "factor": 0.9, "base_lr": 0.3, "warmup_steps": 30}),
    (
        "mxnet:FactorScheduler",
        {
            "step": 7,
            "factor": 0.9,
            "base_lr": 0.3,
            "warmup_steps": 10,
            "warmup_begin_lr": 0.05,
            "learning_rate": 0.2,
        },
    ),
    ("mxnet:MultiFactorScheduler", {"step": [10, 60, 61], "factor": 0.3, "base_lr": 0.3}),
    (
        "mxnet:MultiFactorScheduler",
        {
            "step": [4, 60],
            "factor": 0.3,
            "base_lr": 0.3,
            "warmup_steps": 25,
            "warmup_mode": "constant",
            "warmup_begin_lr": 0.1,
        },
    ),
    ("mxnet:PolyScheduler", {"max_update": 150, "base_lr": 0.3}),
    (
        "mxnet:PolyScheduler",
        {
            "max_update": 120,
            "base_lr": 0.3,
            "pwr": 3,
            "final_lr": 0.01,
            "warmup_steps": 20,
            "warmup_begin_lr": 0.02,
        },
    ),
    ("mxnet:PolyScheduler", {"max_update": 90, "base_lr": 0.3, "warmup_steps": 1, "learning_rate": 0.5}),
    ("mxnet:CosineScheduler", {"max_update": 150, "base_lr": 0.3}),
    (
        "mxnet:CosineScheduler",
        {"max_update": 130, "base_lr": 0.3, "final_lr": 0.01, "warmup_steps": 20, "warmup_mode": "constant"},
    ),
    ("mxnet:CosineScheduler", {"max_update": 130, "base_lr": 0.3, "warmup_steps": 2, "learning_rate": 0.1}),
]

_PEAK = {"init_value": 0.01, "peak_value": 0.3, "warmup_steps": 20}

OPTAX: list[Row] = [
    ("optax:constant_schedule", {"value": 0.3}),
    ("optax:exponential_decay", {"init_value": 0.3, "transition_steps": 10, "decay_rate": 0.9}),
    (
        "optax:exponential_decay",
        {
            "init_value": 0.3,
            "transition_steps": 10,
            "decay_rate": 0.5,
            "staircase": True,
            "transition_begin": 25,
        },
    ),
    (
        "optax:exponential_decay",
        {"init_value": 0.3, "transition_steps": 9, "decay_rate": 0.6, "end_value": 0.02},
    ),
    (
        "optax:exponential_decay",
        {"init_value": 0.1, "transition_steps": 9, "decay_rate": 1.3, "end_value": 0.7},
    ),
    ("optax:exponential_decay", {"init_value": 0.1, "transition_steps": 0, "decay_rate": 0.5}),
    ("optax:linear_schedule", {"init_value": 0.0, "end_value": 0.4, "transition_steps": 70}),
    (
        "optax:polynomial_schedule",
        {"init_value": 0.5, "end_value": 0.01, "power": 2, "transition_steps": 90, "transition_begin": 15},
    ),
    (
        "optax:polynomial_schedule",
        {"init_value": 0.5, "end_value": 0.1, "power": 0.5, "transition_steps": 60},
    ),
    ("optax:cosine_decay_schedule", {"init_value": 0.3, "decay_steps": 120}),
    ("optax:cosine_decay_schedule", {"init_value": 0.3, "decay_steps": 99, "alpha": 0.1, "exponent": 1.5}),
    (
        "optax:piecewise_constant_schedule",
        {"init_value": 0.3, "boundaries_and_scales": {20: 0.5, 77: 0.1, 0: 2.0}},
    ),
    ("optax:piecewise_constant_schedule", {"init_value": 0.3}),
    (
        "optax:piecewise_interpolate_schedule",
        {"interpolate_type": "linear", "init_value": 0.3, "boundaries_and_scales": {20: 2.0, 90: 0.1}},
    ),
    (
        "optax:piecewise_interpolate_schedule",
        {
            "interpolate_type": "cosine",
            "init_value": 0.3,
            "boundaries_and_scales": {31: 0.25, 32: 2.0, 150: 0.01},
        },
    ),
    ("optax:cosine_onecycle_schedule", {"transition_steps": 150, "peak_value": 0.3}),
    (
        "optax:cosine_onecycle_schedule",
        {"transition_steps": 133, "peak_value": 0.3, "pct_start": 0.21, "div_factor": 7.0},
    ),
    ("optax:linear_onecycle_schedule", {"transition_steps": 140, "peak_value": 0.3}),
    ("optax:warmup_constant_schedule", _PEAK),
    ("optax:warmup_cosine_decay_schedule", {**_PEAK, "decay_steps": 150}),
    ("optax:warmup_cosine_decay_schedule", {**_PEAK, "decay_steps": 110, "end_value": 0.02, "exponent": 2.0}),
    ("optax:warmup_cosine_decay_schedule", {**_PEAK, "warmup_steps": 0, "decay_steps": 110}),
    (
        "optax:warmup_exponential_decay_schedule",
        {
            **_PEAK,
            "transition_steps": 15,
            "decay_rate": 0.7,
            "transition_begin": 5,
            "staircase": True,
            "end_value": 0.05,
        },
    ),
    (
        "optax:sgdr_schedule",
        {"cosine_kwargs": [{**_PEAK, "decay_steps": 60}, {**_PEAK, "peak_value": 0.2, "decay_steps": 90}]},
    ),
    (
        "optax:join_schedules",
        {
            "schedules": [
                ("linear_schedule", {"init_value": 0.0, "end_value": 0.2, "transition_steps": 9}),
                ("constant_schedule", {"value": 0.2}),
                ("exponential_decay", {"init_value": 0.2, "transition_steps": 10, "decay_rate": 0.8}),
            ],
            "boundaries": [9, 50],
        },
    ),
]

_KERAS_LR = {"initial_learning_rate": 0.3}

KERAS: list[Row] = [
    ("keras:ExponentialDecay", {**_KERAS_LR, "decay_steps": 20, "decay_rate": 0.9}),
    ("keras:ExponentialDecay", {**_KERAS_LR, "decay_steps": 20, "decay_rate": 0.5, "staircase": True}),
    ("keras:InverseTimeDecay", {**_KERAS_LR, "decay_steps": 10, "decay_rate": 0.5}),
    ("keras:InverseTimeDecay", {**_KERAS_LR, "decay_steps": 7, "decay_rate": 1.5, "staircase": True}),
    ("keras:PiecewiseConstantDecay", {"boundaries": [10, 77], "values": [0.3, 0.05, 0.2]}),
    ("keras:PiecewiseConstantDecay", {"boundaries": [1], "values": [0.1, 0.7]}),
    ("keras:PolynomialDecay", {**_KERAS_LR, "decay_steps": 90}),
    (
        "keras:PolynomialDecay",
        {**_KERAS_LR, "decay_steps": 40, "power": 2.0, "end_learning_rate": 0.01, "cycle": True},
    ),
    ("keras:CosineDecay", {**_KERAS_LR, "decay_steps": 120}),
    (
        "keras:CosineDecay",
        {**_KERAS_LR, "decay_steps": 90, "alpha": 0.1, "warmup_target": 0.9, "warmup_steps": 30},
    ),
    ("keras:CosineDecayRestarts", {**_KERAS_LR, "first_decay_steps": 10}),
    (
        "keras:CosineDecayRestarts",
        {**_KERAS_LR, "first_decay_steps": 17, "t_mul": 1.0, "m_mul": 0.8, "alpha": 0.05},
    ),
    ("keras:CosineDecayRestarts", {**_KERAS_LR, "first_decay_steps": 11, "t_mul": 1.5, "m_mul": 0.7}),
]


def name_of(row: Row) -> str:
    """For a test's id."""
    words = [f"{k}={v}" for k, v in row[1].items() if isinstance(v, int | float | str)]
    return "-".join([row[0], *words])
