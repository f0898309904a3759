import threading
from decimal import Decimal
from fractions import Fraction

import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import JsonSchema, MathVerify

SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        pytest.param('{"city": "Paris"}', 1.0, id="valid"),
        pytest.param('```json\n{"city": "Paris"}\n```', 1.0, id="fenced"),
        pytest.param('{"city": 5}', 0.2, id="other-type"),
        pytest.param("{}", 0.2, id="missing"),
        pytest.param('Here: {"city": "Paris"}', 0.0, id="prose-before"),
        pytest.param('{"city": "Paris"', 0.0, id="cut-off"),
        pytest.param('{"city": NaN}', 0.0, id="nan"),
        pytest.param('{"city": "Rome", "city": "Paris"}', 0.0, id="key-twice"),
        pytest.param('{"city": "Paris", "at": {"x": 1, "x": 2}}', 0.0, id="inner-key-twice"),
        pytest.param("[" * 100_000, 0.0, id="nested-without-end"),
        pytest.param("9" * 10_000, 0.0, id="integer-without-end"),
        pytest.param('```json\r\n{"city": "Paris"}\r\n```', 1.0, id="fenced-with-carriage-returns"),
        pytest.param("", 0.0, id="silent"),
    ],
)
def test_json_schema_when_the_answer_is_judged_then_the_score(answer, score):
    assert JsonSchema(SCHEMA, parses=0.2).score(answer, None) == score


def test_json_schema_when_it_has_to_match_then_values_are_compared():
    reward = JsonSchema(SCHEMA, match=True)
    assert reward.score('{"city": "Paris"}', {"city": "Paris"}) == 1.0
    assert reward.score('{"city": "Rome"}', {"city": "Paris"}) == 0.0
    assert reward.score('{"city": "Rome"}', None) is None


@pytest.mark.parametrize("truth", ['{"city": "Paris"}', ' {"city":"Paris"}'])
def test_json_schema_when_the_ground_truth_is_json_as_text_then_its_value_is_compared(truth):
    reward = JsonSchema(SCHEMA, match=True)
    assert (reward.score('{"city": "Paris"}', truth), reward.score('{"city": "Rome"}', truth)) == (1.0, 0.0)
    assert JsonSchema({}, match=True).score('"5"', "5") == 1.0
    assert JsonSchema({}, match=True).score("5", "5") == 0.0


def test_json_schema_when_the_schema_is_none_then_configuration_error():
    with pytest.raises(ConfigurationError, match="no JSON Schema"):
        JsonSchema({"type": "nonsense"}).score("{}", None)


@pytest.mark.parametrize("schema", [None, 5, "{}", [], {"type": {1, 2}}], ids=repr)
def test_json_schema_when_the_schema_is_not_even_json_then_refused_at_once(schema):
    with pytest.raises(ConfigurationError, match="schema must be"):
        JsonSchema(schema)


@pytest.mark.parametrize("ref", ["#/definitions/x", "http://127.0.0.1:1/x.json", "file:///etc/passwd"])
def test_json_schema_when_it_refers_to_what_it_does_not_hold_then_configuration_error(ref):
    with pytest.raises(ConfigurationError, match="does not hold"):
        JsonSchema({"$ref": ref}).score("{}", None)


def test_json_schema_when_two_schemas_differ_by_true_and_1_then_each_has_its_own():
    for const in (1, True):
        assert JsonSchema({"const": const}).score("1", None) == float(const is not True)
        assert JsonSchema({"const": const}).score("true", None) == float(const is True)


@pytest.mark.parametrize("number", ["1e400", "1" * 400])
def test_json_schema_when_a_number_is_beyond_floats_then_the_answer_is_judged(number):
    assert JsonSchema({"multipleOf": 0.1}).score(number, None) == 0.0


MATH = [
    pytest.param("$72", "72", 1.0, id="currency"),
    pytest.param("#### 72", "72", 1.0, id="gsm8k"),
    pytest.param("A: 72", "72", 1.0, id="a-colon"),
    pytest.param("\\boxed{72}", "72", 1.0, id="boxed"),
    pytest.param("72.0", "72", 1.0, id="decimal"),
    pytest.param("0.5", "1/2", 1.0, id="fraction"),
    pytest.param("$\\frac{1}{2}$", "0.5", 1.0, id="latex-fraction"),
    pytest.param("\\boxed{x^2+1}", "1+x^2", 1.0, id="bare-formula-as-gold"),
    pytest.param("\\boxed{x^2+2}", "$1+x^2$", 0.0, id="other-formula"),
    pytest.param("0.333", "1/3", 0.0, id="cut-fraction"),
    pytest.param("73", "72", 0.0, id="other"),
    # Read without delimiters, "2x+3" is 2, and "-2,1" is -2.1.
    pytest.param("\\boxed{2x+3}", "2x+3", 1.0, id="gold-without-delimiters"),
    pytest.param("2", "2x+3", 0.0, id="half-of-the-gold"),
    pytest.param("The answer is **3 + 2x**.", "2x+3", 1.0, id="answer-without-delimiters"),
    pytest.param("#### 2x+3", "2", 0.0, id="half-of-the-answer"),
    pytest.param("\\boxed{x+1}", "x+1", 1.0, id="gold-that-begins-with-a-letter"),
    pytest.param("\\boxed{1, -2}", "-2,1", 1.0, id="gold-of-two-numbers"),
    pytest.param("\\boxed{1}", "-2,1", 0.0, id="one-of-two-numbers"),
    pytest.param("72 or 73", "73", 0.0, id="hedge"),
    pytest.param("1", 1e-05, 0.0, id="gold-with-an-exponent-wrong"),
    pytest.param("0.00001", 1e-05, 1.0, id="gold-with-an-exponent"),
    pytest.param("0.5", Fraction(1, 2), 1.0, id="gold-as-a-fraction"),
    pytest.param("0.5", Decimal("0.50"), 1.0, id="gold-as-a-decimal"),
    pytest.param("1", float("nan"), None, id="gold-that-is-no-number"),
    pytest.param("yes", "yes", None, id="gold-that-is-a-word"),
    pytest.param("", "72", 0.0, id="silent"),
    pytest.param("9^9^9^9", "72", 0.0, id="tower"),
    pytest.param("\\boxed{10^{99999999}}", "72", 0.0, id="power"),
    pytest.param("100000!", "72", 0.0, id="factorial"),
    pytest.param("72", None, None, id="no-gold"),
    pytest.param("72", "", None, id="empty-gold"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("answer", "gold", "score"), MATH)
def test_math_verify_when_on_the_main_thread_then_the_score(answer, gold, score):
    pytest.importorskip("math_verify")
    assert MathVerify(timeout_seconds=0.5).score(answer, gold) == score


def test_math_verify_when_off_the_main_thread_then_the_same_scores():
    """The library's own time limit raises ValueError there."""
    pytest.importorskip("math_verify")
    scores = []
    reward = MathVerify(timeout_seconds=0.5)
    thread = threading.Thread(target=lambda: scores.extend(reward.score(*case.values[:2]) for case in MATH))
    thread.start()
    thread.join()
    assert scores == [case.values[2] for case in MATH]
