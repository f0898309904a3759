"""Recipes of Nova: ranges as published, one row for each rule, traps, YAML, the SDK's call, the command."""

import copy
import json
import math
import sys

import pytest
import yaml
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError, JobConfigError, UnavailableError
from aws_rft_sdk.jobs import make_recipe, read_recipe
from aws_rft_sdk.jobs._tables import value_at
from aws_rft_sdk.jobs.nova_recipe import first_configuration

ARN = "arn:aws:lambda:us-east-1:123456789012:function:SageMaker-reward"
KINDS = [(on, kind) for on in ("smtj", "hyperpod") for kind in ("lora", "full", "eval")]
each_kind = pytest.mark.parametrize(("on", "kind"), KINDS, ids=["-".join(kind) for kind in KINDS])


def configuration(on, kind, **changes):
    """Return a right configuration. Names of changes are `table.field`; None removes the field."""
    run = {"on": on, "kind": kind, "name": "run-1", "reward_lambda_arn": ARN}
    if (on, kind) != ("smtj", "eval"):
        run["data_s3_path"] = "s3://bucket/train.jsonl"
    if on == "hyperpod":
        run["output_s3_path"] = "s3://bucket/out/"
    made = {"recipe": run, "hyperparameters": {}, "launch": {}}
    for path, value in changes.items():
        table, name = path.split(".")
        made[table][name] = value
        if value is None:
            del made[table][name]
    return made


def changed(on, kind, path, value):
    return make_recipe(configuration(on, kind, **{path: value}))


# As nova_recipe_template_parameters.json of hyperpod-recipes 2026-06-23 has them, with what it inherits from
# base_override_parameters.json: lowest, highest, default. A set is an enumeration.
COMMON = {"max_steps": (5, 100_000, 10), "save_steps": (0, 100_000, 10)}
SMTJ = {**COMMON, "learning_rate": (1e-7, 1e-3, 1e-5), "max_length": (4096, 32_768, 8192)}
HYPERPOD = {
    **COMMON,
    "learning_rate": (1e-8, 1e-3, 7e-7),
    "max_length": (4096, 32_768, 10_240),
    "global_batch_size": (16, 256, 256),
    "number_generation": (2, 16, 8),
}
PUBLISHED = {
    ("smtj", "lora"): {
        **SMTJ,
        "global_batch_size": (16, 128, 64),
        "lora_alpha": ({16, 32, 64}, 32),
        "learning_rate_ratio": (0.0, 100.0, 64.0),
    },
    ("smtj", "full"): {**SMTJ, "global_batch_size": (16, 256, 64)},
    ("hyperpod", "lora"): {
        **HYPERPOD,
        "replicas": ({2, 4, 8, 16}, 2),
        "lora_alpha": ({16, 32, 64}, 32),
        "learning_rate_ratio": (1.0, 70.0, 64.0),
    },
    ("hyperpod", "full"): {
        **HYPERPOD,
        "replicas": ({2, 4, 8, 16}, 4),
        "max_context_length": (1, 131_072, 8192),
    },
}
# What the recipes' own pages and comments say, of what the parameter files do not have.
ELSEWHERE = {
    ("smtj", "lora"): {
        "replicas": ({2, 4, 6, 8}, 4),
        "number_generation": (2, 16, 2),
        "kl_loss_coef": (0.0, 0.1, 0.001),
        "ent_coeff": (0.0, 0.1, 0.0),
        "weight_decay": (0.0, 1.0, 0.0),
        "adam_beta1": (0.0, 0.999999, 0.9),
        "adam_beta2": (0.0, 0.999999, 0.95),
        "lambda_concurrency_limit": (1, None, 12),
        "max_new_tokens": (1, None, 6000),
        "temperature": (0.0, None, 1.0),
        "top_k": (-1, None, 1),
        "reasoning_effort": ({"low", "high", "none"}, "high"),
    },
    ("hyperpod", "lora"): {
        "age_tolerance": (1, 20, 2),
        "refit_freq": (1, 4, 4),
        "clip_ratio_high": (0.0, 0.5, 0.2),
        "ent_coeff": (0.0, 0.1, 0.001),
        "lambda_concurrency_limit": (1, None, 100),
        "generation_replicas": (1, None, 2),
        "rollout_worker_replicas": (1, None, 1),
        "save_top_k": (1, None, 5),
        "top_k": (-1, None, 0),
        "max_new_tokens": (1, None, 8192),
    },
    ("hyperpod", "eval"): {
        "replicas": ({1}, 1),
        "top_logprobs": (0, 20, 0),
        "top_p": (0.0, 1.0, 1.0),
        "top_k": (-1, None, -1),
        "max_new_tokens": (1, 100_000, 32_768),
        "temperature": (0.0, None, 0.0),
        "reasoning_effort": ({"low", "medium", "high", "none"}, "none"),
    },
}
RANGES = [(*kind, *row) for table in (PUBLISHED, ELSEWHERE) for kind, rows in table.items() for row in rows.items()]


