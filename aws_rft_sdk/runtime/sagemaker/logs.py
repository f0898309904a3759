"""CloudWatch Logs of the jobs: one group for each category, one stream for each job."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.sagemaker.checking import check
from aws_rft_sdk.runtime.sagemaker.rows import JobRow
from aws_rft_sdk.runtime.sagemaker.store import Store

_GROUP = "/aws/sagemaker/Job/"
_STREAMS, _EVENTS = 50, 10_000


class _Line(NamedTuple):
    number: int
    at_ms: int
    text: str


class Logs:
    """Answers the operations of CloudWatch Logs that read.

    Args:
        store: The database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._calls: dict[str, Callable[[dict[str, JSON]], dict[str, JSON]]] = {
            "DescribeLogStreams": self._describe,
            "GetLogEvents": self._get,
            "FilterLogEvents": self._filter,
        }

    def answer(self, operation: str, asked: dict[str, JSON]) -> dict[str, JSON]:
        """Return the answer to a call.

        Raises:
            Refusal: The service refuses it. The error type is its `code`.
        """
        if operation not in self._calls:
            raise Refusal(400, f"LocalJobs does not serve {operation:.80}", code="UnknownOperationException")
        check("logs", operation, asked, code="InvalidParameterException")
        return self._calls[operation](asked)

    def _describe(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        prefix = asked.get("logStreamNamePrefix")
        if prefix is not None and asked.get("orderBy") == "LastEventTime":
            raise _invalid("logStreamNamePrefix cannot be used with orderBy LastEventTime")
        streams: list[dict[str, Any]] = []
        for name, job in self._streams(asked).items():
            lines = self._lines(job)
            if name.startswith(prefix or ""):
                streams.append(
                    {
                        "logStreamName": name,
                        "creationTime": int(job.created_at * 1000),
                        "firstEventTimestamp": lines[0].at_ms,
                        "lastEventTimestamp": lines[-1].at_ms,
                        "lastIngestionTime": lines[-1].at_ms,
                        "storedBytes": 0,
                    }
                )
        by_time = asked.get("orderBy") == "LastEventTime"
        key = "lastEventTimestamp" if by_time else "logStreamName"
        streams.sort(key=lambda stream: stream[key], reverse=bool(asked.get("descending")))
        begin = _number(asked.get("nextToken"), "s")
        end = begin + (asked.get("limit") or _STREAMS)
        more = {"nextToken": f"s/{end}"} if end < len(streams) else {}
        return {"logStreams": streams[begin:end], **more}

    def _get(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        name = asked["logStreamName"]
        job = self._streams(asked).get(name)
        if job is None:
            raise Refusal(400, "The specified log stream does not exist.", code="ResourceNotFoundException")
        lines = _between(self._lines(job), asked)
        limit, token = asked.get("limit") or _EVENTS, asked.get("nextToken")
        if token and token.startswith("b/"):
            page = [line for line in lines if line.number < _number(token, "b")][-limit:]
        elif token:
            page = [line for line in lines if line.number > _number(token, "f")][:limit]
        else:
            page = lines[:limit] if asked.get("startFromHead") else lines[-limit:]
        # At either end the same token comes back.
        forward = f"f/{page[-1].number}" if page else token or "f/0"
        backward = f"b/{page[0].number}" if page else token or "b/0"
        events = [{"timestamp": line.at_ms, "ingestionTime": line.at_ms, "message": line.text} for line in page]
        return {"events": events, "nextForwardToken": forward, "nextBackwardToken": backward}

    def _filter(self, asked: dict[str, JSON]) -> dict[str, JSON]:
        prefix, names = asked.get("logStreamNamePrefix", ""), asked.get("logStreamNames")
        terms = [term.strip('"') for term in re.findall(r'"[^"]*"|\S+', asked.get("filterPattern") or "")]
        found = [
            (line, name)
            for name, job in self._streams(asked).items()
            if name.startswith(prefix) and (names is None or name in names)
            for line in _between(self._lines(job), asked)
            if all(term in line.text for term in terms)
        ]
        found.sort()
        begin = _number(asked.get("nextToken"), "e")
        end = begin + (asked.get("limit") or _EVENTS)
        events = [
            {
                "logStreamName": name,
                "timestamp": line.at_ms,
                "ingestionTime": line.at_ms,
                "message": line.text,
                "eventId": str(line.number),
            }
            for line, name in found[begin:end]
        ]
        return {"events": events, **({"nextToken": f"e/{end}"} if end < len(found) else {})}

    def _streams(self, asked: dict[str, JSON]) -> dict[str, JobRow]:
        """Return the jobs that have written, by the names of their streams.

        Raises:
            Refusal: The group does not exist: no job of the category has written yet.
        """
        group = asked.get("logGroupName") or asked.get("logGroupIdentifier", "")
        jobs = self._store.jobs(group[len(_GROUP) :]) if group.startswith(_GROUP) else []
        found = {f"{job.name}/algo-1-{int(job.created_at)}": job for job in jobs if self._store.logs(job)}
        if not found:
            raise Refusal(400, "The specified log group does not exist.", code="ResourceNotFoundException")
        return found

    def _lines(self, job: JobRow) -> list[_Line]:
        return [_Line(number, int(at * 1000), text) for number, at, text in self._store.logs(job)]


def _between(lines: Iterable[_Line], asked: dict[str, JSON]) -> list[_Line]:
    begin, end = asked.get("startTime"), asked.get("endTime")
    return [line for line in lines if (begin is None or line.at_ms >= begin) and (end is None or line.at_ms < end)]


def _number(token: str | None, kind: str) -> int:
    if token is None:
        return 0
    if not re.fullmatch(f"{kind}/[0-9]{{1,12}}", token):
        raise _invalid("The specified nextToken is invalid.")
    return int(token[2:])


def _invalid(message: str) -> Refusal:
    return Refusal(400, message, code="InvalidParameterException")
