"""`check` finds nothing to say against any native optimizer, on gradients of three seeds."""

from __future__ import annotations

import pytest

import optexport as ox
from optexport.parity.record import Row
from tests.natives import made, rows


@pytest.mark.filterwarnings("ignore:Specifying a key")
@pytest.mark.parametrize("row", rows(), ids=lambda r: r.id)
def test_native_is_what_its_dialect_says(row: Row) -> None:
    if ox.native(row.optimizer, **row.arguments).groups[-1].rule.program.inputs("noise"):
        pytest.skip("its noise cannot be chosen from outside")
    optimizer, arguments = made(row)
    for seed in range(3):
        found = ox.check(
            optimizer,
            row.optimizer,
            arguments=arguments,
            against_arguments=row.arguments,
            seed=seed,
            shapes=row.shapes,
        )
        assert found.passed, f"seed {seed}: {found}"
