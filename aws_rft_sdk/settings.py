"""Where settings come from: the only reader of the environment, and only when a value is needed.

Order everywhere: explicit argument, payload, environment, default. `docs/settings.md` lists the variables.

An endpoint that arrives in a payload is untrusted input. It is used only if its host is the service's own, loopback, or
listed by the operator; endpoints given in code or in the environment are the operator's own words and are only checked
for form.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from aws_rft_sdk._hosts import (
    check_url,
    dual_stack_suffix,
    is_listed,
    is_loopback_url,
    is_service_host,
    mantle_region,
    printable,
    trust_problem,
)
from aws_rft_sdk.errors import ConfigurationError, UntrustedEndpointError
from aws_rft_sdk.types import RolloutMetadata
from aws_rft_sdk.wire import Api, job_region

API_VARIABLE = "RFT_API"
AUTH_VARIABLE = "RFT_AUTH"
ENDPOINT_VARIABLE = "RFT_RUNTIME_ENDPOINT"
STAGE_VARIABLE = "RFT_STAGE"
TRUSTED_ENDPOINTS_VARIABLE = "RFT_TRUSTED_ENDPOINTS"
PAYLOAD = "payload"
"""`Endpoint.source` of an endpoint that only a payload names: untrusted input."""
ONLY_LOOPBACK = "payload, no runtime is configured"
"""`Endpoint.source` of a loopback endpoint that only a payload names, where the operator names no endpoint at all."""
LISTED = "payload, listed by the operator"
"""`Endpoint.source` of an endpoint that a payload names and the operator has listed or configured."""
BEDROCK_KEY_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
OUTBOX_VARIABLE = "RFT_OUTBOX"
RUNTIME_KEY_VARIABLE = "RFT_RUNTIME_KEY"
WORKER_URL_VARIABLE = "RFT_WORKER_URL"
WORKER_KEY_VARIABLE = "RFT_WORKER_KEY"
WORKER_QUEUE_VARIABLE = "RFT_WORKER_QUEUE_URL"
RANK_VARIABLE = "RANK"
REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
CA_BUNDLE_VARIABLES = ("RFT_CA_BUNDLE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_CARRIED_VARIABLES = (
    *(API_VARIABLE, AUTH_VARIABLE, ENDPOINT_VARIABLE, STAGE_VARIABLE, TRUSTED_ENDPOINTS_VARIABLE),
    *(RUNTIME_KEY_VARIABLE, *REGION_VARIABLES),
)

Auth = Literal["sigv4", "bearer"]
"""How requests are authenticated: each one signed with SigV4, or with a bearer token."""

_ALPHA_HOST_PREFIX = "finetuning-job-runtime."
_GA_HOST = re.compile(r"(^|\.)job-runtime\.([a-z0-9-]+\.)?sagemaker(-fips)?\.")


class Endpoint(NamedTuple):
    """Where the runtime stands, and which contract it speaks."""

    url: str
    """Base URL without a trailing slash."""
    api: Api
    region: str
    """AWS region that requests are signed for."""
    source: str
    """Where `url` came from, for messages."""

    @property
    def is_loopback(self) -> bool:
        """Whether the endpoint is on this machine, so that nothing leaves it."""
        return is_loopback_url(self.url)


def resolve_auth(auth: Auth | None = None) -> Auth:
    """Return how requests are authenticated: the argument, else `RFT_AUTH`, else "sigv4".

    Raises:
        ConfigurationError: The argument or the variable is neither "sigv4" nor "bearer".
    """
    value, source = (auth, "auth") if auth is not None else (environment(AUTH_VARIABLE) or "sigv4", AUTH_VARIABLE)
    for known in get_args(Auth):
        if value == known:
            return known  # type: ignore[no-any-return] # get_args() knows no types
    raise ConfigurationError(f"{source} is {value!r:.80}; it must be 'sigv4' or 'bearer'")


def auth_at(endpoint: Endpoint, auth: Auth, *, has_keys: bool) -> Auth | None:
    """Return how requests to this endpoint are authenticated.

    Whoever receives a bearer token can use it at the real service. So a loopback endpoint that only a payload names
    gets a SigV4 signature instead, which names the host and ends after minutes. List the endpoint in
    `RFT_TRUSTED_ENDPOINTS` or `trusted_endpoints=`, or set `RFT_RUNTIME_ENDPOINT` to it, to send it bearer tokens.

    Args:
        endpoint: Where the request goes.
        auth: What was asked for.
        has_keys: Whether there are AWS credentials.

    Returns:
        "sigv4" or "bearer". Returns None if requests go unsigned: on loopback, where there are no credentials.
    """
    if endpoint.is_loopback and not has_keys:
        return None
    return "sigv4" if endpoint.is_loopback and endpoint.source in (PAYLOAD, ONLY_LOOPBACK) else auth


def environment(name: str) -> str | None:
    """Return an environment variable, None when it is unset or empty."""
    return os.environ.get(name) or None


def carried(endpoint: str | None = None) -> dict[str, str]:
    """Return the environment variables that processes on other machines need to report rollouts as this process would.

    One of them may be a key, so keep them out of logs.

    Args:
        endpoint: The runtime that the operator named in code. The other processes find it in `RFT_RUNTIME_ENDPOINT`.
    """
    known = {name: value for name in _CARRIED_VARIABLES if (value := environment(name))}
    return known if endpoint is None else {**known, ENDPOINT_VARIABLE: endpoint}


def is_main_process() -> bool:
    """Return whether this process is alone, or the first one that `accelerate launch` or `torchrun` has started."""
    return environment(RANK_VARIABLE) in (None, "0")


def worker_key() -> str | None:
    """Return the bearer key of HTTP workers, None when there is none.

    Raises:
        ConfigurationError: It cannot be one.
    """
    return _key(WORKER_KEY_VARIABLE)


def runtime_key() -> str | None:
    """Return the bearer key of a local runtime that this machine serves, None when there is none.

    Raises:
        ConfigurationError: It cannot be one.
    """
    return _key(RUNTIME_KEY_VARIABLE)


def runtime_key_for(endpoint: Endpoint) -> str | None:
    """Return `RFT_RUNTIME_KEY` if requests to this endpoint carry it, else None.

    The key goes only to a runtime that the operator named: in code, in `RFT_RUNTIME_ENDPOINT`, in
    `RFT_TRUSTED_ENDPOINTS` or in `trusted_endpoints=`. If the operator named none, the key can only be that of a
    runtime on this machine, so a loopback endpoint in a payload receives it. The service's own hosts never do.

    Raises:
        ConfigurationError: The key cannot be one.
    """
    source = endpoint.source
    if source == ONLY_LOOPBACK:  # the outbox may have kept it from a time when no runtime was configured
        source = _payload_source(endpoint.url, ())
    named = source in ("endpoint=", ENDPOINT_VARIABLE, LISTED, ONLY_LOOPBACK)
    return None if not named or is_service_host(urlsplit(endpoint.url).hostname or "") else runtime_key()


def runtime_key_at(url: str) -> str | None:
    """Return `RFT_RUNTIME_KEY` if a request to this URL carries it, else None. The rule is that of `runtime_key_for`.

    For clients that the user's code has pointed somewhere, maybe to an endpoint that a payload names.

    Raises:
        ConfigurationError: The key cannot be one.
    """
    if environment(RUNTIME_KEY_VARIABLE) is None:  # asked for each turn
        return None
    return runtime_key_for(Endpoint(url, Api.ALPHA, "", _payload_source(url, ())))


def bedrock_key() -> str | None:
    """Return the Bedrock API key of the user. Returns None if there is none, so that tokens are made from credentials.

    Raises:
        ConfigurationError: The key cannot be one.
    """
    return _key(BEDROCK_KEY_VARIABLE)


def _key(variable: str) -> str | None:
    key = environment(variable)
    return None if key is None else check_key(key, variable)


def ca_bundle() -> str | None:
    """Return the file or folder of the certificates that TLS servers must be signed with, None for the usual ones.

    It is the first of `RFT_CA_BUNDLE`, `AWS_CA_BUNDLE`, `REQUESTS_CA_BUNDLE` and `SSL_CERT_FILE` that is set.

    Raises:
        ConfigurationError: The variable names a file that does not exist.
    """
    name, path = next(((name, value) for name in CA_BUNDLE_VARIABLES if (value := environment(name))), ("", None))
    if path is not None and not os.path.exists(path):
        raise ConfigurationError(f"{name} names the CA bundle {path!r:.200}, which does not exist")
    return path


def check_key(key: str, source: str) -> str:
    """Return a bearer key if it travels in an HTTP header unchanged.

    Args:
        key: The key. It is in no message.
        source: Where it came from, for messages.

    Raises:
        ConfigurationError: It is empty, not printable ASCII, or has spaces or a line's end around it.
    """
    if not (key and key.isascii() and key.isprintable() and key == key.strip()):
        raise ConfigurationError(
            f"{source} must be printable ASCII, not empty, and without spaces or a line's end around it"
        )
    return key


@contextmanager
def overridden(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the body of a `with`, for code of others that reads them. Not for several threads.

    Args:
        values: The variables; what stood there before is restored.
    """
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def resolve_endpoint(
    metadata: RolloutMetadata,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    api: Api | str | None = None,
    trusted_endpoints: Iterable[str] = (),
) -> Endpoint:
    """Find the runtime of a rollout.

    The URL is the argument, else the payload's, else `RFT_RUNTIME_ENDPOINT`, else the public service in the region.
    The region is the argument, else the payload's, else the job ARN's, else the environment's. The generation follows
    the host of the service's own endpoints; elsewhere it is the argument, else `RFT_API`, else alpha.

    Args:
        metadata: The rollout; its endpoint is untrusted.
        endpoint: Base URL that overrides all others. Trusted, since it comes from code.
        region: AWS region that overrides all others.
        api: "alpha" or "ga"; None to find out.
        trusted_endpoints: Hosts, `host:port`s or URLs that a payload may name besides the service's and loopback,
            added to those in `RFT_TRUSTED_ENDPOINTS` (comma-separated).

    Raises:
        UntrustedEndpointError: The payload names an endpoint that the policy does not allow.
        ConfigurationError: An endpoint is no URL, there is no region, or the generation has another name.
    """
    region = region or metadata.region or job_region(metadata.job_arn) or _environment_region()
    if region is None:
        raise ConfigurationError(
            f"no AWS region: the job ARN holds none; pass region= or set {' or '.join(REGION_VARIABLES)}"
        )
    url, source = _endpoint_url(metadata, endpoint, region, trusted_endpoints)
    return Endpoint(url.rstrip("/"), _api_of(urlsplit(url).hostname or "", api), region, source)


