import json
import pickle

import pytest

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards import JsonSchema, Rollout, Schema
from aws_rft_sdk.rewards.extract import CodeFence, Extract, JsonPath, Tag, ToolArgument, Whole

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
        pytest.param('<answer>{"city":"Paris"}</answer>', 1.0, id="answer-tag"),
        pytest.param('<answer>\n```json\n{"city":"Paris"}\n```\n</answer>', 1.0, id="fence-in-an-answer-tag"),
        pytest.param('<answer>{"city":"a"}</answer><answer>{"city":"b"}</answer>', 0.0, id="two-answer-tags"),
        pytest.param('<answer>{"city":"Paris"}', 0.0, id="answer-tag-cut-off"),
        pytest.param('```{"city": "Paris"}```', 1.0, id="fence-on-one-line"),
        pytest.param('```json {"city": "Paris"}```', 1.0, id="fence-on-one-line-with-its-language"),
        pytest.param('~~~JSON\n{"city": "Paris"}\n~~~', 1.0, id="tildes"),
        pytest.param('````\n{"city": "Paris"}\n````', 1.0, id="four-backticks"),
        pytest.param('```\n{"city": "Paris"}\n```\nDone.', 0.0, id="prose-after-a-fence"),
        pytest.param('```\n{"city": "Paris"}', 0.0, id="fence-cut-off"),
        pytest.param('```\n{"city": "a"}\n```\n```\n{"city": "b"}\n```', 0.0, id="two-fences"),
        pytest.param('{"city": "Paris"}</s>', 1.0, id="end-of-turn"),
        pytest.param('```json\n{"city": "Paris"}\n```<|im_end|>', 1.0, id="end-of-turn-after-a-fence"),
        pytest.param('<think>{"town": 1}?</think>\n{"city": "Paris"}', 1.0, id="after-a-thought"),
        pytest.param('which city?</think>```{"city": "Paris"}```', 1.0, id="after-a-thought-that-began-in-the-prompt"),
        pytest.param('<think>{"city": "Paris"}', 0.0, id="thought-cut-off"),
        pytest.param('<think>{"city": "Paris"}</think>', 0.0, id="only-in-the-thought"),
        pytest.param(
            '<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>{"city": "Paris"}', 1.0, id="harmony"
        ),
        pytest.param('{"city": "Paris"} {"city": "Rome"}', 0.0, id="two-values"),
        pytest.param("{'city': 'Paris'}", 0.0, id="single-quotes"),
        pytest.param('\ufeff{"city": "Paris"}', 1.0, id="byte-order-mark"),
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


@pytest.mark.parametrize(("answer", "truth"), [("true", "1"), ("0", "false"), ('{"a": true}', '{"a": 1}')])
def test_json_schema_when_a_boolean_stands_for_a_number_then_it_is_not_equal(answer, truth):
    reward = JsonSchema({}, match=True)
    assert (reward.score(answer, json.loads(truth)), reward.score(truth, json.loads(truth))) == (0.0, 1.0)


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


PROSE = 'Here you are:\n```json\n{"city": "Paris"}\n```\nAnything else?'


@pytest.mark.parametrize(
    ("extract", "answer"),
    [
        pytest.param(CodeFence(), PROSE, id="fence"),
        pytest.param(CodeFence(), 'Here: ```{"city": "Paris"}``` Done.', id="fence-on-one-line"),
        pytest.param(CodeFence("json"), 'Here:\n```json\n{"city": "Paris"}```', id="fence-that-ends-on-the-line"),
        pytest.param(Extract(CodeFence("json"), Whole()), PROSE, id="fence-or-whole"),
        pytest.param(Extract(CodeFence("json"), Whole()), '{"city": "Paris"}', id="whole"),
        pytest.param(Tag("answer"), '<answer>{"city": "Paris"}</answer>', id="tag"),
        pytest.param(JsonPath("result"), '{"result": {"city": "Paris"}, "n": 1}', id="path"),
    ],
)
def test_schema_when_it_comes_after_an_extractor_then_prose_does_not_matter(extract, answer):
    reward = extract >> Schema(SCHEMA)
    assert reward.score(answer, None) == 1.0
    assert reward.score(answer.replace("city", "town"), None) == 0.0


@pytest.mark.parametrize(("value", "kind"), [('"Paris"', "string"), ('"72"', "string"), ("72", "integer")])
def test_schema_when_a_path_leads_to_a_value_then_its_type_counts(value, kind):
    for asked in ("string", "integer", "object"):
        reward = JsonPath("city") >> Schema({"type": asked})
        assert reward.score(f'{{"city": {value}}}', None) == float(asked == kind)


@pytest.mark.parametrize(
    ("argument", "score"),
    [({"city": "Paris"}, 1.0), ('{"city": "Paris"}', 1.0), ('{"city": "Rome", "city": "Paris"}', 0.0), ("Paris", 0.0)],
    ids=["object", "object-as-text", "key-twice", "text"],
)
def test_schema_when_the_answer_is_an_argument_of_a_call_then_it_is_judged(argument, score):
    call = {"function": {"name": "submit", "arguments": {"answer": argument}}}
    rollout = Rollout(({"role": "assistant", "content": None, "tool_calls": [call]},))
    assert (ToolArgument("submit", "answer") >> Schema(SCHEMA))(rollout) == score


def test_schema_when_compared_then_equal_by_value_where_true_is_not_1():
    assert Schema(SCHEMA) == pickle.loads(pickle.dumps(Schema(SCHEMA))) == JsonSchema(SCHEMA)
    assert hash(Schema(SCHEMA)) == hash(Schema(SCHEMA))
    assert len({Schema({"const": 1}), Schema({"const": True}), Schema(SCHEMA), Schema(SCHEMA, match=True)}) == 4