def outside(low, high):
    step = 1 if isinstance(low, int) else 1e-9
    return [low - step, *([] if high is None else [high + step]), *([math.nan, math.inf] if step != 1 else [low + 0.5])]


@pytest.mark.parametrize(("on", "kind", "name", "rule"), RANGES, ids=["-".join(row[:3]) for row in RANGES])
def test_values_are_taken_and_refused_as_published(on, kind, name, rule):
    path = f"{'recipe' if 'replicas' in name else 'hyperparameters'}.{name}"
    choices = rule[0] if isinstance(rule[0], set) else None
    right = sorted(choices) if choices else [rule[0], rule[0] if rule[1] is None else rule[1]]
    wrong = ["extreme", True] + ([max(choices) * 2] if choices else outside(rule[0], rule[1]))
    steady = {"hyperparameters.save_steps": 0, "hyperparameters.max_steps": 100_000} if kind != "eval" else {}

    for value in right:
        assert make_recipe(configuration(on, kind, **{**steady, path: value})).problems == ()
    for value in wrong:
        found = make_recipe(configuration(on, kind, **{**steady, path: value})).problems
        assert [problem.path for problem in found] == [path], value
        assert "must be" in found[0].rule
        assert found[0].source
    made = make_recipe(configuration(on, kind))
    default = getattr(made.config, path.split(".")[0]).model_dump()[name]
    assert (min(10, made.config.hyperparameters.max_steps) if name == "save_steps" else default) == rule[-1]


RULES = {
    "no name": ("smtj", "lora", "recipe.name", None, "is missing"),
    "a name with a space": ("smtj", "lora", "recipe.name", "my run", "at most 63 letters"),
    "no data": ("smtj", "full", "recipe.data_s3_path", None, "is missing"),
    "data on disk": ("smtj", "full", "recipe.data_s3_path", "train.jsonl", "s3://BUCKET/KEY"),
    "no reward": ("hyperpod", "lora", "recipe.reward_lambda_arn", None, "is missing"),
    "a reward that is no ARN": ("smtj", "lora", "recipe.reward_lambda_arn", "my-function", "ARN of a Lambda function"),
    "no output on HyperPod": ("hyperpod", "full", "recipe.output_s3_path", None, "is missing"),
    "an output in a recipe of SMTJ": ("smtj", "lora", "recipe.output_s3_path", "s3://b/o/", "is no field"),
    "another model": ("smtj", "lora", "recipe.model_type", "amazon.nova-pro-v1:0:300k", "amazon.nova-2-lite-v1:0:256k"),
    "another base": ("smtj", "lora", "recipe.model_name_or_path", "nova-pro/prod", "S3 URI of a checkpoint"),
    "LoRA's field without LoRA": ("smtj", "full", "hyperparameters.lora_alpha", 32, "is no field"),
    "SMTJ's field on HyperPod": ("hyperpod", "lora", "hyperparameters.kl_loss_coef", 0.1, "is no field"),
    "an instance that is too small": ("smtj", "full", "launch.instance_type", "ml.p5.48xlarge", "ml.p5en.48xlarge"),
    "medium, as Bedrock has it": ("smtj", "lora", "hyperparameters.reasoning_effort", "medium", '"low" or "high"'),
    "a misspelt field": ("smtj", "lora", "hyperparameters.max_step", 9, 'did you mean "max_steps"'),
    "saving after the end": ("smtj", "lora", "hyperparameters.save_steps", 11, "at most max_steps, 10"),
    "HyperPod calls SageMaker's functions only": (
        *("hyperpod", "lora", "recipe.reward_lambda_arn"),
        *("arn:aws:lambda:us-east-1:123456789012:function:reward", "must contain SageMaker"),
    ),
    "no place": ("smtj", "lora", "recipe.on", None, 'must be "smtj" or "hyperpod"'),
    "no such kind": ("smtj", "lora", "recipe.kind", "dora", 'must be "lora" or "full" or "eval"'),
    "data of an evaluation on SMTJ": ("smtj", "eval", "recipe.data_s3_path", "s3://b/d", "is no field"),
    "data of an evaluation on HyperPod": ("hyperpod", "eval", "recipe.data_s3_path", None, "is missing"),
}


