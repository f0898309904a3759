"""Every test starts from a clean environment: no AWS account, no settings, nothing shared from the test before."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
import responses
from fakes import Service
from hypothesis import settings

from aws_rft_sdk import credentials

pytest_plugins = ["pytester"]

# The libraries of the extra `train` read these when they are imported. No test asks the Hugging Face hub, and the tests
# of one worker leave the processors to the other workers.
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A busy machine fails no test, and neither do examples of chance. `--hypothesis-profile=explore` looks for new ones.
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, derandomize=False)
settings.load_profile("reproducible")

# A shell starts background jobs with SIGINT ignored, and so would be the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Folders whose files take longest, one of them minutes. Begun last, such a file would run while other workers have
# nothing left to do. `.ci/run` tells xdist to keep this order.
SLOW = ("rollout", "training", "benchmarks", "proof", "examples", "hung", "workers", "workers_queues", "viewer")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.parent.name) if item.path.parent.name in SLOW else len(SLOW))


@pytest.fixture(scope="session")
def aws_environment() -> dict[str, str]:
    """Return the AWS settings that the run was started with, for tests against a real endpoint."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, aws_environment: dict[str, str]) -> None:
    for name in list(os.environ):
        ours = ("AWS_", "RFT_", "OPENAI_", "LITELLM_", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
        terminal = ("FORCE_COLOR", "NO_COLOR", "TTY_")
        if name.startswith((*ours, *terminal)) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    credentials._shared.clear()


@pytest.fixture
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> credentials.Keys:
    keys = credentials.Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
    credentials._shared.clear()
    return keys


@pytest.fixture(scope="session")
def _service() -> Iterator[Service]:
    with Service() as service:
        yield service


@pytest.fixture
def service(_service: Service) -> Iterator[Service]:
    """Serve the job runtime's paths on loopback, with an empty record and the default answers."""
    _service.reset()
    yield _service
    _service.release_all()


@pytest.fixture(scope="session", autouse=True)
def _no_loop_left_behind() -> Iterator[None]:
    yield
    asyncio.set_event_loop(None)


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock
