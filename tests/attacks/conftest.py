"""One server for all that is opened under watch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.runner import Runner


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    with Runner() as server:
        yield server
