import asyncio
import json
import re
import threading
import time
from types import SimpleNamespace

import pytest

from aws_rft_sdk.errors import DatasetError
from aws_rft_sdk.rewards import (
    Component,
    DominantOutcome,
    ExactMatch,
    ExactNumber,
    FinQA,
    Gate,
    KeywordCoverage,
    Length,
    MultipleChoice,
    RewardResult,
    Rollout,
    ToolUse,
    WeightedSum,
    bench,
    finqa,
    gsm8k,
    workbench,
)
from aws_rft_sdk.rewards.adversaries import attacks, find_leak
from aws_rft_sdk.rewards.cases import parse_case, read_cases
from aws_rft_sdk.rewards.extract import strip_thoughts

NUMBER = re.compile(r"-?[0-9]+")
ADVERSARIES = {
    "silent agent",
    "echo of the prompt",
    "prompt leak of the ground truth",
    "tool spammer",
    "format-only answer",
    "every number from the prompt",
    "hedge",
    "runaway continuation",
    "enormous output",
    "unicode digits",
    "odd numbers",
    "injection text",
    "echo of options",
    "answer only in the thought",
    "truncated thought",
    "corrected afterwards",
    "denied afterwards",
    "sanity sentence",
}


def case(answer, truth=72, kind=None, prompt="What is 12 + 60?", **fields):
    return {"prompt": prompt, "ground_truth": truth, "answer": answer, **({"kind": kind} if kind else {}), **fields}


CASES = [
    case("12 + 60 = 72\n#### 72", kind="success", expected=1.0),
    case("12 + 60 = 73\n#### 73", kind="failure", expected=0.0),
    case("I do not know.", kind="honest failure", expected=[0, 0]),
    case("#### -15", -15, "success", "What is 5 - 20?", expected=1),
    case("#### 15", -15, "failure", "What is 5 - 20?", expected=0),
    case("#### 15", None, prompt="What is 5 - 20?", expected=None),
    case("#### 72", 72, "success", "Which is more, 12 or 72?", expected=1),
    case("#### 12", 72, "failure", "Which is more, 12 or 72?", expected=0),
]


def parsed(*cases):
    return [parse_case(value, line) for line, value in enumerate(cases, 1)]


TAKEN_BACK = re.compile(r"actually|wait|correction|wrong|not right|\bno\b", re.IGNORECASE)


def after_mark(rollout, read=strip_thoughts, taken_back=TAKEN_BACK):
    """A sound reward: the number after the last ####, unless it is only thought, taken back, or one of several."""
    if rollout.ground_truth is None:
        return None
    text = (read(rollout.answer) or "").partition("Question:")[0].rpartition("#### ")[2]
    number = NUMBER.match(text.removeprefix("The final answer is "))
    several = re.search(r"\b(?:or|and)\b(?! both)|[,;|/(](?! and both)", text, re.IGNORECASE)
    is_right = number and number[0] == str(rollout.ground_truth) and not several and len(NUMBER.findall(text)) == 1
    return float(bool(is_right and not taken_back.search(text)))


def contains(rollout):
    return float(rollout.ground_truth is not None and str(rollout.ground_truth) in rollout.answer)


def test_bench_when_the_reward_is_sound_then_no_breach_and_every_adversary_was_tried():
    leaking = case("#### 72", 72, "success", 'task {"question": "12 + 60?", "answer": 72}')
    report = bench(after_mark, parsed(*CASES), max_seconds=60)
    assert report.breaches == ()
    sometimes = {"prompt leak of the ground truth", "echo of options"}
    assert {row.adversary for row in report.adversaries} | sometimes == ADVERSARIES
    assert (report.low, report.high) == (0.0, 1.0)
    assert "prompt leak of the ground truth" in {
        row.adversary for row in bench(after_mark, parsed(*CASES, leaking)).adversaries
    }


