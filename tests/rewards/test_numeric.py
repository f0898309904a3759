"""ExactNumber and FinQA, with the published functions' results beside ours: each row says why it is as it is."""

import itertools
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import ExactNumber, FinQA, finqa, gsm8k

# answer, published extraction is right for 72, ours, why
GSM8K_TABLE = [
    pytest.param("#### 72", 72, 1, 1, "matched", id="plain"),
    pytest.param("**#### 72**", 72, 1, 1, "matched", id="bold"),
    pytest.param("#### 72 apples", 72, 1, 1, "matched: a unit", id="unit"),
    pytest.param("#### 72.", 72, 0, 1, "fixed: the full stop ends the sentence", id="full-stop"),
    pytest.param("#### 72.0", 72, 0, 1, "fixed: numbers are compared, not strings", id="decimal-zero"),
    pytest.param("####72", 72, 0, 1, "fixed: a space changes nothing", id="no-space"),
    pytest.param("####  72", 72, 0, 1, "fixed: a space changes nothing", id="two-spaces"),
    pytest.param("#### $72", 72, 0, 1, "fixed: a currency", id="currency"),
    pytest.param("#### 1,234", 1234, 1, 1, "matched", id="comma"),
    pytest.param("#### 72" + " and so on" * 40, 72, 0, 1, "fixed: where it stands changes nothing", id="far-from-end"),
    pytest.param("#### 10 then #### 20", 20, 1, 1, "matched: the last one", id="last-wins"),
    pytest.param("#### 10 then #### 20", 10, 0, 0, "matched: the last one", id="first-loses"),
    pytest.param("#### ,", 72, 0, 0, "matched: no number", id="comma-only"),
]


@pytest.mark.parametrize(("answer", "gold", "published", "ours", "reason"), GSM8K_TABLE)
def test_gsm8k_when_the_published_rule_was_observed_then_matched_or_fixed(answer, gold, published, ours, reason):
    assert gsm8k.score(answer, gold) == ours
    assert (published == ours) == reason.startswith("matched")


# Formulas with one number in them, which is not what they are worth.
NO_NUMBERS = [r"\sqrt{72}", r"\sqrt[72]{x}", r"72\pi", r"72\sqrt{2}", r"\frac{72}{x}", r"\frac{\pi}{72}", r"\pm 72"]
NO_NUMBERS += ["x+72", "72_8", r"\log 72", r"\binom{72}{x}", "\u221a72", "\u00b172"]


@pytest.mark.parametrize("gold", [None, "", " ", {}, {"text": ""}, [], True, math.nan, math.inf, "no number", "####"])
def test_gsm8k_when_there_is_no_gold_then_it_cannot_be_judged(gold):
    """The published handler gives 1.0 for `#### ,` when the reference is missing."""
    assert gsm8k.score("#### ,", gold) is None
    assert gsm8k.score("#### 72", gold) is None


@pytest.mark.parametrize("gold", NO_NUMBERS)
def test_exact_number_when_the_gold_is_a_formula_then_it_cannot_be_judged(gold):
    assert gsm8k.score("#### 72", gold) is None


@pytest.mark.parametrize(
    "gold",
    [
        72,
        72.0,
        Decimal("72"),
        Fraction(72),
        "72",
        "$72",
        "72 apples",
        "48 + 24 = 72\n#### 72",
        "A: 72",
        {"final_answer": 72},
        {"answer": "72"},
        {"text": "so\n#### 72"},
    ],
)
def test_gsm8k_when_gold_has_any_of_its_shapes_then_it_is_understood(gold):
    """Gold 0 counted as missing, and an integer never equalled the extracted string, in the published handlers."""
    assert gsm8k.score("#### 72", gold) == 1.0
    assert gsm8k.score("#### 73", gold) == 0.0


def test_exact_number_when_gold_is_a_number_of_numpy_then_it_is_one():
    """What a row of a data frame or of a parquet file holds."""
    numpy = pytest.importorskip("numpy")
    assert gsm8k.score("#### 72", numpy.int64(72)) == gsm8k.score("#### 0.1", numpy.float32(0.1)) == 1.0
    assert finqa.score("ANSWER: 9.0e18", numpy.int64(9 * 10**18)) == 1.0
    assert gsm8k.score("#### 1", numpy.float64("nan")) is gsm8k.score("#### 1", numpy.bool_(True)) is None