@pytest.mark.parametrize(("on", "kind", "path", "value", "words"), RULES.values(), ids=list(RULES))
def test_each_rule_names_the_field_and_what_to_write(on, kind, path, value, words):
    [problem] = changed(on, kind, path, value).problems

    assert (problem.path, words in problem.rule) == (path, True), problem
    with pytest.raises(JobConfigError, match="1 problem"):
        changed(on, kind, path, value).to_yaml()


def test_all_problems_are_told_at_once_and_no_secret():
    found = make_recipe({"recipe": {"on": "smtj", "kind": "lora", "name": "sk-0123456789abcdef"}, "x": 1}).problems

    assert [problem.path for problem in found] == ["recipe.data_s3_path", "recipe.reward_lambda_arn", "x"]
    assert "sk-01" not in repr(changed("smtj", "lora", "recipe.name", "sk-0123456789abcdef !").problems)


NOTES = {
    "greedy": ("smtj", "lora", "hyperparameters.top_k", 1, "likeliest token only, whatever the temperature"),
    "greedy by temperature": ("hyperpod", "lora", "hyperparameters.temperature", 0.0, "do not differ. Give 1"),
    "a group of two": ("hyperpod", "lora", "hyperparameters.number_generation", 2, "68 % of the time"),
    "a batch that is no whole group": ("hyperpod", "lora", "hyperparameters.number_generation", 6, "no multiple of"),
    "no room for a prompt": ("smtj", "lora", "hyperparameters.max_new_tokens", 8192, "no room for a prompt"),
    "thinking in few tokens": ("smtj", "lora", "hyperparameters.reasoning_effort", "low", "hold the thinking"),
    "an evaluation that thinks": ("smtj", "eval", "hyperparameters.reasoning_effort", "medium", "low and high only"),
    "a reward that few may call": ("hyperpod", "lora", "recipe.rollout_worker_replicas", 2, "below 128"),
    "a reward above the quota": ("smtj", "lora", "hyperparameters.lambda_concurrency_limit", 1001, "1,000 functions"),
    "time of the reward": ("smtj", "lora", "hyperparameters.number_generation", 8, "512 answers to score, 12 at once"),
    "an alpha of the comment": ("smtj", "lora", "hyperparameters.lora_alpha", 128, "takes 16, 32 and 64"),
    "steps, left out": ("hyperpod", "full", "hyperparameters.max_steps", None, "published recipe 100"),
    "learning rate, left out": ("smtj", "lora", "hyperparameters.learning_rate", None, "recipe 0.0001 and the user"),
    "replicas, left out": ("hyperpod", "full", "recipe.replicas", None, "4 is used"),
}


