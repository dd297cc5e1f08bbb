"""What people change in an optimizer, as changes of a rule's program.

Where no rule of the catalogue explains a black box, the nearest one is tried with one change at a time:
epsilon elsewhere, decay elsewhere, a correction dropped or counted otherwise, a factor left out, an old
value read for a new one, a scalar rounded to float32. The one that explains it names the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..ir import Program, equations
from ..ir.program import Input, Node
from ..ir.types import FLOAT64, TENSOR
from ..rules import Hyper
from .rewrite import Builder, rewritten

__all__ = ["Edit", "changed_equations", "edits"]

INF = float("inf")


@dataclass(frozen=True)
class Edit:
    """kind: a word for programs. words: for people. apply: gives the changed program. extra: what it adds."""

    kind: str
    words: str
    apply: Callable[[], Program]
    extra: tuple[Hyper, ...] = ()


def edits(program: Program) -> Iterator[Edit]:
    """Every change that is tried, those that people make most often first."""
    yield from _epsilon(program)
    yield from _decay(program)
    yield from _counting(program)
    yield from _corrections(program)
    yield from _rounded(program)
    yield from _stale(program)
    yield from _around(program)
    yield from _one_node(program)


def changed_equations(before: Program, after: Program) -> list[dict[str, str]]:
    """The rule's equations that differ: what the nearest rule has, and what the black box does."""
    was, now = equations(before), equations(after)
    gone, new = [e for e in was if e not in now], [e for e in now if e not in was]
    out = []
    for k in range(max(len(gone), len(new))):
        out.append({"rule": gone[k] if k < len(gone) else "", "found": new[k] if k < len(new) else ""})
    return out


def _named(node: Node, *names: str) -> bool:
    return isinstance(node.attr, Input) and node.attr.role == "hyper" and node.attr.name in names


def _users(program: Program, i: int) -> list[tuple[int, int]]:
    live = program.used()
    return [(u, k) for u in sorted(live) for k, a in enumerate(program.nodes[u].args) if a == i]


def _told(program: Program, i: int) -> str:
    """A name for a node: its label, its output, or its operator and what it works on."""
    node = program.nodes[i]
    outputs = {j: o for o, j in program.outputs.items()}
    if isinstance(node.attr, Input):
        return node.attr.name or node.attr.role
    if i in outputs:
        return f"the new {outputs[i]}"
    if node.op == "const":
        return f"{node.attr:g}"
    if node.label:
        return node.label
    return f"{node.op}({', '.join(_told(program, a) for a in node.args)})"


