"""AWS credentials and what is signed with them: requests, and bearer tokens.

One botocore session serves the whole process. It refreshes temporary credentials by itself; they are read anew for
every signature and never kept for a client's life.
"""

from __future__ import annotations

import base64
import functools
import importlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aws_rft_sdk._fork import in_forked_child
from aws_rft_sdk.errors import CredentialsError
from aws_rft_sdk.wire import SIGNING_NAME

if TYPE_CHECKING:
    from requests import PreparedRequest

TOKEN_PREFIX = f"{SIGNING_NAME}-api-key-"
"""How every token for the job runtime begins."""
TOKEN_LIFETIME_SECONDS = 43_200
"""Longest validity that the service accepts; a token also ends with the credentials it was made from."""
TOKEN_CACHE_SECONDS = 300.0
_NETWORK_PROVIDERS = ("container-role", "iam-role")


class Keys(NamedTuple):
    """One consistent set of AWS credentials, frozen at one moment. Its repr hides the secrets."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Keys(access_key={self.access_key[:4]}..., secret_key=<hidden>, token=<hidden>)"


class CredentialSource(Protocol):
    """Something that can be asked for credentials again and again: a botocore or boto3 session."""

    def get_credentials(self) -> Any:
        """Return botocore credentials, None when there are none."""


class Credentials:
    """Credentials of one source, read anew for each signature.

    Args:
        source: A botocore or boto3 session; None for one session of botocore's own, shared by the process.
        network: Whether providers that ask a metadata service over the network may be used. Off for a runtime on this
            machine, which must work where there is no such service and no AWS account.
        clock: Monotonic clock in seconds, for the age of cached tokens.

    Concurrency: safe from several threads.
    """

    def __init__(
        self,
        source: CredentialSource | None = None,
        *,
        network: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._given = source
        self._network = network
        self._clock = clock
        self._lock = threading.Lock()  # building a session and resolving its providers is not thread-safe
        self._session: CredentialSource | None = source
        self._tokens: dict[tuple[Keys, str, str], tuple[str, float]] = {}
        self.generation = 0
        """How often `refresh` has made everything be loaded anew."""

    def keys(self) -> Keys | None:
        """Return the credentials of this moment, None when there are none.

        Raises:
            CredentialsError: There are some, and they cannot be loaded or refreshed.
        """
        return self._load()[0]

    def _load(self) -> tuple[Keys | None, float | None]:
        """Return the credentials of this moment and the seconds until they end, None for no known end."""
        try:
            with self._lock:
                if self._session is None:
                    self._session = _new_session(self._network)
                credentials = self._session.get_credentials()
            frozen = credentials.get_frozen_credentials() if credentials is not None else None
        except Exception as error:  # of botocore, of a provider's network call, of a session of the user's own
            name = type(error).__name__  # its text may quote what a credential_process printed
            raise CredentialsError(
                f"AWS credentials could not be loaded: {name}. Check the profile that AWS_PROFILE names and the files "
                "~/.aws/config and ~/.aws/credentials, or log in again, for example with `aws sso login`"
            ) from error
        if frozen is None or not frozen.access_key:
            return None, None
        # botocore keeps the end of temporary credentials to itself.
        ends_at = getattr(credentials, "_expiry_time", None)
        remaining = (ends_at - datetime.now(tz=ends_at.tzinfo)).total_seconds() if ends_at is not None else None
        return Keys(frozen.access_key, frozen.secret_key, frozen.token), remaining

    def require_keys(self) -> Keys:
        """Return the credentials of this moment.

        Raises:
            CredentialsError: There are none, or they cannot be refreshed.
        """
        return self._required()[0]

    def _required(self) -> tuple[Keys, float | None]:
        keys, remaining = self._load()
        if keys is None:
            raise CredentialsError(
                "no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a profile with "
                "AWS_PROFILE, or pass session="
            )
        return keys, remaining

    def bearer_token(self, region: str, service: str = SIGNING_NAME) -> str:
        """Return a bearer token for a service in `region`, at most 300 s old and made from today's keys.

        The token ends with the keys, and after 12 h at the latest.

        Raises:
            CredentialsError: There are no credentials.
        """
        keys, remaining = self._required()
        now = self._clock()
        cached = self._tokens.get((keys, region, service))
        if cached is not None and now - cached[1] < TOKEN_CACHE_SECONDS:
            return cached[0]
        lifetime = TOKEN_LIFETIME_SECONDS if remaining is None else min(TOKEN_LIFETIME_SECONDS, max(1, int(remaining)))
        token = mint_token(keys, region, lifetime, service=service)
        # Replaced as a whole, so that tokens of keys that were rotated away do not pile up.
        self._tokens = {(keys, region, service): (token, now)}
        return token

    def refresh(self, generation: int | None = None) -> None:
        """Forget what is cached, so that the next signature uses newly loaded credentials.

        Args:
            generation: Value of `generation` when the credentials were read that turned out to be no good. If someone
                has refreshed since, nothing is done: of many calls that are refused at once, one renews. None for now.
        """
        with self._lock:
            if generation is None or generation == self.generation:
                self._tokens = {}
                self._session = self._given
                self.generation += 1


def _new_session(network: bool) -> CredentialSource:
    session: CredentialSource = _botocore_session().Session()
    if not network:
        resolver = session.get_component("credential_provider")  # type: ignore[attr-defined] # botocore's session
        for name in _NETWORK_PROVIDERS:
            resolver.remove(name)
    return session


def _botocore_session() -> Any:
    return importlib.import_module("botocore.session")


def warm_up() -> None:
    """Load what the first credentials and the first signature need. Reads none."""
    _botocore_session()
    _auth()


_shared: dict[bool, Credentials] = {}
_shared_lock = threading.Lock()


def shared_credentials(*, network: bool = True) -> Credentials:
    """Return the credentials that the whole process shares.

    Args:
        network: See `Credentials`; there is one shared instance for each value.
    """
    with _shared_lock:
        if network not in _shared:
            _shared[network] = Credentials(network=network)
        return _shared[network]


# --- signatures ------------------------------------------------------------------------------------------------------

_is_signing: ContextVar[bool] = ContextVar("aws_rft_sdk_is_signing", default=False)


def _hides_ours(record: logging.LogRecord) -> bool:
    return not _is_signing.get()


@functools.cache
def _auth() -> Any:
    """Return botocore's signers. At DEBUG they log the session token, so what we sign is kept from their log."""
    logging.getLogger("botocore.auth").addFilter(_hides_ours)
    return importlib.import_module("botocore.auth")


