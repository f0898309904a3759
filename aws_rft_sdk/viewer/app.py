"""The pages as an ASGI application. They work without script; a script adds live updates and keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from aws_rft_sdk.errors import ConfigurationError, RFTError, UnavailableError
from aws_rft_sdk.failures import FailureKind
from aws_rft_sdk.runs.looking import RunView
from aws_rft_sdk.runs.where import NUMBERS, OUTCOMES, Comparison, parse_where
from aws_rft_sdk.viewer import contents
from aws_rft_sdk.viewer.charts import bar
from aws_rft_sdk.viewer.contents import Links
from aws_rft_sdk.viewer.guarding import guarded
from aws_rft_sdk.viewer.texts import excerpt, show_text
from aws_rft_sdk.viewer.tokens import MOST_TOKENS
from aws_rft_sdk.viewer.watching import WatchedRun

PREFIX = "/view"
"""Where all pages are but the first."""
_PER_PAGE = 50
_HERE = Path(__file__).parent
_STATIC = {"style.css": "text/css", "view.js": "text/javascript"}
_SORTS = ("", "-reward", "reward", "-turns", "-tokens", "-seconds", "-started_at")
_CHOICES = {
    "outcome": ("outcome", "="),
    "error": ("error", "="),
    "tool": ("tool", "="),
    "reward_from": ("reward", ">="),
    "reward_to": ("reward", "<="),
    "turns_from": ("turns", ">="),
    "seconds_from": ("seconds", ">="),
}
"""Fields of the form above the list, and the comparison that each one makes."""
_OVERLAYS = ("logprobs", "mask")
_EVENT_SECONDS = 1.0
_LOOKS = 4
_MOST_EVENTS = 3600


@cache
def templates() -> jinja2.Environment:
    """Return the templates. Everything that is put into them is escaped."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "shown": show_text,
        "excerpt": excerpt,
        "number": _number,
        "percent": _percent,
        "seconds": _seconds,
    }
    found.globals |= {"bar": bar, "most_tokens": MOST_TOKENS, "text_address": _text_address}
    return found


def _text_address(links: Links, trajectory_id: str, message: int) -> Callable[[str], str]:
    return lambda what: links.text(trajectory_id, message, what)


def _number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 10**digits <= abs(value) < 1e15 else f"{value:.{digits}g}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


class _Number(Convertor[int]):
    """A number in a path. Longer ones are of nothing that is there."""

    regex = "[0-9]{1,12}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())

_Answer = Callable[[Request], Awaitable[Response]]
_Make = Callable[[Request, WatchedRun, Links], tuple[str, dict[str, Any]]]
"""Returns the name of a template and what it shows."""


