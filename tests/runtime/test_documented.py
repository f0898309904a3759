"""The tables of `docs/runtime.md` that list what the contract leaves open: every row names a test that exists."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "runtime.md"


def test_open_points_when_listed_then_each_names_a_test_that_exists():
    chapter = PAGE.read_text(encoding="utf-8").split("## What the contract leaves open")[1]
    rows = [line for line in chapter.splitlines() if line.startswith("| ") and not line.startswith("| Point |")]
    assert len(rows) > 40
    tests = {
        name
        for file in FOLDER.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    for row in rows:
        last = row.split(" | ")[-1]
        named = re.findall(r"`(test_\w+)`", last)
        assert named or "the same" in last, row
        assert set(named) <= tests, row
