"""The file of a multi-turn RL job on SageMaker, and its documents: one row for each field and rule."""

import json
import re

import pytest
from botocore.session import Session
from botocore.validate import ParamValidator

from aws_rft_sdk import agent_rft
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs._sagemaker_request import create_parameters, evaluation_document, problems, training_document
from aws_rft_sdk.jobs._tables import table_of
from aws_rft_sdk.jobs.planning import plan
from aws_rft_sdk.jobs.reading import read_job
from aws_rft_sdk.jobs.sagemaker_config import Evaluation, SageMakerConfig, SageMakerHyperparameters
from tests.jobs.job_files import BEDROCK, SAGEMAKER, change, write_job

ACCOUNT = "123456789012"
AGENT = f"arn:aws:bedrock-agentcore:us-west-2:{ACCOUNT}:runtime/calc-AbCdEfGhIj"
FORWARDER = f"arn:aws:lambda:us-west-2:{ACCOUNT}:function:forward:live"
GROUP = f"arn:aws:sagemaker:us-west-2:{ACCOUNT}:model-package-group"
PACKAGE = f"arn:aws:sagemaker:us-west-2:{ACCOUNT}:model-package/calc/3"
DATASET = f"arn:aws:sagemaker:us-west-2:{ACCOUNT}:hub-content/hub/DataSet/held-out/1.0.0"
HUB = "arn:aws:sagemaker:us-west-2:aws:hub-content/SageMakerPublicHub/Model"
KMS = f"arn:aws:kms:us-west-2:{ACCOUNT}:key/01234567-89ab-cdef-0123-456789abcdef"
MLFLOW = f"arn:aws:sagemaker:us-west-2:{ACCOUNT}:mlflow-app/app-ABC"
EAST = "is in us-east-1, and the job runs in us-west-2"


def read(folder, text=SAGEMAKER, **changes):
    for path, value in changes.items():
        text = change(text, path, f'"{value}"' if value and value.startswith(("arn:", "s3:")) else value)
    return read_job(write_job(folder, text))


def document_of(folder, text=SAGEMAKER, **changes):
    """Return the document that `submit` would send."""
    found = plan(read(folder, text, **changes))
    assert not found.problems
    return found.requests[-1].document


def value_at(document, path):
    for part in re.findall(r"\w+", path):
        document = document[int(part)] if part.isdigit() else document[part]
    return document