def _sign(make_signer: str, request: Any, keys: Keys, region: str, service: str, **options: Any) -> None:
    credentials = importlib.import_module("botocore.credentials").Credentials(*keys)
    token = _is_signing.set(True)
    try:
        getattr(_auth(), make_signer)(credentials, service, region, **options).add_auth(request)
    finally:
        _is_signing.reset(token)


def _request(**fields: Any) -> Any:
    return importlib.import_module("botocore.awsrequest").AWSRequest(**fields)


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    keys: Keys,
    region: str,
    service: str = SIGNING_NAME,
) -> dict[str, str]:
    """Sign a request with SigV4 for a service.

    Returns:
        `headers` and those that carry the signature, as a new dict. Nothing that was passed in is changed.
    """
    request = _request(method=method, url=url, headers=dict(headers), data=body)
    _sign("SigV4Auth", request, keys, region, service)
    return dict(request.headers.items())


def mint_token(
    keys: Keys, region: str, lifetime_seconds: int = TOKEN_LIFETIME_SECONDS, *, service: str = SIGNING_NAME
) -> str:
    """Make a bearer token for a service: `sagemaker` (the job runtime) or `bedrock`.

    Nothing is sent. The token holds the session token, so treat it as a credential.
    """
    host = f"{service}.amazonaws.com"  # signed, never called
    request = _request(
        method="POST", url=f"https://{host}/", params={"Action": "CallWithBearerToken"}, headers={"host": host}
    )
    _sign("SigV4QueryAuth", request, keys, region, service, expires=lifetime_seconds)
    presigned = f"{request.url.removeprefix('https://')}&Version=1"
    return f"{service}-api-key-{base64.b64encode(presigned.encode()).decode()}"


class SigV4:
    """Signs a request of `requests` with credentials read at that moment."""

    def __init__(self, credentials: Credentials, region: str) -> None:
        self._credentials = credentials
        self._region = region

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the signature's headers to `request`."""
        body = request.body or b""
        request.headers.update(
            sign(
                request.method or "POST",
                request.url or "",
                # Only what identifies the request is signed; a proxy may change the rest.
                {name: value for name, value in request.headers.items() if is_signed(name)},
                body.encode() if isinstance(body, str) else bytes(body),
                keys=self._credentials.require_keys(),
                region=self._region,
            )
        )
        return request


def is_signed(header: str) -> bool:
    """Whether a header of our requests belongs under their signature: what identifies the request."""
    return header.lower() == "content-type" or header.lower().startswith("x-")


class Bearer:
    """Authenticates a request of `requests` with a bearer token."""

    def __init__(self, credentials: Credentials, region: str) -> None:
        self._credentials = credentials
        self._region = region

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the token to `request`."""
        request.headers["Authorization"] = f"Bearer {self._credentials.bearer_token(self._region)}"
        return request


class RuntimeKey:
    """Authenticates a request of `requests` with the key of a local runtime. Its repr hides the key."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the key to `request`."""
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


@in_forked_child
def _forget_after_fork() -> None:
    # A lock that another thread held while forking would stay locked for ever in the child.
    global _shared_lock
    _shared_lock = threading.Lock()
    _shared.clear()
