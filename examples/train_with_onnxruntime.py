"""A model trains on stock onnxruntime: forward, loss, gradient and AdamW in one graph, no framework.

Needs onnxruntime.  python examples/train_with_onnxruntime.py
"""

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import optexport as ox

rng = np.random.default_rng(0)
weights = {
    "w1": rng.standard_normal((4, 16)) * 0.5,
    "b1": np.zeros(16),
    "w2": rng.standard_normal((16, 3)) * 0.5,
}
nodes = [
    ("MatMul", ["x", "w1"], "h"),
    ("Add", ["h", "b1"], "a"),
    ("Relu", ["a"], "r"),
    ("MatMul", ["r", "w2"], "scores"),
]
forward = helper.make_model(
    helper.make_graph(
        [helper.make_node(op, inputs, [output], name=output) for op, inputs, output in nodes],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()],
    ),
    opset_imports=[helper.make_opsetid("", 18)],
    ir_version=8,
)

graph = ox.training_graph(forward, "softmax_cross_entropy", ox.spec("adamw", lr=0.01, weight_decay=0.01))
session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

# Slots and the step start at 0; what comes out as NAME.new goes in as NAME.
outputs = [o.name for o in session.get_outputs()]
shapes = {i.name: i.shape for i in session.get_inputs()}
names = [o.removesuffix(".new") for o in outputs[1:]]
state = {n: np.zeros(shapes[n], np.int64 if n == "step" else np.float32) for n in names}
state |= {n: v.astype(np.float32) for n, v in weights.items()}
x = rng.standard_normal((256, 4)).astype(np.float32)
label = np.argmax(x[:, :3], axis=1)

losses = []
for _ in range(200):
    batch = {"x": x, "label": label, "lr": np.array(0.01, np.float32)}
    made = dict(zip(outputs, session.run(None, {**state, **batch}), strict=True))
    losses.append(float(made.pop("loss")))
    state |= {n.removesuffix(".new"): v for n, v in made.items()}

print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} after {len(losses)} steps; step is {state['step']}")
assert losses[-1] < losses[0] / 5
