# ruff: noqa: RUF001 - answers in many scripts
import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import F1, ExactMatch, KeywordCoverage, Length, Repetition, Text
from aws_rft_sdk.rewards.extract import Boxed, JsonPath
from tests.rewards.tables import cases

RIGHT = cases(
    r"""
    Paris ¦  paris.  ¦ PARIS ¦ “Paris.” ¦ 'Paris' ¦ "Paris" ¦ Paris! ¦ **Paris** ¦ *Paris* ¦ `Paris` ¦ _Paris_
    Paris。 ¦ Paris！ ¦ 「Paris」 ¦ Ｐａｒｉｓ ¦ París ¦ Paris\u200b ¦ The answer is **Paris**. ¦ The answer is Paris
    Answer: Paris ¦ Answer: "Paris" ¦ **Answer:** Paris ¦ ANSWER: Paris ¦ #### Paris ¦ #### The answer is Paris
    <answer>Paris</answer> ¦ <answer>↵Paris↵</answer> ¦ Final answer: Paris ¦ <answer>The answer is Paris</answer>
    \boxed{Paris} ¦ \boxed{\text{Paris}} ¦ $\boxed{\mathrm{Paris}}$. ¦ So $\boxed{\textbf{Paris}}$.
    The answer is Paris (France). ¦ Paris (not Rome) ¦ #### Paris↵↵Hope this helps!
    The answer is Paris, because it is the capital. ¦ Paris since it fits ¦ The answer is Paris. It is in France.
    The answer is Paris, the capital of France. ¦ Paris↵↵It lies on the Seine. ¦ The answer is probably Paris.
    It is Paris. ¦ Paris is the answer. ¦ The answer is Rome. Wait, no, Paris. ¦ The answer is ~~Rome~~ Paris
    <think>Rome? The answer is Rome.</think>Paris ¦ Answer：Paris ¦ The answer is Paris, which is in France
    #### Paris↵So this is plausible. ¦ #### Paris↵It fits ¦ #### Paris↵Done ¦ Paris↵I hope this helps
    Paris↵the city of light ¦ The answer is Paris↵Rome is wrong
    the Paris ¦ The answer is Paris, \boxed{Paris} ¦ A: It is the capital of France. The answer is Paris. ¦ Paris
    """
)
WRONG = cases(
    r"""
    (empty) ¦ Rome ¦ not Paris ¦ Paris or Rome ¦ Rome or Paris ¦ Paris and Rome ¦ Paris, Rome ¦ Paris/Rome
    Paris; Rome ¦ Paris | Rome ¦ #### Paris↵or Rome ¦ Paris (or Rome) ¦ Paris (maybe Rome) ¦ Paris. Or Rome.
    Paris, maybe Rome ¦ Paris, or perhaps Rome ¦ Paris↵Rome ¦ either Paris or Rome ¦ The answer is Paris or Rome
    Paris, France ¦ Parisian ¦ \boxed{Rome} or \boxed{Paris} ¦ \boxed{Paris} or Rome ¦ \boxed{Paris} or \boxed{Rome}
    \boxed{Rome}, \boxed{Paris} ¦ \boxed{Rome}\text{ or }\boxed{Paris} ¦ \boxed{Paris, Rome}
    The answer is Paris. No. ¦ Paris↵Actually, Rome. ¦ The answer is Paris. Wait, Rome.
    <think>The answer is Paris</think>Rome ¦ <think>Paris ¦ It is not Paris ¦ Paris -> Rome
    #### Rome↵The answer is Paris ¦ Answer: Rome (not Paris) ¦ Paris & Rome ¦ The answer is anything but Paris
    Pari s ¦ Paris, something else ¦ Paris; something else; nothing of that ¦ New Paris ¦ Paris 2 ¦ ~~Paris~~ Rome
    """
)


@pytest.mark.parametrize("answer", RIGHT)
def test_text_when_it_is_the_ground_truth_however_written_then_it_pays(answer):
    assert Text().score(answer, "Paris") == 1.0
    assert Text().score(answer, ["City of Paris", "Paris"]) == 1.0
    assert Text().score(answer, "Rome") == 0.0


