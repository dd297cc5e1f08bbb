"""Rows of yogi, adabelief and novograd."""

from ..record import optax

__all__ = ["ROWS"]

ROWS = [
    optax("yogi", "defaults", learning_rate=0.01),
    optax("yogi", "changed betas and large eps", learning_rate=0.1, b1=0.5, b2=0.9, eps=1e-2),
    optax("adabelief", "large eps", learning_rate=0.01, eps=1e-2, eps_root=1e-3),
    optax(
        "adabelief",
        "nesterov and changed betas",
        learning_rate=0.1,
        b1=0.5,
        b2=0.9,
        eps=1e-3,
        eps_root=1e-2,
        nesterov=True,
    ),
    optax("novograd", "decay", learning_rate=0.01, weight_decay=0.1, eps_root=1e-2),
    optax(
        "novograd", "large eps and changed betas", learning_rate=0.1, b1=0.5, b2=0.9, eps=1e-1, eps_root=1e-2
    ),
]