def _epsilon(program: Program) -> Iterator[Edit]:
    """ε added to a root, or under one: every other place for it."""
    for i in sorted(program.used()):
        node = program.nodes[i]
        if node.op not in ("add", "max"):
            continue
        places = [k for k, a in enumerate(node.args) if program.nodes[a].type is FLOAT64 and _eps(program, a)]
        if len(places) != 1 or node.type is not TENSOR:
            continue
        eps, x = node.args[places[0]], node.args[1 - places[0]]
        name = _told(program, eps)

        def put(
            make: Callable[[Builder, int, int], int], i: int = i, x: int = x, eps: int = eps
        ) -> Callable[[], Program]:
            return lambda: rewritten(program, {i: lambda b, _, new: make(b, new[x], new[eps])})

        yield Edit("eps", f"{name} is left out", put(lambda b, x, e: x))
        yield Edit(
            "eps",
            f"{name} stands under the root: √(x² + {name})",
            put(lambda b, x, e: b.op("sqrt", b.op("add", b.op("mul", x, x), e))),
        )
        yield Edit(
            "eps",
            f"{name}² stands under the root: √(x² + {name}²)",
            put(lambda b, x, e: b.op("sqrt", b.op("add", b.op("mul", x, x), b.op("mul", e, e)))),
        )
        yield Edit(
            "eps",
            f"the larger of the root and {name} in place of their sum",
            put(lambda b, x, e: b.op("max", x, e)),
        )
        yield Edit(
            "left out",
            f"the square stands in place of its root, beside {name}",
            put(lambda b, x, e: b.op("add", b.op("mul", x, x), e)),
        )
        yield Edit("eps", f"{name} is subtracted", put(lambda b, x, e: b.op("sub", x, e)))
        yield Edit("eps", f"{name}² is added", put(lambda b, x, e: b.op("add", x, b.op("mul", e, e))))
        for u, _ in _users(program, i):
            if program.nodes[u].op == "sqrt":
                yield Edit(
                    "eps",
                    f"{name} is added to the root, not under it",
                    lambda u=u, x=x, eps=eps: rewritten(  # type: ignore[misc]
                        program, {u: lambda b, _, new: b.op("add", b.op("sqrt", new[x]), new[eps])}
                    ),
                )
        # Behind a factor: √v/√c2 + ε for √v + ε, and the other way round.
        inner = program.nodes[x]
        if inner.op in ("div", "mul") and any(not program.nodes[a].type.is_tensor for a in inner.args):
            tensor = next(a for a in inner.args if program.nodes[a].type.is_tensor)
            yield Edit(
                "eps",
                f"{name} is added before the correction: (√v + {name}) / √c2",
                lambda i=i, x=x, eps=eps, tensor=tensor, inner=inner: rewritten(  # type: ignore[misc]
                    program,
                    {
                        i: lambda b, _, new: b.op(
                            inner.op,
                            *(
                                b.op("add", new[tensor], new[eps]) if a == tensor else new[a]
                                for a in inner.args
                            ),
                        )
                    },
                ),
            )
            if program.nodes[tensor].op == "sqrt":
                under = program.nodes[tensor].args[0]
                yield Edit(
                    "eps",
                    f"{name} stands under the root of the uncorrected value: √(v + {name})",
                    lambda i=i, eps=eps, tensor=tensor, inner=inner, under=under: rewritten(  # type: ignore[misc]
                        program,
                        {
                            i: lambda b, _, new: b.op(
                                inner.op,
                                *(
                                    b.op("sqrt", b.op("add", new[under], new[eps])) if a == tensor else new[a]
                                    for a in inner.args
                                ),
                            )
                        },
                    ),
                )
    hypers = [n for n in program.inputs("hyper") if n.name.startswith("eps")]
    for slot, j in program.outputs.items():
        if hypers and slot != "param" and program.nodes[j].type is TENSOR:
            yield Edit(
                "eps",
                f"{hypers[0].name} is added to {slot} at every update",
                lambda j=j: rewritten(  # type: ignore[misc]
                    program, {j: lambda b, x, new: b.op("add", x, b.hyper(hypers[0].name))}
                ),
            )


def _eps(program: Program, i: int) -> bool:
    node = program.nodes[i]
    return _named(node, "eps", "eps_root", "eps1", "beta", "adam_eps") or (
        node.op == "cast" and _eps(program, node.args[0])
    )


_WD = Hyper("weight_decay", 0.0, -INF, INF, "weight decay", 0.0)