# path, value as TOML (None: left out), what the rule says; "" for a value that is right
FIELDS = [
    ("job.name", '"a-1"', ""),
    ("job.name", '"a_1"', "at most 63"),
    ("job.name", '"-a"', "at most 63"),
    ("job.name", f'"{"a" * 64}"', "at most 63"),
    ("job.name", None, "is missing"),
    ("job.model", '"gpt-oss-2b"', 'did you mean "gpt-oss-20b"'),
    ("job.model", f"{HUB}/openai-reasoning-gpt-oss-20b/1.0.0", ""),
    ("job.model", f"{HUB}/some-new-model", ""),
    ("job.model", f"arn:aws:sagemaker:us-west-2:{ACCOUNT}:model/x", "SageMakerPublicHub"),
    ("job.model", None, "is missing"),
    ("job.region", '"west"', "an AWS region"),
    ("job.role_arn", '"arn:aws:iam::1:role/x"', "ARN of an IAM role"),
    ("job.role_arn", None, "is missing"),
    ("job.accept_eula", "false", "must be true: the model has a licence"),
    ("job.accept_eula", None, "must be true: the model has a licence"),
    ("job.accept_eula", '"yes"', "true or false"),
    ("job.max_runtime_seconds", "3600", ""),
    ("job.max_runtime_seconds", "0", "at least 1"),
    ("job.schema_version", '"1.1.0"', ""),
    ("job.schema_version", '"1"', "three numbers"),
    ("job.input_model_package", PACKAGE, ""),
    ("job.input_model_package", f"{GROUP}/calc", "ARN of a model package, "),
    ("job.input_model_package", PACKAGE.replace("west-2", "east-1"), EAST),
    ("agent.agentcore_arn", '"calc-AbCdEfGhIj"', ""),
    ("agent.agentcore_arn", '"calc"', "the ARN or the id"),
    ("agent.agentcore_arn", f"{AGENT}/runtime-endpoint/PROD", "no endpoint behind it"),
    ("agent.agentcore_arn", AGENT.replace("west-2", "east-1"), EAST),
    ("agent.qualifier", '"PROD"', ""),
    ("agent.qualifier", "1", "name of an endpoint"),
    ("agent.qualifier", '"a-b"', "name of an endpoint"),
    ("data.train", DATASET, ""),
    ("data.train", DATASET.replace("west-2", "east-1"), EAST),
    ("data.train", f"{HUB}/x", "ARN of a registered dataset"),
    ("data.train", '"s3://B/x"', "an S3 URI"),
    ("data.train", '"prompts.txt"', "there is no file"),
    ("data.train", '"prompts.jsonl"', "40 rows, and a batch of 128"),
    ("data.train", None, "is missing"),
    ("data.validation", '"few-prompts.jsonl"', ""),
    ("data.validation", DATASET.replace("west-2", "east-1"), EAST),
    ("data.validation", '"absent.jsonl"', "there is no file"),
    ("data.upload_to", "s3://bucket/data", "is for local files"),
    ("output.s3", "s3://bucket", ""),
    ("output.s3", '"bucket/out"', "an S3 URI"),
    ("output.kms_key", KMS, ""),
    ("output.kms_key", KMS.replace("key/0", "key/mrk-0"), "of one region"),
    ("output.kms_key", '"alias/key"', "ARN of a KMS key"),
    ("output.kms_key", KMS.replace("west-2", "east-1"), EAST),
    ("output.model_package_group", '"calc"', ""),
    ("output.model_package_group", '"my group"', "at most 63"),
    ("output.model_package_group", f"{GROUP.replace('west-2', 'east-1')}/calc", EAST),
    ("output.model_package_group", None, "is missing"),
    ("output.checkpoint_package_group", f"{GROUP}/calc", "another group"),
    ("output.checkpoint_package_group", '"calc"', "another group"),
    ("output.checkpoint_package_group", None, "is missing"),
    ("output.create_groups", "true", ""),
    ("output.create_groups", "1", "true or false"),
    ("output.mlflow_arn", None, "is missing"),
    ("output.mlflow_arn", MLFLOW.replace("mlflow-app", "mlflow-tracking-server"), "ARN of an MLflow app"),
    ("output.mlflow_arn", MLFLOW.replace("west-2", "east-1"), EAST),
    ("output.mlflow_in", '"output"', ""),
    ("output.mlflow_in", '"both"', '"training" or "output"'),
    ("hyperparameters.group_size", "8.0", "a whole number from 2 to 32"),
    ("hyperparameters.group_size", "true", "a whole number from 2 to 32"),
    ("hyperparameters.batch_size", "32", "write global_batch_size"),
    ("hyperparameters.max_tokens", "4096", "write sampling_max_tokens"),
    ("hyperparameters.save_every", "5", "nova-lite-2 only"),
    ("hyperparameters.eval_group_size", "4", "write it into [evaluation]"),
    ("hyperparameters.max_step", "4", 'did you mean "max_steps"'),
    ("hyperparameters.entropy", "4", "is no hyperparameter; there are global_batch_size"),
    ("hyperparameters.pass_k_values", "[1, 2]", ""),
    ("hyperparameters.pass_k_values", "[2, 2]", "each once"),
    ("prices.train", "0.36", "is missing"),
    ("vpc.subnet_ids", '["subnet-1"]', "is missing"),
    ("tags.team", '"rft"', ""),
    ("tags.team", "1", "at most 50 tags"),
]
ELSEWHERE = {"prices.train": "prices.prefill", "vpc.subnet_ids": "vpc.security_group_ids", "tags.team": "tags"}
"""Where the problem of a row stands that is not at the field itself."""


@pytest.mark.parametrize(("path", "value", "rule"), FIELDS)
def test_field_when_changed_then_the_file_has_that_problem_or_none(tmp_path, path, value, rule):
    found = read(tmp_path, **{path: value}).problems

    if rule:
        path = ELSEWHERE.get(path, path)
        assert rule in next((item.rule for item in found if item.path == path), found)
        found = [item for item in found if item.path not in (path, "prices.sample")]
    assert not found


