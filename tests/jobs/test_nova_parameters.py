"""What is wrong with the parameters of a Nova job: a row for each field and rule. Figures are those of AWS's pages."""

import copy
import json
import re

import pytest

from aws_rft_sdk.errors import JobConfigError
from aws_rft_sdk.jobs import NovaJobs, nova
from aws_rft_sdk.jobs._shapes import shape_problems
from aws_rft_sdk.jobs.types import refuse

GOOD = {
    "model": "amazon.nova-2-lite-v1:0:256k",
    "training_data": "s3://bucket/train.jsonl",
    "grader": "arn:aws:lambda:us-east-1:123456789012:function:gsm8k",
    "job_name": "gsm8k-first",
    "role_arn": "arn:aws:iam::123456789012:role/nova-rft",
    "output": "s3://bucket/out/",
}
FULL = {
    "custom_model_name": "gsm8k_model-1",
    "hyperparameters": {
        **{"epochCount": 50, "batchSize": 512, "learningRate": 1e-3, "trainingSamplePerPrompt": 16},
        **{"evalInterval": 100, "reasoningEffort": "high", "maxPromptLength": 4096, "inferenceMaxTokens": 8192},
    },
    "validators": [f"s3://bucket/validation-{number}.jsonl" for number in range(10)],
    "tags": {f"key {number}": "value" for number in range(200)},
    "kms_key": "arn:aws:kms:us-east-1:123456789012:key/12345678-1234-1234-1234-123456789012",
    "vpc": {"subnetIds": [f"subnet-{n}" for n in range(16)], "securityGroupIds": [f"sg-{n}" for n in range(5)]},
}
LOWEST = {"epochCount": 1, "batchSize": 16, "learningRate": 1e-7, "trainingSamplePerPrompt": 2, "evalInterval": 1}
SOURCE = {"invocationLogSource": {"s3Uri": "s3://bucket/logs"}}
HYPER = "customizationConfig.rftConfig.hyperParameters"
GRADER = "customizationConfig.rftConfig.graderConfig"
LOGS = "trainingDataConfig.invocationLogsConfig"


def logs(**filters):
    return {**SOURCE, "requestMetadataFilters": filters}


def parameters(**changes):
    return nova.create_parameters(**{**GOOD, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="least"),
        pytest.param(FULL, id="everything-at-its-highest"),
        pytest.param({"hyperparameters": {**LOWEST, "reasoningEffort": "low"}}, id="everything-at-its-lowest"),
        pytest.param({"hyperparameters": {}, "validators": [], "tags": {}}, id="empty"),
        pytest.param({"model": "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-2-lite-v1:0:256k"}, id="arn"),
        pytest.param(
            {"model": "arn:aws:bedrock:us-east-1:123456789012:custom-model/amazon.nova-2-lite-v1:0:256k/0123456789ab"},
            id="tuned-model",
        ),
        pytest.param({"grader": f"{GOOD['grader']}:$LATEST"}, id="latest"),
        pytest.param({"grader": f"{GOOD['grader']}:live"}, id="alias"),
        pytest.param({"grader": {"lambdaGrader": {"lambdaArn": GOOD["grader"]}}}, id="grader-as-json"),
        pytest.param({"training_data": SOURCE}, id="logs"),
        pytest.param({"training_data": {**SOURCE, "usePromptResponse": True}}, id="logs-with-answers"),
        pytest.param({"training_data": logs(equals={"team": "a"})}, id="filter"),
        pytest.param({"training_data": logs(orAll=[{"equals": {"a": "1"}}, {"notEquals": {"b": ""}}])}, id="filters"),
        pytest.param({"kms_key": "alias/mine"}, id="alias-of-key"),
        pytest.param({"job_name": "a." + "-" * 60 + "b", "custom_model_name": "a"}, id="hyphens"),
    ],
)
def test_parameters_when_right_then_no_problem_and_botocore_agrees(changes):
    found = parameters(**changes)
    assert nova.problems(found) == []
    assert json.loads(json.dumps(found)) == found
    client = NovaJobs(endpoint_url="http://127.0.0.1:1")._client("bedrock")
    client.meta.events.register("before-send", lambda **_: pytest.fail("nothing is sent"))
    operation = client.meta.service_model.operation_model("CreateModelCustomizationJob")
    client._serializer.serialize_to_request(found, operation)


