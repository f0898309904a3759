"""Jobs of Nova: the real boto3 client against moto, and against a server of our own for what moto lacks."""

import json
import logging
from pathlib import Path

import boto3
import pytest
from jobs.control_plane import ACCOUNT, MODEL, Server, Trouble
from moto import mock_aws

from aws_rft_sdk.errors import (
    ConfigurationError,
    CredentialsError,
    DatasetError,
    JobConfigError,
    JobServiceError,
    ServiceConnectionError,
    ServiceFaultError,
    ServiceTimeoutError,
    ThrottledError,
)
from aws_rft_sdk.jobs import ModelDeployment, NovaJobs, nova

GRADER = "arn:aws:lambda:us-east-1:123456789012:function:gsm8k"
JOB = {
    "job_name": "gsm8k-first",
    "role_arn": "arn:aws:iam::123456789012:role/nova-rft",
    "output": "s3://bucket/out/",
}
WHAT = ("amazon.nova-2-lite-v1:0:256k", "s3://bucket/train.jsonl", GRADER)


@pytest.fixture(scope="module")
def session():
    """Return one session for many tests, since loading a model of botocore takes a second."""
    return boto3.session.Session("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", region_name="eu-west-1")


@pytest.fixture
def server():
    with Server() as running:
        yield running


@pytest.fixture
def plane(server):
    return server.plane


@pytest.fixture
def jobs(server, session):
    waits = []
    made = NovaJobs(session=session, endpoint_url=server.endpoint, sleep=waits.append)
    made.waits = waits
    return made


@pytest.fixture
def moto_jobs():
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        yield NovaJobs()


def write(path: Path, count=120, **changes) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"What is {n} and {n}?"}], "reference_answer": {"answer": str(2 * n)}}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps({**row, **changes}) + "\n" for row in rows))
    return path


def test_steps_when_run_against_moto_then_a_job_is_made_listed_and_stopped(moto_jobs, tmp_path):
    train, validation = write(tmp_path / "my train.jsonl"), write(tmp_path / "validation.jsonl", 20)
    more = {"hyperparameters": {"batchSize": 32, "learningRate": 1e-5}, "tags": {"team": "a"}}
    job = moto_jobs.create(WHAT[0], train, GRADER, **JOB, validators=[validation], **more)
    assert (job.status, job.state, job.tuned_model, job.failure) == ("InProgress", "running", None, None)
    uri = job["trainingDataConfig"]["s3Uri"]
    assert uri.startswith("s3://bucket/out/data/")
    assert uri.endswith("-my-train.jsonl")
    stored = boto3.client("s3").get_object(Bucket="bucket", Key=uri.removeprefix("s3://bucket/"))["Body"].read()
    assert stored == train.read_bytes()
    assert job["validationDataConfig"]["validators"][0]["s3Uri"].endswith("-validation.jsonl")
    json.dumps(job.raw)  # dates are texts
    again = moto_jobs.create(WHAT[0], str(train), GRADER, **JOB, validators=(str(validation),), **more)
    assert again.id == job.id
    assert [item.id for item in moto_jobs.list(name_contains="first")] == [job.id]
    assert list(moto_jobs.list(status="Completed")) == []
    assert moto_jobs.stop("gsm8k-first").state == "cancelled"


def test_upload_when_repeated_then_it_is_one_object(moto_jobs, tmp_path):
    train = write(tmp_path / "train.jsonl")
    files = [moto_jobs.upload(train, destination) for destination in ("bucket/data", "s3://bucket/data/")]
    assert {file.id for file in files} == {nova.upload_uri(train, "s3://bucket/data")}
    assert files[0]["bytes"] == train.stat().st_size
    assert boto3.client("s3").list_objects_v2(Bucket="bucket")["KeyCount"] == 1
    other = moto_jobs.upload(write(train, 121), "bucket/data")
    assert other.id != files[0].id
    assert moto_jobs.create(WHAT[0], other, GRADER, **JOB)["trainingDataConfig"] == {"s3Uri": other.id}


