"""The example of GRPO on GSM8K: what its page says about rewards and figures, its prompts, evaluation and launch."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from aws_rft_sdk import datasets
from aws_rft_sdk.errors import DatasetError
from aws_rft_sdk.rewards import Format
from aws_rft_sdk.rollout import run
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.training.learning import wilson
from aws_rft_sdk.training.recipe import read_recipe

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "grpo_gsm8k"
README = (EXAMPLE / "README.md").read_text()
TRAIN = Path(os.environ.get("RFT_GSM8K_TRAIN", ROOT.parent / "shared/data/gsm8k/train.jsonl"))
P = "#### The final answer is"


def load(name: str) -> ModuleType:
    """Load a file of the example under a name that no other example has, its neighbours under their own."""
    if str(EXAMPLE) not in sys.path:
        sys.path.append(str(EXAMPLE))
    spec = importlib.util.spec_from_file_location(f"grpo_gsm8k_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


agent, dataset, evaluate, entry = load("agent"), load("dataset"), load("evaluate"), load("sagemaker_entry")
HANDLER = f"{EXAMPLE / 'agent.py'}:handler"


def rows_of_table(first_cell: str) -> list[list[str]]:
    """Return the cells of the table of the page whose first row begins with a cell, without that row."""
    lines = README.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_cell} |"))
    rows = lines[begin + 2 : lines.index("", begin)]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a file of the example as its user does."""
    command = [sys.executable, "-W", "ignore", EXAMPLE / name, *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, timeout=100)


# --- rewards

TABLE = rows_of_table("Answer")


def test_page_when_its_table_of_rewards_is_computed_then_the_posts_and_ours_are_as_written():
    published = Format.final_answer(strict=True)
    answers, cells = {}, []
    for number, (answer, right, *_) in enumerate(TABLE):
        gold = right if "," in right else float(right)
        answers[f"row {number}"] = answer.strip("`").replace("\\n", "\n").replace("P ", f"{P} ")
        cells.append(datasets.pack(question=f"row {number}", ground_truth=gold))

    done = run(HANDLER, cells, policy=lambda request: answers[asked(request)], discard=True)

    ours = {record.prompt_index: record for record in done.records}
    for number, (answer, _, of_post, here, reason) in enumerate(TABLE):
        gold = datasets.unpack(cells[number]).ground_truth
        parts = {
            item.name: item.value
            for item in published(agent.Rollout.of_answer(answers[f"row {number}"], gold)).components
        }
        assert as_written(parts) == of_post, answer
        assert as_written(ours[number].metrics) == here, answer
        form, _, correct = here.partition(" + ")
        assert ours[number].reward == float(form) + float(correct)
        assert (of_post == here) == (not reason)
    assert len(TABLE) == 12


def as_written(parts: dict[str, float]) -> str:
    return f"{parts['format'] * 0.5:g} + {parts['correct']:g}"


def asked(request: dict) -> str:
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def test_handler_when_an_answer_is_cut_off_then_it_is_scored_as_far_as_it_goes():
    texts = {"right": f"work\n{P} 12\n\nQuestion: And", "unfinished": "First I add 3 and"}
    cells = [datasets.pack(question=name, ground_truth="12") for name in texts]

    def policy(request):
        message = {"role": "assistant", "content": texts[asked(request)]}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "length"}]}

    records = run(HANDLER, cells, policy=policy, discard=True).records

    assert {record.prompt_index: (record.error, record.reward) for record in records} == {
        0: (None, 1.0),
        1: (None, 0.0),
    }


def test_scorer_of_the_post_when_a_right_answer_runs_on_then_it_is_wrong_and_ours_is_right():
    answer = f"12 of them.\n{P} 12\n\nQuestion: A box holds 30 pens. How many are in 3 boxes?"

    assert re.findall(r"-?\d+", answer.replace(",", ""))[-1] == "3"
    assert agent.evaluate(agent.reward, agent.Rollout.of_answer(answer, "12")).reward == 1.0


# --- figures


def test_page_when_its_intervals_are_computed_then_they_are_as_written():
    rows = rows_of_table("Model")
    for _, share, problems, interval in rows:
        low, high = wilson(float(share.removesuffix(" %")) / 100, int(problems))
        assert interval == f"{low * 100:.1f} % to {high * 100:.1f} %"
    assert len(rows) == 7
    by_name = {name: wilson(float(share.removesuffix(" %")) / 100, int(count)) for name, share, count, _ in rows}
    assert by_name["base, 8 examples"][1] < by_name["tuned, 8 examples"][0]
    assert by_name["base, if 6 of 50"][1] > by_name["tuned, if 4 of 10"][0]
    low, high = wilson(0.41, 1319)
    assert f"At 41 % its interval is {low * 100:.1f} % to {high * 100:.1f} %" in README


