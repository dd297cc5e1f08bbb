"""Memory that a `Trainer` takes, in sizes of the model's parameters.

    python benchmarks/training_memory.py [--layers 8] [--width 2048] [--out benchmarks/results]

Layers of ``width`` × ``width`` with AdamW and a batch of 8, so that activations are nothing beside the parameters. Resident
memory above that of the process with numpy, onnx and onnxruntime imported: after the trainer is made, after steps, and the
most there was. Adam itself needs three sizes (parameters, two moments), and a fourth for the gradients.
"""

from __future__ import annotations

import argparse
import gc
import platform
import re
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import optexport as ox


def memory(field: str) -> float:
    """Bytes of VmRSS (now) or VmHWM (most)."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text("ascii"))
    assert found is not None
    return int(found[1]) * 1024.0


def write_model(path: str, layers: int, width: int) -> None:
    rng = np.random.default_rng(0)
    nodes, weights, h = [], [], "x"
    for i in range(layers):
        value = (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(value, f"layers.{i}.weight"))
        nodes += [
            helper.make_node("MatMul", [h, f"layers.{i}.weight"], [f"h{i}"]),
            helper.make_node("Relu", [f"h{i}"], [f"r{i}"]),
        ]
        h = f"r{i}"
    infos = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", width]) for n in ("x", h)]
    graph = helper.make_graph(nodes, "layers", infos[:1], infos[1:], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8),
        path,
        save_as_external_data=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        # In a process of its own: what it leaves behind would hide what the trainer takes.
        import multiprocessing

        maker = multiprocessing.get_context("spawn").Process(
            target=write_model, args=(path, args.layers, args.width)
        )
        maker.start()
        maker.join()
        size = 4.0 * args.layers * args.width**2
        gc.collect()
        base = memory("VmRSS")
        trainer = ox.Trainer(path, "mse", ox.spec("adamw", lr=1e-4))
        rows = [("state", trainer.state_bytes), ("trainer made", memory("VmRSS") - base)]
        x = np.ones((8, args.width), np.float32)
        for _ in range(5):
            trainer.step(x, x)
        rows += [("after 5 steps", memory("VmRSS") - base), ("most", memory("VmHWM") - base)]
    table = ["| | ÷ parameters |", "|---|---|", *(f"| {what} | {n / size:.2f} |" for what, n in rows)]
    about = (
        f"{platform.machine()}, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}; parameters of "
        f"{size / 1e6:.0f} MB, AdamW"
    )
    text = f"# Memory of training\n\n{about}\n\n" + "\n".join(table) + "\n"
    print(text)
    (args.out / f"training_memory-ort{onnxruntime.__version__}.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
