"""What any runtime must do, ours and the service.

`pytest tests/contract --rft-endpoint URL --rft-job-arn ARN` runs it against a real endpoint, with your credentials;
tests that need a policy or the runtime's records are skipped there. Set `RFT_API=alpha` for an endpoint of that kind.
"""

import botocore.session
import openai
import pytest
from fakes import TWICE

from aws_rft_sdk import RFTContext, RolloutFeedbackClient
from aws_rft_sdk.adapters.openai import runtime_client_args
from aws_rft_sdk.errors import (
    AccessDeniedError,
    InvalidRequestError,
    StatusError,
    TrajectoryConflictError,
    TrajectoryNotFoundError,
)
from aws_rft_sdk.types import TrajectoryStatus


@pytest.fixture(autouse=True)
def credentials_of_the_user(request, monkeypatch, aws_environment):
    """Against a real endpoint, the credentials that the suite otherwise hides."""
    if request.config.getoption("--rft-endpoint"):
        for name, value in aws_environment.items():
            monkeypatch.setenv(name, value)


def client_of(payload, **options):
    return RolloutFeedbackClient(payload, backoff=TWICE, **options)


def unknown(payload):
    """Return the payload with a trajectory id that no runtime knows."""
    return {**payload, "metadata": {**payload["metadata"], "rolloutId": "00000000-0000-0000-0000-000000000000"}}


def ask(payload, text="2 + 2?"):
    with RFTContext.bind(payload) as rollout, openai.OpenAI(**runtime_client_args(), max_retries=0) as client:
        answer = client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": text}], extra_headers=rollout.headers()
        )
    return answer.choices[0].message.content


@pytest.mark.rft_allow("open")
@pytest.mark.parametrize("call", ["complete", "reward"])
def test_feedback_on_an_unknown_trajectory_is_refused_with_a_request_id(rft_runtime, call):
    client = client_of(unknown(rft_runtime.new_rollout("p")))

    with pytest.raises(StatusError) as raised:
        client.complete_trajectory() if call == "complete" else client.update_reward(1.0)

    # The service answers 404 under a job of yours, and 400 where the job itself is unknown.
    assert isinstance(raised.value, TrajectoryNotFoundError | InvalidRequestError)
    assert raised.value.request_id


@pytest.mark.rft_allow("open")
def test_inference_for_an_unknown_trajectory_is_refused(rft_runtime):
    payload = unknown(rft_runtime.new_rollout("p"))

    with pytest.raises(openai.APIStatusError) as raised:
        ask(payload)

    assert raised.value.status_code in (400, 404)


@pytest.mark.rft_allow("open")
@pytest.mark.parametrize("auth", ["sigv4", "bearer"])
def test_a_signature_by_unknown_keys_is_refused(rft_runtime, auth):
    stranger = botocore.session.Session()
    stranger.set_credentials("AKIANOBODYKNOWSTHIS1", "not-the-secret-of-anybody")

    with pytest.raises(AccessDeniedError):
        client_of(rft_runtime.new_rollout("p"), session=stranger, auth=auth).complete_trajectory()


def test_a_rollout_is_recorded_sealed_and_rewarded(rft_runtime):
    rft_runtime.policy = lambda request: "4"
    payload = rft_runtime.new_rollout("p")

    assert ask(payload) == "4"
    client_of(payload).report_complete(0.5)

    (trajectory,) = rft_runtime.trajectories()
    assert trajectory.status is TrajectoryStatus.REWARD_RECEIVED
    assert (len(trajectory.turns), trajectory.rewards) == (1, (0.5,))


def test_completion_and_reward_may_be_repeated(rft_runtime):
    rft_runtime.policy = lambda request: "4"
    payload = rft_runtime.new_rollout("p")
    ask(payload)
    for _ in range(3):
        client_of(payload).report_complete([0.5])

    assert rft_runtime.trajectories()[0].rewards == (0.5,)


def test_another_decision_about_a_sealed_trajectory_conflicts(rft_runtime):
    rft_runtime.policy = lambda request: "4"
    payload = rft_runtime.new_rollout("p")
    ask(payload)
    client_of(payload).report_complete(0.5)

    with pytest.raises(TrajectoryConflictError):
        client_of(payload).update_reward(1.0)

    with pytest.raises(openai.APIStatusError):
        ask(payload)
    assert [len(t.turns) for t in rft_runtime.trajectories()] == [1]


def test_a_reward_before_completion_conflicts(rft_runtime):
    rft_runtime.policy = lambda request: "4"
    payload = rft_runtime.new_rollout("p")
    ask(payload)

    with pytest.raises(TrajectoryConflictError):
        client_of(payload).update_reward(1.0)

    client_of(payload).report_complete(1.0)


def test_a_list_of_rewards_must_fit_the_turns(rft_runtime):
    rft_runtime.policy = lambda request: "4"
    payload = rft_runtime.new_rollout("p")
    ask(payload)
    ask(payload)
    client = client_of(payload)
    client.complete_trajectory()

    with pytest.raises(InvalidRequestError):
        client.update_reward([0.1, 0.2, 0.3])

    client.update_reward([0.1, 0.2])
    assert rft_runtime.trajectories()[0].rewards == (0.1, 0.2)
