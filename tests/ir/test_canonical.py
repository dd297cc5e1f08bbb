"""The canonical form: one hash for one rule, another for every other rule."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optexport.ir import (
    ARRAY,
    BOOL,
    FLOAT32,
    FLOAT64,
    TENSOR,
    Input,
    Node,
    Program,
    Tracer,
    check,
    dead_slots,
    digest,
    fold,
    maximum,
    sqrt,
)
from optexport.ir.check import check_nodes
from optexport.ir.ops import OPS
from optexport.ir.types import Type
from optexport.reference import run
from optexport.rules import CATALOGUE, Rule, families, lookup
from tests.every import FAMILIES, every_rule, inputs, problems, value_of

RULES = sorted(CATALOGUE)


def rewritten(program: Program, seed: int) -> Program:
    """The same rule over the reals, written otherwise: operands that commute are swapped, chains of
    sums and products associate otherwise, ``x·1``, ``x + 0`` and ``−(−x)`` are put in, labels and
    lines change."""
    rng = random.Random(seed)
    nodes: list[Node] = []
    new: dict[int, int] = {}

    def put(op: str, *args: int, type=None, attr=None) -> int:
        tensor = any(nodes[a].type.is_tensor for a in args)
        kind = type or (TENSOR if tensor else FLOAT64)
        nodes.append(Node(op, args, kind, attr, f"x{rng.random()}", f"elsewhere.py:{len(nodes)}"))
        return len(nodes) - 1

    def number(x: float) -> int:
        return put("const", type=FLOAT64, attr=x)

    def dressed(i: int) -> int:
        if nodes[i].type not in (TENSOR, FLOAT64) or rng.random() < 0.7:
            return i
        return rng.choice(
            [
                lambda: put("mul", i, number(1.0)),
                lambda: put("mul", number(1.0), i),
                lambda: put("add", i, number(0.0)),
                lambda: put("sub", i, number(0.0)),
                lambda: put("div", i, number(1.0)),
                lambda: put("neg", put("neg", i)),
                lambda: put("sub", put("add", i, i), i),
            ]
        )()

    def associated(op: str, a: int, b: int) -> int | None:
        """``(x ∘ y) ∘ b`` as ``x ∘ (y ∘ b)``."""
        if nodes[a].op != op or nodes[a].type is not TENSOR or rng.random() < 0.5:
            return None
        x, y = nodes[a].args
        return put(op, x, put(op, y, b))

    for i, node in enumerate(program.nodes):
        args = [new[a] for a in node.args]
        if node.op in ("add", "mul") and rng.random() < 0.5:
            args.reverse()
        made = associated(node.op, *args) if node.op in ("add", "mul") and node.type is TENSOR else None
        if made is None:
            if OPS.get(node.op) and OPS[node.op].commutes and rng.random() < 0.5:
                args.reverse()
            made = put(node.op, *args, type=node.type, attr=node.attr)
        new[i] = dressed(made)
    return check(Program(tuple(nodes), {o: new[i] for o, i in program.outputs.items()}))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(RULES), st.integers(0, 2**32))
def test_the_same_rule_written_otherwise_has_the_same_hash(name, seed):
    program = lookup(name).rule().program
    assert digest(rewritten(program, seed)) == digest(program)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RULES), st.integers(0, 2**32))
def test_the_rewriting_above_keeps_the_numbers(name, seed):
    rule = lookup(name).rule()
    given_ = inputs(rule, seed % 100)
    expected, found = run(rule.program, given_), run(rewritten(rule.program, seed), given_)
    for output, value in expected.items():
        np.testing.assert_allclose(found[output], value, rtol=1e-12)


SWAPS = {
    "add": ("sub", "mul", "max"),
    "sub": ("add", "div"),
    "mul": ("add", "div"),
    "div": ("mul", "sub"),
    "pow": ("mul",),
    "neg": ("abs",),
    "sqrt": ("exp", "abs", "log"),
    "min": ("max",),
    "max": ("min", "add"),
}


def mutants(program: Program) -> list[tuple[str, Program]]:
    """Every program with one operator or constant changed, or the operands of one that does not
    commute exchanged; what only slots that nothing reads are made of has no part in the hash."""
    out = []

    def change(i: int, what: str, node: Node) -> None:
        nodes = (*program.nodes[:i], node, *program.nodes[i + 1 :])
        out.append((f"node {i}: {what}", Program(nodes, program.outputs)))

    for i in sorted(program.used(*(program.outputs.keys() - dead_slots(program)))):
        node = program.nodes[i]
        for op in SWAPS.get(node.op, ()):
            # x + x and 2·x, x·x and x²: not every change of an operator changes the meaning.
            if not (node.op == "add" and op == "max" and node.args[0] == node.args[1]):
                change(i, f"{node.op} → {op}", replace(node, op=op))
        if len(node.args) == 2 and not OPS[node.op].commutes and node.args[0] != node.args[1]:
            change(i, f"{node.op} reversed", replace(node, args=node.args[::-1]))
        if node.op == "const":
            for value in (node.attr + 1e-9, -node.attr if node.attr else 0.5, node.attr * 2 + 1):
                change(i, f"{node.attr} → {value}", replace(node, attr=value))
        if isinstance(node.attr, Input) and node.attr.role == "hyper":
            change(i, "another hyperparameter", replace(node, attr=Input("hyper", "other")))
    return out


@pytest.mark.parametrize("name", RULES)
def test_a_rule_with_one_thing_changed_has_another_hash(name):
    program = lookup(name).rule().program
    known, changed = digest(program), mutants(program)
    assert len(changed) > 10
    same = [what for what, mutant in changed if digest(check(mutant)) == known]
    assert same == []


@pytest.mark.parametrize("family", FAMILIES)
def test_hashes_tell_apart_the_rules_that_differ(family):
    """Two option sets have one hash where they compute the same numbers from the same inputs, whichever
    branch those reach, and two hashes where they do not."""
    kept: dict[str, Rule] = {}
    computed: dict[str, list[np.ndarray]] = {}
    alike: list[tuple[Rule, Rule]] = []
    for rule in every_rule(family, shared=False):
        if rule.digest in kept:
            _same_numbers(rule, kept[rule.digest])
            continue
        new = _numbers(rule.program, rule, inputs(rule)["param"].shape)
        alike += [(kept[d], rule) for d, other in computed.items() if _close(new, other)]
        computed[rule.digest], kept[rule.digest] = new, rule
    # What only multiplying out makes equal: L2 and decoupled decay of plain descent.
    expected = {"sgd": [{"momentum": "none"}], "noisy_sgd": [{}]}.get(family, [])
    assert [a.options["decay"] + " " + b.options["decay"] for a, b in alike] == ["l2 decoupled"] * len(
        expected
    )
    for (a, b), options in zip(alike, expected, strict=True):
        assert {**a.options, "decay": None} == {**b.options, "decay": None}
        assert options.items() <= a.options.items()


def _numbers(program: Program, rule: Rule, shape: tuple[int, ...], *more: Rule) -> list[np.ndarray]:
    """What a program computes of the inputs of some rules together."""
    every = {f"hyper:{h.name}": value_of(h) for h in families()[rule.family].hyperparameters.values()}
    given_ = [problems(r, shape) for r in (*more, rule)]
    return [
        value
        for problem in given_[0]
        for _, value in sorted(
            run(program, every | {k: v for g in given_ for k, v in g[problem].items()}).items()
        )
    ]


def _same_numbers(a: Rule, b: Rule) -> None:
    """Two rules of one hash: what reaches the parameter is the same without the roundings to float32."""
    shape, live = inputs(a)["param"].shape, a.program.outputs.keys() - dead_slots(a.program)
    assert live == b.program.outputs.keys() - dead_slots(b.program)
    a_new, b_new = (
        _numbers(Program(p.nodes, {o: p.outputs[o] for o in live}), a, shape, b)
        for p in (unrounded(a.program), unrounded(b.program))
    )
    assert _close(a_new, b_new), (a.options, b.options)


def unrounded(program: Program) -> Program:
    """Without the roundings to float32, which are precision and not meaning."""
    nodes, new = [], {}
    for i, node in enumerate(program.nodes):
        if node.op == "cast" or (node.op == "rounded" and node.attr == "float32"):
            new[i] = new[node.args[0]]
            continue
        new[i] = len(nodes)
        kind = FLOAT64 if node.type is FLOAT32 else node.type
        nodes.append(replace(node, args=tuple(new[k] for k in node.args), type=kind))
    return check(Program(tuple(nodes), {o: new[i] for o, i in program.outputs.items()}))


def _close(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(
        np.shape(x) == np.shape(y) and np.allclose(x, y, rtol=1e-9, atol=0, equal_nan=True)
        for x, y in zip(a, b, strict=True)
    )


# No framework hands a scalar of these to a kernel in float32: they compute them as tensors, or in double.
ON_THE_HOST = {"asgd", "lbfgs", "muon", "rprop", "schedule_free"}


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_scalars_are_precision_not_meaning(family):
    for rule in every_rule(family, shared=False):
        single = families()[family].rule(**{**rule.options, "scalars": "float32"})
        assert single.digest == rule.digest
        # The L2 decay that every family shares goes through a kernel.
        received = family not in ON_THE_HOST or rule.options.get("decay") == "l2"
        assert (single.program != rule.program) is received, rule.options


def test_adam_and_adamw_are_one_rule_without_decay():
    adam, adamw = lookup("adam").rule(), lookup("adamw").rule()
    at = {"weight_decay": 0.0}
    assert adam.digest != adamw.digest
    assert adam.digest_at(at) == adamw.digest_at(at)
    assert adam.digest_at(at) == lookup("adam").rule(decay="none").digest
    assert adam.digest_at({"weight_decay": 0.1}) == adam.digest


def test_momentum_of_zero_is_descent():
    momentum, nesterov = lookup("momentum").rule(), lookup("nesterov").rule()
    plain = lookup("sgd").rule()
    # Its buffer is still written, and read by nothing: a dead slot does not count.
    assert momentum.digest_at({"momentum": 0.0}) == plain.digest == nesterov.digest_at({"momentum": 0.0})
    assert momentum.digest != nesterov.digest


def test_the_learning_rate_never_counts_as_known():
    rule = lookup("sgd").rule()
    assert rule.digest_at({"lr": 1.0}) == rule.digest == rule.digest_at({"lr": 0.0})


def test_a_maximum_that_nothing_reads_is_dead():
    r = Tracer()
    w, g, lr = r.param, r.grad, r.hyper("lr")
    plain = r.finish(param=w - lr * g)
    kept = r.finish(param=w - lr * g, most=maximum(r.slot("most"), g))
    read = r.finish(param=w - lr * maximum(r.slot("most"), g), most=maximum(r.slot("most"), g))
    assert digest(plain) == digest(kept) != digest(read)


def test_like_terms_and_powers_are_collected():
    r = Tracer()
    w, g = r.param, r.grad
    once = digest(r.finish(param=2 * w + g))
    assert once == digest(r.finish(param=w + g + w)) == digest(r.finish(param=3 * w - (w - g)))
    assert digest(r.finish(param=w * w * g)) == digest(r.finish(param=g * w * w))
    assert digest(r.finish(param=w * g / g)) == digest(r.finish(param=w))
    assert digest(r.finish(param=w - w)) == digest(r.finish(param=0 * g))


def test_a_root_is_no_like_term():
    r = Tracer()
    w, eps = r.param, r.hyper("eps")
    assert digest(r.finish(param=sqrt(w) + eps)) != digest(r.finish(param=sqrt(w + eps)))


# Folding keeps the order of the arithmetic, so that emitters may use what it gives.


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("at", [0.0, 1.0, 0.25])
def test_folding_computes_the_same(name, at):
    rule = lookup(name).rule()
    given_ = inputs(rule, step=2)
    for hyper in rule.hyperparameters:
        known = {hyper.name: at}
        if hyper.below and at == 1.0:
            continue
        expected = run(rule.program, given_ | {f"hyper:{hyper.name}": at})
        folded = check_nodes(fold(rule.program, known))
        types = {"param": TENSOR} | {s.name: s.type for s in rule.slots}
        assert all(_held(folded.nodes[i].type, types[o]) for o, i in folded.outputs.items())
        assert hyper.name not in {i.name for i in folded.inputs("hyper")}
        assert len(folded.nodes) <= len(rule.program.nodes) + 3
        for output, value in run(folded, given_).items():
            assert np.shape(value) == np.shape(expected[output])
            if (rule.family, hyper.name, at, output) == ("schedule_free", "beta1", 0.0, "param"):
                # The rule divides by β1, and multiplies by it again.
                assert np.isnan(expected[output]).all()
                continue
            np.testing.assert_array_equal(value, expected[output])


def _held(found: Type, slot: Type) -> bool:
    """Whether a slot can hold a value; a scalar becomes what the slot holds when it is stored."""
    return (
        found is slot or (not found.is_tensor and not slot.is_tensor) or (slot is ARRAY and found is TENSOR)
    )


def test_folding_removes_what_has_no_effect():
    rule = lookup("adamw").rule()
    folded = fold(rule.program, {"weight_decay": 0.0})
    assert len(folded.nodes) == len(fold(lookup("adam").rule(decay="none").program).nodes)


def test_folding_prunes_what_no_output_needs():
    r = Tracer()
    sqrt(r.grad)
    folded = fold(r.finish(param=r.param + 0.0))
    assert [n.op for n in folded.nodes] == ["input"]


def test_an_output_that_folds_to_a_number_keeps_the_parameters_shape():
    rule = lookup("folded_momentum").rule()
    folded = check(fold(rule.program, {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0}))
    w = np.arange(6.0).reshape(2, 3)
    new = run(folded, {"param": w, "grad": w, "slot:momentum_buffer": w, "step": 0})
    assert new["momentum_buffer"].shape == (2, 3) and not new["momentum_buffer"].any()
    np.testing.assert_array_equal(new["param"], w)


def test_a_constant_of_tensor_type_fills_the_parameters_shape():
    r = Tracer()
    floor = maximum(r.hyper("a") * r.slot("m"), 3.0)
    folded = check(fold(r.finish(param=r.param, m=floor), {"a": 0.0}))
    new = run(folded, {"param": np.zeros((2, 2)), "slot:m": np.zeros((2, 2))}, np.float32)
    np.testing.assert_array_equal(new["m"], np.full((2, 2), 3.0, np.float32))


def test_folding_does_not_touch_what_overflows():
    r = Tracer()
    rule = r.finish(param=r.param * (r.hyper("a") / r.hyper("b")))
    folded = check(fold(rule, {"a": 1.0, "b": 0.0}))
    assert "div" in {n.op for n in folded.nodes}
    assert not any(n.type is BOOL for n in folded.nodes)
