"""Verdicts: how exact a translation is, and how verdicts compose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UnknownNameError, VerdictError

__all__ = ["LEVELS", "Verdict", "accept"]

# From best to worst. `conditional` holds under its stated conditions; `bounded` comes with a number;
# `lossy` drops something; `none` cannot be done.
LEVELS = ("exact", "conditional", "bounded", "lossy", "none")


@dataclass(frozen=True)
class Verdict:
    """How exact a translation is.

    level: one of `LEVELS`.
    conditions: what must hold for it, one sentence each.
    bound: largest relative change of an update, evaluated on a state; None where there is none to
        state (exact) or no state to evaluate it on.
    bound_text: the formula behind the number.
    dropped: what the target cannot keep.
    notes: the maps that were applied, in order.
    """

    level: str = "exact"
    conditions: tuple[str, ...] = ()
    bound: float | None = None
    bound_text: str | None = None
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def then(self, other: Verdict) -> Verdict:
        """The verdict of one translation after another: the worse level, the sum of the bounds."""
        bounds = [b for b in (self.bound, other.bound) if b is not None]
        texts = [t for t in (self.bound_text, other.bound_text) if t]
        return Verdict(
            LEVELS[max(LEVELS.index(self.level), LEVELS.index(other.level))],
            _unique((*self.conditions, *other.conditions)),
            sum(bounds) if bounds else None,
            " + ".join(_unique(texts)) or None,
            _unique((*self.dropped, *other.dropped)),
            _unique((*self.notes, *other.notes)),
        )

    def beside(self, other: Verdict) -> Verdict:
        """The verdict over two groups of one optimizer: the worse of each part."""
        joined = self.then(other)
        bounds = [b for b in (self.bound, other.bound) if b is not None]
        return Verdict(
            joined.level,
            joined.conditions,
            max(bounds, default=None),
            joined.bound_text,
            joined.dropped,
            joined.notes,
        )


def accept(verdict: Verdict, allow: str | None, what: str) -> None:
    """Raise unless the verdict needs no consent or ``allow`` gives it.

    allow: None, ``bounded`` or ``lossy`` (which includes bounded).

    Raises:
        UnknownNameError: ``allow`` is none of these.
        VerdictError: one line with the verdict, its reason and the remedy.
    """
    levels = {None: 1, "bounded": 2, "lossy": 3}
    if allow not in levels:
        raise UnknownNameError(f"allow: expected 'bounded' or 'lossy', found {allow!r}")
    consent = levels[allow]
    rank = LEVELS.index(verdict.level)
    if rank <= consent:
        return
    if verdict.level == "none":
        raise VerdictError(
            f"{what}: verdict none: {'; '.join(verdict.notes) or 'no map between these rules'}; "
            "write the rule itself for the target with --emit-optimizer FILE, or choose another --optimizer"
        )
    detail = "; ".join(verdict.dropped) if verdict.level == "lossy" else verdict.bound_text or ""
    number = "" if verdict.bound is None else f" = {verdict.bound:.3g} on this state"
    loses = "drops " if verdict.level == "lossy" else "an update changes by up to "
    raise VerdictError(
        f"{what}: verdict {verdict.level}: {loses}{detail}{number if verdict.level == 'bounded' else ''}; "
        f"accept it with --allow {verdict.level} (allow={verdict.level!r}), or write the rule itself for the "
        "target with --emit-optimizer FILE"
    )


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
