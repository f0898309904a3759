import json

import pytest
from click.testing import CliRunner
from fakes import leave_pending

from aws_rft_sdk import LocalRuntime, RolloutFeedbackClient
from aws_rft_sdk.cli import main
from aws_rft_sdk.feedback.outbox import Outbox


@pytest.fixture
def runtime():
    with LocalRuntime() as runtime:
        yield runtime


@pytest.fixture
def outbox(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db")
    yield outbox
    outbox.close()


def run(*arguments):
    return CliRunner().invoke(main, ["outbox", *map(str, arguments)], catch_exceptions=False)


def pend(outbox, payload, rewards=(0.5,)):
    leave_pending(outbox, RolloutFeedbackClient(payload), rewards)


def test_status_when_something_is_pending_then_the_sums_balance_and_exit_status_is_one(runtime, outbox):
    rewarded = runtime.new_rollout("a")
    RolloutFeedbackClient(rewarded, outbox=outbox).report_complete(1.0)
    pending = runtime.new_rollout("b")
    pend(outbox, pending)

    result = run("status", outbox.path)

    assert result.exit_code == 1
    assert "2 received = 1 rewarded + 0 failed + 1 pending + 0 open" in result.output
    assert pending["metadata"]["rolloutId"][:8] in result.output
    assert rewarded["metadata"]["rolloutId"][:8] not in result.output


def test_drain_when_the_runtime_answers_then_everything_is_delivered(runtime, outbox):
    payload = runtime.new_rollout("a")
    pend(outbox, payload)

    result = run("drain", outbox.path)

    assert (result.exit_code, result.output) == (0, "1 delivered, 0 still pending\n")
    assert runtime.trajectories()[0].rewards == (0.5,)
    assert run("status", outbox.path).exit_code == 0


def test_status_when_delivery_failed_then_json_names_the_error_and_the_age(outbox):
    with LocalRuntime() as gone:
        pend(outbox, gone.new_rollout("a"))

    drained = run("drain", outbox.path)
    shown = json.loads(run("status", outbox.path, "--json").output)

    assert (drained.exit_code, drained.output) == (1, "0 delivered, 1 still pending\n")
    (entry,) = shown.pop("entries")
    assert shown == {"received": 1, "rewarded": 0, "failed": 0, "pending": 1, "open": 0}
    assert "ServiceConnectionError" in entry["last_error"]
    assert entry["failed_deliveries"] == 1
    assert entry["age_seconds"] >= 0


@pytest.mark.parametrize("name", ["status", "drain"])
def test_outbox_when_it_does_not_exist_then_usage_error_and_none_is_made(tmp_path, name):
    result = run(name, tmp_path / "none.db")

    assert result.exit_code == 2
    assert not (tmp_path / "none.db").exists()
    assert run(name).exit_code == 2


def test_status_when_an_error_looks_like_markup_then_it_is_shown_as_it_is(runtime, outbox):
    pend(outbox, runtime.new_rollout("a"))
    (entry,) = outbox.entries()
    outbox.update(entry.metadata, entry.endpoint, entry.auth, error="[/red] not [bold]markup")

    result = run("status", outbox.path)

    assert result.exit_code == 1
    assert "[/red]" in result.output


def test_drain_when_an_entry_is_damaged_then_it_is_counted_and_exit_status_is_one(runtime, outbox):
    for prompt in ("a", "b"):
        pend(outbox, runtime.new_rollout(prompt))
    first = outbox.entries()[0].metadata.trajectory_id
    outbox._connection.execute("UPDATE feedback SET rewards = '1' WHERE trajectory_id = ?", (first,))

    result = run("drain", outbox.path)

    assert (result.exit_code, result.output) == (1, "1 delivered, 1 still pending\n")
    result = run("status", outbox.path)
    assert (result.exit_code, result.output) == (1, "2 received = 1 rewarded + 0 failed + 1 pending + 0 open\n")
