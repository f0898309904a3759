"""`job plan` and `job submit` of a multi-turn RL job, with boto3 against the services of the local twin."""

import json

import pytest
from botocore.stub import Stubber
from click.testing import CliRunner

from aws_rft_sdk.cli import main
from aws_rft_sdk.errors import ConfigurationError, JobConfigError, JobServiceError
from aws_rft_sdk.jobs._aws import client, session_for
from aws_rft_sdk.jobs._sagemaker_setup import runtime_arn, schema_problems
from aws_rft_sdk.jobs.planning import plan, submit
from aws_rft_sdk.jobs.sagemaker import AgentRFT
from tests.jobs.job_files import SAGEMAKER, change, write_job
from tests.jobs.test_sagemaker_config import AGENT, GROUP, HUB
from tests.sagemaker.plane import serving

WHOLE = {
    "agent.agentcore_arn": '"calc-AbCdEfGhIj"',
    "data.train": '"prompts.jsonl"',
    "output.create_groups": "true",
    "hyperparameters.global_batch_size": "32",
}


@pytest.fixture
def port():
    with serving(auth="none") as plane:
        yield plane


def write(folder, **changes):
    text = SAGEMAKER
    for path, value in changes.items():
        text = change(text, path, value)
    return write_job(folder, text)


def run(*arguments):
    return CliRunner().invoke(main, ["job", *map(str, arguments)])


def stored(plane, name):
    return plane.client("sagemaker").describe_job(JobName=name, JobCategory="AgentRFT")


def test_submit_when_all_is_to_be_made_then_it_is_made_in_order_and_a_repeat_makes_nothing_new(tmp_path, port):
    file = write(tmp_path, **WHOLE)
    planned = plan(file, endpoint=port.endpoint)

    first = run("submit", file, "--endpoint", port.endpoint)
    again = run("submit", file, "--endpoint", port.endpoint)

    assert first.exit_code == again.exit_code == 0, first.output
    kinds = [line.split()[0] for line in first.stdout.splitlines()]
    assert kinds == ["file", "group", "group", "job", "follow"]
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["file", "job", "follow"]
    assert f"the agent is {AGENT}" in first.stderr
    job = stored(port, "calculator-1")
    sent = json.loads(job["JobConfigDocument"])
    assert {key: sent[key] for key in planned.requests[-1].document} == planned.requests[-1].document
    put = planned.requests[0].parameters
    body = port.client("s3").get_object(Bucket=put["Bucket"], Key=put["Key"])["Body"].read()
    assert body == (tmp_path / "prompts.jsonl").read_bytes()


def test_submit_when_asked_for_json_then_ids_and_no_grader_are_printed(tmp_path, port):
    result = run("submit", write(tmp_path, **{"job.name": '"j-1"'}), "--endpoint", port.endpoint, "--json")

    found = json.loads(result.stdout)
    assert (found["job"], found["state"], found["grader"], found["file"]) == ("j-1", "running", None, None)


def test_submit_when_the_base_model_is_to_be_evaluated_then_that_job_is_created(tmp_path, port):
    file = write(tmp_path, **{"evaluation.dataset": '"s3://bucket/eval.jsonl"', "evaluation.eval_group_size": "4"})

    result = run("submit", file, "--evaluation", "--endpoint", port.endpoint)

    assert result.exit_code == 0, result.output
    job = port.client("sagemaker").describe_job(JobName="calculator-1-eval", JobCategory="AgentRFTEvaluation")
    assert json.loads(job["JobConfigDocument"])["EvaluationConfig"]["HyperParameters"] == {"eval_group_size": "4"}


NEW_MODEL = {"job.model": f'"{HUB}/some-new-model"', "data.train": '"prompts.jsonl"', "output.create_groups": "true"}


@pytest.mark.parametrize("command", [["submit"], ["plan", "--check-schema"]], ids=["submit", "plan"])
def test_document_when_it_does_not_fit_the_schema_of_the_service_then_nothing_is_created(tmp_path, command):
    file = write(tmp_path, **NEW_MODEL, **{"job.name": '"refused-1"', "hyperparameters.global_batch_size": "32"})
    text = file.read_text().replace("prompts.jsonl", "s3://bucket/prompts.jsonl")
    file.write_text(text)  # the rows of a local file would be held against the batch of no known model
    with serving(auth="none") as port:
        result = run(*command, file, "--endpoint", port.endpoint, "--json")

        assert result.exit_code == 2
        (problem,) = json.loads(result.stdout)["problems"]
        assert problem["path"] == "TrainingConfig.BaseModelArn"
        assert "schema 1.0.0 of AgentRFT" in problem["source"]
        assert not port.client("sagemaker").list_jobs(JobCategory="AgentRFT")["JobSummaries"]
        with pytest.raises(port.client("sagemaker").exceptions.ClientError):
            port.client("sagemaker").describe_model_package_group(ModelPackageGroupName="calc")


class Unreadable(AgentRFT):
    """The caller may create jobs, and may not read schemas."""

    def schema(self, category="AgentRFT", version=None):
        raise JobServiceError("refused", code="AccessDeniedException", status=400)


