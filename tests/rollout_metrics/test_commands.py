"""`aws-rft metrics` and `aws-rft compare` on folders as runs leave them."""

import json
import math
import random
import re
import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest
from click.testing import CliRunner
from extras import needs

from aws_rft_sdk.cli import main
from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.runs.records import RECORDS_FILE

from .support import COMPLETED, FAILED, recompute, record, share_of_subsets, table, write


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(a) for a in arguments], catch_exceptions=False)


FAILURES = [FailureKind.AGENT, FailureKind.INFRASTRUCTURE, FailureKind.AGENT]


def rollouts(seed=1, prompts=30, group=4):
    rng = random.Random(seed)
    return [
        record(
            p,
            s,
            rng.choice([0.0, 0.5, 1.0, 1.0]) if rng.random() < 0.95 else None,
            status=COMPLETED,
            turns=rng.randint(1, 5),
            seconds=rng.random() * 20,
            prompt_tokens=(rng.randint(10, 90),),
            response_tokens=(rng.randint(10, 90), rng.randint(10, 90)),
            unsure_turns=int(rng.random() < 0.1),
        )
        for p in range(prompts)
        for s in range(group)
    ]


@pytest.fixture
def folder(tmp_path):
    replaced = record(0, 0, None, status=FAILED)
    failed = [record(p, 4, 0.0, status=FAILED, failure=kind) for p, kind in enumerate(FAILURES)]
    return write(tmp_path / "run", [replaced, *rollouts(), *failed])


def cells(output):
    rows = [re.split(r"[│┃]", line)[1:-1] for line in output.splitlines() if line.startswith(("│", "┃"))]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_every_figure_of_the_table_is_what_the_file_says(folder):
    result = invoke("metrics", folder)

    f = recompute(folder)
    assert result.exit_code == 0, result.output
    shown = {name: values[0] for name, values in cells(result.output).items()}
    ks = {k: shown.pop(str(k)) for k in (1, 2, 4)}
    shown.pop("k")
    mean = shown.pop("mean reward")

    def four(*names, at="eval/reward/", suffix="", digits=4):
        return ", ".join(f"{f[f'{at}{name}{suffix}']:.{digits}f} {name}" for name in names)

    total = f["eval/rollouts/total"]
    flat = {
        "all right": f["analysis/zero_adv_all_right"],
        "all wrong": f["analysis/zero_adv_all_wrong"],
        "in between": f["analysis/zero_adv_other"],
    }
    assert shown == {
        "rollouts": f"{total:.0f}, {f['eval/reward/num_prompts']:.0f} prompts, 4 to 5 each",
        "reward": four("std", "min", "max"),
        "reward of 0": f"{100 * f['eval/reward/zero_frac']:.2f} %",
        "success (reward >= 1)": f"{100 * f['eval/reward/pass_at_1']:.2f} %",
        "did not complete": f"{100 * (f['eval/rollouts/failed'] + f['eval/rollouts/unreported']) / total:.2f} %",
        "not reported": f"{f['eval/rollouts/unreported']:.0f}",
        "left out": "2 agent, 1 infrastructure",
        "without a reward": f"{f['eval/rollouts/no_reward']:.0f}",
        "within groups": four("mean", "std", "min", "max", suffix="_within_groups"),
        "std across groups": f"{f['eval/reward/std_across_groups']:.4f}",
        "groups with equal rewards": f"{100 * f['analysis/zero_adv_groups'] / f['analysis/compared_groups']:.2f} % "
        f"({', '.join(f'{count:.0f} {name}' for name, count in flat.items() if count)})",
        "turns": four("mean", "min", "max", at="eval/turns/", digits=2),
        "turns perhaps sampled twice": f"{f['eval/rollouts/unsure_turns']:.0f}",
        "prompt tokens of a turn": f"{f['eval/tokens/prompt_mean']:.1f} mean",
        "response tokens of a turn": ", ".join(
            f"{f[f'eval/tokens/response_{name}']:.1f} {name}" for name in ("mean", "std", "min", "max")
        ),
        "seconds": four("mean", "p50", "p99", "max", at="eval/seconds/", digits=3),
    }
    assert mean.startswith(f"{f['eval/reward/mean']:.4f} [")
    for k, shown_at in ks.items():
        assert shown_at.startswith(f"{100 * f[f'eval/reward/pass_at_{k}']:.1f} % [")
        power = cells(result.output)[str(k)][1]
        assert power.startswith(f"{100 * f[f'eval/reward/pass_power_{k}']:.1f} % [")


