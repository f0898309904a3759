from __future__ import annotations

import csv
import json
import random
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from aws_rft_sdk.jobs import Checkpoint, Step, report_csv, report_html
from aws_rft_sdk.jobs.alarms import Alarm, alarms
from tests.jobs.streams import run, spiked

EVIL = "<script>alert('x')</script>\"'&\x1b[31m"
STEPS = spiked(run(random.Random(1)), [35], 100)


class Page(HTMLParser):
    """Tags and texts of a page. Raises for what a self-contained page must not have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.policy, self.text = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = dict(attrs)
        assert tag not in ("script", "link", "img", "iframe", "object", "base", "form")
        assert not [name for name in names if name.startswith("on") or name in ("src", "href", "style")]
        if names.get("http-equiv") == "Content-Security-Policy":
            self.policy = names["content"] or ""

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_when_texts_are_hostile_then_they_are_shown_as_text() -> None:
    page = report_html(
        EVIL,
        STEPS,
        [Alarm("reward_flat", 3, EVIL, EVIL, EVIL)],
        configuration={EVIL: {"deep": [EVIL]}, "none": None, "model": EVIL},
        checkpoints=[Checkpoint({}, "c", step=None, model=EVIL)],
    )
    read = Page(page)
    assert "default-src 'none'" in read.policy
    assert "unsafe" not in read.policy
    assert read.text.count("<script>alert('x')</script>") == 9
    assert "http" not in page.replace("http-equiv", "")


def test_page_when_made_then_it_has_curves_alarms_and_configuration() -> None:
    page = report_html("Job 1", STEPS, alarms(STEPS), configuration={"method": {"n_epochs": 1}})
    read = Page(page)
    assert read.tags.count("svg") == 6  # the metrics that the steps have
    for text in ("67 steps", "gradient_spike", "Source: ", "method.n_epochs", "Mean reward"):
        assert text in read.text


@pytest.mark.parametrize("steps", [[], STEPS[:1], [Step(1)], [replace(s, reward_mean=0.5) for s in STEPS[:3]]], ids=len)
def test_page_when_steps_are_few_then_it_is_made_all_the_same(steps: list[Step]) -> None:
    assert "Alarms" in Page(report_html("Job", steps, [])).text


def test_csv_when_read_back_then_all_fields_are_there() -> None:
    rows = list(csv.DictReader(report_csv([*STEPS, Step(99, other={"a,b": 1.0})]).splitlines()))
    assert list(rows[0]) == [field.name for field in fields(Step)]
    assert [float(row["reward_mean"]) for row in rows[:-1]] == [step.reward_mean for step in STEPS]
    assert (rows[-1]["reward_mean"], json.loads(rows[-1]["other"])) == ("", {"a,b": 1.0})


def report(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["job", "report", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_command_when_given_a_file_then_it_judges_and_writes(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text("".join(json.dumps(step.to_json()) + "\n" for step in STEPS))
    page, table = tmp_path / "r.html", tmp_path / "r.csv"
    status, out, _ = report("--events", events, "-o", page, "--csv", table, "--json")
    found = json.loads(out)
    assert (status, found["steps"]) == (0, 67)
    (alarm,) = found["alarms"]
    assert alarm.keys() == {"kind", "step", "evidence", "advice", "source"}
    assert (alarm["kind"], alarm["step"]) == ("gradient_spike", 36)
    assert Page(page.read_text()).text.count("gradient_spike") >= 1
    assert table.read_text() == report_csv(STEPS)
    assert "67 steps, 1 alarm\nALARM gradient_spike at step 36" in report("--events", events)[1]


def test_command_when_asked_for_the_wrong_thing_then_it_says_what_to_type(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    events.write_text("hello\n")
    for arguments, status, text in (
        ((), 2, "give either JOB with --on, or --events FILE"),
        (("job", "--events", events), 2, "give either"),
        (("job",), 2, "--on is missing"),
        (("--events", tmp_path / "none"), 2, "does not exist"),
        (("--events", events, "-o", tmp_path / "no" / "r.html"), 3, "cannot be written"),
        (("--events", events), 0, "there are no steps"),
    ):
        assert (report(*arguments)[0], text in report(*arguments)[2]) == (status, True), arguments
    assert json.loads(report("--events", events, "--json")[1]) == {"steps": 0, "alarms": []}
