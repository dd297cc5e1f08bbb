"""The square, for every optimizer of every framework: rearrange then update is update then rearrange,
wherever the verdict says so, and is not where it says that updates differ."""

from __future__ import annotations

import numpy as np
import pytest

import optexport as ox
from optexport.dialects import natives
from optexport.errors import HyperparameterError, OptexportError, VerdictError
from optexport.rules.catalogue import CATALOGUE
from optexport.state.name_map import NameMap, parse_map

TRANSPOSE = [{"from": "w", "to": "t", "transpose": [1, 0]}]
SPLIT = [{"from": "w", "to": ["q", "k"], "axis": 0, "sizes": [2, 3]}]
JOIN = [{"from": ["a", "b"], "to": "w", "axis": 0}]
CUT = [{"from": "w", "to": "t", "axes": "(a b) c -> (c b) a", "axis_sizes": {"b": 2}}]


def mapping(entries: list[dict]) -> NameMap:
    return parse_map({"version": 1, "entries": entries}, "m.json")


def gap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max(initial=0)) / max(float(np.abs(b).max(initial=0)), 1e-300)


def optimizers() -> list[str]:
    return [e.qualified for fw in ("torch", "keras", "optax", "mxnet") for e in natives()[fw].values()]


EVERYTHING = sorted({*CATALOGUE, *optimizers()})


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("kind", ["transpose", "split", "join", "cut"])
def test_the_square(name: str, kind: str) -> None:
    shapes = {"transpose": {"w": (5, 4)}, "split": {"w": (5, 4)}, "cut": {"w": (6, 4)}}.get(
        kind, {"a": (2, 4), "b": (3, 4)}
    )
    names = mapping({"transpose": TRANSPOSE, "split": SPLIT, "join": JOIN, "cut": CUT}[kind])
    rng = np.random.default_rng(1)
    # A hyperparameter that is off by default would hide what the rule does.
    spec = ox.native(name) if ":" in name else ox.spec(name)
    try:
        state = ox.init(spec, {n: rng.standard_normal(s) for n, s in shapes.items()})
    except HyperparameterError:
        pytest.skip("not for matrices")

    def given(scale: float) -> dict:
        return {
            r: {n: scale * rng.standard_normal(s) for n, s in shapes.items()}
            for r in ("grads", "noise", "hessian")
        }

    for _ in range(3):
        state = ox.step(state, **given(1.0))
    try:
        moved, report = ox.rearrange(state, names, allow="lossy")
    except VerdictError as e:
        assert "verdict none" in str(e)
        return

    worst = 0.0
    for scale in (1e-2, 1.0, 30.0):
        g = given(scale)
        after, _ = ox.rearrange(ox.step(state, **g), names, allow="lossy")
        ports = names.ports(shapes)
        g = {
            r: {
                t: a
                for p in ports
                for t, a in zip(p.targets, p.apply([v[s] for s in p.sources]), strict=True)
            }
            for r, v in g.items()
        }
        other = ox.step(moved, **g)
        for n in after.names:
            start = moved.params[n]
            worst = max(worst, gap(other.params[n] - start, after.params[n] - start))
            worst = max(worst, *(gap(other.slots[n][s], after.slots[n][s]) for s in other.slots[n]), 0)
    assert report.verdict in ("exact", "lossy")
    if report.verdict == "exact":
        assert worst < 1e-7
    else:
        assert worst > 1e-4, report.dropped


@pytest.mark.parametrize(
    ("name", "arguments", "transpose", "split"),
    [
        ("torch:AdamW", {}, "exact", "exact"),
        ("torch:SGD", {"momentum": 0.9}, "exact", "exact"),
        # One number for all tensors, computed from none of them.
        ("keras:Nadam", {}, "exact", "exact"),
        # A norm over the whole tensor.
        ("keras:Lamb", {}, "exact", "lossy"),
        ("keras:SGD", {"clipnorm": 1.0}, "exact", "lossy"),
        ("keras:SGD", {"global_clipnorm": 1.0}, "exact", "exact"),
        # Its step is as long on either shape where `adjust_lr_fn` takes the larger side.
        ("torch:Muon", {"adjust_lr_fn": "match_rms_adamw"}, "exact", "lossy"),
        ("torch:Muon", {}, "lossy", "lossy"),
        # Rows and columns change places; a piece has rows and columns of its own.
        ("torch:Adafactor", {}, "exact", "none"),
        ("keras:Adafactor", {}, "exact", "none"),
        ("optax:adafactor", {"min_dim_size_to_factor": 2}, "exact", "none"),
        # A mean over each row: rows stay whole along axis 0.
        ("mxnet:groupadagrad", {}, "none", "exact"),
        ("optax:novograd", {}, "exact", "none"),
    ],
)
@pytest.mark.parametrize("side", [1, 100])
def test_verdicts(name: str, arguments: dict, transpose: str, split: str, side: int) -> None:
    """Small tensors are judged as they are, large ones by small ones of the same proportions."""
    state = ox.init(ox.native(name, **arguments), {"w": np.ones((5 * side, 2 * side))})
    for entries, want in ((TRANSPOSE, transpose), ([{**SPLIT[0], "sizes": [2 * side, 3 * side]}], split)):
        try:
            verdict = ox.rearrange(state, mapping(entries), allow="lossy")[1].verdict
        except VerdictError as e:
            assert "verdict none" in str(e)
            verdict = "none"
        assert verdict == want