BAD_FILES = [
    ({"count": 99}, {}, "99 rows, and at least 100"),
    ({"count": 120}, {"hyperparameters": {"batchSize": 128}}, "120 rows, and a batch of 128"),
    ({"messages": []}, {}, "line 1, messages: .* \\(and 119 more\\)"),
    ({"reference_answer": None}, {}, "reference_answer"),
]


@pytest.mark.parametrize(("rows", "more", "text"), BAD_FILES, ids=["few-rows", "batch", "no-messages", "no-reference"])
def test_create_when_a_local_file_breaks_rules_then_nothing_is_sent(jobs, plane, tmp_path, rows, more, text):
    train = write(tmp_path / "train.jsonl", **rows)
    with pytest.raises(JobConfigError, match=text) as refused:
        jobs.create(WHAT[0], train, "gsm8k", **JOB, **more)
    paths = [problem.path for problem in refused.value.problems]
    assert paths[0].endswith("lambdaArn")  # all problems at once
    assert "trainingDataConfig.s3Uri" in paths
    if not more:
        with pytest.raises(DatasetError, match=text):
            jobs.upload(train, "bucket/data")
    assert plane.calls == []


def test_create_when_a_file_is_missing_or_a_folder_is_wrong_then_it_says_so_once(jobs, plane, tmp_path):
    validation = write(tmp_path / "v.jsonl", 1)
    with pytest.raises(JobConfigError) as refused:
        jobs.create(WHAT[0], "no.jsonl", GRADER, **JOB, validators=[validation], upload_to="s3://B")
    found = {problem.path: (problem.value, problem.rule) for problem in refused.value.problems}
    assert found.keys() == {"trainingDataConfig.s3Uri", "upload_to"}
    assert found["trainingDataConfig.s3Uri"][0] == "no.jsonl"
    assert "is no file" in found["trainingDataConfig.s3Uri"][1]
    for call, text in (
        (lambda: jobs.upload("no.jsonl", "bucket", check=False), "is no file"),
        (lambda: jobs.upload(validation, "s3://a b"), "destination"),
        (lambda: jobs.create(*WHAT, **JOB, validators=str(validation)), "validators must be a list"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    assert plane.calls == []


def test_create_when_references_are_not_required_then_rows_without_are_taken(jobs, plane, tmp_path):
    train = write(tmp_path / "train.jsonl", reference_answer=None)
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    train.write_text("".join(json.dumps({"messages": row["messages"]}) + "\n" for row in rows))
    jobs.create(WHAT[0], train, GRADER, **JOB, require_reference=False)
    assert list(plane.objects.values()) == [train.read_bytes()]


def test_create_when_the_file_changes_during_the_upload_then_no_job_is_made(server, session, tmp_path):
    train = write(tmp_path / "train.jsonl")

    class Changing(NovaJobs):
        def upload(self, path, destination, **options):
            write(train, 130)
            return super().upload(path, destination, **options)

    with pytest.raises(ConfigurationError, match="was changed while it was uploaded"):
        Changing(session=session, endpoint_url=server.endpoint).create(WHAT[0], train, GRADER, **JOB)
    assert server.plane.jobs == []


def test_create_when_sent_then_the_service_has_all_parameters(jobs, plane):
    source = {
        "invocationLogSource": {"s3Uri": "s3://bucket/logs"},
        "requestMetadataFilters": {"andAll": [{"equals": {"team": "a"}}, {"notEquals": {"stage": "test"}}]},
    }
    job = jobs.create(WHAT[0], source, GRADER, **JOB, hyperparameters={"batchSize": 32})
    assert job.state == "queued"  # no phase has begun
    expected = nova.create_parameters(WHAT[0], source, GRADER, **JOB, hyperparameters={"batchSize": 32})
    assert plane.asked("create_job") == [expected]
    config = job["customizationConfig"]["rftConfig"]
    assert config == {"graderConfig": {"lambdaGrader": {"lambdaArn": GRADER}}, "hyperParameters": {"batchSize": 32}}


@pytest.mark.parametrize("forgets", [False, True], ids=["remembers", "forgets-tokens"])
def test_create_when_an_answer_is_lost_then_there_is_one_job(jobs, plane, forgets):
    plane.troubles["create_job"].append(Trouble(applied=True))
    job = jobs.create(*WHAT, **JOB)
    if forgets:
        plane.tokens.clear()
    assert jobs.create(*WHAT, **JOB).id == job.id
    assert len(plane.jobs) == 1
    assert len({body["clientRequestToken"] for body in plane.asked("create_job")}) == 1
    assert len(plane.asked("create_job")) == 3


def test_create_when_the_name_is_taken_then_the_job_that_has_it_is_described(jobs, plane):
    job = jobs.create(*WHAT, **JOB)
    with pytest.raises(JobServiceError) as refused:
        jobs.create(*WHAT, **{**JOB, "output": "s3://bucket/other"}, hyperparameters={"batchSize": 16})
    text = str(refused.value)
    assert f"belongs to {job['jobArn']}, which is InProgress" in text
    assert "differs in outputDataConfig, customizationConfig. Choose another job_name" in text
    assert (refused.value.code, refused.value.status) == ("ConflictException", 400)
    with pytest.raises(JobServiceError, match="a model is called 'gsm8k-first' already: choose another custom_model"):
        jobs.create(*WHAT, **{**JOB, "job_name": "second"}, custom_model_name="gsm8k-first")
    with pytest.raises(JobServiceError, match="differs in what Bedrock does not show"):
        jobs.create(*WHAT, **JOB, tags={"a": "b"})
    assert len(plane.jobs) == 1


def test_create_when_the_job_cannot_be_looked_at_then_its_arn_is_returned(jobs, plane, caplog):
    plane.troubles["get_job"].append(Trouble("AccessDeniedException", 403))
    with caplog.at_level(logging.WARNING, "aws_rft_sdk"):
        job = jobs.create(*WHAT, **JOB)
    assert (job.id, job["jobArn"], job.state) == (JOB["job_name"], plane.jobs[0]["jobArn"], "unknown")
    assert job["jobArn"] in caplog.text
    assert jobs.get(job).status == "InProgress"


NOT_STARTED = {"status": "NotStarted"}
STATES = [
    ("InProgress", {"validationDetails": {"status": "InProgress"}, "trainingDetails": NOT_STARTED}, "running", None),
    ("InProgress", {"validationDetails": NOT_STARTED, "trainingDetails": NOT_STARTED}, "queued", None),
    ("InProgress", {"trainingDetails": {"status": "Warming"}}, "running", None),
    ("Stopping", {}, "running", None),
    ("Stopped", {}, "cancelled", None),
    ("Completed", {}, "succeeded", None),
    ("Failed", {"dataProcessingDetails": {"status": "Failed"}}, "failed", "dataProcessing failed"),
    ("Failed", {}, "failed", None),
    ("Paused", {}, "unknown", None),
]


@pytest.mark.parametrize(("status", "details", "state", "failure"), STATES, ids=lambda value: str(value)[:40])
def test_get_when_a_job_has_a_status_then_the_state_means_it(jobs, plane, status, details, state, failure):
    arn = jobs.create(*WHAT, **JOB)["jobArn"]
    plane.jobs[0] |= {"status": status, "statusDetails": details, "outputModelArn": MODEL, "future": 1}
    job = jobs.get(arn)
    assert (job.status, job.state, job.failure) == (status, state, failure)
    assert job.tuned_model == (MODEL if status == "Completed" else None)
    assert job.finished is (state in ("succeeded", "failed", "cancelled"))
    assert [(row.state, row.tuned_model) for row in jobs.list()] == [(state, job.tuned_model)]
    plane.jobs[0]["failureMessage"] = "the grader failed"
    assert jobs.get("gsm8k-first").failure == ("the grader failed" if state == "failed" else None)


def test_list_when_there_are_pages_then_each_job_comes_once_and_other_kinds_do_not(jobs, plane):
    names = [f"job-{n}" for n in range(5)]
    for name in names:
        jobs.create(*WHAT, **{**JOB, "job_name": name})
    plane.jobs[2]["customizationType"] = "FINE_TUNING"
    plane.calls.clear()
    found = jobs.list()
    assert next(found)["jobName"] == "job-4"
    assert len(plane.calls) == 1  # the next page has not been asked for
    assert [job["jobName"] for job in found] == ["job-3", "job-1", "job-0"]
    assert [job["jobName"] for job in jobs.list(name_contains="3")] == ["job-3"]
    with pytest.raises(JobConfigError, match="must be one of InProgress, Completed"):
        jobs.list(status="running")
    plane.troubles["list_jobs"].append(Trouble("AccessDeniedException", 403))
    with pytest.raises(JobServiceError, match="bedrock:ListModelCustomizationJobs"):
        list(jobs.list())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("InProgress", "Stopping"),
        ("Stopping", "Stopping"),
        ("Stopped", "Stopped"),
        ("Completed", None),
        ("Failed", None),
    ],
)
def test_stop_when_a_job_may_have_ended_then_it_is_said(jobs, plane, before, after):
    job = jobs.create(*WHAT, **JOB)
    plane.jobs[0]["status"] = before
    if after:
        assert jobs.stop(job).status == after
    else:
        with pytest.raises(JobServiceError, match=f"cannot be stopped: it is {before}") as refused:
            jobs.stop(job)
        assert refused.value.action == "bedrock:StopModelCustomizationJob"


