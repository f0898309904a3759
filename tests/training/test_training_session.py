"""Training sessions: rows as requests, an order that faults do not break, states, and a job that learns there."""

import json
import math
from statistics import fmean

import boto3
import pytest
from training.session_server import NAME, TOKENS, Sessions

from aws_rft_sdk.errors import ConfigurationError, JobServiceError, PayloadError, ServiceTimeoutError, TransportError
from aws_rft_sdk.jobs import BedrockJobs
from aws_rft_sdk.jobs.steps import read_step
from aws_rft_sdk.runtime import LocalBedrock
from aws_rft_sdk.runtime.bedrock.trainers import Group, Sample, TrainingStep
from aws_rft_sdk.training.rows import Row, rows_of
from aws_rft_sdk.training.session_trainer import SessionTrainer
from aws_rft_sdk.training.training_session import LOSSES, TrainingSession, datum
from aws_rft_sdk.types import Trajectory, TrajectoryStatus, Turn

BOTO3 = boto3.Session(region_name="us-west-2")  # reads botocore's models once
PROMPT = [1, 2, 3]
ROW = Row((1, 2), (11, 7, 8, 12), (-0.5, 0.0, 0.0, -0.25), (1, 0, 0, 1), (0, 1, 1, 1))


@pytest.fixture
def server():
    with Sessions() as sessions:
        yield sessions


def connect(server, **options):
    waits = {"poll_seconds": 0.001, "timeout_seconds": 20, **options}
    return TrainingSession(NAME, session=BOTO3, endpoint_url=server.url, **waits)


def executed(server):
    return [parameters for name, parameters in server.calls if name == "ExecuteTrainingOperation"]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_of_two_turns_becomes_tensors_that_are_shifted_by_one_position():
    made = datum(ROW, ROW.per_token([1.5, -2.0]), "ppo")

    assert made["modelInput"] == {"chunks": [{"tokens": [1, 2, 11, 7, 8, 12], "type": "encoded_text"}]}
    inputs = made["lossFnInputs"]
    assert {name: tensor["data"] for name, tensor in inputs.items()} == {
        "target_tokens": [2, 11, 7, 8, 12, 0],
        "weights": [0.0, 1.0, 0.0, 0.0, 1.0, 0.0],
        "logprobs": [0.0, -0.5, 0.0, 0.0, -0.25, 0.0],
        "advantages": [0.0, 1.5, 0.0, 0.0, -2.0, 0.0],
    }
    assert {(tensor["dtype"], *tensor["shape"]) for tensor in inputs.values()} == {("int64", 6), ("float32", 6)}


def test_the_first_token_of_a_row_without_a_prompt_has_no_position_that_predicts_it():
    inputs = datum(Row((), (11, 12), (-0.5, -0.25), (1, 1), (0, 0)), (1.0, 2.0), "ppo")["lossFnInputs"]

    assert [inputs[name]["data"] for name in ("target_tokens", "advantages")] == [[12, 0], [2.0, 0.0]]


def test_cross_entropy_takes_its_numbers_as_weights():
    inputs = datum(ROW, (1.0, 0.0, 0.0, 1.0), "cross_entropy")["lossFnInputs"]

    assert sorted(inputs) == ["target_tokens", "weights"]
    assert inputs["weights"]["data"] == [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("row", "advantages"),
    [(ROW, (1.0,)), (ROW, (math.nan, 0, 0, 1)), (Row((1,), (11,), (-math.inf,), (1,), (0,)), (1.0,))],
    ids=["too few", "an advantage", "a log-probability"],
)
def test_a_row_that_the_service_could_not_read_is_refused_before_anything_is_sent(row, advantages):
    with pytest.raises(PayloadError):
        datum(row, advantages, "ppo")


