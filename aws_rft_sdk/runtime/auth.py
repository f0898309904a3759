"""Verifies SigV4 signatures and bearer tokens of the requests that arrive.

Written from the specification of Signature Version 4. It shares no step with the code that signs, so the two check each
other. The steps have the names that the specification gives them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from calendar import timegm
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from aws_rft_sdk.credentials import (
    TOKEN_LIFETIME_SECONDS,
    TOKEN_PREFIX,
    Credentials,
    CredentialSource,
    Keys,
    shared_credentials,
)
from aws_rft_sdk.errors import ConfigurationError, CredentialsError
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.settings import ENDPOINT_VARIABLE, RUNTIME_KEY_VARIABLE
from aws_rft_sdk.wire import SIGNING_NAME

AuthMode = Literal["any", "sigv4", "bearer", "none"]
MODES: tuple[AuthMode, ...] = ("any", "sigv4", "bearer", "none")
MAX_SKEW_SECONDS = 300
_CHALLENGE = (b"www-authenticate", b'Bearer realm="aws-rft runtime"')

_ALGORITHM = "AWS4-HMAC-SHA256"
_TERMINATOR = "aws4_request"
_TOKEN_ACTION = "CallWithBearerToken"  # noqa: S105 - an action, no secret
_AUTHORIZATION = re.compile(
    rf"{_ALGORITHM} +Credential=([^, ]+), *SignedHeaders=([^, ]+), *Signature=([0-9a-f]{{64}})", re.ASCII
)
_UNSIGNED_PAYLOADS = ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
_EMPTY_HASH = hashlib.sha256(b"").hexdigest()


class Signing(NamedTuple):
    """What the signatures and bearer tokens of a service are made for."""

    service: str
    token_service: str
    token_host: str
    token_prefix: str
    is_s3: bool = False
    """Whether paths are encoded once only, and bodies need not be signed, as S3 has it."""


RUNTIME_SIGNING = Signing(SIGNING_NAME, SIGNING_NAME, "sagemaker.amazonaws.com", TOKEN_PREFIX)


class Scope(NamedTuple):
    """The credential scope of a signature."""

    access_key: str
    date: str
    region: str
    service: str


def key_refusal(key: str, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
    """Return the answer to a call that does not present the runtime's key. Returns None if the call presents it.

    The answer is a 403 with a challenge, by which `is_key_refusal` knows a runtime with a key from other servers.
    """
    authorization = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, presented = authorization.partition(b" ")
    # In constant time: how long it takes must not tell how much of a guess is right.
    is_right = hmac.compare_digest(presented.strip(), key.encode())
    if scheme.lower() == b"bearer" and is_right:
        return None
    return Refusal(
        403,
        f"The call does not present this runtime's key. Set {RUNTIME_KEY_VARIABLE} to the key and {ENDPOINT_VARIABLE} "
        "to this runtime's URL. Other clients give the key as their API key",
        headers=[_CHALLENGE],
    )


def is_key_refusal(status: int, challenge: str) -> bool:
    """Return whether an answer is that of a runtime which asks for its key.

    Args:
        status: Its status.
        challenge: Its `WWW-Authenticate` header, "" for none.
    """
    return status == 403 and challenge == _CHALLENGE[1].decode()


def key_reader(credentials: Keys | Credentials | CredentialSource | None) -> Callable[[], Keys | None]:
    """Return a function that reads the AWS credentials which signatures are verified with. See `LocalRuntime`.

    Raises:
        ConfigurationError: `credentials` is something else.
    """
    if isinstance(credentials, Keys):
        keys = credentials
        return lambda: keys
    if isinstance(credentials, Credentials):
        return credentials.keys
    if credentials is None:
        return lambda: shared_credentials(network=False).keys()
    if not callable(getattr(credentials, "get_credentials", None)):
        raise ConfigurationError(
            f"credentials must be Keys, Credentials, or a botocore or boto3 session, not a {type(credentials).__name__}"
        )
    return Credentials(credentials).keys


class Verifier:
    """Decides whether a request may pass.

    Args:
        mode: "any" verifies every signature and token that arrives, and accepts requests without one. "sigv4" and
            "bearer" demand that form. "none" verifies nothing.
        region: The region that signatures must be made for. None accepts every region.
        keys: Returns the credentials that signatures must be made with, or None if there are none. Called for each
            signed request, so rotated credentials count at once.
        clock: Returns seconds since the epoch.
        signing: The service that signatures and tokens must be made for.
        strangers: Whether signatures of other access keys than that of `keys` pass. Their form, scope and age are
            checked, but the signature itself cannot be.
    """

    def __init__(
        self,
        mode: AuthMode,
        region: str | None,
        keys: Callable[[], Keys | None],
        clock: Callable[[], float] = time.time,
        *,
        signing: Signing = RUNTIME_SIGNING,
        strangers: bool = False,
    ) -> None:
        self._signing = signing
        self._strangers = strangers
        self._mode = mode
        self._region = region
        self._read_keys = keys
        self._clock = clock
        # For each valid bearer token: the keys that verified it, and its end in seconds since the epoch.
        self._tokens: dict[str, tuple[Keys | None, float]] = {}

    def verify(
        self, method: str, raw_path: bytes, query: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> None:
        """Return if the request may pass.

        Args:
            method: HTTP method.
            raw_path: Path of the request line, percent-encoded.
            query: Query string of the request line, without the question mark.
            headers: All headers with lower-case names, in order.
            body: The whole body.

        Raises:
            Refusal: 403. The message says what is wrong. It holds neither a secret nor the expected signature.
        """
        if self._mode == "none":
            return
        authorization = next((value.decode("latin-1") for name, value in headers if name == b"authorization"), "")
        scheme, _, credential = authorization.partition(" ")
        is_token = scheme.lower() == "bearer" and credential.strip().startswith(self._signing.token_prefix)
        is_signed = scheme == _ALGORITHM
        if is_signed and self._mode != "bearer":
            self._verify_signature(authorization, method, raw_path, query, headers, body)
        elif is_token and self._mode != "sigv4":
            self._verify_token(credential.strip())
        elif b"X-Amz-Signature=" in query:
            raise Refusal(403, "Query-signed requests are not accepted: sign the headers, or send a bearer token")
        elif self._mode != "any":
            prefix = self._signing.token_prefix
            wanted = "a SigV4 signature" if self._mode == "sigv4" else f"a bearer token that begins {prefix}"
            raise Refusal(403, f"The request must carry {wanted} in its Authorization header")

    # --- signed headers ----------------------------------------------------------------------------------------------

    def _verify_signature(
        self,
        authorization: str,
        method: str,
        raw_path: bytes,
        query: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
    ) -> None:
        match = _AUTHORIZATION.fullmatch(authorization.strip())
        if match is None:
            raise Refusal(
                403, f"The Authorization header is not of the form {_ALGORITHM} Credential, SignedHeaders, ..."
            )
        scope, signed = parse_scope(match[1]), match[2].split(";")
        values = _collect(headers)
        for name in values:
            if name not in signed and (name == "host" or name.startswith("x-amz-")):
                raise Refusal(403, f"The header {name} must be signed")
        missing = [name for name in signed if name not in values]
        if missing:
            raise Refusal(403, f"The signed header {missing[0]:.80} is missing from the request")
        timestamp = values.get("x-amz-date", "")
        self._check_scope(scope, timestamp, self._signing.service)
        if abs(_epoch(timestamp) - self._clock()) > MAX_SKEW_SECONDS:
            raise Refusal(403, "Signature expired or not yet valid: its date is more than 5 minutes from the runtime's")
        payload_hash = hashlib.sha256(body).hexdigest()
        given = values.get("x-amz-content-sha256", payload_hash)
        if given != payload_hash and not (self._signing.is_s3 and given in _UNSIGNED_PAYLOADS):
            raise Refusal(403, "The body does not match the X-Amz-Content-SHA256 header")
        uri = raw_path.decode("latin-1") if self._signing.is_s3 else canonical_uri(raw_path)
        request = canonical_request(method, uri, query, [(name, values[name]) for name in signed], given)
        keys = self._matching_keys(scope, values.get("x-amz-security-token"))
        if keys is not None:
            self._check_signature(match[3], signature(keys.secret_key, scope, timestamp, request))

    # --- bearer tokens -----------------------------------------------------------------------------------------------

    def _verify_token(self, token: str) -> None:
        now = self._clock()
        known = self._tokens.get(token)
        if known is not None and now < known[1] and known[0] == self._current_keys():
            return
        try:
            presigned = base64.b64decode(token[len(self._signing.token_prefix) :], validate=True).decode("ascii")
        except (binascii.Error, UnicodeDecodeError):
            raise Refusal(403, "The bearer token is not base64 of a presigned request") from None
        host, _, query = presigned.partition("/?")
        pairs = [pair.partition("=")[::2] for pair in query.split("&")]
        fields = {name: unquote_to_bytes(value).decode("utf-8", "replace") for name, value in pairs}
        if host != self._signing.token_host or fields.get("Action") != _TOKEN_ACTION or len(fields) != len(pairs):
            raise Refusal(403, f"The bearer token is not a presigned {_TOKEN_ACTION} request")
        scope = parse_scope(fields.get("X-Amz-Credential", ""))
        timestamp = fields.get("X-Amz-Date", "")
        self._check_scope(scope, timestamp, self._signing.token_service)
        begins, ends = _lifetime(timestamp, fields.get("X-Amz-Expires", ""))
        if now >= ends:
            raise Refusal(403, "The bearer token has expired; make a new one")
        if begins - now > MAX_SKEW_SECONDS:
            raise Refusal(403, "The bearer token is not valid yet; check the clock of the machine that made it")
        keys = self._matching_keys(scope, fields.get("X-Amz-Security-Token"))
        # The version is appended after signing, and a signature cannot sign itself.
        signed = "&".join(f"{n}={v}" for n, v in pairs if n not in ("X-Amz-Signature", "Version"))
        if fields.get("X-Amz-Algorithm") != _ALGORITHM or fields.get("X-Amz-SignedHeaders") != "host":
            raise Refusal(403, "The bearer token is signed in a way that the service does not accept")
        request = canonical_request("POST", "/", signed.encode(), [("host", host)], _EMPTY_HASH)
        if keys is not None:
            given = fields.get("X-Amz-Signature", "")
            self._check_signature(given, signature(keys.secret_key, scope, timestamp, request))
        if len(self._tokens) >= 1024:
            self._tokens.clear()
        self._tokens[token] = (keys, ends)

    # --- both --------------------------------------------------------------------------------------------------------

    def _check_scope(self, scope: Scope, timestamp: str, service: str) -> None:
        if scope.service != service:
            raise Refusal(403, f"Credential should be scoped to service {service}, not {scope.service!r:.80}")
        if self._region is not None and scope.region != self._region:
            raise Refusal(403, f"Credential should be scoped to region {self._region}, not {scope.region!r:.80}")
        if _epoch(timestamp) and scope.date != timestamp[:8]:
            raise Refusal(403, "The date in the credential scope is not that of the signature")

    def _matching_keys(self, scope: Scope, session_token: str | None) -> Keys | None:
        """Return the keys that the request must be signed with, or None if it is signed with a stranger's."""
        keys = self._current_keys()
        if self._strangers and (keys is None or not _equal(keys.access_key, scope.access_key)):
            return None
        if keys is None:
            raise Refusal(
                403,
                "The request is signed, and the runtime has no credentials to verify it with; give it some with "
                'credentials= or AWS_ACCESS_KEY_ID, or start it with auth="none"',
            )
        if not _equal(keys.access_key, scope.access_key):
            raise Refusal(403, "The request is signed with an access key that is not the runtime's")
        if keys.token and not session_token:
            raise Refusal(403, "The session token is missing: the access key is a temporary one")
        if not _equal(keys.token or "", session_token or ""):
            raise Refusal(403, "The session token does not belong to the access key")
        return keys

    def _current_keys(self) -> Keys | None:
        try:
            return self._read_keys()
        except CredentialsError as error:
            raise Refusal(403, f"The runtime's own credentials cannot be used: {error}") from error

    def _check_signature(self, given: str, expected: str) -> None:
        if not _equal(given, expected):
            raise Refusal(
                403,
                "The signature does not match: the secret key is another one, or the request was changed after signing",
            )


