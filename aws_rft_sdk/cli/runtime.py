"""`aws-rft runtime`."""

from __future__ import annotations

from typing import Any

import click

from aws_rft_sdk.cli._options import limit_options, usage_errors
from aws_rft_sdk.cli._output import own_stdout, user_code_prints_to_stderr
from aws_rft_sdk.rollout.policies import POLICY_HELP, parse_policy
from aws_rft_sdk.runtime import Faults, LocalRuntime, RolloutLimits

_HOW_TO = """\
job runtime at {endpoint} (Ctrl-C stops it)

  run a handler against it   aws-rft rollout HANDLER DATASET --endpoint {endpoint}
  point an agent at it       export RFT_RUNTIME_ENDPOINT={endpoint}
  point an OpenAI client     base_url={endpoint}/v1
"""


@click.command("runtime")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 for a free one.")
@click.option("--db", default=":memory:", show_default=True, help="SQLite file that turns are captured in.")
@click.option("--policy", help=POLICY_HELP)
@click.option(
    "--auth",
    default="any",
    show_default=True,
    type=click.Choice(["any", "sigv4", "bearer", "none"]),
    help="any: verify what is presented, let unsigned requests pass.",
)
@click.option(
    "--faults", type=click.Path(exists=True, dir_okay=False), help="TOML file with trouble to make on purpose."
)
@click.option("--strict/--lenient", default=True, show_default=True, help="Refuse what the service might not accept.")
@click.option(
    "--client-tokens/--no-client-tokens",
    default=True,
    show_default=True,
    help="Let a repeated feedback call with the same client token succeed.",
)
@limit_options
@user_code_prints_to_stderr()
@usage_errors
def command(
    port: int,
    db: str,
    policy: str | None,
    auth: str,
    faults: str | None,
    strict: bool,
    client_tokens: bool,
    **limits: Any,
) -> None:
    """Serve a local stand-in for the job runtime on 127.0.0.1.

    It answers inference from a policy, records every turn under its trajectory, and takes completion and reward.
    """
    answering = parse_policy(policy) if policy else None
    runtime = LocalRuntime(
        answering,
        db=db,
        auth=auth,  # type: ignore[arg-type] # click checked the choice
        strict=strict,
        port=port,
        faults=Faults.from_toml(faults) if faults else None,
        limits=RolloutLimits(**limits),
        client_tokens=client_tokens,
    )
    runtime.serve_forever(lambda: click.echo(_HOW_TO.format(endpoint=runtime.endpoint), file=own_stdout()))
