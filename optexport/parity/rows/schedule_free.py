"""Rows of the schedule_free family."""

from ..record import keras, optax

__all__ = ["ROWS"]

# Optax evaluates a warmup in float32.
SCHEDULE32 = 4 * 2.0**-24
# Keras rounds β2 to the parameter's dtype before it takes 1 − β2.
COMPLEMENT32 = 2.0**-24 / (1 - 0.999)

ROWS = [
    # All weights are 0, and so is their sum.
    optax("schedule_free_sgd", "rate 0", learning_rate=0.0, weight_decay=0.1),
    optax("schedule_free_adamw", "rate 0", learning_rate=0.0, weight_decay=0.1),
    optax("schedule_free_sgd", "rate 0, warmup", learning_rate=0.0, warmup_steps=7),
    optax("schedule_free_adamw", "rate 0, warmup", learning_rate=0.0, weight_decay=0.1, warmup_steps=4),
    optax("schedule_free_sgd", "rate 0, no decay", learning_rate=0.0),
    optax("schedule_free_adamw", "rate 0, no decay", learning_rate=0.0),
    optax("schedule_free_sgd", "defaults but the rate", learning_rate=0.05),
    optax("schedule_free_sgd", "decay", learning_rate=0.1, weight_decay=0.1, b1=0.8, weight_lr_power=1.5),
    optax("schedule_free_sgd", "warmup", learning_rate=0.1, warmup_steps=7, floor=SCHEDULE32),
    optax("schedule_free_adamw", "defaults", learning_rate=0.0025),
    optax("schedule_free_adamw", "decay", learning_rate=0.01, weight_decay=0.1, b1=0.7, b2=0.9, eps=1e-3),
    optax(
        "schedule_free_adamw",
        "warmup",
        learning_rate=0.01,
        weight_decay=0.1,
        eps=1e-3,
        warmup_steps=4,
        floor=SCHEDULE32,
    ),
    keras("ScheduleFreeAdamW", "defaults", learning_rate=0.0025, floor32=COMPLEMENT32),
    keras(
        "ScheduleFreeAdamW",
        "decay and warmup",
        learning_rate=0.01,
        weight_decay=0.1,
        warmup_steps=7,
        beta_1=0.8,
        beta_2=0.95,
        epsilon=1e-3,
    ),
]