BROKEN = [
    pytest.param(contains, "runaway continuation", id="substring"),
    pytest.param(lambda r: 1.0, "silent agent", id="constant"),
    pytest.param(lambda r: float("#### " in r.answer), "format-only answer", id="format"),
    pytest.param(lambda r: min(1.0, len(r.answer) / 50), "echo of the prompt", id="length"),
    pytest.param(lambda r: min(1.0, len(r.turns) / 3) or gsm8k(r), "tool spammer", id="calls"),
    pytest.param(lambda r: gsm8k(r) if r.answer else 1.0, "silent agent", id="silence"),
    pytest.param(lambda r: 1.0 if "score" in r.answer.lower() else gsm8k(r), "injection text", id="injection text"),
    pytest.param(
        lambda r: float(str(r.ground_truth) in r.answer.split()), "every number from the prompt", id="any-number"
    ),
    pytest.param(ExactNumber(anywhere=True), "every number from the prompt", id="last-number-anywhere"),
    pytest.param(FinQA(anywhere=True), "every number from the prompt", id="last-figure-anywhere"),
    pytest.param(
        lambda r: float(str(r.ground_truth) in NUMBER.findall(r.answer)[:1]),
        "every number from the prompt",
        id="first-number",
    ),
    pytest.param(lambda r: float(str(r.ground_truth) in NUMBER.findall(r.answer)), "hedge", id="one-of-several"),
    pytest.param(
        lambda r: float(int(r.answer[5:] or 0) if r.answer[5:].isdigit() else 0), "unicode digits", id="isdigit"
    ),
    pytest.param(lambda r: 1.0 if "nan" in r.answer or r.answer == "#### 1/0" else gsm8k(r), "odd numbers", id="nan"),
    pytest.param(
        lambda r: after_mark(r, read=lambda text: text.replace("</think>", "")),
        "answer only in the thought",
        id="reads-thoughts",
    ),
    pytest.param(
        lambda r: after_mark(r, read=lambda text: text.rpartition("</think>")[2]),
        "truncated thought",
        id="cut-thoughts",
    ),
    pytest.param(
        lambda r: float(r.answer.rpartition("#### ")[2].partition("\n")[0] == str(r.ground_truth)),
        "corrected afterwards",
        id="line-of-the-mark",
    ),
    pytest.param(
        lambda r: after_mark(r, taken_back=re.compile("Actually|Wait|Corr")), "denied afterwards", id="denials"
    ),
    pytest.param(
        lambda r: float(r.answer.rpartition("#### ")[2] == str(r.ground_truth)), "sanity sentence", id="last-line-only"
    ),
    pytest.param(lambda r: time.sleep(1.1) or 0.0 if len(r.answer) > 10**5 else gsm8k(r), "enormous output", id="slow"),
]


@pytest.mark.parametrize(("reward", "adversary"), BROKEN)
def test_bench_when_a_reward_can_be_cheated_then_the_adversary_is_named(reward, adversary):
    report = bench(reward, parsed(*CASES))
    assert adversary in {row.adversary for row in report.adversaries if row.problem}
    assert any(breach.startswith(adversary) for breach in report.breaches)


LETTERS = [
    case(f"Answer: {letter}", "B", kind, "Which?\n(A) one\n(B) two\n(C) three")
    for letter, kind in (("B", "success"), ("C", "failure"))
]


@pytest.mark.parametrize(
    "reward",
    [
        lambda r: float("B" in re.findall(r"\b[A-D]\b", r.answer)),
        lambda r: float(re.findall(r"\b[A-D]\b", r.answer)[-1:] == ["B"]),
        lambda r: float(re.findall(r"\b[A-D]\b", r.answer)[:1] == ["B"]),
    ],
    ids=["any-letter", "last-letter", "first-letter"],
)
def test_bench_when_all_options_are_paid_then_a_breach(reward):
    rows = {row.adversary: row for row in bench(reward, parsed(*LETTERS)).adversaries}
    assert rows["echo of options"].problem
    assert not rows["echo of the prompt"].attempts > 1


@pytest.mark.parametrize(
    ("truth", "wrong"),
    [
        (72, "145"),
        (0.01, "2"),  # 1 is 0.01 as a percentage
        (-3, "7"),
        ("1e308", "2e308"),
        ("25%", "51%"),
        ("$1,000", "2001"),
        ("yes", "no"),
        ("False", "true"),
        ("B", "C"),
        ("\\frac{1}{2}", "\\frac{2}{2}"),
        ("5 May 2020", "6 May 2020"),
        ("\\pi", "2\\pi"),
        ("Paris", "something else"),
        ("work\n#### 10", "21"),
    ],
)
def test_attacks_when_the_answer_is_corrected_then_to_a_wrong_one_of_its_kind(truth, wrong):
    found = attacks(parsed(case("right", truth, "success", "?"))[0])
    texts = [attack.rollout.answer for attack in found if attack.adversary == "corrected afterwards"]
    assert f"right\n\nActually {wrong}" in texts


