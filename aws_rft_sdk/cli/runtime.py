"""`aws-rft runtime`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from aws_rft_sdk._loading import load_function, load_object
from aws_rft_sdk.cli._options import limit_options, usage_errors
from aws_rft_sdk.cli._output import own_stdout, user_code_prints_to_stderr
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout.policies import POLICY_HELP, parse_policy
from aws_rft_sdk.runtime import Faults, LocalBedrock, LocalJobs, LocalRuntime, Policy, RolloutLimits, Trainer
from aws_rft_sdk.runtime.capture import CAPTURES
from aws_rft_sdk.runtime.http_server import HOST
from aws_rft_sdk.settings import RUNTIME_KEY_VARIABLE, check_key, runtime_key
from aws_rft_sdk.training import arithmetic
from aws_rft_sdk.training.softmax import SoftmaxTrainer

_HOW_TO = """\
job runtime at {endpoint} (Ctrl-C stops it)

  run a handler against it   aws-rft rollout HANDLER DATASET --endpoint {endpoint}
  point an agent at it       export RFT_RUNTIME_ENDPOINT={endpoint}
  point an OpenAI client     base_url={endpoint}/v1
  look at its rollouts       {endpoint}/{query}
"""
_HOW_TO_KEY = f"  give all of them the key   export {RUNTIME_KEY_VARIABLE}=... (the API key of an OpenAI client)"
_HOW_TO_BEDROCK = """\
Bedrock fine-tuning at {endpoint} (Ctrl-C stops it)

  run a job                  aws-rft job submit JOB.toml --endpoint {endpoint}
  point an OpenAI client     base_url={endpoint}/v1
  point boto3's Lambda       endpoint_url={endpoint}
"""
_HOW_TO_JOBS = """\
SageMaker's multi-turn RL jobs at {endpoint} (Ctrl-C stops it)

  write a job                aws-rft job init --on sagemaker --out JOB.toml
  run it                     aws-rft job submit JOB.toml --endpoint {endpoint}
  follow it                  aws-rft job watch NAME --on sagemaker --endpoint {endpoint}
  point boto3                endpoint_url={endpoint}
  look at its rollouts       {runtime}/
