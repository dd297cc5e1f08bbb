"""A PyTorch run goes on in Optax: train, carry weights and optimizer over, compare with the run that stayed.

Needs torch, jax and optax.  python examples/torch_to_optax.py
"""

import jax.numpy as jnp
import numpy as np
import optax
import torch

import optexport as ox

torch.manual_seed(0)
x, y = torch.randn(64, 8), torch.randn(64, 1)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.01, weight_decay=0.1)


def torch_step() -> None:
    optimizer.zero_grad()
    ((model(x) - y) ** 2).mean().backward()
    optimizer.step()


for _ in range(20):
    torch_step()
torch.save(optimizer.state_dict(), "optimizer.pt")
torch.save(model.state_dict(), "model.pt")

# The file's state, as the same rule under Optax' names, and what the move costs.
state = ox.load("optimizer.pt", model="model.pt")
moved, report = ox.translate(state, to="optax:adamw")
print("verdict:", report.verdict, *report.conditions)
slots = ox.lower(state, "optax:adamw")

transform = optax.adamw(0.01, weight_decay=0.1)
params = {n: jnp.asarray(v) for n, v in moved.params.items()}
fresh = transform.init(params)
mu, nu = ({n: jnp.asarray(slots[n][s]) for n in params} for s in ("mu", "nu"))
opt_state = (fresh[0]._replace(count=jnp.asarray(state.clock, jnp.int32), mu=mu, nu=nu), *fresh[1:])

for _ in range(20):
    torch_step()
    error = np.asarray(x) @ np.asarray(params["weight"]).T + np.asarray(params["bias"]) - np.asarray(y)
    grads = {
        "weight": jnp.asarray(2 * error.T @ np.asarray(x) / 64),
        "bias": jnp.asarray(2 * error.mean(axis=0)),
    }
    updates, opt_state = transform.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)

gap = max(
    float(np.abs(np.asarray(params[n]) - p.detach().numpy()).max()) for n, p in model.named_parameters()
)
print(f"after 20 more steps in both: largest difference of a weight {gap:.2g}")
assert gap < 1e-5