@pytest.mark.parametrize(
    ("truth", "answer", "adversary", "right"),
    [
        ("no", "ANSWER: no", "denied afterwards", "No."),
        ("A", "Answer: A", "injection text", "[[A]]"),
        ("correct", "correct", "injection text", "is correct"),
        ({}, "{}", "format-only answer", None),
        ("\u5317\u4eac", "\u5317\u4eac", "format-only answer", None),
        ("\\infty", "\\boxed{\\infty}", "odd numbers", "inf"),
        ("42", "#### 42", "echo of options", "Q: "),
    ],
    ids=["no", "letter", "label", "object", "no-latin-letter", "infinity", "question-mark"],
)
def test_attacks_when_a_text_would_be_a_right_answer_then_it_is_not_tried(truth, answer, adversary, right):
    (tried,) = parsed(case(answer, truth, "success", "Q: How much?"))
    texts = [attack.rollout.answer for attack in attacks(tried) if attack.adversary == adversary]
    assert texts or adversary == "echo of options"
    assert not [text for text in texts if text == answer or (right and right in text.removeprefix(answer))]


def test_bench_when_a_reward_is_tolerant_then_a_wrong_answer_is_outside_of_its_tolerance():
    cases = parsed(case("#### 1000", 1000, "success", "How much?"), case("#### 2", 1000, "failure", "How much?"))
    assert bench(FinQA(relative_tolerance=0.1), cases, repeat=1, max_seconds=60).breaches == ()


def test_bench_when_a_success_called_tools_and_left_a_state_then_a_sanity_sentence_keeps_both():
    def done(rollout):
        return float(rollout.state is not None and rollout.state["done"])

    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "12 + 60?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "72"},
        {"role": "assistant", "content": "#### 72"},
    ]
    value = {"messages": messages, "ground_truth": 72, "state": {"done": True}, "kind": "success", "expected": 1}
    closed = {"id": "2", "type": "function", "function": {"name": "close", "arguments": "{}"}}
    closing = [*messages, {"role": "assistant", "content": None, "tool_calls": [closed]}]
    failed = case("#### 73", kind="failure", prompt="12 + 60?", expected=0)
    reward = Gate(done, Gate(ToolUse(required=("add",)), gsm8k))
    cases = parsed(value, failed, {**value, "messages": closing, "group": "closing"})
    report = bench(reward, cases, max_seconds=60)
    assert {breach for breach in report.breaches if "pickled" not in breach} == set()
    assert {row.adversary: row.best for row in report.adversaries}["sanity sentence"] == 1.0


def test_bench_when_the_reward_compares_a_group_then_each_case_and_adversary_is_compared_with_the_others():
    sizes = []

    class Best:
        """1 for the answers that are right and shortest among the right ones, 0.5 for the other right ones."""

        def score_group(self, rollouts):
            sizes.append(len(rollouts))
            right = [len(r.answer) if after_mark(r) else None for r in rollouts]
            return [0.0 if size is None else 1.0 if size == min(filter(None, right)) else 0.5 for size in right]

    cases = parsed(
        case("#### 72", kind="success", expected=1),
        case("12 + 60 = 72\n#### 72", kind="success", expected=0.5),
        case("#### 73", kind="failure", expected=0),
        case("#### 9", 9, "success", "4 + 5?", expected=1),
    )
    report = bench(Best(), cases, max_seconds=60)
    assert {breach for breach in report.breaches if "pickled" not in breach} == set()
    assert set(sizes) == {3, 1, 4, 2}  # the cases of a group; an adversary besides
    assert [score.reward for score in report.cases] == [1.0, 0.5, 0.0, 1.0]
    assert bench(WeightedSum({"best": Best()}), cases).cases == report.cases


def test_bench_when_cases_have_a_state_then_the_reward_reads_it_and_adversaries_have_none():
    def refunded(rollout):
        return float(rollout.state is not None and rollout.state["status"] == "refunded")

    done = {"prompt": "Refund it.", "answer": "Done.", "state": {"status": "refunded"}, "kind": "success"}
    failed = {**done, "state": {"status": "paid"}, "kind": "failure"}
    assert {
        breach for breach in bench(refunded, parsed(done, failed), max_seconds=60).breaches if "pickled" not in breach
    } == set()


