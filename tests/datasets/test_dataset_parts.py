"""Convert, prepare, split, sample, dedupe and stats."""

import json

import pytest
from damage import make_rows
from extras import needs
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from aws_rft_sdk import datasets
from aws_rft_sdk.datasets._interop import kind_of, shape_of
from aws_rft_sdk.datasets.preparing import SHOTS
from aws_rft_sdk.errors import ConfigurationError, DatasetError

SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None, derandomize=True
)
SHAPES = ["mtrl", "bedrock", "nova", "nova-multiturn", "qa"]
TARGETS = SHAPES[:4]


def write(path, rows):
    datasets.write_rows(path, rows)
    return path


def back(path):
    return [dict(row) for _, row in datasets.read_rows(path)]


def gsm8k(count):
    return [
        {
            "question": f"Ann has {n} cups.. How many?",
            "answer": f"It is {n}+1=<<{n}+1={n + 1}>>{n + 1:,}.\n#### {n + 1:,}",
        }
        for n in range(count)
    ]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
LIKE_CELLS = st.sampled_from(
    ['{"question": "a"}', '{"a": 1}', "{x} is a set", ' {"prompt": "b", "sealed": "c"}', "[1]"]
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXT}), min_size=2)
ANSWER = st.one_of(TEXT, st.dictionaries(TEXT, TEXT | st.integers(0, 9), min_size=1, max_size=2))
OTHERS = st.dictionaries(st.sampled_from(["level", "key", "prompt", "tools", "metadata"]), TEXT)


