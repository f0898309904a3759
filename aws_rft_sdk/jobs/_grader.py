"""What a grader is before it is deployed: settings, zip, and the rows that it is tried with. Nothing here calls AWS."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk._loading import load_function, load_object
from aws_rft_sdk.datasets import read_rows
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs import iam
from aws_rft_sdk.jobs._cloud import TAG, role_name
from aws_rft_sdk.jobs._shapes import FUNCTION_NAME, broken_rule
from aws_rft_sdk.jobs.types import OURS, Problem, refuse
from aws_rft_sdk.rewards._messages import prompt_messages
from aws_rft_sdk.rewards.judge import Judge
from aws_rft_sdk.rewards.lambdas import CONCURRENCY, Envelope, RewardLambda
from aws_rft_sdk.rewards.packaging import (
    HANDLER,
    MAX_UNZIPPED_BYTES,
    MAX_ZIP_BYTES,
    RUNTIME,
    Package,
    build_package,
)
from aws_rft_sdk.rewards.rollout import ASSISTANT_ROLES, leaves

SERVICES = ("bedrock", "nova", "sagemaker")
ARCHITECTURES = ("x86_64", "arm64")
_RUNTIME = re.compile(r"python3\.\d+")
_ENV_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]+")
_RESERVED = re.compile(
    r"_HANDLER$|_X_AMZN|LAMBDA_TASK_ROOT|AWS_(REGION|DEFAULT_REGION|ACCESS_KEY|SECRET|SESSION|LAMBDA_)"
)
_LAMBDA_API = "AWS Lambda API, CreateFunction"
SAMPLES = 4
"""Rows that a function is tried with."""
_MADE_UP = {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "reference_answer": "4"}


@dataclass(frozen=True)
class Built:
    """A grader's zip.

    Attributes:
        package: What is in it.
        zip_file: Its bytes.
        models: Bedrock models that the reward asks.
    """

    package: Package
    zip_file: bytes
    models: tuple[str, ...]

    @property
    def size(self) -> str:
        """Its sizes against Lambda's limits, in words."""
        zipped, unzipped = self.package.zip_bytes, self.package.unzipped_bytes
        return f"{zipped:,} of {MAX_ZIP_BYTES:,} bytes zipped, {unzipped:,} of {MAX_UNZIPPED_BYTES:,} bytes unzipped"


@dataclass(frozen=True)
class Grader:
    """A reward as a Lambda function, as it is to be.

    Attributes:
        reward: `path/to/file.py:name`.
        name: Of the function.
        on: The service that calls it: `bedrock` for open-weight models, `nova`, or `sagemaker`.
        role: ARN of a role that exists. None for one that is made.
        with_deps: Whether to add the packages that Lambda lacks.
        models: Bedrock models that the function may call, by id or ARN. None for those of the reward's judges.
        caller: ARN of the role or user that a policy of the function lets call it. None for nobody: then the caller
            needs a statement of its own.
        timeout_seconds: Of one invocation, 1 to 900.
        memory_mb: 128 to 10,240. Processor time grows with it.
        environment: Variables of the function. Their values are shown nowhere.
        runtime: Lambda's name of the Python.
        architecture: `x86_64` or `arm64`.
        floor: Score of a row that cannot be judged.
        concurrency: Rows of one invocation at once.
        envelope: Form of the reply. None for that of the service.
    """

    reward: str
    name: str
    on: str = "bedrock"
    role: str | None = None
    with_deps: bool = False
    models: tuple[str, ...] | None = None
    caller: str | None = None
    timeout_seconds: int = 300
    memory_mb: int = 512
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    runtime: str = RUNTIME
    architecture: str = "x86_64"
    floor: float = 0.0
    concurrency: int = CONCURRENCY
    envelope: Envelope | None = None

    def problems(self) -> list[Problem]:
        """Return everything that Lambda or the service would refuse."""
        found: list[Problem] = []

        def check(holds: object, path: str, value: JSON, rule: str, source: str = _LAMBDA_API) -> None:
            if not holds:
                found.append(Problem(path, value, f"must be {rule}", source))

        check(re.fullmatch(FUNCTION_NAME, self.name), "name", self.name, "1 to 64 letters, digits, - or _")
        named = self.on != "sagemaker" or re.search("[Ss]age[Mm]aker", self.name)
        check(named, "name", self.name, "a name that contains SageMaker, or the job fails", "Amazon Nova on SageMaker")
        check(self.on in SERVICES, "on", self.on, f"one of {', '.join(SERVICES)}", OURS)
        no_role = self.role is not None and broken_rule("RoleArn", self.role)
        check(not no_role, "role", self.role, "the ARN of a role")
        caller = self.caller is None or iam.PRINCIPAL.fullmatch(self.caller)
        check(caller, "caller", self.caller, "the ARN of a role or user")
        check(self.timeout_seconds in range(1, 901), "timeout", self.timeout_seconds, "1 to 900 seconds")
        check(self.memory_mb in range(128, 10_241), "memory", self.memory_mb, "128 to 10240 MB")
        check(_RUNTIME.fullmatch(self.runtime), "runtime", self.runtime, "a Python of Lambda, for example python3.12")
        check(self.architecture in ARCHITECTURES, "architecture", self.architecture, " or ".join(ARCHITECTURES))
        check(self.concurrency >= 1, "concurrency", self.concurrency, "at least 1", OURS)
        forms = get_args(Envelope)
        check(self.envelope in (None, *forms), "envelope", self.envelope, " or ".join(forms), OURS)
        for name in self.environment:
            usable = _ENV_NAME.fullmatch(name) and not _RESERVED.match(name)
            check(usable, f"env.{name}", name, "a name of letters, digits and _ that Lambda does not set itself")
        size = sum(map(len, [*self.environment, *self.environment.values()]))
        check(size <= 4096, "env", f"{size} bytes", "at most 4096 bytes in all")
        return found

    @property
    def replies_in(self) -> Envelope:
        """Form of the reply."""
        return self.envelope or ("http" if self.on == "sagemaker" else "list")

    def build(self) -> Built:
        """Check everything, load the reward and build the zip. Raises `ConfigurationError` if anything is wrong."""
        refuse(self.problems(), "the grader cannot be deployed")
        options = {"with_deps": self.with_deps, "runtime": self.runtime, "architecture": self.architecture}
        handler = {"floor": self.floor, "concurrency": self.concurrency, "envelope": self.replies_in}
        return build(self.reward, options, handler)

    def settings(self, role: str) -> dict[str, JSON]:
        """Return the settings of the function that a repeated deployment brings back."""
        return {
            "Runtime": self.runtime,
            "Role": role,
            "Handler": HANDLER,
            "Timeout": self.timeout_seconds,
            "MemorySize": self.memory_mb,
            "Environment": {"Variables": dict(self.environment)},
        }

    def creation(self, role: str) -> dict[str, JSON]:
        """Return what CreateFunction gets, beside the code."""
        about = {"Description": f"Grader: {Path(self.reward).name}"[:256], "Tags": {TAG: self.name}}
        return {"FunctionName": self.name, **self.settings(role), "Architectures": [self.architecture], **about}

    def names(self, built: Built, account: str, region: str) -> iam.Names:
        """Return what the policies of its role are about."""
        models = built.models if self.models is None else self.models
        return iam.Names(account, region, function=self.name, models=models)

    def role_creation(self, region: str, needs: iam.Needs) -> dict[str, JSON]:
        """Return what CreateRole gets."""
        return {
            "RoleName": role_name(self.name, region),
            "AssumeRolePolicyDocument": json.dumps(needs.trust),
            "Description": f"Role of the grader {self.name}",
            "Tags": [{"Key": TAG, "Value": self.name}],
        }