def test_rollouts_during_which_production_was_asked_are_shown(tmp_path):
    folder = write(tmp_path / "run", [record(0, 0, 1.0, foreign_calls=3), record(0, 1, 1.0)])

    shown = cells(invoke("metrics", folder).output)

    assert shown["asked the production model"] == ["1 of 2 rollouts; see aws-rft prove"]


def test_every_interval_of_the_table_is_that_of_a_bootstrap_over_prompts(tmp_path):
    """By numpy, from the file: whole prompts drawn with replacement, levels for t(0.975) of 59 degrees, 2.0010."""
    folder = write(tmp_path, rollouts(prompts=60))
    rewards = {}
    for row in map(json.loads, (folder / RECORDS_FILE).read_text().splitlines()):
        rewards.setdefault(row["prompt_index"], []).append(row["reward"])
    drawn = np.random.default_rng(5).integers(0, 60, size=(20_000, 60))
    level = 100 * NormalDist().cdf(-2.0010 * math.sqrt(60 / 59))

    def ends(sums, weights):
        values = np.array(sums)[drawn].sum(axis=1) / np.array(weights)[drawn].sum(axis=1)
        return list(np.percentile(values, [level, 100 - level]))

    known = [[r for r in group if r is not None] for group in rewards.values()]
    right = [[r == 1.0 for r in group] for group in rewards.values()]
    expected = {"mean reward": ends([sum(group) for group in known], [len(group) for group in known])}
    for k in (1, 2, 4):
        for test in (any, all):
            each = [share_of_subsets(test, group, k) for group in right]
            expected[k, test.__name__] = [100 * end for end in ends(each, [1] * 60)]

    shown = cells(invoke("metrics", folder).output)
    texts = {"mean reward": shown["mean reward"][0]}
    texts |= {(k, name): shown[str(k)][column] for k in (1, 2, 4) for column, name in enumerate(("any", "all"))}
    for name, (low, high) in expected.items():
        found = [float(end) for end in re.search(r"\[(.+), (.+)\]", texts[name]).groups()]
        assert found == pytest.approx([low, high], abs=0.1 * (high - low)), name


def test_json_holds_the_same_figures_and_what_they_mean(folder):
    found = json.loads(invoke("metrics", folder, "--json").output)

    assert list(found) == ["metrics", "hints", "intervals", "failures", "sources", "damaged"]
    assert found["failures"] == {"agent": 2, "infrastructure": 1}
    assert found["intervals"] == {"method": "bootstrap", "confidence": 0.95}
    assert found["damaged"] == {"count": 0, "lines": []}
    for name, value in recompute(folder).items():
        assert found["metrics"][name] == (None if value is None else pytest.approx(value)), name
    assert {hint["rule"] for hint in found["hints"]} >= {"failed-share", "no-reward"}


def test_failures_count_as_zero_when_told_so(folder):
    found = json.loads(invoke("metrics", folder, "--failures-as-zero", "--json").output)["metrics"]

    expected = recompute(folder, failures_as_zero=True)
    assert found["eval/rollouts/left_out"] == 0
    for name in ("eval/reward/mean", "eval/reward/pass_at_1", "analysis/batch_completion_ratio"):
        assert found[name] == pytest.approx(expected[name])
    shown = cells(invoke("metrics", folder, "--failures-as-zero").output)
    assert shown["counted as 0"] == ["2 agent, 1 infrastructure"]


def test_threshold_decides_what_a_success_is(folder):
    found = json.loads(invoke("metrics", folder, "--json", "--success-threshold", "0.5").output)["metrics"]

    assert found["eval/reward/pass_at_1"] == pytest.approx(recompute(folder, 0.5)["eval/reward/pass_at_1"])


def test_threshold_is_that_of_the_run_unless_another_is_given(tmp_path):
    records = table(*[[1, 0.5]] * 4)
    a = write(tmp_path / "a", records, dataset="d", threshold=0.5)
    b = write(tmp_path / "b", records, dataset="d", threshold=1.0)
    settled = ("--success-threshold", "1")

    assert json.loads(invoke("metrics", a, "--json").output)["metrics"]["eval/reward/pass_at_1"] == 1.0
    assert json.loads(invoke("metrics", a, "--json", *settled).output)["metrics"]["eval/reward/pass_at_1"] == 0.5
    refused = invoke("compare", a, b)
    assert (refused.exit_code, "thresholds, 0.5 and 1" in refused.output) == (2, True)
    assert invoke("compare", a, b, *settled).exit_code == 0


