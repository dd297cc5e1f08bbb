"""Time of every way to a convolution weight's gradient, by shape: what `convolution_weight.py` chooses by.

    python benchmarks/convolution_weight.py [--threads 1]

With one thread the clock is that thread's own, so that a busy machine changes it little.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from optexport.converters.onnx.training.backward import differentiate
from optexport.converters.onnx.training.gradients import convolution, convolution_weight
from optexport.converters.onnx.training.passes import simplify
from optexport.converters.onnx.training.tape import Tape

WAYS = ("_taps", "_columns", "_swapped")
# (batch, channels in, size, channels out, kernel, stride, pad, groups)
SHAPES = [
    (64, 1, 28, 16, 3, 1, 1, 1), (32, 3, 32, 32, 3, 1, 1, 1), (32, 3, 32, 32, 5, 1, 2, 1), (16, 3, 56, 32, 7, 2, 3, 1),
    (32, 8, 28, 16, 3, 1, 1, 1), (64, 16, 28, 32, 3, 2, 1, 1), (64, 32, 14, 32, 3, 1, 1, 4), (16, 64, 28, 64, 3, 1, 1, 1),
    (16, 128, 14, 128, 3, 1, 1, 1), (16, 64, 28, 128, 1, 2, 0, 1), (16, 96, 28, 96, 3, 1, 1, 96),
    (16, 240, 14, 240, 5, 1, 2, 240),
]  # fmt: skip


def session(
    way: str, shape: tuple[int, ...], threads: int
) -> tuple[ort.InferenceSession, dict[str, np.ndarray]]:
    n, channels, size, out, k, stride, pad, groups = shape
    rng = np.random.default_rng(0)
    places = (size + 2 * pad - k) // stride + 1
    feeds = {
        "x": rng.standard_normal((n, channels, size, size), np.float32),
        "g": rng.standard_normal((n, out, places, places), np.float32),
    }
    w = np.zeros((out, channels // groups, k, k), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[stride] * 2, pads=[pad] * 4, group=groups)
    infos = [helper.make_tensor_value_info(i, T.FLOAT, a.shape) for i, a in feeds.items()]
    y = helper.make_tensor_value_info("y", T.FLOAT, None)
    opsets = {"opset_imports": [helper.make_opsetid("", 18)], "ir_version": 9}
    graph = helper.make_graph([node], "one", infos[:1], [y], [numpy_helper.from_array(w, "w")])
    tape = Tape(18, {"x", "w", "y", "g"})
    simplify(helper.make_model(graph, **opsets), tape, {"w": w})
    tape.types["g"], tape.shapes["g"] = T.FLOAT, feeds["g"].shape
    convolution.weight_gradient = getattr(convolution_weight, way)
    name = differentiate(tape, "y", ["w"], "g")["w"]
    result = helper.make_tensor_value_info(name, T.FLOAT, w.shape)
    nodes = [node for node in tape.nodes if node.output[0] != "y"]
    graph = helper.make_graph(nodes, "backward", infos, [result], tape.initializers())
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    made = helper.make_model(graph, **opsets).SerializeToString()
    return ort.InferenceSession(made, options, providers=["CPUExecutionProvider"]), feeds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    print(
        "| batch, in, size, out, kernel, stride, pad, groups | "
        + " | ".join(f"{w[1:]} ms" for w in WAYS)
        + " |"
    )
    print("|---|" + "---|" * len(WAYS))
    for shape in SHAPES:
        found = {way: session(way, shape, args.threads) for way in WAYS}
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way, (run, feeds) in found.items():
                start = clock()
                run.run(None, feeds)
                times[way].append(clock() - start)
        print(
            f"| {shape} | " + " | ".join(f"{statistics.median(t) * 1e3:.2f}" for t in times.values()) + " |"
        )


if __name__ == "__main__":
    main()
