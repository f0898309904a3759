"""Where a Ray cluster is, and whether its nodes can reach a runtime."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from aws_rft_sdk._hosts import is_loopback_url
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.settings import environment

HERE = "local"
"""Address of a cluster that `ray.init` starts on this machine."""
_ADDRESS_VARIABLE = "RAY_ADDRESS"
_CONNECT_SECONDS = 10.0
SERVE_RUNTIME = (
    "Start a runtime that nodes can reach with `aws-rft runtime --host 0.0.0.0 --key KEY`, set RFT_RUNTIME_KEY to KEY, "
    f"and give --endpoint http://{socket.gethostname()}:8080"
)


def cluster_address(address: str | None) -> str:
    """Return the address that `ray.init` gets: the argument, else `RAY_ADDRESS`, else "local" for one that it starts.

    Raises:
        ConfigurationError: The address has another form.
    """
    found = address or environment(_ADDRESS_VARIABLE) or HERE
    if found not in (HERE, "auto") and _host_and_port(found) is None:
        raise ConfigurationError(
            f"the address of the Ray cluster is {found!r:.100}. Give --address, or {_ADDRESS_VARIABLE}, as host:port, "
            "ray://host:port, auto or local"
        )
    return found


def check_cluster_reach(address: str | None, endpoint: str | None) -> None:
    """Refuse a cluster on other machines whose rollouts would report to a runtime that only this machine can reach.

    Args:
        address: See `cluster_address`.
        endpoint: The runtime that is given; None for one of our own, on loopback.

    Raises:
        ConfigurationError: The nodes could not reach the runtime; or see `cluster_address`.
    """
    at = _host_and_port(cluster_address(address))
    if at is not None and not is_here(at[0]) and (endpoint is None or is_loopback_url(endpoint)):
        raise ConfigurationError(f"the Ray cluster at {at[0]} cannot reach a runtime on loopback. {SERVE_RUNTIME}")


def is_here(host: str) -> bool:
    """Return whether a host is this machine. False if its name cannot be resolved."""
    try:
        family, kind, protocol, _, at = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(at)  # only addresses of this machine can be bound
    except OSError:
        return False
    return True


def _host_and_port(address: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return (host, port) if host and port and parts.scheme in ("", "ray") else None


def knock(address: str) -> None:
    """Connect to a cluster's port once. Ray itself tries for minutes.

    Raises:
        UnavailableError: Nothing listens there.
    """
    at = _host_and_port(address)
    if at is None:
        return
    try:
        socket.create_connection(at, _CONNECT_SECONDS).close()
    except OSError as error:
        raise UnavailableError(
            f"no Ray cluster answers at {address} ({error}). Check that its head node runs, and that this machine may "
            "connect to that port"
        ) from error