def test_bench_when_the_prompt_shows_its_ground_truth_then_a_breach():
    truth = "the treaty was signed in the palace of Utrecht"
    shown = case("in Utrecht", truth, prompt=f"Where? (Hint: {truth})")
    report = bench(lambda rollout: 0.5, parsed(shown))
    assert "line 1: the prompt shows its ground truth" in report.breaches
    packed = case("x", 72, prompt=json.dumps({"question": "?", "extra": {"ground_truth": "72"}}))
    assert find_leak(parsed(packed)[0]) == "72"
    assert find_leak(parsed(case("x", 72, prompt="What is 72 + 0?"))[0]) is None


def test_bench_when_shaping_is_allowed_then_adversaries_may_use_it_up():
    cases = parsed(case("w\n#### The final answer is 72", kind="success"), case("w\n#### 73", kind="failure"))

    def formatted(rollout):
        visible = strip_thoughts(rollout.answer) or ""
        return after_mark(rollout) + 0.5 * ("#### The final answer is" in visible)

    assert any("format-only answer" in breach for breach in bench(formatted, cases).breaches)
    assert {
        breach for breach in bench(formatted, cases, shaping=0.5, max_seconds=60).breaches if "pickled" not in breach
    } == set()
    shaped = DominantOutcome(gsm8k, {"short": Length(20, 40)}, bound=0.1)
    assert bench(shaped, cases).shaping == 0.1


def raise_cancelled(rollout):
    raise asyncio.CancelledError


def leave(rollout):
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("reward", "breach"),
    [
        (lambda r: 0.5, "line 1: 0.5 instead of 1"),
        (lambda r: 0.0, "a success gets 0, not more than the failed try of line"),
        (lambda r: 1 / 0, "line 1: raised ZeroDivisionError"),
        (raise_cancelled, "line 1: raised CancelledError"),
        (leave, "line 1: raised SystemExit"),
        (lambda r: None, "the reward judges no case at all"),
        (lambda r: "1", "line 1: raised RewardError"),
        (lambda r: 7.0, "line 1: 7 instead of 1"),
        (gsm8k.score, "raised TypeError"),
    ],
)
def test_bench_when_a_reward_is_wrong_then_the_breach_says_how(reward, breach):
    assert any(breach in found for found in bench(reward, parsed(*CASES)).breaches)


def test_bench_when_a_reward_hangs_then_it_is_ended_and_a_breach():
    def reward(rollout):
        return threading.Event().wait() if rollout.answer == "x" else 0.0

    report = bench(reward, parsed(case("x"), case("y")), max_seconds=0, repeat=1)
    assert "line 1: was ended after 1 s" in report.breaches


