"""How the axes of one tensor become those of another: ``o (c h w) -> (h w c) o``.

Every axis has a name; parentheses join axes into one, the last of them moving fastest, and ``1`` is an
axis of one element. Nothing is added or left out, so the way back is the same text the other way round.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..errors import NamingError

__all__ = ["Axes"]

Side = tuple[tuple[str, ...], ...]
_TOKEN = re.compile(r"\s*(?:([A-Za-z_][A-Za-z0-9_]*)|([()1]))")
# NumPy's own limit before version 2.
_MOST = 32


@dataclass(frozen=True)
class Axes:
    """One rearrangement of axes.

    left, right: the axes before and after; each is a tuple of the named axes that make it up.
    sizes: of named axes that the tensor's shape does not tell.
    """

    left: Side
    right: Side
    sizes: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def parse(text: str, sizes: Mapping[str, int] | None = None) -> Axes:
        """From text.

        Raises:
            NamingError: it is none, or its two sides do not have the same axes.
        """
        sides = text.split("->")
        if len(sides) != 2:
            raise NamingError(f"axes {text!r}: expected two sides, as in 'out in -> in out'")
        left, right = (_side(side, text) for side in sides)
        names = [[n for axis in side for n in axis] for side in (left, right)]
        if any(len(set(n)) != len(n) for n in names) or set(names[0]) != set(names[1]):
            raise NamingError(f"axes {text!r}: expected the same axes on both sides, each once")
        unknown = sorted(set(sizes or {}) - set(names[0]))
        if unknown:
            raise NamingError(f"axes {text!r}: a size is given for {unknown[0]!r}, which is not among them")
        return Axes(left, right, dict(sizes or {}))

    @staticmethod
    def permuted(order: Sequence[int]) -> Axes:
        """The axes in another order, ``order[i]`` being the old place of axis ``i``.

        Raises:
            NamingError: an axis is missing or there twice.
        """
        if sorted(order) != list(range(len(order))) or len(order) > _MOST:
            raise NamingError(
                f"transpose {list(order)}: expected each axis from 0 to {len(order) - 1} once, as in [1, 0]"
            )
        return Axes(tuple((f"a{i}",) for i in range(len(order))), tuple((f"a{i}",) for i in order))

    @property
    def text(self) -> str:
        return " -> ".join(
            " ".join(axis[0] if len(axis) == 1 else f"({' '.join(axis)})" if axis else "1" for axis in side)
            for side in (self.left, self.right)
        )

    @cached_property
    def order(self) -> tuple[int, ...] | None:
        """Old place of each new axis, where no axis is cut or joined; else None."""
        if any(len(axis) != 1 for axis in (*self.left, *self.right)):
            return None
        return tuple(self.left.index(axis) for axis in self.right)

    def reversed(self) -> Axes:
        """The way back."""
        return Axes(self.right, self.left, self.sizes)

    def named_sizes(self, shape: Sequence[int], where: str) -> dict[str, int]:
        """Axis name -> size, for a tensor of this shape.

        Raises:
            NamingError: the shape does not fit, or does not tell a size.
        """
        if len(shape) != len(self.left):
            raise NamingError(
                f"{where}: axes {self.text!r}: expected {len(self.left)} axes, found shape {list(shape)}"
            )
        sizes = dict(self.sizes)
        for axis, size in zip(self.left, shape, strict=True):
            unknown = [n for n in axis if n not in sizes]
            if len(unknown) > 1:
                raise NamingError(
                    f"{where}: axes {self.text!r}: the sizes of {' and '.join(unknown)} are not known; give all but "
                    "one in 'sizes'"
                )
            known = math.prod(sizes[n] for n in axis if n in sizes)
            if unknown and known and size % known == 0:
                sizes[unknown[0]] = size // known
            elif unknown or known != size:
                raise NamingError(
                    f"{where}: axes {self.text!r}: expected {' · '.join(axis) or '1'} elements, found {size} in shape "
                    f"{list(shape)}"
                )
        return sizes

    def shape(self, shape: Sequence[int], where: str) -> tuple[int, ...]:
        """The shape afterwards. Raises NamingError as `named_sizes`."""
        sizes = self.named_sizes(shape, where)
        return tuple(math.prod(sizes[n] for n in axis) for axis in self.right)

    def apply(self, array: np.ndarray, where: str, lead: int = 0) -> np.ndarray:
        """The tensor afterwards: a view where no axes are joined that lie apart.

        lead: leading axes that stay as they are. Raises NamingError as `named_sizes`.
        """
        head, shape = array.shape[:lead], array.shape[lead:]
        sizes = self.named_sizes(shape, where)
        before = [n for axis in self.left for n in axis]
        after = [n for axis in self.right for n in axis]
        cut = array.reshape((*head, *(sizes[n] for n in before)))
        moved = cut.transpose((*range(lead), *(lead + before.index(n) for n in after)))
        return moved.reshape((*head, *self.shape(shape, where)))


def _side(text: str, whole: str) -> Side:
    axes: list[tuple[str, ...]] = []
    group: list[str] | None = None
    at = 0
    while text[at:].strip():
        token = _TOKEN.match(text, at)
        if token is None or (token[2] == "(" and group is not None) or (token[2] == ")" and group is None):
            raise NamingError(f"axes {whole!r}: expected names, '1' and pairs of parentheses")
        at = token.end()
        if token[2] == "(":
            group = []
        elif token[2] == ")":
            axes.append(tuple(group or ()))
            group = None
        elif group is not None:
            group += [token[1]] if token[1] else []
        else:
            axes.append((token[1],) if token[1] else ())
    if group is not None or len(axes) > _MOST or sum(map(len, axes)) > _MOST:
        raise NamingError(f"axes {whole!r}: expected closed parentheses and at most {_MOST} axes")
    return tuple(axes)
