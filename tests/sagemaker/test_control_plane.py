"""The control plane of `LocalJobs`, called by boto3's real clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import requests
from botocore.exceptions import ClientError

from aws_rft_sdk.agent_rft import EVALUATION, TRAINING
from aws_rft_sdk.credentials import Keys
from tests.sagemaker.plane import (
    AGENT,
    BASE,
    KEYS,
    MLFLOW_APP,
    Plane,
    evaluation,
    parameters,
    serving,
    training,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Plane]:
    """A stand-in for tests that leave nothing behind."""
    with serving() as plane:
        yield plane


@pytest.fixture
def plane() -> Iterator[Plane]:
    with serving() as plane:
        yield plane


def refusal(call: Any, **given: Any) -> tuple[str, str]:
    """Return error type and text of a call that the service refuses."""
    with pytest.raises(ClientError) as caught:
        call(**given)
    return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]


def unchecked(plane: Plane) -> Any:
    """Return a client that sends what botocore itself would refuse."""
    return plane.client("sagemaker", parameter_validation=False)


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_job_when_created_then_its_description_is_what_was_asked_and_what_the_service_knows(plane: Plane) -> None:
    client = plane.client("sagemaker")
    arn = client.create_job(**parameters(Tags=[{"Key": "team", "Value": "a"}]))["JobArn"]
    assert arn == "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/calc-1"
    plane.store.advance(plane.job(), secondary="Training", message="step 1", output={"ProgressInfo": {"MaxSteps": 3}})
    plane.store.finish_step(plane.job(), 1, b"state", {"rollout/reward/mean": 0.5}, {}, True)
    plane.store.advance(plane.job(), status="Completed")
    job = client.describe_job(JobName="calc-1", JobCategory=TRAINING)
    document = json.loads(job["JobConfigDocument"])
    output = document.pop("ServiceOutput")
    assert document == training()
    assert (job["JobStatus"], job["SecondaryStatus"], job["Tags"]) == (
        "Completed",
        "Completed",
        [{"Key": "team", "Value": "a"}],
    )
    assert [item["Status"] for item in job["SecondaryStatusTransitions"]] == ["Starting", "Training", "Completed"]
    assert all(item["EndTime"] >= item["StartTime"] for item in job["SecondaryStatusTransitions"])
    assert job["EndTime"] >= job["CreationTime"]
    assert output["ProgressInfo"] == {"MaxSteps": 3}
    assert output["OutputModelPackageArn"] == output["ModelCheckpoint"]
    assert output["ModelCheckpoint"].endswith(":model-package/calc/1")
    assert output["ResumableCheckpoint"].endswith(":model-package/calc-ckpt/1")
    assert output["MlflowDetails"].keys() == {"ExperimentName", "RunName", "ExperimentId", "RunId"}
    assert plane.engine.started == ["calc-1"]


REFUSED_DOCUMENTS = [
    ("not json", "not JSON"),
    ([], "not of type 'object'"),
    (training(accept_eula=False), "TrainingConfig.AcceptEula: must be true"),
    (training(accept_eula=None), "'AcceptEula' is a required property"),
    (training(mlflow_arn=None), "MlflowConfig is missing from TrainingConfig"),
    (training(train=None), "'InputDataConfig' is a required property"),
    (training(hyperparameters={"save_every": "1"}), "'save_every' was unexpected"),
    (training(hyperparameters={"group_size": "33"}), "HyperParameters.group_size: '33' is not a whole number from 2"),
    (training(hyperparameters={"global_batch_size": "16"}), "HyperParameters.global_batch_size"),
    (training(hyperparameters={"learning_rate": "fast"}), "learning_rate: must be a number"),
    (training(hyperparameters={"group_size": 8}), "HyperParameters.group_size: 8 is not of type 'string'"),
    (training(base_model=BASE.replace("gpt", "gtp")), "BaseModelArn: must be the hub ARN of one of"),
    (training(base_model=BASE.replace("us-west-2", "us-east-1")), "BaseModelArn is of the region us-east-1"),
    (training(agent=AGENT.replace("us-west-2", "us-east-1")), "AgentRuntimeArn is of the region us-east-1"),
    (training(agent=AGENT + "/runtime-endpoint/DEFAULT"), "AgentRuntimeArn"),
    (training(checkpoint_package_group=training()["ModelPackageConfig"]["OutputModelPackageGroupArn"]), "must differ"),
    (training(input_model_package="arn:aws:sagemaker:us-west-2:123456789012:model-package/x/1"), "does not exist"),
    ({**training(), "ServiceOutput": {}}, "'ServiceOutput' was unexpected"),
]
REFUSED_EVALUATIONS = [
    (evaluation(hyperparameters={"sampling_temperature": "0"}), "'sampling_temperature' was unexpected"),
    (evaluation(hyperparameters={"top_p": "1"}), "'top_p' was unexpected"),
    (evaluation(hyperparameters={"max_tokens": "4096"}), "'max_tokens' was unexpected"),
    (evaluation(hyperparameters={"eval_group_size": "129"}), "eval_group_size"),
    (evaluation(max_runtime_seconds=259_201), "StoppingCondition.MaxRuntimeInSeconds"),
    (
        {**evaluation(), "ModelPackageConfig": training()["ModelPackageConfig"]},
        "'IntermediateCheckpointModelPackageGroupArn', 'OutputModelPackageGroupArn' were unexpected",
    ),
]
DOCUMENTS = [(TRAINING, *row) for row in REFUSED_DOCUMENTS] + [(EVALUATION, *row) for row in REFUSED_EVALUATIONS]


@pytest.mark.parametrize(("category", "document", "said"), DOCUMENTS, ids=[row[-1][:40] for row in DOCUMENTS])
def test_document_when_the_schema_forbids_it_then_nothing_is_created(
    shared: Plane, category: str, document: Any, said: str
) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    given = {**parameters(category=category), "JobConfigDocument": text}
    code, message = refusal(shared.client("sagemaker").create_job, **given)
    assert code == "ValidationException"
    assert said in message
    assert shared.store.jobs() == []
    assert shared.engine.started == []


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"JobName": "-x"}, "ValidationException", "regular expression"),
        ({"JobName": "x" * 64}, "ValidationException", "less than or equal to 63"),
        ({"JobName": 7}, "ValidationException", "JobName must be of the type string"),
        ({"RoleArn": "arn:aws:iam::1:role/Job-of-mine"}, "ValidationException", "RoleArn"),
        ({"RoleArn": None}, "ValidationException", "RoleArn is missing"),
        ({"JobCategory": "AgentSFT"}, "ValidationException", "enum value set"),
        ({"JobCategory": "DataTransformation"}, "ValidationException", "not of DataTransformation"),
        ({"JobConfigSchemaVersion": "9.9.9"}, "ResourceNotFound", "Known: 1.0.0"),
        ({"Tags": [{"Key": "k", "Value": "v"}] * 51}, "ValidationException", "less than or equal to 50"),
        ({"VpcConfig": {}}, "ValidationException", "VpcConfig is unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_request_when_the_model_forbids_it_then_it_says_which_member(
    shared: Plane, changes: dict[str, Any], code: str, said: str
) -> None:
    given = {name: value for name, value in {**parameters(), **changes}.items() if value is not None}
    headers = {"X-Amz-Target": "SageMaker.CreateJob"}  # botocore itself leaves out members that it does not know
    answer = requests.post(shared.endpoint, json=given, headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["__type"]) == (400, code)
    assert said in answer.json()["Message"]
    assert shared.store.jobs() == []


def test_job_when_there_may_be_no_other_then_the_service_says_why(plane: Plane) -> None:
    client = plane.client("sagemaker")
    client.create_job(**parameters())
    assert refusal(client.create_job, **parameters())[0] == "ResourceInUse"
    assert refusal(client.create_job, **parameters(name="calc-2"))[0] == "ResourceLimitExceeded"
    assert refusal(client.create_job, **parameters(category=EVALUATION))[0] == "ResourceInUse"
    client.create_job(**parameters(name="eval-1", category=EVALUATION))
    assert refusal(client.delete_job, JobName="calc-1", JobCategory=TRAINING)[0] == "ResourceInUse"
    for _ in range(2):  # repeating is safe
        client.stop_job(JobName="calc-1", JobCategory=TRAINING)
    job = client.describe_job(JobName="calc-1", JobCategory=TRAINING)
    assert [item["Status"] for item in job["SecondaryStatusTransitions"]] == ["Starting", "Stopping", "Stopped"]
    for _ in range(2):
        client.delete_job(JobName="calc-1", JobCategory=TRAINING)
    for call in (client.describe_job, client.stop_job):
        assert refusal(call, JobName="calc-1", JobCategory=TRAINING)[0] == "ResourceNotFound"
    client.create_job(**parameters())
    assert [row.name for row in plane.store.jobs()] == ["eval-1", "calc-1"]


def test_jobs_when_listed_then_filters_order_and_pages_are_those_asked_for(plane: Plane) -> None:
    client = plane.client("sagemaker")
    for number, name in enumerate(("b-1", "a-2", "a-3")):
        client.create_job(**parameters(name=name))
        plane.store.advance(plane.job(name), status=("Completed", "Failed", "Stopped")[number])

    def listed(**given: Any) -> list[str]:
        pages = client.get_paginator("list_jobs").paginate(JobCategory=TRAINING, **given)
        return [row["JobName"] for page in pages for row in page["JobSummaries"]]

    assert listed() == ["a-3", "a-2", "b-1"]
    assert listed(SortOrder="Ascending", PaginationConfig={"PageSize": 1}) == ["b-1", "a-2", "a-3"]
    assert listed(SortBy="Name", SortOrder="Descending") == ["b-1", "a-3", "a-2"]
    assert listed(SortBy="Status", SortOrder="Ascending") == ["b-1", "a-2", "a-3"]
    assert listed(NameContains="a-") == ["a-3", "a-2"]
    assert listed(StatusEquals="Failed") == ["a-2"]
    created = plane.job("a-2").created_at
    assert listed(CreationTimeAfter=created - 3600, CreationTimeBefore=created + 3600) == ["a-3", "a-2", "b-1"]
    assert listed(LastModifiedTimeBefore=created - 3600) == []
    assert client.list_jobs(JobCategory=EVALUATION)["JobSummaries"] == []
    assert refusal(client.list_jobs, JobCategory=TRAINING, NextToken="elsewhere")[0] == "ValidationException"
    row = client.list_jobs(JobCategory=TRAINING, MaxResults=1)["JobSummaries"][0]
    assert row.keys() >= {"JobArn", "JobStatus", "JobSecondaryStatus", "CreationTime", "LastModifiedTime", "EndTime"}


@pytest.mark.parametrize(("category", "document"), [(TRAINING, training()), (EVALUATION, evaluation())])
def test_schema_when_described_then_it_judges_documents_as_create_job_does(
    shared: Plane, category: str, document: dict[str, Any]
) -> None:
    client = shared.client("sagemaker")
    versions = client.list_job_schema_versions(JobCategory=category)["JobConfigSchemas"]
    assert versions == [{"JobConfigSchemaVersion": "1.0.0"}]
    answer = client.describe_job_schema_version(JobCategory=category)
    assert answer["JobConfigSchemaVersion"] == "1.0.0"
    validator = jsonschema.Draft202012Validator(json.loads(answer["JobConfigSchema"]))
    jsonschema.Draft202012Validator.check_schema(validator.schema)
    assert validator.is_valid(document)
    assert not validator.is_valid({**document, "Other": 1})
    given = {"JobCategory": category, "JobConfigSchemaVersion": "2.0.0"}
    assert refusal(client.describe_job_schema_version, **given)[0] == "ResourceNotFound"


def test_package_when_a_job_begins_from_it_then_only_what_may_differ_does(plane: Plane) -> None:
    client = plane.client("sagemaker")
    client.create_job(**parameters())
    plane.store.finish_step(plane.job(), 1, b"state", {}, {}, True)
    plane.store.advance(plane.job(), status="Failed", failure="x" * 2000)
    assert len(client.describe_job(JobName="calc-1", JobCategory=TRAINING)["FailureReason"]) == 1024
    (model,) = client.list_model_packages(ModelPackageGroupName="calc")["ModelPackageSummaryList"]
    (resumable,) = client.list_model_packages(ModelPackageGroupName="calc-ckpt")["ModelPackageSummaryList"]
    arns = {"model": model["ModelPackageArn"], "resumable": resumable["ModelPackageArn"]}
    described = client.describe_model_package(ModelPackageName=arns["resumable"])
    assert described["InferenceSpecification"]["Containers"][0]["IsCheckpoint"]
    assert "step 1" in described["ModelPackageDescription"]

    other = {"hyperparameters": {"group_size": "4"}}
    qwen = BASE.replace("openai-reasoning-gpt-oss-20b", "huggingface-vlm-qwen3-6-27b")
    for from_, changes, said in (
        ("resumable", {}, None),
        ("resumable", other, "HyperParameters differs"),
        ("resumable", {"train": "s3://bucket/other.jsonl"}, "InputDataConfig differs"),
        ("model", {**other, "train": "s3://bucket/other.jsonl"}, None),
        ("model", {"base_model": qwen}, "BaseModelArn is not that"),
    ):
        given = parameters(training(input_model_package=arns[from_], **changes), name="calc-2")
        if said is not None:
            assert said in refusal(client.create_job, **given)[1]
            continue
        client.create_job(**given)
        client.stop_job(JobName="calc-2", JobCategory=TRAINING)
        client.delete_job(JobName="calc-2", JobCategory=TRAINING)
    given = parameters(evaluation(model_package=arns["resumable"]), name="eval", category=EVALUATION)
    assert "resume" in refusal(client.create_job, **given)[1]
    client.create_job(**parameters(evaluation(model_package=arns["model"]), name="eval", category=EVALUATION))


def test_group_when_created_twice_then_the_second_is_refused(plane: Plane) -> None:
    client = plane.client("sagemaker")
    given = {"ModelPackageGroupName": "calc", "ManagedConfiguration": {"ManagedStorageType": "Restricted"}}
    arn = client.create_model_package_group(**given)["ModelPackageGroupArn"]
    for name in ("calc", arn):
        described = client.describe_model_package_group(ModelPackageGroupName=name)
        assert described["ManagedConfiguration"] == given["ManagedConfiguration"]
    assert "already exists" in refusal(client.create_model_package_group, **given)[1]
    assert refusal(client.describe_model_package_group, ModelPackageGroupName="other")[0] == "ValidationException"


def test_database_when_opened_again_then_everything_is_there(tmp_path: Path) -> None:
    db = str(tmp_path / "jobs.db")
    with serving(db=db) as plane:
        plane.client("sagemaker").create_job(**parameters())
        plane.store.finish_step(plane.job(), 3, b"learnt", {"training/epoch": 1.0}, {"RolloutInfo": {"Total": 8}}, True)
        plane.client("s3").put_object(Bucket="bucket", Key="train.jsonl", Body=b"{}")
    with serving(db=db) as plane:
        row = plane.job()
        assert plane.store.progress(row) == (3, b"learnt")
        assert row.output["RolloutInfo"] == {"Total": 8}
        found = [(row.step, row.state, plane.store.package(row.arn)) for row in plane.store.packages()]
        assert [(step, state, whole and whole.state) for step, state, whole in found] == [(3, None, b"learnt")] * 2
        assert plane.store.package("arn:none") is None
        assert plane.objects.get("s3://bucket/train.jsonl") == b"{}"


# --- who may call ----------------------------------------------------------------------------------------------------


CALLS = [
    ("sagemaker", lambda client: client.list_jobs(JobCategory=TRAINING)),
    ("logs", lambda client: client.describe_log_streams(logGroupName="/aws/sagemaker/Job/AgentRFT")),
    ("s3", lambda client: client.put_object(Bucket="bucket", Key="a b+ü/x.jsonl", Body=b"x")),
    ("sts", lambda client: client.get_caller_identity()),
    ("bedrock-agentcore-control", lambda client: client.get_agent_runtime(agentRuntimeId="calc-AbCdEfGhIj")),
]


@pytest.mark.parametrize(("service", "call"), CALLS, ids=[service for service, _ in CALLS])
def test_signature_when_demanded_then_that_of_the_right_key_passes_and_others_do_not(service: str, call: Any) -> None:
    with serving(auth="sigv4") as plane:
        plane.client("sagemaker").create_job(**parameters())
        plane.store.log(plane.job(), "a line")
        call(plane.client(service))
        for keys in (Keys(KEYS.access_key, "another"), Keys("AKIDOTHER", KEYS.secret_key)):
            with pytest.raises(ClientError) as caught:
                call(plane.client(service, keys))
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
            assert KEYS.secret_key not in str(caught.value)


def test_call_when_unsigned_then_the_mode_decides(shared: Plane) -> None:
    headers = {"X-Amz-Target": "SageMaker.ListJobs"}
    assert requests.post(shared.endpoint, json={"JobCategory": TRAINING}, headers=headers, timeout=30).ok
    with serving(auth="sigv4") as plane:
        answer = requests.post(plane.endpoint, json={"JobCategory": TRAINING}, headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["__type"]) == (403, "InvalidSignatureException")


def test_operations_when_unknown_or_malformed_then_the_error_has_the_form_of_the_service(shared: Plane) -> None:
    code, message = refusal(shared.client("sagemaker").list_endpoints)
    assert (code, "ListEndpoints" in message) == ("UnknownOperationException", True)
    headers = {"X-Amz-Target": "SageMaker.ListJobs"}
    for body in (b"{", b"[]"):
        answer = requests.post(shared.endpoint, data=body, headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["__type"]) == (400, "SerializationException")
    assert refusal(shared.client("sts").get_session_token)[0] == "InvalidAction"
    identity = shared.client("sts").get_caller_identity()
    assert identity["Account"] == "123456789012"
    runtime = shared.client("bedrock-agentcore-control").get_agent_runtime(agentRuntimeId="calc-AbCdEfGhIj")
    assert (runtime["agentRuntimeArn"], runtime["status"]) == (AGENT, "READY")
    given = {"agentRuntimeId": "no_id"}
    agentcore = shared.client("bedrock-agentcore-control", parameter_validation=False)
    assert refusal(agentcore.get_agent_runtime, **given)[0] == "ValidationException"


def test_answers_when_of_jobs_then_they_have_all_members_that_the_model_requires(plane: Plane) -> None:
    model = botocore.session.Session().get_service_model("sagemaker")
    client = plane.client("sagemaker")
    client.create_job(**parameters())
    client.create_model_package_group(ModelPackageGroupName="calc")
    plane.store.finish_step(plane.job(), 1, None, {}, {}, True)
    package = plane.store.packages()[0].arn
    for operation, answer in (
        ("DescribeJob", client.describe_job(JobName="calc-1", JobCategory=TRAINING)),
        ("ListJobs", client.list_jobs(JobCategory=TRAINING)),
        ("DescribeJobSchemaVersion", client.describe_job_schema_version(JobCategory=TRAINING)),
        ("DescribeModelPackageGroup", client.describe_model_package_group(ModelPackageGroupName="calc")),
        ("DescribeModelPackage", client.describe_model_package(ModelPackageName=package)),
        ("ListModelPackages", client.list_model_packages()),
    ):
        missing(model.operation_model(operation).output_shape, answer, operation)


def missing(shape: Any, value: Any, path: str) -> None:
    """Fail if an answer lacks what its shape requires."""
    if shape.type_name == "structure":
        assert set(shape.required_members) <= value.keys(), path
        for name, item in value.items():
            if name != "ResponseMetadata":
                missing(shape.members[name], item, f"{path}.{name}")
    elif shape.type_name == "list":
        for item in value:
            missing(shape.member, item, f"{path}[]")


def test_mlflow_url_when_presigned_for_no_app_then_it_is_refused(shared: Plane) -> None:
    client = shared.client("sagemaker")
    assert client.create_presigned_mlflow_app_url(Arn=MLFLOW_APP)["AuthorizedUrl"].startswith(shared.endpoint)
    unknown = {"Arn": MLFLOW_APP.replace("mlflow-app", "app")}
    assert refusal(client.create_presigned_mlflow_app_url, **unknown)[0] == "ValidationException"
