import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import FinalAnswerLine, Format, Rollout, Tags

P = "#### The final answer is "
# answer, gold, published (format, correct), ours (format, correct), why ours differs
TABLE = [
    pytest.param(f"work\n{P}15", 15, (1, 1), (1, 1), "", id="as-asked"),
    pytest.param(f"{P}15", 15, (0, 1), (1, 1), "nothing has to stand before the phrase", id="no-line-before"),
    pytest.param(f"{P}-15", -15, (0, 0), (1, 1), "a sign belongs to a number", id="negative"),
    pytest.param("#### -15", 15, (0, 1), (0, 0), "a sign belongs to a number", id="sign-ignored"),
    pytest.param(f"work\n{P}1,234", "1,234", (1, 0), (1, 1), "a gold may have commas", id="gold-with-comma"),
    pytest.param(f"work\n{P}1,234", 1234, (1, 1), (1, 1), "", id="comma"),
    pytest.param(f"work\n{P}$15", 15, (0, 1), (1, 1), "a currency belongs to an amount", id="currency"),
    pytest.param(f"work\n{P}5/8", 5, (1, 1), (1, 0), "a fraction is not its first half", id="fraction"),
    pytest.param(f"work\n{P}10:30", 10, (1, 1), (0, 0), "a time is no number", id="time"),
    pytest.param(f"work\n{P}.5", 0.5, (0, 0), (1, 1), "a number may begin with a point", id="leading-point"),
    pytest.param("#### step 1: 9\n#### 15", 15, (0, 0), (0, 1), "the last one is the answer", id="first-wins"),
    pytest.param(
        f"work\n{P}15\nQuestion: and then? The answer is 99",
        15,
        (1, 1),
        (0, 1),
        "the answer does not end there",
        id="runaway",
    ),
]


def parts(result):
    values = {component.name: component.value for component in result.components}
    return values["format"], values["correct"]


@pytest.mark.parametrize(("answer", "gold", "published", "ours", "reason"), TABLE)
def test_final_answer_when_the_published_pair_was_observed_then_strict_gives_it_and_ours_is_right(
    answer, gold, published, ours, reason
):
    rollout = Rollout.of_answer(answer, gold)
    assert parts(Format.final_answer(strict=True)(rollout)) == published
    assert parts(Format.final_answer()(rollout)) == ours
    assert (published == ours) == (not reason)


RUNAWAY = f"work\n{P}72\n\nQuestion: What is 90 + 9?\nSolution: It is 99.\n{P}99"


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        pytest.param(f"work\n{P}72", 1.0, id="as-asked"),
        pytest.param(f"Question: 1 + 1?\n{P}72", 1.0, id="question-said-again"),
        pytest.param(f"work\n{P}72<|im_end|>", 1.0, id="end-of-turn"),
        pytest.param(RUNAWAY, 0.0, id="runaway-that-ends-as-asked"),
        pytest.param(f"work\n{P}72\n\nQuestion: What is 90 + 9?", 0.0, id="runaway-cut-off"),
        pytest.param(f"work\n{P}72\nNow Ann has 90 + 9.\n{P}99", 0.0, id="runaway-without-question"),
        pytest.param(f"{P}71\n{P}72", 0.0, id="two-tries"),
        pytest.param(f"work\n{P}72<|im_end|><|im_start|>user\n{P}99", 0.0, id="chat-template"),
        pytest.param(f"work\n{P}72\nQ: and?\nA: no\n{P}72", 0.0, id="runaway-q"),
        pytest.param(f"work\n{P}72\nand so on", 0.0, id="text-after"),
        pytest.param(f"<think>{P}71</think>\n{P}72", 1.0, id="thought"),
        pytest.param(f"<think>work\n{P}72", 0.0, id="thought-cut-off"),
        *[pytest.param(P + text, 1.0, id=text) for text in ("$72", "-5", ".5", "1,234", "3/4", "**72**", "72%")],
        *[pytest.param(P + text, 0.0, id=text) for text in ("10:30", "72 or 73", "x + 72", "none", "2024-01-01")],
    ],
)
def test_final_answer_line_when_the_answer_goes_on_then_no_bonus(answer, score):
    assert FinalAnswerLine().score(answer) == score


