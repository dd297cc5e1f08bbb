"""What the tightness of bounds is counted from."""

from __future__ import annotations

from typing import Any

import pytest

from tests.parity.tightness import looseness


def result(**given: Any) -> dict[str, Any]:
    usual = {
        "optimizer": "sgd",
        "description": "x",
        "dtype": "float32",
        "problem": "standard",
        "status": "within",
    }
    return {**usual, **given}


def test_the_worst_backend_counts_and_what_is_exact_or_failed_does_not() -> None:
    report = {
        "results": [
            result(ratio=0.05),
            result(ratio=0.2),
            result(ratio=0.0, description="exact"),
            result(ratio=7.0, status="outside"),
            result(ratio=0.5, dtype="float64"),
        ]
    }
    assert looseness(report) == {
        ("sgd x", "float32", "standard"): pytest.approx(5.0),
        ("sgd x", "float64", "standard"): pytest.approx(2.0),
    }
