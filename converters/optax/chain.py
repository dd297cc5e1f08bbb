"""Chains: several transformations as one rule.

A chain is a list of links, ``(name, arguments)``; names are those of aliases (``nadam``) and of
transformations (``scale_by_adam``). It is a rule where it has this order, each part at most once:

    apply_if_finite                  option ``overflow``; around all that follows
    MultiSteps                       option ``accumulate``; around all that follows
    scale                            option ``rescale``, before anything else
    clip_by_global_norm, …           option ``clip_norm``
    clip                             option ``clip`` = ``before_decay``
    add_decayed_weights              option ``decay`` = ``l2``
    clip                             option ``clip`` = ``after_decay``
    an alias, or a preconditioner    the family; plain SGD where there is none
    add_decayed_weights              option ``decay`` = ``decoupled``, for a preconditioner
    scale_by_learning_rate, scale    the learning rate, for a preconditioner; a factor on it after an alias
    trace                            momentum with the learning rate inside, after scale_by_rms

Any other order is refused with the reason. Parameters' groups are the caller's, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optexport.dialects import Link
from optexport.errors import HyperparameterError, UnknownNameError
from optexport.rules import families
from optexport.rules.base import OptionValue, Rule
from optexport.specs import Group

from .optimizers.common import (
    EMPTY,
    LINKS_KEY,
    RATE,
    Arguments,
    Gathered,
    Guarded,
    OptaxNative,
    State,
    fields,
)

__all__ = ["AROUND", "ChainNative", "Resolved", "chain_entry", "resolve", "with_lr"]

_WHERE = "optax:chain"
Links = Sequence[tuple[str, dict[str, Any]]]

# Gradient transforms: their argument (if they have one), its default (None: required), and their place in the order.
_BEFORE: Mapping[str, tuple[str, Any, int]] = {
    "scale": ("step_size", None, 0),
    "centralize": ("", 0.0, 1),
    "clip_by_global_norm": ("max_norm", None, 2),
    "clip_by_block_rms": ("threshold", None, 2),
    "clip": ("max_delta", None, 3),
    "add_decayed_weights": ("weight_decay", 0.0, 4),
}
# What a chain may stand in, from the outside in: its argument, and what may be said besides.
AROUND: Mapping[str, tuple[str, int]] = {
    "apply_if_finite": ("max_consecutive_errors", -3),
    "MultiSteps": ("every_k_schedule", -2),
}
_NORMS = {"clip_by_global_norm": "global", "clip_by_block_rms": "rms"}
# Transformations that are an alias' preconditioner under other arguments.
_OTHER_CORES: Mapping[str, tuple[str, Arguments, Mapping[str, str]]] = {
    "trace": ("sgd", {}, {"decay": "momentum"}),
    "scale_by_stddev": ("rmsprop", {"centered": True}, {}),
}
_RATES = ("scale_by_learning_rate", "scale")


@dataclass
class Resolved:
    """What a chain is: the alias' record that its core belongs to, that alias' arguments, the options and
    hyperparameters that the other links set, and the link that holds the learning rate."""

    row: OptaxNative
    arguments: dict[str, Any]
    options: dict[str, OptionValue] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    rate: int = 0
    state: State = ()

    @property
    def rule(self) -> Rule:
        return families()[self.row.family].rule(**{**self.row.options(self.arguments), **self.options})

    def group(self, links: Links, params: tuple[str, ...] | None) -> Group:
        rule = self.rule
        values = {**self.row.hyperparameters(self.arguments, rule), **self.values}
        checked = {h.name: h.check(_WHERE, values[h.name]) for h in rule.hyperparameters}
        arguments = {**self.arguments, LINKS_KEY: [[name, dict(given)] for name, given in links]}
        return Group(rule, checked, params, native=self.row.qualified, arguments=arguments)


def _refuse(number: int, name: str, reason: str) -> HyperparameterError:
    return HyperparameterError(f"{_WHERE}: link {number}, {name!r}: {reason}")


def normal(links: Any) -> list[tuple[str, dict[str, Any]]]:
    """Links as (name, arguments by name).

    Raises:
        HyperparameterError: not a list of names, or of pairs of a name and a mapping.
    """
    if isinstance(links, str) or not isinstance(links, Sequence) or not links:
        raise HyperparameterError(
            f"{_WHERE}: argument 'links' expected a list of (name, arguments), found {links!r:.80}"
        )
    out = []
    for number, link in enumerate(links, 1):
        pair = (link, {}) if isinstance(link, str) else tuple(link) if isinstance(link, list | tuple) else ()
        if len(pair) == 1:
            pair = (*pair, {})
        if len(pair) != 2 or not isinstance(pair[0], str) or not isinstance(pair[1], Mapping):
            raise HyperparameterError(
                f"{_WHERE}: link {number}: expected (name, arguments), found {link!r:.80}"
            )
        out.append((pair[0], dict(pair[1])))
    return out


def _number(number: int, name: str, given: Mapping[str, Any], key: str, default: Any) -> float:
    unknown = sorted(set(given) - {key} - {"mask", "flip_sign"})
    value = given.get(key, default)
    if unknown or given.get("mask") is not None:
        raise _refuse(number, name, f"expected the argument {key!r} alone, found {', '.join(given)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refuse(number, name, f"argument {key!r} expected a number, found {value!r:.80}")
    return float(value)


def resolve(given: Any, rows: Mapping[str, OptaxNative]) -> Resolved:
    """What a chain of links is. rows: the aliases by name.

    Raises:
        HyperparameterError: an order that no rule has, or an argument that does not fit.
        UnknownNameError: a link that is neither an alias nor a transformation that is known.
    """
    links = normal(given)
    cores: dict[str, tuple[str, Arguments, Mapping[str, str]]] = dict(_OTHER_CORES)
    for row in rows.values():  # the first alias of several with one preconditioner
        if row.transform:
            cores.setdefault(row.transform, (row.name, {}, {}))
    start = next((i for i, (n, _) in enumerate(links) if n.lower() in rows or n in cores), None)
    if start is None:  # plain SGD: the last factor is the learning rate
        last = max((i for i, (n, _) in enumerate(links) if n in _RATES), default=None)
        if last is None:
            raise HyperparameterError(f"{_WHERE}: expected a learning rate, found no link that has one")
        start = last
        out = Resolved(rows["sgd"], {})
        rest = start
    else:
        name, arguments = links[start]
        out = _core(start + 1, name, arguments, rows, cores)
        rest = start + 1
    _before(links[:start], out)
    alias = rest > start and links[start][0].lower() in rows
    _after(links, rest, out, alias, start)
    own = out.row.state(out.arguments)
    core: tuple[State, ...] = ()
    if rest > start:
        core = (own if alias else own[0],)
    tail = tuple(
        fields("trace") if n == "trace" else RATE if i == out.rate else EMPTY
        for i, (n, _) in enumerate(links[rest:], rest)
    )
    around = [n for n, _ in links[:start] if n in AROUND]
    out.state = (*(EMPTY for n, _ in links[:start] if n not in AROUND), *core, *tail)
    if around and len(links) == len(around) + 1:
        out.state = out.state[0]  # the link itself, no chain of it
    chosen = {**out.row.options(out.arguments), **out.options}
    choices = families()[out.row.family].options
    for option, value in chosen.items():
        if value not in choices[option].choices and choices[option].choices:
            raise HyperparameterError(
                f"{_WHERE}: {out.row.family} has no {option} {value!r}; expected one of "
                f"{', '.join(map(str, choices[option].choices))}"
            )
    if "accumulate" in out.options:
        out.state = Gathered(out.state, int(out.values["accumulation_steps"]))
    if "overflow" in out.options:
        out.state = Guarded(out.state, "updates" in out.rule.slot_names)
    return out


def _core(
    number: int,
    name: str,
    given: Mapping[str, Any],
    rows: Mapping[str, OptaxNative],
    cores: Mapping[str, tuple[str, Arguments, Mapping[str, str]]],
) -> Resolved:
    if name.lower() in rows:
        row = rows[name.lower()]
        return Resolved(row, row.complete(given), rate=number - 1)
    row_name, fixed, renamed = cores[name]
    row = rows[row_name]
    wrong = sorted({"learning_rate", "weight_decay", "momentum"} & set(given))
    if wrong:
        raise _refuse(number, name, f"has no argument {wrong[0]!r}; chain a link of its own for it")
    arguments = {renamed.get(k, k): v for k, v in given.items()}
    if name == "trace" and "momentum" not in arguments:
        raise _refuse(number, name, "expected the argument 'decay', found none")
    nadam = name == "scale_by_adam" and arguments.pop("nesterov", False)
    if nadam:
        row = rows["nadam"]
    base = {k: 0.0 for k in ("weight_decay",) if k in row.arguments}
    return Resolved(row, row.complete({**base, **fixed, **arguments}), rate=-1)


def _before(links: Links, out: Resolved) -> None:
    """The gradient transforms in front of the core."""
    place, factor = -4, 1.0
    for number, (name, given) in enumerate(links, 1):
        if name in AROUND:
            if AROUND[name][1] <= place:
                raise _refuse(
                    number, name, "expected first, as apply_if_finite, then MultiSteps, then the rest"
                )
            place = AROUND[name][1]
            _around(number, name, given, out)
            continue
        if name not in _BEFORE:
            raise _unknown(number, name)
        key, default, own = _BEFORE[name]
        value = _number(number, name, given, key, default) if key or given else 0.0
        if name == "clip" and out.options.get("decay") == "l2":
            own = 5
        if own < place or (own == place and own > 0) or (own == 5 and "clip" in out.options):
            order = (
                "scale, centralize, clip by norm, clip, add_decayed_weights, clip, each once and clip once"
            )
            raise _refuse(
                number, name, f"after {links[number - 2][0]!r} no rule has it; expected the order {order}"
            )
        place = own
        if name == "scale":
            factor *= value
        elif name == "centralize":
            out.options["centralize"] = True
        elif name in _NORMS:
            out.options["clip_norm"], out.values["max_norm"] = _NORMS[name], value
        elif name == "clip":
            out.options["clip"] = "before_decay" if own == 3 else "after_decay"
            out.values["clip_gradient"] = value
        elif value:
            _decay(number, name, "l2", value, out)
    if factor != 1 and "accumulate" in out.options:
        raise HyperparameterError(
            f"{_WHERE}: scale inside MultiSteps: gradients are gathered before it; no rule has it; scale the gradient"
        )
    if factor != 1:
        out.options["rescale"], out.values["rescale_grad"] = True, factor


def _around(number: int, name: str, given: Mapping[str, Any], out: Resolved) -> None:
    """What stands around the chain."""
    key = AROUND[name][0]
    wrong = sorted(
        set(given) - {key, "use_grad_mean"} - ({"accumulator_dtype"} if name == "MultiSteps" else set())
    )
    value, mean = given.get(key), given.get("use_grad_mean", True)
    least = 1 if name == "MultiSteps" else 0
    if type(value) is not int or value < least or type(mean) is not bool or wrong:
        raise _refuse(
            number, name, f"expected {key!r} as a whole number from {least} up, found {dict(given)!r:.80}"
        )
    if given.get("accumulator_dtype") is not None:
        raise _refuse(number, name, "accumulator_dtype expected None: gathered in the parameter's dtype")
    if name == "MultiSteps":
        out.options["accumulate"] = "running_mean" if mean else "sum"
        out.values["accumulation_steps"] = value
    else:
        out.options["overflow"], out.values["max_bad_updates"] = "skip_limited", value


def _decay(number: int, name: str, kind: str, value: float, out: Resolved) -> None:
    if out.options.get("decay") or out.arguments.get("weight_decay"):
        raise _refuse(number, name, "the chain has another weight decay; expected one")
    out.options["decay"], out.values["weight_decay"] = kind, value


def _after(links: Links, start: int, out: Resolved, alias: bool, core: int) -> None:
    """The links behind the core: decoupled decay, the learning rate, a folded momentum."""
    factor: float | None = None
    for number, (name, given) in enumerate(links[start:], start + 1):
        if name in _RATES:
            key = "step_size" if name == "scale" else "learning_rate"
            value = _number(number, name, given, key, None)
            flip = name == "scale_by_learning_rate" and given.get("flip_sign", True)
            factor = (1.0 if factor is None else factor) * (-value if flip else value)
            if (not alias and out.rate < 0) or start == core:
                out.rate = number - 1
        elif name == "add_decayed_weights" and factor is None and not alias:
            value = _number(number, name, given, "weight_decay", 0.0)
            if value:
                _decay(number, name, "decoupled", value, out)
        elif (
            name == "trace"
            and factor is not None
            and out.row.name == "rmsprop"
            and out.arguments["momentum"] is None
        ):
            out.arguments |= {"momentum": given.get("decay"), "nesterov": bool(given.get("nesterov", False))}
        elif name in _BEFORE or name == "trace":
            reason = (
                "the alias before it has its learning rate inside"
                if alias
                else "the learning rate stands before it"
            )
            if factor is None and not alias:
                reason = f"expected before the preconditioner {links[core][0]!r}"
            raise _refuse(number, name, f"{reason}; no rule has this order")
        else:
            raise _unknown(number, name)
    if alias:
        lr = out.arguments["learning_rate"]
        if factor is not None and lr is not None and not _scales(out):
            raise _refuse(
                core + 1,
                links[core][0],
                "a factor on its update is no factor on its learning rate; no rule has it",
            )
        # Without a learning rate of its own an alias adds its step: the factor is all there is.
        given_lr = None if lr is None else float(lr)
        if factor is not None:
            given_lr = -factor if given_lr is None else given_lr * factor
        out.arguments["learning_rate"] = given_lr
    elif factor is None:
        raise HyperparameterError(
            f"{_WHERE}: expected a learning rate after {links[core][0]!r}, found none; add "
            '("scale_by_learning_rate", {"learning_rate": …})'
        )
    else:
        out.arguments = {**out.row.complete({}), **out.arguments, "learning_rate": -factor}
        if start == core:  # plain SGD
            out.arguments["momentum"] = None


def _scales(out: Resolved) -> bool:
    """Whether the learning rate multiplies the update, as Rprop's does not."""
    return any(i.name == "lr" for i in out.row.rule(out.arguments).program.inputs("hyper"))


