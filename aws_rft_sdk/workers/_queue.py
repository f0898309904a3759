"""One SQS queue: receive, send, delete and hide messages. Nothing here knows what is in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import botocore.exceptions

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.workers.lambda_forwarder import fifo_fields

logger = logging.getLogger(__name__)

QUEUE_ERRORS = (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError)
"""What calls of SQS and DynamoDB raise: refusals, throttling, and trouble on the network."""
BATCH = 10
"""Messages in one call at most."""
MAX_VISIBILITY_SECONDS = 43_200

_NO_SUCH_QUEUE = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")


class Message(NamedTuple):
    """A message as it was received."""

    id: str
    handle: str
    """What it is deleted and hidden with; each receive gives another one."""
    body: str
    receives: int
    """How often it was received, this time included."""


def error_code(error: BaseException) -> str:
    """Return the service's code of an error, or the name of its class."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, Mapping) else None
    return str(code or type(error).__name__)


class Queue:
    """One queue.

    Args:
        client: A boto3 or botocore SQS client.
        url: The queue's URL.

    Every method raises `QUEUE_ERRORS`; `check`, `redrives` and `receive` raise ConfigurationError when there is no such
    queue. Concurrency: safe from several threads, as clients are.
    """

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self.url = url

    def __repr__(self) -> str:
        return f"<Queue {self.url!r}>"

    def check(self) -> None:
        """Look whether there is such a queue, as far as we may know."""
        self._attributes()

    def redrives(self) -> bool:
        """Whether the queue itself moves messages elsewhere that were received too often, as far as we may know."""
        attributes = self._attributes()
        if attributes is None:
            logger.warning(
                "queue=<%s> | its redrive policy cannot be read and counts as none: allow sqs:GetQueueAttributes",
                self.url,
            )
            return False
        return bool(attributes.get("RedrivePolicy"))

    def _attributes(self) -> Mapping[str, Any] | None:
        """Return the attributes we ask for, None when we may not know them."""
        try:
            with self._existing():
                answer = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["RedrivePolicy"])
        except botocore.exceptions.ClientError as error:
            if not error_code(error).startswith("AccessDenied"):
                raise
            return None
        attributes: Mapping[str, Any] = answer.get("Attributes", {})
        return attributes

    @contextmanager
    def _existing(self) -> Iterator[None]:
        try:
            yield
        except botocore.exceptions.ClientError as error:
            if error_code(error) not in _NO_SUCH_QUEUE:
                raise
            raise ConfigurationError(f"there is no queue {self.url}") from error

    def receive(self, count: int, wait_seconds: int, visibility_seconds: float) -> list[Message]:
        """Wait for messages, and hide them from others.

        Args:
            count: How many at most; no more than 10 come.
            wait_seconds: For the first one, 0 to 20.
            visibility_seconds: For how long they are hidden.
        """
        with self._existing():
            answer = self._client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=min(count, BATCH),
                WaitTimeSeconds=wait_seconds,
                VisibilityTimeout=round(visibility_seconds),
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
        return [
            Message(
                item["MessageId"],
                item["ReceiptHandle"],
                item["Body"],
                int(item.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
            )
            for item in answer.get("Messages", ())
        ]

    def send(self, body: Mapping[str, Any] | str, identity: str, attributes: Mapping[str, str] | None = None) -> None:
        """Send a message. `identity` is its group and its deduplication id, if the queue is FIFO."""
        values = {name: {"DataType": "String", "StringValue": value} for name, value in (attributes or {}).items()}
        self._client.send_message(
            QueueUrl=self.url,
            MessageBody=body if isinstance(body, str) else json.dumps(body, allow_nan=False),
            MessageAttributes=values,
            **fifo_fields(self.url, identity),
        )

    def delete(self, handles: Sequence[str]) -> set[str]:
        """Delete messages; return the handles of those for which it is worth another try."""
        return self._batch("delete_message_batch", {handle: {} for handle in handles}).later

    def hide(self, seconds: Mapping[str, float]) -> Batch:
        """Hide messages for so many seconds from now, by their handles; 0 shows them."""
        timeouts = {
            handle: {"VisibilityTimeout": max(0, min(round(value), MAX_VISIBILITY_SECONDS))}
            for handle, value in seconds.items()
        }
        return self._batch("change_message_visibility_batch", timeouts)

    def _batch(self, method: str, fields: Mapping[str, Mapping[str, Any]]) -> Batch:
        later, gone = set[str](), set[str]()
        for chunk in chunks(fields):
            handles = {str(number): handle for number, handle in enumerate(chunk)}
            entries = [{"Id": key, "ReceiptHandle": handle, **fields[handle]} for key, handle in handles.items()]
            try:
                failed = getattr(self._client, method)(QueueUrl=self.url, Entries=entries).get("Failed", ())
            except QUEUE_ERRORS as error:
                logger.warning("queue=<%s>, error=<%s> | %s failed", self.url, error_code(error), method)
                later.update(chunk)
                continue
            for item in failed:
                # Our fault is a handle that has expired or was replaced: there is nothing to try again.
                (gone if item.get("SenderFault") else later).add(handles[item["Id"]])
        return Batch(later, gone)


class Batch(NamedTuple):
    """What did not work in a call about several messages, by their handles."""

    later: set[str]
    """Worth another try."""
    gone: set[str]
    """No longer ours: the handle has expired, or the message is deleted."""


def chunks(handles: Iterable[str]) -> Iterator[list[str]]:
    """Yield pieces that fit one call."""
    items = list(handles)
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