def test_deploy_when_it_takes_a_while_then_it_is_waited_for(jobs, plane):
    plane.answers[:] = ["Creating", "Creating", "Active"]
    deployment = jobs.deploy(MODEL, "gsm8k", description="first", tags={"team": "a"}, poll_seconds=7)
    assert isinstance(deployment, ModelDeployment)
    assert (deployment.status, deployment.model, jobs.waits) == ("Active", MODEL, [7, 7, 7])
    sent = plane.asked("create_deployment")[0]
    assert (sent["description"], sent["tags"]) == ("first", [{"key": "team", "value": "a"}])
    assert jobs.deploy(MODEL, "gsm8k").id == deployment.id
    assert len(plane.asked("create_deployment")) == 1
    with pytest.raises(JobServiceError, match="Choose another name, or undeploy it"):
        jobs.deploy(MODEL.replace("ab", "cd"), "gsm8k")
    assert [item.id for item in jobs.deployments(model=MODEL)] == [deployment.id]
    for _ in range(2):
        jobs.undeploy(deployment)
    assert list(jobs.deployments()) == []
    assert jobs.deploy(MODEL, "gsm8k").id != deployment.id


@pytest.mark.parametrize(
    "troubles",
    [
        pytest.param([Trouble(applied=True)], id="name-taken-by-the-lost-call"),
        pytest.param([Trouble(applied=True), Trouble("AccessDeniedException", 403)], id="then-denied"),
        pytest.param([Trouble(), Trouble("InternalServerException", 500)], id="then-a-fault"),
    ],
)
def test_deploy_when_an_answer_is_lost_then_there_is_one_deployment(jobs, plane, troubles):
    plane.troubles["create_deployment"].extend(troubles)
    deployments = [jobs.deploy(MODEL, "gsm8k") for _ in range(2)]
    assert [item.status for item in deployments] == ["Active", "Active"]
    assert len(plane.deployments) == len({item.id for item in deployments}) == 1


