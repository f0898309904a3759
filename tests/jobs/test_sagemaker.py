"""Multi-turn RL jobs on SageMaker: the real boto3 client, and the commands, against a service of our own."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from aws_rft_sdk.agent_rft import EVALUATION, TRAINING
from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import (
    ConfigurationError,
    DatasetError,
    JobConfigError,
    JobServiceError,
    ServiceTimeoutError,
    ThrottledError,
)
from aws_rft_sdk.jobs import AgentRFT, Job, read_step, read_steps
from aws_rft_sdk.jobs._sagemaker_answers import job_of, name_of, parts_of, progress_of
from aws_rft_sdk.jobs._sagemaker_request import create_parameters, training_document
from aws_rft_sdk.jobs.evaluations import Evaluated, evaluated
from tests.jobs.sagemaker_service import SECRET, Server, Service, Trouble, become

ARN = "arn:aws:sagemaker:us-west-2:123456789012:"
HUB = "arn:aws:sagemaker:us-west-2:aws:hub-content/SageMakerPublicHub/Model/"
ROLE = "arn:aws:iam::123456789012:role/Job"
RUN = {"ExperimentId": "1", "RunId": "run1", "ExperimentName": "calc", "RunName": "calc-1"}
MODEL, RESUMABLE = f"{ARN}model-package/calc/3", f"{ARN}model-package/calc-ckpt/3"
CHECKPOINTS = {"ModelCheckpoint": MODEL, "ResumableCheckpoint": RESUMABLE}


def document(**changes: Any) -> dict[str, Any]:
    given = {
        "base_model": f"{HUB}openai-reasoning-gpt-oss-20b",
        "agent": "arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/calc-AbCdEfGhIj",
        "train": "s3://bucket/train.jsonl",
        "validation": "s3://bucket/validation.jsonl",
        "output": "s3://bucket/out/",
        "model_package_group": f"{ARN}model-package-group/calc",
        "checkpoint_package_group": f"{ARN}model-package-group/calc-ckpt",
        "accept_eula": True,
        "mlflow_arn": f"{ARN}mlflow-app/app-ABC",
        "hyperparameters": {"group_size": "8", "max_steps": "20", "rollout_timeout": "300"},
    }
    return training_document(**{**given, **changes})


def parameters(name: str = "calc-1", *, role: str = ROLE, tags: Any = None, **changes: Any) -> dict[str, Any]:
    return create_parameters(document(**changes), job_name=name, role_arn=role, category=TRAINING, tags=tags)


@pytest.fixture(scope="module")
def session() -> boto3.session.Session:
    """Return one session for many tests, since loading a model of botocore takes a second."""
    return boto3.session.Session("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", region_name="eu-west-1")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def service(server: Server) -> Service:
    return server.service


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def jobs(server: Server, session: boto3.session.Session, waits: list[float]) -> AgentRFT:
    return AgentRFT(session=session, endpoint_url=server.endpoint, sleep=waits.append)


@pytest.fixture
def cli(server: Server) -> Callable[..., Result]:
    def call(*words: str) -> Result:
        where = ("--on", "sagemaker", "--endpoint", server.endpoint)
        return CliRunner().invoke(main, ["job", words[0], *words[1:], *where])

    return call


# --- making jobs -----------------------------------------------------------------------------------------------------


def test_create_when_answers_are_lost_and_late_then_there_is_one_job(jobs: AgentRFT, service: Service) -> None:
    service.hidden_looks = 2
    service.troubles["create_job"].append(Trouble(applied=True))
    job = jobs.create(parameters(tags={"team": "a"}))
    assert (job.id, job.status, job.state, job.tuned_model, job.failure) == (
        "calc-1",
        "InProgress",
        "running",
        None,
        None,
    )
    assert len(service.asked("create_job")) == 2
    assert len(service.jobs) == 1
    assert jobs.create(parameters(tags={"team": "a"}))["JobArn"] == job["JobArn"] == f"{ARN}job/AgentRFT/calc-1"
    json.dumps(job.raw)  # dates are texts


def test_create_when_the_quota_is_checked_before_the_name_then_the_job_of_the_lost_answer_is_found(
    jobs: AgentRFT, service: Service, waits: list[float]
) -> None:
    quota = Trouble("ResourceLimitExceeded")
    service.troubles["create_job"].extend([Trouble(applied=True), quota, quota])
    assert jobs.create(parameters()).id == "calc-1"
    with pytest.raises(JobServiceError) as refused:
        jobs.create(parameters("calc-2"))
    assert refused.value.code == "ResourceLimitExceeded"
    assert not waits


def test_create_when_the_service_adds_to_the_job_then_it_is_the_same(jobs: AgentRFT, service: Service) -> None:
    jobs.create(parameters())
    job = service.jobs["calc-1"]
    become(job, phase="Training", ProgressInfo={"MaxSteps": 20, "CurrentStep": 1})
    known = json.loads(job["JobConfigDocument"])
    known["StoppingCondition"] = {"MaxRuntimeInSeconds": 86400}
    known["OutputDataConfig"]["MlflowConfig"] = known["TrainingConfig"].pop("MlflowConfig")
    job["JobConfigDocument"] = json.dumps(known)
    assert jobs.create(parameters()).id == "calc-1"


OTHERS = {
    "hyperparameter": (
        {"hyperparameters": {"group_size": "8", "max_steps": "21", "rollout_timeout": "300"}},
        "max_steps",
    ),
    "one-more": ({"hyperparameters": {"group_size": "8", "max_steps": "20"}}, "rollout_timeout"),
    "dataset": ({"train": "s3://bucket/other.jsonl"}, "InputDataConfig.train"),
    "checkpoint": ({"input_model_package": MODEL}, "InputModelPackageArn"),
    "role": ({"role": f"{ROLE}2"}, "RoleArn"),
    "tags": ({"tags": {"team": "b"}}, "Tags.team"),
    "network": ({"vpc": {"Subnets": ["subnet-12345678"], "SecurityGroupIds": ["sg-12345678"]}}, "VpcConfig"),
}


@pytest.mark.parametrize(("changes", "told"), OTHERS.values(), ids=OTHERS)
def test_create_when_the_name_belongs_to_another_job_then_the_error_says_whose(
    jobs: AgentRFT, changes: dict[str, Any], told: str
) -> None:
    jobs.create(parameters())
    with pytest.raises(JobServiceError, match=f"job/AgentRFT/calc-1 of 2.*InProgress and differs in .*{told}") as error:
        jobs.create(parameters(**changes))
    assert error.value.code == "ResourceInUse"


def test_create_when_parameters_are_wrong_then_nothing_is_sent(jobs: AgentRFT, service: Service) -> None:
    with pytest.raises(JobConfigError) as error:
        jobs.create(parameters(name="calc_1", hyperparameters={"group_size": "1", "top_p": "1"}))
    paths = [problem.path for problem in error.value.problems]  # type: ignore[attr-defined]
    assert paths == ["JobName", "TrainingConfig.HyperParameters.group_size", "TrainingConfig.HyperParameters.top_p"]
    assert not service.calls


REFUSALS = {
    "quota": ("ResourceLimitExceeded", JobServiceError, "quota"),
    "denied": ("AccessDeniedException", JobServiceError, '"Action": \\["sagemaker:CreateJob"\\]'),
    "throttled": ("ThrottlingException", ThrottledError, "later"),
}


@pytest.mark.parametrize(("code", "error", "text"), REFUSALS.values(), ids=REFUSALS)
def test_create_when_refused_then_the_error_says_what_to_do(
    jobs: AgentRFT, service: Service, code: str, error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)  # between botocore's own attempts
    service.troubles["create_job"].extend([Trouble(code)] * 5)
    with pytest.raises(error, match=text):
        jobs.create(parameters())


def test_upload_when_the_file_breaks_rules_then_nothing_is_sent(
    jobs: AgentRFT, service: Service, tmp_path: Path
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("")
    with pytest.raises(DatasetError):
        jobs.upload(path, "s3://bucket/data")
    assert not service.objects
    path.write_text("".join(json.dumps({"prompt": f"{n} + 1?"}) + "\n" for n in range(200)))
    file = jobs.upload(path, "s3://bucket/data")
    assert service.objects[file.id.removeprefix("s3://")]
    assert jobs.upload(path, "bucket/data/").id == file.id


# --- looking at jobs -------------------------------------------------------------------------------------------------

ENDS = [{"Status": "Starting"}, {"Status": "Failed"}, {"Status": "Deleting"}]
STATES = {
    "running": ({"JobStatus": "InProgress", "SecondaryStatus": "Pondering"}, "running", None),
    "stopping": ({"JobStatus": "Stopping"}, "running", None),
    "succeeded": ({"JobStatus": "Completed", "FailureReason": ""}, "succeeded", None),
    "failed": ({"JobStatus": "Failed", "FailureReason": "no sampling"}, "failed", "no sampling"),
    "stopped": ({"JobStatus": "Stopped"}, "cancelled", None),
    "overtime": ({"JobStatus": "Stopped", "SecondaryStatus": "MaxRuntimeExceeded"}, "cancelled", "time limit"),
    "deleting": ({"JobStatus": "Deleting", "SecondaryStatusTransitions": ENDS}, "failed", None),
    "not-deleted": ({"JobStatus": "DeleteFailed"}, "cancelled", None),
    "new-word": ({"JobStatus": "Paused"}, "unknown", None),
    "row": ({"JobStatus": "InProgress", "JobSecondaryStatus": "Training"}, "running", None),
}


@pytest.mark.parametrize(("answer", "state", "failure"), STATES.values(), ids=STATES)
def test_states_when_read_then_unknown_words_are_no_error(
    answer: dict[str, Any], state: str, failure: str | None
) -> None:
    job = job_of({"JobName": "a", **answer})
    assert job.state == state
    assert (job.failure is None) if failure is None else failure in str(job.failure)


def test_get_when_named_by_name_arn_or_job_then_the_category_is_found(jobs: AgentRFT, service: Service) -> None:
    made = jobs.create(parameters())
    service.jobs["calc-eval"] = {**service.jobs["calc-1"], "JobName": "calc-eval", "JobCategory": EVALUATION}
    assert jobs.get("calc-eval")["JobCategory"] == EVALUATION
    assert jobs.get(made["JobArn"]).id == jobs.get(made).id == "calc-1"
    asked = len(service.asked("describe_job"))
    jobs.get(f"{ARN}job/AgentRFTEvaluation/calc-eval")
    assert len(service.asked("describe_job")) == asked + 1
    with pytest.raises(JobServiceError, match="Neither a training job nor an evaluation in us-west-2 has") as told:
        jobs.get("calc-2")
    assert told.value.code == "ResourceNotFound"


BAD_NAMES = {
    "region": ("arn:aws:sagemaker:us-east-1:123456789012:job/AgentRFT/a", "type --region us-east-1"),
    "kind": (f"{ARN}training-job/a", "is no ARN of a job"),
    "empty": ("", "is no name or ARN"),
}


@pytest.mark.parametrize(("name", "text"), BAD_NAMES.values(), ids=BAD_NAMES)
def test_names_when_wrong_then_the_error_says_what_to_type(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        name_of(name, "us-west-2")


def test_list_when_there_are_pages_of_both_categories_then_the_newest_is_first(
    jobs: AgentRFT, service: Service
) -> None:
    service.quota = 9
    for number in range(5):
        jobs.create(parameters(f"calc-{number}"))
    service.jobs["calc-1"]["JobCategory"] = EVALUATION
    assert [job.id for job in jobs.list()] == [f"calc-{number}" for number in (4, 3, 2, 1, 0)]
    assert [job.id for job in jobs.list(EVALUATION)] == ["calc-1"]


def test_stop_and_delete_when_repeated_then_nothing_is_wrong(jobs: AgentRFT, service: Service) -> None:
    jobs.create(parameters())
    with pytest.raises(JobServiceError, match=r"is InProgress\. Stop it first: aws-rft job stop calc-1"):
        jobs.delete("calc-1")
    assert jobs.stop("calc-1").status == jobs.stop("calc-1").status == "Stopping"
    become(service.jobs["calc-1"], status="Stopped", phase="Stopped")
    assert jobs.stop("calc-1").state == "cancelled"
    jobs.delete("calc-1")
    assert jobs.get("calc-1").state == "cancelled"  # still Deleting
    del service.jobs["calc-1"]
    jobs.delete("calc-1")


def test_wait_when_the_service_falters_then_it_goes_on_until_the_end(
    jobs: AgentRFT, service: Service, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    jobs.create(parameters())
    service.lives["calc-1"].extend(
        [{"phase": "Training"}, {}, {"phase": "Pondering"}, {"status": "Completed", "phase": "Completed"}]
    )
    told: list[str] = []
    looked: list[Job] = []

    def changed(job: Job) -> None:
        told.append(job["SecondaryStatus"])
        if not looked:
            service.troubles["describe_job"].extend([Trouble("ThrottlingException")] * 5)
        looked.append(job)

    assert jobs.wait("calc-1", poll_seconds=7, changed=changed).state == "succeeded"
    assert told == ["Training", "Pondering", "Completed"]
    assert set(waits) == {7}
    with pytest.raises(JobServiceError):  # nothing to wait out before the first answer
        jobs.wait("calc-2")


def test_wait_when_the_time_is_up_then_it_says_so(jobs: AgentRFT) -> None:
    jobs.create(parameters())
    with pytest.raises(ServiceTimeoutError, match=r"calc-1 is still InProgress, Starting after .*\. It goes on"):
        jobs.wait("calc-1", timeout_seconds=1e-9)


def test_schema_when_asked_then_it_is_read(jobs: AgentRFT, service: Service) -> None:
    assert jobs.schema() == jobs.schema(EVALUATION, "1.0.0") == {"type": "object"}
    versions = [body.get("JobConfigSchemaVersion") for body in service.asked("describe_job_schema_version")]
    assert versions == [None, "1.0.0"]


@pytest.mark.parametrize("text", ["no JSON", "[]"])
def test_schema_when_it_is_no_object_then_nothing_passes_for_checked(
    jobs: AgentRFT, service: Service, text: str
) -> None:
    service.schema = text
    with pytest.raises(JobServiceError, match="the schema of AgentRFT is no JSON object"):
        jobs.schema()


# --- following jobs --------------------------------------------------------------------------------------------------

PROGRESS = {
    "steps": ({"MaxSteps": 20, "CurrentStep": 3}, "step 3 of 20", 0.1),
    "epochs": (
        {"MaxEpoch": 2, "StepsPerEpoch": 5, "CurrentEpoch": 2, "CurrentStep": 1},
        "step 6 of 10 (epoch 2 of 2)",
        0.5,
    ),
    "both": (
        {"MaxEpoch": 9, "StepsPerEpoch": 5, "CurrentEpoch": 1, "CurrentStep": 0, "MaxSteps": 8},
        "step 0 of 8",
        0.0,
    ),
    "no-total": ({"MaxSteps": 0, "CurrentStep": 3}, None, None),
    "nothing": ({}, None, None),
}


@pytest.mark.parametrize(("info", "text", "share"), PROGRESS.values(), ids=PROGRESS)
def test_progress_when_in_either_form_then_step_and_share_are_read(
    info: Any, text: str | None, share: float | None
) -> None:
    found = progress_of({"JobConfigDocument": json.dumps({"ServiceOutput": {"ProgressInfo": info}})})
    assert (found and found.share) == share
    assert text is None if found is None else found.text.startswith(str(text))


def start(service: Service, jobs: AgentRFT) -> None:
    """Let a job live: it has made step 1 when it is looked at first, and ends well after step 2."""
    jobs.create(parameters())
    tokens = {"PrefillTokenCount": 1_000_000, "SampleTokenCount": 100_000, "TrainTokenCount": 1_000_000}
    step = {"MlflowDetails": RUN, **CHECKPOINTS, "BillableTokenUsage": tokens}
    become(service.jobs["calc-1"], phase="Training", message="on 8 machines", **step)
    become(
        service.jobs["calc-1"],
        ProgressInfo={"MaxSteps": 2, "CurrentStep": 1},
        RolloutInfo={"Completed": 12, "Total": 1024},
    )
    service.metrics["run1"] |= {
        "rollout/reward/mean": {1: 0.25},
        "val/reward/mean": {0: 0.2},
        "analysis/zero_adv_groups": {1: 16},
        "training/num_groups": {1: 128},
    }


def finish(service: Service) -> None:
    service.metrics["run1"]["rollout/reward/mean"][2] = "NaN"
    service.metrics["run1"]["rollout/reward/mean"][3] = 0.5
    service.metrics["run1"]["val/reward/mean"][3] = 0.625
    become(service.jobs["calc-1"], status="Completed", phase="Completed", OutputModelPackageArn=MODEL)


def test_events_when_followed_then_each_thing_is_told_once(
    jobs: AgentRFT, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    service.session_calls = 3  # sessions end all the time
    start(service, jobs)
    told = []
    for event in jobs.events("calc-1", follow=True):
        told.append(event)
        if event.message == "metrics of step 1":
            finish(service)
    messages = [event.message for event in told]
    assert messages[:2] == ["Starting", "Training: on 8 machines"]
    assert "step 1 of 2, 12 of 1,024 rollouts" in messages
    assert (
        "billed so far: 1,000,000 prefill, 100,000 sample, 1,000,000 train tokens, $0.51 at the prices of"
        in " ".join(messages)
    )
    assert f"ResumableCheckpoint is {RESUMABLE}" in messages
    assert len({event.id for event in told}) == len(told)
    steps = read_steps(told)
    assert [(step.step, step.reward_mean, step.validation_reward_mean) for step in steps] == [
        *((0, None, 0.2), (1, 0.25, None), (2, None, None), (3, 0.5, 0.625))
    ]
    assert steps[1].dead_group_share == 0.125
    assert steps[1].total_steps == 2
    assert service.urls > 2
    assert not {event for event in told if SECRET in repr(event) or SECRET in json.dumps(event.raw)}
    assert "authToken=<removed>" in caplog.text  # also where libraries write down what they send and get
    assert SECRET not in caplog.text
    seen = [event.id for event in jobs.events("calc-1")]
    assert seen == [event.id for event in jobs.events("calc-1")]


def test_events_when_tokens_are_counted_after_the_end_then_the_last_count_is_told(
    jobs: AgentRFT, service: Service
) -> None:
    start(service, jobs)
    finish(service)
    service.lives["calc-1"].extend([{}, {"BillableTokenUsage": {"TrainTokenCount": 2_000_000}}])
    told = [event.message for event in jobs.events("calc-1", follow=True) if event["type"] == "usage"]
    assert [message.partition(" train")[0] for message in told][-1] == "billed so far: 2,000,000"


def test_events_when_metrics_of_a_step_come_in_parts_then_the_step_is_told_with_all(
    jobs: AgentRFT, service: Service
) -> None:
    start(service, jobs)
    service.lives["calc-1"].extend([{}, {"status": "Failed", "phase": "Failed", "failure": "no reward"}])
    steps = []
    for event in jobs.events("calc-1", follow=True):
        if (step := read_step(event)) and step.step == 1:
            steps.append(step)
            service.metrics["run1"]["rollout/reward/std"] = {1: 0.1}
    assert [(step.reward_mean, step.reward_std) for step in steps] == [(0.25, None), (0.25, 0.1)]


def test_events_when_mlflow_refuses_then_one_event_says_so_and_the_rest_goes_on(
    jobs: AgentRFT, service: Service
) -> None:
    service.mlflow_denied = True
    start(service, jobs)
    service.lives["calc-1"].extend([{}, {}, {"status": "Failed", "phase": "Failed"}])
    told = list(jobs.events("calc-1", follow=True))
    warnings = [event for event in told if event.level == "warn"]
    assert len(warnings) == 1
    assert "sagemaker:CreatePresignedMlflowAppUrl" in warnings[0].message
    assert "Failed" in [event.message for event in told]
    assert not read_steps(told)


LISTS = {"denied": Trouble("PERMISSION_DENIED", 403), "unknown": Trouble("ENDPOINT_NOT_FOUND", 404)}


@pytest.mark.parametrize("trouble", LISTS.values(), ids=LISTS)
def test_events_when_mlflow_lists_no_metrics_then_the_usual_ones_are_read(
    jobs: AgentRFT, service: Service, trouble: Trouble
) -> None:
    start(service, jobs)
    service.troubles["runs/get"].extend([trouble] * 2)  # a session is renewed once
    steps = read_steps(jobs.events("calc-1"))
    assert [(step.step, step.reward_mean, step.validation_reward_mean) for step in steps] == [
        *((0, None, 0.2), (1, 0.25, None))
    ]


def test_events_when_mlflow_falters_at_the_end_then_the_last_metrics_are_read(jobs: AgentRFT, service: Service) -> None:
    start(service, jobs)
    finish(service)
    service.troubles["runs/get"].extend([Trouble("INTERNAL_ERROR", 500), Trouble("BUSY", 429), Trouble("BUSY", 503)])
    assert [step.step for step in read_steps(jobs.events("calc-1", follow=True))] == [0, 1, 2, 3]


def test_logs_when_there_is_no_group_yet_then_following_waits_for_it(jobs: AgentRFT, service: Service) -> None:
    jobs.create(parameters())
    assert list(jobs.logs("calc-1")) == []
    service.lives["calc-1"].extend([{}, {}])
    told = []

    def begin(seconds: float) -> None:
        if service.log is None:
            service.log = {
                "calc-1/algo-1": [["first"], [], ["third"]],
                "calc-1/algo-2": [["second"]],
                "calc-12/algo-1": [["of another job"]],
            }
        elif len(service.log["calc-1/algo-1"]) == 3:
            service.log["calc-1/algo-1"].append(["last"])
            become(service.jobs["calc-1"], status="Completed", phase="Completed")

    jobs._sleep = begin
    for line in jobs.logs("calc-1", follow=True):
        told.append((line.stream, line.text))
    assert told == [("algo-1", "first"), ("algo-2", "second"), ("algo-1", "third"), ("algo-1", "last")]


def test_checkpoints_when_groups_are_shared_then_only_those_of_the_job_are_told(
    jobs: AgentRFT, service: Service
) -> None:
    start(service, jobs)
    made = service.jobs["calc-1"]["CreationTime"]

    def package(group: str, version: int, at: float) -> dict[str, Any]:
        arn = f"{ARN}model-package/{group}/{version}"
        about = {"ModelPackageDescription": f"checkpoint of step {version}", "ModelPackageStatus": "Completed"}
        return {"ModelPackageArn": arn, "CreationTime": at, **about}

    group = f"{ARN}model-package-group/"
    service.packages[f"{group}calc"] = [package("calc", number, made + number - 1) for number in range(1, 5)]
    assert [item.id for item in jobs.checkpoints("calc-1")][-1] == RESUMABLE  # the other group may not be listed
    service.packages[f"{group}calc-ckpt"] = [package("calc-ckpt", 3, made + 2.5)]
    found = jobs.checkpoints("calc-1")
    assert [(item.step, item["resumable"], item.model) for item in found] == [
        *((2, False, f"{ARN}model-package/calc/2"), (3, False, MODEL), (3, True, RESUMABLE)),
        (4, False, f"{ARN}model-package/calc/4"),
    ]


# --- what comes after a job ------------------------------------------------------------------------------------------


def end(service: Service, jobs: AgentRFT, status: str, **output: Any) -> None:
    jobs.create(parameters(tags={"team": "a"}))
    become(service.jobs["calc-1"], status=status, phase=status, **output)


def sent(service: Service) -> dict[str, Any]:
    return dict(json.loads(service.asked("create_job")[-1]["JobConfigDocument"]))


def test_resume_when_the_job_has_failed_then_only_the_checkpoint_and_what_may_change_is_new(
    jobs: AgentRFT, service: Service
) -> None:
    end(service, jobs, "Failed", **CHECKPOINTS)
    job = jobs.resume("calc-1", "calc-2", {"max_runtime_seconds": 3600, "mlflow_run": "again"})
    assert job.id == "calc-2"
    expected = document(input_model_package=RESUMABLE, max_runtime_seconds=3600, mlflow_run="again")
    assert sent(service) == expected
    assert service.asked("create_job")[-1]["Tags"] == [{"Key": "team", "Value": "a"}]
    assert jobs.resume("calc-1", "calc-2", {"max_runtime_seconds": 3600, "mlflow_run": "again"}).id == "calc-2"


def test_iterate_when_all_may_change_then_the_rest_stays(jobs: AgentRFT, service: Service) -> None:
    end(service, jobs, "Completed", OutputModelPackageArn=MODEL, **CHECKPOINTS)
    changes = {
        "train": "s3://bucket/harder.jsonl",
        "hyperparameters": {"learning_rate": 5e-06, "pass_k_values": [1, 2], "max_steps": None},
        "agent": "arn:aws:lambda:us-west-2:123456789012:function:forward",
        "role_arn": f"{ROLE}2",
    }
    jobs.iterate("calc-1", "calc-2", changes)
    named = {"learning_rate": "5e-06", "pass_k_values": "1,2", "group_size": "8", "rollout_timeout": "300"}
    given = {"train": changes["train"], "agent": changes["agent"], "hyperparameters": named}
    assert sent(service) == document(**given, input_model_package=MODEL)
    assert service.asked("create_job")[-1]["RoleArn"] == f"{ROLE}2"


REFUSED = {
    "hyperparameters": (
        "resume",
        "Failed",
        {"hyperparameters": {"max_steps": 30}},
        {},
        "resume cannot change hyperp.*iterate",
    ),
    "dataset": ("resume", "Failed", {"train": "s3://b/other"}, {}, "datasets must stay"),
    "base-of-resume": ("resume", "Failed", {"base_model": "x"}, {}, "cannot change base_model"),
    "base": ("iterate", "Completed", {"base_model": "x"}, {}, "adapter of its base model"),
    "unknown": ("iterate", "Completed", {"learning_rate": 1}, {}, "knows no change 'learning_rate'; known are agent"),
    "running": ("resume", "InProgress", {}, {}, "is InProgress.*Stop it first"),
    "done": ("resume", "Completed", {}, {}, "has made all its steps"),
    "kind": ("resume", "Failed", {}, {"checkpoint": MODEL}, "is no resumable checkpoint of job calc-1.*calc-ckpt"),
    "other-kind": ("iterate", "Failed", {}, {"checkpoint": RESUMABLE}, "is no model checkpoint"),
    "value": ("iterate", "Failed", {"hyperparameters": {"group_size": 1}}, {}, "group_size is '1': must be"),
    "no-text": ("iterate", "Failed", {"train": 5}, {}, "cannot set train to 5: it must be a text"),
    "no-table": ("iterate", "Failed", {"hyperparameters": 5}, {}, "cannot set hyperparameters to 5: .* a table"),
    "removed": ("iterate", "Failed", {"validation": None}, {}, "cannot remove validation. Submit a file"),
}


@pytest.mark.parametrize(("how", "status", "changes", "more", "text"), REFUSED.values(), ids=REFUSED)
def test_continuing_when_not_allowed_then_the_reason_is_told_and_nothing_is_made(
    jobs: AgentRFT, service: Service, how: str, status: str, changes: Any, more: Any, text: str
) -> None:
    end(service, jobs, status, **CHECKPOINTS)
    with pytest.raises(ConfigurationError, match=text):
        getattr(jobs, how)("calc-1", "calc-2", changes, **more)
    assert len(service.asked("create_job")) == 1


def test_resume_when_only_the_qualifier_changes_then_the_runtime_stays(jobs: AgentRFT, service: Service) -> None:
    end(service, jobs, "Failed", **CHECKPOINTS)
    jobs.resume("calc-1", "calc-2", {"qualifier": "v2"})
    assert sent(service) == document(input_model_package=RESUMABLE, qualifier="v2")
    become(service.jobs["calc-2"], status="Failed", phase="Failed")
    forwarder = "arn:aws:lambda:us-west-2:123456789012:function:forward"
    jobs.resume("calc-1", "calc-3", {"agent": forwarder})
    become(service.jobs["calc-3"], status="Failed", phase="Failed", **CHECKPOINTS)
    with pytest.raises(ConfigurationError, match="calc-3 is a Lambda function, which has no qualifier"):
        jobs.resume("calc-3", "calc-4", {"qualifier": "v2"})


def test_continuing_when_there_is_no_checkpoint_then_it_says_so(jobs: AgentRFT, service: Service) -> None:
    end(service, jobs, "Failed")
    for continued in (jobs.resume, jobs.iterate):
        with pytest.raises(ConfigurationError, match="ended before its first step was saved"):
            continued("calc-1", "calc-2")


def let_evaluations_run(service: Service, *, traces: bool = True) -> None:
    """Let each evaluation end at its third look. 8 of 20 prompts succeed with the base model, 16 with the tuned one."""

    def begin(job: dict[str, Any]) -> None:
        if job["JobCategory"] != EVALUATION:
            return
        run = job["JobName"]
        good = 16 if "ModelPackageConfig" in json.loads(job["JobConfigDocument"]) else 8
        service.metrics[run] = {"eval/reward/mean": {0: good / 20}, "eval/turns/mean": {0: 3.0}}
        if traces:
            done = [(f"prompt {n}", float(n < good)) for n in range(20)]
            service.traces[run] = [*done, ("prompt 0", None)]
        ended = {"MlflowDetails": {**RUN, "RunId": run}, "EvaluationMetrics": {"pass_at_1": str(good / 20)}}
        service.lives[run].extend([{}, {"phase": "Evaluating"}, {"status": "Completed", "phase": "Completed", **ended}])

    service.on_create = begin


def test_evaluate_when_repeated_then_base_and_tuned_are_compared_prompt_by_prompt(
    jobs: AgentRFT, service: Service
) -> None:
    end(service, jobs, "Completed", OutputModelPackageArn=MODEL)
    let_evaluations_run(service)
    service.troubles["create_job"].append(
        Trouble("ResourceLimitExceeded")
    )  # the place of an earlier one is not free yet
    told: list[str] = []
    options: dict[str, Any] = {"hyperparameters": {"eval_group_size": 1, "pass_k_values": [1, 2]}}
    found = jobs.evaluate("calc-1", changed=lambda job: told.append(f"{job.id} {job['SecondaryStatus']}"), **options)
    phases = ("Evaluating", "Completed")
    assert told == [f"calc-1-eval-{model} {phase}" for model in ("base", "tuned") for phase in phases]
    documents = [json.loads(body["JobConfigDocument"]) for body in service.asked("create_job")[-2:]]
    assert ["ModelPackageConfig" in item for item in documents] == [False, True]
    assert documents[1]["ModelPackageConfig"] == {"InputModelPackageArn": MODEL}
    values = {"rollout_timeout": "300", "eval_group_size": "1", "pass_k_values": "1,2"}
    assert documents[0]["EvaluationConfig"]["HyperParameters"] == values
    assert documents[0]["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] == "s3://bucket/validation.jsonl"
    assert (found.base_metrics["eval/reward/mean"], found.tuned_metrics["eval/reward/pass_at_1"]) == (0.4, 0.8)
    assert found.comparison is not None
    success = found.comparison.differences[0]
    assert (found.comparison.paired, found.comparison.prompts, success.better) == (True, 20, "B")
    assert (success.a, success.b) == (0.4, 0.8)
    assert success.low is not None
    assert success.low > 0
    json.dumps(found.to_json())
    made = len(service.jobs)
    assert jobs.evaluate("calc-1", **options).comparison == found.comparison
    assert len(service.jobs) == made
    step = read_steps(jobs.events("calc-1-eval-tuned"))
    assert [item.validation_reward_mean for item in step] == [0.8]


def test_evaluate_when_there_are_no_traces_then_the_means_are_told_and_that_they_are_not_paired(
    jobs: AgentRFT, service: Service
) -> None:
    end(service, jobs, "Completed", OutputModelPackageArn=MODEL)
    let_evaluations_run(service, traces=False)
    found = jobs.evaluate("calc-1", name="again", dataset="s3://bucket/test.jsonl")
    assert found.comparison is None
    assert "not paired: MLflow has prompt and reward of 0 and 0 rollouts" in found.note
    assert found.tuned_metrics == {"eval/reward/mean": 0.8, "eval/turns/mean": 3.0, "eval/reward/pass_at_1": 0.8}
    assert found.base.id == "again-eval-base"


def test_evaluate_command_when_a_figure_is_no_number_then_it_is_left_out(
    cli: Callable[..., Result], jobs: AgentRFT, service: Service
) -> None:
    end(service, jobs, "Completed", OutputModelPackageArn=MODEL)
    let_evaluations_run(service, traces=False)
    begin = service.on_create

    def spoil(job: dict[str, Any]) -> None:
        begin(job)
        service.metrics[job["JobName"]] |= {"eval/logprob/nz_mean": {0: "NaN"}, "eval/reward/num_prompts": {0: "NaN"}}
        service.lives[job["JobName"]][-1]["EvaluationMetrics"] |= {"std": "NaN", "data": "test.jsonl"}

    service.on_create = spoil
    done = cli("evaluate", "calc-1", "--poll-seconds", "0.001")
    assert done.exit_code == 0, done.output
    assert "eval/reward/pass_at_1 │ 0.4 │ 0.8" in done.output
    assert "nan" not in done.output.lower()


def test_evaluate_when_traces_are_missing_then_it_says_how_many(jobs: AgentRFT, service: Service) -> None:
    end(service, jobs, "Completed", OutputModelPackageArn=MODEL)
    let_evaluations_run(service)
    begin = service.on_create

    def lose(job: dict[str, Any]) -> None:
        begin(job)
        run = job["JobName"]
        service.metrics[run] |= {"eval/reward/num_prompts": {0: 20.0}, "eval/reward/rollouts_per_prompt": {0: 1.0}}
        del service.traces[run][15:]

    service.on_create = lose
    found = jobs.evaluate("calc-1")
    assert found.note == (
        "MLflow has traces of 15 of 20 rollouts of the base model and 15 of 20 rollouts of the tuned model; "
        "others are left out"
    )
    assert found.comparison is not None
    assert found.comparison.prompts == 15


def test_evaluate_when_prompts_are_repeated_shuffled_or_of_one_evaluation_then_pairs_are_right() -> None:
    done = Job({"JobConfigDocument": "{}"}, "a", "Completed", "succeeded")

    def compared(*traces: list[tuple[str, float | None]]) -> Evaluated:
        rows = [
            [{"id": str(n), "prompt": prompt, "reward": reward} for n, (prompt, reward) in enumerate(of)]
            for of in traces
        ]
        return evaluated([done, done], [{}, {}], rows)

    base = [("one", 0.0), ("two", 1.0), ("one", 1.0), ("only in a", 1.0), ("two", None)]
    found = compared(base, [("two", 1.0), ("one", 1.0), ("one", 1.0)]).comparison
    assert found is not None
    assert (found.prompts, found.only_in_a, found.only_in_b) == (2, 1, 0)
    assert (found.differences[0].a, found.differences[0].b) == (0.75, 1.0)
    other = compared(base, [("three", 1.0)])
    assert (other.comparison, other.note) == (
        None,
        "not paired: no prompt is in both evaluations, so only means can be compared",
    )


def test_evaluate_when_mlflow_falters_then_only_a_trace_without_spans_is_left_out(
    jobs: AgentRFT, service: Service, waits: list[float]
) -> None:
    end(service, jobs, "Completed", OutputModelPackageArn=MODEL)
    let_evaluations_run(service)
    begin = service.on_create

    def lengthen(job: dict[str, Any]) -> None:
        begin(job)
        service.traces[job["JobName"]] += [(f"more {n}", 1.0) for n in range(100)]  # two pages

    service.on_create = lengthen
    busy = [Trouble("BUSY", 429), Trouble("BUSY", 503), Trouble("BUSY", 503)]
    service.troubles["traces/search"].extend(busy)
    service.troubles["get-trace-artifact"].extend([*busy, Trouble("RESOURCE_DOES_NOT_EXIST", 404)])
    found = jobs.evaluate("calc-1")
    assert found.comparison is not None
    assert (found.comparison.paired, found.comparison.prompts) == (True, 119)
    assert len([seconds for seconds in waits if 0 < seconds <= 1]) == 6


BAD_EVALUATIONS = {
    "name": ({"hyperparameters": {"top_p": 1}}, {}, "top_p .write sampling_top_p."),
    "unknown": ({"hyperparameters": {"group_size": 4}}, {}, "no hyperparameter group_size; it has eval_group_size"),
    "value": ({"hyperparameters": {"eval_group_size": 0}}, {}, "eval_group_size is '0'"),
    "no-data": ({}, {"validation": None}, "has no validation data.*Give dataset="),
}


@pytest.mark.parametrize(("options", "changes", "text"), BAD_EVALUATIONS.values(), ids=BAD_EVALUATIONS)
def test_evaluate_when_asked_wrongly_then_nothing_is_made(
    jobs: AgentRFT, service: Service, options: Any, changes: Any, text: str
) -> None:
    jobs.create(parameters(**changes))
    with pytest.raises(ConfigurationError, match="has no model to evaluate"):
        jobs.evaluate("calc-1")
    become(service.jobs["calc-1"], status="Completed", OutputModelPackageArn=MODEL)
    with pytest.raises(ConfigurationError, match=text):
        jobs.evaluate("calc-1", **options)
    assert len(service.asked("create_job")) == 1


def test_evaluate_when_an_evaluation_fails_then_its_reason_is_told(jobs: AgentRFT, service: Service) -> None:
    end(service, jobs, "Completed", OutputModelPackageArn=MODEL)
    service.on_create = lambda job: become(job, status="Failed", phase="Failed", failure="the agent never sampled")
    with pytest.raises(JobServiceError, match="evaluation calc-1-eval-base is Failed: the agent never sampled"):
        jobs.evaluate("calc-1")


# --- commands --------------------------------------------------------------------------------------------------------


def test_commands_when_a_job_lives_then_each_shows_it(
    cli: Callable[..., Result], jobs: AgentRFT, service: Service, tmp_path: Path
) -> None:
    start(service, jobs)
    assert cli("status", "calc-1").output.splitlines() == [
        "calc-1: InProgress",
        "phase: Training",
        "progress: step 1 of 2, 0% done",
        "rollouts: 12 of 1,024",
        "billed: 1,000,000 prefill, 100,000 sample, 1,000,000 train tokens, $0.51 at the prices of 2026-10-02",
    ]
    assert cli("list").output == "calc-1  InProgress  -\n"
    assert cli("checkpoints", "calc-1").output == f"step -: {RESUMABLE}\nstep -: {MODEL}\n"
    service.log = {"calc-1/a": [["hello\x1b[31m"]]}
    assert cli("logs", "calc-1").output == "2025-11-24T16:00:00Z hello [31m\n"
    refused = cli("delete", "calc-1")
    assert refused.exit_code
    assert "Stop it first" in refused.output
    finish(service)
    watched = cli("watch", "calc-1", "--poll-seconds", "0.001")
    assert watched.exit_code == 0, watched.output
    assert "step 0 of 2: validation 0.2" in watched.output
    assert "step 1 of 2: reward 0.25" in watched.output
    assert "Training: on 8 machines" in watched.output
    html = tmp_path / "report.html"
    assert "calc-1: 4 steps" in cli("report", "calc-1", "-o", str(html)).output
    assert SECRET not in html.read_text()
    commands = cli("deploy", "calc-1", "--name", "calc").output
    assert f"ModelPackageName={MODEL}" in commands
    assert "create-model-import-job" in commands


def test_watch_when_the_job_fails_then_the_reason_is_told(
    cli: Callable[..., Result], jobs: AgentRFT, service: Service
) -> None:
    start(service, jobs)
    become(service.jobs["calc-1"], status="Failed", phase="Failed", failure="no sampling request was received")
    watched = cli("watch", "calc-1", "--poll-seconds", "0.001")
    assert watched.exit_code == 1
    assert watched.output.endswith("job calc-1 is Failed: no sampling request was received\n")


def test_continuing_commands_when_typed_then_changes_are_read(
    cli: Callable[..., Result], jobs: AgentRFT, service: Service
) -> None:
    end(service, jobs, "Stopped", **CHECKPOINTS)
    done = cli("resume", "calc-1", "--name", "calc-2", "--set", "max_runtime_seconds=3600")
    assert "follow it with: aws-rft job watch calc-2 --on sagemaker --endpoint http://127.0.0.1:" in done.output
    assert sent(service)["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600}
    become(service.jobs["calc-2"], status="Stopped")
    done = cli("iterate", "calc-1", "--name", "calc-3", "--set", "hyperparameters.group_size=16", "--json")
    assert json.loads(done.output)["state"] == "running"
    assert sent(service)["TrainingConfig"]["HyperParameters"]["group_size"] == "16"
    wrong = cli("iterate", "calc-1", "--name", "calc-4", "--set", "group_size")
    assert wrong.exit_code == 2
    assert "write it as NAME=VALUE" in wrong.output
    twice = cli("iterate", "calc-1", "--name", "calc-4", "--set", "hyperparameters=5", "--set", "hyperparameters.a=1")
    assert twice.exit_code == 2
    assert "another --set says hyperparameters as a whole" in twice.output


def test_evaluate_command_when_done_then_it_says_which_model_is_better(
    cli: Callable[..., Result], jobs: AgentRFT, service: Service
) -> None:
    end(service, jobs, "Completed", OutputModelPackageArn=MODEL)
    let_evaluations_run(service)
    done = cli("evaluate", "calc-1", "--set", "eval_group_size=1", "--poll-seconds", "0.001")
    assert done.exit_code == 0, done.output
    assert "pass_at_1: B is better by 40.0 points" in done.output
    found = json.loads(cli("evaluate", "calc-1", "--set", "eval_group_size=1", "--json").stdout)
    assert found["comparison"]["differences"][0]["better"] == "B"


FILE = """
[job]
on = "sagemaker"
name = "calc-1"
model = "gpt-oss-20b"
region = "us-west-2"
role_arn = "arn:aws:iam::123456789012:role/Job"
accept_eula = true
[agent]
agentcore_arn = "arn:aws:bedrock-agentcore:us-west-2:123456789012:runtime/calc-AbCdEfGhIj"
[data]
train = "s3://bucket/train.jsonl"
[output]
s3 = "s3://bucket/out/"
model_package_group = "calc"
checkpoint_package_group = "calc-ckpt"
mlflow_arn = "arn:aws:sagemaker:us-west-2:123456789012:mlflow-app/app-ABC"
[evaluation]
dataset = "test.jsonl"
max_runtime_seconds = 3600
temperature = 0.5
"""


def test_evaluate_command_when_given_a_file_then_its_dataset_is_uploaded_and_its_numbers_are_sent(
    cli: Callable[..., Result], jobs: AgentRFT, service: Service, tmp_path: Path
) -> None:
    end(service, jobs, "Completed", OutputModelPackageArn=MODEL)
    let_evaluations_run(service)
    (tmp_path / "job.toml").write_text(FILE)
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"prompt": f"{n} + 1?"}) + "\n" for n in range(20)))
    words = ("--file", str(tmp_path / "job.toml"), "--set", "eval_group_size=2", "--poll-seconds", "0.001")
    done = cli("evaluate", "calc-1", *words)
    assert done.exit_code == 0, done.output
    asked = sent(service)
    uploaded = asked["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"]
    assert service.objects[uploaded.removeprefix("s3://")] == (tmp_path / "test.jsonl").read_bytes()
    values = {"rollout_timeout": "300", "temperature": "0.5", "eval_group_size": "2"}
    assert asked["EvaluationConfig"]["HyperParameters"] == values
    assert asked["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600}


OTHER_SERVICES = ["delete", "logs", "resume", "iterate", "evaluate"]


@pytest.mark.parametrize("command", OTHER_SERVICES)
def test_commands_when_asked_of_another_service_then_they_say_where(command: str) -> None:
    more = ["--name", "b"] if command in ("resume", "iterate") else []
    result = CliRunner().invoke(main, ["job", command, "a", *more, "--on", "nova", "--endpoint", "http://127.0.0.1:1"])
    assert result.exit_code == 2
    assert "use --on sagemaker" in result.output


def test_parts_when_a_job_is_of_another_service_then_there_are_none() -> None:
    assert parts_of({"status": "running"}) == {}