def test_final_answer_when_it_runs_away_then_the_number_counts_and_the_form_does_not():
    assert Format.final_answer().score(RUNAWAY, 72) == 1.0
    assert Format.final_answer().score(RUNAWAY, 99) == 0.0


def test_final_answer_when_all_is_right_then_one_and_a_half():
    rollout = Rollout.of_answer(f"work\n{P}15", 15)
    assert Format.final_answer()(rollout).reward == Format.final_answer(strict=True)(rollout).reward == 1.5
    assert Format.final_answer()(Rollout.of_answer(f"{P}15")).reward is None
    assert Format.final_answer(strict=True)(Rollout.of_answer(f"{P}15")).reward is None


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        pytest.param("<think>a</think><answer>b</answer>", 1.0, id="as-asked"),
        pytest.param("  <think>a</think>\n\n<answer>b</answer>\n", 1.0, id="spaces"),
        pytest.param("<think>a</think><answer>b</answer> and", 0.0, id="text-after"),
        pytest.param("so <think>a</think><answer>b</answer>", 0.0, id="text-before"),
        pytest.param("<think></think><answer>b</answer>", 0.0, id="empty"),
        pytest.param("<answer>b</answer><think>a</think>", 0.0, id="order"),
        pytest.param("<think>a</think><answer>b<answer>", 0.0, id="wrong-closing-tag"),
        pytest.param("<think>a</answer><answer>b</think>", 0.0, id="crossed"),
        pytest.param("<think>a<answer>b</answer></think>", 0.0, id="nested"),
        pytest.param("<think>a</think><think>a</think><answer>b</answer>", 0.0, id="twice"),
        pytest.param("", 0.0, id="empty-answer"),
        pytest.param("<think>use <answer> tags</think><answer>4</answer>", 1.0, id="mention"),
        pytest.param("<think>use <answer></answer> and </answer></think><answer>4</answer>", 1.0, id="mention-of-both"),
        pytest.param("<think>in <think> I think</think><answer>4</answer>", 1.0, id="mention-of-itself"),
        pytest.param("<think>a</think><answer>4</answer></s>", 1.0, id="end-of-turn"),
        pytest.param("<think><answer>5</answer></think><answer>4</answer>", 0.0, id="smuggled"),
        pytest.param("<think>use <answer>: <answer>5</answer></think><answer>4</answer>", 0.0, id="mentioned-smuggled"),
        pytest.param("<think>a</think><answer>4<answer>5</answer>", 0.0, id="second-answer-opened"),
        pytest.param("<think>a</think><answer>4</answer><answer>5</answer>", 0.0, id="second-answer"),
        pytest.param("<think>a</think><answer>4 <think>b</think></answer>", 0.0, id="thought-in-answer"),
    ],
)
def test_tags_when_in_order_once_and_filled_then_one(answer, score):
    assert Format.tags("think", "answer").score(answer) == score


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a b",), ("<a>",)], ids=repr)
def test_tags_when_names_cannot_work_then_configuration_error(names):
    with pytest.raises(ConfigurationError):
        Tags(names)


def test_format_when_the_whole_answer_matches_then_one():
    reward = Format(r"yes|no")
    assert [reward.score(text) for text in ("yes", " no\n", "yes and no")] == [1.0, 1.0, 0.0]
    with pytest.raises(ConfigurationError, match="regular expression"):
        Format("(")


@given(st.text())
def test_formats_when_given_any_text_then_zero_or_one(text):
    rollout = Rollout.of_answer(text, 1)
    for strict in (True, False):
        assert set(parts(Format.final_answer(strict=strict)(rollout))) <= {0.0, 1.0}
    assert Format.tags("a").score(f"<a>{text}</a>") in (0.0, 1.0)