def test_deploy_when_it_fails_or_takes_too_long_then_it_says_why(jobs, plane):
    plane.answers[:] = ["Creating", "Failed"]
    for _ in range(2):
        with pytest.raises(JobServiceError, match=r"the model is broken.*undeploy\('arn"):
            jobs.deploy(MODEL, "gsm8k")
    plane.answers[:] = ["Creating"]
    jobs.waits.clear()
    with pytest.raises(ServiceTimeoutError, match=r"still Creating after 60 s\. Call deploy again"):
        jobs.deploy(MODEL, "slow", poll_seconds=20, timeout_seconds=60)
    assert jobs.waits == [20, 20, 20]


def test_deploy_when_given_a_job_then_its_model_is_deployed(jobs, plane):
    job = jobs.create(*WHAT, **JOB)
    for model in (job, job["jobArn"], "gsm8k-first"):
        with pytest.raises(ConfigurationError, match="has no model to deploy: it is InProgress"):
            jobs.deploy(model, "gsm8k")
    plane.jobs[0] |= {"status": "Completed", "outputModelArn": MODEL}
    assert jobs.deploy(job, "gsm8k").model == MODEL  # asked again, since it had not ended
    with pytest.raises(JobConfigError, match=r"modelDeploymentName .* malformed"):
        jobs.deploy(job, "gsm 8k")
    with pytest.raises(ConfigurationError, match="poll_seconds"):
        jobs.deploy(job, "gsm8k", poll_seconds=0)


