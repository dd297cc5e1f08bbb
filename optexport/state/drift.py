"""Two runs over their checkpoints: when they parted, and in which tensors."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import CheckpointError, OptexportError
from .diff import Difference, diff
from .store import detect
from .training import TrainingState

__all__ = ["Drift", "TensorDrift", "drift", "find_series"]


@dataclass(frozen=True)
class TensorDrift:
    """One slot of one parameter. relative: max|a − b| / max|b| at each step, None where one side lacks it or the
    shapes differ. parted: the first step beyond the tolerance."""

    param: str
    slot: str
    steps: tuple[int, ...]
    relative: tuple[float | None, ...]
    parted: int | None

    @property
    def largest(self) -> float | None:
        """None where any step has none: a tensor that is missing is farther than every number."""
        known = [r for r in self.relative if r is not None]
        return max(known, default=0.0) if len(known) == len(self.relative) else None


@dataclass
class Drift:
    """steps: of the checkpoints compared. parted: the first step at which anything differs by more than the
    tolerance. last_equal: the step before it. sentences: rules, hyperparameters, step counts that differ, with the
    step at which they first do. unmatched: files of a step that the other run has not."""

    steps: tuple[int, ...]
    parted: int | None
    last_equal: int | None
    tensors: tuple[TensorDrift, ...]
    sentences: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)


def find_series(where: str) -> list[str]:
    """The checkpoints that a folder, a pattern or a file means, in the order of the numbers in their names.

    Raises:
        CheckpointError: there is none.
    """
    if os.path.isdir(where) and _format(where) is None:
        held = [os.path.join(where, n) for n in os.listdir(where) if not n.startswith(".")]
        found = [p for p in held if _format(p) is not None]
    elif os.path.exists(where):
        found = [where]
    else:
        found = glob.glob(where)
    if not found:
        raise CheckpointError(
            f"{where}: expected a folder, a pattern or a file of checkpoints, found none of any format"
        )
    return sorted(found, key=_natural)


def _format(path: str) -> str | None:
    try:
        return detect(path)
    except OptexportError:
        return None


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (0, p) for p in re.split(r"(\d+)", os.path.basename(path))]


def drift(
    a: Sequence[str],
    b: Sequence[str],
    load: Callable[[str], TrainingState],
    rtol: float = 0.0,
) -> Drift:
    """Compare the checkpoints of two runs that have the same step.

    load: path -> state. rtol: what is no difference. A file that says no step (an SGD of PyTorch) has that of its
    place, or of the last number in its name where all have one.

    Raises:
        CheckpointError: a file cannot be read, two of a run have one step, or no step is in both.
    """
    left, right = _by_step(a, load), _by_step(b, load)
    common = sorted(set(left) & set(right))
    if not common:
        raise CheckpointError(
            f"{a[0]} and {b[0]}: expected checkpoints of the same steps, found {_list(left)} and {_list(right)}"
        )
    found = {step: diff(load(left[step]), load(right[step])) for step in common}
    tensors = _tensors(found, common, rtol)
    said: dict[str, int] = {}
    for step in common:
        for sentence in found[step].sentences:
            said.setdefault(sentence, step)
    firsts = [t.parted for t in tensors if t.parted is not None] + list(said.values())
    parted = min(firsts, default=None)
    return Drift(
        tuple(common),
        parted,
        max((s for s in common if parted is None or s < parted), default=None),
        tensors,
        [f"from step {step}: {sentence}" for sentence, step in said.items()],
        [held[s] for held in (left, right) for s in sorted(held) if s not in common],
    )


def _by_step(paths: Sequence[str], load: Callable[[str], TrainingState]) -> dict[int, str]:
    clocks = [load(p).clock for p in paths]
    if len(set(clocks)) < len(clocks):
        # The optimizer counts nothing: names do, or the order of the files.
        numbers = [re.findall(r"\d+", os.path.basename(p)) for p in paths]
        clocks = [int(n[-1]) for n in numbers] if all(numbers) else list(range(len(paths)))
    if len(set(clocks)) < len(clocks):
        twice = next(c for c in clocks if clocks.count(c) > 1)
        same = [p for p, c in zip(paths, clocks, strict=True) if c == twice]
        raise CheckpointError(
            f"{same[1]}: step {twice} is that of {same[0]} too; expected one checkpoint a step"
        )
    return dict(zip(clocks, paths, strict=True))


def _list(held: dict[int, str]) -> str:
    steps = sorted(held)
    return ", ".join(map(str, steps[:6])) + ("…" if len(steps) > 6 else "")


def _tensors(found: dict[int, Difference], steps: Sequence[int], rtol: float) -> tuple[TensorDrift, ...]:
    values: dict[tuple[str, str], dict[int, float | None]] = {}
    for step in steps:
        for s in found[step].slots:
            values.setdefault((s.param, s.slot), {})[step] = s.relative
    out = []
    for key, held in values.items():
        parted = next((t for t, r in held.items() if r is None or r > rtol), None)
        out.append(TensorDrift(*key, tuple(held), tuple(held.values()), parted))
    return tuple(out)