def test_gsm8k_when_gold_is_zero_then_zero_is_right():
    assert gsm8k.score("#### 0", 0) == 1.0
    assert gsm8k.score("#### ,", 0) == 0.0


# fmt: off
RIGHT = [
    ("#### \N{FULLWIDTH DIGIT SEVEN}\N{FULLWIDTH DIGIT TWO}", 72), ("it is 72 I think", 72), ("\\boxed{72}", 72),
    ("$\\boxed{\\frac{5}{8}}$", 0.625), ("\\boxed{-\\frac{1}{2}}", -0.5), ("$\\boxed{\\$1{,}234}$", 1234),
    ("\\boxed{72\\text{ apples}}", 72), ("The answer is **72**.", 72), ("Final answer: 72", 72),
    ("The answer is:\n\n72", 72), ("so\nA: 72", 72), ("#### The final answer is 72", 72), ("#### -15", -15),
    ("#### \N{MINUS SIGN}15", -15), ("#### - 5", -5), ("#### -$5", -5), ("#### $-5", -5), ("#### (5)", -5),
    ("#### ($1,234.50)", "-1234.5"), ("The answer is five (5)", 5), ("#### .5", 0.5), ("#### 5/8", 0.625),
    ("#### half a cup", 0.5), ("#### half a million", 500_000), ("#### 1_250", 1250),
    ("#### 7 \xd7 10\u207b\xb2", 0.07),
    ("#### 1 1/2", 1.5), ("5/8", 0.625), ("#### 25%", 25), ("#### 1.2 million", 1_200_000), ("#### 1e5", 100_000),
    ("#### 1,00,000", 100_000), ("#### 1\N{NO-BREAK SPACE}234", 1234), ("#### 48 + 24 = 72", 72),
    ("#### 3 x 4 = 12", 12), ("#### x = 5", 5), ("#### 72 (since 8*9=72, not 70)", 72), ("#### 10, since 4 + 6", 10),
    ("72", 72), ("$72.", 72), ("72 apples", 72), ("#### 72\n\nQuestion: and now?\n#### 99", 72),
    ("#### 72\nQ: and now?\nA: 99", 72), ("#### 72<|im_end|><|im_start|>user\n#### 99", 72),
    ("Question: 1 + 1?\nThe answer is 2", 2), ("**Final Answer**: 72", 72), ("The answer is \\(72\\) (48 + 24).", 72),
    ("**Answer** : **$72**", 72), ("#### (12.5%)", -12.5), ("#### $(1,234)", -1234),
    ("#### ($1.2 million)", -1_200_000), ("#### \N{VULGAR FRACTION ONE HALF}", "1/2"),
    ("#### -2\N{VULGAR FRACTION THREE QUARTERS}", "-2.75"), ("#### 5 x 10^2", 500),
    ("\\boxed{1.5 \\times 10^{-3}}", "0.0015"), ("\\boxed{\\left(\\frac{1}{2}\\right)}", 0.5),
    ("\\boxed{\\sqrt{144} = 12}", 12),
]
# fmt: on


@pytest.mark.parametrize(("answer", "gold"), RIGHT)
def test_exact_number_when_the_number_is_written_in_any_way_then_right(answer, gold):
    assert gsm8k.score(answer, gold) == 1.0


# fmt: off
WRONG = [
    ("#### -15", 15), ("#### 10:30", 10), ("#### 5/8", 5), ("#### 1/0", 1), ("#### 1-2", 1), ("#### 1-2", 2),
    ("#### 5 - 3", 5), ("#### 48+24", 48), ("#### 5*3", 5), ("#### 2^8", 2), ("#### 2**8", 2), ("#### 2**8", 28),
    ("#### 7\N{SUPERSCRIPT TWO}", 7), ("#### 7\u0662", 7), ("#### 1e999999999", 1), ("#### 1.2.3", 1.2),
    ("#### 1,23", 1), ("#### 1 234", 1), ("#### 25%", 0.25), ("#### \u0667\u0662", 72),
    ("it is 72, but there were 73", 72), ("there were 70\nit is 72", 72), ("#### ", 72), ("", 72), ("#### nan", 72),
    ("#### 1e999999", 72), ("#### 71\n\nQuestion: and now?\n#### 72", 72), ("#### (12.5%)", 12.5),
    ("#### $(1,234)", 1234), ("#### 72_000", 72), ("#### sqrt(72)", 72), ("\\boxed{x^{72}}", 72),
    *((f"\\boxed{{{formula}}}", 72) for formula in NO_NUMBERS),
]
# fmt: on


