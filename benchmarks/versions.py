"""Tests the package with other versions of pip, Python, Strands and `openai`; writes the tables of docs/versions.md.

    python benchmarks/versions.py [pip] [python] [strands] [openai] [lowest] [--python PATH ...]

Without a part it runs all of them, which takes about half an hour on two cores. It needs a package index. A part that
runs replaces its own table and leaves the other tables alone.

pip      README's two installs, and `.[dev,all]`, resolved by each version of pip, without the settings of this machine
python   README's second command as typed, on each Python from 3.10 that is found or named with --python
strands  the oldest Strands that pyproject.toml allows, and the newest
openai   the newest `openai` 2 and 3. Strands pins openai 2, so openai 3 overrules the pin. With LangChain,
         openai-agents and pydantic-ai
lowest   the oldest release that each bound in pyproject.toml allows
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "versions.md"
PIPS = ("23.2.1", "24.0", "24.3.1", "25.0.1", "25.1.1", "25.2", "25.3", "")
"""Python 3.12 comes with 24.0, Debian 13 with 25.1.1. An empty version is the newest."""
TARGETS = (".", ".[dev]", ".[dev,all]")
MINORS = range(10, 15)
CORE = ("tests/unit", "tests/adapters", "tests/outbox", "tests/concurrency", "tests/compat", "tests/test_warnings.py")
"""The tests that depend most on versions, in about two minutes."""
SHOWN = (
    "strands-agents",
    "openai",
    "langchain-openai",
    "openai-agents",
    "pydantic-ai-slim",
    "opentelemetry-sdk",
    "pytest",
)
STRANGERS = (
    "PIP_CONFIG_FILE",
    "PIP_FIND_LINKS",
    "PIP_EXTRA_INDEX_URL",
    "PIP_CONSTRAINT",
    "PYTHONPATH",
    "UV_CONSTRAINT",
)
"""Variables that would make this machine resolve otherwise than any other."""


@dataclass(frozen=True)
class Row:
    """One combination of versions, and what came of it."""

    name: str
    outcome: str
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)
    notes: str = ""

    @property
    def is_good(self) -> bool:
        return "failed" not in self.outcome


# --- pure parts ------------------------------------------------------------------------------------------------------


def name_of(case: ElementTree.Element) -> tuple[str | None, str | None]:
    """Return what identifies a test in a JUnit report."""
    return case.get("classname"), case.get("name")


def outcome_of(junit: str) -> tuple[str, str]:
    """Return what a JUnit report of pytest counts ("12 passed, 1 failed, 2 skipped"), and why tests were skipped."""
    cases = list(ElementTree.fromstring(junit).iter("testcase"))
    # A test that fails, and fails once more when it is torn down, has two cases.
    names = {name_of(case) for case in cases}
    bad = {name_of(case) for case in cases if case.find("failure") is not None or case.find("error") is not None}
    reasons = Counter(skip.get("message", "") for case in cases for skip in case.findall("skipped"))
    skipped = sum(reasons.values())
    counts = {"passed": len(names) - len(bad) - skipped, "failed": len(bad), "skipped": skipped}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "passed")
    return said, "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())


def first_error(output: str) -> str:
    """Return the line of an installer's output that says why it failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = (line for line in lines if re.match(r"(ERROR|error|\W No solution)", line))
    return next(told, lines[-1] if lines else "no output")[:160]


def lower_bound(requirements: Iterable[str], package: str) -> str:
    """Return the version after `>=` in the requirement of a package."""
    pattern = re.compile(rf"{re.escape(package)}(\[[^\]]*\])?>=([0-9.]+)")
    return next(found[2] for found in map(pattern.match, requirements) if found)


def table(rows: list[Row], today: str) -> str:
    """Return the rows as a Markdown table, with the day on which they were measured."""
    columns = [name for name in SHOWN if any(name in row.versions for row in rows)]
    has_notes = any(row.notes for row in rows)
    head = ["", *columns, "Outcome", "Seconds", *(["Notes"] if has_notes else [])]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        versions = [row.versions.get(name, "") for name in columns]
        notes = [row.notes.replace("|", "\\|")] if has_notes else []
        lines.append([row.name, *versions, row.outcome, f"{row.seconds:.0f}", *notes])
    return "\n".join([f"Measured on {today}.", "", *(f"| {' | '.join(cells)} |" for cells in lines)])


