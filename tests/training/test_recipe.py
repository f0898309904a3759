"""The recipe of a local training: one row for each field and rule."""

import json
from pathlib import Path

import pytest

from aws_rft_sdk.advantages import ADVANTAGES
from aws_rft_sdk.errors import ConfigurationError, JobConfigError
from aws_rft_sdk.jobs._tables import rule_of
from aws_rft_sdk.jobs.reading import init_text
from aws_rft_sdk.training.recipe import Hyperparameters, LocalTraining, Recipe, read_recipe

WHOLE, FROM_0 = "a whole number of at least 1", "a whole number of at least 0"
ABOVE, NOT_BELOW = "a finite number above 0", "a finite number of at least 0"
SHARE, BETA = "a number from 0 to 1", "a number from 0 to less than 1"
# field, right values, wrong values, rule. Right ones have the ends of the service's ranges. All are JSON.
FIELDS = [
    ("global_batch_size", '32 128 "64" 1', "0 1.0 true", WHOLE),
    ("group_size", '2 32 "8"', '1 "1" 0 2.5', "a whole number of at least 2"),
    ("advantage_method", " ".join(json.dumps(name) for name in ADVANTAGES), '"grpo" 1', '"group_based" or'),
    ("loss_fn", '"importance_sampling" "ppo" "cispo"', '"dapo" 1', '"ppo" or "cispo" or "importance_sampling"'),
    ("clip_low_threshold", '0 1 "0.8"', "-0.1 1.1 NaN", SHARE),
    ("clip_high_threshold", '1 10 "1.2"', "0.9 Infinity", "a finite number of at least 1"),
    ("temperature", '0 2 "0.7"', "-1 NaN", NOT_BELOW),
    ("sampling_top_p", '0 1 "0.95"', "1.1", SHARE),
    ("sampling_max_tokens", '512 8192 "4096" 1', "0", WHOLE),
    ("max_epochs", "1 30", "0", WHOLE),
    ("max_steps", "1 1000", "0", WHOLE),
    ("val_every", "0 100", "-1", FROM_0),
    ("save_every", "0 100", "-1", FROM_0),
    ("lora_rank", '16 64 "32" 4', "0", WHOLE),
    ("lora_alpha", '16 128 "64"', "0", WHOLE),
    ("learning_rate", '1e-9 1e-2 "4e-5" "1e-05"', '0 "fast" Infinity', ABOVE),
    ("adam_beta1", "0 0.999999", "1 -0.1", BETA),
    ("adam_beta2", '0 0.999999 "0.95"', "1", BETA),
    ("adam_eps", '1e-16 1e-2 "1e-8"', "0", ABOVE),
    ("adam_weight_decay", '0 1 "0"', "-1", NOT_BELOW),
    ("adam_grad_clip_norm", '0 100 "1.0"', "-1", NOT_BELOW),
    ("rollout_timeout", '300 86400 "600"', "0", ABOVE),
    ("rollout_max_retries", '1 10 "3" 0', "-1", FROM_0),
    ("rollout_max_concurrency", '32 96 "96" 1', "0", WHOLE),
    ("max_steps_off_policy", '0 10 "3"', "-1", FROM_0),
    ("success_threshold", '1 "1" -0.5', "NaN true", "a finite number"),
    ("pass_k_values", '"1,2,4,8,16,32" [1,8]', '[] [0] "a" 1 ""', "a list of whole numbers"),
    ("model", '"some/name"', '"" 1', "a text that is not empty"),
    ("tokenizer", '"some/name"', '""', "a text that is not empty"),
    ("method", '"lora" "full" "qlora"', '"dora"', '"lora" or "qlora" or "full"'),
    ("lora_targets", '"all-linear" ["q_proj","v_proj"]', '[] "q_proj" [""]', '"all-linear" or a list'),
    ("loss_type", '"grpo" "dr_grpo" "dapo"', '"ppo"', '"grpo" or "bnpo"'),
    ("kl_coef", "0 0.1", "-1", NOT_BELOW),
    ("seed", "0 7", "-1 1.5", FROM_0),
    ("micro_batch_size", "1 64", "0", WHOLE),
    ("lr_schedule", '"constant" "linear" "cosine"', '"step"', '"constant" or'),
    ("dtype", '"auto" "bfloat16"', '"int8"', '"auto" or "float32"'),
    ("device", '"auto" "cpu" "cuda"', '"tpu"', '"auto" or "cpu" or "cuda"'),
    ("gradient_checkpointing", "true false", '"yes" 1', "true or false"),
    ("max_context_tokens", "513 100000", "0", WHOLE),
    ("engine", '"auto" "process" "ray"', '"dask"', '"auto" or "local"'),
]