class Pages:
    """The routes of the pages.

    Args:
        runs: One run, or two that are compared.
        stopping: Whether the server is about to end. Streams end then.
    """

    def __init__(self, runs: Sequence[WatchedRun], stopping: Callable[[], bool]) -> None:
        self._runs, self._stopping = runs, stopping

    def routes(self) -> list[Route]:
        """Return the routes."""
        run = PREFIX + "/{run:number}"
        return [
            Route("/", self._first),
            Route(f"{PREFIX}/static/{{name}}", self._static),
            Route(run, self._page(self._overview)),
            Route(f"{run}/rollouts", self._page(self._rollouts)),
            Route(f"{run}/groups", self._page(self._groups)),
            Route(f"{run}/groups/{{number:number}}", self._page(self._group)),
            Route(f"{run}/rollout", self._page(self._rollout)),
            Route(f"{run}/rollout.json", self._plain(_raw_json)),
            Route(f"{run}/text", self._plain(_text)),
            Route(f"{run}/events", self._events),
        ]

    # --- pages -------------------------------------------------------------------------------------------------------

    async def _first(self, request: Request) -> Response:
        if len(self._runs) == 1:
            return await self._page(self._overview)(request)
        return await self._page(self._comparison)(request)

    def _page(self, make: _Make) -> _Answer:
        async def answer(request: Request) -> Response:
            number = request.path_params.get("run", 0)
            if number >= len(self._runs):
                return self._error(request, 404, f"There is no run {number}", 0)
            run, links = self._runs[number], Links(f"{PREFIX}/{number}")
            try:
                return HTMLResponse(await run_in_threadpool(self._html, make, request, number, run, links))
            except RFTError as error:
                status = (
                    404 if isinstance(error, _NotFoundError) else 503 if isinstance(error, UnavailableError) else 400
                )
                return self._error(request, status, str(error), number)

        return answer

    def _html(self, make: _Make, request: Request, number: int, run: WatchedRun, links: Links) -> str:
        self._look()
        common = self._common(request, number, run, links)  # before, so that an older version is named, never a newer
        template, values = make(request, run, links)
        return template_text(template, common | values)

    def _look(self) -> str:
        for one in self._runs:
            one.look()
        return self._version

    @property
    def _version(self) -> str:
        return "-".join(run.version for run in self._runs)

    def _common(self, request: Request, number: int, run: WatchedRun, links: Links) -> dict[str, Any]:
        return {
            "run": run,
            "links": links,
            "number": number,
            "runs": [(place, one.name) for place, one in enumerate(self._runs)],
            "static": f"{PREFIX}/static",
            "path": request.url.path,
            "version": self._version,
            **{name: request.query_params.get(name, "").strip() for name in ("where", "text", "role")},
        }

    def _error(self, request: Request, status: int, text: str, number: int) -> Response:
        number = number if number < len(self._runs) else 0
        run, links = self._runs[number], Links(f"{PREFIX}/{number}")
        values = self._common(request, number, run, links) | {"problem": text, "status": status}
        return HTMLResponse(template_text("error.html", values), status)

    def _overview(self, request: Request, run: WatchedRun, links: Links) -> tuple[str, dict[str, Any]]:
        return "overview.html", run.figures("overview", run.version, lambda: contents.overview(run, links))

    def _comparison(self, request: Request, run: WatchedRun, links: Links) -> tuple[str, dict[str, Any]]:
        sides = [Links(f"{PREFIX}/{number}") for number in (0, 1)]
        values = dict(
            self._runs[0].figures("comparison", self._version, lambda: contents.comparison(self._runs, sides))
        )
        page = _page_number(request)
        pairs = values["pairs"]
        values["pairs"] = pairs[(page - 1) * _PER_PAGE :][:_PER_PAGE]
        values["prompts"] = self._runs[0].view.prompts([one.group for _, one, _ in values["pairs"]])
        return "comparison.html", {**values, **_paging(request, page, len(pairs))}

    def _rollouts(self, request: Request, run: WatchedRun, links: Links) -> tuple[str, dict[str, Any]]:
        query = request.query_params
        given = {name: query.get(name, "").strip() for name in ("where", "text", "role", *_CHOICES)}
        where, chosen = given["where"], {name: given[name] for name in _CHOICES}
        parts = [f"({where})"] if where else []
        if given["text"]:
            parts.append(str(Comparison("text" + (f".{given['role']}" if given["role"] else ""), "~", given["text"])))
        for name, value in chosen.items():
            field, operator = _CHOICES[name]
            if value:
                is_number = field in NUMBERS
                parts.append(f"{field}{operator}{value}" if is_number else str(Comparison(field, operator, value)))
        where = " and ".join(parts)
        page = _page_number(request)
        sort = query.get("sort", "")
        found = run.view.rollouts(
            parse_where(where) if where else None, sort=sort, limit=_PER_PAGE, offset=(page - 1) * _PER_PAGE
        )
        return "rollouts.html", {
            "found": found,
            "sort": sort,
            "sorts": _SORTS,
            "given": {name: value for name, value in given.items() if value},
            "chosen": chosen,
            "outcomes": OUTCOMES,
            "errors": [kind.value for kind in FailureKind],
            **_paging(request, page, found.matched),
        }

    def _groups(self, request: Request, run: WatchedRun, links: Links) -> tuple[str, dict[str, Any]]:
        groups = run.view.groups()
        if request.query_params.get("only") == "mixed":
            groups = [group for group in groups if group.rewarded > 1 and not group.is_dead]
        elif request.query_params.get("only") == "dead":
            groups = [group for group in groups if group.is_dead]
        if request.query_params.get("sort") == "mean":
            groups.sort(key=lambda group: (group.mean is None, group.mean))
        page = _page_number(request)
        least = min([0.0, *(group.least for group in groups if group.least is not None)])
        greatest = max([1.0, *(group.greatest for group in groups if group.greatest is not None)])
        shown = groups[(page - 1) * _PER_PAGE :][:_PER_PAGE]
        prompts = run.view.prompts([group.group for group in shown])
        shares = [None if group.mean is None else (group.mean - least) / (greatest - least) for group in shown]
        rows = [(group, share, prompts.get(group.group)) for group, share in zip(shown, shares, strict=True)]
        only, sort = (request.query_params.get(name, "") for name in ("only", "sort"))
        return "groups.html", {"groups": rows, "only": only, "sort": sort, **_paging(request, page, len(groups))}

    def _group(self, request: Request, run: WatchedRun, links: Links) -> tuple[str, dict[str, Any]]:
        try:
            return "group.html", contents.group_page(run.view, request.path_params["number"])
        except ConfigurationError as error:
            raise _NotFoundError(str(error)) from error

    def _rollout(self, request: Request, run: WatchedRun, links: Links) -> tuple[str, dict[str, Any]]:
        try:
            trajectory_id = run.view.find(request.query_params.get("id", ""))
            page = _page_number(request)
            values = contents.rollout_page(run.view, trajectory_id, page)
        except ConfigurationError as error:
            raise _NotFoundError(str(error)) from error
        overlay = request.query_params.get("tokens", "") if values["tokens"] else ""
        paging = _paging(request, page, values["said"], contents.MESSAGES_PER_PART)
        return "rollout.html", {**values, "overlay": overlay if overlay in _OVERLAYS else "", **paging}

    # --- the rest ----------------------------------------------------------------------------------------------------

    def _plain(self, make: Callable[[RunView, str, Mapping[str, str]], tuple[str, str]]) -> _Answer:
        """Return what answers with a text and its type, which `make` returns."""

        async def answer(request: Request) -> Response:
            number = request.path_params["run"]
            if number >= len(self._runs):
                return JSONResponse({"error": f"there is no run {number}"}, 404)
            try:
                text, kind = await run_in_threadpool(self._made_plain, make, number, request.query_params)
            except RFTError as error:
                return JSONResponse({"error": str(error)}, 503 if isinstance(error, UnavailableError) else 404)
            return Response(text.encode("utf-8", "backslashreplace"), media_type=kind)

        return answer

    def _made_plain(
        self, make: Callable[[RunView, str, Mapping[str, str]], tuple[str, str]], number: int, query: Mapping[str, str]
    ) -> tuple[str, str]:
        self._look()
        view = self._runs[number].view
        return make(view, view.find(query.get("id", "")), query)

    async def _events(self, request: Request) -> Response:
        number = request.path_params["run"]
        if number >= len(self._runs):
            return JSONResponse({"error": f"there is no run {number}"}, 404)
        return StreamingResponse(self._updates(request), media_type="text/event-stream")

    async def _updates(self, request: Request) -> AsyncIterator[str]:
        """Yield an event each time that a run has something new, and a comment now and then to notice who has left.

        A page that shows the version `seen`, or that saw the event `Last-Event-ID`, misses nothing in between.

        The last event of a server that ends is `stopping`.
        """
        seen = request.headers.get("last-event-id") or request.query_params.get("seen", "")
        for count in range(_MOST_EVENTS):
            version = await run_in_threadpool(self._look)
            if version != seen:
                rollouts = sum(run.progress.rollouts for run in self._runs if run.progress is not None)
                yield f"id: {version}\ndata: {rollouts}\n\n"
                seen = version
            elif count % 15 == 0:
                yield ": here\n\n"
            for _ in range(_LOOKS):  # a server that ends waits 1 s for streams
                if self._stopping():
                    yield "event: stopping\ndata:\n\n"
                    return
                if await request.is_disconnected():
                    return
                await asyncio.sleep(_EVENT_SECONDS / _LOOKS)

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            return Response(status_code=404)
        return Response((_HERE / "static" / name).read_bytes(), media_type=_STATIC[name])


