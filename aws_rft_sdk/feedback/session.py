"""The pooled `requests.Session` that all feedback clients of a process send with."""

from __future__ import annotations

import http.cookiejar
import threading

import requests
import requests.adapters

from aws_rft_sdk._fork import in_forked_child

_POOL_SIZE = 128

_session: requests.Session | None = None
_session_lock = threading.Lock()


def shared_session() -> requests.Session:
    """Return the session, made when it is first asked for."""
    global _session
    if _session is None:
        with _session_lock:
            if _session is None:
                _session = _new_session()
    return _session


def _new_session() -> requests.Session:
    session = requests.Session()
    # Cookies of one rollout must not travel with the next.
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
    adapter = requests.adapters.HTTPAdapter(pool_connections=16, pool_maxsize=_POOL_SIZE)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


@in_forked_child
def _forget_after_fork() -> None:
    # Parent and child must not talk over one connection.
    global _session, _session_lock
    _session, _session_lock = None, threading.Lock()