@pytest.mark.parametrize("model", agent_rft.MODELS)
def test_hyperparameters_when_at_their_borders_or_beyond_then_the_rules_are_those_of_the_model(tmp_path, model):
    facts = agent_rft.MODELS[model].hyperparameters
    for name, known in facts.items():
        choices = known.choices or ((known.low, known.high) if known.high < 1e9 else (known.default,))
        inside = [value for value in choices if known.allows(value)]
        outside = ["none"] if known.choices else [known.high * 2 + 1, -1]
        for value, is_right in [(inside[-1], True), (inside[0], True), (outside[0], False), (outside[-1], False)]:
            value = list(value) if isinstance(value, tuple) else value
            if known.high > 1e9 and not is_right:
                continue
            changes = {"job.model": f'"{model}"', f"hyperparameters.{name}": json.dumps(value)}
            rules = [item.rule for item in read(tmp_path, **changes).problems]
            assert rules == ([] if is_right else [f"must be {known.rule}"]), (name, value)


@pytest.mark.parametrize("value", ["1", "nan", "[1]", "{}", '"arn:aws:x"', '"s3://"'])
def test_file_when_any_field_has_an_odd_value_then_it_is_read_and_the_plan_is_json(tmp_path, value):
    tables = {name: table_of(field) for name, field in SageMakerConfig.model_fields.items()}
    every = [f"{name}.{field}" for name, table in tables.items() if table for field in table.model_fields]
    for path in [*every, "tags.team", "evaluation.top_p"]:
        json.dumps(plan(read(tmp_path, **{path: value})).to_json(), allow_nan=False)
    for name in tables:
        text = re.sub(rf"\[{name}\][^\[]*", "", SAGEMAKER)
        json.dumps(plan(read(tmp_path, f"{name} = {value}\n{text}")).to_json(), allow_nan=False)


SECRETS = [
    ("job.name", '"AKIAIOSFODNN7EXAMPLE"'),
    ("job.model", '"sk-proj-0123456789abcdef"'),
    ("data.train", '"s3://bucket/sk-proj-0123456789abcdef"'),
    ("hyperparameters.group_size", '"sk-proj-0123456789abcdef"'),
    ("output.mlflow_run", '"sk-proj-0123456789abcdef"'),
]


@pytest.mark.parametrize(("path", "value"), SECRETS)
def test_plan_when_a_value_looks_like_a_secret_then_it_is_shown_nowhere(tmp_path, path, value):
    assert value.strip('"')[-12:] not in json.dumps(plan(read(tmp_path, **{path: value})).to_json())


def test_tables_of_hyperparameters_when_compared_with_the_facts_then_they_have_the_same_names():
    every = {name for model in agent_rft.MODELS.values() for name in model.hyperparameters}

    assert set(SageMakerHyperparameters.model_fields) == every
    assert set(Evaluation.model_fields) - {"dataset", "max_runtime_seconds"} == set(
        agent_rft.EVALUATION_HYPERPARAMETERS
    )


EVALUATION = {"evaluation.dataset": "s3://bucket/eval.jsonl"}
CONFLICTS = [
    ({"agent.lambda_arn": FORWARDER}, "agent", "not agentcore_arn and lambda_arn"),
    ({"agent.agentcore_arn": None}, "agent", "exactly one of agentcore_arn, agentcore_id, lambda_arn"),
    (
        {"agent.agentcore_arn": None, "agent.lambda_arn": FORWARDER, "agent.qualifier": '"PROD"'},
        "agent.qualifier",
        "alias in lambda_arn",
    ),
    ({"job.model": '"gemma-4-31b"', "job.region": '"us-east-1"'}, "job.region", "gemma-4-31b; use us-west-2"),
    ({"job.region": '"us-east-1"', "job.model": f"{HUB}/x"}, "job.model", "is in us-west-2"),
    (
        {"output.create_groups": "true", "output.model_package_group": f"{GROUP.replace(ACCOUNT, '9' * 12)}/calc"},
        "output.model_package_group",
        "is in the account 999999999999",
    ),
    (
        {
            "data.train": '"prompts.jsonl"',
            "hyperparameters.global_batch_size": "32",
            "data.validation": DATASET.replace("west-2", "east-1"),
        },
        "data.validation",
        EAST,
    ),
    ({"data.train": '"few-prompts.jsonl"', "hyperparameters.global_batch_size": "32"}, "data.train", "a batch of 32"),
    ({"job.model": '"nova-lite-2"', "data.train": '"few-prompts.jsonl"'}, "data.train", "a batch of 32"),
    ({**EVALUATION, "evaluation.temperature": "3"}, "evaluation.temperature", "from 0 to 2"),
    ({**EVALUATION, "evaluation.top_p": "1.0"}, "evaluation.top_p", "write sampling_top_p"),
    ({**EVALUATION, "evaluation.group_size": "8"}, "evaluation.group_size", "write it into [hyperparameters]"),
    ({**EVALUATION, "evaluation.max_runtime_seconds": "259201"}, "evaluation.max_runtime_seconds", "from 1 to 259,200"),
    ({"evaluation.dataset": DATASET.replace("west-2", "east-1")}, "evaluation.dataset", EAST),
    ({"evaluation.dataset": '"absent.jsonl"'}, "evaluation.dataset", "there is no file"),
    ({"evaluation.temperature": "0.5"}, "evaluation.dataset", "is missing"),
]


