"""Programs as messages: every rule comes back as it was, and no message is believed unchecked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from optexport.errors import RuleError
from optexport.ir import Tracer, minimum
from optexport.ir.wire import from_message, to_message
from optexport.rules import lookup
from optexport.schemas import FORMAT_VERSION, message
from tests.every import FAMILIES, every_rule


@pytest.mark.parametrize("family", FAMILIES)
def test_every_rule_comes_back(family):
    for rule in (*every_rule(family, shared=False), *every_rule(family, own=False)):
        data = to_message(rule.program).SerializeToString(deterministic=True)
        program = from_message(message("Program").FromString(data))
        assert program == rule.program
        assert [n.label for n in program.nodes] == [n.label for n in rule.program.nodes]


def test_infinity_and_casts_come_back():
    r = Tracer()
    program = r.finish(param=minimum(r.param, float("inf")))
    assert from_message(to_message(program)) == program


def adam():
    return to_message(lookup("adam").rule().program)


def refused(m) -> str:
    with pytest.raises(RuleError) as caught:
        from_message(m)
    return str(caught.value)


def test_an_unknown_type():
    m = adam()
    m.nodes[2].type = "complex128"
    assert refused(m) == "node 2: unknown type 'complex128'; written by a newer optexport?"


def test_an_unknown_operator():
    m = adam()
    index = next(i for i, n in enumerate(m.nodes) if n.op == "mul")
    m.nodes[index].op = "convolve"
    assert refused(m).startswith(f"node {index}: unknown operator 'convolve'; expected one of add, sub")


def test_an_unknown_role():
    m = adam()
    m.nodes[0].input.role = "loss"
    assert refused(m).startswith("node 0: unknown input 'loss'")


@pytest.mark.parametrize("index", [50, 10_000, 2**32 - 1])
def test_an_operand_that_is_no_earlier_node(index):
    m = adam()
    at = next(i for i, n in enumerate(m.nodes) if n.op == "mul")
    m.nodes[at].args[0] = index
    assert refused(m).startswith(f"node {at}: mul uses [{index}, ")


def test_a_node_that_uses_itself():
    m = adam()
    at = next(i for i, n in enumerate(m.nodes) if n.op == "mul")
    m.nodes[at].args[1] = at
    assert "expected earlier nodes" in refused(m)


def test_an_output_that_is_no_node():
    m = adam()
    m.outputs["param"] = len(m.nodes)
    assert refused(m) == f"rule: output 'param' refers to node {len(m.nodes)} of {len(m.nodes)}"


def test_no_parameter():
    m = adam()
    del m.outputs["param"]
    assert refused(m).startswith("rule: expected an output 'param', found ")


def test_a_slot_that_is_not_written():
    m = adam()
    del m.outputs["exp_avg"]
    assert "slot 'exp_avg' is read but has no new value" in refused(m)


def test_a_constant_that_is_no_number():
    m = adam()
    at = next(i for i, n in enumerate(m.nodes) if n.op == "const")
    m.nodes[at].constant = float("nan")
    assert refused(m) == f"node {at}: constant nan; expected a number"


@pytest.mark.parametrize("attr", ["input", "constant", "text", None])
def test_an_attribute_of_another_kind(attr):
    m = adam()
    at = next(i for i, n in enumerate(m.nodes) if n.op == "const")
    m.nodes[at].ClearField("constant")
    if attr == "input":
        m.nodes[at].input.role = "param"
    elif attr == "text":
        m.nodes[at].text = "1"
    elif attr == "constant":
        at = next(i for i, n in enumerate(m.nodes) if n.op == "mul")
        m = adam()
        m.nodes[at].constant = 1.0
    assert refused(m).startswith(f"node {at}: ")


def test_an_empty_message():
    assert refused(message("Program")()) == "rule: expected an output 'param', found none"


def test_the_format_version_is_two():
    assert FORMAT_VERSION == 2  # a change of it needs a new golden file beside the old ones


def test_protobuf_in_pure_python():
    """The messages do not depend on which of protobuf's implementations runs."""
    code = (
        "from google.protobuf.internal import api_implementation as a\n"
        "assert a.Type() == 'python', a.Type()\n"
        "from optexport.rules import CATALOGUE\n"
        "from optexport.ir.wire import from_message, to_message\n"
        "for e in CATALOGUE.values():\n"
        "    p = e.rule().program\n"
        "    m = to_message(p)\n"
        "    assert from_message(type(m).FromString(m.SerializeToString())) == p\n"
        "print('same')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("same\n", 0), done.stderr