@pytest.mark.parametrize(("on", "kind", "path", "value", "words"), NOTES.values(), ids=list(NOTES))
def test_traps_are_notes_with_their_reason(on, kind, path, value, words):
    made = make_recipe(configuration(on, kind)) if value is None else changed(on, kind, path, value)

    assert [note for note in made.notes if words in note], made.notes


def test_what_is_meant_has_no_note():
    quiet = {"reasoning_effort": "none", "top_k": 0, "number_generation": 8, "max_steps": 20, "save_steps": 0}
    quiet |= {"learning_rate": 1e-5, "kl_loss_coef": 0.0, "lora_alpha": 32}
    made = make_recipe(configuration("smtj", "lora") | {"hyperparameters": quiet})

    assert [note for note in made.notes if "at once" not in note] == []


def published(on, kind):
    """Return a recipe of hyperpod-recipes 2026-06-23, its blanks filled in."""
    recipe = {
        "run": {
            "data_s3_path": "s3://bucket/train.jsonl",
            "model_name_or_path": "nova-lite-2/prod",
            "model_type": "amazon.nova-2-lite-v1:0:256k",
            "name": "my-rft-run",
            "reward_lambda_arn": ARN,
            "replicas": 4 if on == "smtj" else 2,
        },
        "training_config": {
            "global_batch_size": 64 if on == "smtj" else 256,
            "max_length": 8192 if on == "smtj" else 10_240,
            "reasoning_effort": "high",
            "rollout": {
                "advantage_strategy": {"number_generation": 2 if on == "smtj" else 8},
                "generator": {
                    "max_new_tokens": 6000 if on == "smtj" else 8192,
                    "set_random_seed": True,
                    "temperature": 1,
                    "top_k": 1 if on == "smtj" else 0,
                },
                "rewards": {"api_endpoint": {"lambda_arn": ARN, "lambda_concurrency_limit": 12}},
            },
            "trainer": {
                "max_steps": 5 if on == "smtj" else 100,
                "save_steps": "${oc.select:training_config.trainer.max_steps}",
                "ent_coeff": 0.0,
                "optim_config": {"adam_beta1": 0.9, "adam_beta2": 0.95, "lr": 1e-4, "weight_decay": 0.0},
            },
        },
    }
    training, trainer = recipe["training_config"], recipe["training_config"]["trainer"]
    if kind == "lora":
        ratio = "lora_plus_lr_ratio" if on == "smtj" else "loraplus_lr_ratio"
        trainer["peft"] = {"peft_scheme": "lora", "lora_tuning": {"alpha": 32, ratio: 64.0}}
    if on == "smtj":
        trainer |= {"kl_loss_coef": 0.001} | ({"peft": {"peft_scheme": None}} if kind == "full" else {})
        return recipe
    reward = training["rollout"]["rewards"]["api_endpoint"]
    reward |= {"lambda_arn": "${oc.select:run.reward_lambda_arn}", "lambda_concurrency_limit": 100}
    training["rollout"]["rollout_strategy"] = {"type": "off_policy_async", "age_tolerance": 2}
    training["data"] = {"shuffle": False}
    trainer |= {"refit_freq": 4, "clip_ratio_high": 0.2, "loss_scale": 1, "save_top_k": 5, "ent_coeff": 0.001}
    trainer["optim_config"]["lr"] = "7e-7"  # as YAML 1.1 reads what the published file of HyperPod with LoRA has
    mlflow = {"mlflow_tracking_uri": "", "mlflow_experiment_name": "my-rft-experiment", "mlflow_run_name": "my-rft-run"}
    recipe["run"] |= {"output_s3_path": "s3://bucket/out/", "generation_replicas": 2, "rollout_worker_replicas": 1}
    recipe["run"] |= mlflow
    return recipe


