"""What rewards are made with is checked when they are made, and the message names the field."""

import math
import pickle

import pytest

from aws_rft_sdk.errors import ConfigurationError, RewardError
from aws_rft_sdk.rewards import (
    Clip,
    CodeTests,
    Discounted,
    DominantOutcome,
    ExactNumber,
    FinQA,
    Format,
    Gate,
    JsonSchema,
    KeywordCoverage,
    Length,
    MathVerify,
    MultipleChoice,
    Repetition,
    Rollout,
    Tags,
    ToolUse,
    TurnCredit,
    WeightedSum,
    bench,
    evaluate,
    gsm8k,
    parse_case,
    reward_lambda,
)

NO_NUMBERS = (math.nan, math.inf, -math.inf, "1", True, None)
FIELDS = [
    pytest.param(lambda value: ExactNumber(tolerance=value), "tolerance", (-1,), id="ExactNumber"),
    pytest.param(lambda value: FinQA(relative_tolerance=value), "relative_tolerance", (-0.1,), id="FinQA-relative"),
    pytest.param(lambda value: FinQA(absolute_tolerance=value), "absolute_tolerance", (-0.1,), id="FinQA-absolute"),
    pytest.param(lambda value: FinQA(close=value), "close", (-0.1, 1.1), id="FinQA-close"),
    pytest.param(lambda value: Length(value, 10), "soft", (-1, 0.5, 10), id="Length-soft"),
    pytest.param(lambda value: Length(5, value), "hard", (-1, 5), id="Length-hard"),
    pytest.param(lambda value: Repetition(value), "n", (0, 1.5), id="Repetition"),
    pytest.param(lambda value: ToolUse(max_calls=value), "max_calls", (0, 1.5), id="ToolUse"),
    pytest.param(lambda value: CodeTests(timeout_seconds=value), "timeout_seconds", (0, -1), id="CodeTests-time"),
    pytest.param(lambda value: CodeTests(compiles=value), "compiles", (-0.1, 1, 1.1), id="CodeTests-compiles"),
    pytest.param(
        lambda value: CodeTests(memory_megabytes=value), "memory_megabytes", (0, 10**12), id="CodeTests-memory"
    ),
    pytest.param(lambda value: CodeTests(file_megabytes=value), "file_megabytes", (0, 1.5), id="CodeTests-file"),
    pytest.param(lambda value: MathVerify(timeout_seconds=value), "timeout_seconds", (0, -1), id="MathVerify-time"),
    pytest.param(lambda value: MathVerify(value), "max_characters", (0, 1.5), id="MathVerify-characters"),
    pytest.param(lambda value: JsonSchema({}, parses=value), "parses", (-0.1, 1.1), id="JsonSchema"),
    pytest.param(lambda value: Gate(gsm8k, gsm8k, threshold=value), "threshold", (), id="Gate-threshold"),
    pytest.param(lambda value: Gate(gsm8k, gsm8k, otherwise=value), "otherwise", (), id="Gate-otherwise"),
    pytest.param(lambda value: Clip(gsm8k, value, 1), "low end", (), id="Clip-low"),
    pytest.param(lambda value: Clip(gsm8k, 0, value), "high end", (), id="Clip-high"),
    pytest.param(lambda value: WeightedSum({"a": (gsm8k, value)}), "weight of 'a'", (), id="WeightedSum"),
    pytest.param(
        lambda value: DominantOutcome(gsm8k, {}, bound=value), "bound of 0", (-1,), id="DominantOutcome-bound"
    ),
    pytest.param(lambda value: DominantOutcome(gsm8k, {}, tiers=(0, value)), "tier", (), id="DominantOutcome-tier"),
    pytest.param(lambda value: Discounted(gsm8k, value), "discount", (-0.1, 1.1), id="Discounted"),
    pytest.param(lambda value: TurnCredit(gsm8k, start=value), "start", (), id="TurnCredit"),
    pytest.param(lambda value: TurnCredit(gsm8k, discount=value or -1), "discount", (), id="TurnCredit-discount"),
]


@pytest.mark.parametrize(("make", "name", "more"), FIELDS)
def test_reward_when_a_field_is_no_number_it_can_be_then_the_message_names_it(make, name, more):
    for value in (*NO_NUMBERS, *more):
        with pytest.raises(ConfigurationError, match=name):
            make(value)


@pytest.mark.parametrize("value", [5, None, True, "a", [1], b"a"], ids=repr)
def test_reward_when_a_field_is_no_list_of_texts_then_the_message_names_it(value):
    fields = [(Tags, "names"), (KeywordCoverage, "keywords"), (lambda names: ToolUse(required=names), "required")]
    if value is not None:
        fields.append((lambda names: ToolUse(allowed=names), "allowed"))
    for make, name in fields:
        with pytest.raises(ConfigurationError, match=name):
            make(value)
    if not isinstance(value, str):
        for make, name in ((Format, "pattern"), (MultipleChoice, "choices")):
            with pytest.raises(ConfigurationError, match=name):
                make(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True])
