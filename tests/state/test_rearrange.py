"""States for another model: slots follow, partial ports, and a command line that says what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import optexport as ox
from optexport.cli import main
from optexport.convert import convert
from optexport.errors import NamingError, OptexportError, UnknownNameError, VerdictError
from optexport.state.name_map import NameMap, parse_map
from optexport.state.native import Weights

SHAPES = {"fc1.weight": (6, 3), "fc1.bias": (6,), "head.weight": (2, 6), "head.bias": (2,)}


def arrays(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def trained(
    spec: ox.Spec | None = None, shapes: dict[str, tuple[int, ...]] = SHAPES, steps: int = 3
) -> ox.TrainingState:
    state = ox.init(spec or ox.native("torch:AdamW", lr=0.1), arrays(shapes), dtype=np.float32)
    for i in range(steps):
        state = ox.step(state, arrays(shapes, i + 1))
    return state


def a_map(entries: list[dict] | None = None, **more: Any) -> NameMap:
    return parse_map({"version": 1, "entries": entries or [], **more}, "m.json")


def refused(kind: type[OptexportError], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(kind) as caught:
        ox.rearrange(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def bits(a: np.ndarray) -> bytes:
    return np.ascontiguousarray(a).tobytes()


def same(a: ox.TrainingState, b: ox.TrainingState) -> bool:
    assert a.names == b.names and dict(a.steps) == dict(b.steps)
    assert [g.rule for g in a.spec.groups] == [g.rule for g in b.spec.groups]
    return all(bits(a.params[n]) == bits(b.params[n]) for n in a.params) and all(
        bits(a.slots[n][s]) == bits(b.slots[n][s]) for n in a.slots for s in a.slots[n]
    )


def test_fused_attention_splits_and_joins_bit_for_bit(tmp_path: Path) -> None:
    """NaN payloads and denormals included, through files."""
    shapes = {
        f"h.{i}.attn.qkv.{p}": (12, 4)[: 2 if p == "weight" else 1]
        for i in (0, 1)
        for p in ("weight", "bias")
    }
    state = trained(shapes={**shapes, "out.weight": (3, 4)})
    odd = np.array([0x7FC00123, 0x00000001, 0xFF800000, 0x80000000], np.uint32).view(np.float32)
    for slots in state.slots.values():
        slots["exp_avg"].reshape(-1)[:3] = odd[:3]
    entries = [
        {"from": "h.*.attn.qkv.*", "to": ["h.*.q.*", "h.*.k.*", "h.*.v.*"], "axis": 0, "sizes": [8, 2, 2]}
    ]
    (tmp_path / "map.json").write_text(json.dumps({"version": 1, "entries": entries}))
    ox.save(state, tmp_path / "fused.pt", format="torch")
    save_file({k: np.ascontiguousarray(v) for k, v in state.params.items()}, tmp_path / "model.safetensors")

    there = convert(
        str(tmp_path / "fused.pt"), str(tmp_path / "apart.pt"), model=str(tmp_path / "model.safetensors"),
        map_file=str(tmp_path / "map.json"),
    )  # fmt: skip
    back = convert(
        str(tmp_path / "apart.pt"),
        str(tmp_path / "back.pt"),
        map_file=str(tmp_path / "map.json"),
        reverse_map=True,
    )

    assert there.verdict == back.verdict == "exact"
    apart, again, want = (
        ox.load(tmp_path / "apart.pt"),
        ox.load(tmp_path / "back.pt"),
        ox.load(tmp_path / "fused.pt"),
    )
    assert apart.slots["h.1.k.weight"]["exp_avg"].shape == (2, 4)
    assert bits(apart.slots["h.0.k.bias"]["exp_avg_sq"]) == bits(
        want.slots["h.0.attn.qkv.bias"]["exp_avg_sq"][8:10]
    )
    assert same(again, want)
    assert bits(want.slots["out.weight"]["exp_avg"])[:12] == odd[:3].tobytes()
    # The pieces go on as the fused tensors do.
    names = a_map(entries)
    grads = arrays({**shapes, "out.weight": (3, 4)}, 9)
    moved, _ = ox.rearrange(state, names)
    pieces = {
        t: g
        for p in names.ports(grads)
        for t, g in zip(p.targets, p.apply([grads[s] for s in p.sources]), strict=True)
    }
    assert same(ox.step(moved, pieces), ox.rearrange(ox.step(state, grads), names)[0])


# Partial ports.


TARGET = {"fc1.weight": (6, 3), "fc1.bias": (6,), "top.weight": (5, 6), "top.bias": (5,)}


def test_a_new_head_starts_fresh_and_the_old_one_is_left_out() -> None:
    target = Weights(arrays(TARGET, 7), True)
    state, report = ox.rearrange(trained(), a_map(), target_model=target, partial=True)
    assert report.fresh == ("top.weight", "top.bias")
    assert report.dropped == ("state of parameter 'head.weight'", "state of parameter 'head.bias'")
    assert report.verdict == "exact"
    assert state.names == tuple(TARGET) and dict(state.steps) == {
        **dict.fromkeys(TARGET, 3),
        "top.weight": 0,
        "top.bias": 0,
    }
    assert set(state.slots) == {"fc1.weight", "fc1.bias"}
    assert np.array_equal(state.params["top.weight"], target.tensors["top.weight"])
    assert any("top.weight, top.bias: start fresh" in w for w in state.warnings)
    assert any("head.weight, head.bias: had state that is left out" in w for w in state.warnings)


def test_without_consent_both_are_errors() -> None:
    target = Weights(arrays(TARGET, 7), True)
    message = refused(NamingError, trained(), a_map(), target_model=target)
    assert "2 parameters have no counterpart in the target model, 'head.weight' [2, 6] first" in message
    assert "--partial" in message
    out = a_map([{"from": "head.**", "to": None}])
    message = refused(NamingError, trained(), out, target_model=target)
    assert "2 parameters of the target model have no state, 'top.weight' [5, 6] first" in message
    # What the map itself says needs no other consent.
    listed = a_map([{"from": "head.**", "to": None}], fresh=[{"name": "top.*"}])
    assert ox.rearrange(trained(), listed, target_model=target)[1].fresh == ("top.weight", "top.bias")


def test_an_error_names_the_candidates() -> None:
    target = Weights(
        arrays({**{k: v for k, v in SHAPES.items() if "head" not in k}, "h.w": (6, 2), "h.b": (2,)}), True
    )
    message = refused(NamingError, trained(), a_map(), target_model=target)
    assert "'head.weight' [2, 6] first; it may be h.w: map it" in message


def test_frozen_layers_carry_nothing() -> None:
    """Frozen on both sides: the source's weights have it, its optimizer has not."""
    source = Weights(arrays({"embed.weight": (9, 3), **SHAPES}), True)
    target = Weights(arrays({"embed.weight": (9, 3), **SHAPES}), True)
    state, report = ox.rearrange(trained(), a_map(), source_model=source, target_model=target)
    assert report.frozen == ("embed.weight",) and report.fresh == ()
    assert "embed.weight" not in state.names
    assert any("embed.weight: are frozen and carry nothing" in w for w in state.warnings)
    # Without the source's weights nothing tells it from a new parameter.
    assert "'embed.weight' [9, 3] first" in refused(NamingError, trained(), a_map(), target_model=target)
    # Frozen from now on: its state is left out, and the report says so.
    state, report = ox.rearrange(
        trained(), a_map(frozen=["fc1.*"]), target_model=Weights(arrays(SHAPES), True)
    )
    assert report.frozen == ("fc1.weight", "fc1.bias")
    assert report.dropped == ("state of parameter 'fc1.weight'", "state of parameter 'fc1.bias'")
    assert state.names == ("head.weight", "head.bias")


