"""Moves that every family has: what happens to the gradient, and decay that has no effect."""

from __future__ import annotations

from ..rules import families
from .moves import ANY, Maps, MoveInput, Situation, move

__all__: list[str] = []

INF = float("inf")


def _no_decay(at: Situation) -> bool:
    return _one_decay(at) and at.values.get("weight_decay", 0.0) == 0


def _one_decay(at: Situation) -> bool:
    """A family whose tensors have decays of their own has moves of its own (Muon and its Adam)."""
    return sum(name.endswith("weight_decay") for name in families()[at.family].hyperparameters) < 2


@move("*", "decay of 0 is no decay", decay=(ANY, "none"), when=_no_decay)
def drop_zero_decay(x: MoveInput) -> Maps:
    return {}


def _add_decay(kind: str) -> None:
    @move("*", "no decay is decay of 0", decay=("none", kind), when=_one_decay)
    def add_zero_decay(x: MoveInput) -> Maps:
        return {"hyper:weight_decay": x.tracer.const(0.0)}


for _kind in ("l2", "decoupled", "decoupled_last", "independent"):
    _add_decay(_kind)


@move(
    "*",
    "decay is dropped",
    decay=(ANY, "none"),
    level="lossy",
    when=lambda at: _one_decay(at) and not _no_decay(at),
    dropped="weight_decay {weight_decay} (the target has no decay of this kind)",
)
def drop_decay(x: MoveInput) -> Maps:
    return {}


@move("*", "ascent is descent on the negated gradient", maximize=(True, False), rescale=(ANY, True))
def negate_gradient(x: MoveInput) -> Maps:
    return {"hyper:rescale_grad": x.tracer.const(-1.0)}


@move("*", "descent on the negated gradient is ascent", maximize=(False, True), rescale=(True, False),
      when=lambda at: at.values["rescale_grad"] == -1)  # fmt: skip
def ascend(x: MoveInput) -> Maps:
    return {}


@move(
    "*", "a factor of 1 is no factor", rescale=(True, False), when=lambda at: at.values["rescale_grad"] == 1
)
def drop_unit_rescale(x: MoveInput) -> Maps:
    return {}


@move("*", "no factor is a factor of 1", rescale=(False, True))
def add_unit_rescale(x: MoveInput) -> Maps:
    return {"hyper:rescale_grad": x.tracer.const(1.0)}


@move(
    "*",
    "the gradient's factor moves to the caller",
    rescale=(True, False),
    level="conditional",
    when=lambda at: at.values["rescale_grad"] not in (1, -1),
    condition="every gradient is multiplied by {rescale_grad} before it reaches the optimizer",
)
def rescale_outside(x: MoveInput) -> Maps:
    return {}


@move(
    "*", "an infinite clip is no clip", clip=(ANY, "none"), when=lambda at: at.values["clip_gradient"] == INF
)
def drop_open_clip(x: MoveInput) -> Maps:
    return {}


@move(
    "*",
    "clipping is dropped",
    clip=(ANY, "none"),
    level="lossy",
    when=lambda at: at.values["clip_gradient"] != INF,
    dropped="clip_gradient {clip_gradient} (clip gradients before they reach the optimizer)",
)
def drop_clip(x: MoveInput) -> Maps:
    return {}


def _l2(at: Situation) -> bool:
    return at.options.get("decay") == "l2" and not _no_decay(at)


@move(
    "*",
    "without L2 decay the clip has one place",
    clip=("before_decay", "after_decay"),
    when=lambda a: not _l2(a),
)
def clip_after(x: MoveInput) -> Maps:
    return {}


@move(
    "*",
    "without L2 decay the clip has one place",
    clip=("after_decay", "before_decay"),
    when=lambda a: not _l2(a),
)
def clip_before(x: MoveInput) -> Maps:
    return {}


# Over the reals a rule is the same whatever its scalars are rounded to. In numbers the largest
# effect is on 1 − β: a decay of 0.999 in float32 makes it 1.3e-5 larger.
_ROUNDED = {
    "float64": "scalars stay in double",
    "float32": "the kernel rounds its scalars to float32 (0.999 changes 1 − β by a 1.3e-5th)",
    "attributes": "hyperparameters become float32 attributes (0.999 changes 1 − β by a 1.3e-5th)",
}


def _round(start: str, to: str) -> None:
    @move("*", _ROUNDED[to], scalars=(start, to))
    def round_scalars(x: MoveInput) -> Maps:
        return {}


for _start in _ROUNDED:
    for _to in _ROUNDED:
        if _start != _to:
            _round(_start, _to)