"""
_COUNTS_FOR = {
    **dict.fromkeys(("services", "port", "db", "policy", "auth", "faults"), ("job", "bedrock", "jobs")),
    **dict.fromkeys(("functions", "trainer"), ("bedrock", "jobs")),
    **dict.fromkeys(("handler", "agent_url", "speed", "concurrency"), ("jobs",)),
}
"""The choices of --services that an option counts for. Options that are absent count for `job`."""
_SOFTMAX = "softmax-arithmetic"
_PEM_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("runtime")
@click.option(
    "--services",
    default="job",
    show_default=True,
    type=click.Choice(["job", "bedrock", "jobs"]),
    help="job: the job runtime. bedrock: fine-tuning on Bedrock's OpenAI-compatible API, and Lambda's Invoke. "
    "jobs: SageMaker's multi-turn RL jobs.",
)
@click.option("--host", default=HOST, show_default=True, help="Address to listen on; 0.0.0.0 for other machines.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 for a free one.")
@click.option("--key", help=f"Callers must present it. Others see it in the process list; see {RUNTIME_KEY_VARIABLE}.")
@click.option("--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File with the key.")
@click.option("--certfile", type=_PEM_FILE, help="Certificate (PEM), to serve https.")
@click.option("--keyfile", type=_PEM_FILE, help="Private key of the certificate (PEM).")
@click.option("--public-url", help="URL that agents reach this runtime by.  [default: made from host and port]")
@click.option("--db", default=":memory:", show_default=True, help="SQLite file that turns are captured in.")
@click.option(
    "--capture",
    default="full",
    show_default=True,
    type=click.Choice(CAPTURES),
    help="full: all requests and answers. last: each conversation once. none: turns, token counts and rewards only.",
)
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
@click.option(
    "--function",
    "functions",
    multiple=True,
    metavar="[NAME=]FILE.py:HANDLER",
    help="bedrock: Lambda handler that graders' ARNs and Invoke find by this name or ARN. Repeatable. jobs: the agent, "
    "as a Lambda handler that forwards rollouts.",
)
@click.option(
    "--trainer",
    metavar=f"{_SOFTMAX}|FILE.py:NAME",
    help="bedrock, jobs: lets jobs learn. A trainer, or a function that makes one. Without --policy it also answers "
    f"for base models. {_SOFTMAX}: the small policy of `aws-rft demo`.",
)
@click.option("--handler", metavar="FILE.py:HANDLER", help="jobs: the agent, as a decorated handler.")
@click.option("--agent-url", metavar="URL", help="jobs: the agent, as a running `aws-rft worker http`.")
@click.option("--speed", default=1.0, show_default=True, help="jobs: the service's clocks run so much faster.")
@click.option("--concurrency", type=int, help="jobs: rollouts at a time.  [default: the job's own]")
@limit_options
@user_code_prints_to_stderr()
@usage_errors
def command(
    services: str,
    policy: str | None,
    faults: str | None,
    key: str | None,
    key_file: Path | None,
    functions: tuple[str, ...],
    trainer: str | None,
    **options: Any,
) -> None:
    """Serve a local stand-in for the job runtime, for fine-tuning on Bedrock, or for multi-turn RL jobs on SageMaker.

    The job runtime answers inference from a policy, records every turn under its trajectory, and takes completion and
    reward. To be reached from other machines it needs a key: --key-file, RFT_RUNTIME_KEY in the environment, or --key.

    With --services bedrock jobs really run: they sample the policy, call the function that the job names, and learn if
    there is a --trainer. Of the options only --port, --db, --policy, --auth, --faults, --function and --trainer count
    then.

    With --services jobs they also really run: they call the agent for each rollout, serve it the policy, take its
    rewards, and learn if there is a --trainer. The agent is one of --handler, --agent-url and --function. --speed and
    --concurrency count, too.
    """
    _refuse_ignored(services)
    answering = parse_policy(policy) if policy else None
    trouble = Faults.from_toml(faults) if faults else None
    if services == "bedrock":
        _serve_bedrock(answering, trouble, functions, trainer, options)
        return
    if services == "jobs":
        _serve_jobs(answering, trouble, functions, trainer, options)
        return
    for name in ("handler", "agent_url", "speed", "concurrency"):
        del options[name]
    key = _read_key(key, key_file)
    limits = RolloutLimits(**{name: options.pop(name) for name in RolloutLimits.__dataclass_fields__})
    runtime = LocalRuntime(answering, key=key, faults=trouble, limits=limits, **options)
    how_to, query = (f"{_HOW_TO}{_HOW_TO_KEY}\n", "?key=...") if key else (_HOW_TO, "")
    runtime.serve_forever(lambda: click.echo(how_to.format(endpoint=runtime.endpoint, query=query), file=own_stdout()))


def _serve_bedrock(
    policy: Policy | None,
    faults: Faults | None,
    functions: tuple[str, ...],
    trainer: str | None,
    options: dict[str, Any],
) -> None:
    handlers = {}
    for function in functions:
        # The file of a handler may hold "=", a name may not.
        name, separator, reference = function.partition("=")
        if not separator:
            raise ConfigurationError(f"--function {function!r} has not the form NAME=FILE.py:HANDLER")
        handlers[name] = load_function(reference)
    server = LocalBedrock(
        policy,
        functions=handlers,
        trainer=_read_trainer(trainer) if trainer else None,
        auth="token" if options["auth"] == "bearer" else options["auth"],
        db=options["db"],
        faults=faults,
        port=options["port"],
    )
    how_to = _HOW_TO_BEDROCK.format
    server.serve_forever(lambda: click.echo(how_to(endpoint=server.endpoint), file=own_stdout()))


def _serve_jobs(
    policy: Policy | None,
    faults: Faults | None,
    functions: tuple[str, ...],
    trainer: str | None,
    options: dict[str, Any],
) -> None:
    if len(functions) > 1:
        raise ConfigurationError("--services jobs calls one agent, so give --function once")
    if options["auth"] == "bearer":
        raise ConfigurationError("--auth bearer is for the job runtime; SageMaker's jobs know any, sigv4 and none")
    handler = options["handler"]
    server = LocalJobs(
        load_function(handler) if handler else None,
        agent_url=options["agent_url"],
        forwarder=load_function(re.sub(r"\A[\w:.-]+=", "", functions[0])) if functions else None,
        policy=policy,
        trainer=_read_trainer(trainer) if trainer else None,
        **{name: options[name] for name in ("auth", "db", "port", "speed", "concurrency")},
        faults=faults,
    )
    how_to = _HOW_TO_JOBS.format
    server.serve_forever(
        lambda: click.echo(how_to(endpoint=server.endpoint, runtime=server.runtime.endpoint), file=own_stdout())
    )


def _refuse_ignored(services: str) -> None:
    """Refuse options that do not count for these services.

    Raises:
        ConfigurationError: One is given.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        counts_for = _COUNTS_FOR.get(name, ("job",))
        if is_given and services not in counts_for:
            text = f"{parameter.opts[0]} is for --services {' or '.join(counts_for)}; leave it out with {services}"
            raise ConfigurationError(text)


def _read_trainer(name: str) -> Trainer:
    """Return the trainer that an option names.

    Raises:
        ConfigurationError: There is none, or making it failed.
    """
    if name == _SOFTMAX:
        return SoftmaxTrainer(arithmetic.decide, arithmetic.untrained())

    def load(reference: str) -> Any:
        found = load_object(reference)
        is_maker = callable(found) and (isinstance(found, type) or not hasattr(found, "step"))
        return found() if is_maker else found

    trainer = load_function(name, load)
    if not (hasattr(trainer, "policy") and hasattr(trainer, "step")):
        raise ConfigurationError(
            f"--trainer {name} is a {type(trainer).__name__}. Name an object with the methods policy and step, or a "
            "function that returns one"
        )
    return trainer  # type: ignore[no-any-return] # the attributes have just said so


def _read_key(key: str | None, file: Path | None) -> str | None:
    """Return the key that callers must present: that of an option, else `RFT_RUNTIME_KEY`, else None.

    Raises:
        ConfigurationError: Both options are given, or the key cannot be one.
    """
    if key is not None and file is not None:
        raise ConfigurationError("--key and --key-file both name a key; give one of them")
    if file is not None:
        try:
            return check_key(file.read_text().strip(), f"--key-file {file}")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"--key-file {file} cannot be read: {error}") from error
    return runtime_key() if key is None else check_key(key, "--key")
