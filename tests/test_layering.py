"""The tiers of docs/architecture.md: a module imports from its own tier and lower ones, and rooms form no circle."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import aws_rft_sdk

ROOT = Path(aws_rft_sdk.__file__).parent

# A room imports rooms of lower tiers, and rooms of its own tier as long as they form no circle.
TIERS = {
    "values": (
        *("errors", "failures", "types", "wire", "agent_rft", "advantages", "datasets"),
        *("_backoff", "_carry", "_checks", "_decision", "_fork", "_frozen", "_hosts", "_listening", "_loading"),
        "_user_code",
    ),
    "surroundings": ("settings", "credentials", "telemetry", "context"),
    "sides": ("client", "feedback", "adapters", "runtime", "rewards"),
    "life": ("handler", "lifecycle"),
    "rims": ("rollout", "runs", "workers", "proof", "jobs", "training", "viewer"),
    "door": ("pytest_plugin", "cli", "__main__"),
}
TIER_OF = {room: number for number, rooms in enumerate(TIERS.values()) for room in rooms}
# The runtime decodes requests on its own, so that no mistake of ours is made on both sides. Datasets and advantages are
# no part of that contract: the job's stand-in reads files and scores groups as the rest of the package does.
RUNTIME_MAY_IMPORT = {
    *("_backoff", "_checks", "_fork", "_frozen", "_hosts", "_listening"),
    *("errors", "types", "wire", "agent_rft", "advantages", "datasets", "credentials", "settings"),
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def room_of(path: Path) -> str:
    """Return the room of a file. `python -m` runs a `__main__.py`, and nothing imports it: it is a door."""
    return "__main__" if path.name == "__main__.py" else path.relative_to(ROOT).parts[0].removesuffix(".py")


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
def test_imports_when_of_our_own_then_they_go_to_no_higher_tier(path: Path) -> None:
    room = room_of(path)
    assert room in TIER_OF, f"{room} has no tier; add it to the table here and to docs/architecture.md"
    higher = {other for other in rooms_imported(path) - {"__version__"} if TIER_OF.get(other, 99) > TIER_OF[room]}
    # The top level re-exports by name; a module at the rim may use the public names.
    higher -= {name for name in higher if name in aws_rft_sdk.__all__ and TIER_OF[room] >= TIER_OF["rollout"]}
    assert not higher


def test_tiers_when_read_in_the_docs_then_they_are_these() -> None:
    rows = re.findall(
        r"^\| ?(\w*) \| `(\w+)/?` \|", (ROOT.parent / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
    documented: dict[str, set[str]] = {}
    tier = ""
    for named, room in rows:
        tier = named or tier
        documented.setdefault(tier, set()).add(room)
    assert documented == {tier: {room for room in rooms if not room.startswith("_")} for tier, rooms in TIERS.items()}


def test_imports_when_between_rooms_then_they_form_no_circle() -> None:
    imports: dict[str, set[str]] = {}
    for path in FILES:
        imports.setdefault(room_of(path), set()).update(rooms_imported(path) & TIER_OF.keys() - {room_of(path)})
    list(TopologicalSorter(imports).static_order())  # raises CycleError, which shows the circle


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
    if room not in ("cli", "__main__"):
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
        ("RolloutFeedbackClient", ("strands", "openai", "boto3", "botocore", "requests", "urllib3", "starlette")),
        ("rft_handler", ("strands", "openai", "boto3", "botocore", "requests", "urllib3", "starlette")),
        ("wrap_model", ("starlette", "uvicorn", "litellm")),
    ],
)
def test_public_name_when_used_then_only_what_it_needs_is_imported(name: str, unneeded: tuple[str, ...]) -> None:
    code = f"import aws_rft_sdk, sys; aws_rft_sdk.{name}; print([n for n in {unneeded!r} if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
