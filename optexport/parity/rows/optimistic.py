"""Rows of families that Optax alone has: adan, optimistic gradients, fromage."""

from ..record import correction32, optax

__all__ = ["ROWS"]

ROWS = [
    optax("adan", "defaults", learning_rate=0.001),
    optax(
        "adan",
        "decay and large eps",
        learning_rate=0.01,
        weight_decay=0.1,
        eps=1e-2,
        eps_root=1e-3,
        b1=0.8,
        b2=0.7,
        b3=0.9,
    ),
    optax("optimistic_gradient_descent", "defaults", learning_rate=0.1),
    optax("optimistic_gradient_descent", "uneven", learning_rate=0.1, alpha=0.7, beta=0.3),
    optax("optimistic_adam_v2", "defaults", learning_rate=0.01, floor32=correction32(0.999)),
    optax(
        "optimistic_adam_v2",
        "without Nesterov",
        learning_rate=0.01,
        alpha=0.7,
        beta=0.3,
        b1=0.8,
        b2=0.9,
        eps=1e-3,
        eps_root=1e-3,
        nesterov=False,
    ),
    optax("optimistic_adam_v2", "root eps", learning_rate=0.1, b2=0.9, eps=1e-2, eps_root=1e-2),
    optax("noisy_sgd", "defaults", learning_rate=0.1),
    optax("noisy_sgd", "loud and lasting", learning_rate=0.01, eta=4.0, gamma=0.1),
    optax("fromage", "defaults", learning_rate=0.1),
    optax("fromage", "least norm", learning_rate=0.01, min_norm=2.0),
    optax("fromage", "no least norm", learning_rate=0.01, min_norm=0.0),
]
