"""Nothing of a hostile file is executed, and each is refused with its name and the cause, soon and in little memory."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.attacks.attack import CANARY, Attack
from tests.attacks.make import attacks, make
from tests.attacks.runner import Runner

ATTACKS = list(attacks().values())


def test_every_attack_says_what_is_expected() -> None:
    """The file's name alone would be in any message."""
    assert [a.name for a in ATTACKS if a.says is not None and (len(a.says) < 8 or "hostile." in a.says)] == []


@pytest.mark.parametrize("hostile", ATTACKS, ids=lambda a: a.name)
def test_attack(hostile: Attack, runner: Runner, tmp_path: Path) -> None:
    missing = [m for m in hostile.needs if importlib.util.find_spec(m) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    path = make(hostile, tmp_path)
    ways = ("weights",) if hostile.weights else ("read",) if hostile.once else ("read", "load", "inspect")
    outcome = runner.open(path, hostile.format, ways)
    assert outcome.faults() == []
    assert list(tmp_path.rglob(CANARY)) == []
    if hostile.says is None:
        return
    said = outcome.said[ways[0]]
    assert said is not None, "the file was accepted"
    assert hostile.says in said and path.name in said
    assert "\n" not in said and len(said) < 2000
    for way in ways:
        message = outcome.said[way]
        assert message is not None, f"{way} accepted the file"
        assert path.name in message
    # Some are large.
    shutil.rmtree(tmp_path)
