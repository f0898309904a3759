"""Graders: rewards as Lambda functions, with a role of their own that may do nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, JobServiceError, RewardError, ServiceTimeoutError
from aws_rft_sdk.jobs import iam
from aws_rft_sdk.jobs._cloud import Cloud, role_name
from aws_rft_sdk.jobs._grader import Built, Grader, sample_event
from aws_rft_sdk.jobs._iam_check import Principal
from aws_rft_sdk.jobs.types import Request
from aws_rft_sdk.rewards.lambdas import check_reply, reply_rows

__all__ = ["Deployment", "Grader", "deploy", "plan_deploy", "undeploy"]

logger = logging.getLogger(__name__)

POLICY = "aws-rft-grader"
"""Name of the role's one policy."""
_CALLER = "aws-rft-caller"
"""Id of the statement that lets a caller in."""
_ROLE_DELAYS = (1.0, 2.0, 4.0, *[8.0] * 7)
"""Waits for a new role to be known everywhere, 63 s in all. AWS says that this takes seconds."""
_POLLS = 120
"""How often, once a second, we look whether the function is ready."""

Say = Callable[[str], None]


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


def plan_deploy(grader: Grader, *, region: str, account: str = "ACCOUNT") -> list[Request]:
    """Return the calls that a first deployment makes, in order. Nothing is sent. Values of variables are masked.

    Raises:
        ConfigurationError: Something is wrong with the grader.
    """
    built = grader.build()
    names = grader.names(built, account, region)
    needs = iam.needs_of("grader", names)
    name = role_name(grader.name, region)
    role = grader.role or f"arn:{names.partition}:iam::{account}:role/{name}"
    masked = {"Environment": {"Variables": dict.fromkeys(grader.environment, "***")}}
    zip_file = {"Code": {"ZipFile": f"{built.package.zip_bytes} bytes, {len(built.package.files)} files"}}
    roles = [Request("iam", "CreateRole", grader.role_creation(region, needs)), _put_policy(name, needs)]
    return [
        *([] if grader.role else roles),
        Request("lambda", "CreateFunction", {**grader.creation(role), **masked, **zip_file}),
        Request("lambda", "Invoke", {"FunctionName": grader.name}),
    ]


def deploy(
    grader: Grader,
    *,
    samples: str | Path | None = None,
    region: str | None = None,
    session: Any = None,
    endpoint_url: str | None = None,
    say: Say = logger.info,
    sleep: Callable[[float], None] = time.sleep,
) -> Deployment:
    """Create a grader or bring it up to date, and try it. Safe to repeat.

    Args:
        grader: As it is to be.
        samples: A dataset, or cases of `aws-rft reward test`; its first 4 rows are scored. None for a made-up row.
        region: None for that of the session.
        session: A boto3 session; None for boto3's usual credentials.
        endpoint_url: None for AWS.
        say: Is told each thing as it is created or changed. After a failure, what exists and how to remove it.
        sleep: Waits for some seconds.

    Raises:
        ConfigurationError: Something is wrong with the grader, or a function or role of this name is not ours.
        ServiceError: AWS refused a call, or the function does not become ready.
        RewardError: The function failed, or its reply is not what the service expects.
    """
    built = grader.build()
    say(f"built the zip: {built.size}")
    event = sample_event(samples, grader.on)
    cloud = Cloud(region, session, endpoint_url)
    work = _Deploying(grader, built, cloud, say, sleep)
    try:
        return work.run(event, is_made_up=samples is None)
    except BaseException:
        if work.exists:
            say(f"stopped half-way; these exist: {', '.join(work.exists)}. Remove them: {cloud.undeploy(grader.name)}")
        raise


def undeploy(
    name: str,
    *,
    region: str | None = None,
    session: Any = None,
    endpoint_url: str | None = None,
    say: Say = logger.info,
) -> list[str]:
    """Remove a function that `deploy` has made, and its role. Safe to repeat, also after a deployment that failed.

    Their tags tell whether they are ours. Nothing is removed if one of them is not. The function's logs stay.

    Args:
        name: Of the function.
        region: None for that of the session.
        session: A boto3 session; None for boto3's usual credentials.
        endpoint_url: None for AWS.
        say: Is told each thing as it is removed.

    Returns:
        The ARNs of what was removed; empty if there was nothing.

    Raises:
        ConfigurationError: A function of this name was not made by `deploy`, or its role has policies of others.
        ServiceError: AWS refused a call.
    """
    cloud = Cloud(region, session, endpoint_url)
    function, role = cloud.own_function(name), cloud.own_role(name)
    removed = []
    if role:
        own = {"RoleName": role["RoleName"]}
        inline = cloud.call("iam", "ListRolePolicies", role["Arn"], **own)["PolicyNames"]
        attached = cloud.call("iam", "ListAttachedRolePolicies", role["Arn"], **own)["AttachedPolicies"]
        if others := sorted({*inline} - {POLICY} | {item["PolicyName"] for item in attached}):
            raise ConfigurationError(
                f"the role {role['RoleName']} has policies that aws-rft did not make: {', '.join(others)}. Nothing was "
                "removed. Detach or delete them, then run this again"
            )
    if function:
        arn = function["Configuration"]["FunctionArn"]
        cloud.call("lambda", "DeleteFunction", arn, FunctionName=name)
        removed.append(arn)
        say(f"removed function {arn}")
    if role:
        for policy in inline:
            cloud.call("iam", "DeleteRolePolicy", role["Arn"], PolicyName=policy, **own)
        cloud.call("iam", "DeleteRole", role["Arn"], **own)
        removed.append(role["Arn"])
        say(f"removed role {role['Arn']}")
    return removed