def cases(number):
    return [(name, value, rule) for name, *values, rule in FIELDS for value in values[number].split()]


@pytest.mark.parametrize(("name", "value"), [case[:2] for case in cases(0)])
def test_value_when_right_then_it_is_taken_as_a_number_and_read_again_from_a_file(tmp_path, name, value):
    recipe = Recipe(**{name: json.loads(value)})
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())

    assert read_recipe(tmp_path / "recipe.toml")[0] == recipe
    taken, given = getattr(recipe, name), json.loads(value)
    is_number = name in Hyperparameters.model_fields and name not in ("advantage_method", "loss_fn", "pass_k_values")
    assert taken == (float(given) if is_number else taken)
    assert isinstance(taken, str) is (isinstance(given, str) and not is_number and name != "pass_k_values")


@pytest.mark.parametrize(("name", "value", "rule"), cases(1))
def test_value_when_wrong_then_the_field_and_its_rule_are_told(name, value, rule):
    with pytest.raises(JobConfigError) as raised:
        Recipe(**{name: json.loads(value)})

    (problem,) = raised.value.problems
    table = "hyperparameters" if name in Hyperparameters.model_fields else "train"
    assert problem.path == f"{table}.{name}"
    assert rule in problem.rule
    json.dumps(problem, allow_nan=False)


def test_table_of_fields_when_compared_with_the_recipe_then_it_has_all_but_two():
    covered = {row[0] for row in FIELDS}

    assert {*Hyperparameters.model_fields, *LocalTraining.model_fields} - covered == {"chat_template", "warmup_steps"}


def read(folder: Path, text: str):
    path = folder / "recipe.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_recipe(path)


