"""Compares what somebody needs with the policies that are there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, RFTError
from aws_rft_sdk.jobs._refusals import refusal
from aws_rft_sdk.jobs.iam import PRINCIPAL, Needs, Policy, Statement, statement


class Gap(NamedTuple):
    """An action that a principal needs and does not have.

    Attributes:
        action: For example `lambda:InvokeFunction`. For the trust policy of a role, `sts:AssumeRole`.
        resource: On what.
        why: Why it is not allowed.
        statement: The policy statement that grants it.
    """

    action: str
    resource: str
    why: str
    statement: Statement


@dataclass(frozen=True)
class Comparison:
    """What a principal lacks.

    Attributes:
        missing: All that is missing.
        simulated: Whether IAM itself was asked.
        notes: What could not be looked at.
    """

    missing: tuple[Gap, ...]
    simulated: bool
    notes: tuple[str, ...] = ()


class Principal(NamedTuple):
    """A role or a user."""

    arn: str
    kind: str
    name: str

    @classmethod
    def of(cls, arn: str) -> Principal:
        """Read an ARN. A session of a role counts as the role.

        Raises:
            ConfigurationError: The ARN is none of a role, a session of a role, or a user.
        """
        match = PRINCIPAL.fullmatch(arn)
        if match is None:
            raise ConfigurationError(f"{arn!r:.200} is no ARN of a role or user; use arn:aws:iam::ACCOUNT:role/NAME")
        kind, path = match["kind"], match["path"]
        if kind == "assumed-role":
            name = path.split("/")[0]
            return cls(f"arn:{match['partition']}:iam::{match['account']}:role/{name}", "role", name)
        return cls(arn, kind, path.rpartition("/")[2])


def compare(needs: Needs, principal: Principal, iam: Any, *, with_trust: bool = True) -> Comparison:
    """Return what a principal lacks. Changes nothing.

    The policies of the principal are read, inline and attached ones, those of a user's groups too. Then IAM is asked to
    simulate them, which also counts permissions boundaries. Where both are possible, IAM's answer counts.

    Args:
        needs: What is needed.
        principal: Who needs it.
        iam: boto3's client of IAM.
        with_trust: Whether to compare the trust policy of a role too.

    Raises:
        ServiceError: Neither reading the policies nor simulating them is possible.
    """
    notes: list[str] = []
    documents: list[Policy] | None = None
    try:
        documents = list(_documents(principal, iam))
    except Exception as error:
        unreadable = refusal(error, f"iam:List{principal.kind.title()}Policies", principal.arn)
        notes.append(f"the policies cannot be read: {unreadable}")
    verdicts, said = _simulate(needs.statements, principal, iam)
    notes += said
    if documents is None and not verdicts:
        raise unreadable
    gaps = []
    for wanted in needs.statements:
        for action, resource in _pairs(wanted):
            why = verdicts.get((action, resource)) if verdicts else _why_not(documents or [], wanted, action, resource)
            if why:
                gaps.append(Gap(action, resource, why, statement([action], [resource], wanted.get("Condition"))))
    if needs.trust and with_trust and principal.kind == "role":
        gaps += _trust_gaps(needs.trust, principal, iam)
    return Comparison(tuple(gaps), bool(verdicts), tuple(notes))


def _pairs(wanted: Statement) -> list[tuple[str, str]]:
    return [(action, resource) for action in wanted["Action"] for resource in wanted["Resource"]]


def _documents(principal: Principal, iam: Any) -> Iterator[Policy]:
    yield from _documents_of(principal.kind, principal.name, iam)
    if principal.kind == "user":
        for group in _listed(iam, "list_groups_for_user", "Groups", UserName=principal.name):
            yield from _documents_of("group", group["GroupName"], iam)


def _documents_of(kind: str, name: str, iam: Any) -> Iterator[Policy]:
    who = {f"{kind.title()}Name": name}
    get: Callable[..., Any] = getattr(iam, f"get_{kind}_policy")
    for inline in _listed(iam, f"list_{kind}_policies", "PolicyNames", **who):
        yield get(PolicyName=inline, **who)["PolicyDocument"]
    for attached in _listed(iam, f"list_attached_{kind}_policies", "AttachedPolicies", **who):
        arn = attached["PolicyArn"]
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        yield iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]


def _listed(iam: Any, operation: str, key: str, **arguments: str) -> list[Any]:
    return [item for page in iam.get_paginator(operation).paginate(**arguments) for item in page[key]]


def _why_not(documents: Sequence[Policy], wanted: Statement, action: str, resource: str) -> str:
    """Return why policies do not allow an action, "" if they do."""
    conditional = ""
    allowed = False
    for found in (item for document in documents for item in _as_list(document["Statement"])):
        if not _matches(found, "Action", action) or not _matches(found, "Resource", resource):
            continue
        condition = found.get("Condition")
        if found["Effect"] == "Deny" and not condition:
            return "a policy denies it"
        if found["Effect"] == "Allow" and (not condition or condition == wanted.get("Condition")):
            allowed = True
        elif found["Effect"] == "Allow":
            conditional = f"it is only allowed under a condition: {condition}"
    return "" if allowed else conditional or "no policy allows it"


def _matches(found: Mapping[str, JSON], key: str, value: str) -> bool:
    flags = re.IGNORECASE if key == "Action" else 0
    patterns = _as_list(found.get(key, found.get(f"Not{key}", [])))
    matched = any(re.fullmatch(_regex(pattern), value, flags) for pattern in patterns)
    return matched if key in found else not matched


def _regex(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)


def _as_list(value: JSON) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _simulate(
    statements: Sequence[Statement], principal: Principal, iam: Any
) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Return why IAM would refuse each action on each resource, "" where it would not, and notes."""
    verdicts: dict[tuple[str, str], str] = {}
    for wanted in statements:
        context = [
            {"ContextKeyName": key, "ContextKeyValues": _as_list(values), "ContextKeyType": "string"}
            for keys in wanted.get("Condition", {}).values()
            for key, values in keys.items()
        ]
        for resource in wanted["Resource"]:
            try:
                answer = iam.simulate_principal_policy(
                    PolicySourceArn=principal.arn,
                    ActionNames=wanted["Action"],
                    ResourceArns=[resource],
                    ContextEntries=context,
                )
            except Exception as error:  # whatever it is, the policies themselves were read
                problem: RFTError = refusal(error, "iam:SimulatePrincipalPolicy", principal.arn)
                return {}, [f"IAM was not asked to simulate the policies: {problem}"]
            for result in answer["EvaluationResults"]:
                decision = result["EvalDecision"]
                why = "" if decision == "allowed" else f"IAM's simulation says {decision}"
                verdicts[result["EvalActionName"], resource] = why
    return verdicts, []


def _trust_gaps(wanted: Policy, principal: Principal, iam: Any) -> Iterator[Gap]:
    try:
        found = iam.get_role(RoleName=principal.name)["Role"]["AssumeRolePolicyDocument"]
    except Exception as error:
        raise refusal(error, "iam:GetRole", principal.arn) from None
    (needed,) = wanted["Statement"]
    service, account = needed["Principal"]["Service"], needed["Condition"]["StringEquals"]["aws:SourceAccount"]
    for action in _as_list(needed["Action"]):
        trusted = [
            item
            for item in _as_list(found["Statement"])
            if item["Effect"] == "Allow"
            and _matches(item, "Action", action)
            and service in _as_list(item.get("Principal", {}).get("Service", []))
        ]
        if not trusted:
            lacks = "" if action == "sts:AssumeRole" else f" with {action}"
            yield Gap(action, principal.arn, f"the role does not trust {service}{lacks}", needed)
        elif not any(account in str(item.get("Condition")) for item in trusted):
            why = f"the role trusts {service} for every account: its trust policy lacks aws:SourceAccount"
            yield Gap(action, principal.arn, why, needed)
