"""Sessions of MLflow: presigned URLs that open one, and the cookies that carry it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie

from aws_rft_sdk.runtime.answers import Refusal

COOKIE = "session"
_URL_SECONDS = 300
_SESSION_SECONDS = 300
"""Shorter than the service's, whose length is not documented. Clients are told to renew theirs after 240 s."""


class Sessions:
    """Who may read from MLflow. Tokens and cookies are secrets: no log and no error shows them.

    Args:
        clock: Returns seconds since 1970.

    Concurrency: safe from any thread.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[float, float]] = {}
        """Until when a token opens a session, and how long the session lives."""
        self._ends: dict[str, float] = {}

    def new_token(self, *, seconds: float | None = None, session_seconds: float | None = None) -> str:
        """Return a token that opens one session, once.

        Args:
            seconds: How long the token is valid. None for 300.
            session_seconds: How long the session lives. None for 300.
        """
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._forget()
            self._tokens[token] = (self._clock() + (seconds or _URL_SECONDS), session_seconds or _SESSION_SECONDS)
        return token

    def open(self, token: str) -> str:
        """Return the value of the cookie of a new session.

        Raises:
            Refusal: 403. The token is unknown, used or too old.
        """
        with self._lock:
            self._forget()
            until, seconds = self._tokens.pop(token, (0.0, 0.0))
            if self._clock() >= until:
                raise Refusal(403, "The presigned URL was used before, or has expired. Get a new one")
            cookie = secrets.token_urlsafe(32)
            self._ends[cookie] = self._clock() + seconds
            return cookie

    def check(self, header: str) -> None:
        """Return if a `Cookie` header carries a session that lives.

        Raises:
            Refusal: 403 if it does not.
        """
        try:
            morsel = SimpleCookie(header).get(COOKIE)
        except CookieError:
            morsel = None
        with self._lock:
            if morsel is None or self._clock() >= self._ends.get(morsel.value, 0.0):
                raise Refusal(403, "There is no session, or it has ended. Open the URL of CreatePresignedMlflowAppUrl")

    def _forget(self) -> None:
        now = self._clock()
        self._tokens = {token: kept for token, kept in self._tokens.items() if kept[0] > now}
        self._ends = {cookie: end for cookie, end in self._ends.items() if end > now}
