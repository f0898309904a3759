"""The sockets that servers listen on."""

from __future__ import annotations

import errno
import socket

from aws_rft_sdk.errors import ConfigurationError, UnavailableError

_BACKLOG = 2048


def listen(port: int, host: str) -> socket.socket:
    """Return a socket that listens on a port of a host, by IPv4 if the host has such an address.

    Args:
        port: The port. 0 takes any free port.
        host: An address or a name of this machine.

    Raises:
        ConfigurationError: The host is no address of this machine, or there is no such port.
        UnavailableError: The port is in use, or this process may not use it.
    """
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"the host {host!r:.80} is no address: {error}") from error
    family, _, _, _, (address, _, *scope) = min(found, key=lambda item: item[0] != socket.AF_INET)
    # asyncio turns off Nagle's algorithm only where the protocol is named. Nagle would delay each answer by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port, *scope))
        listener.listen(_BACKLOG)  # some systems report a taken port only here
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OverflowError) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigurationError(f"port {port} of the host {host!r:.80} is no address of this machine") from error
        raise UnavailableError(
            f"port {port} of {host} cannot be used: {error.strerror}. Choose another port, or 0 for any free port"
        ) from error
    return listener