@pytest.mark.parametrize(("changes", "path", "rule"), CONFLICTS)
def test_fields_when_in_conflict_then_the_file_has_that_problem(tmp_path, changes, path, rule):
    problem, *others = read(tmp_path, **changes).problems

    assert (problem.path, rule in problem.rule) == (path, True), problem
    assert all("is in us-west-2, and the job runs in us-east-1" in other.rule for other in others), others


NOTES = [
    ({"hyperparameters.max_steps": None}, "hyperparameters.max_steps: left out, 100 is assumed. Sources disagree"),
    ({}, "hyperparameters.learning_rate: left out, 1e-05 is assumed. Sources disagree"),
    ({}, "output.mlflow_in: the MLflow app is named in TrainingConfig"),
    ({}, "data.train: s3://bucket/train.jsonl is not on this machine"),
    ({"hyperparameters.sampling_max_tokens": "8192"}, "validation of gpt-oss-20b may still end at 4,096 tokens"),
    ({"hyperparameters.temperature": "0"}, "nothing is learnt"),
    ({"job.max_runtime_seconds": "90000"}, "needs a higher quota"),
    ({"vpc.subnet_ids": '["s-1"]', "vpc.security_group_ids": '["sg-1"]'}, "two private subnets"),
    ({"job.model": f"{HUB}/some-new-model"}, "is not known here"),
    (
        {"evaluation.dataset": "s3://bucket/e.jsonl", "evaluation.pass_k_values": "[1, 4]"},
        "evaluation.pass_k_values: pass@4 needs eval_group_size of 4",
    ),
    ({"data.validation": "s3://bucket/train.jsonl"}, "is the training file"),
]
DECIDED = [
    ({"hyperparameters.max_steps": "50"}, "max_steps"),
    ({"hyperparameters.learning_rate": "4e-5"}, "learning_rate"),
    ({"output.mlflow_in": '"training"'}, "mlflow_in"),
    ({"hyperparameters.sampling_max_tokens": "4096"}, "validation of"),
    ({"job.model": '"gpt-oss-2b"'}, "is not known here"),
    ({"job.model": '"qwen-3.6-27b"', "hyperparameters.sampling_max_tokens": "8192"}, "validation of"),
]


@pytest.mark.parametrize(("changes", "note"), NOTES)
def test_notes_when_sources_disagree_or_a_value_is_odd_then_the_plan_says_so(tmp_path, changes, note):
    assert any(note in text for text in plan(read(tmp_path, **changes)).notes)


@pytest.mark.parametrize(("changes", "note"), DECIDED)
def test_notes_when_the_file_decides_then_there_is_none(tmp_path, changes, note):
    assert not any(note in text for text in plan(read(tmp_path, **changes)).notes)