@pytest.mark.parametrize(("answer", "gold"), WRONG)
def test_exact_number_when_it_is_another_number_or_none_then_wrong(answer, gold):
    assert gsm8k.score(answer, gold) == 0.0


def test_exact_number_when_anywhere_then_the_last_number_counts():
    assert ExactNumber(anywhere=True).score("first 71, then it is 72 I think", 72) == 1.0
    assert ExactNumber(anywhere=True).score("no number", 72) == 0.0


def test_exact_number_when_given_a_tolerance_then_it_is_exact_at_its_border():
    reward = ExactNumber(tolerance=0.1)
    assert reward.score("#### 1.1", 1) == 1.0
    assert reward.score("#### 1.1000001", 1) == 0.0
    with pytest.raises(ConfigurationError):
        ExactNumber(tolerance=-1)


@given(st.integers(-(10**24), 10**24), st.integers(0, 6))
def test_exact_number_when_any_number_is_written_in_our_ways_then_right(value, decimals):
    number = Fraction(value, 10**decimals)
    shown = f"{Decimal(value).scaleb(-decimals):,f}"
    for text in (f"#### {shown}", f"The answer is ${shown}.", f"\\boxed{{{shown}}}", f"A: {shown} apples"):
        assert gsm8k.score(text, number) == 1.0
        assert gsm8k.score(text, number + Fraction(1, 10**9)) == 0.0


BEGINNINGS = [
    "#### ",
    "So the final answer is: ",
    "A: ",
    "**Answer:** ",
    "### Answer\n\n",
    "Step 2: 7 * 2 = 14\n\nThe answer is ",
]
ENDINGS = [
    "",
    ".",
    "!",
    " apples.",
    " dollars per week",
    ", because 4 + 5 is 9",
    " (4 + 5)",
    "\n\nQuestion: 4?\n#### 5",
]
ENDINGS += ["<|im_end|>", "</s>", " since there are 7 days in 2 weeks."]
FORMS = [
    "{s}{n}",
    "{s}${n}",
    "{s}{n}.00",
    "{s}{n}%",
    "**{s}{n}**",
    "${s}{n}$",
    "{s}\\${n}",
    "\\text{{{s}{n}}}",
    "x = {s}{n}",
]
FORMS += ["{s}\N{EURO SIGN}{n}", "{s}{n} \N{EURO SIGN}", "{s}{n}/1", "\\({s}{n}\\)", "\\boxed{{{s}{n}}}"]


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_exact_number_when_beginning_form_and_ending_are_combined_then_right_and_no_other_number(beginning):
    for value, ending, form in itertools.product((12, -1234), ENDINGS, FORMS):
        answer = beginning + form.format(s="-" if value < 0 else "", n=f"{abs(value):,}") + ending
        assert gsm8k.score(answer, value) == 1.0, answer
        assert not any(gsm8k.score(answer, other) for other in (-value, 4, 5, 9, 7, 2, 14)), answer


@given(st.text(max_size=300), st.sampled_from(["", "#### ", "\\boxed{", "answer is ", "ANSWER: "]))
def test_numeric_rewards_when_given_any_text_then_one_of_their_values(text, marker):
    assert gsm8k.score(marker + text, 72) in (0.0, 1.0)
    assert finqa.score(marker + text, "72%") in (0.0, 0.95, 1.0)
    assert gsm8k.score("#### 72", marker + text) in (None, 0.0, 1.0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "9" * 10**6,
        "#### " * 200_000,
        "\n" * 10**6,
        "(" * 10**6,
        "answer is " * 100_000,
        "A:\n" * 300_000,
        "9," * 500_000,
    ],
    ids=lambda text: repr(text[:10]),
)
def test_numeric_rewards_when_the_answer_is_enormous_then_quick_and_wrong(text):
    assert gsm8k.score(text, 72) == finqa.score(text, 72) == 0.0