@pytest.mark.parametrize("loss", LOSSES)
def test_the_service_takes_the_rows_of_a_recorded_trajectory_for_each_loss(server, loss):
    read = ((1, 2), (11,), (-0.5,)), ((1, 2, 11, 7, 8), (12,), (-0.25,))
    turns = [
        Turn(index, None, None, None, 0.0, 0.0, token_ids=ids, logprobs=logprobs, prompt_token_ids=prompt)
        for index, (prompt, ids, logprobs) in enumerate(read)
    ]
    [row] = rows_of(Trajectory("t-1", "job", TrajectoryStatus.READY, turns=tuple(turns)))
    session = connect(server)

    metrics = session.forward_backward([datum(row, row.per_token([1.0, 1.0]), loss)], loss, {"clip_low_threshold": 0.8})
    metrics |= session.optimizer_step(0.01, beta1=0.9, gradClipNorm=1.0)

    assert (server.wrong, server.done) == ([], ["forwardBackward", "optimizerStep"])
    assert metrics["loss"] == 1.0
    assert metrics["grad_norm"] > 0
    assert max(server.logits, key=server.logits.get) in (11, 12)


# --- the order of operations ------------------------------------------------------------------------------------------

FAULTS = {"throttled": "throttle_every", "faults": "fail_every", "lost answers": "lose_every"}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_each_operation_is_done_once_and_in_order_whatever_the_network_does(server, fault):
    session = connect(server)
    setattr(server, fault, 2)

    for _ in range(5):
        session.forward_backward([datum(ROW, (1.0, 0, 0, 1.0), "ppo")], "ppo")
        session.optimizer_step(1e-3)

    assert server.wrong == []
    assert server.done == ["forwardBackward", "optimizerStep"] * 5
    sent = {}
    for call in executed(server):
        sent.setdefault(call["sequenceNumber"], set()).add(call["clientToken"])
    assert list(sent) == list(range(1, 11))
    assert all(len(tokens) == 1 for tokens in sent.values())
    assert len({token for tokens in sent.values() for token in tokens}) == 10


@pytest.mark.parametrize("outcome", ["Failed", "Skipped"])
def test_an_operation_that_fails_is_an_error_without_secrets_and_the_next_one_has_the_next_number(server, outcome):
    session = connect(server)
    server.outcomes = {1: outcome}

    with pytest.raises(JobServiceError, match=f"saveState op-1 of the session {NAME} is {outcome}: CUDA error") as told:
        session.save_state()
    assert "c2VjcmV0" not in str(told.value)
    assert session.save_state() in server.saved
    assert server.wrong == []


def test_an_operation_that_never_ends_is_given_up_and_a_new_client_goes_on_with_the_next_number(server):
    server.outcomes = {1: "Pending"}
    session = connect(server, timeout_seconds=0.05)

    with pytest.raises(ServiceTimeoutError, match=r"took more than 0\.05 s: saveState op-1 is"):
        session.save_state()
    assert connect(server).save_state() in server.saved
    assert (server.wrong, server.last) == ([], 2)


def test_after_a_call_whose_end_is_unknown_the_service_is_asked_which_number_it_has(server):
    session = connect(server, timeout_seconds=0.02)
    server.lose_every = 1  # the operation is done, and no answer ever arrives

    with pytest.raises(TransportError):
        session.optimizer_step(1e-3)
    server.lose_every = 0
    session._timeout = 20
    session.optimizer_step(1e-3)

    assert (server.wrong, server.done, server.last) == ([], ["optimizerStep"] * 2, 2)


def test_another_program_that_trains_the_session_is_noticed(server):
    one, other = connect(server), connect(server)
    one.optimizer_step(1e-3)

    with pytest.raises(JobServiceError, match="409"):
        other.optimizer_step(1e-3)


def test_many_rows_go_in_several_requests_with_no_step_between(server):
    session = connect(server)
    data = [datum(ROW, (1.0, 0, 0, 1.0), "cispo")] * 1500

    metrics = session.forward_backward(data, "cispo")

    sizes = [len(call["operationConfig"]["forwardBackward"]["datumList"]) for call in executed(server)]
    assert (sizes, server.wrong) == ([1024, 476], [])
    assert metrics == {"loss": pytest.approx((1024 * 1024 + 476 * 476) / 1500)}


