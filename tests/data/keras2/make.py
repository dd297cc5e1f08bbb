"""Writes the samples of Keras 2 here. Needs TensorFlow and tf_keras: ``python make.py``.

A small model takes three updates with known gradients and is saved, as one HDF5 file and as a TensorFlow
checkpoint; then it takes three more. ``after.npz`` has their gradients and the weights after each.
"""

import hashlib
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import tensorflow as tf
import tf_keras as keras

HERE = Path(__file__).parent
OLD, NEW = keras.optimizers.legacy, keras.optimizers
MADE = {
    "old_adam": lambda: OLD.Adam(0.01, beta_2=0.99),
    "old_amsgrad": lambda: OLD.Adam(0.01, amsgrad=True),
    "old_sgd_decay": lambda: OLD.SGD(0.1, momentum=0.9, decay=0.01),
    "old_rmsprop_momentum": lambda: OLD.RMSprop(0.01, momentum=0.9, centered=True),
    "old_adamax": lambda: OLD.Adamax(0.01),
    "old_adadelta": lambda: OLD.Adadelta(0.5),
    "old_adagrad": lambda: OLD.Adagrad(0.05),
    "new_adamw": lambda: NEW.AdamW(0.01, weight_decay=0.1),
    "new_rmsprop": lambda: NEW.RMSprop(0.01, momentum=0.9, centered=True),
    "new_adam_schedule": lambda: NEW.Adam(NEW.schedules.CosineDecay(0.01, 10)),
    "new_adam_ema": lambda: NEW.Adam(0.01, use_ema=True),
}


def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(3, name="fc1"),
        keras.layers.BatchNormalization(name="bn"),
        keras.layers.Dense(2, name="fc2"),
    ]
    made = keras.Sequential([keras.Input((4,)), *layers], name="mlp")
    return made


def slots(optimizer: keras.optimizers.Optimizer, names: list[str]) -> list[tuple[str, str, np.ndarray]]:
    """(parameter, slot, value) of every variable but the step count and the learning rate."""
    variables = optimizer.variables() if callable(optimizer.variables) else optimizer.variables
    out = []
    for variable in variables:
        called = variable.name.removesuffix(":0")
        for name in names:
            if called.endswith(f"/{name}"):  # Adam/m/fc1/kernel
                out.append((name, called.split("/")[1], variable.numpy()))
            elif f"/{name}/" in f"/{called}":  # Adam/fc1/kernel/m
                out.append((name, called.rpartition("/")[2], variable.numpy()))
    return out


def record(values: np.ndarray, **said: object) -> dict[str, object]:
    return {**said, "shape": list(values.shape), "dtype": values.dtype.name,
            "sha256": hashlib.sha256(values.tobytes()).hexdigest()}  # fmt: skip


def flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([a.reshape(-1) for a in arrays])


def step(optimizer: object, variables: list[tf.Variable], random: np.random.Generator) -> list[np.ndarray]:
    """One update; its gradients."""
    grads = [random.standard_normal(v.shape).astype(np.float32) for v in variables]
    optimizer.apply_gradients(zip(map(tf.constant, grads), variables, strict=True))
    return grads


def main() -> None:
    samples, after = [], {}
    for identity, make in MADE.items():
        random, made, optimizer = np.random.default_rng(1), model(), make()
        made.compile(optimizer, "mse")
        variables = made.trainable_variables
        names = [v.name.removesuffix(":0") for v in variables]
        for _ in range(3):
            step(optimizer, variables, random)
        whole = identity in ("old_adam", "old_rmsprop_momentum", "new_adam_schedule")
        if whole:
            made.save(HERE / f"{identity}.h5")
        tf.train.Checkpoint(model=made, optimizer=optimizer).write(str(HERE / identity))
        common = {
            "optimizer": type(optimizer).__name__,
            "hyperparameters": optimizer.get_config(),
            "step": 3,
            "state": [record(a, param=p, slot=s) for p, s, a in slots(optimizer, names)],
            "weights": [record(v.numpy(), param=n) for n, v in zip(names, variables, strict=True)],
        }
        files = [f"{identity}.index", f"{identity}.data-00000-of-00001"]
        if whole:
            one = {"files": [f"{identity}.h5"], "format": "keras-legacy-h5"}
            samples.append({"id": f"{identity}_h5", **one, **common})
        samples.append({"id": f"{identity}_tf", "files": files, "format": "tensorflow", **common})
        # One row an update: all parameters one after the other, in the model's order.
        rows = [
            (flat(step(optimizer, variables, random)), flat([v.numpy() for v in variables])) for _ in range(3)
        ]
        after[f"{identity}/gradients"], after[f"{identity}/weights"] = map(np.stack, zip(*rows, strict=True))
    said = {"schema": 1, "framework": "tf_keras", "framework_version": keras.__version__, "samples": samples}
    rows = ",\n".join(json.dumps(s, default=float) for s in said.pop("samples"))
    (HERE / "expected.json").write_text(json.dumps(said)[:-1] + ', "samples": [\n' + rows + "\n]}\n")
    np.savez_compressed(HERE / "after.npz", **after)


main()
