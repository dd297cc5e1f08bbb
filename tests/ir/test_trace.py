"""Tracing: what a rule's Python records, and what it is told when it is wrong, with the line."""

from __future__ import annotations

import re
import sys

import pytest

from optexport.errors import RuleError
from optexport.ir import BOOL, FLOAT32, FLOAT64, MASK, TENSOR, Tracer, cast, norm, sqrt, where
from optexport.ir import trace as trace_module
from optexport.ir.ops import OPS


def here(offset: int = 0) -> str:
    """``file:line`` of the caller, plus ``offset`` lines."""
    return f"test_trace.py:{sys._getframe(1).f_lineno + offset}"


def inside(rule) -> str:
    """``file:line`` of the first line of a function's body."""
    return f"test_trace.py:{rule.__code__.co_firstlineno + 1}"


def refused(call) -> str:
    with pytest.raises(RuleError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_rule_is_what_its_python_says():
    r = Tracer()
    program = r.finish(param=r.param - r.hyper("lr") * r.grad)
    ops = [n.op for n in program.nodes]
    assert ops == ["input", "input", "input", "mul", "sub"]
    assert [i.key for i in program.inputs()] == ["param", "hyper:lr", "grad"]
    assert program.outputs == {"param": 4} and program.nodes[4].args == (0, 3)


@pytest.mark.parametrize(
    ("op", "write"),
    [
        ("add", lambda a, b: a + b),
        ("sub", lambda a, b: a - b),
        ("mul", lambda a, b: a * b),
        ("div", lambda a, b: a / b),
        ("lt", lambda a, b: a < b),
        ("le", lambda a, b: a <= b),
        ("pow", lambda a, b: a**b),
        ("neg", lambda a, b: -a),
        ("eq", lambda a, b: a.equals(b)),
        ("min", trace_module.minimum),
        ("max", trace_module.maximum),
        *((n, lambda a, b, f=f: f(a)) for n, f in [("sqrt", trace_module.sqrt), ("exp", trace_module.exp),
                                                   ("log", trace_module.log), ("abs", trace_module.absolute),
                                                   ("sign", trace_module.sign), ("sum", trace_module.total),
                                                   ("mean", trace_module.mean), ("norm", trace_module.norm)]),
        ("where", lambda a, b: where(a < b, a, b)),
        ("cast", lambda a, b: cast(a.tracer.step, FLOAT32)),
        *((n, lambda a, b, f=f: f(a)) for n, f in [("floor", trace_module.floor), ("cos", trace_module.cos),
                                                   ("transpose", trace_module.transpose),
                                                   ("mean_rest", trace_module.mean_rest),
                                                   ("expand", trace_module.expand), ("size", trace_module.size)]),
        *((n, lambda a, b, f=f: f(a, -1)) for n, f in [("sum_axis", trace_module.total_axis),
                                                       ("mean_axis", trace_module.mean_axis),
                                                       ("max_axis", trace_module.max_axis),
                                                       ("item", trace_module.item)]),
        ("matmul", trace_module.matmul),
        ("push", trace_module.push),
        ("rounded", lambda a, b: trace_module.rounded(a, "bfloat16")),
        ("group_sum", lambda a, b: trace_module.group_sum(trace_module.total(a))),
    ],
)  # fmt: skip
def test_each_operator_has_a_way_to_be_written(op, write):
    r = Tracer()
    value = write(r.param, r.grad)
    assert r.nodes[value.index].op == op


def test_the_list_above_is_complete():
    (mark,) = test_each_operator_has_a_way_to_be_written.pytestmark
    assert {row[0] for row in mark.args[1]} == set(OPS)


def test_reflected_operands_keep_their_order():
    r = Tracer()
    w = r.param
    for value, args in (
        (2 - w, ("const", "input")),
        (2 / w, ("const", "input")),
        (w - 2, ("input", "const")),
        (w < 2, ("input", "const")),
        (w > 2, ("const", "input")),
    ):
        node = r.nodes[value.index]
        assert tuple(r.nodes[a].op for a in node.args) == args
    greater = r.nodes[(w > r.grad).index]
    assert greater.op == "lt" and [r.nodes[a].attr.role for a in greater.args] == ["grad", "param"]
    at_least = r.nodes[(w >= r.grad).index]
    assert at_least.op == "le" and [r.nodes[a].attr.role for a in at_least.args] == ["grad", "param"]


def test_types():
    r = Tracer()
    w, lr = r.param, r.hyper("lr")
    single = cast(lr, FLOAT32)
    assert w.type is TENSOR and lr.type is FLOAT64 and r.step.type is FLOAT64 and single.type is FLOAT32
    assert (w * lr).type is TENSOR and (lr * lr).type is FLOAT64
    assert (single * lr).type is FLOAT64
    assert (w < lr).type is MASK and (lr < 1).type is BOOL and norm(w).type is FLOAT64
    assert where(w < 0, 0.0, 1.0).type is TENSOR and where(lr < 1, 0.0, 1.0).type is FLOAT64
    assert sqrt(w).type is TENSOR


def test_a_constant_takes_the_precision_of_what_it_meets():
    r = Tracer()
    single = cast(r.hyper("beta1"), FLOAT32)
    assert (1 - single).type is FLOAT32 and (1 - r.hyper("beta1")).type is FLOAT64


def test_equal_values_are_one_node():
    r = Tracer()
    a, b = r.param * r.grad, r.param * r.grad
    assert a.index == b.index and len(r.nodes) == 3


def test_a_label_does_not_make_another_value():
    r = Tracer()
    m = r.let("m_hat", r.param * r.grad)
    assert (r.param * r.grad).index == m.index and r.nodes[m.index].label == "m_hat"


def test_every_node_knows_its_line():
    r = Tracer()
    value = r.param + r.grad
    assert r.nodes[value.index].line == here(-1)


# Errors: the message begins with the line of the rule that is at fault.


def test_if_on_a_value():
    r = Tracer()
    lr = r.hyper("lr")

    def rule():
        if lr:
            raise AssertionError

    assert refused(rule) == (
        f"{inside(rule)}: a traced value has no truth value; expected a static option, found a float64; "
        "use where(condition, a, b)"
    )


def test_values_of_two_tracers():
    a, b = Tracer(), Tracer()

    def rule():
        return a.param + b.param

    assert refused(rule) == (f"{inside(rule)}: a value of another rule; expected values of one tracer")


@pytest.mark.parametrize(("thing", "name"), [("x", "str"), (None, "NoneType"), (True, "bool"), ([1], "list")])
def test_operands_that_are_no_numbers(thing, name):
    r = Tracer()

    def rule():
        return r.param * thing

    assert refused(rule) == (f"{inside(rule)}: mul of a {name}; expected a traced value or a number")


def test_operators_need_a_traced_value():
    def rule():
        return sqrt(2.0)

    assert refused(rule) == (f"{inside(rule)}: sqrt of plain numbers; expected at least one traced value")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda r: sqrt(r.param < 0), "sqrt of a truth value; expected numbers, use where()"),
        (lambda r: (r.param < 0) + 1, "add of a truth value; expected numbers, use where()"),
        (lambda r: where(r.param, 1, 2), "where needs a condition first, found a tensor"),
        (
            lambda r: where(r.param < 0, r.param < 0, 2),
            "where of a truth value; expected numbers, use where()",
        ),
        (lambda r: norm(r.hyper("lr")), "norm takes a tensor, found a float64"),
        (lambda r: cast(r.param, FLOAT32), "cast is for scalars, float32 or float64; found tensor"),
        (lambda r: cast(r.step, TENSOR), "cast is for scalars, float32 or float64; found float64"),
    ],
)
def test_types_that_do_not_fit(write, message):
    r = Tracer()

    def rule():
        value = write(r)
        return r.finish(param=r.param * value)

    found = refused(rule)
    assert found == f"test_trace.py:{write.__code__.co_firstlineno}: {message}"


def test_outputs_are_tensors():
    r = Tracer()
    lr = r.hyper("lr")
    line = here(-1)
    assert refused(lambda: r.finish(param=lr)) == f"{line}: output 'param' is a float64; expected a tensor"


def test_a_rule_gives_the_parameter():
    r = Tracer()
    assert refused(r.finish) == "rule: expected an output 'param', found none"
    assert refused(lambda: r.finish(m=r.slot("m"))) == "rule: expected an output 'param', found m"


def test_a_slot_that_is_read_is_written():
    r = Tracer()
    assert refused(lambda: r.finish(param=r.param - r.slot("m"))) == (
        "rule: slot 'm' is read but has no new value; pass m= to finish()"
    )


def test_not_a_number_is_no_constant():
    r = Tracer()

    def rule():
        return r.finish(param=r.param * float("nan"))

    assert refused(rule) == f"{inside(rule)}: constant nan; expected a number"


def test_lines_survive_a_helper_in_another_file():
    """A helper's own line is named: it is where the operator stands."""
    from optexport.transforms import clip_value

    r = Tracer()
    message = refused(lambda: r.finish(param=clip_value(r.param < 0, r.hyper("c"))))
    assert re.match(r"clip\.py:\d+: max of a truth value", message)
