"""How a kernel moves over an image: what convolutions and pooling share."""

from __future__ import annotations

from dataclasses import dataclass

from ..backward import Op

__all__ = ["Window", "spatial", "window"]


@dataclass(frozen=True)
class Window:
    """How a kernel moves: one entry a spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    group: int

    def leftover(self, sizes: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, ...]:
        """Elements at the end of each padded axis that the last position does not reach."""
        return tuple(
            n + b + e - ((o - 1) * s + d * (k - 1) + 1)
            for n, b, e, o, s, d, k in zip(
                sizes, self.begin, self.end, out, self.strides, self.dilations, self.kernel, strict=True
            )
        )


def spatial(op: Op, name: str) -> tuple[int, ...]:
    """Spatial sizes of a value. Raises ModelError where they are not known."""
    dims = (op.tape.shapes.get(name) or ())[2:]
    if not dims or not all(isinstance(d, int) for d in dims):
        raise op.error(
            f"{name!r}: expected known spatial sizes, found {list(dims)}; export with fixed image sizes"
        )
    return tuple(int(d or 0) for d in dims)


def window(op: Op, kernel: tuple[int, ...], x: str, y: str) -> Window:
    n = len(kernel)
    strides = tuple(op.attribute("strides") or (1,) * n)
    dilations = tuple(op.attribute("dilations") or (1,) * n)
    pads = tuple(op.attribute("pads") or (0,) * 2 * n)
    auto = op.attribute("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((o - 1) * s + d * (k - 1) + 1 - size, 0)
            for o, s, d, k, size in zip(
                spatial(op, y), strides, dilations, kernel, spatial(op, x), strict=True
            )
        ]
        small, big = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = tuple((*small, *big) if auto == "SAME_UPPER" else (*big, *small))
    return Window(kernel, strides, dilations, pads[:n], pads[n:], op.attribute("group", 1))
