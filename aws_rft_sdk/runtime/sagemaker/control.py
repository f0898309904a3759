"""The operations of SageMaker that jobs need: jobs, schemas, model packages and MLflow's presigned URL."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.agent_rft import MODELS, TRAINING, find_model
from aws_rft_sdk.runtime._database import JobEndedError
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.sagemaker.checking import check, operations
from aws_rft_sdk.runtime.sagemaker.rows import JobRow, NewJob, PackageRow
from aws_rft_sdk.runtime.sagemaker.schema import CONFIG_BLOCKS, VERSIONS, document_problems, schema_text
from aws_rft_sdk.runtime.sagemaker.sessions import Sessions
from aws_rft_sdk.runtime.sagemaker.store import ENDED, JobExistsError, Store, TooManyJobsError

ACCOUNT = "123456789012"
"""The account of the caller."""
_SHOWN_PROBLEMS = 10
_ROW_TOKEN = "from-row-"  # noqa: S105 - where a page begins
_Row = TypeVar("_Row")


class Engine(Protocol):
    """Runs the jobs."""

    def start(self, row: JobRow) -> None:
        """Begin to run a job."""

    def stop(self, row: JobRow) -> None:
        """End a job as stopped. It may go on for a moment."""


class Place(NamedTuple):
    """Where the stand-in seems to be."""

    region: str
    endpoint: Callable[[], str]
    """Returns the URL of the stand-in."""


class ControlPlane:
    """Answers the operations of SageMaker.

    Args:
        store: The database.
        engine: Runs the jobs.
        sessions: Of MLflow.
        place: Region and URL.
    """

    def __init__(self, store: Store, engine: Engine, sessions: Sessions, place: Place) -> None:
        self._store, self._engine, self._sessions, self._place = store, engine, sessions, place
        self._calls: dict[str, Callable[[dict[str, JSON]], dict[str, JSON]]] = {
            "CreateJob": self._create,
            "DescribeJob": lambda asked: _described(self._job(asked)),
            "ListJobs": self._list,
            "StopJob": self._stop,
            "DeleteJob": self._delete,
            "ListJobSchemaVersions": self._versions,
            "DescribeJobSchemaVersion": self._schema,
            "CreateModelPackageGroup": self._create_group,
            "DescribeModelPackageGroup": self._describe_group,
            "DescribeModelPackage": self._describe_package,
            "ListModelPackages": self._list_packages,
            "CreatePresignedMlflowAppUrl": self._presigned_url,
        }

    def answer(self, operation: str, asked: dict[str, JSON]) -> dict[str, JSON]:
        """Return the answer to a call.

        Raises:
            Refusal: The service refuses it. The error type is its `code`.
        """
        call = self._calls.get(operation)
        if call is None:
            known = operation in operations("sagemaker")
            text = f"LocalJobs does not serve {operation}" if known else f"There is no operation {operation:.80}"
            raise Refusal(400, text, code="UnknownOperationException")
        check("sagemaker", operation, asked)
        return call(asked)

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _create(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        category, name = asked["JobCategory"], asked["JobName"]
        self._check_version(category, asked["JobConfigSchemaVersion"])
        document = self._read_document(category, asked["JobConfigDocument"])
        account = asked["RoleArn"].split(":")[4]
        mlflow = document[CONFIG_BLOCKS[category]].get("MlflowConfig") or document["OutputDataConfig"].get(
            "MlflowConfig", {}
        )
        job = NewJob(
            name=name,
            category=category,
            arn=f"arn:aws:sagemaker:{self._place.region}:{account}:job/{category}/{name}",
            document=document,
            role=asked["RoleArn"],
            schema_version=asked["JobConfigSchemaVersion"],
            tags=asked.get("Tags", []),
            experiment=mlflow.get("MlflowExperimentName", category),
            run_name=mlflow.get("MlflowRunName", name),
        )
        try:
            row = self._store.create(job)
        except JobExistsError:
            raise Refusal(400, f"Job name {name} is already in use", code="ResourceInUse") from None
        except TooManyJobsError:
            text = (
                f"The account-level service limit 'Number of concurrent {category} jobs' is 1 Jobs, with current "
                "utilization of 1 Jobs and a request delta of 1 Jobs. Wait for the running job, or stop it"
            )
            raise Refusal(400, text, code="ResourceLimitExceeded") from None
        self._engine.start(row)
        return {"JobArn": row.arn}

    def _read_document(self, category: str, text: str) -> dict[str, JSON]:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _invalid(f"JobConfigDocument is not JSON: {error}") from None
        problems = list(document_problems(category, document)) or list(self._conflicts(category, document))
        if problems:
            raise _invalid("; ".join(problems[:_SHOWN_PROBLEMS]))
        return dict(document)

    def _conflicts(self, category: str, document: Mapping[str, Any]) -> Sequence[str]:
        """Return what is wrong with a document that keeps its schema, against what exists."""
        found = []
        model = find_model(document[CONFIG_BLOCKS[category]]["BaseModelArn"])
        if model is None or self._place.region not in model.regions:
            here = [known.name for known in MODELS.values() if self._place.region in known.regions]
            found.append(f"the base model is not available in {self._place.region}. Available: {', '.join(here)}")
        for path, arn in (
            ("BaseModelArn", document[CONFIG_BLOCKS[category]]["BaseModelArn"]),
            *((name, arn) for block in document["AgentConfig"].values() for name, arn in block.items()),
        ):
            if arn.startswith("arn:") and (region := arn.split(":")[3]) != self._place.region:
                found.append(f"{path} is of the region {region}, and the job runs in {self._place.region}")
        packages = document.get("ModelPackageConfig", {})
        names = {packages.get("OutputModelPackageGroupArn"), packages.get("IntermediateCheckpointModelPackageGroupArn")}
        if category == TRAINING and len(names) == 1:
            found.append("OutputModelPackageGroupArn and IntermediateCheckpointModelPackageGroupArn must differ")
        if arn := packages.get("InputModelPackageArn"):
            found += _input_conflicts(category, document, self._package(arn))
        return found

    def _list(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        rows = [
            row
            for row in self._store.jobs(asked["JobCategory"])
            if asked.get("NameContains", "") in row.name
            and asked.get("StatusEquals", row.status) == row.status
            and _is_between(row.created_at, asked, "CreationTime")
            and _is_between(row.changed_at, asked, "LastModifiedTime")
        ]
        keys: dict[str, Callable[[JobRow], Any]] = {
            "Name": lambda row: row.name,
            "Status": lambda row: (row.status, row.created_at),
            "CreationTime": lambda row: (row.created_at, row.number),
        }
        # The model names no default order. Newest first is what the lists of this service's other jobs do.
        rows.sort(key=keys[asked.get("SortBy", "CreationTime")], reverse=asked.get("SortOrder") != "Ascending")
        page, token = _page(rows, asked, default=50)
        return {"JobSummaries": [_summary(row) for row in page], **token}

    def _stop(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        row = self._job(asked)
        if row.status == "InProgress":
            try:
                self._store.advance(row, status="Stopping", secondary="Stopping", message="StopJob was called")
            except JobEndedError:
                return {}
            self._engine.stop(row)
        return {}

    def _delete(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        row = self._store.job(asked["JobCategory"], asked["JobName"])
        if row is not None and row.status not in ENDED:
            raise Refusal(400, f"Job {row.name} is {row.status}. Stop it first", code="ResourceInUse")
        if row is not None:
            self._store.delete(row)
        return {}

    def _job(self, asked: Mapping[str, JSON]) -> JobRow:
        row = self._store.job(asked["JobCategory"], asked["JobName"])
        if row is None:
            text = f"Requested resource not found: there is no job {asked['JobName']} of {asked['JobCategory']}"
            raise Refusal(400, text, code="ResourceNotFound")
        return row

    # --- schemas -----------------------------------------------------------------------------------------------------

    def _versions(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        self._check_version(asked["JobCategory"], None)
        page, token = _page(VERSIONS, asked, default=5)
        return {"JobConfigSchemas": [{"JobConfigSchemaVersion": version} for version in page], **token}

    def _schema(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        category = asked["JobCategory"]
        version = asked.get("JobConfigSchemaVersion") or VERSIONS[-1]
        self._check_version(category, version)
        return {
            "JobCategory": category,
            "JobConfigSchemaVersion": version,
            "JobConfigSchema": schema_text(category),
        }

    def _check_version(self, category: str, version: str | None) -> None:
        if category not in CONFIG_BLOCKS:
            raise _invalid(f"LocalJobs runs jobs of {' and '.join(CONFIG_BLOCKS)}, and not of {category}")
        if version is not None and version not in VERSIONS:
            text = f"There is no schema version {version} of {category}. Known: {', '.join(VERSIONS)}"
            raise Refusal(400, text, code="ResourceNotFound")

    # --- model packages ----------------------------------------------------------------------------------------------

    def _create_group(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        name = asked["ModelPackageGroupName"]
        arn = f"arn:aws:sagemaker:{self._place.region}:{ACCOUNT}:model-package-group/{name}"
        doc: dict[str, JSON] = {
            "ModelPackageGroupName": name,
            "ModelPackageGroupArn": arn,
            "CreationTime": self._store.now(),
            "CreatedBy": {},
            "ModelPackageGroupStatus": "Completed",
            **{key: asked[key] for key in ("ModelPackageGroupDescription", "ManagedConfiguration") if key in asked},
        }
        if not self._store.add_group(name, doc):
            raise _invalid(f"Model Package Group already exists: {arn}")
        return {"ModelPackageGroupArn": arn}

    def _describe_group(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        name = asked["ModelPackageGroupName"].rpartition("/")[2]
        doc = self._store.group(name)
        if doc is None:
            raise _invalid(f"ModelPackageGroup {name} does not exist")
        return doc

    def _describe_package(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        row = self._package(asked["ModelPackageName"])
        return {
            **_package_summary(row),
            "ModelPackageName": f"{row.group}/{row.version}",
            "ModelPackageStatusDetails": {"ValidationStatuses": []},
            "CustomerMetadataProperties": {
                "step": str(row.step),
                "BaseModelArn": row.document["TrainingConfig"]["BaseModelArn"],
                "IsCheckpoint": str(row.resumable).lower(),
            },
            "InferenceSpecification": {
                "Containers": [
                    {
                        "ModelDataSource": {
                            "S3DataSource": {
                                "S3Uri": f"{row.document['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{row.step}/",
                                "S3DataType": "S3Prefix",
                                "CompressionType": "None",
                            }
                        },
                        "BaseModel": {"HubContentName": _hub_id(row)},
                        **({"IsCheckpoint": True} if row.resumable else {}),
                    }
                ],
                "SupportedContentTypes": [],
                "SupportedResponseMIMETypes": [],
            },
        }

    def _package(self, arn: str) -> PackageRow:
        row = self._store.package(arn)
        if row is None:
            raise _invalid(f"ModelPackage {arn} does not exist")
        return row

    def _list_packages(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        group = asked.get("ModelPackageGroupName", "").rpartition("/")[2] or None
        rows = [
            row
            for row in self._store.packages(group)
            if asked.get("NameContains", "") in row.group and _is_between(row.at, asked, "CreationTime")
        ]
        if asked.get("SortOrder") == "Descending":
            rows.reverse()
        page, token = _page(rows, asked, default=100)
        return {"ModelPackageSummaryList": [_package_summary(row) for row in page], **token}

    # --- MLflow ------------------------------------------------------------------------------------------------------

    def _presigned_url(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        if "Arn" not in asked:
            raise _invalid("Arn is missing")
        token = self._sessions.new_token(
            seconds=asked.get("ExpiresInSeconds"), session_seconds=asked.get("SessionExpirationDurationInSeconds")
        )
        return {"AuthorizedUrl": f"{self._place.endpoint()}/auth?authToken={token}"}


def _invalid(message: str) -> Refusal:
    return Refusal(400, message, code="ValidationException")


def _input_conflicts(category: str, document: Mapping[str, Any], package: PackageRow) -> list[str]:
    """Return what a job may not change against the job whose package it begins from."""
    config, made_by = document[CONFIG_BLOCKS[category]], package.document["TrainingConfig"]
    if find_model(config["BaseModelArn"]) != find_model(made_by["BaseModelArn"]):
        return ["BaseModelArn is not that of the job that made InputModelPackageArn"]
    if category != TRAINING:
        text = "InputModelPackageArn is a checkpoint to resume from. Name the checkpoint for models of the same step"
        return [text] if package.resumable else []
    if not package.resumable:
        return []
    same = {
        "HyperParameters": (config.get("HyperParameters", {}), made_by.get("HyperParameters", {})),
        "InputDataConfig": (document["InputDataConfig"], package.document["InputDataConfig"]),
    }
    text = "{} differs from that of the job that InputModelPackageArn resumes, and must be the same"
    return [text.format(name) for name, (new, old) in same.items() if new != old]


def _hub_id(row: PackageRow) -> str:
    model = find_model(row.document["TrainingConfig"]["BaseModelArn"])
    return model.hub_id if model else ""


def _package_summary(row: PackageRow) -> dict[str, JSON]:
    return {
        "ModelPackageGroupName": row.group,
        "ModelPackageVersion": row.version,
        "ModelPackageArn": row.arn,
        "ModelPackageDescription": f"checkpoint of step {row.step}",
        "CreationTime": row.at,
        "ModelPackageStatus": "Completed",
        "ModelApprovalStatus": "PendingManualApproval",
    }


def _times(row: JobRow) -> dict[str, JSON]:
    ended = {} if row.ended_at is None else {"EndTime": row.ended_at}
    return {"CreationTime": row.created_at, "LastModifiedTime": row.changed_at, **ended}


def _summary(row: JobRow) -> dict[str, JSON]:
    return {
        "JobArn": row.arn,
        "JobName": row.name,
        "JobCategory": row.category,
        "JobStatus": row.status,
        "JobSecondaryStatus": row.secondary,
        **_times(row),
    }


def _described(row: JobRow) -> dict[str, JSON]:
    return {
        "JobName": row.name,
        "JobArn": row.arn,
        "RoleArn": row.role,
        "JobCategory": row.category,
        "JobConfigSchemaVersion": row.schema_version,
        "JobConfigDocument": json.dumps({**row.document, "ServiceOutput": row.output}),
        "JobStatus": row.status,
        "SecondaryStatus": row.secondary,
        "SecondaryStatusTransitions": row.transitions,
        **_times(row),
        **({} if row.failure is None else {"FailureReason": row.failure}),
        **({"Tags": row.tags} if row.tags else {}),
    }


def _is_between(at: float, asked: Mapping[str, JSON], name: str) -> bool:
    after, before = asked.get(f"{name}After"), asked.get(f"{name}Before")
    return (after is None or at > after) and (before is None or at < before)


def _page(rows: Sequence[_Row], asked: Mapping[str, JSON], *, default: int) -> tuple[Sequence[_Row], dict[str, JSON]]:
    """Return the page of rows that a request asks for, and the token of the next page as the service writes it."""
    token = asked.get("NextToken") or f"{_ROW_TOKEN}0"
    if not re.fullmatch(f"{_ROW_TOKEN}[0-9]{{1,9}}", token):
        raise _invalid("NextToken is none that this stand-in gave")
    begin = int(token[len(_ROW_TOKEN) :])
    end = begin + (asked.get("MaxResults") or default)
    return rows[begin:end], {"NextToken": f"{_ROW_TOKEN}{end}"} if end < len(rows) else {}
