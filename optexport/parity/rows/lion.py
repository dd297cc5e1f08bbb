"""Rows of the lion family."""

from ..record import correction32, keras, mlx, optax

__all__ = ["ROWS"]

# Keras takes 1 − β in the variables' dtype: in float32 the rounding of β counts, as with `correction32`.
ROWS = [
    optax("lion", "decay", learning_rate=0.01, weight_decay=0.1),
    optax("lion", "changed betas", learning_rate=0.1, b1=0.5, b2=0.8, weight_decay=0.0),
    keras("Lion", "decay", learning_rate=0.01, weight_decay=0.1, floor32=correction32(0.99)),
    keras("Lion", "changed betas and clip", learning_rate=0.1, beta_1=0.5, beta_2=0.8, clipvalue=0.3),
    mlx("Lion", "defaults", learning_rate=1e-4),
    mlx("Lion", "decay and changed betas", learning_rate=0.01, betas=(0.5, 0.8), weight_decay=0.1),
]
