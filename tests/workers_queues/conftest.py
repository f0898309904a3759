"""SQS and DynamoDB on loopback: moto's server, over the real boto3 client."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from aws_rft_sdk.lifecycle import one_rollout
from aws_rft_sdk.runtime import LocalRuntime
from tests.workers_queues.doing import REGION, Aws


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """Set the environment up for the AWS of this test, and give its clients."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": moto_url,
    }.items():
        monkeypatch.setenv(name, value)
    session = boto3.session.Session(region_name=REGION)
    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=50)
    clients = [session.client(name, endpoint_url=moto_url, config=config) for name in ("sqs", "dynamodb")]
    yield Aws(*clients)
    for client in clients:
        client.close()


@pytest.fixture
def make_queue(aws: Aws) -> Callable[..., str]:
    def make(name: str = "rollouts", *, fifo: bool = False, **attributes: str) -> str:
        if fifo:
            attributes["FifoQueue"] = "true"
        name = f"{name}-{uuid.uuid4().hex[:8]}{'.fifo' if fifo else ''}"
        url: str = aws.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return url

    return make


@pytest.fixture
def runtime() -> Iterator[LocalRuntime]:
    with LocalRuntime(lambda request: "four", auth="none") as runtime:
        yield runtime


@pytest.fixture(autouse=True)
def _rollouts_may_begin() -> Iterator[Any]:
    yield
    one_rollout.begin_again()
