"""Rows of Optax' chains."""

from ..record import CENTERED, optax

__all__ = ["ROWS"]

RATE = ("scale_by_learning_rate", {"learning_rate": 0.01})
ROWS = [
    optax(
        "chain",
        "L2 before nadam",
        links=[("add_decayed_weights", {"weight_decay": 0.1}), ("nadam", {"learning_rate": 1e-3})],
    ),
    optax(
        "chain",
        "everything before Adam",
        links=[
            ("scale", {"step_size": 0.5}),
            ("centralize", {}),
            ("clip_by_global_norm", {"max_norm": 2.0}),
            ("clip", {"max_delta": 0.3}),
            ("add_decayed_weights", {"weight_decay": 0.1}),
            ("scale_by_adam", {"b2": 0.99, "eps": 1e-3}),
            RATE,
        ],
    ),
    optax(
        "chain",
        "global norm, AdamW, a factor",
        links=[
            ("clip_by_global_norm", {"max_norm": 1.0}),
            ("adamw", {"learning_rate": 0.01, "weight_decay": 0.1, "b2": 0.9}),
            ("scale", {"step_size": 0.5}),
        ],
    ),
    optax(
        "chain",
        "clip after L2",
        links=[
            ("add_decayed_weights", {"weight_decay": 0.1}),
            ("clip", {"max_delta": 0.5}),
            ("scale_by_learning_rate", {"learning_rate": 0.1}),
        ],
    ),
    optax(
        "chain",
        "trace, decoupled decay, scale",
        links=[
            ("trace", {"decay": 0.9, "nesterov": True}),
            ("add_decayed_weights", {"weight_decay": 0.1}),
            ("scale", {"step_size": -0.1}),
        ],
    ),
    optax(
        "chain",
        "rms and a trace of displacements",
        links=[("scale_by_rms", {"decay": 0.8, "eps": 1e-3}), RATE, ("trace", {"decay": 0.9})],
    ),
    optax(
        "chain",
        "block rms, stddev",
        links=[("clip_by_block_rms", {"threshold": 1.0}), ("scale_by_stddev", {"eps": 1e-2}), RATE],
        amplification=CENTERED,
    ),
    optax(
        "chain",
        "L2 before rprop",
        links=[("add_decayed_weights", {"weight_decay": 0.1}), ("rprop", {"learning_rate": 0.01})],
    ),
    optax(
        "chain",
        "a clip and L2 before adadelta",
        links=[
            ("clip", {"max_delta": 0.5}),
            ("adadelta", {"learning_rate": 0.5, "eps": 1e-2, "weight_decay": 0.1}),
        ],
    ),
    optax(
        "chain",
        "MultiSteps around a clip and Adam",
        links=[
            ("MultiSteps", {"every_k_schedule": 3, "accumulator_dtype": None}),
            ("clip_by_global_norm", {"max_norm": 1.0}),
            ("adam", {"learning_rate": 0.01}),
        ],
    ),
    optax(
        "chain",
        "clip before signum",
        links=[("clip", {"max_delta": 0.1}), ("signum", {"learning_rate": 0.01})],
    ),
]
