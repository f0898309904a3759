"""Each of these passed for good once."""

import json

import pytest

from aws_rft_sdk import datasets
from aws_rft_sdk.errors import ConfigurationError, DatasetError, RewardError
from aws_rft_sdk.rewards import ExactNumber, JsonSchema, bench, gsm8k, reward_lambda
from aws_rft_sdk.rewards.cases import parse_case

CASES = [
    parse_case({"prompt": "2 + 2", "ground_truth": "4", "answer": f"#### {n}", "kind": kind}, line)
    for line, (n, kind) in enumerate([(4, "success"), (5, "failure")], 1)
]
ROW = {"id": "7", "messages": [{"role": "assistant", "content": "#### 4"}], "reference_answer": "4"}


def leaves(rollout):
    raise SystemExit(0)


def judges_nothing(rollout):
    return None


@pytest.mark.parametrize("reward", [leaves, judges_nothing])
def test_bench_when_a_reward_is_dead_then_that_is_a_breach(reward):
    assert bench(reward, CASES).breaches


def test_lambda_when_a_reward_ends_the_process_then_the_batch_is_answered():
    (result,) = reward_lambda(leaves, floor=-1.0)([ROW])

    assert result["aggregate_reward_score"] == -1.0


def test_lambda_when_the_reward_is_a_lambda_then_refused():
    with pytest.raises(ConfigurationError, match="already"):
        reward_lambda(reward_lambda(gsm8k))


@pytest.mark.parametrize("floor", [float("nan"), float("inf"), "x", True])
def test_lambda_when_the_floor_is_no_reward_then_refused(floor):
    with pytest.raises(RewardError):
        reward_lambda(gsm8k, floor=floor)


@pytest.mark.parametrize("answer", [r"\boxed{1{,}234}", "The answer is 1{,}234", "#### 1,234"])
def test_number_when_written_as_latex_writes_thousands_then_read(answer):
    assert ExactNumber().score(answer, "1234") == 1.0


@pytest.mark.parametrize(
    ("answer", "truth"), [("true", 1), ("0", False), ('{"a": true}', {"a": 1}), ("[1, [false]]", [1, [0]])]
)
def test_json_when_a_boolean_stands_for_a_number_then_it_is_not_equal(answer, truth):
    assert JsonSchema({}, match=True).score(answer, truth) != 1.0
    assert JsonSchema({}, match=True).score(json.dumps(truth), truth) == 1.0


@pytest.mark.parametrize("cell", [None, 5, ["x"]])
def test_unpack_when_given_no_text_then_dataset_error(cell):
    with pytest.raises(DatasetError):
        datasets.unpack(cell)


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '[{"prompt": ' + "9" * 5000 + "}]"], ids=["nested", "digits"])
def test_read_when_json_is_beyond_what_python_reads_then_dataset_error(tmp_path, name, text):
    (tmp_path / name).write_text(text)

    with pytest.raises(DatasetError):
        list(datasets.read_rows(tmp_path / name))
