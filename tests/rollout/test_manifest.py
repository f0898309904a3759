"""What a handler is made of, of which a resumed run and a replay say whether it has changed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from aws_rft_sdk.runs.manifest import file_sha256, handler_sources
from aws_rft_sdk.runs.recorded import changed_sources


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages with files of the same names; the handler of the first one is made in the second."""
    for package, source in (
        ("thin_agent", "from thick_agent.agent import handler\n"),
        ("thick_agent", "def handler(payload): ...\n"),
    ):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"# {package}\n")
        (tmp_path / package / "agent.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_sources_when_two_folders_hold_files_of_one_name_then_all_are_told_apart(packages: Path) -> None:
    handler = importlib.import_module("thin_agent.agent").handler
    try:
        sources = handler_sources("thin_agent.agent:handler", handler)
    finally:
        for name in [name for name in sys.modules if name.startswith(("thin_agent", "thick_agent"))]:
            del sys.modules[name]

    thick = packages / "thick_agent"
    files = {
        "__init__.py": packages / "thin_agent" / "__init__.py",
        "agent.py": packages / "thin_agent" / "agent.py",
        f"{thick}/__init__.py": thick / "__init__.py",
        f"{thick}/agent.py": thick / "agent.py",
    }
    assert sources == {name: file_sha256(path) for name, path in files.items()}


def test_changed_sources_when_nobody_wrote_them_down_then_none(tmp_path: Path) -> None:
    assert changed_sources(tmp_path, lambda payload: None) == ()
