"""Moves of the SGD family."""

from __future__ import annotations

from .momentum import has_lr, momentum_moves
from .moves import Maps, MoveInput, Situation, move

__all__: list[str] = []


def _reread_idle(at: Situation) -> bool:
    return at.options["decay"] != "l2" or at.values["weight_decay"] == 0


def _folds(at: Situation) -> bool:
    """A stored momentum that rereads the parameter has the learning rate in it: no unfolded form."""
    return has_lr(at) and (at.options["nesterov"] != "lookahead_reread" or _reread_idle(at))


momentum_moves("sgd", folds=_folds, idle=lambda at: at.options["dampening"] == "none")


def _no_nesterov(at: Situation) -> bool:
    return at.options["nesterov"] == "none"


@move("sgd", "without momentum there is no lookahead", nesterov=("lookahead", "none"),
      when=lambda at: at.options["momentum"] == "none")  # fmt: skip
def drop_idle_nesterov(x: MoveInput) -> Maps:
    return {}


@move("sgd", "without momentum there is no lookahead", nesterov=("none", "lookahead"),
      when=lambda at: at.options["momentum"] == "none")  # fmt: skip
def add_idle_nesterov(x: MoveInput) -> Maps:
    return {}


def _add_dampening(kind: str) -> None:
    @move("sgd", "no dampening is dampening 0", dampening=("none", kind))
    def add_dampening(x: MoveInput) -> Maps:
        return {"hyper:dampening": x.tracer.const(0.0)}

    @move("sgd", "dampening 0 is no dampening", dampening=(kind, "none"),
          when=lambda at: at.values.get("dampening", 0.0) == 0)  # fmt: skip
    def drop_dampening(x: MoveInput) -> Maps:
        return {}


for _kind in ("always", "not_first"):
    _add_dampening(_kind)


@move(
    "sgd",
    "after the first update dampening always holds",
    dampening=("not_first", "always"),
    level="conditional",
    when=lambda at: at.step != 0,
    condition="at least one update was made",
)
def past_first(x: MoveInput) -> Maps:
    return {}


@move(
    "sgd",
    "after the first update the first one's exception is idle",
    dampening=("always", "not_first"),
    level="conditional",
    when=lambda at: at.step != 0,
    condition="at least one update was made",
)
def past_first_back(x: MoveInput) -> Maps:
    return {}


@move(
    "sgd",
    "B' = B/(1−τ), η' = η(1−τ): dampening moves into the learning rate",
    dampening=("always", "none"),
    level="conditional",
    when=lambda at: (
        at.options["momentum"] == "unfolded"
        and _no_nesterov(at)
        and at.options["decay"] != "decoupled"
        and at.values["dampening"] != 1
    ),
    condition="every learning rate, scheduled ones too, is multiplied by 1 − {dampening}",
)
def absorb_dampening(x: MoveInput) -> Maps:
    gain = 1 - x.hyper("dampening")
    return {"slot:momentum_buffer": x.slot("momentum_buffer") / gain, "hyper:lr": x.hyper("lr") * gain}


for _from, _to in (("lookahead", "lookahead_reread"), ("lookahead_reread", "lookahead")):

    @move(
        "sgd",
        "without L2 decay the stored momentum rereads nothing",
        nesterov=(_from, _to),
        when=_reread_idle,
    )
    def same_lookahead(x: MoveInput) -> Maps:
        return {}

    @move(
        "sgd",
        "the stored momentum's decay reads the parameter before, or after, the update",
        nesterov=(_from, _to),
        level="bounded",
        when=lambda at: (
            at.options["momentum"] == "folded" and not _reread_idle(at) and at.values["momentum"] < 1
        ),
        bound_text="η|λ|μ/(1−μ) of the largest displacement so far",
    )
    def reread(x: MoveInput) -> Maps:
        from ..ir import absolute

        mu = x.hyper("momentum")
        return {"bound": absolute(x.hyper("lr") * x.hyper("weight_decay")) * mu / (1 - mu)}


for _from, _to in (("l2", "decoupled"), ("decoupled", "l2")):

    @move("sgd", "without momentum L2 and decoupled decay are one", decay=(_from, _to),
          when=lambda at: at.options["momentum"] == "none" and at.options["clip"] != "after_decay")  # fmt: skip
    def same_decay(x: MoveInput) -> Maps:
        return {}
