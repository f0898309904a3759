import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import ExactMatch, KeywordCoverage, Length, MultipleChoice, Repetition


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("Paris", "Paris", 1.0),
        (" paris. ", "Paris", 1.0),
        ("\u201cParis.\u201d", "Paris", 1.0),
        ("The answer is **Paris**.", ["Paris", "City of Paris"], 1.0),
        ("#### city  of\tParis", ["Paris", "City of Paris"], 1.0),
        ("not Paris", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("", "", 0.0),
        ("\N{LATIN SMALL LIGATURE FI}sh", "fish", 1.0),
        ("42", 42, 1.0),
        ("Paris", {"answer": "Paris"}, 1.0),
        ("Paris", None, None),
        ("Paris", [], None),
        ("Paris", {"other": "Paris"}, None),
    ],
)
def test_exact_match_when_compared_then_the_score(answer, gold, score):
    assert ExactMatch().score(answer, gold) == score


def test_exact_match_when_strict_then_every_character_counts():
    assert ExactMatch(strict=True).score("Paris", "Paris") == 1.0
    assert ExactMatch(strict=True).score("paris", "Paris") == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("B", "B", 1.0),
        ("b", "B", 1.0),
        ("(B)", "b", 1.0),
        ("B. Paris", "B", 1.0),
        ("B) Paris", "B) Paris", 1.0),
        ("**B**", "B", 1.0),
        ("The answer is (B).", "B", 1.0),
        ("\\boxed{\\text{B}}", "B", 1.0),
        ("Answer: option C", "C", 1.0),
        ("I think so.\nB", "B", 1.0),
        ("#### A\nand more words", "A", 1.0),
        ("C", "B", 0.0),
        ("A or B", "A", 0.0),
        ("A, B", "A", 0.0),
        ("A/B", "B", 0.0),
        ("#### A and C", "A", 0.0),
        ("A man walks", "A", 0.0),
        ("I think so", "I", 0.0),
        ("Because", "B", 0.0),
        ("", "B", 0.0),
        ("B", None, None),
        ("B", "Paris", None),
        ("B", 2, None),
    ],
)
def test_multiple_choice_when_one_is_named_then_the_score(answer, gold, score):
    assert MultipleChoice().score(answer, gold) == score


@pytest.mark.parametrize("choices", ["", "A", "AA", "A1", "A B"])
def test_multiple_choice_when_choices_are_no_letters_then_configuration_error(choices):
    with pytest.raises(ConfigurationError):
        MultipleChoice(choices)


def test_keyword_coverage_when_words_occur_then_their_share():
    gold = ["Seine", "Paris", "Louvre", "Eiffel Tower"]
    assert KeywordCoverage().score("paris lies on the Seine; Louvres", gold) == 0.5
    assert KeywordCoverage(("a", "b")).score("a", None) == 0.5
    assert KeywordCoverage().score("", gold) == 0.0
    assert KeywordCoverage().score("anything", None) is None
    with pytest.raises(ConfigurationError):
        KeywordCoverage("word")


@pytest.mark.parametrize(("length", "penalty"), [(0, 0.0), (10, 0.0), (15, -0.5), (20, -1.0), (1000, -1.0)])
def test_length_when_between_soft_and_hard_then_a_straight_line(length, penalty):
    assert Length(10, 20).score("x" * length) == penalty
    assert Length(10, 20, unit="words").score("x " * length) == penalty


@pytest.mark.parametrize(
    ("text", "penalty"),
    [("to be or not to be", -0.2), ("all words differ here", 0.0), ("a", 0.0), ("", 0.0), ("ha " * 101, -0.99)],
)
def test_repetition_when_words_come_again_then_their_share(text, penalty):
    assert Repetition(n=2).score(text) == pytest.approx(penalty)


def test_penalties_when_made_without_sense_then_configuration_error():
    for make in (lambda: Length(5, 5), lambda: Length(-1, 5), lambda: Length(1, 2, "tokens"), lambda: Repetition(0)):
        with pytest.raises(ConfigurationError):
            make()