# What sagemaker-train 1.27.0 builds. Its inputs are beside it, as this package's file spells them.
S3_TRAIN = {
    "ChannelName": "train",
    "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/train.jsonl"}},
}
GROUPS = {
    "OutputModelPackageGroupArn": f"{GROUP}/calc",
    "IntermediateCheckpointModelPackageGroupArn": f"{GROUP}/calc-ckpt",
}
TRAINING = [
    (
        {},
        {
            "AgentConfig": {"BedrockAgentCoreConfig": {"AgentRuntimeArn": AGENT, "Qualifier": "DEFAULT"}},
            "InputDataConfig": [S3_TRAIN],
            "OutputDataConfig": {"S3OutputPath": "s3://bucket/out/"},
            "ModelPackageConfig": GROUPS,
            "TrainingConfig": {
                "BaseModelArn": f"{HUB}/openai-reasoning-gpt-oss-20b",
                "MlflowConfig": {"MlflowResourceArn": MLFLOW},
                "AcceptEula": True,
                "HyperParameters": {"max_steps": "20"},
            },
        },
        {"TrainingConfig.HyperParameters": {"group_size": "8", "max_steps": "20"}},
    ),
    (
        {
            "job.model": '"qwen-3.6-27b"',
            "agent.agentcore_arn": None,
            "agent.lambda_arn": FORWARDER,
            "data.train": DATASET,
            "data.validation": "s3://bucket/val.jsonl",
            "output.kms_key": KMS,
            "output.mlflow_experiment": '"e"',
            "output.mlflow_run": '"r"',
            "vpc.subnet_ids": '["subnet-1", "subnet-2"]',
            "vpc.security_group_ids": '["sg-1"]',
            "hyperparameters.group_size": None,
            "hyperparameters.learning_rate": "1e-5",
        },
        {
            "AgentConfig": {"CustomAgentLambdaConfig": {"LambdaArn": FORWARDER}},
            "InputDataConfig": [
                {"ChannelName": "train", "DataSource": {"DatasetSource": {"DatasetArn": DATASET}}},
                {
                    "ChannelName": "validation",
                    "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/val.jsonl"}},
                },
            ],
            "OutputDataConfig": {"S3OutputPath": "s3://bucket/out/", "KmsKeyArn": KMS},
            "ModelPackageConfig": GROUPS,
            "TrainingConfig": {
                "BaseModelArn": f"{HUB}/huggingface-vlm-qwen3-6-27b",
                "MlflowConfig": {
                    "MlflowResourceArn": MLFLOW,
                    "MlflowExperimentName": "e",
                    "MlflowRunName": "r",
                },
                "AcceptEula": True,
                "HyperParameters": {"learning_rate": "1e-05", "max_steps": "20"},
            },
            "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1", "subnet-2"]},
        },
        {},
    ),
    (
        {
            "job.model": '"nova-lite-2"',
            "job.max_runtime_seconds": "3600",
            "agent.qualifier": '"PROD"',
            "output.mlflow_in": '"output"',
            "hyperparameters.group_size": None,
            "hyperparameters.max_steps": None,
        },
        {
            "AgentConfig": {"BedrockAgentCoreConfig": {"AgentRuntimeArn": AGENT, "Qualifier": "PROD"}},
            "InputDataConfig": [S3_TRAIN],
            "OutputDataConfig": {"S3OutputPath": "s3://bucket/out/"},
            "ModelPackageConfig": GROUPS,
            "TrainingConfig": {
                "BaseModelArn": f"{HUB}/nova-textgeneration-lite-v2",
                "MlflowConfig": {"MlflowResourceArn": MLFLOW},
                "AcceptEula": True,
            },
        },
        {
            "OutputDataConfig.MlflowConfig": {"MlflowResourceArn": MLFLOW},
            "TrainingConfig.MlflowConfig": None,
            "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        },
    ),
]
"""Changes of the file, what the official SDK builds, and where this package differs by intent."""
EVALUATED = {
    "evaluation.dataset": "s3://bucket/eval.jsonl",
    "evaluation.eval_group_size": "4",
    "evaluation.temperature": "0.5",
    "evaluation.sampling_top_p": "0.9",
    "evaluation.sampling_max_tokens": "2048",
    "evaluation.pass_k_values": "[1, 2, 4]",
    "evaluation.success_threshold": "1.0",
}
EVALUATION_HYPERPARAMETERS = {
    **{"eval_group_size": "4", "temperature": "0.5", "sampling_top_p": "0.9", "sampling_max_tokens": "2048"},
    **{"pass_k_values": "1,2,4", "success_threshold": "1.0"},
}


SDK_EVALUATION_NAMES = ("eval_group_size", "pass_k_values", "success_threshold")
"""The official evaluator looks for the others by wrong names."""


def evaluation_by_the_sdk(run):
    """Return what the official evaluator builds for the same file."""
    return {
        "AgentConfig": {"BedrockAgentCoreConfig": {"AgentRuntimeArn": AGENT, "Qualifier": "DEFAULT"}},
        "InputDataConfig": [
            {
                "ChannelName": "evaluation",
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/eval.jsonl"}},
            }
        ],
        "OutputDataConfig": {
            "S3OutputPath": "s3://bucket/out/",
            "MlflowConfig": {
                "MlflowResourceArn": MLFLOW,
                "MlflowExperimentName": "mtrl-eval-openai-reasoning-gpt-oss-20b",
                "MlflowRunName": run,
            },
        },
        "EvaluationConfig": {
            "BaseModelArn": f"{HUB}/openai-reasoning-gpt-oss-20b",
            "AcceptEula": True,
            "HyperParameters": {name: EVALUATION_HYPERPARAMETERS[name] for name in SDK_EVALUATION_NAMES},
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 86_400},
    }