@pytest.mark.parametrize("answer", WRONG)
def test_text_when_it_is_not_or_one_of_several_then_it_pays_nothing(answer):
    assert Text().score(answer, "Paris") == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        *[
            ("an apple", "apple", 1.0),
            ("U.S.A.", "USA", 1.0),
            ("3.5", "35", 0.0),
            ("ANSWER: yes. Actually no.", "yes", 0.0),
            ("apple", "the apple", 1.0),
            ("na\u00efve", "naive", 1.0),
            ("naive", "na\u00efve", 1.0),
        ],
        *[
            ("Sa\u0303o Paulo", "S\u00e3o Paulo", 1.0),
            ("\u043c\u043e\u0439", "\u043c\u043e\u0438", 0.0),
            ("\u304b", "\u304c", 0.0),
        ],
        *[
            ("\u304c", "\u304b\u3099", 1.0),
            ("\N{LATIN SMALL LIGATURE FI}sh", "fish", 1.0),
            ("don\u2019t", "don't", 1.0),
        ],
        *[
            ("Jean\u2011Paul", "Jean-Paul", 1.0),
            ("Washington, D.C.", "Washington, D.C", 1.0),
            ("salt and pepper", "Salt and Pepper", 1.0),
        ],
        *[
            ("The answer is salt and pepper.", "salt and pepper", 1.0),
            ("salt", "salt and pepper", 0.0),
            ("Dr. No", "Dr. No", 1.0),
        ],
        *[
            ("42", 42, 1.0),
            ("3", "3", 1.0),
            ("3", 3.0, 1.0),
            ("-5", "5", 0.0),
            (".5", "5", 0.0),
            ("3.5", "35", 0.0),
            ("C", "C++", 0.0),
        ],
        *[
            ("true", True, 1.0),
            ("True.", True, 1.0),
            ("yes", True, 1.0),
            ("no", False, 1.0),
            ("false", True, 0.0),
            ("No.", "no", 1.0),
        ],
        *[
            ("\u5317\u4eac\u3002", "\u5317\u4eac", 1.0),
            ("\u7b54\u6848\u662f\u5317\u4eac", "\u4e0a\u6d77", 0.0),
            ("A", "a", 1.0),
        ],
        *[("Italy", "Italy", 1.0), ("The Answer", "The Answer", 1.0), ("It", "It", 1.0), ("The Hague", "Hague", 1.0)],
        *[
            ("Paris", {"answer": "Paris"}, 1.0),
            ("Paris", {"other": "Paris"}, None),
            ("Paris", None, None),
            ("Paris", [], None),
        ],
        *[
            ("", "", None),
            ("Paris", " ", None),
            ("Paris", [None, {}], None),
            (r"\text{red} \text{fox}", "red fox", 1.0),
            ("AT\\&T", "AT&T", 1.0),
        ],
    ],
)
def test_text_when_compared_then_the_score(answer, gold, score):
    assert Text().score(answer, gold) == score


def test_text_when_strict_then_every_character_counts():
    assert Text(strict=True).score("Paris", "Paris") == ExactMatch(strict=True).score("Paris", ["x", "Paris"]) == 1.0
    assert Text(strict=True).score("paris", "Paris") == Text(strict=True).score("Answer: Paris", "Paris") == 0.0
    assert Text() == ExactMatch() != Text(strict=True)