def _unknown(number: int, name: str) -> Exception:
    return UnknownNameError(
        f"{_WHERE}: link {number}: {name!r} is no alias and no transformation that a rule can have; expected "
        f"an alias, {', '.join(_BEFORE)} before a preconditioner, or scale_by_learning_rate after it"
    )


def with_lr(links: Any, lr: float, rows: Mapping[str, OptaxNative]) -> list[tuple[str, dict[str, Any]]]:
    """The links with another learning rate."""
    found, out = resolve(links, rows), normal(links)
    name, given = out[found.rate]
    key = "step_size" if name == "scale" else "learning_rate"
    before = float(found.arguments["learning_rate"] or 0.0)
    if before == 0:
        raise HyperparameterError(
            f"{_WHERE}: learning rate expected other than 0 to set another, found "
            f"{found.arguments['learning_rate']!r}"
        )
    held: Any = given.get(key, given.get("lr", found.row.arguments.get("learning_rate")))
    given.pop("lr", None)
    given[key] = held * (lr / before)
    return out


@dataclass(frozen=True)
class ChainNative(OptaxNative):
    """``optax:chain``: its groups are those of the alias that its core belongs to."""

    rows: Mapping[str, OptaxNative] = field(default_factory=dict)

    def groups(self, given: Arguments, params: tuple[str, ...] | None) -> list[Group]:
        arguments = self.complete(given)
        links = normal(arguments["links"])
        return [resolve(links, self.rows).group(links, params)]

    def hyperparameters(self, arguments: Arguments, rule: Rule) -> dict[str, float]:
        return dict(self.groups(arguments, None)[0].hyperparameters)

    def composed(self, group: Group) -> Iterator[tuple[dict[str, OptionValue], Express]]:
        """The chains that a group's rule may become: each alias of its family, with the links for what
        stands around the rule."""
        from optexport.translation.search import native_goals

        if LINKS_KEY in group.arguments:
            own = group.arguments[LINKS_KEY]
            yield dict(group.rule.options), lambda _: {"links": own}
            return
        options = group.rule.options
        outside = {o: v for o, v in options.items() if _expressible(o, v)}
        neutral = {o: False if v is True else "none" for o, v in outside.items()}
        for row in self.rows.values():
            for goal in native_goals(row, like=options) if row.family == group.rule.family else ():
                if any(goal.options.get(o, v) != v for o, v in neutral.items()):
                    continue

                def express(
                    values: Mapping[str, float], row: OptaxNative = row, goal: Any = goal
                ) -> dict[str, Any] | None:
                    arguments = goal.express(values)
                    if arguments is None:
                        return None
                    changed = {
                        k: v
                        for k, v in arguments.items()
                        if k == "learning_rate" or row.arguments.get(k) != v
                    }
                    return {"links": [*_links(outside, values), (row.name, changed)]}

                yield {**goal.options, **outside}, express