class TestConvert:
    @SAME_FOLDER
    @given(question=TEXT | LIKE_CELLS | MESSAGES, answer=st.none() | ANSWER, others=OTHERS, to=st.sampled_from(SHAPES))
    def test_nothing_is_lost_on_a_way_there_and_back(self, tmp_path, question, answer, others, to):
        asked = [{"role": "user", "content": question}] if isinstance(question, str) else question
        row = {"messages": asked, **({} if answer is None else {"reference_answer": answer})}
        if to == "nova-multiturn":
            assume(not isinstance(answer, dict))  # it becomes text there
            row["info"] = others  # where other fields go
        elif to == "qa":
            assume(isinstance(question, str))
            row |= others
        else:
            row |= others
        row["id"] = "a"
        source = write(tmp_path / "in.jsonl", [row])

        datasets.convert(source, tmp_path / "mid.jsonl", to=to)
        datasets.convert(tmp_path / "mid.jsonl", tmp_path / "out.jsonl", to="bedrock", shape=to)

        assert back(tmp_path / "out.jsonl") == [row]

    @pytest.mark.parametrize("name", ["d.csv", pytest.param("d.parquet", marks=needs("parquet"))])
    def test_reference_in_brackets_stays_text_in_a_table(self, tmp_path, name):
        rows = [{"messages": [{"role": "user", "content": "Which?"}], "reference_answer": "[1, 2]"}]

        datasets.convert(write(tmp_path / "in.jsonl", rows), tmp_path / name)
        datasets.convert(tmp_path / name, tmp_path / "out.jsonl")

        assert back(tmp_path / "out.jsonl") == rows

    @pytest.mark.parametrize("to", TARGETS)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_converted_rows_pass_the_check_of_their_target(self, tmp_path, shape, to):
        source = write(tmp_path / "in.jsonl", gsm8k(140))
        datasets.convert(source, tmp_path / "mid.jsonl", to=shape)

        datasets.convert(tmp_path / "mid.jsonl", tmp_path / "out.jsonl", to=to)

        assert datasets.check(tmp_path / "out.jsonl", to).ok

    @pytest.mark.parametrize("by_way_of", ["mtrl", "nova", "nova-multiturn"])
    def test_rows_are_the_same_after_a_way_round(self, tmp_path, by_way_of):
        rows = [{**row, "id": f"r{n}"} for n, row in enumerate(make_rows(3))]
        rows = [{name: row[name] for name in ("messages", "reference_answer", "id")} for row in rows]
        source = write(tmp_path / "in.jsonl", rows)

        datasets.convert(source, tmp_path / "mid.jsonl", to=by_way_of)
        datasets.convert(tmp_path / "mid.jsonl", tmp_path / "out.jsonl", to="bedrock")

        assert back(tmp_path / "out.jsonl") == rows

    def test_reference_and_ground_truth_are_both_carried(self, tmp_path):
        source = write(tmp_path / "in.jsonl", make_rows(3))

        datasets.convert(source, tmp_path / "mid.jsonl", to="mtrl")
        datasets.convert(tmp_path / "mid.jsonl", tmp_path / "out.jsonl", to="bedrock")

        assert (
            datasets.unpack(back(tmp_path / "mid.jsonl")[0]["prompt"]).ground_truth == make_rows(1)[0]["ground_truth"]
        )
        assert back(tmp_path / "out.jsonl") == make_rows(3)

    def test_tools_stay_visible_and_system_messages_stay_messages(self, tmp_path):
        messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What?"}]
        source = write(tmp_path / "in.jsonl", [{"messages": messages, "reference_answer": {"a": 1}, "tools": [1]}])

        datasets.convert(source, tmp_path / "out.jsonl", to="mtrl")

        packed = datasets.unpack(back(tmp_path / "out.jsonl")[0]["prompt"])
        assert packed.visible == {"question": messages, "tools": [1]}
        assert packed.ground_truth == {"a": 1}

    @pytest.mark.parametrize("middle", ["m.csv", pytest.param("m.parquet", marks=needs("parquet")), "m.json"])
    def test_structure_survives_every_format(self, tmp_path, middle):
        source = write(tmp_path / "in.jsonl", make_rows(5))

        datasets.convert(source, tmp_path / middle)
        datasets.convert(tmp_path / middle, tmp_path / "out.jsonl")

        assert back(tmp_path / "out.jsonl") == make_rows(5)

    def test_file_may_be_converted_in_place(self, tmp_path):
        path = write(tmp_path / "d.jsonl", gsm8k(3))

        datasets.convert(path, path, to="mtrl")
        datasets.convert(path, path, to="qa")

        assert back(path) == gsm8k(3)

    @pytest.mark.parametrize("name", ["ground_truth", "reference_answer", "answer", "solution", "completion"])
    @pytest.mark.parametrize("prompt", ["What?", '{"question": "What?"}', '{"prompt": "What?", "level": 1}'])
    def test_columns_beside_a_prompt_are_carried(self, tmp_path, prompt, name):
        source = write(tmp_path / "in.jsonl", [{"prompt": prompt, name: "4", "id": "a", "level": 1}])

        datasets.convert(source, tmp_path / "out.jsonl", to="nova")
        datasets.convert(source, tmp_path / "packed.jsonl", to="mtrl")

        assert back(tmp_path / "out.jsonl") == [
            {
                "id": "a",
                "messages": [{"role": "user", "content": "What?"}],
                "reference_answer": "4",
                "level": 1,
            }
        ]
        packed = datasets.unpack(back(tmp_path / "packed.jsonl")[0]["prompt"])
        assert (packed.question, packed.ground_truth, packed.hidden["id"]) == ("What?", "4", "a")

    def test_field_called_as_an_argument_is_a_field(self, tmp_path):
        rows = [{"messages": [{"role": "user", "content": "What?"}], "reference_answer": "4", "key": "k"}]

        datasets.convert(write(tmp_path / "in.jsonl", rows), tmp_path / "mid.jsonl", to="mtrl")
        datasets.convert(tmp_path / "mid.jsonl", tmp_path / "out.jsonl", to="bedrock")

        assert back(tmp_path / "out.jsonl") == rows

    @pytest.mark.parametrize(
        ("name", "to"),
        [("question", "mtrl"), ("visible", "mtrl"), ("question", "qa"), ("answer", "qa")],
    )
    def test_field_that_would_take_the_place_of_another_is_refused(self, tmp_path, name, to):
        row = {"messages": [{"role": "user", "content": "What?"}], "reference_answer": "4", name: "k"}

        with pytest.raises(DatasetError, match=f"line 1 .* a field '{name}' has no place"):
            datasets.convert(write(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl", to=to)

    @pytest.mark.parametrize(
        ("fields", "kind", "shape"),
        [
            ("messages", "bedrock", "bedrock"),
            ("messages prompt question answer", "bedrock", "bedrock"),
            ("id messages", "nova", "nova"),
            ("id metadata", "nova-multiturn", "nova-multiturn"),
            ("question answer", "question/answer", "qa"),
            ("id metadata question answer", "question/answer", "qa"),
            ("conversations", "ShareGPT", "sharegpt"),
            ("prompt reward_model={}", "verl", "verl"),
            ("prompt=[] answer", "TRL", "trl"),
            ("prompt=[] chosen rejected", "preference", "trl"),
            ("prompt chosen rejected", "preference", "mtrl"),
            ("prompt completion", "prompt/completion", "mtrl"),
            ("instruction input output", "Alpaca instruction/output", "mtrl"),
            ("problem solution", "problem/solution", "mtrl"),
            ("problem answer", "problem/answer", "mtrl"),
            ("prompt reward_model", "mtrl", "mtrl"),
            ("question", "", "mtrl"),
        ],
    )
    def test_kind_and_shape_are_told_by_the_keys(self, fields, kind, shape):
        row = {
            name: json.loads(value or '"text"') for name, _, value in (item.partition("=") for item in fields.split())
        }

        assert (kind_of(row), shape_of(row)) == (kind, shape)

    @pytest.mark.parametrize(
        ("row", "shape", "to"),
        [
            pytest.param({"question": "a"}, "qa", "bedrock", id="no-answer"),
            pytest.param({"messages": "a"}, "bedrock", "mtrl", id="no-messages"),
            pytest.param({"messages": []}, "bedrock", "mtrl", id="empty-messages"),
            pytest.param({"prompt": 5}, "mtrl", "bedrock", id="no-text"),
            pytest.param({"prompt": "{"}, "mtrl", "bedrock", id="broken-cell"),
            pytest.param({"id": "a", "metadata": []}, "nova-multiturn", "mtrl", id="no-metadata"),
            pytest.param(
                {"messages": [{"role": "system", "content": "a"}] * 2}, "bedrock", "qa", id="two-messages-as-question"
            ),
        ],
    )
    def test_row_that_has_not_the_shape_is_refused_with_its_line(self, tmp_path, row, shape, to):
        path = tmp_path / "in.jsonl"
        path.write_text("\n" + json.dumps(row) + "\n")

        with pytest.raises(DatasetError, match="line 2 is no row of shape") as raised:
            datasets.convert(path, tmp_path / "out.jsonl", to=to, shape=shape)

        assert raised.value.line == 2
        assert not (tmp_path / "out.jsonl").exists()


class TestPrepare:
    def test_gsm8k_is_split_and_its_answers_are_taken_out(self, tmp_path):
        source = write(tmp_path / "in.jsonl", gsm8k(1205))

        counts = datasets.prepare_gsm8k(source, tmp_path / "out", to="qa")

        train, validation = back(tmp_path / "out/train.jsonl"), back(tmp_path / "out/validation.jsonl")
        assert (
            counts
            == {"train.jsonl": 1085, "validation.jsonl": 120}
            == {
                "train.jsonl": len(train),
                "validation.jsonl": len(validation),
            }
        )
        assert sorted(int(row["answer"]) for row in train + validation) == list(range(1, 1206))
        assert train[0]["question"].startswith("Question: Ann has ")
        assert train[0]["question"].endswith(" cups. How many?\nSolution: Let's think step by step. ")

    @pytest.mark.parametrize("shots", range(9))
    def test_shots_come_first_in_an_order_that_the_seed_decides(self, tmp_path, shots):
        source = write(tmp_path / "in.jsonl", gsm8k(20))

        def prompts(seed):
            datasets.prepare_gsm8k(source, tmp_path / "out", shots=shots, seed=seed, to="qa")
            return [row["question"] for row in back(tmp_path / "out/train.jsonl")]

        first = prompts(1)
        assert {prompt.count("#### The final answer is ") for prompt in first} == {shots}
        assert {prompt.count("Question: ") for prompt in first} == {shots + 1}
        assert prompts(1) == first
        assert len({prompt.partition("Question: Ann")[0] for prompt in first}) == 1
        assert prompts(2) != first

    def test_shots_are_right(self):
        assert [shot.answer for shot in SHOTS] == ["45", "50", "39", "12", "28", "8", "6", "15"]
        assert all(shot.answer in shot.solution for shot in SHOTS)

    @pytest.mark.parametrize(
        ("solution", "answer"),
        [
            pytest.param("a\n#### 72", "72", id="plain"),
            pytest.param("#### 1,234,567", "1234567", id="commas"),
            pytest.param("#### -5\n", "-5", id="negative"),
            pytest.param("#### 1\n#### 2.5", "2.5", id="last"),
            pytest.param("####7", "7", id="no-blank"),
            pytest.param("#### 7 #### -8", "-8", id="last-of-a-line"),
            pytest.param("#### 7\nThat is all.", None, id="text-behind"),
            pytest.param("72", None, id="no-mark"),
            pytest.param("#### ,", None, id="no-digit"),
            pytest.param("####", None, id="nothing"),
        ],
    )
    def test_final_answer_is_what_follows_the_mark(self, solution, answer):
        assert datasets.final_answer(solution) == answer

    def test_marks_and_doubled_stops_are_removed(self):
        assert "3*4=12. Then 5.\n" in datasets.few_shot_prompt("3*4=<<3*4=12>>12.. Then 5...")

    @pytest.mark.parametrize("row", [{"question": "a", "answer": "b"}, {"question": "", "answer": "#### 1"}, {"q": 1}])
    def test_row_without_question_or_answer_is_refused_with_its_line(self, tmp_path, row):
        source = write(tmp_path / "in.jsonl", [*gsm8k(12), row])

        with pytest.raises(DatasetError, match="line 13") as raised:
            datasets.prepare_gsm8k(source, tmp_path / "out")

        assert raised.value.line == 13


PROMPTS = st.lists(st.integers(0, 12), min_size=2, max_size=30).filter(lambda numbers: len(set(numbers)) > 1)


class TestParts:
    @SAME_FOLDER
    @given(prompts=PROMPTS, share=st.floats(0.01, 0.99), seed=st.integers(0, 5))
    def test_split_gives_every_row_to_one_side_and_a_prompt_never_to_both(self, tmp_path, prompts, share, seed):
        rows = [{"prompt": f"p{prompt}", "n": n} for n, prompt in enumerate(prompts)]
        source = write(tmp_path / "in.jsonl", rows)

        counts = datasets.split(source, tmp_path / "a.jsonl", tmp_path / "b.jsonl", share=share, seed=seed)

        first, second = back(tmp_path / "a.jsonl"), back(tmp_path / "b.jsonl")
        assert counts == (len(first), len(second))
        assert min(counts) > 0
        assert sorted(first + second, key=lambda row: row["n"]) == rows
        assert first == sorted(first, key=lambda row: row["n"])
        assert not {row["prompt"] for row in first} & {row["prompt"] for row in second}

    def test_split_is_exact_when_prompts_are_different(self, tmp_path):
        source = write(tmp_path / "in.jsonl", make_rows(200))

        assert datasets.split(source, tmp_path / "a.csv", tmp_path / "b.json", share=0.25) == (150, 50)

    @SAME_FOLDER
    @given(count=st.integers(1, 30), wanted=st.integers(1, 40), seed=st.integers(0, 5))
    def test_sample_is_of_the_wanted_size_and_in_order(self, tmp_path, count, wanted, seed):
        source = write(tmp_path / "in.jsonl", [{"prompt": str(n), "n": n} for n in range(count)])

        assert datasets.sample(source, tmp_path / "out.jsonl", rows=wanted, seed=seed) == min(count, wanted)

        numbers = [row["n"] for row in back(tmp_path / "out.jsonl")]
        assert numbers == sorted(set(numbers))
        assert len(numbers) == min(count, wanted)

    @SAME_FOLDER
    @given(prompts=st.lists(st.integers(0, 9), min_size=1, max_size=30))
    def test_dedupe_keeps_the_first_of_each_prompt(self, tmp_path, prompts):
        rows = [{"prompt": f"p{prompt}", "n": n} for n, prompt in enumerate(prompts)]
        source = write(tmp_path / "d.jsonl", rows)

        counts = datasets.dedupe(source, source)

        assert [row["prompt"] for row in back(source)] == list(dict.fromkeys(row["prompt"] for row in rows))
        assert counts == (len(set(prompts)), len(prompts) - len(set(prompts)))

    def test_misuse_is_refused(self, tmp_path):
        source = write(tmp_path / "in.jsonl", [{"prompt": "a"}])

        with pytest.raises(ConfigurationError, match="between 0 and 1"):
            datasets.split(source, tmp_path / "a.jsonl", tmp_path / "b.jsonl", share=1)
        with pytest.raises(ConfigurationError, match="three files"):
            datasets.split(source, tmp_path / "a.jsonl", tmp_path / "a.jsonl")
        with pytest.raises(DatasetError, match="two different prompts"):
            datasets.split(source, tmp_path / "a.jsonl", tmp_path / "b.jsonl")
        with pytest.raises(ConfigurationError, match="at least 1"):
            datasets.sample(source, tmp_path / "a.jsonl", rows=0)
        with pytest.raises(ConfigurationError, match="use one of mtrl, bedrock"):
            datasets.convert(source, tmp_path / "a.jsonl", to="verl")


class TestStats:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_figures_are_the_same_in_every_shape(self, tmp_path, shape):
        rows = [{"question": "x" * n, "answer": f"#### {n % 2}"} for n in range(1, 11)]
        source = write(tmp_path / "in.jsonl", [*rows, rows[0]])
        datasets.convert(source, tmp_path / "d.jsonl", to=shape)

        stats = datasets.stats(tmp_path / "d.jsonl")

        assert (stats.rows, stats.duplicate_rows, stats.without_answer) == (11, 1, 0)
        assert stats.prompt_chars == datasets.Lengths(1, 5, 56 / 11, 9, 10)
        assert stats.top_answers == (("1", 6), ("0", 5))
        assert stats.top_share == 6 / 11
        assert json.loads(json.dumps(stats.as_json()))["distinct_answers"] == 2

    def test_rows_without_answer_are_counted(self, tmp_path):
        stats = datasets.stats(write(tmp_path / "d.csv", [{"prompt": "a"}, {"prompt": "é" * 8}]))

        assert (stats.without_answer, stats.top_share) == (2, 0.0)
        assert stats.prompt_tokens.maximum == 8

    def test_file_without_rows_is_refused(self, tmp_path):
        (tmp_path / "d.jsonl").touch()
        with pytest.raises(DatasetError, match="no rows"):
            datasets.stats(tmp_path / "d.jsonl")
