import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aws_rft_sdk.datasets import Packed, pack, unpack
from aws_rft_sdk.errors import ConfigurationError, DatasetError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
NAMES = st.text("abcdef", min_size=1, max_size=3)


@settings(deadline=None, max_examples=60)
@given(
    question=st.text(),
    truth=JSON,
    fields=st.dictionaries(NAMES, JSON, max_size=3),
    data=st.data(),
)
def test_cell_when_packed_and_unpacked_then_everything_is_as_before(question, truth, fields, data):
    shown = data.draw(st.lists(st.sampled_from(["question", *sorted(fields)]), unique=True))

    packed = unpack(pack(question=question, ground_truth=truth, visible=shown, **fields))

    assert (packed.question, packed.ground_truth) == (question, truth)
    assert packed.visible == {"question": question, **{name: fields[name] for name in shown if name in fields}}
    assert {**packed.visible, **packed.hidden} == {
        "question": question,
        **fields,
        **({} if truth is None else {"ground_truth": truth}),
    }


def test_packed_when_shown_in_any_way_then_nothing_hidden_is():
    packed = unpack(pack(question="What?", ground_truth="secret", hint="secret"))

    assert str(packed) == f"{packed}" == "What?"
    assert "secret" not in repr(packed)
    assert "secret" not in str(dict(packed.visible))


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        pytest.param("What?", "not JSON", id="text"),
        pytest.param("[1]", "JSON list", id="array"),
        pytest.param(None, "no packed cell", id="none"),
        pytest.param(["x"], "no packed cell", id="list"),
        pytest.param('{"visible": "question"}', "no list of names", id="visible-is-text"),
        pytest.param('{"question": ' + "[" * 500 + "]" * 500 + "}", "recursion", id="nested"),
    ],
)
def test_cell_when_it_cannot_be_read_then_the_error_says_why(cell, says):
    with pytest.raises(DatasetError, match=says):
        unpack(cell)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param({"visible": ["ground_truth"]}, "not for the model", id="truth-visible"),
        pytest.param({"visible": ["hint"]}, "no such field", id="unknown-visible"),
    ],
)
def test_pack_when_misused_then_it_says_so(arguments, says):
    with pytest.raises(ConfigurationError, match=says):
        pack(question="What?", ground_truth="4", **arguments)


def test_pack_when_a_value_is_not_json_then_it_says_so():
    with pytest.raises(DatasetError, match="not JSON"):
        pack(question="What?", ground_truth=float("nan"))


def test_cell_when_visible_names_come_in_any_form_then_they_are_names():
    cells = {pack(question="What?", hint="h", visible=names) for names in ("hint", ["hint"], iter(["hint"]))}

    assert cells == {'{"question": "What?", "hint": "h", "visible": ["question", "hint"]}'}


@pytest.mark.parametrize("holder", ["reward_spec", "reward_model"])
def test_cell_of_another_maker_shows_its_prompt_alone(holder):
    messages = [{"role": "user", "content": "What?"}]
    cell = json.dumps(
        {
            "data_source": "d",
            "prompt": messages,
            holder: {"ground_truth": "4", "style": "rule"},
        }
    )

    packed = unpack(cell)

    assert (packed.question, packed.ground_truth) == (messages, "4")
    assert packed.visible.keys() == {"prompt"}


def test_ground_truth_when_a_cell_calls_it_visible_then_it_is_hidden_all_the_same():
    packed = unpack('{"question": "q", "ground_truth": "4", "visible": ["question", "ground_truth"]}')

    assert packed == Packed({"question": "q"}, {"ground_truth": "4"})