def test_text_when_it_comes_after_an_extractor_then_only_what_that_finds():
    assert [(Boxed() >> Text()).score(text, "Paris") for text in (r"\boxed{Paris}", "Paris")] == [1.0, 0.0]
    assert (JsonPath("city") >> Text(strict=True)).score('{"city": "Paris"}', "Paris") == 1.0


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        *[
            ("Paris", "Paris", 1.0),
            ("The answer is the city of Paris.", ["Paris", "Paris, France"], 0.5),
            ("Rome", "Paris", 0.0),
        ],
        *[
            ("a big red fox", "the red fox", 0.8),
            ("red red fox", "red fox", 0.8),
            ("Fox, red!", "red fox", 1.0),
            ("", "x", 0.0),
        ],
        *[
            ("", "", 1.0),
            ("x", "", 0.0),
            ("x", None, None),
            ("x", [], None),
            ("3", 3, 1.0),
            ("<think>Paris</think>Rome", "Paris", 0.0),
        ],
        *[
            ("\u5317\u4eac\u5e02", "\u5317\u4eac", 0.8),
            ("\uc11c\uc6b8\uc740", "\uc11c\uc6b8", 0.8),
            ("caf\u00e9", "Cafe", 1.0),
        ],
        *[("#### Paris\n\nActually something else", "Paris", 0.0), ("#### Paris\nNo.", "Paris", 0.0)],
        *[("#### Paris\nor Rome", "Paris", 0.0), ("#### Paris\n\nThis makes sense.", "Paris", 1.0)],
        *[("Paris Rome Oslo", "Paris", 0.5), (r"\boxed{\text{red fox}}", "red fox", 1.0), ("yes", True, 1.0)],
    ],
)
def test_f1_when_words_overlap_then_their_harmonic_share(answer, gold, score):
    assert F1().score(answer, gold) == (None if score is None else pytest.approx(score))


COVERED = [
    *[("a city", "cities"), ("one river", "rivers"), ("a box", "boxes"), ("hero", "heroes"), ("a movie", "movies")],
    *[("C++ and C#", "C++"), ("C++ and C#", "C#"), ("Use .NET 8", ".NET"), ("rivers", "river"), ("it's Bob's", "Bob")],
    *[
        ("don\u2019t", "don't"),
        ("don't", "don\u2019t"),
        ("RIVER.", "river"),
        ("the boys' room", "boy"),
        ("cities", "city"),
    ],
    *[
        ("boxes", "box"),
        ("churches", "church"),
        ("potatoes", "potato"),
        ("GPUs", "GPU"),
        ("na\u00efve", "naive"),
        ("keys", "key"),
    ],
    *[
        ("the Eiffel\nTower", "Eiffel Tower"),
        ("\u6211\u7231\u5317\u4eac\u3002", "\u5317\u4eac"),
        ("\u6771\u4eac\u306b\u884c\u304f", "\u6771\u4eac"),
    ],
    *[
        ("\u30ab\u30e1\u30e9\u3092\u8cb7\u3046", "\u30ab\u30e1\u30e9"),
        ("\uc11c\uc6b8\uc740 \ud06c\ub2e4", "\uc11c\uc6b8"),
        ("\u4f7f\u7528Python\u7f16\u7a0b", "Python"),
    ],
    *[
        ("state-of-the-art", "art"),
        ("**Paris**", "Paris"),
        ("Node.js rocks", "Node.js"),
        ("it costs 5.", "5"),
        ("R&D", "R&D"),
    ],
    *[
        ("(river)", "river"),
        ("The U.S. economy", "U.S."),
        (
            "\u0e01\u0e23\u0e38\u0e07\u0e40\u0e17\u0e1e\u0e21\u0e2b\u0e32\u0e19\u0e04\u0e23",
            "\u0e01\u0e23\u0e38\u0e07\u0e40\u0e17\u0e1e",
        ),
        ("not Paris", "Paris"),
    ],
    *[
        ("well-known", "well known"),
        ("C++11", "C++"),
        ("Go!", "Go"),
        ("studies", "study"),
        ("Hi\U0001f389", "\U0001f389"),
        ("it isn't", "isn't"),
    ],
]
UNCOVERED = [
    *[
        ("net income rose", ".NET"),
        (".NET 8", "net"),
        ("C++", "C"),
        ("C#", "C"),
        ("driver", "river"),
        ("riverside", "river"),
        ("", "x"),
    ],
    *[
        ("Parisian", "Paris"),
        ("15", "5"),
        ("5.5", "5"),
        ("1,500", "500"),
        ("cars", "car s"),
        ("<think>river</think>sea", "river"),
    ],
    *[
        ("<think>river", "river"),
        ("as", "a"),
        ("has", "ha"),
        ("citys", "city"),
        ("artist", "art"),
        ("\u4e0a\u6d77", "\u5317\u4eac"),
        ("news", "newss"),
    ],
    *[
        ("don't", "don"),
        ("C++", "C+"),
        ("going", "go"),
        ("R2", "R"),
        ("ASP.NET", ".NET"),
        ("$5.50", "$5"),
        ("news", "new"),
        ("new", "news"),
        ("Adam", "Adams"),
        ("thi", "this"),
    ],
]


