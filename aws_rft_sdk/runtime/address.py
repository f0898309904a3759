"""Where a runtime listens, which key its callers must present, and the URL that agents reach it by."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from aws_rft_sdk._checks import check_number, check_type
from aws_rft_sdk._hosts import check_url, is_loopback
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.http_server import HOST
from aws_rft_sdk.settings import RUNTIME_KEY_VARIABLE, check_key, runtime_key

# An address of the block for documentation. Connecting a UDP socket sends nothing. It only chooses a route.
_ELSEWHERE = ("192.0.2.1", 9)


@dataclass(frozen=True)
class Address:
    """The address of a runtime. Its repr hides the key. See `LocalRuntime` for the fields.

    Raises:
        ConfigurationError: A field has a value that it cannot have. The text names the field.
    """

    host: str = HOST
    port: int = 0
    key: str | None = field(default=None, repr=False)
    certfile: str | Path | None = None
    keyfile: str | Path | None = None
    public_url: str | None = None

    def __post_init__(self) -> None:
        check_type("host", self.host, str, "an address or a host name, for example '0.0.0.0'")
        if not _is_address(self.host) and (not self.host or any(character in self.host for character in "/: []")):
            raise ConfigurationError(f"host is {self.host!r:.80}; it must be an address or a host name without a port")
        check_number("port", self.port, low=0, high=65535, whole=True)
        self._check_key()
        self._check_tls()
        if self.public_url is not None:
            check_type("public_url", self.public_url, str, "a URL")
            if _is_any_address(urlsplit(check_url(self.public_url, "public_url")).hostname or ""):
                raise ConfigurationError(
                    f"public_url is {self.public_url!r:.80}; no other machine can reach that address. Name the address "
                    "or the host name that agents reach this machine by"
                )

    def _check_key(self) -> None:
        given: object = self.key
        if given is not None:
            # Its value is in no message.
            check_key(given if isinstance(given, str) else "", "the runtime's key")
        elif not is_loopback(self.host):
            key = runtime_key()
            if key is None:
                raise ConfigurationError(
                    f"host={self.host} can be reached from other machines, so the runtime needs a key that its callers "
                    f"present: give --key-file FILE, --key KEY or key=, or set {RUNTIME_KEY_VARIABLE}"
                )
            object.__setattr__(self, "key", key)

    def _check_tls(self) -> None:
        """Load the certificate, so that a wrong file is found before anything is bound."""
        given = {"certfile": self.certfile, "keyfile": self.keyfile}
        for name, value in given.items():
            if value is not None:
                check_type(name, value, (str, Path), "the path of a PEM file")
        if self.certfile is None and self.keyfile is None:
            return
        if self.certfile is None or self.keyfile is None:
            missing = next(name for name, value in given.items() if value is None)
            raise ConfigurationError(f"TLS needs both certfile and keyfile; give {missing} (--{missing}) too")
        for name, path in (("certfile", self.certfile), ("keyfile", self.keyfile)):
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise ConfigurationError(f"{name} {path} cannot be read: {error.strerror}") from error
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certfile, self.keyfile, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigurationError(
                f"certfile {self.certfile} and keyfile {self.keyfile} cannot be used for TLS ({error}). They must be "
                "PEM files: a certificate, and its private key without a password"
            ) from error

    def own_hosts(self) -> tuple[str, ...] | None:
        """Return the names that a browser may reach this runtime by, besides loopback.

        Returns None if there is a key. Then any name is good, since a foreign page does not know the key.
        """
        if self.key is not None:
            return None
        named = "" if self.public_url is None else urlsplit(self.public_url).hostname
        return (self.host, *([named] if named else []))

    def url(self, port: int) -> str:
        """Return the base URL that payloads name, without a trailing slash, for a runtime that listens on this port."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        host = _address_of_this_machine() if _is_any_address(self.host) else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"{'http' if self.certfile is None else 'https'}://{shown}:{port}"


def _no_password() -> str:
    raise ValueError("the private key has a password")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_any_address(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified


def _address_of_this_machine() -> str:
    """Return the address by which others most likely reach this machine: that of its default route.

    Returns the host name if there is no such route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])
