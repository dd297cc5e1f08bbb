"""Losses: a scalar and the gradient of the model's output, both written out on the tape.

Every loss is a mean over what it counts, in the type of the output (float32 where that is float16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper

from optexport.errors import HyperparameterError, ModelError

from .tape import Dims, Tape

__all__ = ["LOSSES", "Loss", "build_loss"]


@dataclass(frozen=True)
class Loss:
    """One loss. build: tape, output, label, options -> (loss, gradient of the output).

    options: name -> default. label: the element type of the label, None for the output's own.
    """

    name: str
    what: str
    build: Callable[[Tape, str, str, Mapping[str, Any]], tuple[str, str]]
    options: Mapping[str, Any]
    label: int | None
    label_shape: Callable[[Dims], Dims]


def _mean(t: Tape, x: str) -> tuple[str, str]:
    """(mean of all elements, 1/count as a scalar of the type of x)."""
    static = t.static(x)
    loss = t.reduce("ReduceMean", x, None, keep=False)
    if static is not None:
        return loss, t.scalar(1.0 / max(int(np.prod(static, dtype=np.int64)), 1), x)
    n = t.op("Size", x)
    t.types[n], t.shapes[n] = T.INT64, ()
    return loss, t.unary("Reciprocal", t.cast(n, t.types[x]))


def softmax_cross_entropy(t: Tape, y: str, label: str, o: Mapping[str, Any]) -> tuple[str, str]:
    """−Σ w_c·log softmax(y)_c / Σ w_c over the positions whose label is not ``ignore_index``.

    y: [N, C, …], label: int64 [N, …]. label_smoothing ε gives every class ε/C. weight: one number a
    class. As ``torch.nn.CrossEntropyLoss`` with reduction "mean".
    """
    shape = t.shapes.get(y)
    if shape is None or len(shape) < 2:
        raise ModelError(
            f"loss softmax_cross_entropy: output {y!r} expected shape [N, classes, …], found "
            f"{'an unknown one' if shape is None else list(shape)}"
        )
    eps, weight, ignored = float(o["label_smoothing"]), o["weight"], o["ignore_index"]
    logp = t.unary("LogSoftmax", y, axis=1)
    safe, kept = label, None
    if ignored is not None:
        skip = t.op("Equal", label, t.constant(np.asarray(ignored, np.int64), "int"))
        t.types[skip], t.shapes[skip] = T.BOOL, t.shapes[label]
        safe = t.op("Where", skip, t.constant(np.asarray(0, np.int64), "int"), label, like=label)
        kept = t.cast(t.op("Not", skip, like=skip), t.types[y])
    index = t.unsqueeze(safe, [1])
    chosen = t.op("Squeeze", t.op("GatherElements", logp, index, axis=1), t.ints(1))
    t.shapes[chosen], t.types[chosen] = (shape[0], *shape[2:]), t.types[y]
    classes = t.dim(y, 1)
    target = _one_hot(t, safe, classes, y)
    factor = kept
    if weight is not None:
        column = np.asarray(weight, t.dtype(y)).reshape(-1)
        if isinstance(shape[1], int) and shape[1] != len(column):
            raise HyperparameterError(
                f"loss softmax_cross_entropy: weight expected {shape[1]} numbers, one a class, found {len(column)}"
            )
        own = t.op("Gather", t.constant(column, "class_weight"), safe, axis=0)
        t.types[own], t.shapes[own] = t.types[y], t.shapes[chosen]
        factor = own if kept is None else t.mul(own, kept)
    classweight = None if weight is None else t.constant(
        np.asarray(weight, t.dtype(y)).reshape(1, -1, *(1 for _ in shape[2:])), "class_weight"
    )  # fmt: skip
    # d loss/dy = (softmax·Σ_c q_c − q) per position, q the (weighted, smoothed) target.
    q = t.mul(target, 1 - eps) if eps else target
    if classweight is not None:
        q = t.mul(q, classweight)
    each = t.unary("Neg", chosen if weight is None else t.mul(chosen, own))
    if eps:
        spread = t.scalar(eps, y) if classweight is None else t.mul(classweight, eps)
        smooth = t.div(spread, t.cast(classes, t.types[y]))
        q = t.add(q, smooth)
        all_classes = t.reduce("ReduceSum", t.mul(logp, smooth), [1], keep=False)
        each = t.sub(t.mul(each, 1 - eps), all_classes)
    if kept is not None:
        each = t.mul(each, kept)
    if factor is None:
        loss, inverse = _mean(t, each)
    else:
        total = t.reduce("ReduceSum", factor, None, keep=False)
        loss = t.div(t.reduce("ReduceSum", each, None, keep=False), total)
        inverse = t.unary("Reciprocal", total)
    scale = inverse if kept is None else t.mul(t.unsqueeze(kept, [1]), inverse)
    weighted = t.unary("Exp", logp)
    if classweight is not None:
        weighted = t.mul(weighted, t.reduce("ReduceSum", q, [1]))
    return loss, t.mul(t.sub(weighted, q), scale)


def _one_hot(t: Tape, label: str, classes: str, y: str) -> str:
    """The labels in the shape of ``y``, 1 at their class.

    OneHot makes no doubles on any provider, so these come from whole numbers. An Equal with 0, 1, … would do,
    but from operator set 19 on older CUDA providers have no kernel for it.
    """
    shape, kind = t.shapes[y], t.types[y] if t.types[y] == T.FLOAT else T.INT64
    static = isinstance(shape[1], int)
    depth = (
        t.constant(np.asarray(shape[1], np.int64), "int") if static else t.op("Squeeze", classes, t.ints(0))
    )
    values = t.constant(np.asarray([0, 1], np.float32 if kind == T.FLOAT else np.int64), "off_on")
    out = t.op("OneHot", label, depth, values, axis=1)
    t.types[out], t.shapes[out] = kind, shape
    return t.cast(out, t.types[y])


def bce_with_logits(t: Tape, y: str, label: str, o: Mapping[str, Any]) -> tuple[str, str]:
    """max(y, 0) − y·label + log(1 + e^−|y|); pos_weight w multiplies the part of label 1."""
    x = t.unary("Softplus", t.unary("Neg", t.unary("Abs", y)))
    negative = t.unary("Relu", t.unary("Neg", y))
    w = o["pos_weight"]
    if w is None:
        each = t.add(t.sub(t.unary("Relu", y), t.mul(y, label)), x)
        slope = t.sub(t.unary("Sigmoid", y), label)
    else:
        number = t.constant(np.asarray(w, t.dtype(y)), "pos_weight")
        factor = t.add(t.mul(t.sub(number, 1.0), label), 1.0)
        each = t.add(t.mul(t.sub(1.0, label), y), t.mul(factor, t.add(x, negative)))
        slope = t.sub(t.sub(1.0, label), t.mul(factor, t.unary("Sigmoid", t.unary("Neg", y))))
    loss, inverse = _mean(t, each)
    return loss, t.mul(slope, inverse)


def mse(t: Tape, y: str, label: str, _: Mapping[str, Any]) -> tuple[str, str]:
    """(y − label)²"""
    d = t.sub(y, label)
    loss, inverse = _mean(t, t.mul(d, d))
    return loss, t.mul(t.mul(d, 2.0), inverse)


def l1(t: Tape, y: str, label: str, _: Mapping[str, Any]) -> tuple[str, str]:
    """|y − label|"""
    d = t.sub(y, label)
    loss, inverse = _mean(t, t.unary("Abs", d))
    return loss, t.mul(t.unary("Sign", d), inverse)


def huber(t: Tape, y: str, label: str, o: Mapping[str, Any]) -> tuple[str, str]:
    """½d² up to δ, δ(|d| − ½δ) beyond."""
    delta = float(o["delta"])
    d = t.sub(y, label)
    a = t.unary("Abs", d)
    inside = t.compare("LessOrEqual", a, delta)
    each = t.where(inside, t.mul(t.mul(d, d), 0.5), t.mul(t.sub(a, 0.5 * delta), delta))
    loss, inverse = _mean(t, each)
    slope = t.where(inside, d, t.mul(t.unary("Sign", d), delta))
    return loss, t.mul(slope, inverse)


def kl_divergence(t: Tape, y: str, label: str, _: Mapping[str, Any]) -> tuple[str, str]:
    """Σ label·(log label − y) over the batch size: y are log-probabilities, label probabilities.

    As ``torch.nn.KLDivLoss(reduction="batchmean")``; a label of 0 adds nothing.
    """
    positive = t.compare("Greater", label, 0.0)
    log_label = t.unary("Log", t.where(positive, label, 1.0))
    each = t.mul(label, t.sub(log_label, y))
    batch = t.op("Squeeze", t.dim(y, 0), t.ints(0))
    t.types[batch], t.shapes[batch] = T.INT64, ()
    inverse = t.unary("Reciprocal", t.cast(batch, t.types[y]))
    loss = t.mul(t.reduce("ReduceSum", each, None, keep=False), inverse)
    return loss, t.mul(t.unary("Neg", label), inverse)


def _classes(shape: Dims) -> Dims:
    return (shape[0], *shape[2:])


def _same(shape: Dims) -> Dims:
    return shape


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("softmax_cross_entropy", "cross entropy of softmax(y) with class numbers", softmax_cross_entropy,
             {"label_smoothing": 0.0, "ignore_index": None, "weight": None}, T.INT64, _classes),
        Loss("bce_with_logits", "binary cross entropy of sigmoid(y) with probabilities", bce_with_logits,
             {"pos_weight": None}, None, _same),
        Loss("mse", "mean square error", mse, {}, None, _same),
        Loss("l1", "mean absolute error", l1, {}, None, _same),
        Loss("huber", "Huber's loss", huber, {"delta": 1.0}, None, _same),
        Loss("kl_divergence", "Kullback–Leibler divergence from log-probabilities", kl_divergence, {}, None, _same),
    )
}  # fmt: skip


_REAL = (T.FLOAT, T.DOUBLE, T.FLOAT16, T.BFLOAT16)


def _check_pos_weight(name: str, weight: Any, shape: Dims) -> None:
    own = np.shape(weight) if weight is not None else ()
    last = shape[len(shape) - len(own) :]
    if len(own) > len(shape) or any(
        n != 1 and isinstance(d, int) and n != d for n, d in zip(own, last, strict=False)
    ):
        raise HyperparameterError(
            f"loss {name}: pos_weight expected a number, or numbers that fit the output's last dimensions {list(shape)}, "
            f"found shape {list(own)}"
        )


def build_loss(
    tape: Tape, name: str, output: str, label: str, options: Mapping[str, Any]
) -> tuple[str, str, onnx.ValueInfoProto]:
    """(loss, gradient of ``output``, the graph input for the label).

    Raises:
        HyperparameterError: an unknown loss or option, or an option out of its range.
    """
    if name not in LOSSES:
        raise HyperparameterError(f"unknown loss {name!r}; expected one of {', '.join((*LOSSES, 'output'))}")
    loss = LOSSES[name]
    for key in options:
        if key not in loss.options:
            raise HyperparameterError(
                f"loss {name}: unknown option {key!r}; expected {', '.join(loss.options) or 'none'}"
            )
    if not 0 <= float(options.get("label_smoothing", 0.0)) < 1:
        raise HyperparameterError(
            f"loss {name}: label_smoothing expected a number from 0 to 1, found {options['label_smoothing']}"
        )
    if not float(options.get("delta", 1.0)) > 0:
        raise HyperparameterError(f"loss {name}: delta expected a number above 0, found {options['delta']}")
    if output not in tape.shapes:
        raise ModelError(f"loss {name}: output {output!r} has an unknown rank; export with fixed ranks")
    if tape.types[output] not in _REAL:
        raise ModelError(
            f"loss {name}: output {output!r} expected real numbers, found {T.DataType.Name(tape.types[output])}; take the "
            "one before the ArgMax or Cast"
        )
    _check_pos_weight(name, options.get("pos_weight"), tape.shapes[output])
    kind = loss.label or tape.types[output]
    tape.types[label], tape.shapes[label] = kind, loss.label_shape(tape.shapes[output])
    info = helper.make_tensor_value_info(label, kind, [*tape.shapes[label]])
    made, slope = loss.build(tape, output, label, {**loss.options, **options})
    return made, slope, info