Express = Callable[[Mapping[str, float]], "dict[str, Any] | None"]
_OUTSIDE: Mapping[str, tuple[OptionValue, ...]] = {
    "overflow": ("skip_limited",),
    "accumulate": ("running_mean", "sum"),
    "rescale": (True,),
    "centralize": (True,),
    "clip_norm": ("global", "rms"),
    "clip": ("before_decay", "after_decay"),
    "decay": ("l2",),
}


def _expressible(option: str, value: OptionValue) -> bool:
    return any(value == v and type(value) is type(v) for v in _OUTSIDE.get(option, ()))


def _links(
    options: Mapping[str, OptionValue], values: Mapping[str, float]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The links for what stands around a rule, in their order."""
    clip = ("clip", {"max_delta": values.get("clip_gradient")})
    if "overflow" in options:
        yield "apply_if_finite", {"max_consecutive_errors": int(values["max_bad_updates"])}
    if "accumulate" in options:
        mean = options["accumulate"] == "running_mean"
        every = {"every_k_schedule": int(values["accumulation_steps"])}
        yield "MultiSteps", every if mean else {**every, "use_grad_mean": False}
    if "rescale" in options:
        yield "scale", {"step_size": values["rescale_grad"]}
    if "centralize" in options:
        yield "centralize", {}
    if "clip_norm" in options:
        name = next(n for n, kind in _NORMS.items() if kind == options["clip_norm"])
        yield name, {_BEFORE[name][0]: values["max_norm"]}
    if options.get("clip") == "before_decay":
        yield clip
    if "decay" in options:
        yield "add_decayed_weights", {"weight_decay": values["weight_decay"]}
    if options.get("clip") == "after_decay":
        yield clip


_PLAIN = (("sgd", {"learning_rate": 1e-3}),)


def chain_entry(rows: Sequence[OptaxNative]) -> ChainNative:
    """The record of ``optax:chain`` over these aliases; without links it is plain SGD."""
    table = {r.name.lower(): r for r in rows}
    sgd = table["sgd"]
    return ChainNative(
        "optax",
        "chain",
        "sgd",
        arguments={"learning_rate": 1e-3, "links": _PLAIN},
        options=lambda a: sgd.options(sgd.complete({})),
        links={"lr": Link("learning_rate")},
        slots=sgd.slots,
        aliases={"lr": "learning_rate"},
        state=lambda a: resolve(a["links"], table).state,
        note="links say what it is: ox.native('optax:chain', links=[(name, arguments), …])",
        rows=table,
    )
