"""What a grader is, before and after it is deployed. Nothing here calls AWS."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import JobConfigError
from aws_rft_sdk.jobs import iam
from aws_rft_sdk.jobs._cloud import TAG, role_name
from aws_rft_sdk.jobs._grader_package import Built, build
from aws_rft_sdk.jobs.types import Problem, Request
from aws_rft_sdk.rewards.lambdas import CONCURRENCY, Envelope
from aws_rft_sdk.rewards.packaging import HANDLER, RUNTIME

SERVICES = ("bedrock", "nova", "sagemaker")
ARCHITECTURES = ("x86_64", "arm64")
POLICY = "aws-rft-grader"
"""Name of the role's one policy."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ROLE = re.compile(r"arn:[\w-]+:iam::\d{12}:role/[\w+=,.@/-]+")
_CALLER = re.compile(r"arn:[\w-]+:(iam::\d{12}:(role|user)|sts::\d{12}:assumed-role)/.+")
_RUNTIME = re.compile(r"python3\.\d+")
_ENV_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]+")
_RESERVED = re.compile(
    r"_HANDLER$|_X_AMZN|LAMBDA_TASK_ROOT|AWS_(REGION|DEFAULT_REGION|ACCESS_KEY|SECRET|SESSION|LAMBDA_)"
)
_LAMBDA_API = "AWS Lambda API, CreateFunction"


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
                found.append(Problem(path, value, f"it must be {rule}", source))

        check(_NAME.fullmatch(self.name), "name", self.name, "1 to 64 letters, digits, - or _")
        named = self.on != "sagemaker" or re.search("[Ss]age[Mm]aker", self.name)
        check(named, "name", self.name, "a name that contains SageMaker, or the job fails", "Amazon Nova on SageMaker")
        check(self.on in SERVICES, "on", self.on, f"one of {', '.join(SERVICES)}", "this package")
        check(self.role is None or _ROLE.fullmatch(self.role), "role", self.role, "the ARN of a role")
        check(self.caller is None or _CALLER.fullmatch(self.caller), "caller", self.caller, "the ARN of a role or user")
        check(self.timeout_seconds in range(1, 901), "timeout", self.timeout_seconds, "1 to 900 seconds")
        check(self.memory_mb in range(128, 10_241), "memory", self.memory_mb, "128 to 10240 MB")
        check(_RUNTIME.fullmatch(self.runtime), "runtime", self.runtime, "a Python of Lambda, for example python3.12")
        check(self.architecture in ARCHITECTURES, "architecture", self.architecture, " or ".join(ARCHITECTURES))
        check(self.concurrency >= 1, "concurrency", self.concurrency, "at least 1", "this package")
        forms = get_args(Envelope)
        check(self.envelope in (None, *forms), "envelope", self.envelope, " or ".join(forms), "this package")
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
        if found := self.problems():
            lines = [f"{item.path} is {item.value!r:.100}: {item.rule} ({item.source})" for item in found]
            raise JobConfigError("the grader cannot be deployed:\n" + "\n".join(lines), problems=tuple(found))
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


@dataclass(frozen=True)
class Deployment:
    """A grader that is deployed and has answered.

    Attributes:
        arn: Of the function.
        role: ARN of its role.
        scores: What it gave to the rows that it was tried with, in order.
        changes: What was created or changed, in order; empty if all was as it should be.
        statement: IAM statement that whoever calls the function needs.
    """

    arn: str
    role: str
    scores: tuple[float, ...]
    changes: tuple[str, ...]
    statement: Mapping[str, JSON]


def put_policy(role: str, needs: iam.Needs) -> Request:
    """Return the call that writes the policy of a role."""
    document = json.dumps(needs.to_json()["policy"])
    return Request("iam", "PutRolePolicy", {"RoleName": role, "PolicyName": POLICY, "PolicyDocument": document})
