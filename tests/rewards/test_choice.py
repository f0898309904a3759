"""Which choice an answer names. In each table the right choice is B unless the row says otherwise."""

import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import Choice, MultipleChoice, Rollout
from aws_rft_sdk.rewards.extract import AfterMarker, Boxed, ToolArgument

MARKED = [
    *["Answer: B", "answer: b", "Answer: (B)", "Answer: [B]", "Answer: {B}", "Answer:B", "Answer - B", "Answer = B"],
    *["**Answer:** B", "**Answer: (B)**", "Answer: **B**", "Answer: `B`", "Answer: 'B'", "Answer: B.", "Answer:\n\nB"],
    *["#### B", "#### (b)", "#### Option B", "ANSWER: B", "<answer>B</answer>", "<answer>\nB. Paris\n</answer>"],
    *[
        r"\boxed{B}",
        r"\boxed{\text{B}}",
        r"\boxed{\textbf{(B)}}",
        r"$\boxed{\mathrm{B}}$",
        r"\boxed{(B)}",
        r"\boxed{b}",
    ],
    *[r"\fbox{B}", r"\boxed{\text{B. Paris}}", r"The answer is $\boxed{B}$.", r"\boxed{B: Paris}", r"\[\boxed{B}\]"],
    *[
        "Final answer: B",
        "### Final Answer\n\nB",
        "The final answer is B",
        "The correct answer is: B",
        "THE ANSWER IS B.",
    ],
    *["The answer should be B", "The answer must be (B).", "The answer will be B", "The right option is B"],
    *["The correct choice is B.", "The best option: B", "Answer: option B", "Answer: Choice (B)", "Answer: letter B"],
    *[
        "The answer is clearly B.",
        "The answer is most likely B",
        "The answer is definitely (B)",
        "The answer is, of course, B",
    ],
    *["The answer is undoubtedly B", "The answer is \u201cB\u201d.", "The answer is \u2018B\u2019", "Answer: \uff22"],
    *[
        "Answer\uff1a\uff22",
        "\u7b54\u6848\uff1aB",
        "\u7b54\u6848\u662f B\u3002",
        "\u7b54\u6848\u4e3aB",
        "\u6545\u9009B\u3002",
    ],
    *[
        "\u6b63\u786e\u7b54\u6848\u662fB",
        "\u6b63\u786e\u9009\u9879\u662f\uff08B\uff09",
        "\u6211\u9009\u62e9B",
        "\u7b54\u3048\u306fB\u3067\u3059",
    ],
    *[
        "\u56e0\u6b64\uff0c\u7b54\u6848\u5e94\u8be5\u662f B\u3002",
        "\u6b63\u89e3\uff1aB",
        "The answer is \u24b7",
        "Answer: B\u200b",
    ],
]
UNMARKED = [
    *[
        "B",
        "b",
        "(B)",
        "[B]",
        "B.",
        "B)",
        "**B**",
        "*B*",
        "`B`",
        '"B"',
        "$B$",
        "\uff22",
        "B\n",
        "\n\n B \n",
        "B!",
        "> B",
    ],
    *[
        "B. Paris",
        "B: Paris",
        "(B) Paris",
        "B) a city",
        "B - Paris",
        "B, Paris",
        "**B.** Paris",
        "Option B",
        "option b",
    ],
    *[
        "Option B: Paris",
        "Choice B",
        "Letter B.",
        "B\n\nBecause A is too small.",
        "B\nIt is the capital.",
        "Clearly B.",
    ],
    *[
        "Probably B",
        "Definitely (B).",
        "I think B",
        "I believe it's B.",
        "B since A and C contradict the text",
        "B, I think",
    ],
    *[
        "I choose B.",
        "I pick B",
        "I'd go with B",
        "I would go with (B).",
        "I select option B",
        "I'd say B.",
        "I'll say B",
    ],
    *[
        "My choice is B",
        "My final answer is B",
        "My final choice: **B**",
        "My pick: B",
        "So it's B.",
        "It's B",
        "It is (B).",
    ],
    *[
        "That is B",
        "It must be B.",
        "It has to be B",
        "So, B.",
        "Therefore (B).",
        "Thus, option B is correct.",
        "Hence **B**.",
    ],
    *[
        "B is correct.",
        "B is the answer",
        "B is the correct answer because it fits",
        "Option B is right.",
        "(B) is correct",
    ],
    *["Statement B is the only correct one.", "B seems right.", "The correct statement is B", "The right letter is B."],
    *[
        "The best alternative is B.",
        "The correct option, I believe, is hard to find. I choose B.",
        "Let me think.\n\nB",
    ],
    *["A is too small and C too big.\nThat leaves B.", "Paris is the capital of France.\n\n(B)", "Selected option: B"],
    *["B\u662f\u6b63\u786e\u7684", "B\u3067\u3059", "Choice: B", "Conclusion: B", "A. Rome\nB. Paris\nC. Oslo\n\nB"],
]
EXPLAINED = [
    *[
        "B (not C)",
        "B, not C",
        "B and not C",
        "B rather than C",
        "B instead of A",
        "B, because C is wrong",
        "B. Vitamin C",
    ],
    *["B (Hepatitis A)", "B (both A and C)", "B. Both A and C are correct.", "B: A and C are both true.", "B. A and C"],
    *["B) A and C", "(B) A and C only", "B. Neither A nor C", "B (A, C and D are incorrect)", "B. A and C are wrong."],
    *[
        "B. A is wrong.",
        "B, C is wrong",
        "B. I think so",
        "B (a city)",
        "B because (A) is too small",
        "B. Either A or C",
    ],
    *[
        "B since it is bigger than A or C",
        "B\n\nA is wrong because it is small.\nC is wrong too.",
        "B over C",
        "B.\nHope it helps!",
    ],
    *["B. A, C and D are all true", "B\n\nC is a city in Norway.", "B, as A contradicts C", "B if I recall correctly"],
    *[
        "B. All of the above",
        "B: A good question",
        "B\nI am sure that this is correct.",
        "B. Compared to A it is better.",
    ],
]
CORRECTED = [
    *[
        "The answer is A. Wait, no, it is B.",
        "Answer: A\n\nActually, B.",
        "#### A\nCorrection: B",
        "A? No, B.",
        "A. Sorry, B",
    ],
    *[
        "The answer is A... wait, B",
        "Answer: ~~A~~ B",
        "Answer: ~~C~~ **B**",
        "Answer: <del>A</del> B",
        "The answer is not A but B.",
    ],
    *[
        "It is not A, it is B.",
        "The answer is A.\n\nLet me check again.\n\nThe answer is B.",
        "#### A\n\n#### B",
        "A or C? No. I choose B.",
    ],
    *[
        "A is tempting, but B is right.",
        r"\boxed{A}. Scratch that: \boxed{B}",
        "<answer>A</answer>\nActually <answer>B</answer>",
    ],
    *[
        "Not A, so B is the answer",
        "It could be A, but the answer is B",
        "<think>The answer is A</think>B",
        "A</think>\nB",
    ],
]


