"""Writes what the page trains on: the digits run that PyTorch left half finished, ready for a browser.

    python make.py [FOLDER]

``start.safetensors``: the run after 100 updates, as a bundle. ``step.onnx``: forward, loss, gradient and
update in one graph. ``digits.safetensors``: images (uint8, 0..16), labels, the batches of the next 50
updates (rows of image indexes), and the loss before each of them where PyTorch was not stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import optexport as ox
from optexport.demo import make_data

HERE = Path(make_data.__file__).parent


def main(folder: Path) -> None:
    state = ox.load(HERE / make_data.CHECKPOINT)
    ox.save(state, folder / "start.safetensors", format="bundle")
    graph = ox.training_graph(
        HERE / make_data.FORWARD, "softmax_cross_entropy", state.spec, steps=dict(state.steps)
    )
    (folder / "step.onnx").write_bytes(graph.SerializeToString())
    with np.load(HERE / make_data.CONTINUATION) as file:
        data = {name: file[name] for name in ("images", "labels", "loss")}
        data["batches"] = file["batches"].astype(np.int32)
    save_file(data, folder / "digits.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