def test_keyword_coverage_when_a_keyword_stands_there_then_it_counts():
    assert [case for case in COVERED if KeywordCoverage().score(case[0], [case[1]]) != 1.0] == []
    assert [case for case in UNCOVERED if KeywordCoverage().score(case[0], [case[1]]) != 0.0] == []


def test_keyword_coverage_when_several_are_wanted_then_their_share():
    gold = ["Seine", "Paris", "Louvre", "Eiffel Tower"]
    assert KeywordCoverage().score("paris lies on the Seine", gold) == 0.5
    assert KeywordCoverage(("a", "b")).score("a", None) == 0.5
    assert KeywordCoverage().score("a river", "river") == 1.0
    assert KeywordCoverage().score("#### Rome\n\nQuestion: which?\nAnswer: paris on the Seine", gold) == 0.0
    assert [KeywordCoverage().score("x", nothing) for nothing in (None, [], [""], {})] == [None] * 4
    with pytest.raises(ConfigurationError):
        KeywordCoverage("word")


@pytest.mark.parametrize(("length", "penalty"), [(0, 0.0), (10, 0.0), (15, -0.5), (20, -1.0), (1000, -1.0)])
def test_length_when_between_soft_and_hard_then_a_straight_line(length, penalty):
    assert Length(10, 20).score("x" * length) == penalty
    assert Length(10, 20, unit="words").score("x " * length) == penalty
    assert Length(10, 20, unit="words").score("\u5317" * length) == penalty


PROSE = (
    "\u5317\u4eac\u662f\u4e2d\u56fd\u7684\u9996\u90fd\uff0c\u4f4d\u4e8e\u534e\u5317\u5e73\u539f\u7684\u5317\u90e8\u3002"
)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        *[
            ("to be or not to be, that is the question.", 0, 0),
            ("a", 0, 0),
            ("", 0, 0),
            ("\n" * 500, 0, 0),
            (PROSE, 0, 0),
        ],
        *[("| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |", -0.1, 0), ("pi is 3.14159265358979323846264338", 0, 0)],
        *[(unit * 500, -1, -0.95) for unit in ("ha ", "1", "a", "!", "?!", ". ", "\u8c22", "\U0001f600", "haha", "0 ")],
        *[
            ("\u8c22\u8c22\u4f60\u7684\u5e2e\u52a9\uff0c" * 50, -1, -0.9),
            ("\uac10\uc0ac\ud569\ub2c8\ub2e4 " * 60, -1, -0.9),
        ],
        *[("1234567890" * 50, -1, -0.9), ("I am sorry. " * 50, -1, -0.9), ("OK. " + "!" * 300, -1, -0.9)],
    ],
)
def test_repetition_when_text_comes_again_then_a_penalty(text, low, high):
    assert low <= Repetition().score(text) <= high


def test_repetition_when_sequences_are_short_then_their_share():
    assert Repetition(n=2).score("to be or not to be") == pytest.approx(-0.2)
    assert Repetition(n=2).score("ha " * 101) == pytest.approx(-0.99)


def test_penalties_when_made_without_sense_then_configuration_error():
    for make in (lambda: Length(5, 5), lambda: Length(-1, 5), lambda: Length(1, 2, "tokens"), lambda: Repetition(0)):
        with pytest.raises(ConfigurationError):
            make()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit", ["(", "x or ", "the ", "\n", "x. ", "x (y) ", "\\text{", "}", "!", "! ", "\u8c22", "it is ", "</s> "]
)
def test_text_rewards_when_the_answer_is_a_million_characters_then_quick(unit):
    text = unit * (1_000_000 // len(unit))
    for reward in (Text(), F1(), KeywordCoverage(("nothing", ".net"))):
        assert reward.score(f"Answer: {text}", "Paris") == 0.0
    assert Repetition().score(text) <= 0.0