# --- prompts


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("grpo_gsm8k")
    write(
        folder / "train.jsonl",
        [(f"How much is {n} + <<1+1=2>>1?", f"It is <<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}") for n in range(20)],
    )
    write(folder / "test.jsonl", [(f"How much is 1,000 * {n}?", f"It is {n},000.\n#### {n},000") for n in range(1, 7)])
    assert (
        script(
            "dataset.py", folder / "train.jsonl", folder / "test.jsonl", folder / "prompts", "--shots", "2"
        ).returncode
        == 0
    )
    return folder / "prompts"


def write(path: Path, problems: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in problems))


def cells(path: Path) -> list[datasets.Packed]:
    return [datasets.unpack(cell) for cell in datasets.read_prompts(path)]


def test_dataset_when_prepared_then_the_splits_are_apart_and_the_model_sees_no_answer(prompts):
    train, validation = cells(prompts / "train.jsonl"), cells(prompts / "validation.jsonl")
    assert (len(train), len(validation)) == (18, 2)
    assert not {str(cell) for cell in train} & {str(cell) for cell in validation}
    for count in dataset.SHOT_COUNTS:
        tests = cells(prompts / dataset.test_file(count))
        assert [cell.ground_truth for cell in tests] == [f"{n}000" for n in range(1, 7)]
        for cell in tests:
            assert str(cell).count("Question:") == count + 1
            assert str(cell).count(P) == count
            assert set(cell.visible) == {"question"}
            assert str(cell).endswith("\nSolution: Let's think step by step. ")
        assert all("<<" not in str(cell) for cell in (*train, *tests))
    examples = str(train[0]).rpartition("Question:")[0]
    assert examples
    assert str(cells(prompts / dataset.test_file(2))[0]).startswith(examples)  # those of the training


def test_dataset_when_prepared_again_then_a_seed_decides(prompts, tmp_path):
    sources = prompts.parent / "train.jsonl", prompts.parent / "test.jsonl"
    for seed in (0, 1):
        dataset.prepare(*sources, tmp_path / str(seed), shots=2, seed=seed)
    same, other = ({file.name: file.read_text() for file in (tmp_path / str(seed)).iterdir()} for seed in (0, 1))
    assert same == {file.name: file.read_text() for file in prompts.iterdir()}
    assert all(same[name] != other[name] for name in same if name not in ("test-0-shots.jsonl"))


def test_dataset_when_a_question_is_in_both_files_then_nothing_is_written(tmp_path):
    write(tmp_path / "train.jsonl", [("How many?", "#### 1"), ("How  MANY apples?", "#### 2")])
    write(tmp_path / "test.jsonl", [("How many pears?", "#### 3"), ("How many apples?", "#### 2")])
    result = script("dataset.py", tmp_path / "train.jsonl", tmp_path / "test.jsonl", tmp_path / "prompts")
    assert result.returncode == 1
    assert "test.jsonl, line 2: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "prompts").exists()


def test_dataset_when_a_row_has_no_number_then_its_line_is_named(tmp_path):
    write(tmp_path / "train.jsonl", [("How many?", "#### 1")] * 2)
    write(tmp_path / "test.jsonl", [("How many pears?", "#### 3"), ("Why?", "Because.")])
    with pytest.raises(DatasetError, match=r"test\.jsonl, line 2: .*####"):
        dataset.prepare(tmp_path / "train.jsonl", tmp_path / "test.jsonl", tmp_path / "prompts")


