"""`aws-rft reward deploy` and `undeploy`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, get_args

import click

from aws_rft_sdk.cli._job_options import place_options
from aws_rft_sdk.cli._options import finite, usage_errors
from aws_rft_sdk.cli._output import own_stdout, user_code_prints_to_stderr
from aws_rft_sdk.jobs import graders
from aws_rft_sdk.jobs._grader import ARCHITECTURES, SERVICES
from aws_rft_sdk.rewards.lambdas import CONCURRENCY, Envelope
from aws_rft_sdk.rewards.packaging import RUNTIME


def _variable(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if any(not separator for _, separator, _ in pairs):
        raise click.BadParameter("expected NAME=VALUE", ctx, option)  # the text may be a secret
    return {name: value for name, _, value in pairs}


@click.command("deploy")
@click.argument("reward")
@click.option("--name", required=True, help="Name of the function.")
@click.option("--on", default="bedrock", show_default=True, type=click.Choice(SERVICES), help="Service that calls it.")
@click.option("--role", metavar="ARN", help="Role of the function.  [default: one is made]")
@click.option("--with-deps", is_flag=True, help="Add the packages that Lambda lacks, as pip installs them for Lambda.")
@click.option(
    *("--sample", "--cases", "samples"),
    type=click.Path(exists=True, dir_okay=False),
    help="Dataset or test cases. The function is tried with the first 4 rows.  [default: a made-up row]",
)
@click.option("--model", "models", multiple=True, help="Bedrock model that it may call.  [default: those of judges]")
@click.option("--caller", metavar="ARN", help="Role or user that the function lets call it.")
@click.option("--timeout", "timeout_seconds", default=300, show_default=True, help="Seconds of one invocation.")
@click.option("--memory", "memory_mb", default=512, show_default=True, help="MB. Processor time grows with it.")
@click.option("--env", "environment", multiple=True, metavar="NAME=VALUE", callback=_variable, help="Variable.")
@click.option("--runtime", default=RUNTIME, help="Python of Lambda.  [default: the version that runs this command]")
@click.option(
    "--architecture", default=ARCHITECTURES[0], show_default=True, type=click.Choice(ARCHITECTURES), help="Processor."
)
@click.option("--floor", default=0.0, show_default=True, callback=finite, help="Score of a row that cannot be judged.")
@click.option("--concurrency", default=CONCURRENCY, show_default=True, help="Rows of one invocation at once.")
@click.option(
    "--envelope",
    type=click.Choice(get_args(Envelope)),
    help="Form of the reply.  [default: http on sagemaker, else list]",
)
@place_options
@user_code_prints_to_stderr()
@usage_errors
def deploy(
    samples: str | None, region: str | None, endpoint: str | None, as_json: bool, models: tuple[str, ...], **fields: Any
) -> None:
    """Make a Lambda function of REWARD, which is path/to/file.py:name, and try it. Safe to repeat.

    Creates the function and a role that may write its log and call the judge's model, or brings both back to what they
    are to be. Each thing is printed as it is created. After a failure the command that removes them is printed.
    """
    grader = graders.Grader(**fields, models=models or None)
    say = _say(as_json)
    done = graders.deploy(grader, samples=samples, region=region, endpoint_url=endpoint, say=say)
    if as_json:
        click.echo(json.dumps(asdict(done), indent=2), file=own_stdout())
        return
    say(f"deployed {done.arn}")
    if not grader.caller:
        say(f"whoever calls it needs this statement: {json.dumps(done.statement)}")


@click.command("undeploy")
@click.argument("name")
@place_options
@usage_errors
def undeploy(name: str, region: str | None, endpoint: str | None, as_json: bool) -> None:
    """Remove the function NAME and its role, if `deploy` has made them. Its logs stay."""
    removed = graders.undeploy(name, region=region, endpoint_url=endpoint, say=_say(as_json))
    if as_json:
        click.echo(json.dumps({"removed": removed}), file=own_stdout())
    elif not removed:
        click.echo(f"there is nothing to remove: neither a function {name} nor its role is there")


def _say(as_json: bool) -> Callable[[str], None]:
    """Return what prints progress: to stdout, or to stderr if stdout is for JSON."""
    return lambda text: click.echo(text, file=None if as_json else own_stdout(), err=as_json)