def _decay(program: Program) -> Iterator[Edit]:
    """Decay where the rule has none, and decay that reaches one reader of the gradient alone."""
    names = {n.name for n in program.inputs("hyper")}
    if "weight_decay" not in names:
        extra = (_WD,)

        def shrunk(b: Builder, x: int, scaled: bool) -> int:
            rate = b.hyper("weight_decay")
            rate = b.op("mul", b.hyper("lr"), rate) if scaled else rate
            return b.op("mul", x, b.op("sub", b.const(1.0), rate))

        def less(b: Builder, x: int, scaled: bool) -> int:
            rate = b.hyper("weight_decay")
            rate = b.op("mul", b.hyper("lr"), rate) if scaled else rate
            return b.op("sub", x, b.op("mul", rate, b.given("param", TENSOR)))

        for scaled, how in (
            (True, "scaled by the learning rate"),
            (False, "not scaled by the learning rate"),
        ):
            yield Edit(
                "decay",
                f"decoupled decay of the parameter beside the update, {how}",
                lambda scaled=scaled: rewritten(  # type: ignore[misc]
                    program, output={"param": lambda b, x, new: less(b, x, scaled)}
                ),
                extra,
            )
            yield Edit(
                "decay",
                f"decoupled decay of the updated parameter, {how}",
                lambda scaled=scaled: rewritten(  # type: ignore[misc]
                    program, output={"param": lambda b, x, new: shrunk(b, x, scaled)}
                ),
                extra,
            )
        for i in _grads(program):
            yield Edit(
                "decay",
                "L2 decay joins the gradient",
                lambda i=i: rewritten(  # type: ignore[misc]
                    program,
                    {
                        i: lambda b, x, new: b.op(
                            "add", x, b.op("mul", b.hyper("weight_decay"), b.given("param", TENSOR))
                        )
                    },
                ),
                extra,
            )
            for user in dict.fromkeys(u for u, _ in _users(program, i)):
                yield Edit(
                    "decay",
                    f"L2 decay joins the gradient in {_told(program, user)} alone",
                    lambda user=user, i=i: rewritten(  # type: ignore[misc]
                        program,
                        use={
                            place: lambda b, x, new: b.op(
                                "add", x, b.op("mul", b.hyper("weight_decay"), b.given("param", TENSOR))
                            )
                            for place in _users(program, i)
                            if place[0] == user
                        },
                    ),
                    extra,
                )
        return
    for i in sorted(program.used()):
        if _named(program.nodes[i], "weight_decay"):
            yield Edit(
                "decay",
                "decay is divided by the learning rate once more: it does not follow the rate",
                lambda i=i: rewritten(  # type: ignore[misc]
                    program, {i: lambda b, x, new: b.op("div", x, b.hyper("lr"))}
                ),
            )
            yield Edit(
                "decay",
                "decay is multiplied by the learning rate once more",
                lambda i=i: rewritten(program, {i: lambda b, x, new: b.op("mul", x, b.hyper("lr"))}),  # type: ignore[misc]
            )
            yield Edit(
                "decay",
                "decay has the opposite sign",
                lambda i=i: rewritten(program, {i: lambda b, x, new: b.op("neg", x)}),  # type: ignore[misc]
            )
    raw = next((i for i in _grads(program)), None)
    for i in sorted(program.used()):
        if raw is not None and program.nodes[i].label == "g_eff":
            for user in dict.fromkeys(u for u, _ in _users(program, i)):
                yield Edit(
                    "decay",
                    f"{_told(program, user)} sees the raw gradient, without decay and clip",
                    lambda user=user, i=i: rewritten(  # type: ignore[misc]
                        program,
                        use={
                            place: lambda b, x, new: new[raw]
                            for place in _users(program, i)
                            if place[0] == user
                        },
                    ),
                )


def _grads(program: Program) -> list[int]:
    return [
        i
        for i in sorted(program.used())
        if isinstance(program.nodes[i].attr, Input) and program.nodes[i].attr.role == "grad"  # type: ignore[union-attr]
    ]


def _counting(program: Program) -> Iterator[Edit]:
    """One reader of the step counts from elsewhere."""
    for i in sorted(program.used()):
        node = program.nodes[i]
        if not (isinstance(node.attr, Input) and node.attr.role == "step"):
            continue
        readers = _users(program, i)
        # ``t`` is step + 1; its readers are the ones with a name.
        ts = [u for u, _ in readers if program.nodes[u].op == "add" and not program.nodes[u].type.is_tensor]
        named = [(r, k) for t in ts for r, k in _users(program, t)] + [
            (r, k) for r, k in readers if r not in ts
        ]
        for k, words in ((1, "one update late, from 2"), (-1, "one update early, from 0")):
            for user in named if len(named) > 1 else ():
                yield Edit(
                    "counting",
                    f"{_where(program, user[0])} counts {words}",
                    lambda user=user, k=k: rewritten(  # type: ignore[misc]
                        program, use={user: lambda b, x, new: b.op("add", x, b.const(float(k)))}
                    ),
                )


