"""Models that differ in names and layouts: trained in PyTorch, gone on with in Keras, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.convert import convert
from optexport.errors import NamingError
from optexport.parity.bounds import unit_roundoff
from tests.parity.backends import has

pytest.importorskip("torch", reason="needs PyTorch, which is not in this environment")
if not has("keras"):
    pytest.skip("needs keras, which is not in this environment", allow_module_level=True)

import torch

from optexport.converters.keras.run import keras

STEPS = 6
Arrays = dict[str, np.ndarray]


def batches(kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs as PyTorch has them, and labels."""
    rng = np.random.default_rng(3)
    shape = (16, 7) if kind == "mlp" else (16, 3, 6, 6)
    return [(rng.standard_normal(shape).astype(np.float32), rng.integers(0, 5, 16)) for _ in range(3 * STEPS)]


def torch_model(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "mlp":
        return torch.nn.Sequential(torch.nn.Linear(7, 7), torch.nn.Tanh(), torch.nn.Linear(7, 5))
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Conv2d(4, 4, 3, groups=4), torch.nn.Tanh(),
        torch.nn.Flatten(), torch.nn.Linear(16, 5),
    )  # fmt: skip


def keras_model(kind: str) -> Any:
    layers = keras.layers
    if kind == "mlp":
        return keras.Sequential(
            [keras.Input((7,)), layers.Dense(7, activation="tanh", name="a"), layers.Dense(5, name="b")]
        )
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3, activation="tanh", name="a"),
            layers.DepthwiseConv2D(3, activation="tanh", name="b"),
            layers.Flatten(),
            layers.Dense(5, name="c"),
        ]
    )


MAPS: dict[str, list[dict[str, Any]]] = {
    "mlp": [
        {"from": "0.weight", "to": "layers/dense/vars/0", "transpose": [1, 0]},
        {"from": "0.bias", "to": "layers/dense/vars/1"},
        {"from": "2.weight", "to": "layers/dense_1/vars/0", "transpose": [1, 0]},
        {"from": "2.bias", "to": "layers/dense_1/vars/1"},
    ],
    "cnn": [
        {"from": "0.weight", "to": "layers/conv2d/vars/0", "transpose": [2, 3, 1, 0]},
        {"from": "0.bias", "to": "layers/conv2d/vars/1"},
        {"from": "2.weight", "to": "layers/depthwise_conv2d/vars/0", "transpose": [2, 3, 0, 1]},
        {"from": "2.bias", "to": "layers/depthwise_conv2d/vars/1"},
        {
            "from": "5.weight",
            "to": "layers/dense/vars/0",
            "axes": "o (c s) -> (s c) o",
            "axis_sizes": {"c": 4},
        },
        {"from": "5.bias", "to": "layers/dense/vars/1"},
    ],
}


class InTorch:
    """A run in PyTorch."""

    def __init__(self, kind: str, name: str, arguments: dict[str, Any]) -> None:
        self.model = torch_model(kind)
        self.optimizer = getattr(torch.optim, name)(self.model.named_parameters(), **arguments)

    def train(self, data: list[tuple[np.ndarray, np.ndarray]]) -> None:
        for x, y in data:
            self.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.model(torch.from_numpy(x)), torch.from_numpy(y)).backward()
            self.optimizer.step()

    def save(self, folder: Path) -> tuple[str, str]:
        torch.save(self.optimizer.state_dict(), folder / "run.pt")
        torch.save(self.model.state_dict(), folder / "model.pt")
        return str(folder / "run.pt"), str(folder / "model.pt")

    def weights(self) -> Arrays:
        return {n: p.detach().numpy().copy() for n, p in self.model.named_parameters()}

    def slots(self) -> dict[str, Arrays]:
        named = {n: self.optimizer.state[p] for n, p in self.model.named_parameters()}
        return {n: {k: v.numpy().copy() for k, v in s.items() if k != "step"} for n, s in named.items()}