def test_a_fresh_parameter_needs_a_group_where_there_are_several() -> None:
    spec = ox.native(
        "torch:AdamW", lr=0.1, groups=[{"params": ["fc1.bias", "head.bias"], "weight_decay": 0.3}]
    )
    state, target = trained(spec), Weights(arrays({**SHAPES, "new": (4,)}), True)
    message = refused(NamingError, state, a_map(), target_model=target, partial=True)
    assert "parameter 'new' starts fresh, and the optimizer has 2 groups; say which in the map" in message
    moved, _ = ox.rearrange(state, a_map(fresh=[{"name": "new", "group": 0}]), target_model=target)
    assert moved.spec.group("new").hyperparameters["weight_decay"] == 0.3
    message = refused(NamingError, state, a_map(fresh=[{"name": "new", "group": 2}]), target_model=target)
    assert "expected one of the groups 0 to 1, found 2" in message


def test_shapes_must_be_the_targets() -> None:
    target = Weights(arrays({**SHAPES, "fc1.weight": (3, 6)}), True)
    message = refused(NamingError, trained(), a_map(), target_model=target)
    assert (
        "parameter 'fc1.weight': its state has shape [6, 3], the target model [3, 6]; state how its axes move"
        in message
    )


def test_order_is_the_target_models_own() -> None:
    order = ["head.bias", "fc1.weight", "head.weight", "fc1.bias"]
    target = Weights({n: np.zeros(SHAPES[n], np.float32) for n in order}, True)
    state, _ = ox.rearrange(trained(), a_map(), target_model=target)
    assert list(state.names) == state.ordered_names == order
    state, _ = ox.rearrange(trained(), a_map(), target_model=Weights(target.tensors, False))
    assert list(state.names) == list(SHAPES)