ROWS = [
    # names
    ({"job_name": ""}, "jobName", "has 0 characters, and must have from 1 to 63"),
    ({"job_name": "a" * 64, "custom_model_name": "a"}, "jobName", "64 characters"),
    ({"job_name": "-a", "custom_model_name": "a"}, "jobName", "malformed. Write it like gsm8k-first"),
    ({"job_name": "a_b", "custom_model_name": "a"}, "jobName", "malformed"),
    ({"job_name": "a" + "-" * 61 + "!", "custom_model_name": "a"}, "jobName", "malformed"),  # in no time, too
    ({"job_name": 3, "custom_model_name": "a"}, "jobName", "must be a string, and not int"),
    ({"job_name": None, "custom_model_name": "a"}, "jobName", "must be a string, and not null"),
    ({"custom_model_name": ""}, "customModelName", "has 0 characters"),
    ({"custom_model_name": "a" * 64}, "customModelName", "64 characters"),
    ({"custom_model_name": "a--b"}, "customModelName", "malformed"),
    ({"custom_model_name": "a.b"}, "customModelName", "malformed"),
    ({"job_name": "a.b"}, "customModelName", "malformed"),
    # ARNs and ids
    ({"role_arn": "nova-rft"}, "roleArn", "Write it like arn:aws:iam::123456789012:role/nova-rft"),
    ({"role_arn": "arn:aws:iam::1234:role/x"}, "roleArn", "malformed"),
    ({"role_arn": "arn:aws:iam::123456789012:user/x"}, "roleArn", "malformed"),
    ({"role_arn": GOOD["role_arn"] + "x" * 2048}, "roleArn", "at most|from 0 to 2048"),
    ({"model": "nova 2 lite"}, "baseModelIdentifier", "Write it like amazon.nova-2-lite-v1:0:256k"),
    ({"model": "Amazon.Nova-2-Lite"}, "baseModelIdentifier", "malformed"),
    ({"model": ""}, "baseModelIdentifier", "has 0 characters"),
    ({"model": "arn:aws:bedrock:us-east-1:123456789012:custom-model/x"}, "baseModelIdentifier", "malformed"),
    ({"grader": "gsm8k"}, f"{GRADER}.lambdaGrader.lambdaArn", "Write it like arn:aws:lambda:us-east-1"),
    ({"grader": GOOD["grader"] + ":a:b"}, f"{GRADER}.lambdaGrader.lambdaArn", "malformed"),
    ({"grader": GOOD["grader"] + "x" * 500}, f"{GRADER}.lambdaGrader.lambdaArn", "from 1 to 512"),
    ({"grader": GOOD["grader"] + "\n"}, f"{GRADER}.lambdaGrader.lambdaArn", "malformed"),
    (
        {"grader": GOOD["grader"].replace("123456789012", "١٢٣٤٥٦٧٨٩٠١٢")},
        f"{GRADER}.lambdaGrader.lambdaArn",
        "malformed",
    ),
    ({"grader": {}}, GRADER, "must have exactly one of lambdaGrader"),
    ({"grader": {"lambdaGrader": {}}}, f"{GRADER}.lambdaGrader.lambdaArn", "is missing"),
    ({"grader": {"lambda": {"function": "x"}}}, f"{GRADER}.lambda", "is unknown. Known: lambdaGrader"),
    ({"grader": None}, f"{GRADER}.lambdaGrader.lambdaArn", "must be a string, and not null"),
    ({"kms_key": ""}, "customModelKmsKeyId", "has 0 characters"),
    ({"kms_key": "mine"}, "customModelKmsKeyId", "Write it like arn:aws:kms"),
    # S3 URIs
    ({"training_data": "train.jsonl"}, "trainingDataConfig.s3Uri", "Write it like s3://bucket/folder/train.jsonl"),
    ({"training_data": "s3://bucket/a b.jsonl"}, "trainingDataConfig.s3Uri", "malformed"),
    ({"training_data": "s3://Bucket/a"}, "trainingDataConfig.s3Uri", "malformed"),
    ({"training_data": "s3://bucket//a"}, "trainingDataConfig.s3Uri", "malformed"),
    ({"training_data": "s3://bucket/" + "a" * 1024}, "trainingDataConfig.s3Uri", "from 1 to 1024"),
    ({"output": "s3://b"}, "outputDataConfig.s3Uri", "malformed"),
    ({"output": None}, "outputDataConfig.s3Uri", "must be a string, and not null"),
    ({"validators": ["validation.jsonl"]}, "validationDataConfig.validators[0].s3Uri", "malformed"),
    (
        {"validators": ["s3://bucket/v"] * 11},
        "validationDataConfig.validators",
        "has 11 items, and must have from 0 to 10",
    ),
    ({"validators": "s3://bucket/v"}, "validationDataConfig.validators", "must be a list, and not str"),
    # invocation logs
    ({"training_data": {}}, f"{LOGS}.invocationLogSource", "is missing"),
    ({"training_data": {"invocationLogSource": {}}}, f"{LOGS}.invocationLogSource", "must have exactly one of s3Uri"),
    ({"training_data": {"invocationLogSource": {"s3Uri": "logs"}}}, f"{LOGS}.invocationLogSource.s3Uri", "malformed"),
    ({"training_data": {**SOURCE, "usePromptResponse": "yes"}}, f"{LOGS}.usePromptResponse", "must be true or false"),
    ({"training_data": logs()}, f"{LOGS}.requestMetadataFilters", "exactly one of equals, notEquals, andAll, orAll"),
    (
        {"training_data": logs(equals={"a": "1"}, notEquals={"b": "2"})},
        f"{LOGS}.requestMetadataFilters",
        "exactly one of",
    ),
    (
        {"training_data": logs(equals={"a": "1", "b": "2"})},
        f"{LOGS}.requestMetadataFilters.equals",
        "has 2 pairs, and must have exactly 1",
    ),
    ({"training_data": logs(equals={})}, f"{LOGS}.requestMetadataFilters.equals", "has 0 pairs"),
    ({"training_data": logs(equals={"a": "x" * 257})}, f"{LOGS}.requestMetadataFilters.equals.a", "from 0 to 256"),
    ({"training_data": logs(equals={"a": "{}"})}, f"{LOGS}.requestMetadataFilters.equals.a", "match the pattern"),
    ({"training_data": logs(equals={"": "x"})}, f"{LOGS}.requestMetadataFilters.equals.", "from 1 to 256"),
    ({"training_data": logs(andAll=[])}, f"{LOGS}.requestMetadataFilters.andAll", "from 1 to 16"),
    (
        {"training_data": logs(orAll=[{"equals": {"a": "1"}}] * 17)},
        f"{LOGS}.requestMetadataFilters.orAll",
        "has 17 items",
    ),
    ({"training_data": logs(andAll=[{}])}, f"{LOGS}.requestMetadataFilters.andAll[0]", "one of equals, notEquals"),
    (
        {"training_data": logs(orAll=[{"equals": {"a": "1"}, "notEquals": {"a": "2"}}])},
        f"{LOGS}.requestMetadataFilters.orAll[0]",
        "one of equals, notEquals",
    ),
    # hyperparameters
    *(
        ({"hyperparameters": {name: value}}, f"{HYPER}.{name}", rule)
        for name, value, rule in [
            ("epochCount", 0, "must be from 1 to 50"),
            ("epochCount", 51, "must be from 1 to 50"),
            ("epochCount", "1", "must be an integer, and not str"),
            ("epochCount", True, "must be an integer, and not bool"),
            ("batchSize", 4, "must be from 16 to 512"),
            ("batchSize", 9999, "must be from 16 to 512"),
            ("batchSize", 32.0, "must be an integer, and not 32.0"),
            ("learningRate", 9e-8, "must be from 1e-07 to 0.001"),
            ("learningRate", 1.0, "must be from 1e-07 to 0.001"),
            ("learningRate", float("nan"), "must be a finite number, and not nan"),
            ("learningRate", "1e-5", "must be a finite number, and not str"),
            ("trainingSamplePerPrompt", 1, "must be from 2 to 16"),
            ("trainingSamplePerPrompt", 99, "must be from 2 to 16"),
            ("evalInterval", 0, "must be from 1 to 100"),
            ("evalInterval", 101, "must be from 1 to 100"),
            ("reasoningEffort", "extreme", "must be one of low, medium, high"),
            ("maxPromptLength", 0, "must be at least 1"),
            ("inferenceMaxTokens", -5, "must be at least 1"),
            ("inferenceMaxTokens", 1.5, "must be an integer"),
            ("batch_size", 32, "is unknown. Known: batchSize"),
            ("n_epochs", 1, "is unknown. Known: "),
        ]
    ),
    ({"hyperparameters": "fast"}, HYPER, "must be a table, and not str"),
    # tags and network
    ({"tags": {f"k{n}": "" for n in range(201)}}, "jobTags", "has 201 items, and must have from 0 to 200"),
    ({"tags": {"": "v"}}, "jobTags[0].key", "from 1 to 128"),
    ({"tags": {"k" * 129: "v"}}, "jobTags[0].key", "from 1 to 128"),
    ({"tags": {"k": "v" * 257}}, "customModelTags[0].value", "from 0 to 256"),
    ({"tags": {"k#": "v"}}, "jobTags[0].key", "match the pattern"),
    ({"tags": {"k": 3}}, "jobTags[0].value", "must be a string, and not int"),
    ({"tags": {"AWS:k": "v"}}, "customModelTags[0].key", "must not begin with aws:"),
    ({"tags": "k=v"}, "jobTags", "must be a list, and not str"),
    ({"vpc": {}}, "vpcConfig.subnetIds", "is missing"),
    ({"vpc": {"subnetIds": ["s"]}}, "vpcConfig.securityGroupIds", "is missing"),
    ({"vpc": {**FULL["vpc"], "subnetIds": []}}, "vpcConfig.subnetIds", "from 1 to 16"),
    ({"vpc": {**FULL["vpc"], "subnetIds": ["s"] * 17}}, "vpcConfig.subnetIds", "has 17 items"),
    ({"vpc": {**FULL["vpc"], "securityGroupIds": ["s"] * 6}}, "vpcConfig.securityGroupIds", "from 1 to 5"),
    ({"vpc": {**FULL["vpc"], "subnetIds": ["s" * 33]}}, "vpcConfig.subnetIds[0]", "from 0 to 32"),
    ({"vpc": {**FULL["vpc"], "subnetIds": ["s.1"]}}, "vpcConfig.subnetIds[0]", "subnet-0123456789abcdef0"),
    ({"vpc": {**FULL["vpc"], "subnets": []}}, "vpcConfig.subnets", "is unknown. Known: subnetIds"),
]


