"""The file of a job: one row for each field and rule."""

import json
import re
import sys
from importlib import import_module
from typing import get_args

import botocore.session
import pytest

from aws_rft_sdk.jobs._bedrock_request import create_body
from aws_rft_sdk.jobs._bedrock_request import problems as request_problems
from aws_rft_sdk.jobs._shapes import BOTOCORE
from aws_rft_sdk.jobs._tables import Shape, source_of, table_of
from aws_rft_sdk.jobs.config import KINDS, MANTLE, NOT_ON_MANTLE
from aws_rft_sdk.jobs.reading import init_text, read_job
from aws_rft_sdk.jobs.types import OURS
from tests.jobs.job_files import BEDROCK, LAMBDA, NOVA, TEXTS, change, write_job


@pytest.fixture
def check(tmp_path):
    """Return what reads a file with changes."""

    def read(text, **changes):
        for path, value in changes.items():
            text = change(text, path, value)
        return read_job(write_job(tmp_path, text))

    return read


toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads

# service, path, value as TOML (None: left out), what the rule says; "" for a value that is right
AUTO = ["n_epochs", "batch_size", "eval_interval", "eval_samples"]
WHOLE = 'a whole number of at least 1 or "auto"'
ABOVE = 'a finite number above 0 or "auto"'
FIELDS = [
    ("bedrock", "job.on", '"bedrok"', 'did you mean "bedrock"'),
    ("bedrock", "job.on", "1", '"bedrock" or "nova" or "sagemaker"'),
    ("bedrock", "job.on", None, '"bedrock" or "nova" or "sagemaker"'),
    ("bedrock", "job.name", '" "', "not empty"),
    ("bedrock", "job.name", None, "is missing"),
    ("bedrock", "job.model", '"someone.new-model-9b"', ""),
    ("bedrock", "job.model", '""', "not empty"),
    ("bedrock", "job.model", None, "is missing"),
    ("bedrock", "job.region", '"us-east-1"', '"us-west-2"'),
    ("bedrock", "job.region", None, ""),
    ("bedrock", "data.train", '"absent.jsonl"', "there is no file"),
    ("bedrock", "data.train", '"s3://bucket/train.jsonl"', "takes uploads only"),
    ("bedrock", "data.train", '"few.jsonl"', "at least 100"),
    ("bedrock", "data.train", "7", ".jsonl file"),
    ("bedrock", "data.train", None, "is missing"),
    ("bedrock", "data.validation", '"train.jsonl"', ""),
    ("bedrock", "data.validation", '"absent.jsonl"', "there is no file"),
    ("bedrock", "data.validation", '"few.jsonl"', "at least 100"),
    ("bedrock", "data.validation", "[]", ".jsonl file"),
    ("bedrock", "data.require_reference", '"no"', "true or false"),
    ("bedrock", "grader.lambda_arn", f'"{LAMBDA.format("us-west-2")}:$LATEST"', ""),
    ("bedrock", "grader.lambda_arn", f'"{LAMBDA.format("us-gov-west-1")}"', "the job runs in us-west-2"),
    ("bedrock", "grader.lambda_arn", f'"{LAMBDA.format("us-east-1")}"', "the job runs in us-west-2"),
    ("bedrock", "grader.lambda_arn", f'"{LAMBDA.format("us-west-2").replace(":aws:", ":aws-cn:")}"', "arn:aws: as"),
    ("bedrock", "data.train", r'"a\u0000.jsonl"', "the path of a .jsonl file"),
    ("bedrock", "job.model", r'"a\u001bb"', "without control characters"),
    ("bedrock", "grader.lambda_arn", '"arn:aws:iam::123456789012:role/job"', "ARN of a Lambda function"),
    ("bedrock", "grader.lambda_arn", '"gsm8k"', "ARN of a Lambda function"),
    ("bedrock", "grader.lambda_arn", f'"{LAMBDA.format("us-west-2")}{"x" * 512}"', "at most 512"),
    ("bedrock", "grader.reward", '"reward.py"', "path/to/file.py:NAME"),
    ("bedrock", "grader.reward", '"absent.py:reward"', "there is no file"),
    *[("bedrock", f"hyperparameters.{name}", value, "") for name in AUTO for value in ("1", '"auto"')],
    *[("bedrock", f"hyperparameters.{name}", value, WHOLE) for name in AUTO for value in ("0", "1.0", "true", '"1"')],
    *[
        ("bedrock", f"hyperparameters.{name}", value, rule)
        for name in ("learning_rate_multiplier", "compute_multiplier")
        for rule, values in (("", ("1", "0.001", '"auto"', "9e9")), (ABOVE, ("0", "-1", "inf", "nan", "true", '"1"')))
        for value in values
    ],
    ("bedrock", "hyperparameters.batch_size", "101", "larger than the 100 rows"),
    ("bedrock", "hyperparameters.batch_size", "100", ""),
    ("bedrock", "hyperparameters.reasoning_effort", '"default"', ""),
    ("bedrock", "hyperparameters.reasoning_effort", '"extreme"', '"low" or "medium" or "high"'),
    ("nova", "job.name", '"a+b.c-d"', "grader.name"),
    ("nova", "job.name", '"a_b"', "at most 63"),
    ("nova", "job.name", f'"{"a" * 64}"', "at most 63"),
    ("nova", "job.name", None, "is missing"),
    ("nova", "job.model", None, "is missing"),
    ("nova", "job.region", '"us-west-2"', '"us-east-1"'),
    ("nova", "job.role_arn", None, "is missing"),
    ("nova", "job.role_arn", f'"{LAMBDA.format("us-east-1")}"', "ARN of an IAM role"),
    ("nova", "job.custom_model_name", '"my_model-1"', ""),
    ("nova", "job.custom_model_name", '"my--model"', "at most one - or _"),
    ("nova", "job.kms_key", '"alias/my-key"', ""),
    ("nova", "job.kms_key", '"my key"', "KMS key"),
    ("nova", "data.train", '"s3://bucket/train.jsonl"', ""),
    ("nova", "data.train", '"s3://bucket/my train.jsonl"', "without spaces"),
    ("nova", "data.train", "1", "not empty"),
    ("nova", "data.validation", '["s3://bucket/v.jsonl", "train.jsonl"]', ""),
    ("nova", "data.validation", '["few.jsonl"]', ""),
    ("nova", "data.validation", '["absent.jsonl"]', "there is no file"),
    ("nova", "data.validation", '"s3://bucket/v.jsonl"', "a list of at most 10"),
    ("nova", "data.validation", json.dumps([f"s3://bucket/{n}.jsonl" for n in range(11)]), "a list of at most 10"),
    ("nova", "data.validation", '["s3://b/v.jsonl"]', "an S3 URI"),
    ("nova", "data.upload_to", '"s3://bucket/x/"', ""),
    ("nova", "data.upload_to", '"bucket/x"', "an S3 URI"),
    ("nova", "data.require_reference", "1", "true or false"),
    ("nova", "data.use_prompt_response", '"yes"', "true or false"),
    ("nova", "data.use_prompt_response", "true", "is about invocation logs"),
    ("nova", "data.filters", "{equals = {a = '1'}}", "is about invocation logs"),
    ("nova", "hyperparameters.batchSize", "101", "larger than the 100 rows"),
    ("nova", "hyperparameters.reasoningEffort", '"low"', ""),
    ("nova", "hyperparameters.reasoningEffort", '"default"', '"low" or "medium" or "high"'),
    *[
        ("nova", f"hyperparameters.{name}", value, rule)
        for name, right, wrong, rule in (
            ("epochCount", "1 50", "0 51 1.0 true '1'", "a whole number from 1 to 50"),
            ("batchSize", "16 100", "4 15 513 16.0 '16'", "a whole number from 16 to 512"),
            ("learningRate", "1e-7 1e-3 0.0005", "1e-8 1 nan true '1e-5'", "a finite number from 1e-07 to 0.001"),
            ("trainingSamplePerPrompt", "2 16", "1 17 2.0", "a whole number from 2 to 16"),
            ("evalInterval", "1 100", "0 101 true", "a whole number from 1 to 100"),
            ("maxPromptLength", "1 200000", "0 1.5", "a whole number of at least 1"),
            ("inferenceMaxTokens", "1 200000", "-1 '9'", "a whole number of at least 1"),
        )
        for values, rule in ((right, ""), (wrong, rule))
        for value in values.split()
    ],
    ("nova", "output.s3", None, "is missing"),
    ("nova", "output.s3", '"bucket"', "an S3 URI"),
    ("nova", "tags.team", '"rft"', ""),
    ("nova", "tags.team", "1", "at most 200 tags"),
    ("nova", "tags.team", '"a;b"', "at most 200 tags"),
]
PATH_OF = {"tags.team": "tags"}  # where a problem stands that is not at the field itself