@pytest.mark.parametrize("threshold", ["nan", "inf", "-inf"])
def test_threshold_that_is_no_number_is_refused(folder, threshold):
    for command in (["metrics", folder], ["compare", folder, folder]):
        result = invoke(*command, "--json", "--success-threshold", threshold)

        assert result.exit_code == 2
        assert "finite" in result.output


def test_manifest_says_what_was_to_be_run_and_what_was_allowed(tmp_path):
    settings = {"group-size": 2, "max-tokens": 64}
    records = table(*[[1, 0]] * 20, response_tokens=(64,))
    folder = write(tmp_path, records, dataset="d", rows=40, settings=settings)

    found = json.loads(invoke("metrics", folder, "--json").output)

    assert found["metrics"]["analysis/batch_completion_ratio"] == 0.5
    assert "of 64 tokens, the most that is allowed" in found["hints"][0]["text"]
    assert "40 of 80" in invoke("metrics", folder).output


def test_run_that_still_writes_or_was_killed_is_read_up_to_its_last_whole_line(folder):
    before = invoke("metrics", folder).output
    with (folder / RECORDS_FILE).open("a") as file:
        file.write('{"id": "cut')

    assert invoke("metrics", folder).output == before


@needs("report")
def test_plot_is_written_beside_the_table_and_beside_json(folder, tmp_path):
    assert "drawn in" in invoke("metrics", folder, "--plot", tmp_path / "a.png").output
    json.loads(invoke("metrics", folder, "--json", "--plot", tmp_path / "b.svg").output)

    assert (tmp_path / "a.png").stat().st_size > 5_000
    assert (tmp_path / "b.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("records", [[], [record()], table([None, None])], ids=["empty", "one", "unreported"])
def test_little_is_shown_as_little(tmp_path, records):
    folder = write(tmp_path, records)

    result = invoke("metrics", folder)
    assert result.exit_code == 0
    assert "nan" not in result.output.lower()
    assert json.loads(invoke("metrics", folder, "--json").output)["metrics"]["eval/rollouts/total"] == len(records)


def test_folder_without_records_is_refused(tmp_path):
    assert invoke("metrics", tmp_path).exit_code == 2
    assert invoke("metrics", tmp_path / "nowhere").exit_code == 2


def test_file_of_another_kind_is_refused_before_anything_is_printed(folder, tmp_path):
    result = invoke("metrics", folder, "--plot", tmp_path / "a.pdf")

    assert result.exit_code == 2
    assert ".png" in result.output


def test_figures_need_no_matplotlib(folder):
    code = (
        "import sys; sys.modules['matplotlib'] = None; from aws_rft_sdk.cli import main; "
        f"main(['metrics', {str(folder)!r}, *sys.argv[1:]])"
    )
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    plot = subprocess.run([sys.executable, "-c", code, "--plot", "a.png"], capture_output=True, text=True, cwd=folder)

    assert plain.returncode == 0, plain.stderr
    assert plot.returncode == 2
    assert "aws-rft-sdk[report]" in " ".join(plot.stderr.split())


def test_comparison_says_who_is_better_and_how_sure_that_is(tmp_path):
    a = write(tmp_path / "a", table(*[[0, 1, 0, 0]] * 60), dataset="same")
    b = write(tmp_path / "b", table(*[[0, 1, 1, 1], [1, 1, 0, 0]] * 30), dataset="same")

    result = invoke("compare", a, b)

    assert result.exit_code == 0, result.output
    assert re.search(r"success: B is better by 37\.5 points \[\d", result.output)
    assert "4 of 5 runs of about" in result.output
    assert "taken for true" not in result.output


def test_comparison_of_a_run_with_itself_is_noise(folder):
    result = invoke("compare", folder, folder)

    assert "success: the difference may be noise: +0.0 points [" in result.output
    assert "is better" not in result.output
    assert "taken for true" in result.output  # there is no manifest that says of which dataset it is
    assert "without a reward" in result.output
    words = " ".join(result.output.split())
    assert "left out: rollouts of B that failed or were not reported, 2 agent, 1 infrastructure" in words


def test_runs_of_different_datasets_are_refused_unless_unpaired(tmp_path):
    a, b = (write(tmp_path / name, rollouts(), dataset=name) for name in ("a", "b"))

    refused = invoke("compare", a, b)
    assert refused.exit_code == 2
    assert "different datasets" in " ".join(refused.output.split())
    assert "--unpaired" in refused.output
    assert json.loads(invoke("compare", a, b, "--unpaired", "--json").output)["paired"] is False


def test_comparison_as_json_has_a_stable_form(tmp_path):
    a, b = (write(tmp_path / name, rollouts(seed, prompts=9 + seed, group=2)) for seed, name in enumerate(("a", "b")))

    found = json.loads(invoke("compare", a, b, "--json").output)

    assert list(found) == [
        *("a", "b", "paired", "success_threshold", "confidence", "interval_method", "prompts", "only_in_a"),
        *("only_in_b", "failures_a", "failures_b", "failures_as_zero"),
        *("no_reward_a", "no_reward_b", "sources_a", "sources_b", "differences"),
        *("damaged_a", "damaged_b"),
    ]
    assert [row["name"].removeprefix("eval/reward/") for row in found["differences"]] == [
        *("pass_at_1", "mean", "pass_at_2", "pass_power_2"),
    ]
    assert list(found["differences"][0]) == [
        *("name", "is_share", "a", "b", "difference", "low", "high", "prompts", "prompts_needed", "better", "verdict"),
    ]
    assert found["only_in_b"] == 1
    assert "1 that only B has" in invoke("compare", a, b).output


def test_empty_run_cannot_be_compared(folder, tmp_path):
    empty = write(tmp_path / "empty", [])

    assert "no rollout has ended in B" in invoke("compare", folder, empty).output


def test_line_that_is_no_record_is_named_and_the_rest_is_used(folder):
    before = json.loads(invoke("metrics", folder, "--json").output)["metrics"]
    with (folder / RECORDS_FILE).open("a") as file:
        file.write('{"id": "t1"}\nnoise\n')
    lines = len((folder / RECORDS_FILE).read_text().splitlines())

    shown, found = invoke("metrics", folder), json.loads(invoke("metrics", folder, "--json").output)
    compared = invoke("compare", folder, folder)

    assert found["metrics"] == before
    assert [found["damaged"]["count"], *(of["line"] for of in found["damaged"]["lines"])] == [2, lines - 1, lines]
    for result in (shown, compared):
        assert f"2 lines are no records and were left out (line {lines - 1}: " in " ".join(result.output.split())
    assert json.loads(invoke("compare", folder, folder, "--json").output)["damaged_b"]["count"] == 2


def test_numbers_that_the_handler_reports_are_shown(tmp_path):
    records = [record(p, s, metrics={"steps": p + s, "note": "x"}) for p in range(30) for s in range(2)]
    a, b = (write(tmp_path / name, records) for name in "ab")

    shown = cells(invoke("metrics", a).output)
    found = json.loads(invoke("metrics", a, "--json").output)["metrics"]

    assert (found["handler/steps/mean"], found["handler/steps/rollouts"]) == (15.0, 60)
    assert shown["steps"][0].startswith("15.0000 [")
    assert shown["steps"][1:] == ["0.0000", "30.0000", "60"]
    assert "handler/steps" in invoke("compare", a, b).output
    assert json.loads(invoke("compare", a, b, "--json").output)["differences"][-1]["name"] == "handler/steps"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        pytest.param([], 0, id="no-limit"),
        pytest.param(["--fail-below", "-0.5"], 0, id="exactly"),
        pytest.param(["--fail-below", "-0.4"], 1, id="below"),
        pytest.param(["--fail-below", "0", "--figure", "handler/steps"], 0, id="another-figure"),
        pytest.param(["--fail-below", "0", "--figure", "eval/reward/mean"], 1, id="mean"),
        pytest.param(["--fail-below", "0", "--figure", "mean"], 2, id="no-such-figure"),
        pytest.param(["--fail-below", "nan"], 2, id="nan"),
        pytest.param(["--figure", "handler/steps"], 2, id="nothing-to-look-at"),
    ],
)
def test_comparison_fails_below_a_limit(tmp_path, options, status):
    a = write(tmp_path / "a", table(*[[1, 1]] * 40, metrics={"steps": 3}))
    b = write(tmp_path / "b", table(*[[1, 0]] * 40, metrics={"steps": 3}))

    shown, as_json = invoke("compare", a, b, *options), invoke("compare", a, b, "--json", *options)

    assert (shown.exit_code, as_json.exit_code) == (status, status)
    if status < 2:
        json.loads(as_json.stdout)
        assert ("below" in as_json.stderr) == (status == 1)