@pytest.mark.parametrize(
    ("changes", "path", "rule"), [pytest.param(*row, id=f"{number}-{row[1]}") for number, row in enumerate(ROWS)]
)
def test_problems_when_one_field_is_wrong_then_its_path_value_rule_and_source(changes, path, rule):
    found = nova.problems(parameters(**changes))
    problem = next(item for item in found if item.path == path)
    assert re.search(rule, problem.rule), problem
    assert problem.source
    json.dumps(found, allow_nan=False)
    with pytest.raises(JobConfigError, match=re.escape(path)) as refused:
        refuse(found, "the job cannot be created")
    assert refused.value.problems == tuple(found)


RAW = [
    (lambda raw: raw.pop("jobName"), "jobName", None, "is missing. Write it like"),
    (lambda raw: raw.pop("roleArn"), "roleArn", None, "is missing"),
    (lambda raw: raw.pop("baseModelIdentifier"), "baseModelIdentifier", None, "is missing"),
    (lambda raw: raw.pop("outputDataConfig"), "outputDataConfig", None, "is missing"),
    (lambda raw: raw.pop("trainingDataConfig"), "trainingDataConfig", None, "is missing"),
    (lambda raw: raw["trainingDataConfig"].clear(), "trainingDataConfig", [], "exactly one of s3Uri, invocationLogs"),
    (
        lambda raw: raw["trainingDataConfig"].update(invocationLogsConfig=SOURCE),
        "trainingDataConfig",
        ["invocationLogsConfig", "s3Uri"],
        "exactly one of",
    ),
    (
        lambda raw: raw.update(customizationType="FINE_TUNING"),
        "customizationType",
        "FINE_TUNING",
        "must be REINFORCEMENT",
    ),
    (lambda raw: raw.update(customizationType="RFT"), "customizationType", "RFT", "must be one of FINE_TUNING"),
    (lambda raw: raw["customizationConfig"].clear(), "customizationConfig", [], "exactly one of distill"),
    (
        lambda raw: raw["customizationConfig"].update(
            distillationConfig={"teacherModelConfig": {"teacherModelIdentifier": "amazon.nova-pro-v1:0"}}
        ),
        "customizationConfig",
        ["distillationConfig", "rftConfig"],
        "exactly one of distill",
    ),
    (lambda raw: raw["customizationConfig"]["rftConfig"].clear(), GRADER, None, "A job needs a grader"),
    (lambda raw: raw.update(clientRequestToken="-a"), "clientRequestToken", "-a", "match the pattern"),
    (lambda raw: raw.update(clientRequestToken="a" * 257), "clientRequestToken", "a" * 257, "from 1 to 256"),
    (lambda raw: raw.update(jobname="x"), "jobname", "x", "is unknown. Known: jobName"),
    (lambda raw: raw.update(trainingDataConfig=[]), "trainingDataConfig", [], "must be a table, and not list"),
    (lambda raw: raw.update(jobTags=[3]), "jobTags[0]", 3, "must be a table"),
]