@pytest.mark.parametrize("answer", [*MARKED, *UNMARKED, *CORRECTED, *(f"Answer: {text}" for text in EXPLAINED)])
def test_choice_when_one_is_named_then_it_pays(answer):
    assert Choice().score(answer, "B") == 1.0
    assert Choice().score(answer, "A") == Choice().score(answer, "C") == 0.0


HEDGES = [
    *[
        "B and C",
        "B or C",
        "B, C",
        "B; C",
        "B/C",
        "B / C",
        "B | C",
        "B & C",
        "B + C",
        "B+C",
        "B C",
        "BC",
        "B->C",
        "B \u2192 C",
    ],
    *[
        "B. C.",
        "B. C. A.",
        "(B) or (C)",
        "(B), (C)",
        "(B) (C)",
        "B (or C)",
        "B (maybe C)",
        "B (C)",
        "B, or maybe C",
        "b or c",
    ],
    *[
        "B or possibly C",
        "B, perhaps also C",
        "B and also C",
        "either B or C",
        "Either B or C",
        "B and/or C",
        "B, if not C",
    ],
    *[
        "B\nor C",
        "B\nC",
        "B.\nOr C.",
        "B. Paris or C. Oslo",
        "option B or option C",
        "B, and C",
        "B, but maybe C",
        "B as well as C",
    ],
    *[
        "B. It could also be C.",
        "B, it fits, or C",
        "B if x is even, otherwise C",
        "B if we ignore C; otherwise C",
        "B unless C holds",
    ],
    *[
        "B if x else C",
        "C or B",
        "C, B",
        "C and B",
        "B and C are both right",
        "B, C and A",
        "BCA",
        "B through C",
        "B-C",
        "B\u3001C",
    ],
    *[
        "B\u6216C",
        "B\u548cC",
        "A. Rome B. Paris C. Oslo",
        "A) Rome B) Paris C) Oslo D) Bern",
        "A. Rome\nB. Paris\nC. Oslo",
    ],
    *[
        "\nA. Rome\nB. Paris\nC. Oslo\nD. Bern",
        "A B C D",
        "A, B, C, D",
        "(A) (B) (C) (D)",
        "A\nB\nC\nD",
        "all of A, B and C",
    ],
]


@pytest.mark.parametrize("hedge", HEDGES)
def test_choice_when_several_are_named_then_it_pays_nothing(hedge):
    for marker in ("", "Answer: ", "#### ", "The answer is "):
        for right in "ABCD":
            assert Choice().score(marker + hedge, right) == 0.0, (marker, right)


