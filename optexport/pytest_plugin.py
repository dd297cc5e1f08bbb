"""A pytest plugin: fixtures that compare an optimizer with a rule or with another optimizer.

It is loaded with every run of pytest where optexport is installed, so it imports nothing until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .parity.mine import Checked

__all__ = ["assert_same_update", "optimizer_parity"]


@pytest.fixture
def optimizer_parity() -> Callable[..., Checked]:
    """``optimizer_parity(mine, against, **options)``: what `optexport.check` found, nothing asserted."""
    from .parity.mine import check

    return check


@pytest.fixture
def assert_same_update() -> Callable[..., Checked]:
    """``assert_same_update(mine, against, **options)``: fails where two optimizers do not compute the same.

    Takes what `optexport.check` takes, and gives back what it found.
    """
    from .parity.mine import check

    def same(mine: Any, against: Any, **options: Any) -> Checked:
        __tracebackhide__ = True
        found = check(mine, against, **options)
        if not found.passed:
            pytest.fail(str(found))
        return found

    return same
