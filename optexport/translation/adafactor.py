"""Moves of the Adafactor family."""

from __future__ import annotations

from ..ir import ARRAY, mean_axis
from .moves import ANY, Maps, MoveInput, Situation, move

__all__: list[str] = []

INF = float("inf")


def _factored(at: Situation) -> bool:
    return at.options["axes"] not in ("vector", "small")


# The two largest axes are the last two: R and C exchange their places where the last is the smaller.
for _last, _pair, _rows, _columns in (
    ("last_wide", "-2,-1", "row_var", "col_var"),
    ("last_tall", "-1,-2", "col_var", "row_var"),
):

    def _rename(last: str, pair: str, rows: str, columns: str) -> None:
        @move(
            "adafactor",
            "the last two axes are the two largest",
            factoring=("last_axes", "largest_axes"),
            axes=(last, pair),
            drops=("row_var", "col_var"),
        )
        def to_largest(x: MoveInput) -> Maps:
            return {"slot:largest_var": x.slot(rows, ARRAY), "slot:second_var": x.slot(columns, ARRAY)}

        @move(
            "adafactor",
            "the two largest axes are the last two",
            factoring=("largest_axes", "last_axes"),
            axes=(pair, last),
            drops=("largest_var", "second_var"),
        )
        def to_last(x: MoveInput) -> Maps:
            return {
                f"slot:{rows}": x.slot("largest_var", ARRAY),
                f"slot:{columns}": x.slot("second_var", ARRAY),
            }

    _rename(_last, _pair, _rows, _columns)

_KINDS = ("last_axes", "largest_axes", "never")
for _from in _KINDS:
    for _to in _KINDS:
        if _from != _to:

            @move("adafactor", "a vector has no factors", factoring=(_from, _to),
                  when=lambda at: at.options["axes"] == "vector")  # fmt: skip
            def no_factors(x: MoveInput) -> Maps:
                return {}


for _size in (0, 1):

    @move("adafactor", "what is factored is large enough", min_size=(ANY, _size),
          when=lambda at: at.options["axes"] != "small")  # fmt: skip
    def any_size(x: MoveInput) -> Maps:
        return {}


_NEGLIGIBLE = "mean squares of gradients stay far above ε1 = {eps1}, or its square, and never fall to 0"
for _from, _to in (("clamped", "added"), ("added", "clamped")):

    @move(
        "adafactor", "at ε1 = 0 it has one place", eps1=(_from, _to), when=lambda at: at.values["eps1"] == 0
    )
    def no_eps1(x: MoveInput) -> Maps:
        return {}


@move(
    "adafactor",
    "ε1 added becomes ε1 clamped to: as V ≥ ε1² where ε1² was added",
    eps1=("added", "clamped"),
    level="conditional",
    when=lambda at: 0 < at.values["eps1"] <= 1e-20,
    condition=_NEGLIGIBLE,
)
def clamp_eps1(x: MoveInput) -> Maps:
    return {"hyper:eps1": x.hyper("eps1") ** 0.5}


@move(
    "adafactor",
    "ε1 clamped to becomes ε1² added",
    eps1=("clamped", "added"),
    level="conditional",
    when=lambda at: 0 < at.values["eps1"] <= 1e-6,
    condition=_NEGLIGIBLE,
)
def add_eps1(x: MoveInput) -> Maps:
    return {"hyper:eps1": x.hyper("eps1") ** 2.0}


for _from, _to in (("capped", "plain"), ("plain", "capped")):

    @move(
        "adafactor",
        "the learning rate is below 1/√t",
        rate=(_from, _to),
        level="conditional",
        when=lambda at: at.step is None or at.values["lr"] <= (at.step + 1) ** -0.5,
        condition="the learning rate of update t stays at most 1/√t; it is {lr} now",
    )
    def below_cap(x: MoveInput) -> Maps:
        return {}


