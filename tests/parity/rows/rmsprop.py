"""Rows of the rmsprop family."""

from tests.parity.record import CENTERED, F32, STATE32, keras, mxnet, torch

ROWS = [
    torch("RMSprop", "plain and decay", lr=0.01, weight_decay=0.1),
    torch("RMSprop", "large eps", lr=0.01, alpha=0.9, eps=0.1),
    torch("RMSprop", "momentum", lr=0.01, momentum=0.9, alpha=0.95),
    torch("RMSprop", "centered", lr=0.01, centered=True, amplification=CENTERED),
    torch("RMSprop", "centered and momentum", lr=0.01, momentum=0.9, centered=True, amplification=CENTERED),
    mxnet("rmsprop", "plain", F32, STATE32, learning_rate=0.01, wd=0.1, clip_gradient=0.5),
    mxnet(
        "rmsprop",
        "clipped weights",
        F32,
        STATE32,
        learning_rate=0.05,
        gamma1=0.95,
        clip_weights=0.7,
        epsilon=1e-3,
    ),
    mxnet(
        "rmsprop",
        "centered",
        F32,
        STATE32,
        learning_rate=0.01,
        centered=True,
        wd=0.1,
        gamma2=0.8,
        amplification=CENTERED,
    ),
    keras("RMSprop", "plain", learning_rate=0.01, weight_decay=0.1),
    keras("RMSprop", "momentum and large eps", learning_rate=0.01, rho=0.95, momentum=0.9, epsilon=0.1),
    keras(
        "RMSprop",
        "centered and momentum",
        learning_rate=0.01,
        momentum=0.8,
        centered=True,
        amplification=CENTERED,
    ),
]