# --- the steps of the specification ----------------------------------------------------------------------------------


def parse_scope(credential: str) -> Scope:
    """Read `<access key>/<date>/<region>/<service>/aws4_request`.

    Raises:
        Refusal: 403 if it has another form.
    """
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != _TERMINATOR or not all(parts):
        raise Refusal(403, "The credential is not of the form <access key>/<date>/<region>/<service>/aws4_request")
    return Scope(*parts[:4])


def canonical_request(
    method: str, uri: str, query: bytes, signed_headers: Sequence[tuple[str, str]], payload_hash: str
) -> str:
    """Return the canonical request.

    Args:
        method: HTTP method.
        uri: Canonical path: `canonical_uri`, or for S3 the percent-encoded path as it arrived.
        query: Percent-encoded query string.
        signed_headers: Lower-case names and joined values of the signed headers, in the order signed.
        payload_hash: Hexadecimal SHA-256 of the body.
    """
    headers = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in signed_headers)
    names = ";".join(name for name, _ in signed_headers)
    return f"{method}\n{uri}\n{canonical_query(query)}\n{headers}\n{names}\n{payload_hash}"


def canonical_uri(raw_path: bytes) -> str:
    """Return the path without dot segments and empty ones, each segment percent-encoded once more."""
    segments: list[bytes] = []
    for segment in raw_path.split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(segment)
    trailing = "/" if segments and raw_path.endswith(b"/") else ""
    return "/" + "/".join(quote(segment, safe="-_.~") for segment in segments) + trailing


