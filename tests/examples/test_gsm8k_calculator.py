"""The GSM8K example: its calculator, reward, problems, policy and converter; then all of it through a real agent."""

import asyncio
import importlib.util
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from aws_rft_sdk import LocalRuntime
from aws_rft_sdk.runtime import CallablePolicy, ReplayPolicy

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "gsm8k_calculator"
SOLUTIONS = Path(os.environ.get("RFT_GSM8K_SOLUTIONS", ROOT.parent / "shared/data/gsm8k/model_solutions.jsonl"))
MODELS = {"6b_finetuning": 22.05, "6b_verification": 38.18, "175b_finetuning": 35.45, "175b_verification": 55.23}
"""Percentage of right solutions of each model in the file."""


def load(name: str) -> ModuleType:
    """Load a file of the example under a name that no other module has, as the command line does."""
    if str(EXAMPLE) not in sys.path:
        sys.path.append(str(EXAMPLE))
    spec = importlib.util.spec_from_file_location(f"gsm8k_example_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


agent, convert, policy = load("agent"), load("convert"), load("policy")
arithmetic, task = sys.modules["gsm8k_arithmetic"], sys.modules["gsm8k_task"]

CELLS = [row["prompt"] for row in convert.read_jsonl(EXAMPLE / "problems.jsonl")]
WORKED = convert.read_jsonl(EXAMPLE / "worked.jsonl")
QUESTIONS = [row["question"] for row in WORKED]


# --- calculator


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        pytest.param("2 + 3 * 4", "14", id="precedence"),
        pytest.param("(2 + 3) * 4", "20", id="parentheses"),
        pytest.param("2 ** 3 ** 2", "512", id="powers_bind_to_the_right"),
        pytest.param("-2 ** 2", "-4", id="sign_after_power"),
        pytest.param("- - 3", "3", id="signs"),
        pytest.param("+5", "5", id="plus_sign"),
        pytest.param("7 / 2", "3.5", id="division"),
        pytest.param("6 / 2", "3", id="whole_quotient_has_no_point"),
        pytest.param("7 // 2", "3", id="floor_division"),
        pytest.param("-7 // 2", "-4", id="floor_division_of_negative"),
        pytest.param("17 % 5", "2", id="modulo"),
        pytest.param("1260 / 1.4", "900", id="noise_of_floats_is_rounded_off"),
        pytest.param("0.1 + 0.2", "0.3", id="decimal_fractions"),
        pytest.param(".5 + 1.", "1.5", id="bare_points"),
        pytest.param("1 / 3", "0.333333333333333", id="fifteen_digits"),
        pytest.param("0 * -1.5", "0", id="no_negative_zero"),
        pytest.param("2 ** 0.5 * 2 ** 0.5", "2", id="root"),
        pytest.param("999999999999999", "999999999999999", id="largest_whole_number"),
        pytest.param("2 ** -1", "0.5", id="negative_exponent"),
        pytest.param("1.001 ** 1000", "2.71692393223559", id="largest_exponent"),
        pytest.param("  3\t*\N{NO-BREAK SPACE}4 ", "12", id="spaces_of_any_kind"),
        pytest.param("6 \N{MULTIPLICATION SIGN} 4 \N{DIVISION SIGN} 3 \N{MINUS SIGN} 1", "7", id="school_symbols"),
        pytest.param("(" * 50 + "1" + ")" * 50, "1", id="deep"),
    ],
)
def test_calculate_when_arithmetic_then_value(expression: str, value: str) -> None:
    assert arithmetic.calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        pytest.param("", "1 to 200 characters", id="empty"),
        pytest.param(" \t", "1 to 200 characters", id="blank"),
        pytest.param("1+" * 100 + "1", "1 to 200 characters", id="long"),
        pytest.param("1 / 0", "division by zero", id="division_by_zero"),
        pytest.param("1 // 0", "division by zero", id="floor_division_by_zero"),
        pytest.param("5 % (3 - 3)", "division by zero", id="modulo_zero"),
        pytest.param("0 ** -1", "division by zero", id="zero_to_a_negative_power"),
        pytest.param("9**9**9", "too large", id="huge_power"),
        pytest.param("9**9**9**9**9", "too large", id="huger_power"),
        pytest.param("999999999999999 ** 1000", "too large", id="largest_power_that_is_tried"),
        pytest.param("999999999999999.5 ** 999", "too large", id="float_overflow"),
        pytest.param("1" + "0" * 15, "too large", id="just_too_large"),
        pytest.param("-1" + "0" * 15, "too large", id="just_too_small"),
        pytest.param("9" * 200, "too large", id="long_number"),
        pytest.param("(-8) ** 0.5", "not a real number", id="complex"),
        pytest.param("1 +", "not an arithmetic expression", id="unfinished"),
        pytest.param("(1 + 2", "not an arithmetic expression", id="unclosed"),
        pytest.param("20%", "not an arithmetic expression", id="percent"),
        pytest.param("007 + 1", "not an arithmetic expression", id="leading_zeros"),
        pytest.param("1 2", "not an arithmetic expression", id="two_numbers"),
        pytest.param("5(3)", "not an arithmetic expression", id="call_of_a_number"),
        pytest.param("()", "not an arithmetic expression", id="empty_tuple"),
        pytest.param("...", "not an arithmetic expression", id="ellipsis"),
        pytest.param("(*1)", "not an arithmetic expression", id="star"),
        pytest.param("(" * 99 + "1" + ")" * 99 + "*", "not an arithmetic expression", id="deep_and_broken"),
        pytest.param("9,300 / 30", "no commas", id="thousands"),
        pytest.param("1, 2", "no commas", id="tuple"),
        pytest.param("X * 2", "letters", id="name"),
        pytest.param("1e9", "letters", id="scientific"),
        pytest.param("0x10", "letters", id="hexadecimal"),
        pytest.param("2j", "letters", id="imaginary"),
        pytest.param("True + 1", "letters", id="bool"),
        pytest.param("abs(-1)", "letters", id="call"),
        pytest.param("__import__('os').getcwd()", "digits", id="import"),
        pytest.param("(1).real", "letters", id="attribute"),
        pytest.param("[1][0]", "digits", id="subscript"),
        pytest.param("'1' + '2'", "digits", id="strings"),
        pytest.param("1 << 90", "digits", id="shift"),
        pytest.param("1 < 2", "digits", id="comparison"),
        pytest.param("~1", "digits", id="inversion"),
        pytest.param("1 = 1", "digits", id="equation"),
        pytest.param("3\n+ 4", "digits", id="line_break"),
        pytest.param("1\0", "digits", id="null"),
        pytest.param("\N{ARABIC-INDIC DIGIT THREE} + 1", "digits", id="other_digits"),
        pytest.param("2\N{SUPERSCRIPT TWO}", "digits", id="superscript"),
        pytest.param("$5 + 1", "digits", id="currency"),
    ],
)
def test_calculate_when_not_arithmetic_then_value_error_at_once(expression: str, reason: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ValueError, match=reason):
        arithmetic.calculate(expression)
    assert time.perf_counter() - started < 0.5


