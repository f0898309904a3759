"""`aws-rft iam`."""

from __future__ import annotations

import json
from typing import Any, get_args

import click

from aws_rft_sdk.cli._job_options import place_options
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs._cloud import Cloud
from aws_rft_sdk.jobs._iam_check import Comparison, Principal, compare
from aws_rft_sdk.jobs.iam import Audience, Names, Needs, needs_of

_NARROWING = {
    "caller": ("function",),
    "caller of nova": ("function", "bucket", "role"),
    "caller of sagemaker": ("bucket", "role", "mlflow", "agent"),
    "agent": ("models",),
    "job-role": ("function", "bucket"),
    "job-role of sagemaker": ("bucket", "mlflow", "agent"),
    "grader": ("function",),
    "forwarder": ("function",),
}
"""What has to be named, or the policy has a wildcard in its place."""
_OPTION_OF = {"models": "model", "role": "job-role"}


@click.group("iam")
def command() -> None:
    """Print the IAM policies of everybody who takes part in a job, and check who lacks what.

    The caller submits and follows jobs. The agent serves rollouts of multi-turn jobs. The service runs a Nova job, or a
    job on SageMaker, as the job-role. The grader and the forwarder are the roles of the two Lambda functions.
    """


_OPTIONS = (
    click.option("--for", "audience", required=True, type=click.Choice(get_args(Audience)), help="Whose policies."),
    click.option(
        "--on",
        default="bedrock",
        show_default=True,
        type=click.Choice(["bedrock", "nova", "sagemaker"]),
        help="The service of the jobs.",
    ),
    click.option("--account", help="Id of the account.  [default: that of the credentials]"),
    click.option("--function", help="Name or ARN of the Lambda function."),
    click.option("--bucket", help="S3 bucket of data and output."),
    click.option("--model", "models", multiple=True, help="Bedrock model that is called: an id or an ARN."),
    click.option("--queue", metavar="ARN", help="SQS queue that the forwarder sends to."),
    click.option("--job-role", "role", metavar="ARN", help="Role that the caller passes to the service."),
    click.option("--agent", metavar="ARN", help="AgentCore runtime, of jobs on SageMaker."),
    click.option("--mlflow", metavar="ARN", help="MLflow app, of jobs on SageMaker."),
    click.option("--kms-key", metavar="ARN", help="Key for the output, of jobs on SageMaker."),
    click.option("--vpc", is_flag=True, help="Jobs on SageMaker run in a network of yours."),
)


def _names_options(fn: Any) -> Any:
    for option in reversed(_OPTIONS):
        fn = option(fn)
    return place_options(fn)


@command.command("show")
@_names_options
@usage_errors
def show(audience: str, on: str, region: str | None, endpoint: str | None, as_json: bool, **named: Any) -> None:
    """Print the permissions policy and, for a role, the trust policy. Works without credentials with --account."""
    _, names, needs = _needs(audience, on, region, endpoint, named)
    for option in _wildcards(audience, on, names):
        click.echo(f"note: pass --{option} to narrow the policy down", err=True)
    if as_json:
        click.echo(json.dumps(needs.to_json(), indent=2))
        return
    for title, document in needs.to_json().items():
        click.echo(f"{'trust policy' if title == 'trust' else 'permissions policy'} of the {audience}:")
        click.echo(json.dumps(document, indent=2))


@command.command("check")
@_names_options
@click.option("--role", "--principal", "principal", required=True, metavar="ARN", help="Role or user to look at.")
@click.pass_context
@usage_errors
def check(
    ctx: click.Context,
    /,
    audience: str,
    on: str,
    region: str | None,
    endpoint: str | None,
    as_json: bool,
    principal: str,
    **named: Any,
) -> None:
    """Compare what is needed with the policies of a role or user. Exit status: 0 when all is there, 1 when not.

    Reads inline and attached policies, and asks IAM to simulate them where that is allowed. Changes nothing.
    """
    who = Principal.of(principal)
    named["account"] = named["account"] or who.arn.split(":")[4]
    cloud, names, needs = _needs(audience, on, region, endpoint, named)
    if lacking := _wildcards(audience, on, names):
        raise ConfigurationError(f"a check needs --{' and --'.join(lacking)}")
    found = compare(needs, who, cloud.client("iam"), with_trust=audience != "agent")
    if as_json:
        missing = [gap._asdict() for gap in found.missing]
        head = {"principal": who.arn, "for": audience, "missing": missing}
        click.echo(json.dumps({**head, "simulated": found.simulated, "notes": list(found.notes)}, indent=2))
    else:
        _print(found, who.arn)
    ctx.exit(1 if found.missing else 0)


def _needs(
    audience: str, on: str, region: str | None, endpoint: str | None, named: dict[str, Any]
) -> tuple[Cloud, Names, Needs]:
    cloud = Cloud(region, None, endpoint)
    account = named.pop("account") or cloud.account()
    names = Names(account=account, region=cloud.region, **named)
    return cloud, names, needs_of(audience, names, on)


def _wildcards(audience: str, on: str, names: Names) -> list[str]:
    """Return the options that would narrow the policy down."""
    wanted = _NARROWING.get(f"{audience} of {on}", _NARROWING[audience])
    lacking = [name for name in wanted if not getattr(names, name)]
    if names.function and on == "sagemaker":  # it forwards to the agent, so that there is no runtime
        lacking = [name for name in lacking if name != "agent"]
    return [_OPTION_OF.get(name, name) for name in lacking]


def _print(found: Comparison, principal: str) -> None:
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    for gap in found.missing:
        click.echo(f"missing: {gap.action} on {gap.resource}: {gap.why}")
        click.echo(f"  grant it with {json.dumps(gap.statement)}")
    asked = "IAM's simulation" if found.simulated else "the policies as they are written"
    click.echo(f"{principal} {'lacks what is listed above' if found.missing else 'has all it needs'}, by {asked}")
