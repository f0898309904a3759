"""Which warnings fail a test: those that our code causes, and leaks. Warnings of other packages are shown."""

import ast
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FILTERS: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"][
    "filterwarnings"
]

FAILS = {
    **{
        f"warning of {module}": f"warn_as({module!r})"
        for module in ("aws_rft_sdk", "aws_rft_sdk.adapters.openai", "tests.unit.test_wire", "examples.deploy", "fakes")
    },
    "user warning": "warn_as('aws_rft_sdk', UserWarning)",
    "deprecated call": "OTHER['call']()",
    "file": "open(__file__); gc.collect()",
    "socket of another package": "exec('import socket; socket.socket()', {'__name__': 'other'}); gc.collect()",
    "exception in del": "Bad(); gc.collect()",
    "thread": "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()",
    "coroutine": "work(); gc.collect()",
}
"""What must fail a test, each as its body."""
PASSES = {
    f"{category} of {module}": f"warn_as({module!r}, {category})"
    for category in ("DeprecationWarning", "UserWarning", "FutureWarning")
    for module in ("litellm.types.utils", "asyncio.events", "aws_rft_sdk_of_others", "testing")
}
"""What must only be shown."""
HELPERS = """
import gc, threading, warnings, pytest

def warn_as(module, category=DeprecationWarning):
    exec("warn('old', category)", {"__name__": module, "warn": warnings.warn, "category": category})

OTHER = {"__name__": "other", "warnings": warnings}
exec("def call(): warnings.warn('old', DeprecationWarning, stacklevel=2)", OTHER)

class Bad:
    def __del__(self):
        raise ValueError("x")

async def work(): ...

"""


@pytest.mark.parametrize("bodies", [pytest.param(FAILS, id="fails"), pytest.param(PASSES, id="passes")])
def test_warning_when_it_is_ours_or_a_leak_then_the_test_fails_and_else_it_is_shown(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, bodies: dict[str, str]
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # for speed
    filters = "".join(f"\n    {line}" for line in FILTERS)
    pytester.makeini(f"[pytest]\nfilterwarnings ={filters}\n")
    tests = (f"def test_{name.replace(' ', '_').replace('.', '_')}():\n    {body}\n" for name, body in bodies.items())
    pytester.makepyfile(test_generated=HELPERS + "\n".join(tests))

    result = pytester.runpytest_subprocess()

    expected = {"failed": len(FAILS)} if bodies is FAILS else {"passed": len(PASSES), "warnings": len(PASSES)}
    result.assert_outcomes(**expected)


def module_name(path: Path) -> str:
    """Return the name under which pytest, or the loader of examples, imports a file."""
    package = path.parent
    while (package / "__init__.py").exists():
        package = package.parent
    return ".".join(path.relative_to(package).with_suffix("").parts)


@pytest.mark.parametrize("folder", ["aws_rft_sdk", "tests", "examples", "benchmarks"])
def test_filters_when_a_file_is_ours_then_they_match_its_module(folder):
    ours = [re.compile(line.split(":", 3)[3]) for line in FILTERS if line.startswith("error:::")]
    files = [path for path in (ROOT / folder).rglob("*.py") if ast.parse(path.read_text()).body]
    names = {module_name(path) for path in files}
    if folder == "benchmarks":  # run as files, or as benchmarks.speed
        names = {f"benchmarks.{name}" for name in names}

    assert {name for name in names if not any(pattern.match(name) for pattern in ours)} == set()