def with_differences(document, differences):
    """Return a document with other values at some paths. None removes one."""
    document = json.loads(json.dumps(document))
    for path, value in differences.items():
        *blocks, name = path.split(".")
        block = value_at(document, ".".join(blocks)) if blocks else document
        block[name] = value
        if value is None:
            del block[name]
    return document


@pytest.mark.parametrize(("changes", "theirs", "differences"), TRAINING, ids=["agentcore", "lambda", "nova"])
def test_training_document_when_compared_with_the_official_sdk_then_it_differs_only_where_it_should(
    tmp_path, changes, theirs, differences
):
    document = document_of(tmp_path, **changes)

    assert document == with_differences(theirs, differences)
    assert list(document)[: len(theirs)] == list(theirs)


def test_evaluation_document_when_compared_with_the_official_sdk_then_it_has_the_names_that_the_schema_has(tmp_path):
    found = plan(read(tmp_path, **EVALUATED, **{"output.create_groups": "true"}), evaluation=True)

    (request,) = found.requests
    differences = {"EvaluationConfig.HyperParameters": EVALUATION_HYPERPARAMETERS}
    assert not found.problems
    assert request.document == with_differences(evaluation_by_the_sdk("base-model-eval"), differences)
    assert (request.parameters["JobCategory"], request.parameters["JobName"]) == (
        "AgentRFTEvaluation",
        "calculator-1-eval",
    )
    assert found.creates == ({"kind": "job", "name": "calculator-1-eval", "model": "gpt-oss-20b"},)


def test_evaluation_document_when_of_a_tuned_model_then_it_names_model_and_run_as_the_official_sdk_does():
    document = evaluation_document(
        base_model=f"{HUB}/openai-reasoning-gpt-oss-20b",
        agent=AGENT,
        dataset="s3://bucket/eval.jsonl",
        output="s3://bucket/out/",
        accept_eula=True,
        mlflow_arn=MLFLOW,
        model_package=PACKAGE,
        hyperparameters={name: EVALUATION_HYPERPARAMETERS[name] for name in SDK_EVALUATION_NAMES},
    )

    tuned = {"ModelPackageConfig": {"InputModelPackageArn": PACKAGE}}
    assert document == evaluation_by_the_sdk("fine-tuned-model-eval") | tuned


EVALUATION_CHANGES = [
    (
        {"vpc.subnet_ids": '["s-1", "s-2"]', "vpc.security_group_ids": '["sg-1"]'},
        "VpcConfig",
        {"SecurityGroupIds": ["sg-1"], "Subnets": ["s-1", "s-2"]},
    ),
    ({"evaluation.max_runtime_seconds": "600"}, "StoppingCondition", {"MaxRuntimeInSeconds": 600}),
    ({"output.mlflow_experiment": '"e"'}, "OutputDataConfig.MlflowConfig.MlflowExperimentName", "e"),
    ({"output.mlflow_in": '"training"'}, "OutputDataConfig.MlflowConfig.MlflowResourceArn", MLFLOW),
]


@pytest.mark.parametrize(("changes", "path", "value"), EVALUATION_CHANGES)
def test_evaluation_document_when_the_file_changes_then_it_changes(tmp_path, changes, path, value):
    found = plan(read(tmp_path, **EVALUATED, **changes), evaluation=True)

    assert not found.problems
    assert value_at(found.requests[-1].document, path) == value


def test_evaluation_when_its_dataset_is_local_then_that_is_all_that_is_uploaded(tmp_path):
    changes = {"data.train": '"prompts.jsonl"', "hyperparameters.global_batch_size": "32"}

    found = plan(read(tmp_path, **changes, **{"evaluation.dataset": '"few-prompts.jsonl"'}), evaluation=True)

    assert [request.operation for request in found.requests] == ["PutObject", "CreateJob"]
    assert found.requests[0].parameters["Body"].endswith("few-prompts.jsonl")


@pytest.mark.parametrize("text", [SAGEMAKER, BEDROCK], ids=["sagemaker", "bedrock"])
def test_evaluation_when_the_file_has_none_then_that_is_said(tmp_path, text):
    with pytest.raises(ConfigurationError, match="Add one with a dataset"):
        plan(read(tmp_path, text), evaluation=True)


