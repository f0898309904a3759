"""An answer that names several candidates commits to none; one that explains itself is not punished for it."""

import pytest

from aws_rft_sdk.rewards import ExactMatch, ExactNumber, FinalAnswerLine, MultipleChoice, finqa, gsm8k

MARKERS = ("#### ", "The answer is ", "#### The final answer is ", "A: ", "")

# fmt: off
HEDGED_NUMBERS = [
    "72 or 73", "72 and 73", "72, 73", "72,73", "72 73", "72; 73; 74", "72 | 73", "72 & 73", "72..73",
    "72 / maybe 73", "72, or maybe 73", "72 and also 73", "72 as well as 73", "either 72 or 73", "72 (or 73)",
    "72 (73)", "72 (6 * 12) or 73", "72 (6 * 12), 73", "72 since 6 * 12, or maybe 73", "72. 73. 74.", "72. Or 73.",
    "72. It could also be 73.", "72 to 75", "72 \N{PLUS-MINUS SIGN} 1", "72 = 73", "x = 72 or x = 73",
    "**72** or **73**", "72or 73", "72 or73", "72\nor 73", "72\n73", "not 72",
]
# fmt: on


@pytest.mark.parametrize("hedge", HEDGED_NUMBERS)
def test_number_when_one_of_several_is_right_then_wrong(hedge):
    for marker in MARKERS:
        assert gsm8k.score(marker + hedge, 72) == gsm8k.score(marker + hedge, 73) == 0.0, marker
        assert finqa.score(f"ANSWER: {hedge}", 72) == 0.0
        assert FinalAnswerLine().score(f"#### The final answer is {hedge}") == 0.0


def test_number_when_in_hours_and_minutes_then_the_hours_are_not_the_answer():
    assert gsm8k.score("#### 3 hours 20 minutes", 3) == 0.0


@pytest.mark.parametrize("answer", [r"\boxed{73} or \boxed{72}", "#### 73 or #### 72", r"\boxed{73}, \boxed{72}"])
def test_number_when_two_markers_are_a_list_then_neither_counts(answer):
    """One after the other is another matter: the last one counts (`#### 10 then #### 20`)."""
    assert gsm8k.score(answer, 72) == gsm8k.score(answer, 73) == 0.0


SOLUTIONS_ON_ONE_LINE = [
    "A: There are 15 trees. Then there were 21 trees. So there must have been 21 - 15 = 6. The answer is 6.",
    "A: Leah had 32. Her sister had 9. 32 + 9 - 35 = 6. The answer is 6.",
    "A: He had 20, then 14, and the answer is 6.",
    r"A: It takes 20 - 14 = 6. \boxed{6}",
    "#### The answer is 6",
    "The answer to the question is **6**.",
    "So there are 9 - 3 left, and the answer should be 6.",
    "<answer>The answer is 6</answer>",
]


@pytest.mark.parametrize("answer", SOLUTIONS_ON_ONE_LINE)
def test_number_when_the_solution_stands_before_its_answer_on_one_line_then_right(answer):
    """The form of the usual chain-of-thought exemplars: "A: ... The answer is 6.", where A: is a marker as well."""
    assert gsm8k.score(answer, 6) == finqa.score(answer, 6) == 1.0
    assert gsm8k.score(answer, 15) == gsm8k.score(answer, 20) == 0.0


@pytest.mark.parametrize("text", ["12, 60, 72", "12 or 72", "it is 12 and 72", "3 hours 72 minutes", "12 60 72"])
def test_number_when_anywhere_then_the_last_of_a_list_is_no_answer(text):
    assert ExactNumber(anywhere=True).score(text, 72) == 0.0