for _from, _to in (("rms", "rms_decayed"), ("rms_decayed", "rms")):

    @move("adafactor", "without decay before it the parameter is the parameter", scale=(_from, _to),
          when=lambda at: at.options["decay"] != "decoupled" or at.values["weight_decay"] == 0)  # fmt: skip
    def same_scale(x: MoveInput) -> Maps:
        return {}

    @move(
        "adafactor",
        "rms(w) is taken before, or after, the decay",
        scale=(_from, _to),
        level="bounded",
        when=lambda at: (
            at.options["decay"] == "decoupled" and 0 < at.values["lr"] * at.values["weight_decay"] < 1
        ),
        bound_text="ηλ/(1 − ηλ) of the update's length",
    )
    def decayed_scale(x: MoveInput) -> Maps:
        share = x.hyper("lr") * x.hyper("weight_decay")
        return {"bound": share / (1 - share)}


@move("adafactor", "no clip is a clip at ∞", clipping=(False, True))
def add_clip(x: MoveInput) -> Maps:
    return {"hyper:clip_threshold": x.tracer.const(INF)}


@move(
    "adafactor",
    "a clip at ∞ is none",
    clipping=(True, False),
    when=lambda at: at.values["clip_threshold"] == INF,
)
def drop_clip(x: MoveInput) -> Maps:
    return {}


@move("adafactor", "the product of the factors is what they make it", keeps=("factors_and_product", "factors"),
      when=_factored, drops=("variance",))  # fmt: skip
def drop_product(x: MoveInput) -> Maps:
    return {}


@move("adafactor", "a vector has no product of factors", keeps=("factors_and_product", "factors"),
      when=lambda at: not _factored(at))  # fmt: skip
def no_product(x: MoveInput) -> Maps:
    return {}


@move("adafactor", "a vector has no product of factors", keeps=("factors", "factors_and_product"),
      when=lambda at: not _factored(at))  # fmt: skip
def no_product_back(x: MoveInput) -> Maps:
    return {}


@move("adafactor", "the product of the factors is kept", keeps=("factors", "factors_and_product"),
      when=lambda at: at.options["factoring"] == "last_axes" and _factored(at))  # fmt: skip
def keep_product(x: MoveInput) -> Maps:
    rows, columns = x.slot("row_var", ARRAY), x.slot("col_var", ARRAY)
    return {"slot:variance": rows * columns / mean_axis(rows, -2)}


for _kind in ("folded", "folded_param"):

    @move("adafactor", "no mean of the steps is a mean that forgets at once", momentum=("none", _kind))
    def add_momentum(x: MoveInput) -> Maps:
        return {"slot:step_avg": x.tracer.const(0.0), "hyper:beta1": x.tracer.const(0.0)}

    @move("adafactor", "a mean that forgets at once is none", momentum=(_kind, "none"),
          when=lambda at: at.values["beta1"] == 0, drops=("step_avg",))  # fmt: skip
    def drop_momentum(x: MoveInput) -> Maps:
        return {}


@move("adafactor", "the mean of the steps is rounded to float32", momentum=("folded_param", "folded"))
def to_float32(x: MoveInput) -> Maps:
    return {}


@move("adafactor", "the mean of the steps is kept as the parameter is", momentum=("folded", "folded_param"))
def to_own_width(x: MoveInput) -> Maps:
    return {}


def _has_lr(at: Situation) -> bool:
    return at.values["lr"] != 0


@move("adafactor", "λ' = ηλ", decay=("decoupled", "independent"), level="conditional",
      when=lambda at: at.options["scale"] != "rms_decayed", condition="the learning rate stays {lr}")  # fmt: skip
def decay_independent(x: MoveInput) -> Maps:
    return {"hyper:weight_decay": x.hyper("lr") * x.hyper("weight_decay")}


@move("adafactor", "λ = λ'/η", decay=("independent", "decoupled"), level="conditional",
      when=lambda at: _has_lr(at) and at.options["scale"] != "rms_decayed",
      condition="the learning rate stays {lr}")  # fmt: skip
def decay_dependent(x: MoveInput) -> Maps:
    return {"hyper:weight_decay": x.hyper("weight_decay") / x.hyper("lr")}