M, F = "matched", "fixed"
# answer, gold, published, ours, why
FINQA_TABLE = [
    pytest.param("25", 25, 1, 1, M, id="same"),
    pytest.param("25%", 25, 1, 1, "matched: the sign is often left out of the gold", id="percent"),
    pytest.param("0.25", 25, 1, 0, "fixed: nothing is marked as a percentage", id="0.25-for-25"),
    pytest.param("25", 0.25, 1, 0, "fixed: nothing is marked as a percentage", id="25-for-0.25"),
    pytest.param("25.5", 25, 0.95, 0, "fixed: 2 % off", id="25.5"),
    pytest.param("25.89", 25, 0.95, 0, "fixed: 4 % off", id="25.89"),
    pytest.param("25.9", 25, 0.95, 0, "fixed: passed by float subtraction", id="25.9"),
    pytest.param("26", 25, 0, 0, M, id="26"),
    pytest.param("2.85", 2, 0.95, 0, "fixed: 42 % off", id="2.85"),
    pytest.param("0.01", 1, 1, 0, "fixed: a factor of 100 for free", id="hundredth"),
    pytest.param("100", 1, 1, 0, "fixed: a factor of 100 for free", id="hundredfold"),
    pytest.param("1.09", 1, 0.95, 0, "fixed: 9 % off", id="1.09"),
    pytest.param("1.1", 1, 0, 0, M, id="1.1"),
    pytest.param("1009", 1000, 0.95, 0.95, "matched: less than 1 %", id="1009"),
    pytest.param("1010", 1000, 0, 0, "matched: 1 % is not less than 1 %", id="1010"),
    pytest.param("0.09", 0, 0.95, 0, "fixed: a part of nothing is nothing", id="0.09"),
    pytest.param("0.004", "0.003", 1, 0, "fixed: rounded to fewer digits than the gold has", id="0.004"),
]


@pytest.mark.parametrize(("answer", "gold", "published", "ours", "reason"), FINQA_TABLE)
def test_finqa_when_the_published_score_was_observed_then_matched_or_fixed(answer, gold, published, ours, reason):
    assert finqa.score(answer, gold) == ours
    assert (published == ours) == reason.startswith(M)


# answer, what the published function extracts, gold (what it says)
FINQA_EXTRACTION = [
    pytest.param("-$5", 5, -5, id="negative-currency"),
    pytest.param("(5)", 5, -5, id="accounting"),
    pytest.param("- 5", 5, -5, id="negative-space"),
    pytest.param("ANSWER: 1.2 million", 1.2, 1_200_000, id="scale-word"),
    pytest.param("ANSWER: $1.2 million", 1_200_000, 1_200_000, id="scale-word-currency"),
    pytest.param("$5 broke", 5e9, 5, id="word-that-begins-with-b"),
    pytest.param("$3 many", 3e6, 3, id="word-that-begins-with-m"),
    pytest.param("$1234567", 123, 1_234_567, id="long-amount"),
    pytest.param("1e5", 5, 100_000, id="exponent"),
    pytest.param("$1.2m", 1_200_000, 1_200_000, id="scale-letter"),
    pytest.param("$1.2 bn", 1.2e9, 1.2e9, id="scale-letters-apart"),
    pytest.param("ANSWER: [25%]", 25, "25%", id="brackets"),
]


@pytest.mark.parametrize(("answer", "published", "gold"), FINQA_EXTRACTION)
def test_finqa_when_the_published_extraction_was_observed_then_ours_reads_what_it_says(answer, published, gold):
    assert finqa.score(answer, gold) == 1.0
    if published != gold and gold != "25%":
        assert finqa.score(answer, published) == 0.0


