"""Operators of training that stand for several plain ones, with a gradient rule of their own.

They live on the tape while it is differentiated, and are written out at the end by `write_out`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto as T

from optexport.errors import ModelError

from .backward import Gradients, Op, gradient
from .tape import Tape

if TYPE_CHECKING:
    from .forward import Forward

__all__ = ["SEED", "batch_norm_training", "dropout_mask", "write_out"]

SEED = "seed"  # int64 scalar input: what dropout's masks follow from
NORMALIZE = "NormalizeWithBatch"  # x, scale, bias, mean, 1/√(variance + ε), all but x as [1, C, 1, …]


def batch_norm_training(forward: Forward, node: onnx.NodeProto, where: str) -> None:
    """Batch normalisation by the batch's mean and population variance, in plain operators.

    CUDA's kernel refuses training mode, and ONNX moves the running variance by the population's
    where PyTorch moves it by the unbiased one; so neither is left to the operator.
    """
    tape = forward.tape
    x, scale, bias, mean, var = node.input
    rank = tape.rank(x)
    if rank is None:
        raise ModelError(
            f"{where}: node {node.name or node.output[0]!r} (BatchNormalization): input of unknown rank"
        )
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    axes = [0, *range(2, rank)]
    m = tape.reduce("ReduceMean", x, axes)
    centred = tape.sub(x, m)
    v = tape.reduce("ReduceMean", tape.mul(centred, centred), axes)
    inv = tape.unary("Reciprocal", tape.unary("Sqrt", tape.add(v, attributes.get("epsilon", 1e-5))))
    column = (-1, *(1 for _ in range(rank - 2)))
    wide = [tape.reshape(t, column) for t in (scale, bias)]
    tape.op(NORMALIZE, x, *wide, m, inv, name=node.output[0], like=x)
    momentum = attributes.get("momentum", 0.9)
    count = _count(tape, x, axes)
    if count in tape.constants and tape.constants[count] <= 1:
        raise ModelError(
            f"{where}: node {node.name or node.output[0]!r} (BatchNormalization): expected more than one element a channel "
            f"in training, found {int(tape.constants[count])}; use a larger batch, or batch_norm='inference'"
        )
    unbiased = tape.mul(v, tape.div(count, tape.sub(count, 1.0)))
    for name, batch in ((mean, m), (var, unbiased)):
        if name not in tape.constants:
            raise ModelError(
                f"{where}: node {node.name or node.output[0]!r} (BatchNormalization): expected its running statistics as "
                f"constants, found {name!r}"
            )
        forward.buffers[name] = tape.constants.pop(name)
        flat = tape.reshape(batch, (-1,))
        # μ_running ← momentum·μ_running + (1 − momentum)·μ: ONNX' momentum is one minus PyTorch's.
        kept = tape.mul(name, momentum)
        forward.updates[name] = tape.add(kept, tape.mul(flat, 1 - momentum))


def _count(tape: Tape, x: str, axes: list[int]) -> str:
    """How many elements a statistic is taken over, as a number of the type of ``x``."""
    shape = tape.shapes[x]
    if all(isinstance(shape[a], int) for a in axes):
        return tape.scalar(float(np.prod([int(shape[a] or 0) for a in axes])), x)
    dims = tape.op("Gather", tape.shape_of(x), tape.ints(*axes), axis=0)
    tape.types[dims] = T.INT64
    n = tape.op("ReduceProd", dims, keepdims=0)
    tape.types[n], tape.shapes[n] = T.INT64, ()
    return tape.cast(n, tape.types[x])


@gradient(NORMALIZE, within=(3, 4))
def normalize_with_batch(op: Op, g: str) -> Gradients:
    """x̂ = (x − m)·r; dx = γ·r·(g − mean(g) − x̂·mean(g·x̂)); the mean and r follow from x."""
    tape = op.tape
    x, scale, _, m, r = op.inputs
    rank = op.rank()
    axes = [0, *range(2, rank)]
    xhat = tape.mul(tape.sub(x, m), r)
    gx = tape.mul(g, xhat)
    dx = None
    if op.needs[0]:
        inner = tape.sub(
            tape.sub(g, tape.reduce("ReduceMean", g, axes)),
            tape.mul(xhat, tape.reduce("ReduceMean", gx, axes)),
        )
        dx = tape.mul(tape.mul(scale, r), inner)
    wide = [tape.reshape_like(tape.reduce("ReduceSum", t, axes), scale) for t in (gx, g)]
    return dx, wide[0], wide[1], None, None


def dropout_mask(tape: Tape, x: str, p: float, salt: int) -> str:
    """1 where an element stays and 0 where it goes, from input ``seed`` alone.

    Every element's position is mixed with the seed by three rounds of h ← (a·h + c)⁵ modulo the
    prime 2³¹ − 1, a permutation, in int64, which every provider has. The node's salt joins at each
    round in another proportion to the seed, so that no node's mask is another's at another seed.
    """
    prime = (1 << 31) - 1
    n = tape.op("ReduceProd", tape.shape_of(x), keepdims=0)
    zero, one = (tape.constant(np.asarray(v, np.int64), "int") for v in (0, 1))
    h = tape.op("Range", zero, n, one)
    for name in (n, h):
        tape.types[name] = T.INT64
    tape.shapes[h] = (None,)
    mod = tape.constant(np.asarray(prime, np.int64), "int")

    def reduced(v: str) -> str:
        out = tape.op("Mod", v, mod)
        tape.types[out] = T.INT64
        return out

    seed = reduced(tape.op("Add", SEED, one))
    for a, c in ((48271, 11), (69621, 101), (39373, 1009)):
        factor, shift = (tape.constant(np.asarray(v, np.int64), "int") for v in (a, c * (1 + 7919 * salt)))
        h = reduced(tape.op("Add", tape.op("Mul", h, factor), tape.op("Add", seed, shift)))
        square = reduced(tape.op("Mul", h, h))
        h = reduced(tape.op("Mul", reduced(tape.op("Mul", square, square)), h))
        tape.types[h] = T.INT64
    limit = tape.constant(np.asarray(round(p * prime), np.int64), "int")
    stays = tape.op("GreaterOrEqual", h, limit)
    mask = tape.op("Cast", stays, to=tape.types.get(x, T.FLOAT))
    tape.types[mask] = tape.types.get(x, T.FLOAT)
    return tape.reshape_like(mask, x)


def write_out(tape: Tape) -> None:
    """Replace every composite by its plain operators."""
    nodes, tape.nodes = tape.nodes, []
    for node in nodes:
        if node.op_type == NORMALIZE:
            x, scale, bias, m, r = node.input
            scaled = tape.mul(tape.sub(x, m), tape.mul(scale, r))
            tape.op("Add", scaled, bias, name=node.output[0], like=x)
        else:
            tape.nodes.append(node)