@pytest.mark.parametrize(("on", "path", "value", "rule"), FIELDS)
def test_field_when_changed_then_the_file_has_that_problem_or_none(check, on, path, value, rule):
    problems = check(TEXTS[on], **{path: value}).problems

    if rule in ("", "grader.name"):
        problems = [problem for problem in problems if problem.path != "job.custom_model_name"]
        assert not problems
        return
    path = PATH_OF.get(path, path)
    (problem,) = [found for found in problems if found.path == path and rule in found.rule]
    assert problem.source
    json.dumps(problem, allow_nan=False)
    assert value is not None or problem.value is None
    # Nothing else is wrong with the file, except that a table has two fields that exclude each other.
    assert {found.path for found in problems} <= {path, path.partition(".")[0], "job.custom_model_name"}


CONFLICTS = [
    ("bedrock", {"grader.reward": '"reward.py:reward"'}, "grader", "not lambda_arn and reward"),
    ("bedrock", {"grader.lambda_arn": None}, "grader", "exactly one of lambda_arn, reward"),
    ("bedrock", {"grader.name": '"n"'}, "grader.name", "Remove this field"),
    ("bedrock", {"grader.role": '"arn:aws:iam::123456789012:role/r"'}, "grader.role", "Remove this field"),
    ("bedrock", {"grader.with_deps": "true"}, "grader.with_deps", "Remove this field"),
    (
        "bedrock",
        {"grader.lambda_arn": None, "grader.reward": '"reward.py:reward"', "job.name": '"my job"'},
        "grader.name",
        "is the job's name if left out",
    ),
    ("bedrock", {"job.batch_size": "4"}, "job.batch_size", "it belongs to [hyperparameters]"),
    ("bedrock", {"hyperparameters.n_epoch": "4"}, "hyperparameters.n_epoch", 'did you mean "n_epochs"'),
    (
        "bedrock",
        {"hyperparameters.suffix": '"x"'},
        "hyperparameters.suffix",
        "is no field of [hyperparameters]; it has n_epochs",
    ),
    ("bedrock", {"hyperparameter.n_epochs": "4"}, "hyperparameter", 'did you mean "hyperparameters"'),
    ("bedrock", {"job.role_arn": '"x"'}, "job.role_arn", "is no field of [job]"),
    ("nova", {"job.name": '"a.b"'}, "job.custom_model_name", "is the job's name if left out"),
    ("nova", {"data.invocation_logs": '"s3://bucket/logs/"'}, "data", "not train and invocation_logs"),
    ("nova", {"data.train": None}, "data", "exactly one of train, invocation_logs"),
    ("nova", {"hyperparameters.epochcount": "1"}, "hyperparameters.epochcount", 'did you mean "epochCount"'),
    ("nova", {"vpc.subnet_ids": '["subnet-1"]'}, "vpc.security_group_ids", "is missing"),
    ("nova", {"vpc.subnet_ids": "[]", "vpc.security_group_ids": '["sg-1"]'}, "vpc.subnet_ids", "1 to 16"),
    ("nova", {"vpc.subnet_ids": '["s"]', "vpc.security_group_ids": '["a b"]'}, "vpc.security_group_ids", "1 to 5"),
    *[
        (
            "nova",
            {"data.train": None, "data.invocation_logs": '"s3://bucket/logs/"', "data.filters": filters},
            path,
            rule,
        )
        for filters, path, rule in (
            ("{}", "data.filters", "exactly one of equals, not_equals, and_all, or_all"),
            ("{equals = {a = '1'}, not_equals = {a = '2'}}", "data.filters", "not equals and not_equals"),
            ("{equals = {a = '1', b = '2'}}", "data.filters.equals", "one key and one text"),
            (f"{{not_equals = {{a = '{'x' * 257}'}}}}", "data.filters.not_equals", "256"),
            ("{and_all = []}", "data.filters.and_all", "1 to 16"),
            ("{or_all = [" + ",".join(["{equals = {a = '1'}}"] * 17) + "]}", "data.filters.or_all", "1 to 16"),
            ("{or_all = [{}]}", "data.filters.or_all", "exactly one of equals and not_equals"),
        )
    ],
]


