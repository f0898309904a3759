"""Graders: rewards as Lambda functions, with a role of their own that may do nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs import iam
from aws_rft_sdk.jobs._cloud import Cloud, role_name
from aws_rft_sdk.jobs._deploying import Deploying, Say
from aws_rft_sdk.jobs._grader import POLICY, Deployment, Grader, put_policy
from aws_rft_sdk.jobs._grader_package import sample_event
from aws_rft_sdk.jobs.types import Request

__all__ = ["Deployment", "Grader", "deploy", "plan_deploy", "undeploy"]

logger = logging.getLogger(__name__)


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
    roles = [Request("iam", "CreateRole", grader.role_creation(region, needs)), put_policy(name, needs)]
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
    work = Deploying(grader, built, cloud, say, sleep)
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
