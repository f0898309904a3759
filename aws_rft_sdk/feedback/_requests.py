"""One POST to the runtime, bounded in time. The only module that imports `requests`; loaded when first needed.

The time-outs of `requests` bound the wait for each piece of an answer. A server that sends a byte now and then holds
such a call for ever. So the connections here read every piece under one deadline for the whole exchange.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import http.client
import http.cookiejar
import io
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import requests
import requests.adapters
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, NewConnectionError
from urllib3.util.connection import is_connection_dropped

from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.errors import RFTError
from aws_rft_sdk.settings import ca_bundle

_POOL_SIZE = 128

Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    headers: Mapping[str, str]
    """Names in any case."""
    body: bytes


class ExchangeError(Exception):
    """There is no answer.

    Attributes:
        timed_out: Whether the deadline has passed.
        may_have_happened: Whether the request may have reached the server.
    """

    def __init__(self, message: str, *, timed_out: bool, may_have_happened: bool) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.may_have_happened = may_have_happened


class SettingsError(Exception):
    """The request cannot be sent with these settings, for example a CA bundle that does not exist."""


def post(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    auth: Auth | None,
    *,
    session: requests.Session | None,
    direct: bool,
    seconds: float,
) -> Answer:
    """Send a request and read its whole answer.

    Args:
        url: Where to.
        headers: Without authentication.
        body: The body.
        auth: Signs the request; None for unsigned.
        session: What to send with; None for the session that the process shares.
        direct: Whether proxies are left out.
        seconds: For the whole exchange.

    Raises:
        ExchangeError: There was no whole answer in time.
        SettingsError: The request cannot be sent with the settings of the session or the environment.
    """
    deadline = time.monotonic() + seconds
    send = functools.partial(_send, session or shared_session(), url, headers, body, auth, direct, seconds)
    try:
        answer = _in_thread(send, seconds) if session is not None else _until(deadline, send)
    except RFTError:  # of what signs
        raise
    except (requests.RequestException, HTTPError, TimeoutError) as error:
        timed_out = isinstance(error, requests.Timeout | TimeoutError) or time.monotonic() >= deadline
        raise ExchangeError(
            type(error).__name__, timed_out=timed_out, may_have_happened=_may_have_happened(error)
        ) from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"{type(error).__name__}: {error}") from error
    return Answer(answer.status_code, answer.headers, answer.content)


def _send(
    session: requests.Session,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    auth: Auth | None,
    direct: bool,
    seconds: float,
) -> requests.Response:
    settings: dict[str, Any] = {"proxies": session.proxies}
    if not direct:
        settings = dict(session.merge_environment_settings(url, {}, False, None, None))
    if url.startswith("https:") and session.verify is True and (bundle := ca_bundle()) is not None:
        settings["verify"] = bundle
    prepared = session.prepare_request(
        requests.Request("POST", url, headers=headers, data=body, auth=auth or _unsigned)
    )
    # A redirect would carry the credentials elsewhere, so it is not followed.
    return session.send(prepared, **{**settings, "timeout": seconds, "allow_redirects": False})


def _unsigned(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep `requests` from looking for credentials in a .netrc file."""
    return request


def _may_have_happened(error: Exception) -> bool:
    if isinstance(error, requests.ConnectTimeout):
        return False
    reason = error.args[0] if error.args else None
    return not (isinstance(reason, MaxRetryError) and isinstance(reason.reason, NewConnectionError))


# --- the deadline of an exchange -------------------------------------------------------------------------------------


class _Current(threading.local):
    deadline = float("inf")


_current = _Current()


def _until(deadline: float, send: Callable[[], requests.Response]) -> requests.Response:
    _current.deadline = deadline
    try:
        return send()
    finally:
        del _current.deadline


class _Reader(io.RawIOBase):
    """Reads from a socket, each piece with what is left of the exchange's time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = _current.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for the whole exchange is over")
        self._socket.settimeout(min(left, threading.TIMEOUT_MAX))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(sock))


class _Connection(urllib3.connection.HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        """Connect to the first address of the host that answers, each with what is left of the exchange's time."""
        name = self._dns_host
        try:
            found = socket.getaddrinfo(name.strip("[]"), self.port, type=socket.SOCK_STREAM)
        except OSError:
            return super()._new_conn()  # raises what belongs to it
        for number, (*_, address) in enumerate(found, 1):
            self._dns_host, self.timeout = str(address[0]), max(_current.deadline - time.monotonic(), 0.001)
            try:
                return super()._new_conn()
            except (NewConnectionError, ConnectTimeoutError):
                if number == len(found) or time.monotonic() >= _current.deadline:
                    raise
            finally:
                self._dns_host = name
        return super()._new_conn()


class _TlsConnection(_Connection, urllib3.connection.HTTPSConnection):
    pass


_pools: weakref.WeakSet[urllib3.HTTPConnectionPool] = weakref.WeakSet()
"""One for each server."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls: type[urllib3.connection.HTTPConnection] = _Connection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Connections to a server that is gone are used by nobody again. The first call to another server closes them.
        with _session_lock:
            for pool in _pools:
                _close_dropped(pool)
            _pools.add(self)


class _TlsPool(_Pool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def _close_dropped(pool: urllib3.HTTPConnectionPool) -> None:
    """Close the idle connections that the server has closed. They stay in the pool, and connect anew when needed."""
    idle = pool.pool
    if idle is not None:
        with idle.mutex:  # nobody takes a connection out meanwhile
            for connection in idle.queue:
                if connection is not None and is_connection_dropped(connection):
                    connection.close()


class _Adapter(requests.adapters.HTTPAdapter):
    """Uses the connections above, also through HTTP proxies. A SOCKS proxy has connections of its own."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if isinstance(manager, urllib3.ProxyManager):
            manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        return manager


def _in_thread(send: Callable[[], requests.Response], seconds: float) -> requests.Response:
    """Send with a session of the caller, whose connections know no deadline. The thread ends when the server does."""
    future: concurrent.futures.Future[requests.Response] = concurrent.futures.Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(send))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="rft-exchange", daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except concurrent.futures.TimeoutError as error:  # before Python 3.11 this is not the built-in class
        raise TimeoutError(f"no answer within {seconds:g} s") from error


# --- the session of the process --------------------------------------------------------------------------------------

_session: requests.Session | None = None
_session_lock = threading.Lock()


def shared_session() -> requests.Session:
    """Return the pooled session that all feedback calls of the process share, made when it is first asked for."""
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
    adapter = _Adapter(pool_connections=16, pool_maxsize=_POOL_SIZE)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


@in_forked_child
def _forget_after_fork() -> None:
    # Parent and child must not talk over one connection.
    global _session, _session_lock
    _session, _session_lock = None, threading.Lock()
    _pools.clear()