@pytest.mark.parametrize("rate", [0.0, 0.011, math.nan])
def test_a_learning_rate_that_the_service_refuses_is_refused_here(server, rate):
    with pytest.raises(ConfigurationError, match="learning_rate"):
        connect(server).optimizer_step(rate)
    assert executed(server) == []


def test_a_session_that_does_not_run_is_refused(server):
    server.status = "Stopped"

    with pytest.raises(ConfigurationError, match="is Stopped"):
        connect(server)


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_an_answer_that_is_longer_than_asked_for_is_cut_since_the_service_samples_512_tokens_at_least(server):
    server.speak = lambda prompt: [11, 12, 13, 14]

    sampled = connect(server).sample(PROMPT, max_tokens=2, stop=["x"], seed=1)

    assert (sampled.token_ids, len(sampled.logprobs), sampled.finish_reason) == ([11, 12], 2, "length")
    params = server.calls[0][1]["operationConfig"]["sample"]["samplingParams"]
    assert params == {"maxTokens": 512, "temperature": 1.0, "topP": 1.0, "stop": ["x"], "seed": 1}
    assert connect(server).sample(PROMPT).finish_reason == "stop"


def test_an_answer_without_log_probabilities_cannot_be_trained_on(server):
    server.answer_logprobs = False

    with pytest.raises(PayloadError, match="gave 0 log-probabilities"):
        connect(server).sample(PROMPT)


# --- the trainer ------------------------------------------------------------------------------------------------------


def policy_of(sample):
    """Return a policy without a tokenizer: it says the number of the token that was sampled."""

    def answer(request):
        found = sample(PROMPT, max_tokens=1, temperature=request.get("temperature") or 1.0)
        logprobs = [{"token": str(t), "logprob": p} for t, p in zip(found.token_ids, found.logprobs, strict=True)]
        choice = {
            "message": {"role": "assistant", "content": str(found.token_ids[0])},
            "token_ids": found.token_ids,
            "logprobs": {"content": logprobs},
        }
        return {"choices": [choice], "prompt_token_ids": PROMPT}

    return answer


def step_of(*advantages, rate=1.0):
    """Return a step with one sample for each advantage. The k-th sample said the k-th token."""
    samples = []
    for token, advantage in zip(TOKENS, advantages, strict=False):
        logprobs = {"content": [{"token": str(token), "logprob": math.log(0.25)}]}
        choice = {"message": {"role": "assistant", "content": str(token)}, "token_ids": [token], "logprobs": logprobs}
        samples.append(Sample({"choices": [choice], "prompt_token_ids": PROMPT}, 0.0, advantage))
    return TrainingStep("job", 1, 1, {"learning_rate_multiplier": rate}, 0, [Group({}, samples)])


def test_a_step_goes_back_to_the_state_that_it_begins_from(server):
    trainer = SessionTrainer(connect(server), policy_of, learning_rate=5e-3)
    first = trainer.step(None, step_of(1.0, -1.0))
    second = trainer.step(first.state, step_of(1.0, -1.0))
    again = trainer.step(first.state, step_of(1.0, -1.0))
    other_job = trainer.step(None, step_of(1.0, -1.0))

    def logits(update):
        return server.saved[json.loads(update.state)["state"]]

    assert server.wrong == []
    assert logits(second) == logits(again)
    assert logits(first) == logits(other_job)
    assert logits(second)[11] > logits(first)[11] > 0
    assert first.metrics["grad_norm"] > 0
    loads = [call["operationConfig"].get("loadState") for call in executed(server)]
    assert (
        len([load for load in loads if load and load["loadOptimizer"]]) == 2
    )  # not where the session was there already


def test_a_step_of_equal_rewards_sends_nothing_and_keeps_the_state(server):
    trainer = SessionTrainer(connect(server), policy_of)
    before = trainer.step(None, step_of(1.0, -1.0)).state
    count = len(executed(server))

    assert trainer.step(before, step_of(0.0, 0.0)) == (before, {})
    assert len(executed(server)) == count