@pytest.mark.parametrize("answer", ["ANSWER: 1-2", "the range is 1-2"])
def test_finqa_when_a_range_is_given_then_it_is_no_number(answer):
    """The published function reads -2."""
    assert finqa.score(answer, -2) == finqa.score(answer, 2) == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("ANSWER: yes", "yes", 1.0),
        ("ANSWER: **yes**", "yes", 1.0),
        ("ANSWER: [Yes], it did", "yes", 1.0),
        ("ANSWER: no", "yes", 0.0),
        ("ANSWER: yesterday", "yes", 0.0),
        ("yes", "YES ", 1.0),
        ("yes", "YES.", 1.0),
        ("It is so.", "yes", 0.0),
        ("ANSWER: yes", {"answer": "yes"}, 1.0),
    ],
)
def test_finqa_when_the_gold_is_a_word_then_words_are_compared(answer, gold, score):
    assert finqa.score(answer, gold) == score


@pytest.mark.parametrize(
    ("answer", "gold", "marked", "either"),
    [("25%", 0.25, 1, 1), ("0.25", "25%", 1, 1), ("25%", "25%", 1, 1), ("0.25%", "25%", 0, 1), ("0.25", 25, 0, 1)],
)
def test_finqa_when_percent_is_marked_or_not_then_the_factor_is_forgiven_as_asked(answer, gold, marked, either):
    assert finqa.score(answer, gold) == marked
    assert FinQA(percent="either").score(answer, gold) == either


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("ANSWER: In 2019, $1.2 million", "1.2 million", 1.0),
        ("ANSWER: for fiscal year 2019, 72", "72", 1.0),
        ("ANSWER: In 2019, 2020 and 2021", "2020", 0.0),
        ("ANSWER: In 2019", "2019", 1.0),
        ("ANSWER: 2019, 72", "72", 0.0),
        ("ANSWER: 5.2", "5.2 million", 1.0),  # out of a table in millions
        ("ANSWER: $5.2", "5.2 million", 0.0),
        ("ANSWER: 5.2 thousand", "5.2 million", 0.0),
    ],
)
def test_finqa_when_a_year_or_no_scale_is_given_then_the_figure_counts(answer, gold, score):
    assert FinQA().score(answer, gold) == score


def test_finqa_when_tolerances_are_given_then_they_are_used():
    assert FinQA(absolute_tolerance=0.9).score("25.89", 25) == 0.95
    assert FinQA(absolute_tolerance=0.9).score("25.9", 25) == 0.0
    assert FinQA(relative_tolerance=0).score("1009", 1000) == 0.0
    assert FinQA(close=0.5).score("1009", 1000) == 0.5
    assert FinQA(anywhere=True).score("the share rose by 5 to 1009", 1000) == 0.95
    assert finqa.score("the share rose by 5 to 1009", 1000) == 0.0
    assert finqa.score("5", None) is None
    with pytest.raises(ConfigurationError):
        FinQA(relative_tolerance=-1)
    with pytest.raises(ConfigurationError):
        FinQA(percent="maybe")


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        pytest.param("0.0001", 0, 0.0, id="next-to-nothing"),
        pytest.param("0.0", 0, 1.0, id="nothing"),
        pytest.param("0", 0.004, 0.0, id="nothing-for-something"),
        pytest.param("0.004", 0.003, 0.0, id="thousandths"),
        pytest.param("0.0031", 0.003, 1.0, id="rounded-to-thousandths"),
        pytest.param("2.854", 2.85, 1.0, id="rounded-to-hundredths"),
        pytest.param("1e-05", 1e-05, 1.0, id="exponent"),
        pytest.param("2e-05", 1e-05, 0.0, id="other-exponent"),
    ],
)
def test_finqa_when_the_gold_is_a_number_then_it_has_the_decimals_that_it_is_written_with(answer, gold, score):
    assert finqa.score(f"ANSWER: {answer}", gold) == finqa.score(f"ANSWER: {answer}", str(gold)) == score


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0.9, 1.1), st.integers(0, 6))
def test_finqa_when_the_gold_is_text_or_float_then_the_same_score(gold, factor, decimals):
    for text in (repr(gold), repr(gold * factor), f"{gold:.{decimals}f}", "0", "0.0001"):
        answer = f"ANSWER: {text}"
        assert finqa.score(answer, gold) == finqa.score(answer, repr(gold)) == finqa.score(answer, Decimal(repr(gold)))
