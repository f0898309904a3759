"""Policies by their names on a command line and in the folder of a run, and which policy answers without a name."""

from __future__ import annotations

from pathlib import Path

from aws_rft_sdk._loading import load_function, reference_of
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import CallablePolicy, Policy, ReplayPolicy, ScriptedPolicy, UpstreamPolicy, standin
from aws_rft_sdk.runtime.policies import PolicyFunction

POLICY_HELP = (
    "Who answers inference: standin (no model, but answers any agent), scripted:FILE (a JSON list of turns), "
    "callable:FILE.py:FN or callable:MODULE:FN (chat request to assistant message), replay:FILE (a recording), "
    "upstream:URL (any OpenAI-compatible server)."
)


def parse_policy(value: str) -> Policy:
    """Make the policy that an option names.

    Raises:
        ConfigurationError: The value has another form, or what it names is not there.
    """
    kind, colon, target = value.partition(":")
    if kind == "standin" and (target.isdecimal() or not colon):
        return standin(int(target or 0))
    if kind == "scripted" and target:
        return ScriptedPolicy.read(target)
    if kind == "callable" and target:
        return CallablePolicy(load_function(target))
    if kind == "replay" and target:
        return ReplayPolicy(target)
    if kind == "upstream" and target:
        return UpstreamPolicy(target)
    raise ConfigurationError(
        f"policy {value!r} has none of the forms standin, standin:SEED, scripted:FILE, callable:FILE.py:FN, "
        "replay:FILE, upstream:URL"
    )


def policy_name(policy: Policy | PolicyFunction | str | None) -> str | None:
    """Return the name of a policy, as `parse_policy` reads it. An object that has none is named by its class."""
    if policy is None or isinstance(policy, str):
        return policy
    return f"callable:{reference_of(policy)}" if callable(policy) else type(policy).__name__


def choose_policy(policy: Policy | PolicyFunction | str | None, handler: str) -> Policy | PolicyFunction:
    """Return the policy that is given or named, else the function `policy` of a policy.py beside the handler's file.

    Raises:
        ConfigurationError: There is neither, or what is named is not there.
    """
    if policy is not None:
        return parse_policy(policy) if isinstance(policy, str) else policy
    file = Path(handler.rpartition(":")[0])
    beside = file.with_name("policy.py")
    if file.suffix == ".py" and beside.is_file():
        return parse_policy(f"callable:{beside}:policy")
    raise ConfigurationError(
        "nobody answers inference. For a first try give --policy standin: it is no model, answers any agent, and "
        "really calls your tools. Or give --policy with a model or a script, give --endpoint of a runtime, or put a "
        "policy.py with a function `policy` beside the handler's file"
    )
