"""Matrix products: transposed, scaled, broadcast over leading axes, with vectors; Einsum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .referee import Case, case, check, torch

EVERY = ("static", "batch", "free")


def _gemms() -> list[Case]:
    made = []
    for ta in (0, 1):
        for tb in (0, 1):
            for c in (None, (), (1,), (5,), (4, 1), (1, 5), (4, 5)):

                def f(x: Any, w: Any, c: Any = 0, ta: int = ta, tb: int = tb) -> Any:
                    return 1.5 * (x.T if ta else x) @ (w.T if tb else w) + 0.5 * c

                real = {"x": (3, 4) if ta else (4, 3), "w": (5, 3) if tb else (3, 5)} | (
                    {} if c is None else {"c": c}
                )
                batch = (
                    ("x",)
                    if not ta and c not in ((4, 1), (4, 5))
                    else ("x", "c")
                    if not ta
                    else ("w",)
                    if tb
                    else ()
                )
                made.append(case(f"transA {ta} transB {tb} C {c}", "Gemm", "x w" if c is None else "x w c", f, real,
                                 transA=ta, transB=tb, alpha=1.5, beta=0.5, batch=batch, modes=EVERY))  # fmt: skip
    made.append(case("defaults", "Gemm", "x w c", lambda x, w, c: x @ w + c, {"x": (4, 3), "w": (3, 5), "c": (5,)},
                     opset=21))  # fmt: skip
    made.append(case("C does not train", "Gemm", "x w c", lambda x, w: x @ w + 2, {"x": (4, 3), "w": (3, 5)},
                     fixed={"c": np.full(5, 2.0)}))  # fmt: skip
    return made


MATMULS = (
    ((4, 3), (3, 5)), ((2, 4, 3), (3, 5)), ((2, 2, 4, 3), (3, 5)), ((2, 4, 3), (2, 3, 5)),
    ((4, 3), (2, 3, 5)), ((1, 4, 3), (2, 3, 5)), ((2, 4, 3), (1, 3, 5)), ((2, 1, 4, 3), (6, 3, 5)),
    ((2, 2, 4, 3), (2, 2, 3, 5)), ((3,), (3,)), ((3,), (3, 5)), ((4, 3), (3,)), ((3,), (2, 3, 5)),
    ((2, 4, 3), (3,)), ((2, 2, 4, 3), (3,)), ((3,), (2, 2, 3, 5)), ((2, 4, 3), (3, 1)),
)  # fmt: skip


def _matmuls() -> list[Case]:
    made = []
    for a, b in MATMULS:
        batch = ["x"] if len(a) > 1 else []
        if len(b) > 2 and len(b) >= len(a):
            batch = (["x"] if len(a) == len(b) and a[0] == b[0] else []) + ["w"]
        if a[0] == 1 and len(a) > 2:
            batch = ["w"]
        made.append(
            case(f"{a} {b}", "MatMul", "x w", lambda x, w: x @ w, {"x": a, "w": b}, batch=batch, modes=EVERY)
        )
    made.append(case("with itself", "MatMul", "x x", lambda x: x @ x, {"x": (2, 3, 3)}, modes=EVERY))
    made.append(case("newer", "MatMul", "x w", lambda x, w: x @ w, {"x": (4, 3), "w": (3, 5)}, opset=21))
    return made


EINSUMS = (
    ("ij,jk->ik", (4, 3), (3, 5)), ("bij,bjk->bik", (2, 4, 3), (2, 3, 5)), ("bhid,bhjd->bhij", (2, 2, 4, 3), (2, 2, 5, 3)),
    ("ij->ji", (4, 3)), ("ij->i", (4, 3)), ("ij->", (4, 3)), ("i,i->", (4,), (4,)), ("i,j->ij", (4,), (3,)),
    ("ij,ij->ij", (4, 3), (4, 3)), ("ij,j", (4, 3), (3,)), ("ab,cb,dc->ad", (4, 3), (2, 3), (5, 2)),
    ("ij,k->i", (4, 3), (5,)), ("...ij,...jk->...ik", (2, 4, 3), (2, 3, 5)), ("...ij,jk->...ik", (2, 2, 4, 3), (3, 5)),
    ("...ij,...jk", (2, 1, 4, 3), (2, 6, 3, 5)), ("...ij,...jk->...ik", (1, 4, 3), (2, 3, 5)),
    ("b i j , b k j -> b i k", (2, 4, 3), (2, 5, 3)),
)  # fmt: skip


def _einsums() -> list[Case]:
    made = []
    for equation, *shapes in EINSUMS:
        names = [*"xwv"][: len(shapes)]

        def f(equation: str = equation, **t: Any) -> Any:
            return torch.einsum(equation, *t.values())

        shared = [n for n, s in zip(names, shapes, strict=True) if equation.strip()[0] == "b" and s[0] == 2]
        batch = shared or (["x"] if "..." not in equation and equation not in ("i,i->", "ij,ij->ij") else [])
        made.append(case(f"{equation} of {shapes}", "Einsum", " ".join(names), f, dict(zip(names, shapes, strict=True)),
                         equation=equation, batch=batch, modes=EVERY))  # fmt: skip
    return made


CASES = [*_gemms(), *_matmuls(), *_einsums()]


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_gradient(c: Case) -> None:
    check(c)