def refused(state, entries, allow=None) -> str:
    with pytest.raises(OptexportError) as caught:
        ox.rearrange(state, mapping(entries), allow=allow)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_refused_says_why() -> None:
    w = {"w": np.ones((5, 4))}
    factored = ox.init(ox.native("torch:Adafactor"), w)
    assert "slot 'col_var' is a mean over axis 0, along which the tensor is split" in refused(factored, SPLIT)
    assert "slot 'row_var' is a mean over an axis, and axes are cut or joined here" in refused(
        factored, [{"from": "w", "to": "t", "axes": "a (b c) -> (a b) c", "axis_sizes": {"b": 2}}]
    )
    conv = ox.init(ox.native("torch:Adafactor"), {"w": np.ones((5, 4, 3, 3))})
    message = refused(conv, [{"from": "w", "to": "t", "transpose": [2, 3, 1, 0]}])
    assert (
        "slot 'row_var' is a mean over what is then axis 1, and the rule keeps none over that axis" in message
    )
    novograd = ox.init(ox.native("optax:novograd"), w)
    assert "slot 'norm_sq' is one number made from a whole tensor" in refused(novograd, SPLIT)
    lamb = ox.init(ox.native("keras:Lamb"), w)
    message = refused(lamb, SPLIT)
    assert "verdict lossy: drops w → q, k: lamb computes norm from the whole tensor" in message
    assert "--allow lossy" in message
    muon = ox.init(ox.native("torch:Muon"), w)
    assert "muon tells axes from one another; on a test problem its update" in refused(muon, TRANSPOSE)


def test_factors_change_places() -> None:
    state = ox.init(ox.native("torch:Adafactor"), {"w": np.ones((3, 2))})
    state = ox.step(state, {"w": np.arange(6.0).reshape(3, 2)})
    moved, _ = ox.rearrange(state, mapping(TRANSPOSE))
    assert np.array_equal(moved.slots["t"]["col_var"], state.slots["w"]["row_var"].T)
    assert np.array_equal(moved.slots["t"]["row_var"], state.slots["w"]["col_var"].T)


def test_a_history_moves_item_by_item_and_a_master_as_the_weight() -> None:
    state = ox.init(ox.native("torch:LBFGS", history_size=3), {"w": np.ones((3, 2))})
    for i in range(4):
        state = ox.step(state, {"w": np.arange(6.0).reshape(3, 2) * i})
    held = state.slots["w"]
    from dataclasses import replace

    state = replace(state, slots={"w": {**held, "master": np.arange(6, dtype=np.float32).reshape(3, 2)}})
    moved, _ = ox.rearrange(state, mapping(TRANSPOSE))
    for name, kind in (("gradient_differences", 3), ("master", 2)):
        before, after = state.slots["w"][name], moved.slots["t"][name]
        assert np.array_equal(after, np.swapaxes(before, -1, -2)) and after.ndim == kind


def test_joined_tensors_must_have_been_updated_alike() -> None:
    params = {"a": np.ones((2, 4)), "b": np.ones((3, 4))}
    state = ox.step(ox.init(ox.spec("adam"), params), {"a": np.ones((2, 4))})
    assert "joined tensors are updated alike, found steps 0, 1" in refused(state, JOIN)
    groups = ox.init(ox.spec("adam", groups=[{"params": ["a"], "lr": 0.1}]), params)
    assert "joined tensors are updated alike, found parameter groups 0, 1" in refused(groups, JOIN)
    asgd = ox.init(ox.spec("asgd"), params)
    slots = {n: dict(s) for n, s in asgd.slots.items()}
    slots["a"]["eta"] = np.float32(0.5)
    from dataclasses import replace

    assert "slot 'eta' is not the same number in each of the joined tensors" in refused(
        replace(asgd, slots=slots), JOIN
    )


@pytest.mark.parametrize(
    ("options", "transpose", "split"),
    [
        ({"clip_norm": "tensor", "max_norm": 1.0}, "exact", "lossy"),
        ({"clip_norm": "global_eps", "max_norm": 1.0}, "exact", "exact"),
        # A mean over all axes but the first: rows stay whole along axis 0.
        ({"centralize": True}, "lossy", "exact"),
        ({"lookahead": "sync"}, "exact", "exact"),
        ({"average": "ema"}, "exact", "exact"),
        ({"accumulate": "mean"}, "exact", "exact"),
        ({"overflow": "dynamic"}, "exact", "exact"),
    ],
)
def test_what_stands_around_a_rule(options: dict, transpose: str, split: str) -> None:
    state = ox.init(ox.spec("adam", **options), {"w": np.ones((5, 4))})
    for entries, want in ((TRANSPOSE, transpose), (SPLIT, split)):
        assert ox.rearrange(state, mapping(entries), allow="lossy")[1].verdict == want