def test_submit_when_the_caller_may_not_read_the_schema_then_the_job_is_created_and_that_is_said(tmp_path, port):
    said = []

    made = submit(
        write(tmp_path, **{"job.name": '"blind-1"'}), jobs=Unreadable(endpoint_url=port.endpoint), say=said.append
    )

    assert made.job.id == "blind-1"
    assert "not checked against the service's schema" in said[0]


def test_submit_when_the_service_lacks_the_version_of_the_schema_then_nothing_is_created(tmp_path, port):
    with pytest.raises(JobServiceError, match="DescribeJobSchemaVersion"):
        submit(write(tmp_path, **{"job.schema_version": '"9.0.0"'}), endpoint=port.endpoint)


def test_submit_when_a_group_for_nova_exists_with_open_storage_then_the_job_is_not_created(tmp_path, port):
    port.client("sagemaker").create_model_package_group(ModelPackageGroupName="open")
    changes = {"job.name": '"nova-1"', "job.model": '"nova-lite-2"', "output.model_package_group": '"open"'}

    with pytest.raises(ConfigurationError, match="open exists without restricted storage"):
        submit(write(tmp_path, **changes, **{"output.create_groups": "true"}), endpoint=port.endpoint)

    assert port.store.job("AgentRFT", "nova-1") is None


def test_submit_when_groups_for_nova_are_created_then_their_storage_is_restricted(tmp_path, port):
    changes = {"job.name": '"nova-2"', "job.model": '"nova-lite-2"', "output.model_package_group": '"nova"'}
    changes |= {"output.checkpoint_package_group": f'"{GROUP}/nova-ckpt"', "output.create_groups": "true"}
    made = []

    submit(write(tmp_path, **changes), endpoint=port.endpoint, created=made.append)

    assert [item.id for item in made if item.kind == "group"] == [f"{GROUP}/nova", f"{GROUP}/nova-ckpt"]
    found = port.client("sagemaker").describe_model_package_group(ModelPackageGroupName="nova-ckpt")
    assert found["ManagedConfiguration"] == {"ManagedStorageType": "Restricted"}


def test_submit_when_it_stops_half_way_then_what_exists_is_printed_with_the_command_that_removes_it(tmp_path, port):
    run("submit", write(tmp_path, **{"job.name": '"taken-1"'}), "--endpoint", port.endpoint)
    changes = {"job.name": '"taken-1"', "output.model_package_group": '"half-way"', "output.create_groups": "true"}

    result = run("submit", write(tmp_path, **changes), "--endpoint", port.endpoint)

    assert result.exit_code == 1
    assert "delete-model-package-group --model-package-group-name half-way" in result.stderr
    assert "taken-1" in result.stderr


def test_runtime_when_it_is_not_ready_then_that_is_said():
    control = client(session_for("us-west-2"), "bedrock-agentcore-control", endpoint_url="http://127.0.0.1:1")
    answer = {
        **{"agentRuntimeArn": AGENT, "agentRuntimeName": "calc", "agentRuntimeId": "calc-AbCdEfGhIj"},
        **{"agentRuntimeVersion": "1", "createdAt": 0, "lastUpdatedAt": 0, "roleArn": "r", "status": "CREATING"},
        **{"networkConfiguration": {"networkMode": "PUBLIC"}, "lifecycleConfiguration": {}},
    }
    with Stubber(control) as stub:
        stub.add_response("get_agent_runtime", answer, {"agentRuntimeId": "calc-AbCdEfGhIj"})

        with pytest.raises(ConfigurationError, match="is CREATING"):
            runtime_arn(lambda service: control, "calc-AbCdEfGhIj")


TEXT = {"type": "string"}
SCHEMAS = [
    ({"properties": {"a": {"items": {"properties": {"b": TEXT}}}}}, {"a": [{}, {"b": 1}]}, "a[1].b", "not of type"),
    ({"required": ["a"]}, {}, "", "'a' is a required property"),
    ({"properties": {"a": {"anyOf": [TEXT, {"properties": {"b": TEXT}}]}}}, {"a": {"b": 1}}, "a.b", "not of type"),
    ({"additionalProperties": False}, {"x": 1}, "", "'x' was unexpected"),
]


@pytest.mark.parametrize(("schema", "document", "path", "rule"), SCHEMAS, ids=["list", "required", "any", "unknown"])
def test_schema_when_the_document_breaks_it_then_the_problem_has_the_path(schema, document, path, rule):
    parameters = {"JobCategory": "AgentRFT", "JobConfigSchemaVersion": "1.0.0"}

    (problem,) = schema_problems(schema, {**parameters, "JobConfigDocument": json.dumps(document)})

    assert (problem.path, rule in problem.rule) == (path, True), problem
    with pytest.raises(JobServiceError, match="is no JSON schema"):
        schema_problems({"type": 1}, parameters)


def test_submit_when_the_file_has_problems_then_nothing_is_asked(tmp_path):
    with pytest.raises(JobConfigError, match="accept_eula"):
        submit(write(tmp_path, **{"job.accept_eula": "false"}), endpoint="http://127.0.0.1:1")