@pytest.mark.parametrize(
    ("messages", "sent", "system"),
    [
        ("What?", [{"role": "user", "content": [{"text": "What?"}]}], None),
        ([{"role": "user", "content": "What?"}], [{"role": "user", "content": [{"text": "What?"}]}], None),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"text": "What?"}]}],
            [{"role": "user", "content": [{"text": "What?"}]}],
            [{"text": "Be brief."}],
        ),
    ],
    ids=["text", "texts", "system"],
)
def test_converse_when_called_then_the_api_is_asked_in_its_own_form(jobs, plane, messages, sent, system):
    deployment = jobs.deploy(MODEL, "gsm8k")
    answer = jobs.converse(deployment, messages, inferenceConfig={"maxTokens": 5})
    assert nova.reply_text(answer) == "What?: 72"
    body = plane.asked("converse")[0]
    assert (body["messages"], body.get("system"), body["inferenceConfig"]) == (sent, system, {"maxTokens": 5})
    events = jobs.converse(deployment.id, messages, stream=True)
    assert "".join(nova.reply_text(event) for event in events) == "72"


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (Trouble("throttlingException", message="slow down"), ThrottledError),
        (Trouble("modelStreamErrorException", message="broken"), ServiceFaultError),
        (Trouble(), ServiceConnectionError),
    ],
    ids=["throttled", "model", "connection"],
)
def test_converse_when_a_stream_breaks_then_the_error_is_ours(jobs, plane, trouble, error):
    plane.troubles["converse_stream"].append(Trouble(trouble.code, applied=True, message=trouble.message))
    events, texts = jobs.converse(MODEL, "What?", stream=True), []
    with pytest.raises(error):
        texts.extend(map(nova.reply_text, events)) or list(events)
    assert len(plane.asked("converse_stream")) == 1


DENIED = "User: arn:aws:sts::123456789012:assumed-role/me is not authorized to perform: iam:PassRole on resource: {}"
REFUSALS = [
    (Trouble("AccessDeniedException", 403), JobServiceError, '"bedrock:CreateModelCustomizationJob"'),
    (
        Trouble("AccessDeniedException", 403, DENIED.format(JOB["role_arn"])),
        JobServiceError,
        '"iam:PassRole".*nova-rft',
    ),
    (Trouble("ValidationException", 400, "no such model"), JobServiceError, "no such model"),
    (Trouble("ServiceQuotaExceededException", 400), JobServiceError, "quota"),
    (Trouble("TooManyTagsException", 400), JobServiceError, "TooManyTags"),
    (Trouble("ResourceNotFoundException", 404), JobServiceError, r"Check the id or name, and the region$"),
    (Trouble("ExpiredTokenException", 403), CredentialsError, "expired"),
]


