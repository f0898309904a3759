"""Jobs of `LocalBedrock` that train a language model, through a user's OpenAI client."""

from __future__ import annotations

import asyncio
import random
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from statistics import fmean

import pytest

from aws_rft_sdk.errors import ConfigurationError, PayloadError
from aws_rft_sdk.runtime import Call, LocalBedrock
from aws_rft_sdk.runtime.bedrock.trainers import Group, Sample, TrainingStep
from tests.bedrock.bedrock_parts import MODEL, client_of, create, ended, jsonl, metrics, wait_until

NEEDS = "needs: pip install -e '.[train]'"
peft = pytest.importorskip("peft", reason=NEEDS)
safetensors = pytest.importorskip("safetensors.torch", reason=NEEDS)
torch = pytest.importorskip("torch", reason=NEEDS)
pytest.importorskip("trl", reason=NEEDS)
TorchTrainer = import_module("aws_rft_sdk.training.torch_trainer").TorchTrainer
tiny = import_module("tests.training.tiny")

LETTERS = 4
ROWS = [{"messages": [{"role": "user", "content": f"Write letters {number}"}]} for number in range(100)]
BATCH_SIZE = 10
STEPS = 10


def letters(text):
    """Return the reward of an answer: the share of small letters. Tags do not count."""
    return sum("a" <= character <= "z" for character in re.sub("<[^>]*>", "", text)) / LETTERS


def grader(event, context):
    return [{"id": row["id"], "aggregate_reward_score": letters(row["messages"][-1]["content"])} for row in event]


def make_trainer(model=None, **options):
    tokenizer = tiny.tiny_tokenizer()
    model = model or tiny.tiny_model(tokenizer)
    return TorchTrainer(model, tokenizer, **{"learning_rate": 5e-2, "max_tokens": LETTERS, **options})


def make_step(trainer, state=None, seed=0, advantage=lambda sample: letters(sample.message["content"]) - 0.2):
    """Sample a group from the policy of a state, as a job does."""

    async def sample():
        policy = trainer.policy(state)
        asked = {"messages": ROWS[0]["messages"], "temperature": 1.0}
        calls = [Call(asked, b"", False, f"{seed}-0-{n}", 0) for n in range(12)]
        try:
            return await asyncio.gather(*map(policy.answer, calls))
        finally:
            await policy.aclose()

    drawn = [Sample(completion, 0.0) for completion in asyncio.run(sample())]
    samples = [Sample(sample.completion, 0.0, advantage(sample)) for sample in drawn]
    return TrainingStep("job", 1, 1, {"learning_rate_multiplier": 1.0}, 0, [Group(ROWS[0], samples)])


def said(client, model):
    """Return the mean reward of a model's answers to a new question."""
    ask = client.chat.completions.create
    message = [{"role": "user", "content": "Write letters, please"}]
    answers = [ask(model=model, messages=message, seed=seed) for seed in range(12)]
    return fmean(letters(answer.choices[0].message.content) for answer in answers)


def test_job_when_the_server_restarts_twice_then_the_curve_rises_and_the_tuned_model_answers_better(tmp_path):
    options = {"functions": {"gsm8k": grader}, "db": tmp_path / "bedrock.db", "group": 4}
    settings = {"n_epochs": 1, "batch_size": BATCH_SIZE}
    with LocalBedrock(trainer=make_trainer(), **options) as server, client_of(server, max_retries=5) as client:
        job = create(client, jsonl(ROWS), hyperparameters=settings)
        wait_until(lambda: len(metrics(client, job)) >= 2)
        server.restart()
        wait_until(lambda: len(metrics(client, job)) >= 5)

    with LocalBedrock(trainer=make_trainer(), **options) as server, client_of(server) as client:
        done = ended(client, job)
        curve = metrics(client, job)
        base, tuned = said(client, MODEL), said(client, done["fine_tuned_model"])
        first = min(client.fine_tuning.jobs.checkpoints.list(job.id), key=lambda item: item.step_number)
        early = said(client, first.fine_tuned_model_checkpoint)

    assert done["status"] == "succeeded"
    assert [item["step"] for item in curve] == list(range(1, STEPS + 1))
    rewards = [item["critic_rewards_mean"] for item in curve]
    assert fmean(rewards[-3:]) > fmean(rewards[:3]) + 0.3, rewards
    assert all(
        isinstance(item[f"actor_{name}"], float) for item in curve for name in ("entropy", "pg_loss", "grad_norm")
    )
    assert curve[-1]["actor_entropy"] < curve[0]["actor_entropy"]
    assert tuned > base + 0.3
    assert early < tuned


