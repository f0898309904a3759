"""The pure parts of benchmarks/versions.py. What it measures needs a package index, so nothing is installed here."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "versions.py"


@pytest.fixture(scope="module")
def versions():
    spec = importlib.util.spec_from_file_location("benchmarks.versions", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


REPORT = """<testsuites><testsuite>
<testcase classname="a" name="1"/><testcase classname="b" name="1"/>
<testcase classname="a" name="2"><failure/></testcase><testcase classname="a" name="2"><error/></testcase>
<testcase classname="a" name="3"><error/></testcase><testcase name="4"><skipped message="needs: a"/></testcase>
<testcase name="5"><skipped message="needs: b"/></testcase><testcase name="6"><skipped message="needs: b"/></testcase>
</testsuite></testsuites>"""


def test_outcome_counts_each_test_once_and_says_why_tests_were_skipped(versions):
    assert versions.outcome_of(REPORT) == ("2 passed, 2 failed, 3 skipped", "2: needs: b; 1: needs: a")
    assert versions.outcome_of("<testsuites/>") == ("0 passed", "")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("Collecting a\nERROR: Cannot install a\n\nERROR: ResolutionImpossible", "ERROR: Cannot install a"),
        (
            "  \u00d7 No solution found when resolving dependencies:\n  ╰─▶ because",
            "\u00d7 No solution found when resolving dependencies:",
        ),
        ("strange\nlast", "last"),
        ("", "no output"),
    ],
)
def test_error_of_an_installer_is_the_line_that_says_why(versions, output, said):
    assert versions.first_error(output) == said


def test_lower_bound_is_the_one_of_pyproject(versions):
    found = ["strands-agents-tools>=9", "strands-agents[openai]>=1.54", "strands-agents[litellm]"]

    assert versions.lower_bound(found, "strands-agents") == "1.54"
    assert versions.lower_bound(versions.requirements(), "strands-agents").startswith("1.")


def test_table_shows_only_columns_that_have_a_value(versions):
    good = versions.Row("one", "1 passed", 1.4, {"openai": "2.54.0"})
    bad = versions.Row("two", "1 passed, 2 failed", 2, {"openai": "3.1"}, "a|b")

    assert (good.is_good, bad.is_good) == (True, False)
    assert versions.table([good, bad], "2026-01-02").splitlines() == [
        "Measured on 2026-01-02.",
        "",
        "|  | openai | Outcome | Seconds | Notes |",
        "| --- | --- | --- | --- | --- |",
        "| one | 2.54.0 | 1 passed | 1 |  |",
        "| two | 3.1 | 1 passed, 2 failed | 2 | a\\|b |",
    ]


def test_section_is_replaced_and_the_others_stay(versions):
    document = "# T\n<!-- a -->\nold\n<!-- /a -->\nbetween\n<!-- b -->\n<!-- /b -->\n"

    once = versions.with_section(document, "a", "new")

    assert once == "# T\n<!-- a -->\n\nnew\n\n<!-- /a -->\nbetween\n<!-- b -->\n<!-- /b -->\n"
    assert versions.with_section(once, "a", "new") == once
    with pytest.raises(ValueError, match="no section"):
        versions.with_section(document, "c", "new")


def test_document_has_a_section_for_each_part(versions):
    for part in versions.PARTS:
        versions.with_section(versions.DOCUMENT.read_text(), part, "x")


def test_settings_of_this_machine_do_not_reach_pip(versions):
    own = {"PIP_FIND_LINKS": "/wheels", "PIP_CERT": "ca.pem", "PYTHONPATH": "/x", "PATH": "/bin"}

    assert versions.stranger(own) == {
        "PIP_CERT": "ca.pem",
        "PATH": "/bin",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
