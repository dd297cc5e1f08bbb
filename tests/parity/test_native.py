"""Native parity: the dialect's rule, interpreted, equals the real framework's optimizer."""

from __future__ import annotations

import pytest

from tests.parity.backends import require_native
from tests.parity.native import beside_referee
from tests.parity.table import NATIVE_CASES, Row


@pytest.mark.parametrize(("row", "dtype"), NATIVE_CASES, ids=lambda v: v.id if isinstance(v, Row) else v)
def test_rule_is_what_the_framework_computes(row: Row, dtype: str) -> None:
    require_native(row.optimizer)
    mismatch, _ = beside_referee(row, dtype)
    assert mismatch is None, str(mismatch)
