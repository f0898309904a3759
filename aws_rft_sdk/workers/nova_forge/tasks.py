"""The state of rollouts in one DynamoDB table: who runs which, what was decided, and which turns were asked for.

One item for each rollout, `task#<sample id>`, and one for each turn, `step#<step id>`. A rollout belongs to one
container until its lease ends. Its response is stored before it is sent, so that it is decided once, and a turn is
noted before it is asked for, so that nobody asks again: a container that takes a rollout over goes on with the answers
that the first one got. One that is killed between noting and asking leaves a turn that nobody asks for, since from here
it looks like one that was asked for and is not answered yet; that turn fails when its time is up.
"""

from __future__ import annotations

import re
import time
import uuid
import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import botocore.exceptions

from aws_rft_sdk._checks import check_seconds
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.workers._queue import error_code

KEY = "task_id"
EXPIRES = "expires_at"
"""Epoch seconds; name it as the table's time-to-live attribute."""
LEASE_SECONDS = 60.0
KEEP_SECONDS = 7 * 86_400.0
_MAX_BYTES = 380_000
"""Of an answer in an item; DynamoDB takes 400 KB."""


class Claim(NamedTuple):
    """What became of the attempt to take a rollout."""

    state: Literal["ours", "taken", "decided", "sent"]
    response: str | None = None
    """The stored response of one that is decided."""
    lease_seconds: float = 0.0
    """For how long it still belongs to someone else."""
    attempts: int = 1
    """How often it was taken to be run, this time included."""


class Step(NamedTuple):
    """What is known of a turn."""

    state: Literal["new", "asked", "answered", "other"]
    """"other": another conversation has used the number."""
    response: str | None = None


