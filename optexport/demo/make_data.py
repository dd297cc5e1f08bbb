"""Makes the demonstration's data from a real run. Needs torch, onnxscript and scikit-learn; run by hand:

    python -m optexport.demo.make_data [FOLDER]

A small network learns scikit-learn's digits with AdamW. After `SAVED_AT` updates its checkpoint is
saved as any training script saves one, and the model is exported; then the run goes on,
uninterrupted, and what happens is recorded. The files ship, so that the demonstration itself needs
none of these libraries.

``digits_adamw.pt``: ``model``, ``optimizer`` (state dicts) and ``step``.
``digits.onnx``: the model at that time, ``pixels`` (float32, [n, 64], 0..1) to ``scores`` ([n, 10]).
``digits_continuation.npz``:
    images (uint8, 0..16, 64 pixels a row), labels (uint8);
    batches (one row of image indexes for each update from SAVED_AT on);
    loss (float32, before each of those updates);
    recorded_at (updates since SAVED_AT), and for each of them, stacked in that order,
    ``param/<name>``, ``exp_avg/<name>`` and ``exp_avg_sq/<name>`` (float32).
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main"]

SEED = 20240917
HIDDEN = 32
BATCH = 64
SAVED_AT = 100  # updates
CONTINUED = 50
RECORDED_AT = (1, 10, 25, 50)

CHECKPOINT = "digits_adamw.pt"
FORWARD = "digits.onnx"
CONTINUATION = "digits_continuation.npz"


def network() -> Any:
    import torch

    torch.manual_seed(SEED)
    return torch.nn.Sequential(
        OrderedDict(
            hidden=torch.nn.Linear(64, HIDDEN), activation=torch.nn.Tanh(), output=torch.nn.Linear(HIDDEN, 10)
        )
    )


def optimizer_of(model: Any) -> Any:
    """AdamW as practitioners set it up: weights decay, biases do not; nothing at its default."""
    import torch

    return torch.optim.AdamW(
        [
            {"params": [model.hidden.weight, model.output.weight], "weight_decay": 0.05},
            {"params": [model.hidden.bias, model.output.bias], "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=(0.9, 0.995),
        eps=1e-6,
    )


def batch_table(images: int) -> np.ndarray:
    """Image indexes of every update: shuffled epochs, cut into batches."""
    rng = np.random.default_rng(SEED)
    per_epoch = images // BATCH
    epochs = -(-(SAVED_AT + CONTINUED) // per_epoch)
    rows = [rng.permutation(images)[: per_epoch * BATCH].reshape(per_epoch, BATCH) for _ in range(epochs)]
    table: np.ndarray = np.concatenate(rows)[: SAVED_AT + CONTINUED].astype(np.uint16)
    return table


def record(model: Any, optimizer: Any, into: dict[str, list[np.ndarray]]) -> None:
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        into.setdefault(f"param/{name}", []).append(parameter.detach().numpy().copy())
        for slot in ("exp_avg", "exp_avg_sq"):
            into.setdefault(f"{slot}/{name}", []).append(state[slot].numpy().copy())


def export(model: Any, path: Path) -> None:
    """The forward model, as PyTorch writes it when it is asked not to merge weights."""
    import onnx
    import torch

    batch = torch.export.Dim("n", min=1)
    program: Any = torch.onnx.export(
        model,
        (torch.zeros(2, 64),),
        dynamo=True,
        optimize=False,
        opset_version=18,
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    made = program.model_proto
    # Where each node stands in the sources of the machine that exported it.
    for held in (
        made,
        made.graph,
        *made.graph.node,
        *made.graph.value_info,
        *made.graph.input,
        *made.graph.output,
    ):
        held.ClearField("metadata_props")
    onnx.checker.check_model(made, full_check=True)
    path.write_bytes(made.SerializeToString(deterministic=True))


def main(folder: Path) -> None:
    import torch
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    # One thread and no fused kernels: sums are taken in one order, and the files come out the same.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    digits = load_digits()
    images, labels = digits.data.astype(np.uint8), digits.target.astype(np.uint8)
    batches = batch_table(len(images))
    model = network()
    optimizer = optimizer_of(model)
    losses: list[float] = []
    recorded: dict[str, list[np.ndarray]] = {}
    for step, rows in enumerate(batches):
        if step == SAVED_AT:
            checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(checkpoint, folder / CHECKPOINT)
            export(model, folder / FORWARD)
        optimizer.zero_grad()
        scores = model(torch.from_numpy(images[rows].astype(np.float32) / 16))
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels[rows].astype(np.int64)))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        if step + 1 - SAVED_AT in RECORDED_AT:
            record(model, optimizer, recorded)
    np.savez_compressed(
        folder / CONTINUATION,
        images=images,
        labels=labels,
        batches=batches[SAVED_AT:],
        loss=np.array(losses[SAVED_AT:], np.float32),
        recorded_at=np.array(RECORDED_AT, np.int64),
        **{name: np.stack(values) for name, values in recorded.items()},
    )
    print(f"loss {losses[0]:.3f} at first, {losses[SAVED_AT]:.3f} when saved, {losses[-1]:.3f} at the end")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
