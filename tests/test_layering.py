"""The table of the design: imports go to a lower level only. Here it stands as it is built, core first."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aws_rft_sdk

ROOT = Path(aws_rft_sdk.__file__).parent

# A room may import rooms of a lower level, and within itself.
LEVELS = {
    "errors": 0,
    "_frozen": 0,
    "_backoff": 0,
    "_checks": 1,
    "wire": 1,
    "types": 2,
    "settings": 3,
    "_session": 0,
    "_threads": 3,
    "telemetry": 3,
    "credentials": 4,
    "datasets": 4,
    "ledger": 4,
    "outbox": 5,
    "context": 4,
    "adapters": 5,
    "client": 6,
    "jobs": 5,
    "runtime": 5,
    "async_client": 7,
    "redrive": 7,
    "_lifecycle": 8,
    "handler": 9,
    "shutdown": 9,
    "rewards": 3,
    "_running": 10,
    "rollout": 11,
    "workers": 11,
    "proof": 12,
    "training": 12,
    "pytest_plugin": 12,
    "cli": 13,
}
# The runtime decodes requests on its own, so that no mistake of ours is made on both sides.
RUNTIME_MAY_IMPORT = {"errors", "types", "wire", "credentials", "_frozen", "settings"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the full names of imported modules and of what is imported from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    names = set(imported(ast.parse(path.read_text())))
    return {name.split(".")[1] for name in names if name.startswith("aws_rft_sdk.")}


@each_file
def test_imports_when_of_our_own_then_they_go_to_a_lower_level(path: Path) -> None:
    room = room_of(path)
    assert room in LEVELS, f"{room} has no level; add it to the table here and to the design"
    upwards = {other for other in rooms_imported(path) - {room, "__version__"} if LEVELS.get(other, 99) >= LEVELS[room]}
    # The top level re-exports by name; a module at the rim may use the public names.
    upwards -= {name for name in upwards if name in aws_rft_sdk.__all__ and LEVELS[room] >= 8}
    assert not upwards


@each_file
def test_imports_when_of_our_own_then_none_is_relative_or_within_a_function(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not [name for name in imported(tree) if name.startswith(".")]
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            assert not [name for name in imported(function) if name.startswith("aws_rft_sdk")], function.name


@each_file
def test_imports_when_of_a_room_with_rules_of_its_own_then_they_hold(path: Path) -> None:
    room, rooms = room_of(path), rooms_imported(path)
    if room == "runtime":
        assert rooms <= RUNTIME_MAY_IMPORT | {"runtime"}
    if room == "adapters":
        assert "client" not in rooms
    if room != "cli":
        assert "cli" not in rooms


@each_file
def test_environment_when_read_then_settings_alone_does(path: Path) -> None:
    if room_of(path) == "settings":
        return
    names = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not names & {"os.environ", "os.getenv", "os.environb"}
    assert not {"os.environ", "os.getenv"} & set(imported(ast.parse(path.read_text())))


HEAVY = ("strands", "openai", "boto3", "botocore", "requests", "starlette", "uvicorn", "click", "rich", "litellm")


def test_package_when_imported_then_nothing_heavy_is() -> None:
    code = f"import aws_rft_sdk, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "unneeded"),
    [
        ("RolloutRequest", HEAVY),
        ("RFTContext", HEAVY),
        ("RolloutFeedbackClient", ("strands", "openai", "boto3", "starlette")),
        ("rft_handler", ("strands", "openai", "boto3", "starlette")),
        ("wrap_model", ("starlette", "uvicorn", "litellm")),
    ],
)
def test_public_name_when_used_then_only_what_it_needs_is_imported(name: str, unneeded: tuple[str, ...]) -> None:
    code = f"import aws_rft_sdk, sys; aws_rft_sdk.{name}; print([n for n in {unneeded!r} if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