class TaskTable:
    """One table; its key is the string `task_id`, and nothing else is expected of it.

    Args:
        name: The table.
        client: A boto3 or botocore DynamoDB client.
        lease_seconds: For how long a rollout belongs to a container that was killed.
        keep_seconds: After that DynamoDB may delete items, if the table's time to live is `expires_at`.
        clock: Seconds since the epoch. Clocks of several containers may differ by much less than a lease.

    Every method raises botocore's errors. Concurrency: safe from several threads.
    """

    def __init__(
        self,
        name: str,
        client: Any,
        *,
        lease_seconds: float = LEASE_SECONDS,
        keep_seconds: float = KEEP_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_seconds("lease_seconds", lease_seconds)
        self.name = name
        self.lease_seconds = lease_seconds
        self.owner = uuid.uuid4().hex
        self._client = client
        self._keep_seconds = keep_seconds
        self._unsure: dict[str, str] = {}
        self._clock = clock

    def create(self) -> None:
        """Create the table, unless it is there, and wait until it can be used."""
        try:
            self._client.create_table(
                TableName=self.name,
                KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except botocore.exceptions.ClientError as error:
            if error_code(error) != "ResourceInUseException":
                raise
        self._client.get_waiter("table_exists").wait(TableName=self.name)

    def check(self) -> None:
        """Look whether there is such a table.

        Raises:
            ConfigurationError: There is none, or it has another key.
        """
        try:
            self._get("check")
        except botocore.exceptions.ClientError as error:
            if error_code(error) not in ("ResourceNotFoundException", "ValidationException"):
                raise
            raise ConfigurationError(f"there is no table {self.name} with the string key {KEY}") from error

    # --- rollouts ----------------------------------------------------------------------------------------------------

    def claim(self, sample_id: str) -> Claim:
        """Take a rollout, unless it belongs to someone else or is decided. Safe to repeat."""
        now = self._clock()
        key, lease = f"task#{sample_id}", {":now": _number(now), ":until": _number(now + self.lease_seconds)}
        taken = self._update(
            key,
            "SET #state = :running, #owner = :me, lease_until = :until, expires_at = :expires ADD attempts :one",
            "attribute_not_exists(task_id) OR (#state = :running AND (#owner = :me OR lease_until < :now))",
            {**lease, ":one": _number(1)},
        )
        if taken is not None:
            return Claim("ours", attempts=int(taken["attempts"]["N"]))
        item = self._get(key)
        if item.get("state", {}).get("S") == "sent":
            return Claim("sent")
        # Whoever decided it may be sending its response at this moment; after its lease that is somebody else's task.
        condition = "#state = :decided AND (#owner = :me OR lease_until < :now)"
        values = {**lease, ":decided": {"S": "decided"}}
        if "response" in item and self._update(key, "SET #owner = :me, lease_until = :until", condition, values):
            return Claim("decided", item["response"]["S"])
        return Claim("taken", lease_seconds=max(0.0, float(item.get("lease_until", {}).get("N", 0)) - now))

    def renew(self, sample_id: str) -> bool:
        """Keep a rollout for another lease, until its response is sent; False when it is not ours any more."""
        values = {":until": _number(self._clock() + self.lease_seconds), ":sent": {"S": "sent"}}
        update = "SET lease_until = :until, expires_at = :expires"
        return self._update(f"task#{sample_id}", update, "#owner = :me AND #state <> :sent", values) is not None

    def release(self, sample_id: str) -> None:
        """Let someone else take a rollout at once."""
        self._update(f"task#{sample_id}", "SET lease_until = :until", _OURS, {":until": _number(0)})

    def decide(self, sample_id: str, response: str) -> bool:
        """Store the response of a rollout, which is then final; False when the rollout is not ours any more."""
        decided = self._update(
            f"task#{sample_id}",
            "SET #state = :decided, #response = :response, lease_until = :until, expires_at = :expires",
            _OURS,
            {
                ":decided": {"S": "decided"},
                ":response": {"S": response},
                ":until": _number(self._clock() + self.lease_seconds),
            },
        )
        return decided is not None

    def confirm(self, sample_id: str) -> None:
        """Note that the stored response was sent."""
        self._update(
            f"task#{sample_id}",
            "SET #state = :sent",
            "#state = :decided",
            {":sent": {"S": "sent"}, ":decided": {"S": "decided"}},
        )

    # --- turns -------------------------------------------------------------------------------------------------------

    def begin_step(self, step_id: str, digest: str) -> Step:
        """Note that a turn is about to be asked for, unless that was noted before.

        Safe to repeat after an error: nobody has asked then, so it is not taken for another's note. One call for a turn
        at a time.

        Args:
            step_id: The turn.
            digest: Of what is asked.
        """
        # The answer of a put may be lost. Then botocore repeats it, or the caller does, and finds what is its own.
        call = self._unsure.setdefault(step_id, f"{self.owner}/{uuid.uuid4().hex}")
        step = self._note_step(step_id, digest, call)
        self._unsure.pop(step_id, None)
        return step

    def _note_step(self, step_id: str, digest: str, call: str) -> Step:
        item = {
            KEY: {"S": f"step#{step_id}"},
            "digest": {"S": digest},
            "noted_by": {"S": call},
            EXPIRES: self._expiry(),
        }
        try:
            self._client.put_item(TableName=self.name, Item=item, ConditionExpression="attribute_not_exists(task_id)")
        except botocore.exceptions.ClientError as error:
            if error_code(error) != _REFUSED:
                raise
        else:
            return Step("new")
        known = self._get(f"step#{step_id}")
        if known.get("digest", {}).get("S") != digest:
            return Step("other")
        if known.get("noted_by", {}).get("S") == call:
            return Step("new")
        answer = _answer(known)
        return Step("asked") if answer is None else Step("answered", answer)

    def forget_step(self, step_id: str) -> None:
        """Take back that a turn is asked for: it certainly was not."""
        self._client.delete_item(TableName=self.name, Key={KEY: {"S": f"step#{step_id}"}})

    def answer_step(self, step_id: str, response: str) -> bool:
        """Store the first answer of a turn; False when it is too large for an item, or nobody noted the turn."""
        packed = zlib.compress(response.encode())
        if len(packed) > _MAX_BYTES:
            return False
        stored = self._update(
            f"step#{step_id}",
            "SET #response = :response",
            "attribute_exists(task_id) AND attribute_not_exists(#response)",
            {":response": {"B": packed}},
        )
        return stored is not None or self.answer_of(step_id) is not None

    def answer_of(self, step_id: str) -> str | None:
        """Return the stored answer of a turn, None while there is none."""
        return _answer(self._get(f"step#{step_id}"))

    # --- items -------------------------------------------------------------------------------------------------------

    def _update(self, key: str, update: str, condition: str, values: dict[str, Any]) -> dict[str, Any] | None:
        """Return the attributes that were changed, None when the condition does not hold."""
        values = {":me": {"S": self.owner}, ":running": {"S": "running"}, ":expires": self._expiry(), **values}
        # DynamoDB refuses names and values that no expression uses.
        words = set(re.findall(r"[:#]\w+", f"{update} {condition}"))
        names = {word: word[1:] for word in words if word.startswith("#")}
        fields = {"ExpressionAttributeNames": names} if names else {}
        try:
            answer = self._client.update_item(
                TableName=self.name,
                Key={KEY: {"S": key}},
                UpdateExpression=update,
                ConditionExpression=condition,
                ReturnValues="UPDATED_NEW",
                ExpressionAttributeValues={word: values[word] for word in words if word.startswith(":")},
                **fields,
            )
        except botocore.exceptions.ClientError as error:
            if error_code(error) != _REFUSED:
                raise
            return None
        changed: dict[str, Any] = answer.get("Attributes", {})
        return changed

    def _get(self, key: str) -> dict[str, Any]:
        answer = self._client.get_item(TableName=self.name, Key={KEY: {"S": key}}, ConsistentRead=True)
        found: dict[str, Any] = answer.get("Item", {})
        return found

    def _expiry(self) -> dict[str, str]:
        return _number(int(self._clock() + self._keep_seconds))


_REFUSED = "ConditionalCheckFailedException"
_OURS = "#state = :running AND #owner = :me"


def _answer(step: dict[str, Any]) -> str | None:
    packed = step.get("response", {}).get("B")
    return None if packed is None else zlib.decompress(packed).decode()


def _number(value: float) -> dict[str, str]:
    return {"N": str(value)}
