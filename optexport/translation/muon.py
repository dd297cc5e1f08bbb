"""Moves of the Muon family."""

from __future__ import annotations

from collections.abc import Callable

from ..ir import absolute, minimum
from .moves import ANY, Maps, MoveInput, Situation, move

__all__: list[str] = []


def _matrix(at: Situation) -> bool:
    return at.options["shape"] != "other"


def _adams(at: Situation) -> bool:
    """Whether the tensor is moved by the Adam beside Muon."""
    return not _matrix(at) and at.options["others"] not in ("none", "momentum")


def _decay_name(at: Situation) -> str:
    """Whose decay this tensor has: Muon's, or its own where Adam moves it."""
    own = _adams(at) and at.options["decay"] == "decoupled"
    return "adam_weight_decay" if own else "weight_decay"


def _decay(at: Situation) -> float:
    return at.values.get(_decay_name(at), 0.0)


@move("muon", "decay of 0 is no decay", decay=(ANY, "none"), when=lambda at: _decay(at) == 0)
def drop_zero_decay(x: MoveInput) -> Maps:
    return {}


@move("muon", "no decay is decay of 0", decay=("none", "decoupled"))
def add_zero_decay(x: MoveInput) -> Maps:
    return {f"hyper:{name}": x.tracer.const(0.0) for name in ("weight_decay", "adam_weight_decay")}


def _l2() -> None:
    @move("muon", "no decay is decay of 0", decay=("none", "l2"))
    def add_zero_decay(x: MoveInput) -> Maps:
        return {"hyper:weight_decay": x.tracer.const(0.0)}


_l2()

for _name in ("weight_decay", "adam_weight_decay"):

    @move("muon", "decay is dropped", decay=(ANY, "none"), level="lossy",
          when=lambda at, of=_name: _decay_name(at) == of and _decay(at) != 0,
          dropped=f"{_name} {{{_name}}} (the target has no decay of this kind)")  # fmt: skip
    def drop_decay(x: MoveInput) -> Maps:
        return {}


_OTHERS = ("none", "adam", "nadam", "adam_hat", "momentum")
for _to in _OTHERS:

    @move("muon", "a matrix is no other parameter", others=(ANY, _to), when=_matrix)
    def idle_others(x: MoveInput) -> Maps:
        return {}


def _exact_iterations(at: Situation) -> bool:
    """A factor on the direction changes what rounds to bfloat16."""
    return _matrix(at) and at.options["precision"] == "tensor"


def _given_eps(at: Situation) -> bool:
    return _exact_iterations(at) and at.options["norm"] != "added_constant"


def _constant_eps(at: Situation) -> bool:
    return _exact_iterations(at) and at.options["norm"] == "added_constant"


# The direction has the factor too, so ε follows it where it can.
for _guard, _level in ((_given_eps, "exact"), (_constant_eps, "conditional")):

    def _rescale(level: str, when: Callable[[Situation], bool], condition: str) -> None:
        @move("muon", "M = B/(1−μ): a mean becomes a sum", momentum=("mean", "sum"), level=level,
              when=when, condition=condition)  # fmt: skip
        def to_sum(x: MoveInput) -> Maps:
            factor = 1 / (1 - x.hyper("momentum"))
            maps = {"slot:momentum_buffer": x.slot("momentum_buffer") * factor}
            return maps if level != "exact" else {**maps, "hyper:eps": x.hyper("eps") * factor}

        @move("muon", "B = (1−μ)M: a sum becomes a mean", momentum=("sum", "mean"), level=level,
              when=when, condition=condition)  # fmt: skip
        def to_mean(x: MoveInput) -> Maps:
            factor = 1 - x.hyper("momentum")
            maps = {"slot:momentum_buffer": x.slot("momentum_buffer") * factor}
            return maps if level != "exact" else {**maps, "hyper:eps": x.hyper("eps") * factor}

    _rescale(_level, _guard, "" if _level == "exact" else "the direction's norm stays far above 10⁻⁷")


for _from in ("mean", "sum", "corrected"):
    for _to in ("mean", "sum", "corrected"):
        if _from != _to:

            @move("muon", "what is no matrix has Adam's mean", momentum=(_from, _to), when=_adams)
            def idle_momentum(x: MoveInput) -> Maps:
                return {}