BOXES = [
    *[r"\boxed{B} or \boxed{C}", r"\boxed{B}\text{ or }\boxed{C}", r"\boxed{B}, \boxed{C}", r"\boxed{B} \boxed{C}"],
    *[r"$\boxed{B}$ or $\boxed{C}$", r"\boxed{B, C}", r"\boxed{B \text{ or } C}", r"\boxed{BC}", r"\boxed{B} or C"],
    *[r"\boxed{B}/\boxed{C}", "<answer>B</answer><answer>C</answer>", "<answer>B</answer> or <answer>C</answer>"],
]
OTHERS = [
    *[
        "",
        " ",
        "?",
        "Banana",
        "Because",
        "A good question.",
        "A man walks",
        "It is not B.",
        "The answer is not B",
        "Not B",
    ],
    *[
        "The answer is C",
        "C",
        "I think so",
        "Paris",
        "None of them",
        "The answer is anything but B",
        "B is wrong.",
        "B?? No.",
    ],
    *[
        "Which is it?\nA. Rome\nB. Paris\nC. Oslo",
        "A. Rome\nB. Paris",
        "B is incorrect",
        "I would not choose B.",
        "E = mc^2",
    ],
    *[
        "<think>The answer is B</think>\nThe answer is C",
        "<think>The answer is B",
        "Answer: B. No, C.",
        "Answer: B\nActually, C",
    ],
    *[
        "The answer is B is what many would say, but C is right.",
        "Answer: B. That is wrong.",
        "#### B\n\nWait, C.",
        "C\n\nB is wrong",
    ],
    *["<|begin_internal_thought|>It's B.<|end_internal_thought|><|begin_of_solution|>\\boxed{C}<|end_of_solution|>"],
    *[
        "#### C\n\nQuestion: another one\n#### B",
        "The answer is C.<|im_end|>\n<|im_start|>user\nB",
        "B vitamins are good",
    ],
    *[
        "Answer with the letter of the right option.",
        "Is it B?",
        "\u7b54\u6848\u4e0d\u662fB",
        "Bee",
        "B-",
        "The B option has a flaw",
    ],
]


@pytest.mark.parametrize("answer", [*BOXES, *OTHERS])
def test_choice_when_the_right_one_is_not_named_then_it_pays_nothing(answer):
    assert Choice().score(answer, "B") == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        *[
            ("Answer: B", gold, 1.0)
            for gold in ("B", "b", "(B)", "B.", "B. Paris", "B) Paris", "[B]", "#### B", r"\boxed{B}")
        ],
        *[
            ("Answer: B", gold, 1.0)
            for gold in ({"answer": "B"}, ["B", "C"], ["(C)", "(B)"], "The answer is B", "\uff22")
        ],
        *[
            ("Answer: B", gold, None)
            for gold in ("", None, 2, "Paris", [], "B and C", "K", "A good one", True, {"x": "B"})
        ],
        *[("A", "A", 1.0), ("The answer is A.", "A", 1.0), ("A. Rome", "A", 1.0), ("A good question.", "A", 0.0)],
        *[("I think so", "I", 0.0), ("The answer is I", "I", 1.0), ("I choose B", "I", 0.0), ("I. Rome", "I", 1.0)],
        *[("The answer is a", "A", 1.0), ("The answer is a city", "A", 0.0), ("The answer is A because", "A", 1.0)],
        *[
            ("Answer: D (both A and B)", "D", 1.0),
            ("Answer: D) All of the above", "D", 1.0),
            ("C is correct", "C", 1.0),
        ],
        *[("\\boxed{A}\\text{ or }\\boxed{B}", "A", 0.0), ("\\boxed{A} \\boxed{B}", "A", 0.0), ("Answer: E", "E", 1.0)],
    ],
)
def test_choice_when_compared_with_a_ground_truth_then_the_score(answer, gold, score):
    assert Choice().score(answer, gold) == score


def test_choice_when_other_letters_may_be_named_then_only_those():
    assert Choice("ABCDEFGHIJKLMNOP").score("The answer is (P).", "P") == 1.0
    assert Choice("TF").score("T", "T") == 1.0
    assert Choice("ABCD").score("E", "E") is None
    assert Choice().score("K", "B") == 0.0


@pytest.mark.parametrize("choices", ["", "A", "AA", "A1", "A B", 5])
def test_choice_when_choices_are_no_letters_then_configuration_error(choices):
    with pytest.raises(ConfigurationError, match="choices"):
        Choice(choices)


def test_choice_when_it_comes_after_an_extractor_then_only_what_that_finds():
    boxed = Boxed() >> Choice()
    assert [boxed.score(text, "B") for text in (r"\boxed{B}", "B", r"\boxed{B} or \boxed{C}")] == [1.0, 0.0, 0.0]
    assert (AfterMarker("VERDICT") >> Choice()).score("VERDICT: B", "B") == 1.0
    call = {"function": {"name": "submit", "arguments": '{"answer": "B"}'}}
    rollout = Rollout(({"role": "assistant", "tool_calls": [call]},), "B")
    assert (ToolArgument("submit", "answer") >> Choice())(rollout) == 1.0
    assert MultipleChoice() == Choice() != Choice("AB")
    assert hash(Choice()) == hash(MultipleChoice())


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "unit",
    ["(", "B or ", "B, ", "the ", "\n", "B\n", "not B ", "[({*", "it is ", "\\boxed{B} or ", "\u7b54\u6848", "A. b\n"],
)
def test_choice_when_the_answer_is_a_million_characters_then_quick(unit):
    text = unit * (1_000_000 // len(unit))
    for answer in (text, f"Answer: {text}", f"{text}\nThe answer is B"):
        assert Choice().score(answer, "C") == 0.0
