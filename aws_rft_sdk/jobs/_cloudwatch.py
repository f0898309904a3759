"""The log of a multi-turn RL job, as CloudWatch keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.jobs._aws import asking, asking_each

_MISSING = "ResourceNotFoundException"


class LogLine(NamedTuple):
    """A line of a log.

    Attributes:
        at: When it was written, in seconds since 1970.
        stream: Which part of the job wrote it.
        text: The line.
    """

    at: float
    stream: str
    text: str


class JobLog:
    """The log of one job. It remembers what it has read.

    The streams of a job are called `<job name>/...`. Without the slash, a search would also find the streams of
    another job whose name begins with this one's.

    Args:
        client: boto3's client of `logs`.
        category: Of the job.
        name: Of the job.
    """

    def __init__(self, client: Any, category: str, name: str) -> None:
        self._client = client
        self.group = f"/aws/sagemaker/Job/{category}"
        self._prefix = f"{name}/"
        self._next: dict[str, str | None] = {}
        self._unread: list[LogLine] = []

    def read(self) -> list[LogLine]:
        """Return the lines that are new since the last call, by their times. Empty while there is no log yet.

        Raises:
            RFTError: CloudWatch refuses or cannot be reached. The next call returns what was read until then, too.
        """
        for stream in self._streams():
            for line in self._lines(stream):
                self._unread.append(line)
        found, self._unread = self._unread, []
        return sorted(found, key=lambda line: line.at)

    def _streams(self) -> list[str]:
        pages = self._client.get_paginator("describe_log_streams").paginate(
            logGroupName=self.group, logStreamNamePrefix=self._prefix
        )
        with asking("logs:DescribeLogStreams", self.group):
            try:
                return [row["logStreamName"] for page in pages for row in page["logStreams"]]
            except ClientError as error:
                if error.response["Error"]["Code"] != _MISSING:
                    raise
                return []  # the service makes the group when the first job writes

    def _lines(self, stream: str) -> Iterator[LogLine]:
        for page in asking_each(self._pages(stream), "logs:GetLogEvents", self.group):
            for row in page["events"]:
                yield LogLine(row["timestamp"] / 1000, stream.removeprefix(self._prefix), row["message"].rstrip("\n"))

    def _pages(self, stream: str) -> Iterator[dict[str, JSON]]:
        while True:  # a page may be empty before the end. At the end the token stays the same
            token = self._next.get(stream)
            given = {"nextToken": token} if token else {}
            page = self._client.get_log_events(
                logGroupName=self.group, logStreamName=stream, startFromHead=True, **given
            )
            self._next[stream] = page.get("nextForwardToken")
            yield page
            if self._next[stream] in (token, None):
                return
