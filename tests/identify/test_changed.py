"""Optimizers written by hand with one thing changed: the change is named, or the rule that has it."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("torch")

from optexport.identify import identify
from tests.identify.mutants_torch import MUTANTS, Hand

# As on the slowest machine; benchmarks/identify.py shows what it takes.
SECONDS = 120


@pytest.mark.parametrize(("change", "kind", "wanted"), MUTANTS, ids=[m[0] for m in MUTANTS])
def test_change_is_named(change: str, kind: str | None, wanted: Any) -> None:
    named(change, kind, wanted, seconds=SECONDS)


def named(change: str, kind: str | None, wanted: Any, **options: Any) -> None:
    found = identify(Hand, {"changes": change}, **options)
    # Its class is called by no name of an optimizer: the numbers alone were at hand.
    if kind is None:
        assert found.matches, found.differs
        if isinstance(wanted, int):
            assert found.counts_from == wanted
        else:
            assert {k: found.options[k] for k in wanted} == wanted
        return
    assert found.differs is not None, found.rule
    assert not found.matches
    assert found.rule is None
    assert found.differs["kind"] == kind
    assert re.search(wanted, found.differs["change"]), found.differs["change"]
    assert found.differs["equations"]
    assert found.differs["step"] >= 1
    assert found.differs["error"] > found.differs["bound"] > 0