def _endpoint_url(
    metadata: RolloutMetadata, endpoint: str | None, region: str, trusted_endpoints: Iterable[str]
) -> tuple[str, str]:
    if endpoint:
        return check_url(endpoint, "endpoint="), "endpoint="
    if metadata.endpoint:
        check_trusted(metadata.endpoint, trusted_endpoints)
        return metadata.endpoint, _payload_source(metadata.endpoint, trusted_endpoints)
    if configured := environment(ENDPOINT_VARIABLE):
        return check_url(configured, ENDPOINT_VARIABLE), ENDPOINT_VARIABLE
    return default_endpoint(region, environment(STAGE_VARIABLE)), "default"


def _payload_source(url: str, trusted_endpoints: Iterable[str]) -> str:
    configured = environment(ENDPOINT_VARIABLE)
    named = [*_trusted(trusted_endpoints), *([configured] if configured else [])]
    if any(is_listed(url, item) for item in named):
        return LISTED
    return PAYLOAD if named or not is_loopback_url(url) else ONLY_LOOPBACK


def _environment_region() -> str | None:
    return next((value for name in REGION_VARIABLES if (value := environment(name))), None)


def mantle_url(region: str, base_url: str | None = None) -> str:
    """Return the base URL of Bedrock's OpenAI-compatible API. It ends in `/v1`.

    AWS credentials may be sent to it: it is https on a host of the service or on one that the operator has listed in
    `RFT_TRUSTED_ENDPOINTS`, or it is on loopback.

    Args:
        region: AWS region of the service.
        base_url: Another place for the API, with or without `/v1`. None for the public one in the region.

    Raises:
        UntrustedEndpointError: `base_url` must not receive AWS credentials.
        ConfigurationError: `base_url` is no URL, the region is none, or the two name different regions.
    """
    suffix = dual_stack_suffix(region)
    if suffix is None:
        raise ConfigurationError(f"region is {region!r:.80}, which is no AWS region; use one such as 'us-west-2'")
    if base_url is None:
        return f"https://bedrock-mantle.{region}.{suffix}/v1"
    url = check_url(base_url, "base_url=").rstrip("/")
    if problem := trust_problem(url, _trusted(()), None, is_service=lambda host: mantle_region(host) is not None):
        raise UntrustedEndpointError(
            f"no AWS credentials are sent to base_url {printable(url)}: {problem}. If the host is yours and has https, "
            f"list it in {TRUSTED_ENDPOINTS_VARIABLE}; or pass client=openai.OpenAI(base_url=..., api_key=...)"
        )
    at_host = mantle_region(urlsplit(url).hostname or "")
    if at_host not in (None, region):
        raise ConfigurationError(f"base_url is in {at_host} and region is {region!r:.80}; pass region={at_host!r}")
    return url if url.endswith("/v1") else f"{url}/v1"