@pytest.mark.parametrize("adapter", [False, True])
def test_step_when_jobs_learn_at_once_then_each_gets_what_it_gets_alone(adapter):
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], lora_dropout=0.5)
    model = tiny.tiny_model(tiny.tiny_tokenizer())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = make_trainer(model, peft_config=config if adapter else None, micro_batch_size=5)
    steps = [make_step(trainer, seed=seed) for seed in range(2)]
    alone = [trainer.step(None, step) for step in steps]
    random.seed(7)
    with ThreadPoolExecutor(len(steps)) as pool:
        together = list(pool.map(lambda step: trainer.step(None, step), steps))

    assert together == alone
    assert len({update.state for update in alone}) == len(steps)
    assert random.random() == random.Random(7).random()
    again = trainer.step(alone[0].state, steps[0])
    assert again == trainer.step(alone[0].state, steps[0])
    assert again.state != alone[0].state
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_step_when_the_advantages_are_turned_round_then_the_first_update_goes_the_other_way():
    model = tiny.tiny_model(tiny.tiny_tokenizer())
    trainer = make_trainer(model, learning_rate=1e-3)
    step = make_step(trainer)
    turned = [Sample(sample.completion, 0.0, -sample.advantage) for sample in step.groups[0].samples]

    states = [
        trainer.step(None, replace(step, groups=[Group({}, samples)])).state
        for samples in (step.groups[0].samples, turned)
    ]

    up, down = map(safetensors.load, states)
    base = dict(model.named_parameters())
    moves = [(up[f"weight.{name}"] - weight, down[f"weight.{name}"] - weight) for name, weight in base.items()]
    assert all(torch.allclose(one, -other, atol=1e-6) for one, other in moves)
    assert any(one.abs().max() > 5e-4 for one, _ in moves)


def test_step_when_the_recorded_logprobs_are_far_off_then_tokens_are_clipped():
    trainer = make_trainer()
    honest = make_step(trainer, advantage=lambda sample: 1.0)
    samples = []
    for sample in honest.groups[0].samples:
        choice = sample.completion["choices"][0]
        content = [{**item, "logprob": item["logprob"] - 1.0} for item in choice["logprobs"]["content"]]
        completion = {**sample.completion, "choices": [{**choice, "logprobs": {"content": content}}]}
        samples.append(Sample(completion, 0.0, 1.0))
    stale = replace(honest, groups=[Group({}, samples)])

    assert trainer.step(None, honest).metrics["grad_norm"] > 0.01
    assert trainer.step(None, stale).metrics["grad_norm"] == 0.0


def test_step_when_a_completion_has_no_tokens_then_the_error_says_what_to_do():
    completion = {"choices": [{"message": {"role": "assistant", "content": "a"}}]}
    step = TrainingStep("job", 1, 1, {"learning_rate_multiplier": 1.0}, 0, [Group({}, [Sample(completion, 1.0)] * 2)])

    with pytest.raises(PayloadError, match="leave out LocalBedrock's policy="):
        make_trainer().step(None, step)


def test_state_when_it_is_another_models_then_it_is_refused():
    whole = make_trainer()
    adapter = make_trainer(peft_config=peft.LoraConfig(target_modules=["q_proj"]))
    state = whole.step(None, make_step(whole)).state

    with pytest.raises(ConfigurationError, match="another model or adapter"):
        adapter.policy(state)


@pytest.mark.parametrize("name", ["learning_rate", "max_tokens", "micro_batch_size", "max_grad_norm"])
def test_argument_when_it_is_wrong_then_the_error_names_it(name):
    with pytest.raises(ConfigurationError, match=name):
        make_trainer(**{name: -1})


def test_multi_turn_job_when_a_language_model_learns_then_its_rewards_rise(monkeypatch):
    monkeypatch.setenv("RFT_API", "ga")

    def agent(payload):
        said = running.sample(payload) + running.sample(payload)
        running.complete(payload)
        running.reward(payload, letters(said) / 2)

    running = import_module("tests.sagemaker.test_running")
    with running.twin(agent, trainer=make_trainer(), policy=None, speed=20.0) as twin:
        twin.upload([f"Write letters {number}" for number in range(9)])
        values = {"group_size": "4", "max_epochs": "4"}
        job = running.ended(twin.train(hyperparameters=values))
        assert job["JobStatus"] == "Completed", job["FailureReason"]
        means = [value for _, value in twin.metrics()["rollout/reward/mean"]]
    assert fmean(means[-2:]) > fmean(means[:2]) + 0.2