@pytest.mark.parametrize(
    ("change", "path", "value", "rule"), [pytest.param(*row, id=f"{n}-{row[1]}") for n, row in enumerate(RAW)]
)
def test_problems_when_raw_parameters_are_wrong_then_they_say_so(change, path, value, rule):
    raw = copy.deepcopy(parameters())
    change(raw)
    found = nova.problems(raw)
    assert any((item.path, item.value) == (path, value) and rule in item.rule for item in found), found


def test_problems_when_many_fields_are_wrong_then_all_at_once():
    wrong = {"job_name": "", "role_arn": "x", "output": "y", "grader": "z", "hyperparameters": {"batchSize": 4}}
    found = {problem.path for problem in nova.problems(parameters(**wrong))}
    assert found == {
        *("jobName", "customModelName", "roleArn", "outputDataConfig.s3Uri"),
        *(f"{GRADER}.lambdaGrader.lambdaArn", f"{HYPER}.batchSize"),
    }


def test_problems_when_a_value_is_sensitive_then_it_is_hidden():
    found = nova.problems(parameters(training_data=logs(equals={"card": "5500{}"}, orAll=[])))
    assert found
    assert "5500" not in repr(found)


def test_shapes_when_another_service_is_asked_then_its_model_is_used():
    found = shape_problems(
        "lambda", "CreateFunction", {"FunctionName": "a b", "Role": "r", "Code": {}, "Timeout": 9999}
    )
    assert [item.path for item in found] == ["FunctionName", "Role", "Timeout"]
    assert {item.source for item in found} == {"botocore service model lambda 2015-03-31"}


@pytest.mark.parametrize(
    "change",
    [
        {"job_name": "other"},
        {"output": "s3://bucket/other/"},
        {"hyperparameters": {"batchSize": 16}},
        {"tags": {"a": "b"}},
        {"validators": ["s3://bucket/v"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_token_when_anything_differs_then_it_is_another_one(change):
    same = [parameters(hyperparameters={"epochCount": 1, "batchSize": 32})["clientRequestToken"]]
    same.append(parameters(hyperparameters={"batchSize": 32, "epochCount": 1})["clientRequestToken"])
    assert len(set(same)) == 1
    assert parameters(**change)["clientRequestToken"] != parameters()["clientRequestToken"]