H, T = "[hyperparameters]\n", "[train]\n"
PROBLEMS = {
    "unknown": (
        H + "group_sise = 4",
        'hyperparameters.group_sise is 4: is no field of [hyperparameters]; did you mean "g',
    ),
    "far": (H + "zzz = 4", "is no field of [hyperparameters]; it has global_batch_size, group_size"),
    "other-table": (T + "group_size = 4", "it belongs to [hyperparameters]"),
    "near-other-table": (T + "group_sise = 4", 'did you mean "group_size"?'),
    "no-table": ("group_size = 4", "group_size is 4: is no name that fits here; it belongs to [hyperparameters]"),
    "near-table": ("[hyperparameter]\ngroup_size = 4", 'did you mean "hyperparameters"?'),
    "wrong-table": ("[training]\nkl_coef = 0.1", "training is"),
    "value-for-table": ("train = 3", "train is 3: must be a table"),
    "tables": ("[[train]]\nseed = 1", "must be a table"),
    "syntax": ("seed = ", "the file is {}no TOML".format("")),
    "latin-1": ("[train]\n# é".encode("latin-1"), "line 2 is not UTF-8"),
    "secret": (T + 'api_key = "hf_abcdefghijklmnop"', 'train.api_key is "***"'),
    "template": (T + 'chat_template = "absent.jinja"', "there is no file"),
    "warmup": (T + "warmup_steps = 3", 'set lr_schedule = "constant_with_warmup"'),
    "qlora": (T + 'method = "qlora"\ndevice = "cpu"', 'needs device = "cuda"'),
    "context": (T + "max_context_tokens = 100", "a model call may take 512 tokens (sampling_max_tokens)"),
    "context-text": (H + 'sampling_max_tokens = "4096"\n' + T + "max_context_tokens = 4096", "may take 4096 tokens"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_file_when_wrong_then_it_is_refused_with_what_to_type(tmp_path, name):
    text, told = PROBLEMS[name]

    with pytest.raises(JobConfigError) as raised:
        read(tmp_path, text)

    assert told in str(raised.value)
    assert len(raised.value.problems) == 1
    assert "abcdefghijklmnop" not in repr(raised.value) + str(raised.value.problems)


def test_file_when_much_is_wrong_then_all_is_told_at_once_and_nothing_that_follows_from_it(tmp_path):
    wrong = T + 'lr_schedule = "x"\nwarmup_steps = 3\nmax_context_tokens = "4"\nmethod = "qlora"\ndevice = "cpu"\n'

    with pytest.raises(JobConfigError) as raised:
        read(tmp_path, H + "group_size = 1\nn_epochs = 2\nsampling_max_tokens = 0\n" + wrong)

    assert sorted(problem.path for problem in raised.value.problems) == [
        *("hyperparameters.group_size", "hyperparameters.n_epochs", "hyperparameters.sampling_max_tokens"),
        *("train.lr_schedule", "train.method"),
    ]


NOTES = {
    "job-file": (init_text("nova").partition("[hyperparameters]")[0] + H, ["[job]", "[data]", "[grader]"]),
    "job-tables": ('[agent]\narn = "x"\n[output]\ns3 = "s3://b/"\n', ["[agent]", "[output]"]),
    "service-only": (H + 'lora_plus_lr_ratio = "32"\nrollout_tps = 5\n', ["lora_plus_lr_ratio", "rollout_tps"]),
    "lora-of-full": (H + "lora_rank = 16\n" + T + 'method = "full"', ["lora_rank is not used"]),
    "targets-of-full": (T + 'method = "full"\nlora_targets = ["q"]', ["train.lora_targets is not used"]),
    "no-clipping": (
        H + 'loss_fn = "importance_sampling"\nclip_low_threshold = 0.8',
        ["clip_low_threshold is not used"],
    ),
    "clipping": (H + "clip_low_threshold = 0.7\nclip_high_threshold = 1.3", []),
    "cispo": (H + 'loss_fn = "cispo"\nclip_low_threshold = 1\nclip_high_threshold = 6', ["clip_low_threshold"]),
    "empty": ("", []),
}


@pytest.mark.parametrize("name", NOTES)
def test_file_when_it_says_what_local_training_does_not_use_then_that_is_noted(tmp_path, name):
    text, told = NOTES[name]

    _, notes = read(tmp_path, text)

    assert len(notes) == len(told)
    assert [note for note, part in zip(notes, told, strict=True) if part not in note] == []


@pytest.mark.parametrize(
    ("values", "loss_type"),
    [
        ({}, "dapo"),
        ({"loss_fn": "cispo"}, "cispo"),
        ({"loss_fn": "importance_sampling"}, "dapo"),
        ({"loss_fn": "cispo", "loss_type": "grpo"}, "grpo"),
    ],
)
def test_loss_type_when_left_out_then_it_is_that_of_the_loss_fn(values, loss_type):
    assert Recipe(**values).loss_type == loss_type


def test_paths_when_they_are_relative_then_they_begin_at_the_folder_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    monkeypatch.chdir("/")

    recipe, _ = read(tmp_path, T + 'model = "models/tiny"\ntokenizer = "hub/name"\nchat_template = "chat.jinja"')

    assert recipe.model == str(tmp_path / "models" / "tiny")
    assert recipe.tokenizer == "hub/name"
    assert recipe.chat_template == str(tmp_path / "chat.jinja")


def test_first_file_when_read_then_it_has_the_defaults_and_every_name_with_its_rule(tmp_path):
    text = Recipe().to_toml(comments=True)

    assert read(tmp_path, text) == (Recipe(), [])
    for name in Recipe.model_fields:
        assert f"\n{name} = " in text or f"\n# {name} = " in text, name
    assert "A whole number of at least 2. Default: 8." in text
    assert max(map(len, text.splitlines())) <= 100


def test_recipe_when_the_file_is_absent_or_a_name_is_unknown_in_python_then_it_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_recipe(tmp_path / "absent.toml")
    with pytest.raises(JobConfigError, match='did you mean "group_size"'):
        Recipe(group_sise=4)


DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def render_recipe_table():
    """Return the table of docs/training.md. `python -c "from tests.training.test_recipe import *; write_docs()"`."""
    lines = []
    for table, kind in {"hyperparameters": Hyperparameters, "train": LocalTraining}.items():
        lines += [f"| `[{table}]` | Default | Values | Meaning |", "|---|---|---|---|"]
        for name, field in kind.model_fields.items():
            default = "" if field.default is None else f"`{json.dumps(field.default)}`"
            lines.append(f"| `{name}` | {default} | {rule_of(field)} | {field.description} |")
        lines.append("")
    return "\n".join(lines)


def split_docs():
    before, rest = DOCS.read_text().split("<!-- recipe -->\n")
    table, after = rest.split("<!-- end of recipe -->\n")
    return before, table, after


def write_docs():
    before, _, after = split_docs()
    DOCS.write_text(f"{before}<!-- recipe -->\n{render_recipe_table()}<!-- end of recipe -->\n{after}")


def test_table_in_the_docs_when_read_then_it_is_what_the_fields_say():
    assert split_docs()[1] == render_recipe_table()
