"""The services of `LocalJobs` behind a real port, with an engine that runs a job only as far as a test says."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore.config import Config

from aws_rft_sdk._listening import listen
from aws_rft_sdk.agent_rft import TRAINING
from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.jobs._sagemaker_request import create_parameters, evaluation_document, training_document
from aws_rft_sdk.runtime.auth import AuthMode, Signing, Verifier
from aws_rft_sdk.runtime.faults import Faults
from aws_rft_sdk.runtime.http_server import ServerThread, make_config
from aws_rft_sdk.runtime.sagemaker.app import SIGNING_NAMES, Door, Services
from aws_rft_sdk.runtime.sagemaker.control import Place
from aws_rft_sdk.runtime.sagemaker.objects import Objects
from aws_rft_sdk.runtime.sagemaker.rows import JobRow
from aws_rft_sdk.runtime.sagemaker.sessions import Sessions
from aws_rft_sdk.runtime.sagemaker.store import Store

REGION = "us-west-2"
KEYS = Keys("AKIDEXAMPLE", "a-secret")
_ARN = f"arn:aws:sagemaker:{REGION}:123456789012"
AGENT = f"arn:aws:bedrock-agentcore:{REGION}:123456789012:runtime/calc-AbCdEfGhIj"
BASE = f"arn:aws:sagemaker:{REGION}:aws:hub-content/SageMakerPublicHub/Model/openai-reasoning-gpt-oss-20b"
MLFLOW_APP = f"{_ARN}:mlflow-app/app-ABC"


def training(**changes: Any) -> dict[str, Any]:
    """Return the document of a training job that the service takes."""
    given: dict[str, Any] = {
        "base_model": BASE,
        "agent": AGENT,
        "train": "s3://bucket/train.jsonl",
        "output": "s3://bucket/out/",
        "model_package_group": f"{_ARN}:model-package-group/calc",
        "checkpoint_package_group": f"{_ARN}:model-package-group/calc-ckpt",
        "accept_eula": True,
        "mlflow_arn": MLFLOW_APP,
        "hyperparameters": {"group_size": "8"},
    }
    return training_document(**{**given, **changes})


def evaluation(**changes: Any) -> dict[str, Any]:
    """Return the document of an evaluation that the service takes."""
    given: dict[str, Any] = {
        "base_model": BASE,
        "agent": AGENT,
        "dataset": "s3://bucket/eval.jsonl",
        "output": "s3://bucket/out/",
        "accept_eula": True,
        "mlflow_arn": MLFLOW_APP,
    }
    return evaluation_document(**{**given, **changes})


def parameters(document: Any = None, name: str = "calc-1", category: str = TRAINING, **changes: Any) -> dict[str, Any]:
    """Return parameters of CreateJob."""
    document = document or (training() if category == TRAINING else evaluation())
    role = "arn:aws:iam::123456789012:role/Job"
    return {**create_parameters(document, job_name=name, role_arn=role, category=category), **changes}


class HandEngine:
    """Runs nothing by itself. Stopped jobs end at once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.started: list[str] = []

    def start(self, row: JobRow) -> None:
        self.started.append(row.name)

    def stop(self, row: JobRow) -> None:
        self.store.advance(row, status="Stopped")


class Plane:
    """The stand-in and its clients.

    Attributes:
        store: The database.
        engine: Runs the jobs.
        endpoint: URL of the port.
    """

    def __init__(self, store: Store, objects: Objects, engine: HandEngine, endpoint: str) -> None:
        self.store, self.objects, self.engine, self.endpoint = store, objects, engine, endpoint

    def client(self, service: str, keys: Keys = KEYS, **config: Any) -> Any:
        """Return a client of boto3."""
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            config=Config(retries={"total_max_attempts": 1}, **config),
        )

    def job(self, name: str = "calc-1", category: str = TRAINING) -> JobRow:
        """Return a job that exists."""
        row = self.store.job(category, name)
        assert row is not None
        return row


@contextlib.contextmanager
def serving(
    *,
    auth: AuthMode = "any",
    db: str = ":memory:",
    clock: Callable[[], float] = time.time,
    faults: Faults | None = None,
) -> Iterator[Plane]:
    """Serve until the block ends."""
    with contextlib.closing(Store(db, clock)) as store, contextlib.closing(listen(0, "127.0.0.1")) as listener:
        objects, engine = Objects(store), HandEngine(store)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        services = Services(store, objects, engine, Sessions(clock), Place(REGION, lambda: endpoint))
        verifiers = {
            name: Verifier(auth, REGION, lambda: KEYS, signing=Signing(name, name, "", "-", is_s3=name == "s3"))
            for name in SIGNING_NAMES
        }
        door = Door(services.by_name(), verifiers, faults, die=lambda: None)

        async def close() -> None:
            return

        server = ServerThread(make_config(door, drain_seconds=1, certfile=None, keyfile=None), listener, print, close)
        server.start()
        try:
            yield Plane(store, objects, engine, endpoint)
        finally:
            server.stop()
