"""Who may see the pages, and what a page may do in a browser."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from aws_rft_sdk._hosts import is_own_host

_COOKIE = "aws-rft-view"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def guarded(app: ASGIApp, key: str | None, own_hosts: Collection[str] | None) -> ASGIApp:
    """Return an application that answers only those who know the key, and only under a name of this machine.

    The key comes in the address, `?key=...`, once, and then in a cookie. A page of another site cannot read answers,
    since it does not know the key, nor by a host name of its own that leads here.

    Args:
        app: What is guarded.
        key: None for none.
        own_hosts: Host names that a call may be addressed to, besides loopback. None for all.
    """

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        request = Request(scope)
        answer: Response | None = None
        if own_hosts is not None and not is_own_host(request.headers.get("host", ""), own_hosts):
            answer = Response("The Host header names another machine than this one\n", 403, media_type="text/plain")
        elif key is not None:
            answer = _key_answer(request, key)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
            await send(message)

        await (answer or app)(scope, receive, with_headers)

    return check


def _key_answer(request: Request, key: str) -> Response | None:
    """Return the answer to a call that presents the key in its address, or nowhere. None if a cookie proves it."""
    cookie = f"{_COOKIE}-{request.url.port}"  # browsers send a cookie to all ports of a host
    # A server at another port gets the cookie too, so it is not the key itself.
    proof = hmac.digest(key.encode(), b"cookie of the pages", "sha256").hex()
    presented = request.query_params.get("key")
    if not _is_key(request.cookies.get(cookie, ""), proof) and not _is_key(presented or "", key):
        text = "Open the address that the command printed: it has a key\n"
        return Response(text, 403, media_type="text/plain")
    if presented is None:
        return None
    rest = [(name, value) for name, value in request.query_params.multi_items() if name != "key"]
    path = "/" + request.url.path.lstrip("/")  # two slashes would begin another host
    answer = RedirectResponse(path + (f"?{urlencode(rest)}" if rest else ""), 303)
    answer.set_cookie(cookie, proof, httponly=True, samesite="strict", path="/")
    return answer


def _is_key(presented: str, key: str) -> bool:
    return hmac.compare_digest(presented.encode("utf-8", "replace"), key.encode())
