"""For LangChain's ChatOpenAI: HTTP clients that carry the headers of the rollout in progress."""

from __future__ import annotations

import atexit
import threading
from typing import TypedDict

import openai

from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.adapters._http_library import http
from aws_rft_sdk.adapters._http_turns import AsyncTurnClient, TurnClient
from aws_rft_sdk.adapters._loop_pool import pool_options
from aws_rft_sdk.adapters._sampling import Sampling, check_sampling


class HttpClients(TypedDict):
    """Arguments for ChatOpenAI."""

    http_client: http.Client
    http_async_client: http.AsyncClient


def http_clients(*, sampling: Sampling = "job") -> HttpClients:
    """Return the HTTP clients with which a `ChatOpenAI` is tied to the rollout in progress: `ChatOpenAI(**these)`.

    Within a rollout each model call, plain or streaming, synchronous or not, is one turn: it carries the rollout's
    headers and the sampling parameters that the job asks for, read from `RFTContext` when the request is sent. So one
    chat model, made at import if you like, serves any number of rollouts, over threads, tasks and event loops. Outside
    a rollout requests go out as they are.

    A request is repeated as with `instrument`, whatever `max_retries` says. LangChain's own `.with_retry()` is a
    repetition of yours: each attempt is a turn.

    All clients share one connection pool for the process, and one for each event loop. Closing the clients leaves those
    open. They lead wherever the chat model leads: add `runtime_client_args()` inside the handler to reach the payload's
    runtime.

    Args:
        sampling: "job" lets the payload's sampling parameters win over the model's; "model" keeps the model's.

    Returns:
        `http_client` and `http_async_client`. A new dict.

    Raises:
        ConfigurationError: `sampling` is something else.
    """
    sampling = check_sampling(sampling)
    # OpenAI's client reads its settings from the asynchronous one; what is sent goes through the pool of the loop.
    settings = openai.DefaultAsyncHttpxClient(**pool_options())
    return {
        "http_client": TurnClient(_process_pool(), sampling),
        "http_async_client": AsyncTurnClient(settings, sampling, "always"),
    }


# --- one pool for the process ----------------------------------------------------------------------------------------


class _Pool(openai.DefaultHttpxClient):
    """An HTTP client that outlives what is built around it."""

    def close(self) -> None:
        """Do nothing: the pool closes with the process."""

    def close_with_process(self) -> None:
        """Close all connections."""
        super().close()


_pool: _Pool | None = None
_lock = threading.Lock()


def _process_pool() -> _Pool:
    global _pool
    with _lock:
        if _pool is None:
            _pool = _Pool(**pool_options())
            atexit.register(_pool.close_with_process)
        return _pool


@in_forked_child
def _forget_after_fork() -> None:
    # Connections that parent and child both write to would mix their requests.
    global _pool, _lock
    _pool, _lock = None, threading.Lock()