def evaluation(on):
    run = {"name": "eval-1", "model_type": "amazon.nova-2-lite-v1:0:256k", "model_name_or_path": "nova-lite-2/prod"}
    run |= {"replicas": 1, "data_s3_path": "", "output_s3_path": "", "mlflow_run_name": ""}
    if on == "hyperpod":
        run |= {"data_s3_path": "s3://bucket/eval.jsonl", "output_s3_path": "s3://bucket/out/"}
    inference = {"max_new_tokens": 32_768, "top_k": -1, "top_p": 1.0, "temperature": 0, "top_logprobs": 0}
    return {
        "run": run,
        "evaluation": {"task": "rft_eval", "strategy": "rft_eval", "metric": "all"},
        "inference": {**inference, "reasoning_effort": None},
        "rl_env": {"reward_lambda_arn": ARN},
    }


def written(tmp_path, recipe, name="recipe.yaml"):
    path = tmp_path / name
    path.write_text(yaml.safe_dump(recipe))
    return path


@each_kind
def test_a_published_recipe_is_right_and_says_the_same_when_it_is_written_again(tmp_path, on, kind):
    recipe = evaluation(on) if kind == "eval" else published(on, kind)

    read = read_recipe(written(tmp_path, recipe))

    assert (read.on, read.kind, read.problems) == (on, kind, ())
    again = yaml.safe_load(read.to_yaml())
    if kind != "eval":
        recipe["training_config"]["trainer"]["save_steps"] = recipe["training_config"]["trainer"]["max_steps"]
        recipe["training_config"]["rollout"]["rewards"]["api_endpoint"]["lambda_arn"] = ARN
    if on == "hyperpod" and kind != "eval":
        recipe["training_config"]["trainer"]["optim_config"]["lr"] = 7e-7
        assert any("YAML 1.1 reads 7e-7 as a text. Write 7.0e-07" in note for note in read.notes)
    recipe["run"] = {key: value for key, value in recipe["run"].items() if value or key == "data_s3_path"}
    assert again == recipe
    assert any("likeliest token" in note for note in read.notes) == (on == "smtj" and kind != "eval")
    assert any("change both" in note for note in read.notes) == (kind != "eval")


@each_kind
def test_a_first_configuration_makes_a_recipe_that_reads_back_the_same(tmp_path, on, kind):
    path = tmp_path / "recipe.toml"
    path.write_text(first_configuration(on, kind))
    made = read_recipe(path)
    (tmp_path / "recipe.yaml").write_text(made.to_yaml())

    read = read_recipe(tmp_path / "recipe.yaml", on)

    assert (made.problems, read.problems) == ((), ())
    assert read.config.recipe == made.config.recipe
    assert read.to_dict() == made.to_dict() == yaml.safe_load(made.to_yaml())
    scheme = value_at(made.to_dict(), ["training_config", "trainer", "peft", "peft_scheme"])
    assert scheme == ("lora" if kind == "lora" else None)


READ = {
    "two rewards": (
        *("run.reward_lambda_arn", ARN.replace("reward", "other"), None),
        *("training_config.rollout.rewards.api_endpoint.lambda_arn", "same as run.reward_lambda_arn"),
    ),
    "one reward": (
        *("training_config.rollout.rewards.api_endpoint.lambda_arn", None, None),
        *("training_config.rollout.rewards.api_endpoint.lambda_arn", "same as run.reward_lambda_arn"),
    ),
    "HyperPod's ratio": (
        *("training_config.trainer.peft.lora_tuning.loraplus_lr_ratio", 32.0, None),
        *("training_config.trainer.peft.lora_tuning.loraplus_lr_ratio", "tuning.lora_plus_lr_ratio in this kind"),
    ),
    "a value out of range": (
        *("training_config.trainer.max_steps", 4, None),
        *("training_config.trainer.max_steps", "from 5 to 100000"),
    ),
    "a scheme that is not LoRA": (
        *("training_config.trainer.peft.peft_scheme", "dora", None),
        *("training_config.trainer.peft.peft_scheme", "must be 'lora'"),
    ),
    "blanks that were not filled in": (
        *("run.data_s3_path", "s3://<bucket>/<data file>", None),
        *("run.data_s3_path", "s3://BUCKET/KEY"),
    ),
    "the wrong place": ("run.name", "x", "hyperpod", "run.output_s3_path", "is missing"),
}


