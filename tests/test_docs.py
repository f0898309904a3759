"""README and docs: their code runs, their tables are complete, the command reference is what the commands say."""

import importlib
import inspect
import re
from pathlib import Path

import click
import pytest

import aws_rft_sdk
from aws_rft_sdk import errors, settings
from aws_rft_sdk.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"(?P<skip><!-- skip: [^>]+ -->\n)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)(?P<target>[^)#]*)(?:#(?P<anchor>[^)]*))?\)")


def snippets(page):
    return [match["code"] for match in _FENCE.finditer(page.read_text()) if not match["skip"]]


@pytest.mark.parametrize("page", [p for p in PAGES if snippets(p)], ids=lambda p: p.name)
def test_code_of_a_page_runs_from_top_to_bottom(page, capsys):
    namespace = {"__name__": "__docs__"}

    for number, code in enumerate(snippets(page)):
        exec(compile(code, f"{page.name}[{number}]", "exec"), namespace)

    promised = re.findall(r"^ *(?:print\(.*)?\)  # (.+)$", "".join(snippets(page)), re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == promised


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_of_a_page_lead_somewhere(page):
    for match in _LINK.finditer(page.read_text()):
        target = (page.parent / match["target"]).resolve() if match["target"] else page
        assert target.exists(), match[0]
        if match["anchor"]:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert match["anchor"] in anchors, match[0]


def test_every_public_name_is_documented():
    text = "".join(page.read_text() for page in PAGES)

    assert [name for name in aws_rft_sdk.__all__ if f"`{name}" not in text and f"@{name}" not in text] == []


def test_every_error_is_described():
    listed = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE))
    classes = {name for name, item in vars(errors).items() if inspect.isclass(item)}

    assert listed == classes


def test_every_environment_variable_is_described():
    page = (ROOT / "docs" / "settings.md").read_text()
    variables = {value for name, value in vars(settings).items() if name.endswith("_VARIABLE")}

    assert variables
    assert [variable for variable in variables if f"`{variable}`" not in page] == []


def render_cli_reference():
    """Return docs/cli.md. `python -c "from tests.test_docs import *; write_cli_reference()"` writes it."""
    root = click.Context(main, info_name="aws-rft", terminal_width=100, **main.context_settings)
    return "# Command line\n\nWhat the commands say of themselves with `--help`.\n" + "".join(_sections(main, root))


def _sections(group, context):
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        with click.Context(command, info_name=name, parent=context, terminal_width=100) as inner:
            yield f"\n## {inner.command_path}\n\n```text\n{_plain(command.get_help(inner))}\n```\n"
            if isinstance(command, click.Group):
                yield from _sections(command, inner)


def _plain(text):
    return "\n".join(line.rstrip() for line in text.splitlines())


def write_cli_reference():
    (ROOT / "docs" / "cli.md").write_text(render_cli_reference())


def test_command_reference_is_what_the_commands_say():
    assert (ROOT / "docs" / "cli.md").read_text() == render_cli_reference()


PUBLIC_MODULES = [
    "aws_rft_sdk",
    "aws_rft_sdk.types",
    "aws_rft_sdk.client",
    "aws_rft_sdk.feedback.ledger",
    "aws_rft_sdk.feedback.redrive",
    "aws_rft_sdk.lifecycle.shutdown",
    "aws_rft_sdk.adapters.openai",
    "aws_rft_sdk.adapters.langchain",
    "aws_rft_sdk.adapters.strands",
    "aws_rft_sdk.runtime",
    "aws_rft_sdk.rollout",
    "aws_rft_sdk.runs",
    "aws_rft_sdk.rewards",
    "aws_rft_sdk.datasets",
    "aws_rft_sdk.workers.pool",
    "aws_rft_sdk.workers.outcomes",
    "aws_rft_sdk.workers.http",
    "aws_rft_sdk.workers.command",
    "aws_rft_sdk.workers.agentcore",
    "aws_rft_sdk.workers.sqs",
    "aws_rft_sdk.workers.nova_forge",
    "aws_rft_sdk.workers.lambda_forwarder",
]


def render_reference():
    """Return docs/reference.md: what every public name says of itself in one line."""
    parts = ["# Reference\n\nEvery public name and the first line of its docstring; `help(name)` shows the rest.\n"]
    for name in PUBLIC_MODULES:
        module = importlib.import_module(name)
        parts.append(f"\n## {name}\n\n{inspect.getdoc(module).splitlines()[0]}\n\n| Name | |\n|---|---|\n")
        parts.extend(f"| `{item}` | {_first_line(getattr(module, item))} |\n" for item in _public_names(module))
    return "".join(parts)


def _public_names(module):
    if hasattr(module, "__all__"):
        return module.__all__
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    )


def _first_line(value):
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        kind = type(value).__name__
        return "a type for annotations" if "typing" in repr(type(value)) or "Union" in kind else f"a `{kind}`"
    text = inspect.getdoc(value) or ""
    first = text.split("\n\n")[0].replace("\n", " ").replace("|", "or")
    assert first, f"{value} has no docstring"
    return first


def write_reference():
    (ROOT / "docs" / "reference.md").write_text(render_reference())


def test_reference_is_what_the_names_say():
    assert (ROOT / "docs" / "reference.md").read_text() == render_reference()


def test_changelog_begins_with_this_version():
    versions = re.findall(r"^## (\S+)", (ROOT / "docs" / "changelog.md").read_text(), re.MULTILINE)

    assert versions[0] == aws_rft_sdk.__version__


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", [p for p in PAGES if "tests/" in p.read_text()], ids=lambda p: p.name)
def test_tests_that_a_page_names_exist(page):
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text()):
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