def keras_train(model: Any, data: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for x, y in data:
        model.train_on_batch(np.moveaxis(x, 1, -1) if x.ndim == 4 else x, y)


def compiled(kind: str, name: str, arguments: dict[str, Any]) -> Any:
    model = keras_model(kind)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=getattr(keras.optimizers, name)(**arguments), loss=loss)
    model.optimizer.build(model.trainable_variables)
    return model


def ported(arrays: Arrays, kind: str) -> Arrays:
    """Under Keras' names and layouts, by NumPy alone."""
    out = {}
    for e in MAPS[kind]:
        a = arrays[e["from"]]
        if "axes" in e:
            a = a.reshape(5, 4, -1).transpose(2, 1, 0).reshape(16, 5)
        out[e["to"]] = a.transpose(e["transpose"]) if "transpose" in e else a
    return out


def near(got: Arrays, want: Arrays, bound: float, start: Arrays, steps: int) -> None:
    """Equal up to rounding of every step, and ``bound`` of the way from ``start``."""
    assert list(got) == list(want)
    for n in want:
        way = float(np.abs(want[n] - start[n]).max())
        top = float(np.abs(want[n]).max())
        # A step's gradient sums over a batch and a layer's inputs: a few hundred roundings each.
        rounding = 300 * unit_roundoff("float32") * np.sqrt(steps) * (top + way)
        assert np.abs(got[n] - want[n]).max() <= rounding + bound * way * steps, n


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize(
    ("source", "arguments", "target", "own"),
    [
        (
            "AdamW", {"lr": 0.01, "eps": 1e-5, "weight_decay": 0.1},
            "AdamW", {"learning_rate": 0.01, "epsilon": 1e-5, "weight_decay": 0.1},
        ),
        ("SGD", {"lr": 0.05, "momentum": 0.9}, "SGD", {"learning_rate": 0.05, "momentum": 0.9}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["map", "values"])
def test_from_torch_to_keras_and_back(
    kind: str, source: str, arguments: Any, target: str, own: Any, how: str, tmp_path: Path
) -> None:
    """how: by a map file, or by one that is found from a Keras model that has the weights already."""
    data = batches(kind)
    run = InTorch(kind, source, arguments)
    run.train(data[:STEPS])
    state_file, model_file = run.save(tmp_path)
    start = ported(run.weights(), kind)
    map_file, keras_file = tmp_path / "map.json", str(tmp_path / "run.weights.h5")
    if how == "map":
        map_file.write_text(json.dumps({"version": 1, "entries": MAPS[kind]}))
        given: dict[str, Any] = {"map_file": str(map_file)}
    else:
        filled = keras_model(kind)
        for variable, value in zip(filled.trainable_variables, start.values(), strict=True):
            variable.assign(value)
        filled.save(tmp_path / "filled.keras")
        given = {"target_model": str(tmp_path / "filled.keras"), "write_map_file": str(map_file)}

    done = convert(
        state_file, keras_file, model=model_file, optimizers=(f"keras:{target}",), allow="bounded", **given
    )

    assert done.verdict == ("bounded" if source == "AdamW" else "conditional")
    found = json.loads(map_file.read_text())["entries"]
    assert [{k: v for k, v in e.items() if k != "why"} for e in found] == MAPS[kind]
    model = compiled(kind, target, own)
    model.load_weights(keras_file)
    assert all(
        np.array_equal(np.array(v.value), start[n])
        for v, n in zip(model.trainable_variables, start, strict=True)
    )
    keras_train(model, data[STEPS : 2 * STEPS])
    run.train(data[STEPS : 2 * STEPS])
    names = list(start)
    got = {n: np.array(v.value) for n, v in zip(names, model.trainable_variables, strict=True)}
    want = ported(run.weights(), kind)
    bound = done.bound or 0.0
    near(got, want, bound, start, STEPS)

    # And back, out of the file that Keras itself writes.
    model.save(tmp_path / "goes_on.keras")
    back = convert(
        str(tmp_path / "goes_on.keras"), str(tmp_path / "back.pt"), optimizers=(f"torch:{source}",),
        map_file=str(map_file), reverse_map=True, target_model=model_file, allow="bounded",
    )  # fmt: skip
    again = InTorch(kind, source, {"lr": 123.0})
    reverse = {e["to"]: e for e in MAPS[kind]}
    held = {reverse[n]["from"]: a for n, a in got.items()}
    with torch.no_grad():
        for (name, p), e in zip(again.model.named_parameters(), MAPS[kind], strict=True):
            a = held[name]
            if "axes" in e:
                a = a.reshape(-1, 4, 5).transpose(2, 1, 0).reshape(5, 16)
            p.copy_(torch.from_numpy(a.transpose(np.argsort(e["transpose"])) if "transpose" in e else a))
    again.optimizer.load_state_dict(torch.load(tmp_path / "back.pt", weights_only=True))
    again.train(data[2 * STEPS :])
    before = {n: a.copy() for n, a in run.weights().items()}
    run.train(data[2 * STEPS :])
    near(again.weights(), run.weights(), bound + (back.bound or 0.0), before, 2 * STEPS)
    for name, slots in run.slots().items():
        mine = again.slots()[name]
        assert sorted(mine) == sorted(slots)
        for slot, value in slots.items():
            # Gradients are those of parameters that are as near as above.
            assert np.abs(mine[slot] - value).max() <= 2e-3 * np.abs(value).max(), (name, slot)


def test_a_model_with_other_weights_is_not_guessed(tmp_path: Path) -> None:
    """The flattened layer fits by shape alone, in another order of its inputs."""
    run = InTorch("cnn", "SGD", {"lr": 0.05, "momentum": 0.9})
    run.train(batches("cnn")[:1])
    state_file, model_file = run.save(tmp_path)
    filled = keras_model("cnn")
    start = ported(run.weights(), "cnn")
    for variable, value in zip(filled.trainable_variables[:-2], list(start.values())[:-2], strict=True):
        variable.assign(value)
    filled.save(tmp_path / "filled.keras")
    with pytest.raises(NamingError) as caught:
        convert(
            state_file, str(tmp_path / "o.weights.h5"), model=model_file, optimizers=("keras:SGD",),
            target_model=str(tmp_path / "filled.keras"),
        )  # fmt: skip
    assert "'5.weight' [5, 16] has no counterpart: its values are nowhere in the target model" in str(
        caught.value
    )
    assert "layers/dense/vars/0 [16, 5]" in str(caught.value)
    assert not (tmp_path / "o.weights.h5").exists()


def test_adafactor_transposed_goes_on_as_before(tmp_path: Path) -> None:
    """A matrix under PyTorch's Adafactor, and its transpose: real optimizers, equal steps."""
    rng = np.random.default_rng(0)
    w, grads = rng.standard_normal((6, 4)), [rng.standard_normal((6, 4)) for _ in range(12)]
    p = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = torch.optim.Adafactor([p], lr=0.1)
    weights = []
    for t, g in enumerate(grads):
        if t == 6:
            torch.save(optimizer.state_dict(), tmp_path / "run.pt")
            torch.save({"w": p.detach()}, tmp_path / "model.pt")
            start = p.detach().numpy().copy()
        p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        weights.append(p.detach().numpy().copy())
    map_file = tmp_path / "map.json"
    map_file.write_text('{"version": 1, "entries": [{"from": "w", "to": "v", "transpose": [1, 0]}]}')

    done = convert(
        str(tmp_path / "run.pt"),
        str(tmp_path / "o.pt"),
        model=str(tmp_path / "model.pt"),
        map_file=str(map_file),
    )

    assert done.verdict == "exact"
    q = torch.nn.Parameter(torch.from_numpy(start.T.copy()))
    other = torch.optim.Adafactor([q], lr=0.7)
    other.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    for t in range(6, 12):
        q.grad = torch.from_numpy(grads[t].T.copy())
        other.step()
        assert np.abs(q.detach().numpy().T - weights[t]).max() < 1e-12
    assert ox.load(tmp_path / "o.pt").slots["v"]["row_var"].shape == (4, 1)
