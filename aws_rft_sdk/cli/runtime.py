"""`aws-rft runtime`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from aws_rft_sdk._loading import load_function, load_object
from aws_rft_sdk.cli._options import limit_options, usage_errors
from aws_rft_sdk.cli._output import own_stdout, user_code_prints_to_stderr
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rollout.policies import POLICY_HELP, parse_policy
from aws_rft_sdk.runtime import Faults, LocalBedrock, LocalRuntime, Policy, RolloutLimits, Trainer
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
_BEDROCK_OPTIONS = {"services", "port", "db", "policy", "auth", "faults", "functions", "trainer"}
_SOFTMAX = "softmax-arithmetic"
_PEM_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("runtime")
@click.option(
    "--services",
    default="job",
    show_default=True,
    type=click.Choice(["job", "bedrock"]),
    help="job: the job runtime. bedrock: fine-tuning on Bedrock's OpenAI-compatible API, and Lambda's Invoke.",
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
    metavar="NAME=FILE.py:HANDLER",
    help="bedrock: Lambda handler that graders' ARNs and Invoke find by this name or ARN. Repeatable.",
)
@click.option(
    "--trainer",
    metavar=f"{_SOFTMAX}|FILE.py:NAME",
    help="bedrock: lets jobs learn. A trainer, or a function that makes one. Without --policy it also answers for base "
    f"models. {_SOFTMAX}: the small policy of `aws-rft demo`.",
)
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
    """Serve a local stand-in for the job runtime, or for fine-tuning on Bedrock.

    The job runtime answers inference from a policy, records every turn under its trajectory, and takes completion and
    reward. To be reached from other machines it needs a key: --key-file, RFT_RUNTIME_KEY in the environment, or --key.

    With --services bedrock jobs really run: they sample the policy, call the function that the job names, and learn if
    there is a --trainer. Of the options only --port, --db, --policy, --auth, --faults, --function and --trainer count
    then.
    """
    answering = parse_policy(policy) if policy else None
    trouble = Faults.from_toml(faults) if faults else None
    if services == "bedrock":
        _serve_bedrock(answering, trouble, functions, trainer, options)
        return
    if functions:
        raise ConfigurationError("--function is for --services bedrock; the job runtime calls no functions")
    if trainer:
        raise ConfigurationError("--trainer is for --services bedrock; the job runtime trains nothing")
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
    context = click.get_current_context()
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if ignored := sorted(set(given) - _BEDROCK_OPTIONS):
        raise ConfigurationError(f"--{ignored[0].replace('_', '-')} is for the job runtime; leave it out with bedrock")
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
