"""`aws-rft job guard`."""

from __future__ import annotations

import json

import click

from aws_rft_sdk.cli._job_options import endpoint_option, json_option
from aws_rft_sdk.cli._options import usage_errors
from aws_rft_sdk.cli._output import own_stdout
from aws_rft_sdk.errors import CredentialsError, ServiceError, UnavailableError
from aws_rft_sdk.jobs.config import KINDS
from aws_rft_sdk.jobs.guard import jobs_using, regions_of
from aws_rft_sdk.jobs.sagemaker import AgentRFT


@click.command("guard")
@click.argument("agent")
@click.option("--on", default="sagemaker", show_default=True, type=click.Choice(["sagemaker"]), help="The service.")
@click.option("--region", help="AWS region.  [default: that of the ARN; for an id or a name, all with jobs]")
@endpoint_option
@json_option
@click.pass_context
@usage_errors
def guard_command(
    ctx: click.Context, agent: str, on: str, region: str | None, endpoint: str | None, as_json: bool
) -> None:
    """Say whether a job uses AGENT now, before it is redeployed. A redeployment would fail the job.

    AGENT is the ARN, id or name of an AgentCore runtime, or the ARN or name of a Lambda function. Its qualifier or
    alias does not matter. Trainings and evaluations count.

    Exit status: 0 if no job uses AGENT, 1 if one does, 3 if SageMaker cannot be asked, 2 for bad usage.
    """
    asked = (region,) if region else regions_of(agent)
    if endpoint and len(asked) > 1:  # a stand-in is in one region
        asked = (KINDS["sagemaker"].region(),)
    try:
        found = [job for name in asked for job in jobs_using(agent, AgentRFT(name, endpoint_url=endpoint))]
    except (CredentialsError, ServiceError) as error:
        raise UnavailableError(f"It is not known whether a job uses {agent}. {error}") from error
    if as_json:
        rows = [{"job": job.id, "arn": job["JobArn"], "status": job.status} for job in found]
        click.echo(json.dumps({"agent": agent, "regions": list(asked), "jobs": rows}, indent=2), file=own_stdout())
    else:
        for job in found:
            click.echo(f"{job.id} ({job['JobCategory']}) is {job.status} and uses this agent", file=own_stdout())
        said = "Do not deploy it now." if found else f"No job in {' or '.join(asked)} uses it."
        click.echo(said, file=own_stdout())
    ctx.exit(1 if found else 0)