@pytest.mark.parametrize(("place", "value", "on", "path", "words"), READ.values(), ids=list(READ))
def test_a_recipe_of_somebody_is_told_what_is_wrong_by_its_own_names(tmp_path, place, value, on, path, words):
    recipe = copy.deepcopy(published("smtj", "lora"))
    *parents, name = place.split(".")
    value_at(recipe, parents)[name] = value

    found = {problem.path: problem.rule for problem in read_recipe(written(tmp_path, recipe), on).problems}

    assert words in found.get(path, ""), found


def test_keys_that_no_published_recipe_has_are_notes(tmp_path):
    recipe = published("smtj", "lora")
    recipe["training_config"]["trainer"]["max_step"] = 9
    recipe["training_config"]["rollout"]["delegate"] = True

    read = read_recipe(written(tmp_path, {"recipes": recipe}, "recipe.yml"))

    assert read.problems == ()
    told = "\n".join(read.notes)
    assert "training_config.trainer.max_step: is in no published recipe of this kind" in told
    assert 'did you mean "training_config.trainer.max_steps"' in told
    assert "rollout.delegate: is for rollouts that your own program runs" in told


UNREADABLE = {
    "no YAML": b"a: [",
    "no mapping": b"- a\n- b\n",
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "an object of Python": b"!!python/object/apply:os.getcwd []",
    "a loop": b"&a {run: *a}",
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=list(UNREADABLE))
def test_a_file_that_is_no_recipe_is_a_problem(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)

    assert read_recipe(path).problems


def test_a_file_of_another_kind_or_none_is_refused(tmp_path):
    for name in ("recipe.json", "none.yaml", "none.toml"):
        with pytest.raises(ConfigurationError, match=name):
            read_recipe(tmp_path / name)


STAND_IN = """
from types import SimpleNamespace
made = []
class Compute:
    def __init__(self, **arguments): self.arguments = arguments
class TrainingJobCompute(Compute): pass
class HyperPodCompute(Compute): pass
class InputData(Compute): pass
class TrainingType: LORA, FULL = "lora!", "full!"
class RLVRTrainer:
    def __init__(self, *, model, training_type, custom_reward_function, compute, training_dataset, overrides,
                 s3_output_path=None, base_job_name=None, role=None):
        self.__dict__.update(locals()); self.hyperparameters = SimpleNamespace(); made.append(self)
    def get_resolved_recipe(self): return "resolved"
    def train(self, wait): self.wait = wait; return "training job 1"
class ModelTrainer:
    @classmethod
    def from_recipe(cls, *, training_recipe, compute, training_image, input_data_config):
        self = cls(); self.__dict__.update(locals()); made.append(self); return self
    def train(self, wait): self.wait = wait
"""