@pytest.mark.parametrize(("on", "changes", "path", "rule"), CONFLICTS)
def test_fields_when_in_conflict_then_the_file_has_that_problem(check, on, changes, path, rule):
    (problem,) = check(TEXTS[on], **changes).problems

    assert problem.path == path
    assert rule in problem.rule
    json.dumps(problem)


def test_file_when_many_things_are_wrong_then_all_are_named_at_once(check):
    changes = {
        "job.region": '"eu-west-1"',
        "job.modle": '"x"',
        "job.model": None,
        "data.train": '"few.jsonl"',
        "grader.lambda_arn": f'"{LAMBDA.format("us-east-1")}"',
        "grader.reward": '"reward.py:reward"',
        "hyperparameters.batch_size": "10",
        "hyperparameters.n_epochs": "true",
    }

    found = check(BEDROCK, **changes)

    assert found.config is None
    assert {problem.path for problem in found.problems} == {*changes, "grader"} - {"grader.reward"}


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"[job]\non = \n", "line 2"),
        (b"[job]\non = 'bedrock'\non = 'nova'\n", "line 3"),
        (b"[job]\n# caf\xe9\n", "line 2 is not UTF-8"),
        (b"", 'is missing; it must be "bedrock" or "nova" or "sagemaker"'),
        (b"job = 3\n", "must be a table: [job]"),
        (b"[[job]]\non = 'bedrock'\n", "must be a table: [job]"),
        (b"[job]\non = ['bedrock']\n", '"bedrock" or "nova" or "sagemaker"'),
    ],
    ids=["syntax", "twice", "latin-1", "empty", "no-table", "tables", "list"],
)
def test_file_when_it_is_no_file_of_a_job_then_the_problem_says_where(tmp_path, content, rule):
    file = tmp_path / "job.toml"
    file.write_bytes(content)

    (problem,) = read_job(file).problems

    assert rule in problem.rule


