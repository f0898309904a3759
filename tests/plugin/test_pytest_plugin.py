"""The pytest plugin as its users see it: in a run of its own."""

import pytest

TESTS = """
import pytest, requests
from aws_rft_sdk import RFTContext, RolloutFeedbackClient, rft_handler

@rft_handler
def handler(payload):
    requests.post(
        payload["metadata"]["endpoint"] + "/v1/chat/completions", headers=RFTContext.get_headers(), timeout=10,
        json={"model": "m", "messages": [{"role": "user", "content": payload["prompt"]}]},
    ).raise_for_status()
    return 1.0

def test_good(rft_runtime):
    rft_runtime.policy = lambda request: "x"
    handler(rft_runtime.new_rollout("p"))
    assert [t.rewards for t in rft_runtime.trajectories()] == [(1.0,)]

def test_sees_nothing_of_the_test_before(rft_runtime):
    assert rft_runtime.trajectories() == []
    assert rft_runtime.policy is None

def test_leaves_open(rft_runtime):
    rft_runtime.new_rollout("p")

def test_never_rewards(rft_runtime):
    RolloutFeedbackClient(rft_runtime.new_rollout("p")).complete_trajectory()

@pytest.mark.rft_allow("open")
def test_may_leave_open(rft_runtime):
    rft_runtime.new_rollout("p")

@pytest.mark.rft_allow
def test_may_leave_anything(rft_runtime):
    RolloutFeedbackClient(rft_runtime.new_rollout("p")).complete_trajectory()

@pytest.mark.rft_allow("opne")
def test_marker_is_misspelt(rft_runtime):
    rft_runtime.new_rollout("p")
"""
JOB_ARN = "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/j"


@pytest.fixture
def run(pytester):
    pytester.makepyfile(TESTS)

    def run(*arguments):
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-v", *arguments)

    return run


def test_tests_that_leave_rollouts_behind_fail_unless_they_are_marked(run):
    result = run()

    result.assert_outcomes(passed=7, errors=3)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_leaves_open*",
            '*mark it: @pytest.mark.rft_allow("open")',
            "*ERROR at teardown of test_never_rewards*",
            '*@pytest.mark.rft_allow("unrewarded", "no-turns")',
            "*ERROR at teardown of test_marker_is_misspelt*",
        ]
    )
    assert "not 'opne'" in result.stdout.str()


def test_marker_help_names_the_kinds_that_there_are(pytester):
    result = pytester.runpytest_subprocess("--markers")

    result.stdout.fnmatch_lines(['*rft_allow(*)*"open", "unrewarded", "no-turns"*'])


def test_remote_endpoint_skips_what_needs_the_local_runtime(run):
    result = run("--rft-endpoint", "https://runtime.example", "--rft-job-arn", JOB_ARN, "-k", "good or leaves_open")

    result.assert_outcomes(passed=1, skipped=1)


def test_endpoint_without_job_is_a_usage_error(run):
    result = run("--rft-endpoint", "https://runtime.example")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*belong together*"])
