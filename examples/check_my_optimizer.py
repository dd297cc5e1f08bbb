"""Two updates that somebody wrote by hand, beside the rule that they are meant to be.

Needs NumPy alone.  python examples/check_my_optimizer.py
"""

import numpy as np

import optexport as ox


def adam(param, grad, state, step, lr, eps_inside):
    """One update of one parameter; ``state`` is what it gave back the step before, empty at first."""
    m = 0.9 * state.get("m", np.zeros_like(param)) + 0.1 * grad
    v = 0.999 * state.get("v", np.zeros_like(param)) + 0.001 * grad**2
    m_hat, v_hat = m / (1 - 0.9**step), v / (1 - 0.999**step)
    root = np.sqrt(v_hat + 1e-8) if eps_inside else np.sqrt(v_hat) + 1e-8
    return param - lr * m_hat / root, {"m": m, "v": v}


reference = ox.spec("adam", lr=0.001)
right = ox.check(adam, reference, arguments={"lr": 0.001, "eps_inside": False})
wrong = ox.check(adam, reference, arguments={"lr": 0.001, "eps_inside": True})

print(right, wrong, sep="\n\n")
assert right.passed
assert not wrong.passed and wrong.first["slot"] == "param"
