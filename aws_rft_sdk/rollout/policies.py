"""Policies by their names on a command line and in the manifest of a run."""

from __future__ import annotations

from pathlib import Path

from aws_rft_sdk._loading import load_function, reference_of
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import CallablePolicy, Policy, ReplayPolicy, UpstreamPolicy
from aws_rft_sdk.runtime.policies import PolicyFunction

POLICY_HELP = (
    "Who answers inference: callable:FILE.py:FN or callable:MODULE:FN (chat request to assistant message), "
    "replay:FILE (a recording), upstream:URL (any OpenAI-compatible server)."
)


def parse_policy(value: str) -> Policy:
    """Make the policy that an option names.

    Raises:
        ConfigurationError: It has another form, or what it names is not there.
    """
    kind, _, target = value.partition(":")
    if kind == "callable" and target:
        return CallablePolicy(load_function(target))
    if kind == "replay" and target:
        return ReplayPolicy(target)
    if kind == "upstream" and target:
        return UpstreamPolicy(target)
    raise ConfigurationError(f"policy {value!r} has none of the forms callable:FILE.py:FN, replay:FILE, upstream:URL")


def policy_name(policy: Policy | PolicyFunction | str | None) -> str | None:
    """Return how a policy is named in the manifest of a run: as `parse_policy` reads it, where it can be named so."""
    if policy is None or isinstance(policy, str):
        return policy
    return f"callable:{reference_of(policy)}" if callable(policy) else type(policy).__name__


def policy_for(policy: Policy | PolicyFunction | str | None, handler: str) -> Policy | PolicyFunction:
    """Return the policy of a run: the one given, else `policy` in a policy.py beside the handler's file.

    Raises:
        ConfigurationError: There is none, or it cannot be loaded.
    """
    if policy is not None:
        return parse_policy(policy) if isinstance(policy, str) else policy
    file = Path(handler.rpartition(":")[0])
    beside = file.with_name("policy.py")
    if file.suffix == ".py" and beside.is_file():
        return parse_policy(f"callable:{beside}:policy")
    raise ConfigurationError(
        "nobody answers inference: give --policy, give --endpoint, or put a policy.py with a function `policy` "
        "beside the handler's file"
    )