def default_endpoint(region: str, stage: str | None = None) -> str:
    """Return the public endpoint of the job runtime in a region; `stage` is None or "prod" for the public service."""
    suffix = dual_stack_suffix(region)
    if suffix is None:
        raise ConfigurationError(f"{region!r} is not an AWS region; check region= and the job ARN")
    if stage and not re.fullmatch(r"[a-z0-9-]+", stage):
        raise ConfigurationError(f"{STAGE_VARIABLE} is {stage!r}; it may hold letters, digits and hyphens")
    label = f"{stage}." if stage and stage != "prod" else ""
    return f"https://job-runtime.{label}sagemaker.{region}.{suffix}"


def _api_of(host: str, api: Api | str | None) -> Api:
    if host.startswith(_ALPHA_HOST_PREFIX):
        return Api.ALPHA
    if _GA_HOST.search(host):
        return Api.GA
    value = api or environment(API_VARIABLE) or Api.ALPHA
    try:
        return Api(value)
    except ValueError:
        raise ConfigurationError(
            f"the generation of the runtime is {value!r}; api= and {API_VARIABLE} must be one of "
            f"{', '.join(item.value for item in Api)}"
        ) from None


def check_trusted(url: str, trusted_endpoints: Iterable[str] = ()) -> None:
    """Refuse an endpoint from a payload that credentials must not be sent to.

    Allowed are https URLs without userinfo, query or fragment, on the default port, of the service's own hosts (VPC
    endpoints and FIPS hosts included); https URLs of what the operator lists; http and https on loopback, any port; and
    the host and port of `RFT_RUNTIME_ENDPOINT`, which may be a plain http URL.

    Args:
        url: The endpoint as the payload names it.
        trusted_endpoints: Hosts, `host:port`s or URLs that are allowed besides, added to `RFT_TRUSTED_ENDPOINTS`.

    Raises:
        UntrustedEndpointError: The endpoint is not allowed. Nothing was sent and no credential was read.
    """
    problem = trust_problem(url, _trusted(trusted_endpoints), environment(ENDPOINT_VARIABLE))
    if problem:
        raise UntrustedEndpointError(
            f"the payload's endpoint {printable(url)} is refused: {problem}. The https endpoint of a host of yours is "
            f"allowed once the host is listed in {TRUSTED_ENDPOINTS_VARIABLE} or trusted_endpoints=, and so is the "
            f"endpoint that {ENDPOINT_VARIABLE} is set to"
        )


def _trusted(trusted_endpoints: Iterable[str]) -> list[str]:
    """Return what the operator lists, in code and in the environment."""
    listed = (environment(TRUSTED_ENDPOINTS_VARIABLE) or "").split(",")
    return [*trusted_endpoints, *(item.strip() for item in listed if item.strip())]