def _where(program: Program, i: int) -> str:
    """The first named value that node ``i`` goes into."""
    seen = {i}
    while True:
        for j in sorted(seen):
            if program.nodes[j].label or j in program.outputs.values():
                return _told(program, j)
        more = {u for j in seen for u, _ in _users(program, j)} - seen
        if not more:
            return _told(program, i)
        seen |= more


def _corrections(program: Program) -> Iterator[Edit]:
    """A named scalar that is left out."""
    for i in sorted(program.used()):
        node = program.nodes[i]
        if node.label in ("c1", "c2", "c1_next") and not node.type.is_tensor:
            what = {"c1": "mean", "c2": "mean square"}.get(node.label, "mean")
            yield Edit(
                "bias_correction",
                f"the bias correction {node.label} of the {what} is dropped",
                lambda i=i: rewritten(program, {i: lambda b, x, new: b.const(1.0)}),  # type: ignore[misc]
            )
            for u, _ in _users(program, i):
                if program.nodes[u].op == "sqrt":
                    yield Edit(
                        "bias_correction",
                        f"{node.label} stands in place of its root",
                        lambda u=u, i=i: rewritten(program, {u: lambda b, x, new: new[i]}),  # type: ignore[misc]
                    )


def _rounded(program: Program) -> Iterator[Edit]:
    """A scalar in float32 where double stood."""
    for i in sorted(program.used()):
        node = program.nodes[i]
        if node.type is FLOAT64 and node.op not in ("const", "cast", "group_sum"):
            yield Edit(
                "float32",
                f"{_told(program, i)} is rounded to float32",
                lambda i=i: rewritten(program, {i: lambda b, x, new: b.float32(x)}),  # type: ignore[misc]
            )


def _stale(program: Program) -> Iterator[Edit]:
    """The update reads a slot's old value where the rule reads its new one."""
    for slot, j in program.outputs.items():
        if slot == "param" or program.nodes[j].type is not TENSOR or isinstance(program.nodes[j].attr, Input):
            continue
        users = _users(program, j)
        if users:
            yield Edit(
                "order",
                f"the update reads {slot} before it takes the gradient in",
                lambda slot=slot, users=users: rewritten(  # type: ignore[misc]
                    program, use={u: lambda b, x, new: b.slot(slot) for u in users}
                ),
            )


