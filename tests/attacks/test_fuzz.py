"""Damaged sample files give a state or an error of the library's own; so does everything that was ever found."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.attacks.fuzz import FOUND, Sample, damaged, samples, write
from tests.attacks.runner import Runner

SAMPLES = samples()
# OPTEXPORT_FUZZ=100000 for a long run.
EXAMPLES = int(os.environ.get("OPTEXPORT_FUZZ", "300"))
HIT = st.tuples(st.integers(0, 6), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))


def test_undamaged_files_are_read(runner: Runner, tmp_path: Path) -> None:
    """So that what follows is no test of files that were never read."""
    accepted, refused = 0, []
    for number, root in enumerate(sorted({s.root for s in SAMPLES})):
        folder = tmp_path / str(number)
        folder.mkdir()
        sample = next(s for s in SAMPLES if s.root == root)
        outcome = runner.open(write(sample, sample.data(), folder), ways=("read", "weights"))
        assert outcome.faults() == [], root
        accepted += None in outcome.said.values()
        if None not in outcome.said.values():
            refused.append(f"{root.parent.name}/{root.name}")
    assert accepted > 0.9 * len({s.root for s in SAMPLES}), refused


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SAMPLES), st.lists(HIT, min_size=1, max_size=4))
def test_damage(runner: Runner, sample: Sample, hits: list[tuple[int, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outcome = runner.open(write(sample, damaged(sample.data(), hits), Path(folder)))
    assert outcome.faults() == []


@pytest.mark.parametrize("path", sorted(FOUND.glob("*-*")), ids=lambda p: p.name[:40])
def test_found(runner: Runner, tmp_path: Path, path: Path) -> None:
    name = path.name.partition("-")[2]
    fitting = [s for s in SAMPLES if s.name == name]
    if fitting:
        target = write(fitting[0], path.read_bytes(), tmp_path)
    else:  # the sample has gone; its find stays
        target = tmp_path / name.rpartition("-")[2]
        shutil.copy(path, target)
    assert runner.open(target).faults() == []