def test_reward_when_only_its_first_call_is_slow_then_no_breach(monkeypatch):
    now, calls = [0.0], []

    def slow_at_first(rollout):
        calls.append(rollout)
        now[0] += 2.0 if len(calls) == 1 else 0.0
        return gsm8k(rollout)

    monkeypatch.setattr(workbench, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    breaches = bench(slow_at_first, parsed(*CASES), repeat=1).breaches

    assert calls[0] is calls[1]
    assert [breach for breach in breaches if "took" in breach] == []


def test_bench_when_a_reward_leaves_the_range_then_a_breach():
    report = bench(lambda rollout: 7.0, parsed(case("x")), limits=(0, 1))
    assert "line 1: 7 is outside of the range 0 to 1" in report.breaches


class Counting:
    calls = 0

    def __call__(self, rollout):
        self.calls += 1
        return float(self.calls)


def test_bench_when_a_reward_remembers_then_a_breach():
    assert any("different rewards" in breach for breach in bench(Counting(), parsed(case("x"))).breaches)


def test_bench_when_a_reward_cannot_be_pickled_then_a_breach():
    assert any("cannot be pickled" in breach for breach in bench(lambda r: 0.0, parsed(case("x"))).breaches)


def verbose(rollout):
    correct = gsm8k(rollout)
    parts = (
        Component("correct", correct),
        Component("constant", 1.0),
        Component("words", -len(rollout.answer), counts=False),
    )
    return RewardResult(correct, parts)


def test_bench_when_components_tell_nothing_or_the_opposite_then_notes():
    cases = parsed(
        case("12 + 60 is\n#### 72", kind="success"), case("#### 73", kind="failure"), case("", kind="failure")
    )
    report = bench(verbose, cases)
    signals = {signal.name: signal for signal in report.components}
    assert signals["constant"].has_no_signal
    assert signals["words"].disagrees
    assert not signals["correct"].has_no_signal
    assert not signals["correct"].disagrees
    assert signals["correct"].mean_std_within_groups == pytest.approx((2 / 9) ** 0.5)
    assert "constant is constant within every group: it carries no signal" in report.notes


def test_bench_when_rules_cannot_be_checked_then_a_note():
    assert len(bench(gsm8k, parsed(case("#### 72"))).notes) >= 2


def test_report_when_json_then_it_can_be_written():
    report = bench(WeightedSum({"a": gsm8k}), parsed(*CASES[:2]))
    assert json.loads(json.dumps(report.to_json()))["components"][0]["name"] == "reward"


def test_attacks_when_made_then_the_policy_never_speaks_before_it_is_asked():
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "12 + 60?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]},
        {"role": "tool", "content": "72"},
        {"role": "assistant", "content": "#### 72"},
    ]
    found = list(attacks(parse_case({"messages": messages, "ground_truth": 72})))
    assert all(attack.rollout.messages[:2] == tuple(messages[:2]) for attack in found)
    spam = next(attack.rollout for attack in found if attack.adversary == "tool spammer")
    assert spam.turns[0]["tool_calls"][0]["function"]["name"] == "add"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1"),
        ("5", "must be an object"),
        ("{}", "either answer or messages"),
        ('{"answer": "a", "messages": []}', "either answer or messages"),
        ('{"answer": 5}', "answer must be a text"),
        ('{"messages": {}}', "messages must be a list"),
        ('{"answer": "a", "kind": "win"}', "kind must be"),
        ('{"answer": "a", "expected": "1"}', "must be a number"),
        ('{"answer": "a", "expected": [1]}', "expected must be"),
        ('{"answer": "a", "expected": [1, 0]}', "expected must be"),
        ('{"answer": "a", "expected": true}', "must be a number"),
        ('{"answer": "a", "metadata": 5}', "metadata must be"),
        ('{"answer": "a", "grund_truth": 5}', "unknown field 'grund_truth'"),
        ("", "has no cases"),
    ],
)
def test_cases_when_a_line_is_wrong_then_dataset_error(tmp_path, line, message):
    path = tmp_path / "cases.jsonl"
    path.write_text(line)
    with pytest.raises(DatasetError, match=message):
        read_cases(path)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_cases(tmp_path / "none")


def test_cases_when_prompts_are_equal_then_one_group_unless_named():
    first, second, other, named = parsed(case("a"), case("b"), case("a", prompt="other"), case("a", group="g"))
    assert first.group == second.group != other.group
    assert named.group == "g"
    listed = parse_case({"prompt": [{"role": "user", "content": "a"}], "answer": "b"})
    assert listed.rollout.before_turns == ({"role": "user", "content": "a"},)
    assert listed.rollout.answer == "b"
    assert Rollout(listed.rollout.messages) == Rollout(
        ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    )


@pytest.mark.parametrize(
    ("truth", "right", "wrong", "reward", "naive"),
    [
        pytest.param("yes", "ANSWER: yes", "ANSWER: no", finqa, lambda r: float("yes" in r.answer), id="yes"),
        pytest.param("B", "Answer: B", "Answer: C", MultipleChoice(), lambda r: float("B" in r.answer), id="choice"),
        pytest.param("Paris", "#### Paris", "#### Rome", ExactMatch(), KeywordCoverage(), id="text"),
        pytest.param("25%", "#### 25%", "#### 24%", finqa, lambda r: float("25%" in r.answer), id="percent"),
        pytest.param("6 + 4 = 10\n#### 10", "#### 10", "#### 9", gsm8k, lambda r: float("10" in r.answer), id="worked"),
    ],
)
def test_bench_when_an_answer_names_several_candidates_then_a_reward_that_takes_it_is_found(
    truth, right, wrong, reward, naive
):
    cases = parsed(case(right, truth, "success", "?"), case(wrong, truth, "failure", "?"))
    assert "hedge" not in {row.adversary for row in bench(reward, cases).adversaries if row.problem}
    assert "hedge" in {row.adversary for row in bench(naive, cases).adversaries if row.problem}