def _around(program: Program) -> Iterator[Edit]:
    """What stands around an update: a rate that follows the step, a bound of the step, a norm."""
    rate = Hyper("rate_decay", 0.01, 0.0, INF, "decay of the learning rate")

    def lr(make: Callable[[Builder, int], int]) -> Callable[[], Program]:
        found = {i for i in program.used() if _named(program.nodes[i], "lr")}
        return lambda: rewritten(program, {i: lambda b, x, new: make(b, x) for i in found})

    def step(b: Builder) -> int:
        return b.given("step", FLOAT64)

    yield Edit(
        "schedule",
        "the learning rate decays as 1 / (1 + d·step)",
        lr(
            lambda b, x: b.op(
                "div", x, b.op("add", b.const(1.0), b.op("mul", b.hyper("rate_decay"), step(b)))
            )
        ),
        (rate,),
    )
    yield Edit(
        "schedule",
        "the learning rate decays as dˢᵗᵉᵖ",
        lr(lambda b, x: b.op("mul", x, b.op("pow", b.hyper("rate_factor"), step(b)))),
        (Hyper("rate_factor", 0.9, 0.0, 1.0, "factor of the learning rate at each step"),),
    )
    yield Edit(
        "schedule",
        "the learning rate decays as 1 / √t",
        lr(lambda b, x: b.op("div", x, b.op("sqrt", b.op("add", step(b), b.const(1.0))))),
    )
    yield Edit(
        "schedule",
        "the learning rate warms up over w steps",
        lr(
            lambda b, x: b.op(
                "mul",
                x,
                b.op(
                    "min",
                    b.const(1.0),
                    b.op("div", b.op("add", step(b), b.const(1.0)), b.hyper("warmup")),
                ),
            )
        ),
        (Hyper("warmup", 6.0, 1.0, INF, "steps of the warm-up"),),
    )

    def bounded(b: Builder, x: int) -> int:
        w, c = b.given("param", TENSOR), b.hyper("clip_update")
        return b.op("add", w, b.op("max", b.op("neg", c), b.op("min", c, b.op("sub", x, w))))

    yield Edit(
        "clip",
        "the update is clipped elementwise",
        lambda: rewritten(program, output={"param": lambda b, x, new: bounded(b, x)}),
        (Hyper("clip_update", 0.01, 0.0, INF, "bound of the update"),),
    )

    def normed(b: Builder, x: int) -> int:
        return b.op("div", x, b.op("add", b.op("norm", x), b.const(1e-30)))

    yield Edit(
        "norm",
        "the gradient is divided by its norm",
        lambda: rewritten(program, {i: lambda b, x, new: normed(b, x) for i in _grads(program)}),
    )
    yield Edit(
        "sign",
        "the sign of the gradient stands in place of the gradient",
        lambda: rewritten(program, {i: lambda b, x, new: b.op("sign", x) for i in _grads(program)}),
    )
    yield Edit(
        "scale",
        "the mean square of the gradient is fed with a multiple of it",
        lambda: rewritten(
            program,
            {
                i: lambda b, x, new: b.op("mul", b.hyper("factor"), x)
                for i in program.used()
                if program.nodes[i].op == "mul" and len(set(program.nodes[i].args)) == 1
            },
        ),
        (Hyper("factor", 0.5, 0.0, INF, "the factor"),),
    )


def _one_node(program: Program) -> Iterator[Edit]:
    """An operand alone in place of an operation, one operator for another, a fixed number of another value."""
    swaps = {"add": "sub", "sub": "add", "max": "min", "min": "max", "sqrt": "abs"}
    for i in sorted(program.used()):
        node = program.nodes[i]
        if node.op in ("add", "sub", "mul", "div", "sqrt", "max", "min", "sign", "pow", "abs", "neg"):
            for a in dict.fromkeys(node.args):
                if program.nodes[a].type is node.type:
                    yield Edit(
                        "left out",
                        f"{_told(program, a)} stands in place of {_told(program, i)}",
                        lambda i=i, a=a: rewritten(program, {i: lambda b, x, new: new[a]}),  # type: ignore[misc]
                    )
        if node.op in swaps:
            words = (
                "the absolute value in place of the root"
                if node.op == "sqrt"
                else f"{swaps[node.op]} in place of {node.op}"
            )
            yield Edit(
                "operator",
                f"{words} in {_where(program, i)}",
                lambda i=i, node=node: rewritten(  # type: ignore[misc]
                    program, {i: lambda b, x, new: b.op(swaps[node.op], *(new[a] for a in node.args))}
                ),
            )
        if node.op == "const" and isinstance(node.attr, float) and node.attr not in (0.0,):
            yield Edit(
                "constant",
                f"another number in place of {node.attr:g} in {_where(program, i)}",
                lambda i=i: rewritten(program, {i: lambda b, x, new: b.hyper("constant")}),  # type: ignore[misc]
                (Hyper("constant", node.attr, -INF, INF, f"the number in place of {node.attr:g}"),),
            )