# fmt: off
EXPLAINED_NUMBERS = [
    "72, since 48 + 24", "72 because 48 and 24 make 72", "72 (since 8*9=72, not 70)",
    "72 (48 in April and 24 in May)", "72 (6 dozen)", "72. She sells 9 eggs at $2 each.", "72 dollars for 3 apples",
    "72 miles per 2 hours", "72 of the 100 students", "72, not 73", "72 m2", "72 = 8 * 9", "72 or 72.0", "72.0 (72)",
    "72 or so", "72\nand so she has 5 left", "72\n\n1. First we add.", "72: 48 in April and 24 in May.",
    "72 clips; 48 in April and 24 in May", "72 - she sold 24 in May", "72 [48 + 24]", "72. 48 + 24 = 72.",
    "72, 24 x 3 = 72", "72, i.e. 6 dozen", "72, or equivalently 6 dozen", "72, since 48 plus 24 is 72",
    "72, because 144 can be divided by 2", "72 because she sold 48 and then another 24",
    "72 in total, but only 48 in April", "72, compared to 60 in 2018", "72 sold during 2019",
    "72\n\n#### Explanation\nHalf of 48 is 24.", "72. I hope this answer is correct, since 48 + 24.",
    "72\n\nSo my answer is sound.",
]
# fmt: on


@pytest.mark.parametrize("answer", EXPLAINED_NUMBERS)
def test_number_when_explained_then_right(answer):
    for marker in ("#### ", "The answer is "):
        assert gsm8k.score(marker + answer, 72) == 1.0, marker


def test_number_when_a_fraction_or_a_percentage_is_said_in_two_ways_then_right():
    assert gsm8k.score("#### 3/4", "3/4") == gsm8k.score("#### 3/4 or 0.75", 0.75) == 1.0
    assert finqa.score("ANSWER: 25% (0.25)", "25%") == 1.0


@pytest.mark.parametrize("gold", ["5 or 6", "5 and 6", "5; 6", "5 | 6", "#### 5 or 6", {"answer": "5 or 6"}])
def test_number_when_the_ground_truth_is_hedged_then_it_cannot_be_judged(gold):
    assert gsm8k.score("#### 5", gold) is None
    assert finqa.score("ANSWER: 5", gold) is None


HEDGED_WORDS = ["yes and no", "yes or no", "yes, no", "yes/no", "Yes. No.", "yes\nno", "yes, but no", "yes (or no)"]
HEDGED_WORDS += ["yes and no at once", "yes | no", "yes, maybe no", "yes; no", "yes, it did, or no", "no and yes"]


@pytest.mark.parametrize("hedge", HEDGED_WORDS)
def test_finqa_when_both_words_are_said_then_wrong(hedge):
    for text in (hedge, f"ANSWER: {hedge}"):
        assert finqa.score(text, "yes") == finqa.score(text, "no") == 0.0
    assert finqa.score(r"\boxed{yes} or \boxed{no}", "no") == 0.0


@pytest.mark.parametrize("answer", ["Yes, no change was seen", "yes. It grew.", "Yes, there was no decline"])
def test_finqa_when_a_word_is_explained_then_right(answer):
    assert finqa.score(f"ANSWER: {answer}", "yes") == 1.0


HEDGED_CHOICES = ["B and also C", "B, or maybe C", "B or C", "B/C", "B | C", "B; C", "B C", "b or c", "B, C and D"]
HEDGED_CHOICES += ["B. Paris or C. Rome", "(B) or (C)", "B (or C)", "B\nor C", "B\nC", "B. Or C.", "B, possibly C"]
HEDGED_CHOICES += ["option B or option C", "B and C are both right", "B, perhaps also C"]


@pytest.mark.parametrize("hedge", HEDGED_CHOICES)
def test_choice_when_two_are_named_then_wrong(hedge):
    for marker in ("", "Answer: ", "#### ", "The answer is "):
        for right in "BC":
            assert MultipleChoice().score(marker + hedge, right) == 0.0, (marker, right)
    assert MultipleChoice().score(r"\boxed{B} or \boxed{C}", "C") == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        *["B. Vitamin C", "B) A city in France", "B, because C is wrong", "B, not C", "B. I think so", "B (a city)"],
        *["B. A and C are wrong.", "B (A, C and D are incorrect)", "'B'", '"B".', "letter B", r"\boxed{\textbf{(B)}}"],
        "B\nI am sure that this answer is correct.",
    ],
)
def test_choice_when_explained_then_right(answer):
    assert MultipleChoice().score(f"Answer: {answer}", "B") == 1.0