def test_gradients_of_a_step_that_failed_do_not_get_into_the_next_one(server):
    trainer = SessionTrainer(connect(server), policy_of, learning_rate=5e-3)
    begun = trainer.step(None, step_of(1.0, -1.0)).state
    server.outcomes = {server.last + 2: "Failed"}  # its gradients are there, its optimizer step is not

    with pytest.raises(JobServiceError):
        trainer.step(begun, step_of(0.0, 0.0, 3.0, -3.0))
    after = trainer.step(begun, step_of(1.0, -1.0)).state
    undisturbed = trainer.step(begun, step_of(1.0, -1.0)).state

    saved = [server.saved[json.loads(state)["state"]] for state in (after, undisturbed)]
    assert saved[0] == saved[1]
    assert server.wrong == []


def test_policies_sample_with_the_weights_of_their_states(server):
    trainer = SessionTrainer(connect(server), policy_of, learning_rate=1e-2)
    learnt = trainer.step(None, step_of(9.0, -9.0)).state
    base, tuned = trainer.policy(None), trainer.policy(learnt)

    said = [tuned({})["choices"][0]["token_ids"][0] for _ in range(20)]
    also = [base({})["choices"][0]["token_ids"][0] for _ in range(20)]

    assert set(said) == {11}
    assert len(set(also)) > 1
    assert server.wrong == []


@pytest.mark.parametrize("completion", [{"choices": [{}]}, {"choices": [{"token_ids": [1]}], "prompt_token_ids": [1]}])
def test_completions_without_tokens_are_refused_before_anything_is_trained(server, completion):
    step = TrainingStep("job", 1, 1, {"learning_rate_multiplier": 1.0}, 0, [Group({}, [Sample(completion, 1.0, 1.0)])])

    with pytest.raises(PayloadError, match="leave out LocalBedrock's policy="):
        SessionTrainer(connect(server), policy_of).step(None, step)
    assert "forwardBackward" not in server.done


def test_a_loss_without_advantages_is_refused(server):
    with pytest.raises(ConfigurationError, match="importance_sampling, ppo, cispo"):
        SessionTrainer(connect(server), policy_of, loss="cross_entropy")


def reward(event, context):
    """Score answers: token 13 is right."""
    return [{"id": row["id"], "aggregate_reward_score": float(row["messages"][-1]["content"] == "13")} for row in event]


def test_a_job_learns_in_a_session_while_calls_are_throttled_and_answers_lost(server, tmp_path):
    arn = "arn:aws:lambda:us-west-2:123456789012:function:grader"
    rows = [{"messages": [{"role": "user", "content": str(n)}], "reference_answer": "13"} for n in range(100)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server.throttle_every, server.fail_every, server.lose_every = 11, 17, 13
    trainer = SessionTrainer(connect(server), policy_of, loss="importance_sampling", learning_rate=2e-3)

    with (
        LocalBedrock(trainer=trainer, functions={arn: reward}, group=2) as bedrock,
        BedrockJobs(base_url=bedrock.base_url) as jobs,
    ):
        settings = {"n_epochs": 1, "batch_size": 10, "learning_rate_multiplier": 1.0}
        job = jobs.create("openai.gpt-oss-20b", jobs.upload(tmp_path / "train.jsonl"), arn, hyperparameters=settings)
        steps = [step for e in jobs.events(job, follow=True, poll_seconds=0.02) if (step := read_step(e)) is not None]
        done = jobs.get(job)
        said = [jobs.chat(done.tuned_model, [{"role": "user", "content": "?"}]) for _ in range(10)]

    assert (done.state, done.failure) == ("succeeded", None)
    assert server.wrong == []
    assert len(steps) == 10
    rewards = [step.reward_mean for step in steps]
    assert fmean(rewards[-2:]) > 0.8 > 0.5 > rewards[0]
    assert sum(answer.choices[0].message.content == "13" for answer in said) >= 8
