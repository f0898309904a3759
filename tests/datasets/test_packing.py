import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aws_rft_sdk.datasets import Packed, new_key, pack, unpack
from aws_rft_sdk.errors import ConfigurationError, DatasetError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
NAMES = st.text("abcdef", min_size=1, max_size=3)
KEY = new_key()


@settings(deadline=None, max_examples=60)
@given(
    question=st.text(),
    truth=JSON,
    fields=st.dictionaries(NAMES, JSON, max_size=3),
    key=st.sampled_from([None, KEY, b"k" * 16, b"k" * 24, b"k" * 32]),
    data=st.data(),
)
def test_cell_when_packed_and_unpacked_then_everything_is_as_before(question, truth, fields, key, data):
    shown = data.draw(st.lists(st.sampled_from(["question", *sorted(fields)]), unique=True))

    packed = unpack(pack(question=question, ground_truth=truth, visible=shown, key=key, **fields), key=key)

    assert (packed.question, packed.ground_truth) == (question, truth)
    assert packed.visible == {"question": question, **{name: fields[name] for name in shown if name in fields}}
    assert {**packed.visible, **packed.hidden} == {
        "question": question,
        **fields,
        **({} if truth is None else {"ground_truth": truth}),
    }


@pytest.mark.parametrize("key", [None, KEY], ids=["open", "encrypted"])
def test_packed_when_shown_in_any_way_then_nothing_hidden_is(key):
    packed = unpack(pack(question="What?", ground_truth="secret", hint="secret", key=key), key=key)

    assert str(packed) == f"{packed}" == "What?"
    assert "secret" not in repr(packed)
    assert "secret" not in str(dict(packed.visible))


def test_cell_when_encrypted_then_it_holds_nothing_hidden_and_differs_each_time():
    cells = {pack(question="What?", ground_truth="secret", answers=["secret"], key=KEY) for _ in range(3)}

    assert len(cells) == 3
    for cell in cells:
        assert "secret" not in cell
        assert "answers" not in cell
        assert json.loads(cell).keys() == {"question", "visible", "sealed"}


def _changed(cell, **fields):
    return json.dumps({**json.loads(cell), **fields})


SEALED = pack(question="What?", ground_truth="secret", key=KEY)


@pytest.mark.parametrize(
    ("cell", "key", "says"),
    [
        pytest.param(SEALED, new_key(), "another key", id="other-key"),
        pytest.param(SEALED, None, "no key was given", id="no-key"),
        pytest.param(_changed(SEALED, question="Which?"), KEY, "a changed prompt", id="question-changed"),
        pytest.param(_changed(SEALED, sealed="AAAA"), KEY, "a changed prompt", id="sealed-cut"),
        pytest.param(_changed(SEALED, ground_truth="mine"), KEY, "a changed prompt", id="truth-in-the-open"),
        pytest.param(_changed(SEALED, sealed=None, ground_truth="mine"), KEY, "a changed prompt", id="seal-removed"),
        pytest.param(pack(question="What?", ground_truth="4"), KEY, "not encrypted", id="never-sealed"),
        pytest.param(_changed(SEALED, sealed="?"), KEY, "a changed prompt", id="sealed-no-base64"),
        pytest.param("What?", None, "not JSON", id="text"),
        pytest.param("[1]", None, "JSON list", id="array"),
        pytest.param('{"visible": "question"}', None, "no list of names", id="visible-is-text"),
    ],
)
def test_cell_when_it_cannot_be_read_then_the_error_says_why(cell, key, says):
    with pytest.raises(DatasetError, match=says):
        unpack(cell, key=key)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param({"visible": ["ground_truth"]}, "not for the model", id="truth-visible"),
        pytest.param({"visible": ["hint"]}, "no such field", id="unknown-visible"),
        pytest.param({"sealed": 1}, "cannot be called", id="reserved"),
        pytest.param({"key": b"short"}, "5 bytes", id="short-key"),
        pytest.param({"key": "no base64!"}, "no base64", id="malformed-key"),
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


def test_cell_when_keys_are_numbers_then_it_opens_all_the_same():
    cell = pack(question="What?", ground_truth="4", steps={2: "b", 10: "c", "x": "d"}, visible=["steps"], key=KEY)

    assert unpack(cell, key=KEY).visible["steps"] == {"2": "b", "10": "c", "x": "d"}


def test_cell_of_another_maker_shows_its_prompt_alone():
    messages = [{"role": "user", "content": "What?"}]
    cell = json.dumps(
        {
            "data_source": "d",
            "prompt": messages,
            "reward_spec": {"ground_truth": "4", "style": "rule"},
        }
    )

    packed = unpack(cell)

    assert (packed.question, packed.ground_truth) == (messages, "4")
    assert packed.visible.keys() == {"prompt"}


def test_ground_truth_when_a_cell_calls_it_visible_then_it_is_hidden_all_the_same():
    packed = unpack('{"question": "q", "ground_truth": "4", "visible": ["question", "ground_truth"]}')

    assert packed == Packed({"question": "q"}, {"ground_truth": "4"})


def test_encryption_when_cryptography_is_missing_then_the_extra_is_named_and_nothing_else_needs_it():
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from aws_rft_sdk import datasets\n"
        "datasets.unpack(datasets.pack(question='a', ground_truth='b'))\n"
        "try:\n    datasets.pack(question='a', key=datasets.new_key())\n"
        "except datasets.packing.ConfigurationError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "aws-rft-sdk[encryption]" in result.stdout