@pytest.mark.skipif(not TRAIN.exists(), reason="needs GSM8K's train.jsonl; name it in RFT_GSM8K_TRAIN")
def test_dataset_when_made_of_gsm8k_then_every_worked_answer_earns_all(tmp_path):
    lines = TRAIN.read_text().splitlines()[:300]
    for name, part in (("train", lines[:200]), ("test", lines[200:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(part))
    counts = dataset.prepare(tmp_path / "train.jsonl", tmp_path / "test.jsonl", tmp_path / "prompts")
    assert counts == {
        "train.jsonl": 180,
        "validation.jsonl": 20,
        **{f"test-{n}-shots.jsonl": 100 for n in (0, 2, 4, 8)},
    }
    golds = [cell.ground_truth for cell in cells(tmp_path / "prompts" / "test-8-shots.jsonl")]
    for line, gold in zip(lines[200:], golds, strict=True):
        work, _, number = json.loads(line)["answer"].rpartition("\n#### ")
        answer = f"{re.sub('<<.*?>>', '', work)}\n{P} {number}"
        assert agent.evaluate(agent.reward, agent.Rollout.of_answer(answer, gold)).reward == 1.5


# --- evaluation


def test_evaluation_when_a_policy_knows_more_with_more_examples_then_accuracy_says_so(prompts, tmp_path):
    seen: Counter[tuple[int, str]] = Counter()

    def policy(request):
        prompt = asked(request)
        count = prompt.count(P)
        number = int(re.findall(r"\* (\d)\?", prompt)[-1])
        seen[count, json.dumps([request[name] for name in ("temperature", "max_tokens", "stop")])] += 1
        if count == 0 and number == 1:
            raise RuntimeError("no answer")
        right = number * 1000 if number <= count else 7
        return f"It is.\n{P} {right:,}" if number > 1 else f"It is.\n#### {right}"

    scores = evaluate.score(policy, prompts, out=tmp_path / "runs")

    assert {count: (each.correct, each.answered, each.failed) for count, each in scores.items()} == {
        0: (0, 5, 1),
        2: (2, 6, 0),
        4: (4, 6, 0),
        8: (6, 6, 0),
    }
    assert (scores[4].low, scores[4].high) == wilson(4 / 6, 6)
    assert (scores[0].form, scores[8].form) == (1.0, 5 / 6)
    assert {settings for _, settings in seen} == {'[0.0, 512, ["\\nQuestion:"]]'}
    with LocalRuntime(db=tmp_path / "runs" / "test-8-shots" / "trajectories.db") as runtime:
        assert len(runtime.trajectories()) == 6


def test_evaluation_when_run_as_a_command_then_it_prints_a_table_or_json(prompts, tmp_path):
    (tmp_path / "policy.py").write_text(f'def policy(request):\n    return "\\n{P} 3000"\n')
    named = ("--policy", f"callable:{tmp_path / 'policy.py'}:policy", "--limit", "4")
    result = script("evaluate.py", prompts, *named, "--shots", "0", "8", "--json")
    assert result.returncode == 0, result.stderr
    low, high = wilson(0.25, 4)
    score = {"accuracy": 0.25, "low": low, "high": high, "correct": 1, "answered": 4, "failed": 0, "form": 1.0}
    assert json.loads(result.stdout) == {"policy": {"0": score, "8": score}}
    shown = script("evaluate.py", prompts, *named).stdout.splitlines()
    assert [line.split()[:3] for line in shown[1:]] == [["policy", str(count), "1/4"] for count in dataset.SHOT_COUNTS]
    assert f"{low:.1%} to {high:.1%}" in shown[1]


# --- recipes and launch


@pytest.mark.parametrize("name", ["recipe.toml", "recipe_qlora.toml"])
def test_recipe_when_read_then_every_value_is_known_and_says_where_it_comes_from(name):
    recipe, notes = read_recipe(EXAMPLE / name)
    assert notes == []
    qlora = name == "recipe_qlora.toml"
    assert (recipe.method, recipe.learning_rate, recipe.max_epochs) == (
        ("qlora", 1.84e-4, 2) if qlora else ("lora", 5e-5, 4)
    )
    assert (recipe.lora_rank, recipe.lora_alpha, len(recipe.lora_targets)) == (16, 16, 7)
    assert recipe.max_steps == recipe.max_epochs * 211
    values = [line for line in (EXAMPLE / name).read_text().splitlines() if re.match(r"\w+ = ", line)]
    assert all(
        re.search(r"# (both|repository|post|TRL)", line) for line in values if re.match("(lora|learn|temp|seed)", line)
    )


def test_accelerate_config_when_read_as_yaml_then_it_is_zero_3_on_one_machine():
    config = yaml.safe_load((EXAMPLE / "accelerate_zero3.yaml").read_text())
    assert (config["distributed_type"], config["deepspeed_config"]["zero_stage"]) == ("DEEPSPEED", 3)
    assert (config["num_machines"], config["num_processes"]) == (1, 8)


def test_accelerate_config_when_accelerate_reads_it_then_no_key_is_unknown():
    config_args = pytest.importorskip(
        "accelerate.commands.config.config_args", reason="needs: pip install -e '.[train]'"
    )
    config = config_args.load_config_from_file(str(EXAMPLE / "accelerate_zero3.yaml"))
    assert str(config.distributed_type.value) == "DEEPSPEED"
    assert config.deepspeed_config["zero3_save_16bit_model"] is True
    launch = pytest.importorskip("accelerate.commands.launch", reason="needs: pip install -e '.[train]'")
    parsed = launch.launch_command_parser().parse_args(
        entry.command(VARIABLES, ["--recipe", "recipe.toml"], Path("/out"))[3:]
    )
    assert (parsed.num_processes, parsed.machine_rank, parsed.module) == (24, 2, True)
    assert parsed.training_script == "aws_rft_sdk.training"
    assert parsed.training_script_args[:2] == ["agent.py:handler", "/opt/ml/input/data/prompts/train.jsonl"]


HOSTS = ["algo-1", "algo-10", "algo-2"]
VARIABLES = {
    "SM_HOSTS": json.dumps(HOSTS),
    "SM_CURRENT_HOST": "algo-2",
    "SM_NUM_GPUS": "8",
    "SM_CHANNEL_PROMPTS": "/opt/ml/input/data/prompts",
}


@pytest.mark.parametrize(
    ("hosts", "current", "rank", "processes"),
    [
        pytest.param(["algo-1"], "algo-1", 0, 8, id="one"),
        pytest.param(["algo-2", "algo-1"], "algo-1", 0, 16, id="first-of-two"),
        pytest.param(["algo-2", "algo-1"], "algo-2", 1, 16, id="second-of-two"),
        pytest.param(HOSTS, "algo-2", 2, 24, id="sorted-as-text"),
    ],
)
def test_entry_when_sagemaker_names_the_machines_then_accelerate_gets_the_same_of_all(hosts, current, rank, processes):
    variables = {"SM_HOSTS": json.dumps(hosts), "SM_CURRENT_HOST": current, "SM_NUM_GPUS": "8"}
    arguments = entry.launch_arguments(variables)
    assert dict(zip(arguments[::2], arguments[1::2], strict=True)) == {
        "--num_machines": str(len(hosts)),
        "--num_processes": str(processes),
        "--machine_rank": str(rank),
        "--main_process_ip": "algo-1",
        "--main_process_port": "29500",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"SM_HOSTS": ""}, "SM_HOSTS is not set", id="no-hosts"),
        pytest.param({"SM_NUM_GPUS": "0"}, "Choose an instance type with GPUs", id="no-gpu"),
        pytest.param({"SM_CURRENT_HOST": "algo-9"}, "without SM_CURRENT_HOST, 'algo-9'", id="other-host"),
    ],
)
def test_entry_when_a_variable_is_wrong_then_it_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        entry.launch_arguments({**VARIABLES, **change})