@pytest.mark.parametrize(("trouble", "error", "text"), REFUSALS, ids=lambda value: getattr(value, "code", ""))
def test_create_when_refused_then_action_and_remedy_are_named(jobs, plane, trouble, error, text):
    plane.troubles["create_job"].append(trouble)
    with pytest.raises(error, match=text) as refused:
        jobs.create(*WHAT, **JOB)
    assert "wJalr" not in str(refused.value)
    assert len(plane.calls) == 1


@pytest.mark.parametrize(
    ("operation", "call", "statement"),
    [
        ("put_object", lambda jobs, file: jobs.upload(file, "bucket/data"), r"s3:PutObject.*arn:aws:s3:::bucket/data/"),
        ("get_job", lambda jobs, file: jobs.get("a"), "bedrock:GetModelCustomizationJob"),
        ("stop_job", lambda jobs, file: jobs.stop("a"), "bedrock:StopModelCustomizationJob"),
        ("create_deployment", lambda jobs, file: jobs.deploy(MODEL, "a"), f"CreateCustomModelDeployment.*{MODEL}"),
        ("get_deployment", lambda jobs, file: jobs.deploy(MODEL, "a"), "bedrock:GetCustomModelDeployment"),
        ("list_deployments", lambda jobs, file: list(jobs.deployments()), "bedrock:ListCustomModelDeployments"),
        ("delete_deployment", lambda jobs, file: jobs.undeploy("a"), "bedrock:DeleteCustomModelDeployment"),
        ("converse", lambda jobs, file: jobs.converse(MODEL, "a"), f"bedrock:InvokeModel.*{MODEL}"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_calls_when_denied_then_the_statement_that_allows_them_is_shown(
    jobs, plane, tmp_path, operation, call, statement
):
    code = "AccessDenied" if operation == "put_object" else "AccessDeniedException"
    plane.troubles[operation].append(Trouble(code, 403))
    with pytest.raises(JobServiceError, match=rf'policy statement: {{"Effect": "Allow", .*{statement}'):
        call(jobs, write(tmp_path / "train.jsonl"))


def test_create_when_throttled_or_broken_at_first_then_it_is_repeated_with_one_token(jobs, plane):
    plane.troubles["create_job"] += [Trouble("ThrottlingException", 429), Trouble("InternalServerException", 500)]
    assert jobs.create(*WHAT, **JOB).status == "InProgress"
    assert len({body["clientRequestToken"] for body in plane.asked("create_job")}) == 1


@pytest.mark.parametrize("name", ["", None], ids=["empty", "none"])
def test_calls_when_given_no_id_then_they_say_so(jobs, plane, name):
    for call in (jobs.get, jobs.stop, jobs.deployment, jobs.undeploy, lambda name: jobs.converse(name, "What?")):
        with pytest.raises(ConfigurationError, match="is no ARN or name"):
            call(name)
    assert plane.calls == []


def test_calls_when_nothing_is_there_then_the_action_is_named(jobs):
    for call, action in ((jobs.get, "GetModelCustomizationJob"), (jobs.stop, "StopModelCustomizationJob")):
        with pytest.raises(JobServiceError, match=f"bedrock:{action}"):
            call(f"{ACCOUNT}:model-customization-job/amazon.nova-2-lite-v1:0:256k/000000000009")


def test_faults_when_the_service_is_down_then_the_error_says_that_repeating_may_help(jobs, plane):
    plane.troubles["get_job"].extend([Trouble("InternalServerException", 500)] * 5)
    with pytest.raises(ServiceFaultError, match="GetModelCustomizationJob"):
        jobs.get("gsm8k-first")