def test_groups_that_a_shape_cuts_are_cut_again() -> None:
    """Wide and tall matrices have rules of their own in Muon; transposed they change places."""
    shapes = {"a": (3, 5), "b": (5, 3), "c": (2, 4)}
    spec = ox.native("torch:Muon", lr=0.1, adjust_lr_fn="match_rms_adamw")
    state = trained(spec, shapes)
    entries = [{"from": n, "to": n, "transpose": [1, 0]} for n in shapes]
    moved, report = ox.rearrange(state, a_map(entries))
    fresh = ox.init(spec, dict(moved.params), dtype=np.float32)
    assert {n: moved.spec.group(n).rule for n in shapes} == {n: fresh.spec.group(n).rule for n in shapes}
    assert report.verdict == "exact"


def test_a_rule_that_counts_tensors_keeps_their_number() -> None:
    counting = next(n for n in ("mxnet:nadam", "mxnet:Nadam") if ox.native(n))
    state = trained(ox.native(counting))
    if not any(h.numbers for g in state.spec.groups for h in g.rule.hyperparameters):
        pytest.fail("expected MXNet's Nadam to count its tensors")
    assert ox.rearrange(state, a_map([{"from": "fc1.*", "to": "x.*"}]))[1].verdict == "exact"
    message = refused(VerdictError, state, a_map([{"from": "head.*", "to": None}]))
    assert "nadam counts the optimizer's tensors" in message


def test_an_entry_that_matches_nothing_is_said() -> None:
    state, _ = ox.rearrange(trained(), a_map([{"from": "fc3.weight", "to": "x"}]))
    assert "m.json: 'fc3.weight' matches no parameter" in state.warnings


def test_load_takes_a_map(tmp_path: Path) -> None:
    ox.save(trained(), tmp_path / "run.pt", format="torch")
    (tmp_path / "m.json").write_text(
        '{"version": 1, "entries": [{"from": "fc*.weight", "to": "l*.w", "transpose": [1, 0]}]}'
    )
    state = ox.load(tmp_path / "run.pt", mapping=tmp_path / "m.json")
    assert state.slots["l1.w"]["exp_avg"].shape == (3, 6)
    assert same(state, ox.load(tmp_path / "run.pt", mapping=ox.read_map(str(tmp_path / "m.json"))))


# The command.