def test_launch_when_aws_is_not_there_then_the_job_is_printed():
    where = ("--prompts", "s3://bucket/prompts", "--output", "s3://bucket/run")
    job = json.loads(script("launch_sagemaker.py", *where, "--model", "Qwen/Qwen2.5-0.5B").stdout)
    assert job["compute"] == {"instance_type": "ml.g6.48xlarge", "instance_count": 1, "volume_size_in_gb": 200}
    assert job["input_data_config"] == [{"channel_name": "prompts", "data_source": "s3://bucket/prompts"}]
    source = Path(job["source_code"]["source_dir"])
    python, file, *arguments = job["source_code"]["command"].split()
    assert (python, (source / file).exists(), (source / job["source_code"]["requirements"]).exists()) == (
        "python",
        True,
        True,
    )
    command = entry.command({**VARIABLES, **job["environment"]}, arguments, Path("/opt/ml/output/data/run"))
    assert command[command.index("--recipe") + 1] == "recipe.toml"
    assert command[command.index("--model") + 1] == "Qwen/Qwen2.5-0.5B"


def test_launch_when_it_is_to_submit_without_the_sdk_then_it_says_what_to_install():
    if importlib.util.find_spec("sagemaker"):
        pytest.skip("the SageMaker SDK is installed")
    result = script("launch_sagemaker.py", "--prompts", "s3://b/p", "--output", "s3://b/o", "--submit")
    assert (result.returncode, result.stdout) == (1, "")
    assert "pip install sagemaker-train" in result.stderr


def test_page_when_it_names_files_then_they_are_there():
    assert all((EXAMPLE / name).exists() for name in re.findall(r"`(\w+\.(?:py|toml|yaml|txt))`", README))


# --- with torch


def test_smoke_when_run_then_the_model_is_trained_and_evaluated_on_both(tmp_path):
    for name in ("torch", "trl", "peft"):
        pytest.importorskip(name, reason="needs: pip install -e '.[train]'")
    result = script("smoke.py", "--steps", "2", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    steps = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    assert all(0 <= step["reward_mean"] <= 1.5 for step in steps)
    assert all(step["grad_norm"] > 0 for step in steps)  # some group had rewards that differ
    assert {tuple(line.split()[:2]) for line in result.stdout.splitlines() if "/2" in line} == {
        *(("base", "0"), ("base", "2"), ("tuned", "0"), ("tuned", "2"))
    }
    assert (tmp_path / "run" / "model" / "adapter_config.json").exists()