def canonical_query(query: bytes) -> str:
    """Return the query's pairs encoded uniformly and sorted by name, then value."""
    pairs = []
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            pairs.append((quote(unquote_to_bytes(name), safe="-_.~"), quote(unquote_to_bytes(value), safe="-_.~")))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def signature(secret_key: str, scope: Scope, timestamp: str, request: str) -> str:
    """Return the signature of a canonical request, in hexadecimal."""
    scope_text = f"{scope.date}/{scope.region}/{scope.service}/{_TERMINATOR}"
    digest = hashlib.sha256(request.encode("utf-8", "surrogateescape")).hexdigest()
    string_to_sign = f"{_ALGORITHM}\n{timestamp}\n{scope_text}\n{digest}"
    key = f"AWS4{secret_key}".encode()
    for part in (scope.date, scope.region, scope.service, _TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, string_to_sign.encode(), "sha256").hex()


def _collect(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    collected: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1"), value.decode("utf-8", "surrogateescape").strip()
        collected[key] = f"{collected[key]},{text}" if key in collected else text
    return collected


def _lifetime(timestamp: str, expires: str) -> tuple[float, float]:
    if not re.fullmatch("[0-9]{1,6}", expires) or not 0 < int(expires) <= TOKEN_LIFETIME_SECONDS:
        raise Refusal(403, f"The bearer token's lifetime must be from 1 to {TOKEN_LIFETIME_SECONDS} seconds")
    begins = _epoch(timestamp)
    return begins, begins + int(expires)


def _epoch(timestamp: str) -> float:
    try:
        return float(timegm(time.strptime(timestamp, "%Y%m%dT%H%M%SZ")))
    except ValueError:
        raise Refusal(403, "The date of the signature is missing or not of the form 20260131T235959Z") from None


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode("utf-8", "surrogateescape"))
