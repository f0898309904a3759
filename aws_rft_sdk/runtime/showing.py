"""Shows recorded trajectories to tools on this machine, such as `aws-rft show http://127.0.0.1:8080`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk._hosts import is_own_host
from aws_rft_sdk.runtime import answers
from aws_rft_sdk.runtime.records import TrajectoryRow, TurnRow
from aws_rft_sdk.runtime.trajectories import Trajectories

TRAJECTORIES_PATH = "/local/trajectories"
"""No part of the contract. `GET` returns what was recorded."""
MOST_TRAJECTORIES = 500
"""Of one answer."""
_ENOUGH_BYTES = 8_000_000


class Showing:
    """Serves `GET /local/trajectories`. Needs the runtime's key, if there is one.

    Query: `first`, the number of the first trajectory (0), `limit` (500 at most), `turns=1` to have their turns too, or
    in place of `first` and `limit` `numbers=3,7`. The answer ends early when it is large. So ask again from the number
    after the last one, until an answer is empty.

    Args:
        trajectories: What was recorded.
        own_hosts: Host names that a call may be addressed to, besides loopback. None for all.
    """

    def __init__(self, trajectories: Trajectories, own_hosts: Collection[str] | None) -> None:
        self._trajectories = trajectories
        self._own_hosts = own_hosts

    def routes(self) -> list[Route]:
        """Return the route."""
        return [Route(TRAJECTORIES_PATH, self._answer, methods=["GET"])]

    async def _answer(self, request: Request) -> Response:
        if self._own_hosts is not None and not is_own_host(request.headers.get("host", ""), self._own_hosts):
            return _refusal(403, "The Host header names another machine than this one")
        try:
            query = _read_query(request.query_params)
        except ValueError:
            return _refusal(400, "first, limit and numbers must be whole numbers, for example ?first=0&limit=100")
        body = await asyncio.to_thread(self._page, *query, request.query_params.get("turns") == "1")
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

    def _page(self, first: int, limit: int, numbers: list[int] | None, with_turns: bool) -> str:
        texts: list[str] = []
        size = 0
        for row in self._trajectories.rows(first=first, most=limit, numbers=numbers):
            # The row was read before its turns. So a sealed trajectory shows all of its turns.
            turns = [_turn_json(turn) for turn in self._trajectories.turns(row.number)] if with_turns else None
            texts.append(json.dumps({**_row_json(row), **({} if turns is None else {"turns": turns})}))
            size += len(texts[-1])
            if size > _ENOUGH_BYTES:
                break
        return f'{{"trajectories":[{",".join(texts)}]}}'


def _read_query(given: Mapping[str, str]) -> tuple[int, int, list[int] | None]:
    numbers = [int(number) for number in given["numbers"].split(",")] if "numbers" in given else None
    first, limit = int(given.get("first", 0)), int(given.get("limit", MOST_TRAJECTORIES))
    if max(abs(number) for number in (first, limit, *(numbers or ()))) >= 1 << 38:
        raise ValueError("too large")
    return first, max(0, min(limit, MOST_TRAJECTORIES)), None if numbers is None else numbers[:MOST_TRAJECTORIES]


def _row_json(row: TrajectoryRow) -> dict[str, JSON]:
    return {
        "number": row.number,
        "trajectory_id": row.trajectory_id,
        "job_arn": row.job_arn,
        "prompt": json.loads(row.prompt),
        "created_at_seconds": row.created_at_seconds,
        "status": row.state.status.value,
        "rewards": row.state.rewards,
        "turn_count": row.state.turns,
    }


def _turn_json(turn: TurnRow) -> dict[str, JSON]:
    return {
        "span_id": turn.span_id,
        "path": turn.path,
        "started_at_seconds": turn.started_at_seconds,
        "duration_seconds": turn.duration_seconds,
        "request": json.loads(turn.request),
        "response": json.loads(turn.response),
    }


def _refusal(status: int, text: str) -> Response:
    return Response(answers.error_body(text, answers.error_code(status)), status, media_type="application/json")