for _from, _to in (("mean", "corrected"), ("corrected", "mean")):

    @move(
        "muon",
        "a factor on the direction is the norm's to remove",
        momentum=(_from, _to),
        level="conditional",
        when=lambda at: _exact_iterations(at) and at.options["nesterov"] == "none" and _eps(at) <= 1e-5,
        condition="the direction's norm stays far above ε",
    )
    def scaled_mean(x: MoveInput) -> Maps:
        return {}

    # What another factor rounds to bfloat16 may be a step of 2⁻⁸ away, which the iterations magnify as well.
    for _precision, _flip in (("tensor", 0.0), ("bfloat16", 2.0**-8)):

        @move(
            "muon",
            "Nesterov's two parts are corrected apart",
            momentum=(_from, _to),
            level="bounded",
            when=lambda at, rounds=_precision: (
                _matrix(at)
                and at.options["nesterov"] == "lookahead"
                and at.options["precision"] == rounds
                and _eps(at) <= 1e-5
            ),
            bound_text="a⁵·(1 − (1−μᵗ)/(1−μᵗ⁺¹)), where the direction is as long as its mean"
            + (", and a⁵·2⁻⁸ where bfloat16 rounds another way" if _flip else "")
            + "; at most twice the update's length; falling as t grows",
        )
        def corrected_parts(x: MoveInput, flip: float = _flip) -> Maps:
            mu, t = x.hyper("momentum"), x.step + 1
            apart = absolute(1 - (1 - mu**t) / (1 - mu ** (t + 1))) + flip
            return {"bound": minimum(2.0, absolute(x.hyper("ns_a")) ** 5.0 * apart)}


def _eps(at: Situation) -> float:
    return at.values.get("eps", 1e-7)


_FORMS = ("clamped", "added", "added_constant")
for _from in _FORMS:
    for _to in _FORMS:
        if _from == _to:
            continue

        @move("muon", "what is no matrix has no norm", norm=(_from, _to),
              when=lambda at: not _matrix(at) and at.options["others"] != "none")  # fmt: skip
        def idle_norm(x: MoveInput) -> Maps:
            return {}

        @move(
            "muon",
            "ε beside the norm",
            norm=(_from, _to),
            level="conditional",
            when=lambda at: _matrix(at) and 0 < _eps(at) <= 1e-5,
            condition="the direction's norm stays far above ε, 10⁻⁷ where it is no argument",
        )
        def small_eps(x: MoveInput) -> Maps:
            return {}


for _from, _to in (("clamped", "added"), ("added", "clamped")):

    @move("muon", "at ε = 0 the norm has one form", norm=(_from, _to),
          when=lambda at: _matrix(at) and at.values["eps"] == 0)  # fmt: skip
    def no_eps(x: MoveInput) -> Maps:
        return {}


for _from, _to in (("bfloat16", "tensor"), ("tensor", "bfloat16")):

    @move(
        "muon",
        "Newton–Schulz leaves, or enters, bfloat16",
        precision=(_from, _to),
        level="bounded",
        when=_matrix,
        bound_text="3·√17·2⁻⁹·a: the roundings of 17 results to bfloat16, magnified by Newton–Schulz' slope at 0",
    )
    def round_iterations(x: MoveInput) -> Maps:
        return {"bound": 3 * 17**0.5 * 2.0**-9 * absolute(x.hyper("ns_a"))}

    @move("muon", "what is no matrix has no iterations", precision=(_from, _to),
          when=lambda at: not _matrix(at) and at.options["others"] != "none")  # fmt: skip
    def idle_precision(x: MoveInput) -> Maps:
        return {}


def _scale(kind: str) -> None:
    """Between the factors of a shape: one learning rate cannot make up for it over several shapes."""

    @move("muon", "what is no matrix has no factor", scale=(ANY, kind),
          when=lambda at: not _matrix(at) and at.options["others"] != "none")  # fmt: skip
    def idle_scale(x: MoveInput) -> Maps:
        return {}


for _kind in ("none", "rows", "columns", "rms"):
    _scale(_kind)
for _from, _to in (("none", "rows"), ("rows", "none")):

    @move("muon", "a matrix with no more rows than columns has s = 1", scale=(_from, _to),
          when=lambda at: at.options["shape"] == "wide")  # fmt: skip
    def wide_rows(x: MoveInput) -> Maps:
        return {}


for _from, _to in (("none", "columns"), ("columns", "none")):

    @move("muon", "a matrix with more rows than columns has s = 1", scale=(_from, _to),
          when=lambda at: at.options["shape"] == "tall")  # fmt: skip
    def tall_columns(x: MoveInput) -> Maps:
        return {}


def _corrected(at: Situation) -> bool:
    return not _matrix(at) and at.options["others"] in ("adam", "adam_hat")


for _from, _to in (("adam", "adam_hat"), ("adam_hat", "adam")):

    @move(
        "muon",
        "ε of Adam keeps its value and changes its place",
        others=(_from, _to),
        level="bounded",
        when=lambda at: (
            _corrected(at)
            and at.values.get("adam_eps_root", 0.0) == 0
            and at.values.get("adam_lr_ratio", 1.0) == 1
        ),
        bound_text="1/√c2 − 1 at the most, where √v̂ is far below ε; falling to 0 as t grows",
    )
    def move_eps(x: MoveInput) -> Maps:
        c2 = 1 - x.hyper("beta2") ** (x.step + 1)
        return {"bound": 1 / c2**0.5 - 1}