def _status_of(error: RFTError) -> int:
    if isinstance(error, _NotFoundError):
        return 404
    return 503 if isinstance(error, UnavailableError) else 400


class _NotFoundError(ConfigurationError):
    """The page is of something that is not there."""


def template_text(name: str, values: dict[str, Any]) -> str:
    """Return a page. Halves of characters, which no page can hold, are named."""
    return templates().get_template(name).render(values).encode("utf-8", "backslashreplace").decode()


def _raw_json(view: RunView, trajectory_id: str, query: Mapping[str, str]) -> tuple[str, str]:
    value = contents.raw_json(view, trajectory_id)
    return json.dumps(value, indent=2, default=str), "application/json"


def _text(view: RunView, trajectory_id: str, query: Mapping[str, str]) -> tuple[str, str]:
    place = query.get("message", "")
    number = int(place) if place.isascii() and place.isdigit() and len(place) < 10 else -1
    return contents.text_of(view, trajectory_id, number, query.get("what", "")), "text/plain"


def _page_number(request: Request) -> int:
    try:
        return max(1, min(10**9, int(request.query_params.get("page", 1))))
    except ValueError:
        return 1


def _paging(request: Request, page: int, matched: int, per_page: int = _PER_PAGE) -> dict[str, Any]:
    """Return the number of the page, how many there are, and the addresses of the pages beside it."""
    pages = max(1, -(-matched // per_page))

    def address(number: int) -> str | None:
        given = {**request.query_params, "page": str(number)}
        return f"{request.url.path}?{urlencode(given)}" if 1 <= number <= pages else None

    return {
        "page": page,
        "pages": pages,
        "matched": matched,
        "page_before": address(min(page - 1, pages)),
        "page_after": address(page + 1),
    }


def create_app(
    runs: Sequence[WatchedRun],
    *,
    key: str | None,
    own_hosts: Collection[str] | None = (),
    stopping: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """Return the application over one run, or over two that are compared.

    Args:
        runs: The runs. The caller closes them when the application is no longer served.
        key: What `?key=` must be. None for no key.
        own_hosts: See `guarded`.
        stopping: Whether the server is about to end.
    """
    return guarded(Starlette(routes=Pages(runs, stopping).routes()), key, own_hosts)
