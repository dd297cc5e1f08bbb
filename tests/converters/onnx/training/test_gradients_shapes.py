"""Operators that move elements: every attribute, bounds known and computed, symbolic batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import helper

from .referee import Case, case, check, torch

I64 = np.int64
F = torch.nn.functional
EVERY = ("static", "batch", "free")
FAR = np.iinfo(np.int64).max


def ints(*values: int) -> np.ndarray:
    return np.array(values, I64)


def _reshaping() -> list[Case]:
    made = [
        case("to 2-D", "Reshape", "x s", lambda x: x.reshape(-1, 12), {"x": (2, 3, 4)}, fixed={"s": ints(-1, 12)},
             modes=EVERY),
        case("0 copies", "Reshape", "x s", lambda x: x.reshape(2, 2, 6), {"x": (2, 3, 4)}, fixed={"s": ints(0, 2, -1)},
             modes=EVERY),
        case("of two unknown sizes", "Reshape", "x s", lambda x, s: x.reshape(6, 4), {"x": (2, 3, 4)},
             other={"s": ints(6, 4)}, modes=EVERY),
        case("to a scalar", "Reshape", "x s", lambda x: x.reshape(()), {"x": (1, 1)}, fixed={"s": np.zeros(0, I64)},
             modes=("static", "free")),
        case("axes", "Squeeze", "x a", lambda x: x.squeeze(1).squeeze(2), {"x": (2, 1, 3, 1)}, fixed={"a": ints(1, -1)},
             modes=EVERY),
        case("all", "Squeeze", "x", lambda x: x.squeeze(), {"x": (2, 1, 3, 1)}, modes=("static",)),
        case("axes", "Unsqueeze", "x a", lambda x: x[:, None, :, None], {"x": (2, 3)}, fixed={"a": ints(1, -1)},
             modes=EVERY),
        case("axes in another order", "Unsqueeze", "x a", lambda x: x[None, :, :, None], {"x": (2, 3)},
             fixed={"a": ints(3, 0)}),
        case("newer", "Squeeze", "x a", lambda x: x.squeeze(1), {"x": (2, 1, 3)}, fixed={"a": ints(1)}, opset=21),
        case("newer", "Unsqueeze", "x a", lambda x: x[:, None], {"x": (2, 3)}, fixed={"a": ints(1)}, opset=21),
        case("newer", "Reshape", "x s", lambda x: x.reshape(-1, 2), {"x": (2, 4)}, fixed={"s": ints(-1, 2)}, opset=21),
    ]  # fmt: skip
    for axis in (None, 0, 1, 2, 3, -1):
        given = {} if axis is None else {"axis": axis}
        lead = int(np.prod((2, 3, 4)[: 1 if axis is None else axis if axis >= 0 else axis + 3]))
        made.append(case(f"axis {axis}", "Flatten", "x", lambda x, n=lead: x.reshape(n, -1), {"x": (2, 3, 4)},
                         modes=EVERY, **given))  # fmt: skip
    for perm in (None, (1, 0, 2), (2, 0, 1), (0, 2, 1), (0, 1, 2)):
        given = {} if perm is None else {"perm": perm}
        made.append(case(f"perm {perm}", "Transpose", "x", lambda x, p=perm or (2, 1, 0): x.permute(p),
                         {"x": (2, 3, 4)}, modes=EVERY, **given))  # fmt: skip
    return made


def _repeating() -> list[Case]:
    made = []
    for shape, to in (((4, 3), (2, 4, 3)), ((4, 1), (4, 3)), ((3,), (4, 3)), ((), (2, 3)), ((1, 3, 1), (2, 3, 4)),
                      ((2, 3), (1, 1, 1))):  # fmt: skip
        whole = np.broadcast_shapes(shape, to)
        batch = ("x",) if shape[:1] == whole[:1] else ()
        made.append(case(f"{shape} to {to}", "Expand", "x s", lambda x, w=whole: x.expand(w), {"x": shape},
                         fixed={"s": ints(*to)}, batch=batch, modes=EVERY))  # fmt: skip
    made.append(case("to a computed shape", "Expand", "x s", lambda x, s: x.expand(5, 2, 3), {"x": (2, 1)},
                     other={"s": ints(5, 2, 3)}, modes=EVERY))  # fmt: skip
    for repeats in ((1, 1, 1), (2, 1, 3), (1, 2, 1)):
        made.append(case(f"by {repeats}", "Tile", "x r", lambda x, r=repeats: x.repeat(r), {"x": (2, 3, 2)},
                         fixed={"r": ints(*repeats)}, modes=EVERY))  # fmt: skip
    return made


def _parts() -> list[Case]:
    made = []
    for axis in (0, 1, -1):
        shapes = [[2, 3, 4] for _ in range(3)]
        for i, s in enumerate(shapes):
            s[axis] = i + 1
        batch = () if axis == 0 else ("x", "b", "c")
        made.append(case(f"axis {axis}", "Concat", "x b c", lambda x, b, c, a=axis: torch.cat((x, b, c), a),
                         {n: tuple(s) for n, s in zip("xbc", shapes, strict=True)}, axis=axis, batch=batch,
                         modes=EVERY))  # fmt: skip
    made.append(case("one value twice", "Concat", "x x", lambda x: torch.cat((x, x), 1), {"x": (2, 3)}, axis=1,
                     modes=EVERY))  # fmt: skip
    made.append(case("with one that does not train", "Concat", "x b", lambda x, b: torch.cat((x, b), 1),
                     {"x": (2, 3)}, other={"b": np.ones((2, 2), np.float32)}, axis=1, batch=("x", "b"),
                     doubles=False))  # fmt: skip
    # Split: every part is used, scaled so that a swap is seen; then one part is not used at all.
    for axis, sizes in ((0, (1, 3)), (1, (2, 1, 3)), (-1, (2, 1, 3)), (1, None)):
        n = len(sizes or (1, 2))
        inputs = ["x", "sizes"] if sizes else ["x"]
        attributes: dict[str, Any] = {} if sizes else {"num_outputs": 2}
        shape = (4, 6) if axis in (1, -1) else (4, 3)
        for left_out in (False, True):
            if left_out and axis == -1:
                continue
            used = n - 1 if left_out else n
            nodes = [helper.make_node("Split", inputs, [f"p{i}" for i in range(n)], axis=axis, **attributes)]
            nodes += [helper.make_node("Mul", [f"p{i}", "k"] if i == 0 else [f"p{i}", f"p{i}"], [f"q{i}"])
                      for i in range(used)]  # fmt: skip
            nodes.append(helper.make_node("Concat", [f"q{i}" for i in range(used)], ["y"], axis=axis))

            def f(x: Any, a: int = axis, s: Any = sizes, u: int = used) -> Any:
                parts = torch.split(x, list(s) if s else x.shape[a] // 2, a)
                return torch.cat([3 * parts[0], *(p * p for p in parts[1:u])], a)

            fixed = {"k": np.asarray(3.0)} | ({"sizes": ints(*sizes)} if sizes else {})
            made.append(Case(f"Split axis {axis} sizes {sizes} left out {left_out}", nodes, {"x": shape}, f,
                             fixed=fixed, modes=EVERY if axis else ("static",)))  # fmt: skip
    return made


SLICES: list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...] | None, tuple[int, ...] | None]] = [
    ("one axis", (1,), (3,), (1,), None),
    ("leading axes", (0, 1), (2, 4), None, None),
    ("negative", (-3,), (-1,), (-1,), (1,)),
    ("far", (1, 0), (FAR, FAR), (2, 1), None),
    ("steps", (0,), (5,), (1,), (2,)),
    ("backwards", (-1,), (-FAR,), (1,), (-1,)),
    ("backwards by 2", (4,), (0,), (1,), (-2,)),
    ("two axes with steps", (0, 1), (5, 6), (1, 2), (2, 3)),
    ("step on one of two axes", (1, 0), (4, 6), (1, 2), (1, 2)),
    ("of the batch", (1,), (FAR,), (0,), (1,)),
    ("nothing left out", (0,), (FAR,), (1,), None),
]


def _slices() -> list[Case]:
    made = []
    for name, starts, ends, axes, steps in SLICES:
        over = axes or tuple(range(len(starts)))
        by = steps or (1,) * len(starts)

        def f(
            x: Any, starts: Any = starts, ends: Any = ends, over: Any = over, by: Any = by, **_: Any
        ) -> Any:
            for s, e, a, k in zip(starts, ends, over, by, strict=True):
                places = torch.arange(x.shape[a])[slice(s, e, k) if k > 0 else slice(None)]
                if k < 0:
                    places = torch.tensor(list(range(x.shape[a]))[slice(s, None if e == -FAR else e, k)])
                x = x.index_select(a, places)
            return x

        given = {"s": ints(*starts), "e": ints(*ends)}
        if axes:
            given["a"] = ints(*axes)
        if steps:
            given["k"] = ints(*steps)
        args = f"x s e {'a' if axes else '-' if steps else ''} {'k' if steps else ''}"
        made.append(case(name, "Slice", args, f, {"x": (3, 5, 6)}, fixed=given, modes=EVERY))
        if axes:
            known = {n: v for n, v in given.items() if n == "a"}
            computed = {n: v for n, v in given.items() if n != "a"}
            made.append(case(f"{name}, computed bounds", "Slice", args, f, {"x": (3, 5, 6)}, fixed=known,
                             other=computed, batch=("x",), modes=EVERY))  # fmt: skip
    return made


def padded(mode: str) -> Callable[..., Any]:
    def f(x: Any, pads: Any, axes: Any) -> Any:
        for i, a in enumerate(axes):
            n = x.shape[a]
            at = np.pad(np.arange(n), [max(p, 0) for p in (pads[i], pads[i + len(axes)])],
                        mode={"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode])  # fmt: skip
            x = x.index_select(a, torch.tensor(at))
        return x

    return f


def _pads() -> list[Case]:
    made = [
        case("constant", "Pad", "x p", lambda x: F.pad(x, (1, 3, 0, 2)), {"x": (2, 3, 4)},
             fixed={"p": ints(0, 0, 1, 0, 2, 3)}, modes=EVERY),
        case("constant, value", "Pad", "x p v", lambda x: F.pad(x, (1, 3, 0, 2), value=2.0), {"x": (2, 3, 4)},
             fixed={"p": ints(0, 0, 1, 0, 2, 3), "v": np.asarray(2.0)}, modes=EVERY),
        case("constant, a value that trains", "Pad", "x p v",
             lambda x, v: torch.where(F.pad(torch.ones_like(x), (1, 3)) > 0, F.pad(x, (1, 3)), v),
             {"x": (2, 3, 4), "v": ()}, fixed={"p": ints(0, 0, 1, 0, 0, 3)}, modes=EVERY),
        case("constant, axes", "Pad", "x p - a", lambda x: F.pad(x, (1, 0, 2, 3)), {"x": (2, 3, 4)},
             fixed={"p": ints(1, 2, 0, 3), "a": ints(-1, 1)}, modes=EVERY),
        case("negative", "Pad", "x p", lambda x: F.pad(x, (-1, 3, 2, -1)), {"x": (2, 3, 4)},
             fixed={"p": ints(0, 2, -1, 0, -1, 3)}, modes=EVERY),
        case("newer", "Pad", "x p", lambda x: F.pad(x, (1, 3)), {"x": (2, 3)}, fixed={"p": ints(0, 1, 0, 3)}, opset=21),
    ]  # fmt: skip
    for mode in ("reflect", "edge", "wrap"):
        opset = 19 if mode == "wrap" else 18
        pads, axes = (0, 1, 2, 0, 2, 3), (0, 1, 2)
        made.append(case(mode, "Pad", "x p", lambda x, m=mode, p=pads, a=axes: padded(m)(x, p, a), {"x": (2, 3, 4)},
                         fixed={"p": ints(*pads)}, mode=mode, opset=opset, modes=EVERY))  # fmt: skip
        made.append(case(f"{mode}, axes", "Pad", "x p - a", lambda x, m=mode: padded(m)(x, (1, 1), (1,)),
                         {"x": (2, 3, 4)}, fixed={"p": ints(1, 1), "a": ints(1)}, mode=mode, opset=opset,
                         modes=EVERY))  # fmt: skip
    return made


def _blocks() -> list[Case]:
    def to_space(x: Any, order: str) -> Any:
        n, c, h, w = x.shape
        if order == "CRD":
            return torch.nn.functional.pixel_shuffle(x, 2)
        return x.reshape(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)

    def to_depth(x: Any) -> Any:
        n, c, h, w = x.shape
        return (
            x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
        )

    return [
        case("DCR", "DepthToSpace", "x", lambda x: to_space(x, "DCR"), {"x": (2, 8, 2, 3)}, blocksize=2),
        case("CRD", "DepthToSpace", "x", lambda x: to_space(x, "CRD"), {"x": (2, 8, 2, 3)}, blocksize=2, mode="CRD"),
        case("", "SpaceToDepth", "x", to_depth, {"x": (2, 3, 4, 6)}, blocksize=2),
    ]  # fmt: skip


def _others() -> list[Case]:
    made = []
    for upper in (0, 1):
        f = torch.triu if upper else torch.tril
        for k in (None, -1, 2):
            given = {} if k is None else {"k": np.asarray(k, I64)}
            made.append(case(f"upper {upper} k {k}", "Trilu", "x k" if given else "x",
                             lambda x, f=f, k=k or 0: f(x, diagonal=k), {"x": (2, 3, 4)}, fixed=given, upper=upper,
                             modes=EVERY))  # fmt: skip

    def turned(x: Any, lens: Any, time: int) -> Any:
        x = x if time == 0 else x.transpose(0, 1)
        columns = [torch.cat((x[: int(n), i].flip(0), x[int(n) :, i])) for i, n in enumerate(lens)]
        y = torch.stack(columns, 1)
        return y if time == 0 else y.transpose(0, 1)

    lens = ints(1, 3, 4)
    made += [
        case("time first", "ReverseSequence", "x lens", lambda x, lens: turned(x, lens, 0), {"x": (4, 3, 2)},
             other={"lens": lens}, modes=("static", "free")),
        case("batch first", "ReverseSequence", "x lens", lambda x, lens: turned(x, lens, 1), {"x": (3, 4, 2)},
             other={"lens": lens}, batch=("x", "lens"), batch_axis=0, time_axis=1, modes=EVERY),
        case("", "Range", "x limit step", lambda x, limit, step: x + step * torch.arange(4),
             {"x": np.asarray(1.0), "limit": np.asarray(2.9), "step": np.asarray(0.5)}, modes=("static", "free")),
    ]  # fmt: skip
    return made


CASES = [*_reshaping(), *_repeating(), *_parts(), *_slices(), *_pads(), *_blocks(), *_others()]


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_gradient(c: Case) -> None:
    check(c)
