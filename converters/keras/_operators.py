"""The table from the IR's operators to ``keras.ops``."""

from __future__ import annotations

from optexport.source import Operators

__all__ = ["OPERATORS"]

_ELEMENTWISE = ("sqrt", "exp", "log", "abs")
_PAIRS = {"min": "minimum", "max": "maximum"}

_HELPERS = {
    "scalar_dtype": '''\
def scalar_dtype():
    """float64; float32 on JAX without its 64-bit mode."""
    if keras.config.backend() != "jax":
        return "float64"
    return keras.backend.standardize_dtype(ops.convert_to_tensor(np.zeros((), "float64")).dtype)
''',
    "tensor": '''\
def tensor(x, dtype):
    """A number or a tensor in ``dtype``."""
    if isinstance(x, (int, float)):
        return ops.convert_to_tensor(x, dtype)  # not ops.cast: TensorFlow's goes through float32
    return ops.cast(ops.convert_to_tensor(x), dtype)
''',
    "cast": '''\
def cast(x, like):
    """A number or a tensor in the dtype of the tensor ``like``."""
    return tensor(x, like.dtype)
''',
    "scalar": '''\
def scalar(x):
    """A number, a tensor or a variable as a tensor without dimensions, in `scalar_dtype`."""
    return tensor(x, scalar_dtype())
''',
    "full": '''\
def full(x, like):
    """A tensor like ``like`` filled with ``x``."""
    return ops.broadcast_to(cast(x, like), like.shape)
''',
    "own": '''\
def own(name):
    """A function of the backend's own: that of keras.ops takes float64 to float32 on some backends."""
    import importlib

    modules = {"jax": "jax.numpy", "torch": "torch", "tensorflow": "tensorflow"}
    return getattr(importlib.import_module(modules[keras.config.backend()]), name)
''',
    "minimum": '''\
def minimum(x, y):
    """The smaller, elementwise, in the dtype of the tensor ``x``."""
    return own("minimum")(x, cast(y, x))
''',
    "maximum": '''\
def maximum(x, y):
    """The larger, elementwise, in the dtype of the tensor ``x``."""
    return own("maximum")(x, cast(y, x))
''',
    "choose": '''\
def choose(condition, a, b):
    """``a`` where the condition holds, else ``b``; numbers are scalars."""
    a, b = (scalar(x) if isinstance(x, (int, float)) else x for x in (a, b))
    return ops.where(condition, a, b)
''',
    "sign": '''\
def sign(x):
    """-1, 0 or 1; NaN stays NaN on every backend."""
    return ops.where(ops.isnan(x), x, ops.sign(x))
''',
    "wide": '''\
def wide(x):
    """A tensor in `scalar_dtype`, to add it up."""
    return ops.cast(x, scalar_dtype())
''',
    "mean": '''\
def mean(x):
    """Mean over all elements; ops.mean adds up in float32."""
    return ops.sum(wide(x)) / math.prod(x.shape)
''',
    "mean_along": '''\
def mean_along(x, axis):
    """Mean over one axis, which stays; ops.mean adds up in float32."""
    return ops.sum(x, axis=axis, keepdims=True) / x.shape[axis]
''',
    "mean_rest": '''\
def mean_rest(x):
    """Mean over all axes but the first, which stay; 0 for a vector. ops.mean adds up in float32."""
    rest = tuple(range(1, len(x.shape)))
    return ops.sum(x, axis=rest, keepdims=True) / math.prod(x.shape[1:]) if rest else ops.zeros_like(x)
''',
    "norm": '''\
def norm(x):
    """L2 norm over all elements."""
    return ops.sqrt(ops.sum(ops.square(wide(x))))
''',
    "rounded": '''\
def rounded(x, dtype):
    """A tensor rounded to ``dtype``, in its own dtype."""
    if keras.config.backend() == "jax":
        import jax  # XLA drops a cast there and back

        bits = {"bfloat16": (8, 7), "float16": (5, 10), "float32": (8, 23)}
        return jax.lax.reduce_precision(x, *bits[dtype])
    return ops.cast(ops.cast(x, dtype), x.dtype)
''',
    "f32": '''\
def f32(x):
    """``x`` rounded to float32: what a float32 kernel receives. A number stays one."""
    if isinstance(x, (int, float)):
        with np.errstate(over="ignore"):
            return float(np.float32(x))
    return rounded(scalar(x), "float32")
''',
    "one_minus_power": '''\
def one_minus_power(base, exponent):
    """1 - base**exponent; in float32 by expm1, which keeps the digits that the difference loses."""
    narrow = keras.backend.standardize_dtype(exponent.dtype) == "float32"
    if narrow and isinstance(base, (int, float)) and base > 0:
        return -ops.expm1(exponent * math.log(base))
    return 1 - base**exponent
''',
    "push": '''\
def push(history, x):
    """The history without its first item, ``x`` at its end."""
    return ops.concatenate([history[1:], ops.expand_dims(x, 0)], axis=0)
''',
    "stored": '''\
def stored(x, dtype):
    """What a scalar slot holds."""
    return tensor(x, "float32" if dtype == "float32" else scalar_dtype())
''',
}