def test_dominant_outcome_when_the_threshold_is_no_number_then_the_message_names_it(value):
    with pytest.raises(ConfigurationError, match="success_threshold"):
        DominantOutcome(gsm8k, {}, success_threshold=value)


async def asynchronous(rollout):
    return 1.0


class Asynchronous:
    async def __call__(self, rollout):
        return 1.0


CASES = [parse_case({"prompt": "2 + 2", "ground_truth": "4", "answer": "#### 4", "kind": "success"})]
USES = [
    reward_lambda,
    lambda reward: bench(reward, CASES),
    lambda reward: WeightedSum({"a": reward}),
    lambda reward: Clip(reward, 0, 1),
    lambda reward: Gate(reward, gsm8k),
    lambda reward: Gate(gsm8k, reward),
    lambda reward: DominantOutcome(reward, {}),
    lambda reward: DominantOutcome(gsm8k, {"a": reward}),
    lambda reward: Discounted(reward),
    lambda reward: TurnCredit(reward),
]


@pytest.mark.parametrize(
    ("reward", "message"),
    [(asynchronous, "asynchronous"), (Asynchronous(), "asynchronous"), (ExactNumber, "class"), (5, "is a int")],
    ids=["async-def", "async-call", "class", "number"],
)
def test_reward_when_it_cannot_be_one_then_refused_where_it_is_named(reward, message):
    for use in USES:
        with pytest.raises(ConfigurationError, match=message):
            use(reward)


@pytest.mark.parametrize("floor", [math.nan, math.inf, "x", True])
def test_lambda_when_the_floor_is_no_reward_then_refused(floor):
    with pytest.raises(RewardError):
        reward_lambda(gsm8k, floor=floor)
    with pytest.raises(ConfigurationError, match="already"):
        reward_lambda(reward_lambda(gsm8k))


def test_evaluate_when_a_reward_gives_a_coroutine_then_reward_error():
    with pytest.raises(RewardError, match="asynchronous"):
        evaluate(lambda rollout: asynchronous(rollout), Rollout.of_answer("4"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cases": []}, "at least one case"),
        ({"shaping": math.nan}, "shaping"),
        ({"shaping": -1}, "shaping"),
        ({"limits": (1, 0)}, "limits"),
        ({"limits": (0, math.inf)}, "a limit"),
        ({"repeat": 0}, "repeat"),
        ({"max_seconds": math.nan}, "max_seconds"),
    ],
)
def test_bench_when_a_figure_makes_no_sense_then_the_message_names_it(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        bench(gsm8k, **{"cases": CASES, **settings})


BOTH = WeightedSum({"correct": gsm8k, "format": (Format(r"####.*"), 0.5)})


@pytest.mark.parametrize(
    ("reward", "right", "wrong"),
    [
        pytest.param(BOTH, 1.5, 0.5, id="WeightedSum"),
        pytest.param(Clip(BOTH, 0, 1), 1.0, 0.5, id="Clip"),
        pytest.param(Gate(Format(r"####.*"), gsm8k, otherwise=-1), 1.0, 0.0, id="Gate"),
        pytest.param(DominantOutcome(gsm8k, {"format": (Format(r"####.*"), 0.1)}), 1.1, 0.1, id="DominantOutcome"),
        pytest.param(WeightedSum({"inner": Clip(BOTH, 0, 1)}), 1.0, 0.5, id="nested"),
    ],
)
def test_combination_when_a_text_is_scored_then_what_its_rollout_gets(reward, right, wrong):
    for text, score in (("#### 4", right), ("#### 5", wrong)):
        assert reward.score(text, "4") == reward(Rollout.of_answer(text, "4")).reward == pytest.approx(score)
    assert reward.score("#### 4", None) is None
    assert pickle.loads(pickle.dumps(reward)).score("#### 4", "4") == pytest.approx(right)


def own(rollout):
    return 1.0


@pytest.mark.parametrize(
    ("reward", "part"),
    [
        (WeightedSum({"correct": gsm8k, "tools": ToolUse()}), "'tools'"),
        (Clip(own, 0, 1), "'reward'"),
        (Gate(own, gsm8k), "'condition'"),
        (DominantOutcome(gsm8k, {"tools": (ToolUse(), 0.1)}), "'tools'"),
        (WeightedSum({"a": gsm8k, "gated": Gate(gsm8k, ToolUse())}), "'gated/reward'"),
    ],
)
def test_combination_when_a_part_has_no_score_then_the_message_names_it(reward, part):
    with pytest.raises(ConfigurationError, match=part):
        reward.score("#### 4", "4")