def test_calculator_tool_when_it_cannot_calculate_then_says_so_to_the_model() -> None:
    assert agent.calculator("3 * 4") == "12"
    assert agent.calculator("3 / 0") == "Error: division by zero"


def test_calculator_tool_when_described_then_takes_one_expression() -> None:
    schema = agent.calculator.tool_spec["inputSchema"]["json"]
    assert list(schema["properties"]) == schema["required"] == ["expression"]


# --- reward


@pytest.mark.parametrize(
    ("text", "number"),
    [
        pytest.param("18", "18", id="whole"),
        pytest.param(" 18 ", "18", id="spaces"),
        pytest.param("18.0", "18", id="point_zero"),
        pytest.param("18.", "18", id="full_stop"),
        pytest.param("18.50.", "18.5", id="fraction_and_full_stop"),
        pytest.param(".5", "0.5", id="no_whole_part"),
        pytest.param("-3", "-3", id="negative"),
        pytest.param("\N{MINUS SIGN}3", "-3", id="minus_sign"),
        pytest.param("-0", "0", id="negative_zero"),
        pytest.param("1,234,567.5", "1234567.5", id="commas"),
        pytest.param("$70,000", "70000", id="dollars"),
        pytest.param("-$5", "-5", id="sign_before_currency"),
        pytest.param("$-5", "-5", id="sign_after_currency"),
        pytest.param("€5", "5", id="euros"),
        pytest.param("12%", "12", id="percent"),
        pytest.param("12 %", "12", id="percent_apart"),
        pytest.param("007", "7", id="leading_zeros"),
        pytest.param("9" * 40, "9" * 40, id="exact_beyond_floats"),
    ],
)
def test_parse_number_when_written_by_people_then_value(text: str, number: str) -> None:
    assert task.parse_number(text) == Decimal(number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "$",
        "-",
        ".",
        "%",
        "--5",
        "-$-5",
        "+5",
        "1,2",
        "1,2345",
        "12,34.5",
        ",5",
        "1 2",
        "1/2",
        "1e3",
        "x",
        "12 apples",
        "-1.8 billion",
        "NaN",
        "inf",
        "5\n6",
        "\N{ARABIC-INDIC DIGIT THREE}",
    ],
)
def test_parse_number_when_anything_else_then_none(text: str) -> None:
    assert task.parse_number(text) is None


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        pytest.param("#### 42", 1.0, id="bare"),
        pytest.param("First this.\nThen that.\n#### 42\n", 1.0, id="after_text"),
        pytest.param("####42", 1.0, id="no_space"),
        pytest.param("  ####  $42.00 \r\n", 1.0, id="space_around"),
        pytest.param("#### 41\n#### 42", 1.0, id="last_line_counts"),
        pytest.param("#### 42\n#### 41", 0.0, id="last_line_counts_when_wrong"),
        pytest.param("#### 42\nSo it is 42.", 1.0, id="text_after"),
        pytest.param("#### 42\n#### about 40", 1.0, id="a_line_without_number_is_no_answer"),
        pytest.param("#### 43", 0.0, id="wrong"),
        pytest.param("#### -42", 0.0, id="wrong_sign"),
        pytest.param("#### 42.000000000000001", 0.0, id="exact"),
        pytest.param("The answer is 42.", 0.0, id="no_line"),
        pytest.param("The answer: #### 42", 0.0, id="not_a_line_of_its_own"),
        pytest.param("#### 42 apples", 0.0, id="unit"),
        pytest.param("####\n42", 0.0, id="number_on_the_next_line"),
        pytest.param("A: 42", 0.0, id="other_mark"),
        pytest.param("", 0.0, id="empty"),
    ],
)
def test_reward_when_final_line_then_exact_number(text: str, reward: float) -> None:
    assert task.Task("?", "42").reward(text) == reward