OPERATORS = Operators(
    functions={
        **{op: f"ops.{op}({{0}})" for op in _ELEMENTWISE},
        **{op: f"{name}({{0}}, {{1}})" for op, name in _PAIRS.items()},
        "floor": 'own("floor")({0})',
        "cos": 'own("cos")({0})',
        "sign": "sign({0})",
        "where": "choose({0}, {1}, {2})",
        "sum": "ops.sum(wide({0}))",
        "mean": "mean({0})",
        "norm": "norm({0})",
        "sum_axis": "ops.sum({0}, axis={attr}, keepdims=True)",
        "mean_axis": "mean_along({0}, {attr})",
        "max_axis": "ops.max({0}, axis={attr}, keepdims=True)",
        "mean_rest": "mean_rest({0})",
        "matmul": "(({0}) @ ({1}))",
        "transpose": "ops.swapaxes({0}, -1, -2)",
        "expand": "ops.broadcast_to({0}, param.shape)",
        "item": "({0})[{attr}]",
        "push": "push({0}, {1})",
        "size": "math.prod(({0}).shape)",
        "size_along": "({0}).shape[{attr}]",
        "rounded": 'rounded({0}, "{attr}")',
    },
    scalar_bound={op: f"{name}({{0}}, {{1}})" for op, name in _PAIRS.items()},
    full="full({0}, param)",
    zeros="ops.zeros_like(param)",
    copy="ops.copy({0})",
    # PyTorch computes number / tensor as number · (1 / tensor), which rounds twice.
    lift={"div": (0,)},
    modules=("keras", "ops", "math", "np", "jax", "importlib"),
    helpers=_HELPERS,
    filled="ops.broadcast_to(cast({0}, param), {shape})",
    array_scalar="cast({0}, param)",
    scalar_slot='stored({0}, "{dtype}")',
    read_scalar="scalar({0})",
    refused={
        "noise": "a Keras optimizer keeps no random state that a compiled step would advance",
        "hessian": "Keras gives an optimizer gradients alone",
    },
    traced=True,
    scalars={
        **{op: f"ops.{op}(scalar({{0}}))" for op in _ELEMENTWISE},
        **{op: f"{name}(scalar({{0}}), {{1}})" for op, name in _PAIRS.items()},
        "floor": 'own("floor")(scalar({0}))',
        "cos": 'own("cos")(scalar({0}))',
        "sign": "sign(scalar({0}))",
    },
    # Python raises where it divides two numbers, or takes a power, without a value.
    careful={"div": "ops.divide(scalar({0}), scalar({1}))", "pow": "ops.power(scalar({0}), scalar({1}))"},
    hyper='hyper["{name}"]',
    meet="cast({0}, param)",
    complement="one_minus_power({0}, {1})",
)