@pytest.mark.parametrize(
    "text", ["The answer is {} because it fits", "{} is correct", "{} is the answer", "Answer: {} since it fits"]
)
def test_choice_when_it_is_an_article_elsewhere_then_it_counts_like_any_other(text):
    assert [MultipleChoice().score(text.format(letter), letter) for letter in "ABI"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("text", ["B and C are wrong", "B or C are wrong"])
def test_choice_when_another_is_not_ruled_out_then_wrong(text):
    assert MultipleChoice().score(f"Answer: {text}", "B") == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is negative 5.", -5),
        ("The answer is minus $5", -5),
        ("#### 9 minus 5", None),
        (r"\boxed{1\frac{1}{2}}", "3/2"),
        (r"\boxed{\frac12}", "1/2"),
        ("#### Rs.72", 72),
        ("<think>9</think><answer>72</answer>", 72),
        ("<answer>\n72 clips\n</answer>", 72),
        ("### Final Answer\n\n**72 clips**", 72),
        ("#### Answer\n72", 72),
        ("#### 72\n#### 10:30", None),
    ],
)
def test_number_when_written_in_a_common_form_then_read_as_meant(text, value):
    for number in (72, -5, 5, 9, "3/2", "1/2", "11/2", 10):
        assert gsm8k.score(text, number) == float(number == value), number


@pytest.mark.parametrize("text", [r"\boxed{Paris}", r"So $\boxed{\text{Paris}}$.", "<answer>\nParis\n</answer>"])
def test_exact_match_when_boxed_or_tagged_then_right(text):
    assert ExactMatch().score(text, "Paris") == 1.0
    assert ExactMatch().score(text, "Rome") == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "A: It is the capital of France. The answer is Paris.",
        "#### The answer is Paris",
        "<answer>The answer is Paris</answer>",
        "**Answer**: Paris",
    ],
)
def test_exact_match_when_words_stand_between_two_markers_then_they_are_no_candidate(answer):
    assert ExactMatch().score(answer, "Paris") == 1.0


def test_exact_match_when_a_box_is_followed_by_another_candidate_then_wrong():
    assert ExactMatch().score(r"\boxed{Paris} or Rome", "Paris") == 0.0
    assert ExactMatch().score(r"\boxed{Rome} or \boxed{Paris}", "Paris") == 0.0
    assert ExactMatch().score(r"The answer is Paris, \boxed{Paris}", "Paris") == 1.0


@pytest.mark.parametrize("answer", ["#### Paris or Rome", "#### Paris\nor Rome", "The answer is Paris, maybe Rome"])
def test_exact_match_when_two_are_named_then_wrong(answer):
    assert ExactMatch().score(answer, "Paris") == 0.0


ENDLESS = ["#### 1" + " or" * 300_000, "#### 1" + " 1 or (1)" * 100_000, "1 or " * 200_000, "#### 1\n" + "(" * 10**6]
ENDLESS += ["Answer: B, " * 100_000, "ANSWER: yes" + ", " * 500_000, "\\boxed{1} or " * 80_000, "<|a|>" * 200_000]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", ENDLESS, ids=lambda text: repr(text[:12]))
def test_hedge_when_it_never_ends_then_quick(text):
    for reward, gold in ((gsm8k, 72), (finqa, "no"), (MultipleChoice(), "C"), (ExactMatch(), "x")):
        assert reward.score(text, gold) == 0.0
    assert FinalAnswerLine().score(text) == 0.0
