"""What stands around an Optax alias: carried in files, ported as schedules' counts, made out of a rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optexport as ox
from optexport.converters.optax import checkpoint
from optexport.converters.optax.dialect import ALIASES
from optexport.converters.optax.optimizers.common import scheduled
from optexport.errors import CheckpointError, HyperparameterError, VerdictError
from optexport.parity import compare_runs, problem, referee
from optexport.parity.compare import relative_error

pytest.importorskip("msgpack")
DATA = Path(__file__).parents[2] / "data" / "optax"
EVERY = ("MultiSteps", {"every_k_schedule": 3, "accumulator_dtype": None})
FINITE = ("apply_if_finite", {"max_consecutive_errors": 2})
NORM = ("clip_by_global_norm", {"max_norm": 1.0})
ADAM = ("adam", {"learning_rate": 0.01})
CHAINS = {
    "MultiSteps": [EVERY, ADAM],
    "MultiSteps around a chain": [EVERY, NORM, ADAM],
    "apply_if_finite": [FINITE, ADAM],
    "apply_if_finite around SGD": [FINITE, ("sgd", {"learning_rate": 0.1, "momentum": 0.9})],
    "both": [FINITE, EVERY, NORM, ADAM],
}
BAD = (2, 5, 6, 9, 10, 11, 12)


def bad_problem() -> Any:
    p = problem("float64", 20)
    for number in BAD:
        p.grads[number]["w"] = p.grads[number]["w"].copy()
        p.grads[number]["w"][1, 1] = np.inf
    return p


@pytest.mark.parametrize("links", CHAINS.values(), ids=CHAINS)
def test_the_rule_is_what_optax_computes(links: list[Any]) -> None:
    """Gradients that are no numbers among the others, more in a row than are skipped."""
    pytest.importorskip("optax")
    from optexport.converters.optax.run import native_snapshots

    p = bad_problem()
    if "apply_if_finite" not in dict(links):
        p = problem("float64", 20)
    elif "MultiSteps" not in dict(links):
        p.grads[12] = p.grads[13]  # the rule's own divergence is not what is asked
    else:
        p.grads[11] = p.grads[12] = p.grads[13]
    states = referee(ox.native("optax:chain", links=links), p.params, p.grads, [None] * 20)
    made = native_snapshots("optax:chain", {"links": links}, p.params, p.grads, dtype="float64")
    mismatch, _ = compare_runs(states, made, "float64", native=f"optax:{links[-1][0]}")
    assert mismatch is None, str(mismatch)


@pytest.mark.parametrize("stop", [7, 8, 9], ids=["one gathered", "two gathered", "none gathered"])
@pytest.mark.parametrize("links", CHAINS.values(), ids=CHAINS)
def test_the_library_goes_on_from_a_written_file(tmp_path: Path, links: list[Any], stop: int) -> None:
    """Some calls here, a file, the rest in the real Optax: the same as all of them here."""
    pytest.importorskip("optax")
    from optexport.converters.optax import run

    p = bad_problem() if "apply_if_finite" in dict(links) else problem("float64", 20)
    p.grads[9:] = [problem("float64", 20).grads[i] for i in range(9, 20)]
    state = ox.init(ox.native("optax:chain", links=links), p.params)
    for g in p.grads[:stop]:
        state = ox.step(state, g)
    path = tmp_path / "state.msgpack"
    ox.save(state, path, format="optax")
    again = ox.load(path, optimizer="optax:chain", arguments={"links": links}, step=stop)
    assert again.steps == state.steps or "sgd" in dict(links)
    for name, own in state.slots.items():
        for slot, array in own.items():
            np.testing.assert_array_equal(again.slots[name][slot], array, slot)
    now = {n: np.asarray(v) for n, v in state.params.items()}
    rest = run.native_resume(path, "optax:chain", {"links": links}, now, p.grads[stop:], dtype="float64")
    for g, (params, _) in zip(p.grads[stop:], rest, strict=True):
        state = ox.step(state, g)
        assert max(relative_error(params[n], state.params[n]) for n in params) <= 1e-12


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([EVERY, FINITE, ADAM], "link 2, 'apply_if_finite': expected first"),
        ([NORM, EVERY, ADAM], "link 2, 'MultiSteps': expected first"),
        ([("MultiSteps", {"every_k_schedule": 2.5}), ADAM], "expected 'every_k_schedule' as a whole number from 1 up"),
        ([("MultiSteps", {"every_k_schedule": 2, "x": 1}), ADAM], "link 1, 'MultiSteps': expected 'every_k_schedule'"),
        ([("MultiSteps", {"every_k_schedule": 2, "accumulator_dtype": "float32"}), ADAM], "accumulator_dtype expected None"),
        ([EVERY, ("scale", {"step_size": 0.5}), ADAM], "scale inside MultiSteps"),
    ],
)  # fmt: skip
def test_what_no_rule_has_is_refused(links: list[Any], message: str) -> None:
    with pytest.raises(HyperparameterError, match=message):
        ox.native("optax:chain", links=links)


def test_nothing_around_it_is_dropped_silently(tmp_path: Path) -> None:
    arguments = {"learning_rate": 1e-3}
    with pytest.raises(
        CheckpointError, match=r"gathered 1 gradients; .* or optax:chain with the links MultiSteps"
    ):
        ox.load(DATA / "multisteps.msgpack", optimizer="optax:adam", arguments=arguments)
    links = [("MultiSteps", {"every_k_schedule": 2}), ("adam", arguments)]
    state = ox.load(DATA / "multisteps.msgpack", optimizer="optax:chain", arguments={"links": links})
    assert set(state.steps.values()) == {3} and all("accumulated_grad" in s for s in state.slots.values())
    with pytest.raises(CheckpointError, match=r"multi_transform gives the label 'b' another optimizer"):
        ox.load(DATA / "multi_transform.msgpack", optimizer="optax:adam", arguments=arguments)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"notfinite_count": 2}, "apply_if_finite has skipped 2 updates in a row; name it to carry that"),
        ({"scale": 0.5}, "also holds scale, which that optimizer does not have"),
        ({"steps_since_sync": 3}, "also holds steps_since_sync"),
    ],
)
def test_counters_around_it_are_named(tmp_path: Path, field: dict[str, Any], message: str) -> None:
    from optexport.converters.optax._msgpack import encode

    one = {"count": np.int32(3), "mu": {"w": np.ones(2)}, "nu": {"w": np.ones(2)}}
    inner = {"0": {k: np.asarray(v) if k == "count" else v for k, v in one.items()}, "1": {}}
    made = bytearray()
    encode({**{k: np.asarray(v) for k, v in field.items()}, "inner_state": inner}, made.extend)
    (tmp_path / "s.msgpack").write_bytes(made)
    with pytest.raises(CheckpointError, match=message):
        ox.load(tmp_path / "s.msgpack", optimizer="optax:adam", arguments={"learning_rate": 1e-3})


# -- schedules ----------------------------------------------------------------------------------------

_NUMBERS_ALONE = ("rprop", "sm3")


@pytest.mark.parametrize("entry", [a for a in ALIASES if a.name not in _NUMBERS_ALONE], ids=lambda e: e.name)
def test_a_schedule_counts_where_optax_has_it(entry: Any) -> None:
    optax = pytest.importorskip("optax")
    import jax.numpy as jnp

    contrib = pytest.importorskip("optax.contrib")

    def tree(held: Any) -> Any:
        if hasattr(held, "_asdict"):
            held = held._asdict()
        if isinstance(held, tuple | list):
            held = dict(enumerate(held))
        return {str(k): tree(v) for k, v in held.items()} if isinstance(held, dict) else 0

    def counts(layout: Any, path: str = "") -> set[str]:
        if isinstance(layout, tuple):
            layout = dict(enumerate(layout))
        if not isinstance(layout, dict):
            return {path} if path.endswith(".count") else set()
        return {p for k, v in layout.items() for p in counts(v, f"{path}.{k}")}

    make = getattr(optax, entry.name, None) or getattr(contrib, entry.name)
    rate = optax.linear_schedule(1e-3, 0.0, 10)
    state = make(**{**entry.arguments, "learning_rate": rate}).init({"w": jnp.ones((4, 3)), "b": jnp.ones(3)})
    assert counts(scheduled(entry.state(dict(entry.arguments)))) == counts(tree(state))


@pytest.mark.parametrize("chain", [False, True])
def test_a_run_with_a_schedule_goes_on(tmp_path: Path, chain: bool) -> None:
    """Bit for bit the state that ``adamw(schedule)`` has, its count of the schedule included."""
    optax = pytest.importorskip("optax")
    serialization = pytest.importorskip("flax.serialization")
    import jax.numpy as jnp

    rate = optax.cosine_decay_schedule(0.1, 10)
    tx = optax.adamw(rate, weight_decay=0.1)
    arguments: dict[str, Any] = {"learning_rate": 0.1, "weight_decay": 0.1}
    if chain:
        tx = optax.chain(
            optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale_by_learning_rate(rate)
        )
        links = [NORM, ("scale_by_adam", {}), ("scale_by_learning_rate", {"learning_rate": 0.1})]
        arguments = {"links": links}
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    for i in range(4):
        _, state = tx.update({"w": jnp.full(3, 0.5 * i)}, state, params)
    path = tmp_path / "s.msgpack"
    path.write_bytes(serialization.to_bytes({"params": params, "opt_state": state}))
    name = "optax:chain" if chain else "optax:adamw"
    loaded = ox.load(path, optimizer=name, arguments=arguments)
    assert any(
        "the learning rate follows a schedule, which the file does not hold" in w for w in loaded.warnings
    )
    from dataclasses import replace

    from optexport.schedules import native_schedule

    group = loaded.spec.groups[0]
    followed = native_schedule("optax:cosine_decay_schedule", init_value=0.1, decay_steps=10)
    group = replace(group, schedules={"lr": followed})
    ox.save(replace(loaded, spec=type(loaded.spec)((group,))), tmp_path / "t.msgpack", format="optax")
    again = serialization.from_bytes(tx.init(params), (tmp_path / "t.msgpack").read_bytes())
    assert serialization.to_bytes(again) == serialization.to_bytes(state)


# -- a chain as the target ----------------------------------------------------------------------------

SOURCES = [
    ("torch:Adam", {"lr": 1e-3, "weight_decay": 0.1}, "exact"),
    ("torch:AdamW", {"lr": 1e-3, "weight_decay": 0.1}, "exact"),
    ("torch:SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}, "exact"),
    ("torch:RMSprop", {"lr": 0.1, "weight_decay": 0.1}, "exact"),
    (
        "mxnet:SGD",
        {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.1, "clip_gradient": 0.5, "rescale_grad": 0.5},
        None,
    ),
]


@pytest.mark.parametrize(("name", "arguments", "verdict"), SOURCES, ids=[n for n, _, _ in SOURCES])
def test_a_rule_becomes_a_chain(
    tmp_path: Path, name: str, arguments: dict[str, Any], verdict: str | None
) -> None:
    p = problem("float64", 10)
    state = ox.init(ox.native(name, **arguments), p.params)
    for g in p.grads[:5]:
        state = ox.step(state, g)
    new, report = ox.translate(state, to="optax:chain")
    assert report.verdict == (verdict or report.verdict) and report.verdict in ("exact", "conditional")
    links = new.spec.groups[0].arguments["#links"]
    ox.save(new, tmp_path / "s.msgpack", format="optax")
    given = {"optimizer": "optax:chain", "arguments": {"links": links}, "step": 5}
    again = ox.load(tmp_path / "s.msgpack", format="optax", **given)
    again = type(again)(**{**again.__dict__, "params": new.params})
    assert again.spec.groups[0].rule == new.spec.groups[0].rule
    for g in p.grads[5:]:
        state, again = ox.step(state, g), ox.step(again, g)
    bound = 1e-12 if name.startswith("torch") else 2.0**-23  # MXNet's numbers are rounded to float32
    assert max(relative_error(again.params[n], state.params[n]) for n in p.params) <= bound


def test_slots_of_a_chain_have_its_alias_names() -> None:
    state = ox.init(ox.native("torch:Adam", weight_decay=0.1), {"w": np.ones(3)})
    state = ox.step(state, {"w": np.ones(3)})
    assert set(ox.lower(state, "optax:chain")["w"]) == {"mu", "nu"}


def test_a_rule_that_no_chain_has_is_refused() -> None:
    state = ox.init(ox.native("mxnet:ftml"), {"w": np.ones(3)})
    with pytest.raises(VerdictError, match="of the ftml family, of which optax:chain has no part"):
        ox.translate(state, to="optax:chain")


def test_the_command_makes_a_chain(tmp_path: Path) -> None:
    from optexport.convert import convert

    state = ox.init(ox.native("torch:Adam", weight_decay=0.1), {"w": np.ones(3)})
    ox.save(ox.step(state, {"w": np.ones(3)}), tmp_path / "b.safetensors", format="bundle")
    for target, to in (("s.msgpack", "optax"), ("s.orbax", "orbax")):
        source, path = str(tmp_path / "b.safetensors"), str(tmp_path / target)
        done = convert(source, path, to_format=to, optimizers=("optax:chain",))
        assert done.verdict == "exact" and done.optimizer == "optax:chain"
        tree = ox.state.store.read_native(path).extras["tree"]
        assert list(tree) == ["0", "1"] and list(tree["1"]["0"]) == ["count", "mu", "nu"]


def test_an_emitted_state_is_named(tmp_path: Path) -> None:
    from optexport.converters.optax.emit import emitted_state

    state = ox.init(ox.spec("adamw"), {"w": np.ones(3)})
    state = ox.step(state, {"w": np.ones(3)})
    checkpoint.write(emitted_state(state, "opt"), tmp_path / "s.msgpack")
    with pytest.raises(CheckpointError, match="those of a transformation that optexport emitted"):
        ox.load(tmp_path / "s.msgpack", optimizer="optax:adamw", arguments={"learning_rate": 1e-3})