def with_section(document: str, part: str, text: str) -> str:
    """Return the document with the text between the two marks of a part replaced."""
    begin, end = f"<!-- {part} -->\n", f"<!-- /{part} -->"
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{DOCUMENT} has no section {begin.strip()} ... {end}")
    return f"{before}{begin}\n{text}\n\n{end}{after}"


def stranger(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment of someone who has none of this machine's settings of pip, and no pytest options."""
    kept = {name: value for name, value in environment.items() if name not in (*STRANGERS, "PYTEST_ADDOPTS")}
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


# --- running ---------------------------------------------------------------------------------------------------------


def run(*command: str | Path, timeout: float = 1800) -> tuple[int, str, float]:
    """Run a command from the root of the repository; return its status, its output and its seconds."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            env=stranger(dict(os.environ)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"ERROR: did not end within {timeout:.0f} s", time.monotonic() - began
    return done.returncode, done.stdout, time.monotonic() - began


def must(*command: str | Path) -> str:
    """Run a command that prepares something."""
    status, output, _ = run(*command)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))}\n{output}")
    return output


class Scratch:
    """A folder for virtual environments, with uv in one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = shutil.which("uv")
        if found is None:
            must(sys.executable, "-m", "venv", folder / "tools")
            must(folder / "tools" / "bin" / "pip", "install", "--quiet", "uv")
        self.uv = Path(found) if found else folder / "tools" / "bin" / "uv"

    def environment(self, name: str, python: str | Path = sys.executable) -> Path:
        """Make a virtual environment with uv; return its Python."""
        must(self.uv, "venv", "--quiet", "--clear", "--python", python, self.folder / name)
        return self.folder / name / "bin" / "python"

    def tested(self, name: str, python: Path, install: list[str | Path], tests: Iterable[str]) -> Row:
        """Install into an environment and run tests there."""
        status, output, seconds = run(*install)
        if status:
            return Row(name, "failed to install", seconds, notes=first_error(output))
        versions = self.versions(python)
        report = self.folder / f"{python.parents[1].name}.xml"
        report.unlink(missing_ok=True)
        pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        _, output, seconds = run(python, *pytest, *tests)
        (self.folder / f"{python.parents[1].name}.log").write_text(output)
        if not report.exists():
            return Row(name, "failed to start", seconds, versions, first_error(output))
        outcome, notes = outcome_of(report.read_text())
        return Row(name, outcome, seconds, versions, notes)

    def versions(self, python: Path) -> dict[str, str]:
        """Return the installed versions of the packages that tables show."""
        listed = json.loads(must(self.uv, "pip", "list", "--quiet", "--format", "json", "--python", python))
        return {entry["name"]: entry["version"] for entry in listed if entry["name"] in SHOWN}


def pythons(named: Iterable[str]) -> dict[str, str]:
    """Return the interpreters found, by minor version: those named first, then PATH's, then pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = list(named)
    for minor in MINORS:
        candidates += filter(None, [shutil.which(f"python3.{minor}")])
        candidates += sorted(map(str, pyenv.glob(f"3.{minor}.*/bin/python3")), reverse=True)
    found: dict[str, str] = {}
    for path in candidates:
        status, output, _ = run(path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        if status == 0:  # pyenv puts commands on PATH that do not run
            found.setdefault(output.strip(), path)
    return found


def parts_pip(scratch: Scratch, _: argparse.Namespace) -> Iterator[Row]:
    """Resolve README's installs with each version of pip."""
    for version in PIPS:
        folder = scratch.folder / f"pip-{version or 'newest'}"
        must(sys.executable, "-m", "venv", "--clear", folder)
        must(folder / "bin" / "pip", "install", "--quiet", "--upgrade", f"pip=={version}" if version else "pip")
        pip = must(folder / "bin" / "pip", "--version").split()[1]
        for target in TARGETS:
            status, output, seconds = run(folder / "bin" / "pip", "install", "--dry-run", "-e", target, timeout=600)
            count = (
                len(next((line for line in output.splitlines() if line.startswith("Would install")), "").split()) - 2
            )
            outcome = "failed" if status else f"{count} packages"
            yield Row(f"pip {pip}, `{target}`", outcome, seconds, notes=first_error(output) if status else "")


def parts_python(scratch: Scratch, options: argparse.Namespace) -> Iterator[Row]:
    """Run README's second command on each Python, with the pip that comes with it, on the core of the tests."""
    found = pythons(options.python)
    for minor in MINORS:
        if (path := found.get(f"3.{minor}")) is None:
            yield Row(f"Python 3.{minor}", "not tested", 0, notes="no such Python here")
            continue
        folder = scratch.folder / f"python-3.{minor}"
        must(path, "-m", "venv", "--clear", folder)
        pip = must(folder / "bin" / "pip", "--version").split()[1]
        exact = must(folder / "bin" / "python", "--version").strip()
        install: list[str | Path] = [folder / "bin" / "pip", "install", "--quiet", "-e", ".[dev]"]
        yield scratch.tested(f"{exact}, pip {pip}", folder / "bin" / "python", install, CORE)


def parts_strands(scratch: Scratch, _: argparse.Namespace) -> Iterator[Row]:
    """Run the core of the tests on the oldest and the newest allowed Strands."""
    for name, pin in (("oldest", f"=={lower_bound(requirements(), 'strands-agents')}.*"), ("newest", "")):
        python = scratch.environment(f"strands-{name}")
        wanted = ["-e", ".[dev,litellm,agentcore]", f"strands-agents{pin}"]
        yield scratch.tested(
            f"{name} Strands", python, [scratch.uv, "pip", "install", "--python", python, *wanted], CORE
        )


def parts_openai(scratch: Scratch, _: argparse.Namespace) -> Iterator[Row]:
    """Run the tests of clients that are built on openai, on openai 2 and 3."""
    clients = ["langchain-openai", "openai-agents", "pydantic-ai-slim[openai]"]
    for major in (2, 3):
        python = scratch.environment(f"openai-{major}")
        overrule = scratch.folder / f"openai-{major}.txt"
        overrule.write_text(f"openai[aiohttp]>={major},<{major + 1}\n")
        install = [scratch.uv, "pip", "install", "--python", python, "--override", overrule, "-e", ".", *clients]
        tools = ["pytest", "pytest-timeout", "responses", "hypothesis"]
        yield scratch.tested(f"openai {major}", python, [*install, *tools], ["tests/compat"])


def parts_lowest(scratch: Scratch, _: argparse.Namespace) -> Iterator[Row]:
    """Run the core of the tests on the oldest releases that pyproject.toml allows, on the oldest Python found."""
    found = pythons([])
    oldest = next(path for minor in MINORS if (path := found.get(f"3.{minor}")))
    python = scratch.environment("lowest", oldest)
    install = [scratch.uv, "pip", "install", "--python", python, "--resolution", "lowest-direct", "-e", ".[dev,all]"]
    yield scratch.tested(f"{must(python, '--version').strip()}, oldest of all", python, install, CORE)


PARTS: dict[str, Callable[[Scratch, argparse.Namespace], Iterator[Row]]] = {
    "pip": parts_pip,
    "python": parts_python,
    "strands": parts_strands,
    "openai": parts_openai,
    "lowest": parts_lowest,
}


def requirements() -> list[str]:
    """Return the strings in pyproject.toml that look like requirements."""
    return re.findall(r'^\s*"([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def main() -> int:
    """Run parts, print each row as it comes, write the tables, return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="part", help=", ".join(PARTS))
    parser.add_argument("--python", action="append", default=[], metavar="PATH", help="an interpreter to test")
    parser.add_argument("--folder", type=Path, help="keep the environments and the logs of pytest here")
    options = parser.parse_args()
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Scratch(folder)
        for part in options.parts or PARTS:
            rows: list[Row] = []
            for row in PARTS[part](scratch, options):
                print(f"{part}: {row.name}: {row.outcome} ({row.seconds:.0f} s) {row.notes}", flush=True)
                rows.append(row)
            good = good and all(row.is_good for row in rows)
            DOCUMENT.write_text(with_section(DOCUMENT.read_text(), part, table(rows, today)))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