def build(reference: str, options: Mapping[str, Any], handler: Mapping[str, Any]) -> Built:
    """Load a reward and build its zip.

    Args:
        reference: `path/to/file.py:name`.
        options: Of `build_package` only.
        handler: Of `reward_lambda` and `build_package`.

    Raises:
        ConfigurationError: It is no reward of a file, it needs packages that are not in the zip, or Lambda does not
            take the zip.
    """
    reward = load_function(reference, load_object)
    RewardLambda(reward, **handler)  # refuses here what it would refuse in Lambda
    file, _, name = reference.rpartition(":")
    if not file.endswith(".py"):
        raise ConfigurationError(f"{reference!r} is no file. Name the reward as path/to/file.py:name")
    with tempfile.TemporaryDirectory() as folder:
        package = build_package(file, name, Path(folder, "grader.zip"), **handler, **options)
        content = package.path.read_bytes()
    if package.needs:
        hint = "add --with-deps, which puts them into the zip"
        if "strands" in package.needs or "openai" in package.needs:
            hint += ", or give the judge a boto3 client for bedrock-runtime, which Lambda has"
        raise ConfigurationError(f"{file} imports {', '.join(package.needs)}, which Lambda does not have: {hint}")
    built = Built(package, content, tuple(sorted(set(_models(reward)))))
    if not package.fits:
        raise ConfigurationError(f"the zip is too large for Lambda: {built.size}. Import fewer packages")
    return built


def _models(reward: Any) -> Iterator[str]:
    """Yield the ids of the models that judges ask. A function's judges are found in its globals and its closure."""
    for _, part in leaves(reward):
        function = getattr(part, "__func__", part)
        code = getattr(function, "__code__", None)
        known = getattr(function, "__globals__", {})
        cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        names = [known[name] for name in (code.co_names if code else ()) if name in known]
        for item in (part, getattr(part, "__self__", None), *cells, *names):
            if isinstance(item, Judge) and item.model_id:
                yield item.model_id


def sample_event(path: str | Path | None, on: str) -> list[JSON]:
    """Return the first rows of a dataset, or of test cases, as a service sends them to a grader.

    A row that has no answer of the policy is answered with its own reference.

    Args:
        path: The file. None for one row that is made up.
        on: The service. Bedrock's OpenAI-compatible API puts all that it does not know into `metadata`.

    Raises:
        DatasetError: The file cannot be read, or is empty.
        ConfigurationError: A row has no messages.
    """
    if path is None:
        rows = [_MADE_UP]
    else:
        with closing(read_rows(path)) as found:  # type: ignore[type-var] # a generator
            rows = [dict(row) for _, row in islice(found, SAMPLES)]
    return [_event_row(row, number, on) for number, row in enumerate(rows)]


def _event_row(row: Mapping[str, JSON], number: int, on: str) -> dict[str, JSON]:
    more = {key: value for key, value in row.items() if key not in ("id", "messages", "prompt", "answer", "expected")}
    reference = more.setdefault("reference_answer", more.pop("ground_truth", None))
    messages = [*(row.get("messages") or prompt_messages(row.get("prompt")))]
    if not messages:
        raise ConfigurationError(f"row {number + 1} of the sample has neither messages nor prompt: {list(row)}")
    if messages[-1].get("role") not in ASSISTANT_ROLES:
        messages.append({"role": "assistant", "content": row.get("answer") or _text(reference)})
    about = {"metadata": more} if on == "bedrock" else more
    return {"id": str(row.get("id") or f"sample-{number}"), "messages": messages, **about}


def _text(reference: JSON) -> str:
    for key in ("text", "final_answer", "answer"):
        if isinstance(reference, Mapping) and key in reference:
            reference = reference[key]
    return reference if isinstance(reference, str) else json.dumps(reference)