def test_reward_when_answer_has_commas_then_compared_as_number() -> None:
    assert task.Task("?", "114,200").reward("#### 114200.0") == 1.0


def test_reward_when_answer_unknown_then_none_and_not_zero() -> None:
    assert task.Task("?").reward("#### 42") is None


def test_reward_when_answer_is_no_number_then_error() -> None:
    with pytest.raises(ValueError, match="'forty-two'"):
        task.Task("?", "forty-two").reward("#### 42")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        pytest.param('{"question": "How many?", "answer": "4"}', ("How many?", "4"), id="text"),
        pytest.param('{"question": "How many?", "answer": 4.5}', ("How many?", "4.5"), id="number"),
        pytest.param('{"question": "How many?"}', ("How many?", None), id="no_answer"),
        pytest.param('{"question": "How many?", "answer": null}', ("How many?", None), id="null_answer"),
        pytest.param("How many?", ("How many?", None), id="plain"),
        pytest.param("42", ("42", None), id="json_but_no_object"),
        pytest.param('{"answer": "4"}', ('{"answer": "4"}', None), id="no_question"),
    ],
)
def test_parse_cell_when_any_text_then_task(cell: str, expected: tuple[str, str | None]) -> None:
    parsed = task.Task.parse(cell)
    assert (parsed.question, parsed.answer) == expected


def test_cell_when_parsed_then_same_task() -> None:
    original = task.Task('"How" many\ncaf\u00e9s\u2028?', "4")
    assert task.Task.parse(original.cell()) == original


# --- problems and policy


def answer_of(cell: str) -> str:
    answer = task.Task.parse(cell).answer
    assert answer is not None
    return answer


def test_problems_when_worked_out_then_every_answer_is_right() -> None:
    assert len(CELLS) >= 40
    assert [task.Task.parse(cell).question for cell in CELLS] == QUESTIONS
    assert len(set(QUESTIONS)) == len(QUESTIONS)
    for cell, row in zip(CELLS, WORKED, strict=True):
        results: list[str] = []
        for step in row["steps"]:
            results.append(arithmetic.calculate(step["expression"].format(*results)))
        assert results[-1] == answer_of(cell), row["question"]
        assert len(results) >= 2


def converse(question: str, **request: Any) -> tuple[list[dict[str, Any]], int]:
    """Talk with the policy as an agent does; return the messages and the number of calculator errors."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Solve."}, {"role": "user", "content": question}]
    errors = 0
    while True:
        messages.append(policy.policy({"messages": messages, **request}))
        calls = messages[-1].get("tool_calls", [])
        if not calls:
            return messages, errors
        assert len(calls) == 1
        assert calls[0]["function"]["name"] == "calculator"
        result = agent.calculator(**json.loads(calls[0]["function"]["arguments"]))
        errors += result.startswith("Error")
        messages.append({"role": "tool", "tool_call_id": calls[0]["id"], "content": result})


def test_policy_when_it_does_not_slip_then_one_call_for_each_step_and_results_are_used() -> None:
    question = QUESTIONS[0]
    steps = len(WORKED[0]["steps"])
    clean = next(sample for sample in range(100) if policy.make_plan(question, sample).slip is None)
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": question}]}]
    # Take up the conversation of that sample: its number is in the id of the first call.
    call_id = f"sample-{clean}-step-0"
    messages.append({"role": "assistant", "tool_calls": [{"id": call_id}], "content": None})
    messages.append({"role": "tool", "tool_call_id": call_id, "content": [{"type": "text", "text": "1000"}]})
    second = policy.policy({"messages": messages})
    assert "1000" in json.loads(second["tool_calls"][0]["function"]["arguments"])["expression"]
    assert second["tool_calls"][0]["id"] == f"sample-{clean}-step-1"
    for step in range(1, steps):
        messages += [second, {"role": "tool", "tool_call_id": f"{step}", "content": "77"}]
    assert policy.policy({"messages": messages})["content"].endswith("\n#### 77")


@pytest.mark.parametrize("cell", CELLS, ids=range(len(CELLS)))
def test_policy_when_it_slips_then_reward_is_zero_and_otherwise_one(cell: str) -> None:
    problem = task.Task.parse(cell)
    sample_reward = {}
    for _ in range(60):
        messages, errors = converse(problem.question)
        sample = int(messages[2]["tool_calls"][0]["id"].split("-")[1])
        slip = policy.make_plan(problem.question, sample).slip
        sample_reward[sample] = problem.reward(messages[-1]["content"])
        assert sample_reward[sample] == (slip in (None, policy.Slip.BAD_CALL)), (slip, messages)
        if slip is not policy.Slip.WRONG_NUMBER:  # which may lead to a division by zero or the like
            assert errors == (slip is policy.Slip.BAD_CALL)
    assert len(sample_reward) == 60  # no number is given twice
    assert set(sample_reward.values()) == {0.0, 1.0}


def test_policy_when_groups_of_eight_then_few_are_all_equal() -> None:
    """A group whose rewards are all equal teaches nothing, so the example must not consist of them."""
    right = (None, policy.Slip.BAD_CALL)
    slips = [[policy.make_plan(question, sample).slip for sample in range(8)] for question in QUESTIONS]
    equal = sum(len({slip in right for slip in group}) == 1 for group in slips)
    assert equal <= len(QUESTIONS) / 5
    assert {slip for group in slips for slip in group} == {None, *policy.Slip}


def test_policy_when_temperature_zero_then_always_the_same() -> None:
    first, _ = converse(QUESTIONS[3], temperature=0)
    again, _ = converse(QUESTIONS[3], temperature=0.0)
    assert first == again


def test_policy_when_loaded_anew_then_same_samples() -> None:
    fresh = load("policy")
    plans = [[module.make_plan(question, 5) for question in QUESTIONS] for module in (policy, fresh)]
    assert list(map(repr, plans[0])) == list(map(repr, plans[1]))


def test_policy_when_many_threads_begin_at_once_then_each_sample_once() -> None:
    request = {"messages": [{"role": "user", "content": QUESTIONS[7]}]}
    barrier = threading.Barrier(16)

    def begin(_: int) -> list[str]:
        barrier.wait()
        return [policy.policy(request)["tool_calls"][0]["id"] for _ in range(50)]

    with ThreadPoolExecutor(16) as pool:
        ids = [call_id for batch in pool.map(begin, range(16)) for call_id in batch]
    assert len(set(ids)) == len(ids) == 800


def test_policy_when_calculator_fails_on_a_needed_step_then_gives_up_without_final_line() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": QUESTIONS[0]}]
    messages.append(policy.policy({"messages": messages, "temperature": 0}))
    messages.append({"role": "tool", "tool_call_id": "1", "content": "the calculator is broken"})
    answer = policy.policy({"messages": messages, "temperature": 0})
    assert policy.make_plan(QUESTIONS[0], 0).steps[0].counts
    assert "tool_calls" not in answer
    assert task.final_number(answer["content"]) is None


def test_policy_when_question_unknown_then_error_names_it() -> None:
    with pytest.raises(LookupError, match="not 'How old is she'"):
        policy.policy({"messages": [{"role": "user", "content": "How old is she"}]})


# --- converter

ROW = {
    "question": "Two cats have 3 kittens each \u2014 how many kittens?",
    "ground_truth": "That is 2*3=<<2*3=6>>6 kittens.\nA: 6",
    "small": {"solution": "2 x 3 = <<2*3=6>>6 kittens\nDoubled: <<6*2=12.0>>12\nA: 12", "is_correct": False},
}


def test_convert_when_solution_has_calculations_then_a_turn_for_each_and_one_for_the_answer() -> None:
    recording, dataset = convert.convert([ROW], "small")
    assert recording == [
        {
            "prompt": ROW["question"],
            "turns": [
                {
                    "role": "assistant",
                    "content": "2 x 3 = ",
                    "tool_calls": [
                        {
                            "id": "call_0",
                            "type": "function",
                            "function": {"name": "calculator", "arguments": '{"expression": "2*3"}'},
                        }
                    ],
                },
                {
                    "role": "assistant",
                    "content": "6 kittens\nDoubled: ",
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "calculator", "arguments": '{"expression": "6*2"}'},
                        }
                    ],
                },
                {"role": "assistant", "content": "12\n#### 12"},
            ],
        }
    ]
    assert [json.loads(row["prompt"]) for row in dataset] == [{"question": ROW["question"], "answer": "6"}]


@pytest.mark.parametrize(
    ("solution", "expressions", "last"),
    [
        pytest.param("It is six.\nA: 6", [], "It is six.\n#### 6", id="no_calculation"),
        pytest.param("A: 6", [], "#### 6", id="answer_only"),
        pytest.param("A:6 \n", [], "#### 6", id="spaces"),
        pytest.param("A: 1,250", [], "#### 1,250", id="commas"),
        pytest.param("A: -1.8 billion", [], "#### -1.8 billion", id="answer_is_no_number"),
        pytest.param("So <<2+2=4>>4 and then", ["2+2"], "4 and then", id="breaks_off"),
        pytest.param("So <<2+2=4>>4, <<4*3.33333", ["2+2"], "4, <<4*3.33333", id="breaks_off_in_a_calculation"),
        pytest.param("<<2+2=4 cats.\nA: 4", [], "<<2+2=4 cats.\n#### 4", id="unclosed_calculation"),
        pytest.param("<<2+2=4>><<4+1=5>>\nA: 5", ["2+2", "4+1"], "\n#### 5", id="nothing_between"),
        pytest.param("<<6/2=3.0=3>>3", ["6/2"], "3", id="two_results"),
        pytest.param("<<3*A=9*A=72>>72", ["3*A"], "72", id="equation"),
        pytest.param("<<2+2>>4", ["2+2"], "4", id="no_result"),
        pytest.param("<<=4>>4", [""], "4", id="no_expression"),
        pytest.param("<<9,300/30=310>>310", ["9,300/30"], "310", id="unreadable_expression_is_kept"),
        pytest.param("Q&A: 3 of them\nA: 6", [], "Q&A: 3 of them\n#### 6", id="mark_within_a_line"),
        pytest.param("A: 5\nNo.\nA: 6", [], "A: 5\nNo.\n#### 6", id="last_answer"),
        pytest.param("", [], "", id="empty"),
    ],
)
def test_make_turns_when_odd_solution_then_expressions_and_last_text(
    solution: str, expressions: list[str], last: str
) -> None:
    *steps, final = convert.make_turns(solution)
    arguments = [json.loads(turn["tool_calls"][0]["function"]["arguments"]) for turn in steps]
    assert arguments == [{"expression": expression} for expression in expressions]
    assert final == {"role": "assistant", "content": last}


def test_convert_when_model_or_answer_missing_then_error_names_the_row() -> None:
    with pytest.raises(ValueError, match="row 1 has no solution of the model 'large'"):
        convert.convert([ROW], "large")
    with pytest.raises(ValueError, match="row 2: ground_truth"):
        convert.convert([ROW, {**ROW, "ground_truth": "Six."}], "small")


def test_convert_command_when_run_then_writes_both_files(tmp_path: Path) -> None:
    source, recording, dataset = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "ds.jsonl"
    convert.write_jsonl(source, [{**ROW, "question": "a\u2028b"}, ROW])
    arguments = [str(source), "--model", "small", "--recording", str(recording), "--dataset", str(dataset)]
    result = CliRunner().invoke(convert.main, arguments)
    assert (result.exit_code, result.output) == (0, f"2 problems -> {recording}, {dataset}\n")
    assert [row["prompt"] for row in convert.read_jsonl(recording)] == ["a\u2028b", ROW["question"]]
    assert len(convert.read_jsonl(dataset)) == 2
    refused = CliRunner().invoke(convert.main, [*arguments, "--model", "large"])
    assert (refused.exit_code, refused.output) == (1, "Error: row 1 has no solution of the model 'large'\n")


# --- real recordings

needs_solutions = pytest.mark.skipif(
    not SOLUTIONS.is_file(), reason="set RFT_GSM8K_SOLUTIONS to the file with the recorded GSM8K solutions"
)


@pytest.fixture(scope="module")
def solutions() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = convert.read_jsonl(SOLUTIONS)
    return rows


@needs_solutions
@pytest.mark.parametrize(("model", "percent"), MODELS.items())
def test_convert_when_real_solutions_then_reward_is_the_recorded_verdict(
    solutions: list[dict[str, Any]], model: str, percent: float
) -> None:
    recording, dataset = convert.convert(solutions, model)
    rewards = []
    for recorded, prompt, row in zip(recording, dataset, solutions, strict=True):
        problem = task.Task.parse(prompt["prompt"])
        assert problem.question == recorded["prompt"] == row["question"]
        rewards.append(problem.reward(recorded["turns"][-1]["content"]))
    assert rewards == [float(row[model]["is_correct"]) for row in solutions]
    assert round(100 * sum(rewards) / len(rewards), 2) == percent


# --- through a real agent


def run_rollouts(runtime: LocalRuntime, cells: list[str]) -> list[Any]:
    """Run a rollout for each cell, all at once; return their trajectories in order."""
    payloads = [runtime.new_rollout(cell) for cell in cells]

    async def run() -> None:
        await asyncio.gather(*(agent.handler(payload) for payload in payloads))

    asyncio.run(run())
    return [runtime.trajectory(payload["metadata"]["rolloutId"]) for payload in payloads]


def test_handler_when_stand_in_policy_then_every_rollout_is_rewarded() -> None:
    fresh = load("policy")
    with LocalRuntime(policy=CallablePolicy(fresh.policy)) as runtime:
        trajectories = run_rollouts(runtime, CELLS * 2)
    # Which of the two rollouts of a problem became which sample is open, so the rewards of a problem are compared
    # without their order.
    for index, question in enumerate(QUESTIONS):
        plans = [fresh.make_plan(question, sample) for sample in range(2)]
        group = [trajectories[index], trajectories[index + len(CELLS)]]
        expected = Counter((float(p.slip in (None, fresh.Slip.BAD_CALL)), len(p.steps) + 1) for p in plans)
        assert Counter((t.rewards[0], len(t.turns)) for t in group) == expected
    assert {t.status.value for t in trajectories} == {"REWARD_RECEIVED"}


def test_handler_when_rollout_then_model_never_sees_the_answer() -> None:
    cell = task.Task(QUESTIONS[0], "987654321").cell()
    with LocalRuntime(policy=CallablePolicy(policy.policy)) as runtime:
        (trajectory,) = run_rollouts(runtime, [cell])
    assert trajectory.rewards == (0.0,)
    assert "987654321" not in json.dumps(trajectory.messages)
    assert [message["role"] for message in trajectory.messages[:2]] == ["system", "user"]


@needs_solutions
@pytest.mark.parametrize("model", MODELS)
def test_handler_when_real_solutions_replayed_then_reward_is_the_recorded_verdict(
    solutions: list[dict[str, Any]], model: str, tmp_path: Path
) -> None:
    odd = [16, 38, 50, 51, 54, 67, 169, 211, 252, 273, 284, 312, 402]  # breaking off, commas, units
    rows = [solutions[index] for index in [*odd, *range(0, 440, 20)]]
    recording, dataset = convert.convert(rows, model)
    convert.write_jsonl(tmp_path / "recording.jsonl", recording)
    with LocalRuntime(policy=ReplayPolicy(tmp_path / "recording.jsonl")) as runtime:
        trajectories = run_rollouts(runtime, [row["prompt"] for row in dataset])
    assert [t.rewards for t in trajectories] == [(float(row[model]["is_correct"]),) for row in rows]
    assert [len(t.turns) for t in trajectories] == [len(row["turns"]) for row in recording]


class _OpenAI(BaseHTTPRequestHandler):
    """The streaming chat endpoint of an OpenAI-compatible server, answering with the stand-in policy."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = policy.policy({**request, "temperature": 0})
        calls = [{"index": index, **call} for index, call in enumerate(message.get("tool_calls", []))]
        delta = {**message, **({"tool_calls": calls} if calls else {})}
        finish = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"}
        shared = {"id": "chat-1", "object": "chat.completion.chunk", "created": 0, "model": request["model"]}
        chunks = [{"index": 0, "delta": delta, "finish_reason": None}, finish]
        body = "".join(f"data: {json.dumps({**shared, 'choices': [choice]})}\n\n" for choice in chunks)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(f"{body}data: [DONE]\n\n".encode())
        self.server.seen.append((self.path, self.headers, request))  # type: ignore[attr-defined] # set below

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve_openai() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _OpenAI) as server:
        server.seen = []  # type: ignore[attr-defined] # what arrived: path, headers, request
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "prompt", [pytest.param(QUESTIONS[0], id="plain"), pytest.param(task.Task(QUESTIONS[0]).cell(), id="cell")]
)
def test_handler_when_production_traffic_then_answers_with_the_production_model(
    monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    with serve_openai() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-the-user")
        result = asyncio.run(agent.handler({"prompt": prompt}))
        seen = server.seen  # type: ignore[attr-defined] # set in serve_openai
    assert result["reward"] is None
    assert task.final_number(result["answer"]) is not None
    assert len(seen) == len(policy.make_plan(QUESTIONS[0], 0).steps) + 1
    for path, headers, request in seen:
        assert path == "/v1/chat/completions"
        assert headers["Authorization"] == "Bearer a-key-of-the-user"
        assert request["model"] == agent.PRODUCTION_MODEL
        assert not [name for name in headers if "trajectory" in name.lower() or "rft" in name.lower()]