@pytest.fixture
def sagemaker(tmp_path, monkeypatch):
    """A package `sagemaker` with the signatures of sagemaker-train 1.27.0 that remembers what was made."""
    for parent in ("sagemaker", "sagemaker/core", "sagemaker/core/training", "sagemaker/train"):
        (tmp_path / parent).mkdir()
        (tmp_path / parent / "__init__.py").write_text("")
    (tmp_path / "sagemaker/_all.py").write_text(STAND_IN)
    for file in ("core/training/configs.py", "train/__init__.py", "train/common.py"):
        (tmp_path / "sagemaker" / file).write_text("from sagemaker._all import *\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: sys.modules["sagemaker._all"].made
    for name in [name for name in sys.modules if name.partition(".")[0] == "sagemaker"]:
        del sys.modules[name]


@pytest.mark.parametrize(("on", "kind"), [*KINDS[:2], *KINDS[3:5]])
def test_the_call_of_the_sdk_is_the_same_as_code_as_json_and_run(sagemaker, capsys, on, kind):
    launch = make_recipe(
        configuration(on, kind, **({"launch.cluster_name": "c-1"} if on == "hyperpod" else {}))
    ).launch()

    exec(compile(launch.code(), "code", "exec"), {})
    assert launch.run() == "training job 1"

    printed, run = sagemaker()
    told = json.loads(json.dumps(launch.to_json()))
    for trainer in (printed, run):
        assert trainer.training_type == ("lora!" if kind == "lora" else "full!")
        assert trainer.overrides == told["arguments"]["overrides"]
        assert vars(trainer.hyperparameters) == told["hyperparameters"]
        assert (type(trainer.compute).__name__, trainer.compute.arguments) == tuple(told["compute"].values())
        assert trainer.wait is False
    assert told["hyperparameters"]["learning_rate"] == value_at(
        told, ["arguments", "overrides", "training_config", "trainer", "optim_config", "lr"]
    )
    assert ("number_generation" in told["hyperparameters"]) == (on == "hyperpod")
    assert capsys.readouterr().out == "resolved\n"


def test_an_evaluation_runs_the_yaml_itself(sagemaker):
    launch = changed("smtj", "eval", "launch.data_s3_path", "s3://bucket/eval.jsonl").launch("mine.yaml")

    exec(compile(launch.code(), "code", "exec"), {})
    launch.run()

    for trainer in sagemaker():
        assert trainer.training_recipe == "mine.yaml"
        assert trainer.input_data_config[0].arguments["data_source"] == "s3://bucket/eval.jsonl"


@pytest.mark.parametrize(
    ("on", "kind", "words"),
    [
        ("smtj", "eval", "data_s3_path is missing"),
        ("hyperpod", "lora", "cluster_name is missing"),
        ("hyperpod", "eval", "hyperpod start-job"),
    ],
    ids=["no data", "no cluster", "no such call"],
)
def test_a_call_that_the_sdk_cannot_make_is_refused(on, kind, words):
    with pytest.raises(ConfigurationError, match=words):
        make_recipe(configuration(on, kind)).launch()


def test_without_the_sdk_the_call_says_what_to_install():
    with pytest.raises(UnavailableError, match="pip install"):
        make_recipe(configuration("smtj", "lora")).launch().run()


def test_the_command_goes_from_a_first_file_to_a_recipe_and_its_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        return CliRunner().invoke(main, ["job", "recipe", *words])

    assert run("init", "--on", "smtj", "--kind", "lora", "-o", "r.toml").exit_code == 0
    assert "exists" in run("init", "--on", "smtj", "--kind", "lora", "-o", "r.toml").stderr
    wrote = run("write", "r.toml", "-o", "r.yaml")
    assert (wrote.exit_code, "note: " in wrote.stderr, "note" in wrote.stdout) == (0, True, False)
    assert yaml.safe_load(run("write", "r.toml").stdout) == yaml.safe_load((tmp_path / "r.yaml").read_text())
    assert "lora on smtj" in run("check", "r.yaml").stdout
    assert "RLVRTrainer(" in run("launch", "r.yaml").stdout
    assert "aws-rft job recipe check r.toml" in CliRunner().invoke(main, ["job", "plan", "r.toml"]).stdout
    assert json.loads(run("launch", "r.toml", "--json").stdout)["trainer"] == "RLVRTrainer"
    assert run("launch", "r.toml", "--run").exit_code == 3

    (tmp_path / "r.toml").write_text((tmp_path / "r.toml").read_text().replace("max_steps = 10", "max_steps = 1"))
    told = json.loads((checked := run("check", "r.toml", "--json")).stdout)
    assert (checked.exit_code, [item["path"] for item in told["problems"]]) == (2, ["hyperparameters.max_steps"])
    for words in (("write", "r.toml"), ("launch", "r.toml")):
        failed = run(*words)
        assert (failed.exit_code, "max_steps" in failed.stderr, failed.stdout) == (2, True, "")