# file -> path in the document -> what stands there
ARNS = [
    ({"agent.agentcore_arn": '"calc-AbCdEfGhIj"'}, "AgentConfig.BedrockAgentCoreConfig.AgentRuntimeArn", AGENT),
    (
        {"agent.agentcore_arn": None, "agent.agentcore_id": '"calc-AbCdEfGhIj"'},
        "AgentConfig.BedrockAgentCoreConfig.AgentRuntimeArn",
        AGENT,
    ),
    ({"output.model_package_group": '"tuned"'}, "ModelPackageConfig.OutputModelPackageGroupArn", f"{GROUP}/tuned"),
    ({"job.model": f"{HUB}/new/1.0.0"}, "TrainingConfig.BaseModelArn", f"{HUB}/new/1.0.0"),
    ({"job.input_model_package": PACKAGE}, "ModelPackageConfig.InputModelPackageArn", PACKAGE),
]


@pytest.mark.parametrize(("changes", "path", "value"), ARNS)
def test_document_when_the_file_has_a_name_or_an_arn_then_the_document_has_the_arn(tmp_path, changes, path, value):
    assert value_at(document_of(tmp_path, **changes), path) == value


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("learning_rate", "1e-5", "1e-05"),
        ("pass_k_values", "[1, 2, 4]", "1,2,4"),
        ("max_steps", '"20"', "20"),
        ("advantage_method", '"rloo"', "rloo"),
    ],
)
def test_hyperparameters_when_sent_then_they_are_the_texts_of_what_the_file_says(tmp_path, name, value, text):
    changes = {"hyperparameters.group_size": None, "hyperparameters.max_steps": None, f"hyperparameters.{name}": value}

    document = document_of(tmp_path, **changes)

    assert document["TrainingConfig"]["HyperParameters"] == {name: text}
    for other in ("gpt", "unknown"):
        base = None if other == "gpt" else f"{HUB}/new"
        again = document_of(tmp_path, **changes, **({"job.model": base} if base else {}))
        assert again["TrainingConfig"]["HyperParameters"] == {name: text}


def test_plan_when_data_is_local_and_groups_are_created_then_the_requests_are_in_order_and_botocore_takes_them(
    tmp_path,
):
    changes = {
        "job.model": '"nova-lite-2"',
        "data.train": '"prompts.jsonl"',
        "data.validation": '"few-prompts.jsonl"',
        "output.create_groups": "true",
        "tags.team": '"rft"',
    }

    found = plan(read(tmp_path, **changes, **{"evaluation.dataset": '"few-prompts.jsonl"'}))

    assert not found.problems
    assert [request.operation for request in found.requests] == [
        *["PutObject"] * 2,
        *["CreateModelPackageGroup"] * 2,
        "CreateJob",
    ]
    put, _, group, _, create = found.requests
    restricted = {"ManagedConfiguration": {"ManagedStorageType": "Restricted"}}
    tags = {"Tags": [{"Key": "team", "Value": "rft"}]}
    assert group.parameters == {"ModelPackageGroupName": "calc", **restricted, **tags}
    assert create.parameters["Tags"] == tags["Tags"]
    assert create.document == json.loads(create.parameters["JobConfigDocument"])
    assert create.parameters["JobConfigDocument"] == json.dumps(create.document, separators=(",", ":"))
    source = value_at(create.document, "InputDataConfig[0].DataSource.S3DataSource.S3Uri")
    assert source == f"s3://{put.parameters['Bucket']}/{put.parameters['Key']}"
    assert [item["kind"] for item in found.creates] == ["file", "file", "group", "group", "job"]
    actions = {action for statement in found.statements for action in statement["Action"]}
    assert {"sagemaker:CreateModelPackageGroup", "sagemaker:CreateJob", "iam:PassRole"} <= actions
    model = Session().get_service_model("sagemaker")
    for request in (group, create):
        shape = model.operation_model(request.operation).input_shape
        assert not ParamValidator().validate(request.parameters, shape).has_errors()


def given_parameters(**changes):
    """Return parameters of CreateJob that are right, with other arguments of `training_document`."""
    arguments = {
        "base_model": f"{HUB}/openai-reasoning-gpt-oss-20b",
        "agent": AGENT,
        "train": "s3://bucket/train.jsonl",
        "output": "s3://bucket/out/",
        "model_package_group": f"{GROUP}/calc",
        "checkpoint_package_group": f"{GROUP}/calc-ckpt",
        "accept_eula": True,
        "mlflow_arn": MLFLOW,
    }
    document = training_document(**{**arguments, **changes})
    return create_parameters(
        document, job_name="a", role_arn=f"arn:aws:iam::{ACCOUNT}:role/Job", category=agent_rft.TRAINING
    )


