"""Equations: what is printed is what is computed, and reads as the papers write it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from optexport.ir import (
    Tracer,
    absolute,
    cast,
    cos,
    equations,
    exp,
    expand,
    floor,
    group_sum,
    item,
    log,
    matmul,
    max_axis,
    mean,
    mean_axis,
    mean_rest,
    minimum,
    norm,
    push,
    rounded,
    sign,
    size,
    sqrt,
    total,
    total_axis,
    transpose,
    where,
)
from optexport.ir.ops import OPS
from optexport.ir.printer import SYMBOLS
from optexport.ir.program import Program
from optexport.ir.types import FLOAT32
from optexport.reference import run
from optexport.rules import CATALOGUE, families, lookup
from tests.every import FAMILIES, every_rule, inputs


def _along(reduce: Callable[..., Any]) -> Callable[..., Any]:
    return lambda axis, x: reduce(x, axis=axis, keepdims=True)


def _narrow(dtype: Any) -> Callable[[Any], Any]:
    """A tensor rounded and as wide as before; a scalar that stays in the dtype."""
    return lambda x: np.asarray(x).astype(dtype).astype(np.float64) if np.ndim(x) else dtype(x)


_NUMPY = {
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "sign": np.sign,
    "min": np.minimum,
    "max": np.maximum,
    "abs": np.abs,
    "float16": _narrow(np.float16),
    "bfloat16": _narrow(ml_dtypes.bfloat16),
    "float32": _narrow(np.float32),
    "float64": np.float64,
    "inf": np.inf,
    "sum": np.sum,
    "mean": np.mean,
    "norm": np.linalg.norm,
    "floor": np.floor,
    "choose": np.where,
    "sum_along": _along(np.sum),
    "mean_along": _along(np.mean),
    "max_along": _along(np.max),
    # A vector has no rest.
    "mean_rest": lambda x: np.mean(x, axis=tuple(range(1, np.ndim(x))), keepdims=True) * (np.ndim(x) > 1),
    "size_all": np.size,
    "size_along": lambda axis, x: np.shape(x)[axis],
    "push": lambda history, x: np.concatenate([history[1:], np.broadcast_to(x, history.shape[1:])[None]]),
    # One parameter is the whole group here.
    "Σ_group": np.float64,
}


def chosen(text: str) -> str:
    """``(a if c else b)`` as ``choose(c, a, b)``, which takes arrays."""
    start = text.find("(")
    if start < 0:
        return text
    depth, end = 0, start
    for end in range(start, len(text)):
        depth += (text[end] == "(") - (text[end] == ")")
        if depth == 0:
            break
    inner, rest = text[start + 1 : end], chosen(text[end + 1 :])
    at = {word: _at_top(inner, word) for word in (" if ", " else ")}
    if at[" if "] < 0:
        return f"{text[:start]}({chosen(inner)}){rest}"
    a, c, b = inner[: at[" if "]], inner[at[" if "] + 4 : at[" else "]], inner[at[" else "] + 6 :]
    return f"{text[:start]}choose({chosen(c)}, {chosen(a)}, {chosen(b)}){rest}"


def _at_top(text: str, word: str) -> int:
    """Where a word stands outside all parentheses, −1 if nowhere."""
    places = [m.start() for m in re.finditer(re.escape(word), text)]
    return next((i for i in places if text[:i].count("(") == text[:i].count(")")), -1)


def evaluated(lines: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """The values of equations as a reader would compute them: Python's own precedence, which is that
    of mathematics, decides what belongs together."""
    names: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        word = match.group()
        if word == "ᵀ":
            return ".T"
        if word in _NUMPY or word in ("if", "else") or word[0].isdigit():
            return word
        return names.setdefault(word, f"v{len(names)}")

    def python(text: str) -> str:
        text = (
            text.replace("−", "-")
            .replace("·", "*")
            .replace("²", "**2")
            .replace("^", "**")
            .replace("√", "sqrt")
        )
        text = re.sub(r"‖([^‖]*)‖", r"norm(\1)", re.sub(r"\|([^|]*)\|", r"abs(\1)", text))
        text = re.sub(r"⌊([^⌊⌋]*)⌋", r"floor(\1)", text)
        text = re.sub(r"\b(sum|mean|max|size)_(-?\d+)\(", r"\1_along(\2, ", text)
        text = re.sub(r"(?<!\w)∞", "inf", text)
        text = chosen(text).replace("≤", "<=")
        text = re.sub(r"(?<![<>]) = ", " == ", text)
        return re.sub(r"[^\W\d][\w∞\u0302\u0303\u0304]*'?|\d[\d.]*(?:e[-+]?\d+)?", name, text)

    values = {python(k): v for k, v in known.items()}
    for line in lines:
        left, _, right = line.partition(" = ")
        target = python(left)
        with np.errstate(divide="ignore", invalid="ignore"):  # of the side that is not chosen
            values[target] = eval(python(right), dict(_NUMPY), values)
    return {k: values[v] for k, v in names.items() if k.endswith("'")}


def known_values(program: Program, given: dict[str, Any]) -> dict[str, Any]:
    """Symbol -> value, of what the program reads."""
    out = {}
    for i in program.inputs():
        name = i.name or i.role
        value = given[f"{i.role}:{name}" if i.name else name]
        if i.role == "slot" and not np.ndim(value):
            value = float(value)  # A slot is read as the number it is; NumPy 2 would go on in its dtype.
        if name == "step":
            out["t"] = float(value + 1)
        else:
            out[SYMBOLS.get(name, name)] = value
    return out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("varied", [{"shared": False}, {"own": False}], ids=["own", "shared"])
def test_equations_compute_what_the_rule_computes(family, step, varied):
    for rule in every_rule(family, **varied):
        # A mean of rows needs rows; where options follow from the shape, `inputs` knows which one.
        rows = any(n.op == "mean_rest" for n in rule.program.nodes) and not families()[family].fits
        given = inputs(rule, step=step, shape=(8, 5) if rows else None)
        found = evaluated(equations(rule.program), known_values(rule.program, given))
        expected = run(rule.program, given)
        assert found.keys() == {SYMBOLS[o] + "'" for o in expected}
        for output, value in expected.items():
            np.testing.assert_allclose(found[SYMBOLS[output] + "'"], value, rtol=1e-12)


def written(make) -> str:
    r = Tracer()
    (line,) = equations(r.program({"param": make(r, r.param, r.grad)}))
    return line.removeprefix("w' = ")


@pytest.mark.parametrize(
    ("text", "make"),
    [
        ("w + g", lambda r, w, g: w + g),
        ("w − g", lambda r, w, g: w - g),
        ("w·g", lambda r, w, g: w * g),
        ("w / g", lambda r, w, g: w / g),
        ("−w", lambda r, w, g: -w),
        ("w^g", lambda r, w, g: w**g),
        ("w²", lambda r, w, g: w * w),
        ("(w + g)·w", lambda r, w, g: (w + g) * w),
        ("w − (g − w)", lambda r, w, g: w - (g - w)),
        ("w − g − w", lambda r, w, g: w - g - w),
        ("w / (g·w)", lambda r, w, g: w / (g * w)),
        ("w / (g / w)", lambda r, w, g: w / (g / w)),
        ("(w / g)·w", lambda r, w, g: w / g * w),
        ("−(w + g)", lambda r, w, g: -(w + g)),
        ("(−w)^g", lambda r, w, g: (-w) ** g),
        ("−w^g", lambda r, w, g: -(w**g)),
        ("(w^g)^2", lambda r, w, g: (w**g) ** 2),
        ("g·w / g", lambda r, w, g: g * (w / g)),
        ("min(w, ∞)", lambda r, w, g: minimum(w, float("inf"))),
        ("min(w, −2)", lambda r, w, g: minimum(w, -2.0)),
        ("w^g^2", lambda r, w, g: w ** (g**2)),
        ("w·(−2)", lambda r, w, g: w * -2.0),
        ("w + (−2)", lambda r, w, g: w + -2.0),
        ("√(w)", lambda r, w, g: sqrt(w)),
        ("exp(w)", lambda r, w, g: exp(w)),
        ("log(w)", lambda r, w, g: log(w)),
        ("|w − g|", lambda r, w, g: absolute(w - g)),
        ("sign(w)", lambda r, w, g: sign(w)),
        ("min(w, g)", lambda r, w, g: minimum(w, g)),
        ("(w if w < 0 else g)", lambda r, w, g: where(w < 0, w, g)),
        ("(w if w ≤ 0 else g)", lambda r, w, g: where(w <= 0, w, g)),
        ("(w if w = 0 else g)", lambda r, w, g: where(w.equals(0), w, g)),
        ("w·sum(g)", lambda r, w, g: w * total(g)),
        ("w·mean(g)", lambda r, w, g: w * mean(g)),
        ("w / ‖g‖", lambda r, w, g: w / norm(g)),
        ("w·float32(η)", lambda r, w, g: w * cast(r.hyper("lr"), FLOAT32)),
        ("w·t", lambda r, w, g: w * (r.step + 1)),
        ("w·t", lambda r, w, g: w * (1 + r.step)),
        ("w·(t − 1)", lambda r, w, g: w * r.step),
        ("w·0.123456789", lambda r, w, g: w * 0.123456789),
        ("w·1e-08", lambda r, w, g: w * 1e-8),
        ("⌊w⌋", lambda r, w, g: floor(w)),
        ("cos(w)", lambda r, w, g: cos(w)),
        ("w·sum_-1(g)", lambda r, w, g: w * total_axis(g, -1)),
        ("w·mean_0(g)", lambda r, w, g: w * mean_axis(g, 0)),
        ("w·mean_rest(g)", lambda r, w, g: w * mean_rest(g)),
        ("w·max_-1(g)", lambda r, w, g: w * max_axis(g, -1)),
        ("w @ (g)ᵀ", lambda r, w, g: expand(matmul(w, transpose(g)))),
        ("w·(w @ (g)ᵀ)", lambda r, w, g: w * expand(matmul(w, transpose(g)))),
        ("(w @ (g)ᵀ)·w", lambda r, w, g: expand(matmul(w, transpose(g))) * w),
        ("w / (w @ g)", lambda r, w, g: w / expand(matmul(w, g))),
        ("(w·g) @ w", lambda r, w, g: expand(matmul(w * g, w))),
        ("w @ (g / w)", lambda r, w, g: expand(matmul(w, g / w))),
        ("w @ g @ w", lambda r, w, g: expand(matmul(matmul(w, g), w))),
        ("w @ (g @ w)", lambda r, w, g: expand(matmul(w, matmul(g, w)))),
        ("push(w, g)[0]", lambda r, w, g: item(push(w, g), 0)),
        ("w·size_all(g)", lambda r, w, g: w * size(g)),
        ("bfloat16(w)", lambda r, w, g: rounded(w, "bfloat16")),
        ("w·Σ_group(sum(g))", lambda r, w, g: w * group_sum(total(g))),
    ],
)
def test_how_an_expression_is_written(text, make):
    assert written(make) == text


def test_every_operator_is_written_above():
    (mark,) = test_how_an_expression_is_written.pytestmark
    r = Tracer()
    for _, make in mark.args[1]:
        make(r, r.param, r.grad)
    assert {n.op for n in r.nodes} - {"input", "const"} == set(OPS) - {"max"}


def test_what_is_used_twice_gets_a_line():
    r = Tracer()
    u = r.param * r.grad
    assert equations(r.finish(param=u + sqrt(u))) == ["x1 = w·g", "w' = x1 + √(x1)"]


def test_an_output_that_is_an_input_is_said():
    r = Tracer()
    assert equations(r.finish(param=r.param, m=r.slot("m"))) == ["w' = w", "m' = m"]


def test_two_outputs_of_one_value():
    r = Tracer()
    new = r.param - r.grad
    assert equations(r.finish(param=new, copy=new)) == ["copy' = w − g", "w' = w − g"]


def test_a_symbol_is_of_one_quantity():
    for family in FAMILIES:
        for varied in ({"shared": False}, {"own": False}):
            for rule in every_rule(family, **varied):
                read = [i.name or i.role for i in rule.program.inputs()]
                assert {*read, *rule.program.outputs} <= {*SYMBOLS, "step"}, family
                symbols = [SYMBOLS.get(n, "t") for n in read]
                symbols += [line.partition(" = ")[0] for line in equations(rule.program)]
                assert len(set(symbols)) == len(symbols), (family, sorted(symbols))


def test_updates_are_not_called_as_the_calls_are():
    lines = equations(lookup("adam").rule(decay="none", accumulate="mean").program)
    assert "t_2 = ⌊(t − 1) / K⌋ + 1" in lines and "c1 = 1 − β1^t_2" in lines


def test_adam_reads_like_the_paper():
    assert equations(lookup("adam").rule(decay="none").program) == [
        "m' = β1·m + (1 − β1)·g",
        "v' = β2·v + (1 − β2)·g²",
        "c1 = 1 − β1^t",
        "c2 = 1 − β2^t",
        "η_t = η / c1",
        "d = √(v') / √(c2) + ε",
        "w' = w − η_t·m' / d",
    ]


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_no_quantity_is_called_by_its_program_name(name):
    rule = lookup(name).rule()
    text = "\n".join(equations(rule.program))
    for spelled in [*rule.slot_names, *(h.name for h in rule.hyperparameters), "param", "grad", "step"]:
        if len(spelled) == 1 and SYMBOLS[spelled] == spelled:
            continue  # called as in its paper, as schedule-free's z
        assert not re.search(rf"\b{spelled}\b", text), spelled