def test_file_when_it_begins_with_a_byte_order_mark_then_it_is_read(check, tmp_path):
    assert not check(f"\ufeff{BEDROCK.lstrip()}").problems


@pytest.mark.parametrize("name", ["api_key", "aws_secret_access_key", "HF_TOKEN", "password", "authorization"])
def test_problem_when_the_value_may_be_a_secret_then_it_is_masked(check, name):
    (problem,) = check(BEDROCK, **{f"job.{name}": '"hush"'}).problems

    assert problem.value == "***"


def test_limit_of_tokens_when_wrong_then_it_is_shown(check):
    (problem,) = check(NOVA, **{"hyperparameters.inferenceMaxTokens": "0"}).problems

    assert problem.value == 0


def test_notes_when_the_model_or_a_field_is_not_documented_then_they_say_so(check):
    found = check(BEDROCK, **{"job.model": '"new.model"', "hyperparameters.eval_samples": "2"})

    assert not found.problems
    assert "new.model is not documented" in found.notes[0]
    assert NOT_ON_MANTLE in found.notes[1]


@pytest.mark.parametrize("on", KINDS)
def test_init_text_when_the_names_are_filled_in_then_it_has_no_problem(check, on):
    assert not check(init_text(on)).problems


_NOT_BOTH = ("agent", "agent.qualifier", "hyperparameters.save_every", "hyperparameters.lora_plus_lr_ratio")
"""Of a SageMaker job, what only one kind of agent or model has."""


@pytest.mark.parametrize("on", KINDS)
def test_init_text_when_read_then_every_field_is_there_with_its_source_and_a_value_that_fits(check, on):
    active = re.sub(r"^# ((\w+) = .*|\[\w+\])$", r"\1", init_text(on), flags=re.MULTILINE)
    read = {problem.path for problem in check(active).problems}

    for table, field in KINDS[on].model_fields.items():
        for name, inner in (table_of(field).model_fields if table_of(field) else {}).items():
            assert re.search(rf"^{name} = ", active, re.MULTILINE), name
            assert inner.description
            assert source_of(inner) in re.sub(r"\n# ", " ", init_text(on))
        assert f"[{table}]" in active
    # With all fields given, only what excludes each other is wrong, and files that are not there.
    assert read <= {"grader", "data", "data.validation", *_NOT_BOTH}


def test_hyperparameters_when_botocore_knows_them_then_each_is_a_field_of_its_shape():
    model = botocore.session.Session().get_service_model("bedrock")
    shapes = model.shape_for("RFTHyperParameters").members

    fields = table_of(KINDS["nova"].model_fields["hyperparameters"]).model_fields

    assert fields.keys() == shapes.keys()
    for name, field in fields.items():
        facts = get_args(field.annotation)[0].__metadata__
        assert [fact.name for fact in facts if isinstance(fact, Shape)] in ([], [shapes[name].name])
        assert source_of(field) == BOTOCORE


@pytest.mark.parametrize(
    ("path", "value"),
    [(path, value) for on, path, value, _ in FIELDS if on == "bedrock" and path.startswith("hyper") and value],
)
def test_hyperparameter_when_checked_by_the_file_and_by_the_request_then_both_say_the_same(check, path, value):
    name = path.partition(".")[2]
    text = change("[job]\non = 'bedrock'\n[data]\n", path, value)
    (given,) = toml(text)["hyperparameters"].values()
    body = create_body("openai.gpt-oss-20b", "file-1", LAMBDA.format("us-west-2"), {name: given})

    in_file = any(problem.path == path and "larger than" not in problem.rule for problem in check(text).problems)

    assert in_file == bool(request_problems(body))


def test_hyperparameters_when_aws_publishes_no_range_then_the_field_says_so():
    fields = table_of(KINDS["bedrock"].model_fields["hyperparameters"]).model_fields

    for name in ("n_epochs", "batch_size", "learning_rate_multiplier"):
        assert "publishes no range" in fields[name].description
        assert source_of(fields[name]) == MANTLE
    assert source_of(KINDS["bedrock"].model_fields["data"]) == OURS