def run(*argv: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    return int(caught.value.code or 0), ""


def test_the_command_reports_a_partial_port(tmp_path: Path, capsys: Any) -> None:
    state = trained()
    ox.save(state, tmp_path / "run.pt", format="torch")
    save_file({n: np.ascontiguousarray(a) for n, a in state.params.items()} | {"embed": np.ones((2, 2), np.float32)},
              tmp_path / "model.safetensors")  # fmt: skip
    # The target model was made from the source's weights, with another head.
    body = {f"net.{n}": np.ascontiguousarray(a.T) for n, a in state.params.items() if "fc1" in n}
    save_file(
        {
            **body,
            "net.embed": np.ones((2, 2), np.float32),
            **arrays({"net.head.weight": (6, 2), "net.head.bias": (2,)}, 5),
        },
        tmp_path / "target.safetensors",
    )
    given = [
        "convert", str(tmp_path / "run.pt"), str(tmp_path / "new.pt"), "--model", str(tmp_path / "model.safetensors"),
        "--target-model", str(tmp_path / "target.safetensors"), "--json",
    ]  # fmt: skip
    assert run(*given)[0] == 2
    assert "'head.weight' [2, 6] has no counterpart: its values are nowhere" in capsys.readouterr().err
    assert not (tmp_path / "new.pt").exists()

    assert run(*given, "--partial", "--write-map", str(tmp_path / "m.json"))[0] == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "exact"
    assert sorted(told["fresh"]) == ["net.head.bias", "net.head.weight"]
    assert told["frozen"] == ["net.embed"]
    assert told["dropped"] == ["state of parameter 'head.weight'", "state of parameter 'head.bias'"]
    assert str(tmp_path / "m.json") in told["written"]
    new = ox.load(tmp_path / "new.pt")
    assert bits(new.slots["net.fc1.weight"]["exp_avg"]) == bits(state.slots["fc1.weight"]["exp_avg"].T)
    assert "net.head.weight" not in new.slots and new.steps["net.head.weight"] == 0
    entries = {e["from"]: e for e in json.loads((tmp_path / "m.json").read_text())["entries"]}
    assert entries["fc1.weight"] == {
        "from": "fc1.weight",
        "to": "net.fc1.weight",
        "transpose": [1, 0],
        "why": "equal values",
    }
    assert entries["head.weight"]["to"] is None
    # The map that was written does the same.
    assert (
        run(
            *given[:2], str(tmp_path / "again.pt"), *given[3:], "--partial", "--map", str(tmp_path / "m.json")
        )[0]
        == 0
    )
    assert same(ox.load(tmp_path / "again.pt"), new)


@pytest.mark.parametrize(
    "option", [["--layout", "torch-to-keras"], ["--write-map", "x"], ["--reverse-map"], ["--partial"]]
)
def test_options_of_a_map_want_a_map(option: list[str], tmp_path: Path, capsys: Any) -> None:
    ox.save(trained(), tmp_path / "run.pt", format="torch")
    assert run("convert", str(tmp_path / "run.pt"), str(tmp_path / "o.pt"), *option)[0] == 2
    assert (
        f"{option[0]}: is of a map; expected --map FILE or --target-model FILE too" in capsys.readouterr().err
    )


def test_a_map_is_found_from_both_models_weights_only(tmp_path: Path) -> None:
    ox.save(trained(), tmp_path / "run.safetensors", format="bundle")
    state = ox.load(tmp_path / "run.safetensors")
    from dataclasses import replace

    ox.save(replace(state, params={}), tmp_path / "bare.safetensors", format="bundle")
    save_file(arrays(SHAPES), tmp_path / "target.safetensors")
    with pytest.raises(NamingError, match="the map is found from the weights of both models"):
        convert(
            str(tmp_path / "bare.safetensors"),
            str(tmp_path / "o.pt"),
            target_model=str(tmp_path / "target.safetensors"),
        )
    with pytest.raises(UnknownNameError):
        convert(str(tmp_path / "bare.safetensors"), str(tmp_path / "o.pt"), layout="torch-to-keras")