def edited(edit, **changes):
    parameters = given_parameters(**changes)
    document = json.loads(parameters["JobConfigDocument"])
    edit(document)
    return {**parameters, "JobConfigDocument": json.dumps(document)}


TWO_CHANNELS = [S3_TRAIN, S3_TRAIN]
REQUESTS = [
    (given_parameters(train=None), "InputDataConfig", "is missing"),
    (given_parameters(train=None, validation="s3://bucket/x"), "InputDataConfig", "has no channel train"),
    (given_parameters(mlflow_arn=None), "TrainingConfig.MlflowConfig", "is missing"),
    (given_parameters(agent=None), "AgentConfig", "is missing"),
    (given_parameters(accept_eula=None), "TrainingConfig.AcceptEula", "is missing"),
    (given_parameters(accept_eula=False), "TrainingConfig.AcceptEula", "must be true"),
    (given_parameters(base_model=None), "TrainingConfig.BaseModelArn", "is missing"),
    (
        given_parameters(hyperparameters={"group_size": "64"}),
        "TrainingConfig.HyperParameters.group_size",
        "from 2 to 32",
    ),
    (given_parameters(hyperparameters={"group_size": 8}), "TrainingConfig.HyperParameters", "a table of texts"),
    (
        edited(lambda document: document.update(InputDataConfig=TWO_CHANNELS)),
        "InputDataConfig[1].ChannelName",
        "each once",
    ),
    (
        edited(lambda document: document["InputDataConfig"][0].update(DataSource={})),
        "InputDataConfig[0].DataSource",
        "exactly one of",
    ),
    (
        edited(lambda document: document["AgentConfig"].update(CustomAgentLambdaConfig={"LambdaArn": FORWARDER})),
        "AgentConfig",
        "exactly one of",
    ),
    (
        edited(lambda document: document["OutputDataConfig"].update(MlflowConfig={"MlflowResourceArn": MLFLOW})),
        "TrainingConfig.MlflowConfig",
        "is in OutputDataConfig, too",
    ),
    (
        edited(lambda document: document["TrainingConfig"].update(MlFlowConfig={})),
        "TrainingConfig.MlFlowConfig",
        'did you mean "MlflowConfig"',
    ),
    (
        edited(lambda document: document["InputDataConfig"][0]["DataSource"]["S3DataSource"].update(S3DataType="x")),
        "InputDataConfig[0].DataSource.S3DataSource.S3DataType",
        "S3Prefix",
    ),
    ({**given_parameters(), "JobConfigDocument": "{"}, "JobConfigDocument", "is no JSON"),
    ({**given_parameters(), "JobConfigDocument": "[]"}, "JobConfigDocument", "must be a JSON object"),
    ({**given_parameters(), "JobCategory": "DataTransformation"}, "JobCategory", "AgentRFT or AgentRFTEvaluation"),
    ({**given_parameters(), "JobName": "a_b"}, "JobName", "is malformed"),
    ({**given_parameters(), "Tags": [{"Key": "aws:x", "Value": ""}]}, "Tags[0].Key", "must not begin with aws:"),
    ({**given_parameters(), "Tags": [{"Key": "a;b", "Value": ""}]}, "Tags[0].Key", "pattern"),
]


@pytest.mark.parametrize(("parameters", "path", "rule"), REQUESTS, ids=range(len(REQUESTS)))
def test_parameters_when_wrong_then_the_problem_has_the_path_in_the_document(parameters, path, rule):
    (problem,) = problems(parameters)

    assert (problem.path, rule in problem.rule) == (path, True), problem


def test_parameters_when_an_evaluation_has_what_only_training_has_then_that_is_a_problem():
    document = evaluation_document(
        base_model=f"{HUB}/x", agent=AGENT, dataset="s3://bucket/x", output="s3://bucket/out", accept_eula=True
    )
    document["ModelPackageConfig"] = {"InputModelPackageArn": PACKAGE, "OutputModelPackageGroupArn": f"{GROUP}/calc"}
    role = f"arn:aws:iam::{ACCOUNT}:role/Job"

    (problem,) = problems(create_parameters(document, job_name="a", role_arn=role, category=agent_rft.EVALUATION))

    assert problem.path == "ModelPackageConfig.OutputModelPackageGroupArn"


def test_tags_when_they_have_letters_of_any_language_then_they_are_right():
    assert not problems({**given_parameters(), "Tags": [{"Key": "größe 大", "Value": "é"}]})
