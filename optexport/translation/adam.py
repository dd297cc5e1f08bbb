"""Moves of the Adam family."""

from __future__ import annotations

from ..ir import absolute, maximum, sqrt
from .adaptive import eps_change, eps_root_moves, next_c2
from .moves import Maps, MoveInput, Situation, move

__all__: list[str] = []


def _corrects(at: Situation) -> bool:
    return at.options["bias_correction"] == "both"


eps_root_moves("adam")


def _one_place(at: Situation) -> bool:
    """Without a correction of v after its maximum there is nothing for ε to be before or after."""
    return at.options["bias_correction"] == "none" or at.options["amsgrad"] == "corrected"


for _from, _to in (("outside", "hat"), ("hat", "outside")):

    @move("adam", "at ε = 0 it has one place", eps=(_from, _to),
          when=lambda at: at.values["eps"] == 0 and not at.options["eps_root"])  # fmt: skip
    def no_eps(x: MoveInput) -> Maps:
        return {}

    @move("adam", "where v is not corrected ε has one place", eps=(_from, _to), when=_one_place)
    def no_correction(x: MoveInput) -> Maps:
        return {}

    @move(
        "adam",
        "ε keeps its value and changes its place",
        eps=(_from, _to),
        level="bounded",
        when=lambda at: (
            _corrects(at) and not _one_place(at) and at.values["eps"] != 0 and not at.options["eps_root"]
        ),
        bound_text="ε(1/√c2 − 1)/(√v̂ + ε), falling to 0 as t grows",
    )
    def move_eps(x: MoveInput) -> Maps:
        return {"bound": eps_change(x)}


@move("adam", "T counts from 0 what t counts from 1", bias_correction=("both", "from_zero"))
def count_from_zero(x: MoveInput) -> Maps:
    return {"step": x.step + 1}


@move(
    "adam",
    "t counts from 1 what T counts from 0",
    bias_correction=("from_zero", "both"),
    level="conditional",
    when=lambda at: at.step != 0,
    condition="at least one update was made",
)
def count_from_one(x: MoveInput) -> Maps:
    return {"step": maximum(x.step - 1, 0.0)}


for _from, _to in (("both", "none"), ("none", "both")):

    @move(
        "adam",
        "bias correction ends, or starts",
        bias_correction=(_from, _to),
        level="bounded",
        when=lambda at: at.options["eps"] == "hat" and at.options["amsgrad"] != "corrected",
        bound_text="|√c2/c1 − 1|, falling to 0 as t grows",
    )
    def change_correction(x: MoveInput) -> Maps:
        c1 = 1 - x.hyper("beta1") ** (x.step + 1)
        return {"bound": absolute(sqrt(next_c2(x)) / c1 - 1)}


for _kind in ("raw", "corrected"):

    @move(
        "adam",
        "the running maximum is dropped",
        amsgrad=(_kind, "none"),
        level="lossy",
        dropped="max_exp_avg_sq (the target does not keep a maximum)",
        drops=("max_exp_avg_sq",),
    )
    def drop_maximum(x: MoveInput) -> Maps:
        return {}


def _corrects_square(at: Situation) -> bool:
    return at.options["bias_correction"] in ("both", "square") and at.options["eps"] == "outside"


for _from, _to in (("raw", "corrected"), ("corrected", "raw")):

    @move("adam", "without its correction v has one maximum", amsgrad=(_from, _to),
          when=lambda at: at.options["bias_correction"] in ("none", "mean"))  # fmt: skip
    def one_maximum(x: MoveInput) -> Maps:
        return {}


# max v_s/c2_s cannot be had from max v_s. With c2 of the next update the next update is the same;
# later ones divide the old maximum by that c2 or by their own, which grows to 1.
@move("adam", "x' = x/c2: the maximum is corrected for the next update", amsgrad=("raw", "corrected"),
      level="bounded", when=_corrects_square, bound_text="1 − √c2, falling to 0 as t grows")  # fmt: skip
def correct_maximum(x: MoveInput) -> Maps:
    c2 = next_c2(x)
    return {"slot:max_exp_avg_sq": x.slot("max_exp_avg_sq") / c2, "bound": 1 - sqrt(c2)}


@move("adam", "x' = x·c2: the correction of the next update is taken off", amsgrad=("corrected", "raw"),
      level="bounded", when=_corrects_square, bound_text="1/√c2 − 1, falling to 0 as t grows")  # fmt: skip
def uncorrect_maximum(x: MoveInput) -> Maps:
    c2 = next_c2(x)
    return {"slot:max_exp_avg_sq": x.slot("max_exp_avg_sq") * c2, "bound": 1 / sqrt(c2) - 1}


for _from, _to in (("decoupled", "decoupled_last"), ("decoupled_last", "decoupled")):

    @move(
        "adam",
        "decay moves to the other end of the update",
        decay=(_from, _to),
        level="bounded",
        bound_text="η|λ| of the update's length",
    )
    def decay_end(x: MoveInput) -> Maps:
        return {"bound": absolute(x.hyper("lr") * x.hyper("weight_decay"))}


def _has_lr(at: Situation) -> bool:
    return at.values["lr"] != 0


_STAYS = "the learning rate stays {lr}"


@move("adam", "λ_post = ηλ", decay=("decoupled_last", "none"), post_decay=(False, True), level="conditional",
      condition=_STAYS)  # fmt: skip
def decay_post(x: MoveInput) -> Maps:
    return {"hyper:post_decay": x.hyper("lr") * x.hyper("weight_decay")}


@move("adam", "λ = λ_post/η", decay=("none", "decoupled_last"), post_decay=(True, False), level="conditional",
      when=_has_lr, condition=_STAYS)  # fmt: skip
def decay_unpost(x: MoveInput) -> Maps:
    return {"hyper:weight_decay": x.hyper("post_decay") / x.hyper("lr")}


@move("adam", "λ' = ηλ", decay=("decoupled", "independent"), level="conditional", condition=_STAYS)
def decay_independent(x: MoveInput) -> Maps:
    return {"hyper:weight_decay": x.hyper("lr") * x.hyper("weight_decay")}


@move(
    "adam",
    "λ = λ'/η",
    decay=("independent", "decoupled"),
    level="conditional",
    when=_has_lr,
    condition=_STAYS,
)
def decay_dependent(x: MoveInput) -> Maps:
    return {"hyper:weight_decay": x.hyper("weight_decay") / x.hyper("lr")}


@move(
    "adam", "post decay of 0 is none", post_decay=(True, False), when=lambda at: at.values["post_decay"] == 0
)
def drop_post(x: MoveInput) -> Maps:
    return {}


@move("adam", "no post decay is post decay of 0", post_decay=(False, True))
def add_post(x: MoveInput) -> Maps:
    return {"hyper:post_decay": x.tracer.const(0.0)}


@move("adam", "post decay is dropped", post_decay=(True, False), level="lossy",
      when=lambda at: at.values["post_decay"] != 0,
      dropped="norm_coefficient_post {post_decay} (the target has no decay after the update)")  # fmt: skip
def lose_post(x: MoveInput) -> Maps:
    return {}