def _put_policy(role: str, needs: iam.Needs) -> Request:
    """Return the call that writes the policy of a role."""
    document = json.dumps(needs.to_json()["policy"])
    return Request("iam", "PutRolePolicy", {"RoleName": role, "PolicyName": POLICY, "PolicyDocument": document})


class _Deploying:
    """One deployment on its way."""

    def __init__(self, grader: Grader, built: Built, cloud: Cloud, say: Say, sleep: Callable[[float], None]) -> None:
        self._grader = grader
        self._built = built
        self._cloud = cloud
        self._say = say
        self._sleep = sleep
        self._changes: list[str] = []
        self.exists: list[str] = []

    def run(self, event: list[JSON], *, is_made_up: bool) -> Deployment:
        grader, cloud = self._grader, self._cloud
        found = cloud.own_function(grader.name)
        names = grader.names(self._built, cloud.account(), cloud.region)
        role = grader.role or self._role(names)
        if grader.role:
            models = "".join(f" --model {model}" for model in names.models)
            show = f"aws-rft iam show --for grader --function {grader.name}{models} --region {cloud.region}"
            self._say(f"the role {role} is left as it is; this prints what it needs: {show}")
        if found is None:
            arn = self._create(role)
        else:
            arn = found["Configuration"]["FunctionArn"]
            self.exists.append(f"function {arn}")
            self._update(found["Configuration"], role)
        self._wait()
        if grader.caller:
            self._let_in(grader.caller, arn)
        scores = self._try(event, arn, is_made_up)
        return Deployment(arn, role, scores, tuple(self._changes), iam.invoke_function(names))

    def _changed(self, what: str) -> None:
        self._changes.append(what)
        self._say(what)

    def _role(self, names: iam.Names) -> str:
        cloud, needs = self._cloud, iam.needs_of("grader", names)
        name = role_name(self._grader.name, cloud.region)
        role = cloud.own_role(self._grader.name)
        if role is None:
            creation = self._grader.role_creation(cloud.region, needs)
            role = cloud.call("iam", "CreateRole", name, **creation)["Role"]
            self._changed(f"created role {role['Arn']}")
        elif role["AssumeRolePolicyDocument"] != needs.trust:
            trust = json.dumps(needs.trust)
            cloud.call("iam", "UpdateAssumeRolePolicy", name, RoleName=name, PolicyDocument=trust)
            self._changed(f"brought back the trust policy of role {name}")
        arn: str = role["Arn"]
        self.exists.append(f"role {arn}")
        put = _put_policy(name, needs)
        found = cloud.find("iam", "GetRolePolicy", name, RoleName=name, PolicyName=POLICY)
        if found is None or found["PolicyDocument"] != json.loads(put.parameters["PolicyDocument"]):
            cloud.call(put.service, put.operation, arn, **put.parameters)
            self._changed(f"wrote the policy {POLICY} of role {name}")
        return arn

    def _create(self, role: str) -> str:
        name = self._grader.name
        creation = {**self._grader.creation(role), "Code": {"ZipFile": self._built.zip_file}}
        arn: str = self._while_role_spreads("CreateFunction", name, creation)["FunctionArn"]
        self.exists.append(f"function {arn}")
        self._changed(f"created function {arn}")
        return arn

    def _update(self, found: Mapping[str, Any], role: str) -> None:
        name, code = self._grader.name, self._built.zip_file
        self._wait()
        digest = base64.b64encode(hashlib.sha256(code).digest()).decode()
        wanted_on = [self._grader.architecture]
        if found["CodeSha256"] != digest or found.get("Architectures", ["x86_64"]) != wanted_on:
            more = {"ZipFile": code, "Architectures": wanted_on}
            self._cloud.call("lambda", "UpdateFunctionCode", name, FunctionName=name, **more)
            self._changed(f"updated the code of function {name}")
            self._wait()
        wanted = self._grader.settings(role)
        there = {**found, "Environment": {"Variables": found.get("Environment", {}).get("Variables", {})}}
        if drifted := {key: value for key, value in wanted.items() if there.get(key) != value}:
            self._while_role_spreads("UpdateFunctionConfiguration", name, {"FunctionName": name, **drifted})
            told = [
                key if key == "Environment" else f"{key} from {there.get(key)} to {drifted[key]}" for key in drifted
            ]
            self._changed(f"brought back {', '.join(told)} of function {name}")

    def _while_role_spreads(self, operation: str, name: str, parameters: Mapping[str, JSON]) -> Any:
        """Call Lambda until it knows a role that IAM has just made. A role of the user's own is there or is not."""
        delays = iter(() if self._grader.role else _ROLE_DELAYS)
        while True:
            try:
                return self._cloud.call("lambda", operation, name, **parameters)
            except JobServiceError as error:
                # Only the text tells this from other values that are refused: the code is the same.
                delay = next(delays, None) if "cannot be assumed" in error.body else None
                if delay is None:
                    raise
                self._say(f"Lambda cannot use the role yet, next try in {delay:g} s")
                self._sleep(delay)

    def _wait(self) -> None:
        """Wait until the function can be changed and called."""
        name = self._grader.name
        for _ in range(_POLLS):
            found = self._cloud.call("lambda", "GetFunctionConfiguration", name, FunctionName=name)
            states = found.get("State", "Active"), found.get("LastUpdateStatus", "Successful")
            if "Failed" in states:
                reason = found.get("StateReason") or found.get("LastUpdateStatusReason") or "no reason was given"
                raise JobServiceError(f"the function {name} is not ready: {reason}", action="lambda:GetFunction")
            if states[0] in ("Active", "Inactive") and states[1] == "Successful":
                return
            self._sleep(1.0)
        raise ServiceTimeoutError(f"the function {name} was not ready after {_POLLS} s; run this again")

    def _let_in(self, caller: str, arn: str) -> None:
        name, cloud, caller = self._grader.name, self._cloud, Principal.of(caller).arn
        found = cloud.find("lambda", "GetPolicy", arn, FunctionName=name)
        there = json.loads(found["Policy"])["Statement"] if found else []
        mine = next((item for item in there if item["Sid"] == _CALLER), None)
        if mine and f'"{caller}"' in json.dumps(mine["Principal"]):
            return
        if mine:
            cloud.call("lambda", "RemovePermission", arn, FunctionName=name, StatementId=_CALLER)
        permission = {"StatementId": _CALLER, "Action": "lambda:InvokeFunction", "Principal": caller}
        cloud.call("lambda", "AddPermission", arn, FunctionName=name, **permission)
        self._changed(f"let {caller} call function {name}")

    def _try(self, event: list[JSON], arn: str, is_made_up: bool) -> tuple[float, ...]:
        """Call the function, check its reply, and return the scores."""
        payload = json.dumps(event)
        answer = self._cloud.call("lambda", "Invoke", arn, FunctionName=self._grader.name, Payload=payload)
        text = answer["Payload"].read()
        try:
            reply = json.loads(text)
        except ValueError:
            raise RewardError(f"the function's reply is no JSON: {text[:200]!r}") from None
        if answer.get("FunctionError"):
            said = reply if isinstance(reply, Mapping) else {}
            raise RewardError(f"the function failed: {said.get('errorType')}: {said.get('errorMessage'):.1000}")
        problems = check_reply(event, reply)
        if (self._grader.replies_in == "http") != (isinstance(reply, Mapping) and "statusCode" in reply):
            problems.append(
                f"the reply is not in the form {self._grader.replies_in!r}, which {self._grader.on} expects"
            )
        if problems:
            raise RewardError(f"the function's reply is wrong: {'; '.join(problems[:5])}")
        rows: Any = reply_rows(reply)
        unscored = [row["id"] for row in rows if any(map(_is_unscored, row.get("metrics_list") or []))]
        if len(unscored) == len(rows) and not is_made_up:
            raise RewardError(f"the function could score none of the {len(rows)} sample rows; its log says why")
        scores = tuple(float(row["aggregate_reward_score"]) for row in rows)
        what = "a made-up row" if is_made_up else f"{len(rows)} rows"
        cannot = f"; it cannot judge {', '.join(map(str, unscored))}" if unscored and not is_made_up else ""
        self._say(
            f"called function {self._grader.name} with {what}: scores {', '.join(f'{s:g}' for s in scores)}{cannot}"
        )
        return scores


def _is_unscored(metric: Mapping[str, JSON]) -> bool:
    return bool(metric["name"] == "unscored" and metric["value"] == 1.0)
