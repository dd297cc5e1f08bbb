"""The generated pages say what the rules and dialects say today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def test_the_pages_are_fresh() -> None:
    if not (DOCS / "make_pages.py").exists():
        pytest.skip("needs the checkout's docs folder")
    spec = importlib.util.spec_from_file_location("make_pages", DOCS / "make_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages = module.pages()
    assert sorted(p.name for p in (DOCS / "optimizers").iterdir()) == sorted(pages)
    for name, text in pages.items():
        written = (DOCS / "optimizers" / name).read_text(encoding="utf-8")
        assert written == text, f"docs/optimizers/{name} is old; run python docs/make_pages.py"
