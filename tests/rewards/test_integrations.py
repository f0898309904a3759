"""Our rewards as reward functions of other libraries, called as these libraries call them."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Sequence
from importlib.util import find_spec

import pytest

from aws_rft_sdk.errors import ConfigurationError, RewardError
from aws_rft_sdk.rewards import Rollout, ToolUse, WeightedSum, gsm8k
from aws_rft_sdk.rewards.integrations import as_inspect, as_trl, as_verifiers


class Shortest:
    """A group reward: the share of the group whose answers are longer."""

    def score_group(self, rollouts: Sequence[Rollout]) -> list[float]:
        lengths = [len(rollout.answer) for rollout in rollouts]
        return [sum(other > own for other in lengths) / len(lengths) for own in lengths]


def asked(text):
    return [{"role": "system", "content": "Solve."}, {"role": "user", "content": text}]


def said(text):
    return [{"role": "assistant", "content": text}]


def train(function, prompts, completions, **columns):
    """Call a reward function as GRPOTrainer 1.16 does: all by keyword, columns as lists, and more of its own."""
    return function(
        prompts=prompts,
        completions=completions,
        completion_ids=[[1, 2]] * len(prompts),
        **columns,
        trainer_state=object(),
        log_extra=lambda column, values: None,
        log_metric=lambda name, value: None,
    )


TRUTHS = ["72", "72", None, "7"]
ANSWERS = ["#### 72", "#### 73", "#### 72", "#### 8"]
PROMPTS = ["36 * 2?", "36 * 2?", "unknown?", "7?"]
EXPECTED = [1.0, 0.0, None, 0.0]


@pytest.mark.parametrize("column", ["ground_truth", "answer", "reference_answer", "solution", "target"])
@pytest.mark.parametrize("conversational", [False, True])
def test_trl_gets_one_number_or_none_for_each_completion(column, conversational):
    prompts, completions = ([*map(asked, PROMPTS)], [*map(said, ANSWERS)]) if conversational else (PROMPTS, ANSWERS)
    function = as_trl(gsm8k, name="gsm8k")

    assert train(function, prompts, completions, **{column: TRUTHS}) == EXPECTED
    assert function(prompts, completions, **{column: TRUTHS}) == EXPECTED  # by position, without ids and trainer
    assert function.__name__ == "gsm8k"
    assert not inspect.iscoroutinefunction(function)


def test_trl_names_the_reward_and_takes_the_truth_from_the_column_that_is_named():
    function = as_trl(gsm8k, ground_truth="number")
    assert function.__name__ == type(gsm8k).__name__
    assert as_trl(train).__name__ == "train"
    assert train(function, PROMPTS, ANSWERS, number=TRUTHS, answer=["0"] * 4) == EXPECTED
    with pytest.raises(ConfigurationError, match="has no column 'number'; it has answer"):
        train(function, PROMPTS, ANSWERS, answer=TRUTHS)
    assert train(as_trl(gsm8k), PROMPTS, ANSWERS) == [None] * 4


def test_trl_gives_other_columns_and_tool_calls_to_the_reward():
    seen = []

    def spy(rollout):
        seen.append(rollout)
        return ToolUse(required=("search",))(rollout)

    call = {"type": "function", "function": {"name": "search", "arguments": {"q": "x"}}}
    completion = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "search", "content": "found"},
        *said("It is x."),
    ]
    assert train(as_trl(spy), [asked("x?")], [completion], answer=["x"], level=[3]) == [1.0]
    assert (seen[0].answer, seen[0].ground_truth, seen[0].metadata) == ("It is x.", "x", {"level": 3})
    assert [message["role"] for message in seen[0].messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert seen[0].prompt == asked("x?")


def test_trl_gives_group_rewards_the_completions_of_equal_prompts_wherever_they_stand():
    function = as_trl(WeightedSum({"short": Shortest(), "correct": gsm8k}))
    prompts = [asked("a?"), asked("b?"), asked("a?"), asked("b?")]
    completions = [said("#### 1"), said("#### 2"), said("1, so\n#### 1"), said("3")]
    assert train(function, prompts, completions, answer=["1", "2", "1", "2"]) == [1.5, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("make", [as_trl, as_verifiers, as_inspect])
def test_what_is_no_reward_is_refused_when_the_function_is_made(make):
    with pytest.raises(ConfigurationError, match="class"):
        make(Shortest)


@pytest.mark.parametrize("make", [as_verifiers, as_inspect])
def test_what_scores_rollouts_one_by_one_refuses_group_rewards(make):
    with pytest.raises(ConfigurationError, match="compares the rollouts of a prompt"):
        make(WeightedSum({"short": Shortest()}))


@pytest.mark.parametrize(
    ("prompt", "completion"), [(asked("36 * 2?"), said("#### 72")), ("36 * 2?", "#### 72")], ids=["chat", "text"]
)
def test_verifiers_gets_a_number_for_a_rollout(prompt, completion):
    seen = []
    function = as_verifiers(lambda rollout: seen.append(rollout) or gsm8k(rollout), floor=-1, name="right")
    objects = {"prompt": prompt, "completion": completion, "state": {"left": 0}, "task": "t", "info": {"level": 3}}
    # As its rubric does: what the signature names, and all else if it takes any keyword.
    assert {"prompt", "completion", "answer", "state"} < set(inspect.signature(function).parameters)
    assert function(**objects, answer="72") == 1.0
    assert function(**objects, answer="") == -1.0
    assert (seen[0].state, seen[0].metadata, function.__name__) == ({"left": 0}, {"level": 3}, "right")
    with pytest.raises(RewardError, match="finite"):
        as_verifiers(gsm8k, floor=math.nan)


def test_inspect_gets_a_score_with_the_answer_and_the_parts():
    scorer = pytest.importorskip("inspect_ai.scorer")
    from inspect_ai.model import ChatMessageAssistant, ChatMessageTool, ChatMessageUser, ModelName
    from inspect_ai.solver import TaskState
    from inspect_ai.tool import ToolCall

    messages = [
        ChatMessageUser(content="36 * 2?"),
        ChatMessageAssistant(content="", tool_calls=[ToolCall("c1", "multiply", {"a": 36, "b": 2})]),
        ChatMessageTool(content="72", tool_call_id="c1", function="multiply"),
        ChatMessageAssistant(content="#### 72"),
    ]
    state = TaskState(ModelName("mockllm/model"), 1, 1, "36 * 2?", messages, metadata={"level": 3})
    state.store.set("left", 0)
    seen = []

    def reward(rollout):
        seen.append(rollout)
        return WeightedSum({"correct": gsm8k, "tools": ToolUse(required=("multiply",))})(rollout)

    score = asyncio.run(as_inspect(reward)(state, scorer.Target("72")))
    assert (score.value, score.answer) == (2.0, "#### 72")
    assert score.metadata.items() >= {"correct": 1.0, "tools": 1.0}.items()
    assert (seen[0].ground_truth, seen[0].state, seen[0].metadata) == ("72", {"left": 0}, {"level": 3})
    assert math.isnan(asyncio.run(as_inspect(gsm8k)(state, scorer.Target(""))).value)


def test_inspect_that_is_not_installed_is_named():
    if find_spec("inspect_ai"):
        pytest.skip("it is installed")
    with pytest.raises(ConfigurationError, match="pip install inspect-ai"):
        as_inspect(gsm8k)
