from __future__ import annotations

import socket

import pytest

from aws_rft_sdk._listening import listen
from aws_rft_sdk.errors import ConfigurationError, UnavailableError


def test_listen_when_a_name_has_addresses_of_both_kinds_then_by_ipv4() -> None:
    with listen(0, "localhost") as listener:
        assert listener.family is socket.AF_INET
        socket.create_connection(listener.getsockname(), 10).close()


@pytest.mark.parametrize(
    ("port", "host"),
    [
        (0, "no such host"),
        (0, "192.0.2.1"),
        (70_000, "127.0.0.1"),
    ],
    ids=["no-host", "elsewhere", "no-port"],
)
def test_listen_when_there_is_no_such_address_then_it_is_bad_usage(port: int, host: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address"):
        listen(port, host)


def test_listen_when_the_port_is_taken_then_it_is_the_environment() -> None:
    with (
        listen(0, "127.0.0.1") as taken,
        pytest.raises(UnavailableError, match=r"cannot be used: Address already in use\. Choose another port"),
    ):
        listen(taken.getsockname()[1], "127.0.0.1")
