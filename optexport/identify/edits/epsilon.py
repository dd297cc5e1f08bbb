"""ε added to a root, or under one: every other place for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...ir import Program
from ...ir.types import FLOAT64, TENSOR
from ..rewrite import Builder
from .edit import Edit, at_node, is_hyper, told, users

__all__ = ["edits"]


def edits(program: Program) -> Iterator[Edit]:
    for i in sorted(program.used()):
        node = program.nodes[i]
        if node.op not in ("add", "max") or node.type is not TENSOR:
            continue
        places = [
            k for k, a in enumerate(node.args) if program.nodes[a].type is FLOAT64 and _is_eps(program, a)
        ]
        if len(places) == 1:
            yield from _at_sum(program, i, eps=node.args[places[0]], x=node.args[1 - places[0]])
    hypers = [n.name for n in program.inputs("hyper") if n.name.startswith("eps")]
    for slot, j in program.outputs.items():
        if hypers and slot != "param" and program.nodes[j].type is TENSOR:
            yield Edit(
                "eps",
                f"{hypers[0]} is added to {slot} at every update",
                at_node(program, j, make=lambda b, x, new: b.op("add", x, b.hyper(hypers[0]))),
            )


def _is_eps(program: Program, i: int) -> bool:
    node = program.nodes[i]
    if node.op == "cast":
        return _is_eps(program, node.args[0])
    return is_hyper(node, "eps", "eps_root", "eps1", "beta", "adam_eps")


def _at_sum(program: Program, i: int, eps: int, x: int) -> Iterator[Edit]:
    """Node ``i`` is x + ε, or the larger of them."""
    name = told(program, eps)

    def put(make: Callable[[Builder, int, int], int]) -> Callable[[], Program]:
        return at_node(program, i, make=lambda b, _, new: make(b, new[x], new[eps]))

    def square(b: Builder, x: int) -> int:
        return b.op("mul", x, x)

    yield Edit("eps", f"{name} is left out", put(lambda b, x, e: x))
    yield Edit(
        "eps",
        f"{name} stands under the root: √(x² + {name})",
        put(lambda b, x, e: b.op("sqrt", b.op("add", square(b, x), e))),
    )
    yield Edit(
        "eps",
        f"{name}² stands under the root: √(x² + {name}²)",
        put(lambda b, x, e: b.op("sqrt", b.op("add", square(b, x), square(b, e)))),
    )
    yield Edit(
        "eps",
        f"the larger of the root and {name} in place of their sum",
        put(lambda b, x, e: b.op("max", x, e)),
    )
    yield Edit(
        "left out",
        f"the square stands in place of its root, beside {name}",
        put(lambda b, x, e: b.op("add", square(b, x), e)),
    )
    yield Edit("eps", f"{name} is subtracted", put(lambda b, x, e: b.op("sub", x, e)))
    yield Edit("eps", f"{name}² is added", put(lambda b, x, e: b.op("add", x, square(b, e))))
    for u in [u for u, _ in users(program, i) if program.nodes[u].op == "sqrt"]:
        yield Edit(
            "eps",
            f"{name} is added to the root, not under it",
            at_node(program, u, make=lambda b, _, new: b.op("add", b.op("sqrt", new[x]), new[eps])),
        )
    yield from _behind_factor(program, i, eps, x)


def _behind_factor(program: Program, i: int, eps: int, x: int) -> Iterator[Edit]:
    """√v/√c2 + ε for (√v + ε)/√c2 and √(v + ε)/√c2. Node ``i`` is x + ε."""
    factored, name = program.nodes[x], told(program, eps)
    if factored.op not in ("div", "mul") or all(program.nodes[a].type.is_tensor for a in factored.args):
        return
    tensor = next(a for a in factored.args if program.nodes[a].type.is_tensor)

    def put(make: Callable[[Builder, int], int], of: int) -> Callable[[], Program]:
        """``make`` of the value ``of`` and ε in place of the tensor that has the factor."""
        return at_node(program, i, make=lambda b, _, new: b.op(
            factored.op, *(make(b, b.op("add", new[of], new[eps])) if a == tensor else new[a] for a in factored.args)
        ))  # fmt: skip

    yield Edit(
        "eps", f"{name} is added before the correction: (√v + {name}) / √c2", put(lambda b, s: s, tensor)
    )
    if program.nodes[tensor].op == "sqrt":
        yield Edit(
            "eps",
            f"{name} stands under the root of the uncorrected value: √(v + {name})",
            put(lambda b, s: b.op("sqrt", s), program.nodes[tensor].args[0]),
        )
