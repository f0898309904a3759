"""Where settings come from: the only reader of the environment, and only when a value is needed.

Order everywhere: explicit argument, payload, environment, default. `docs/settings.md` lists the variables.

An endpoint that arrives in a payload is untrusted input. It is used only if its host is the service's own, loopback, or
listed by the operator; endpoints given in code or in the environment are the operator's own words and are only checked
for form.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args
from urllib.parse import SplitResult, urlsplit

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
LISTED = "payload, listed by the operator"
"""`Endpoint.source` of an endpoint that a payload names and the operator has listed or configured."""
OUTBOX_VARIABLE = "RFT_OUTBOX"
WORKER_URL_VARIABLE = "RFT_WORKER_URL"
WORKER_KEY_VARIABLE = "RFT_WORKER_KEY"
WORKER_QUEUE_VARIABLE = "RFT_WORKER_QUEUE_URL"
REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
_CARRIED_VARIABLES = (
    *(API_VARIABLE, AUTH_VARIABLE, ENDPOINT_VARIABLE, STAGE_VARIABLE, TRUSTED_ENDPOINTS_VARIABLE),
    *("RFT_RUNTIME_KEY", *REGION_VARIABLES),
)

Auth = Literal["sigv4", "bearer"]
"""How requests are authenticated: each one signed with SigV4, or with a bearer token."""

_ALPHA_HOST_PREFIX = "finetuning-job-runtime."
_GA_HOST = re.compile(r"(^|\.)job-runtime\.([a-z0-9-]+\.)?sagemaker(-fips)?\.")

# Suffix of the service's dual-stack hosts in each partition, by the form of the region's name.
_DUAL_STACK_SUFFIXES = (
    (re.compile(r"cn-\w+-\d+"), "api.amazonwebservices.com.cn"),
    (re.compile(r"eusc-\w+-\w+-\d+"), "api.amazonwebservices.eu"),
    (re.compile(r"us-isob-\w+-\d+"), "api.aws.scloud"),
    (re.compile(r"us-isof-\w+-\d+"), "api.aws.hci.ic.gov"),
    (re.compile(r"us-iso-\w+-\d+"), "api.aws.ic.gov"),
    (re.compile(r"eu-isoe-\w+-\d+"), "api.cloud-aws.adc-e.uk"),
    (re.compile(r"[a-z]{2}(-gov)?-[a-z]+-\d+"), "api.aws"),
)
# A host of the service: anything below sagemaker.<region>.<suffix>, which VPC endpoints and FIPS hosts are too.
_SERVICE_HOST = re.compile(r"(?:[a-z0-9][a-z0-9-]*\.)+sagemaker(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?P<suffix>.+)")
_VPC_ENDPOINT_HOST = re.compile(
    r"vpce-[a-z0-9-]+(?:\.[a-z0-9-]+)*\.sagemaker(?:-fips)?\.(?P<region>[a-z0-9-]+)\.vpce\.(?P<suffix>.+)"
)
# Suffix of VPC endpoints where the partition's is not amazonaws.com, by the suffix of its dual-stack hosts.
_VPC_ENDPOINT_SUFFIXES = {
    "api.amazonwebservices.com.cn": "amazonaws.com.cn",
    "api.amazonwebservices.eu": "amazonaws.eu",
    "api.aws.scloud": "sc2s.sgov.gov",
    "api.aws.hci.ic.gov": "csp.hci.ic.gov",
    "api.aws.ic.gov": "c2s.ic.gov",
    "api.cloud-aws.adc-e.uk": "cloud.adc-e.uk",
    "api.aws": "amazonaws.com",
}


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
        return _is_loopback(urlsplit(self.url).hostname or "")


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
    return "sigv4" if endpoint.is_loopback and endpoint.source == PAYLOAD else auth


def environment(name: str) -> str | None:
    """Return an environment variable, None when it is unset or empty."""
    return os.environ.get(name) or None


def carried() -> dict[str, str]:
    """Return the settings that processes on other machines need to report rollouts as this process would.

    There may be a key among them: keep them out of logs.
    """
    return {name: value for name in _CARRIED_VARIABLES if (value := environment(name))}


def worker_key() -> str | None:
    """Return the bearer key of HTTP workers, None when there is none.

    Raises:
        ConfigurationError: It cannot be one.
    """
    key = environment(WORKER_KEY_VARIABLE)
    return None if key is None else check_key(key, WORKER_KEY_VARIABLE)


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
        return _checked_form(endpoint, "endpoint="), "endpoint="
    if metadata.endpoint:
        check_trusted(metadata.endpoint, trusted_endpoints)
        return metadata.endpoint, LISTED if _is_vouched_for(metadata.endpoint, trusted_endpoints) else PAYLOAD
    if configured := environment(ENDPOINT_VARIABLE):
        return _checked_form(configured, ENDPOINT_VARIABLE), ENDPOINT_VARIABLE
    return default_endpoint(region, environment(STAGE_VARIABLE)), "default"


def _is_vouched_for(url: str, trusted_endpoints: Iterable[str]) -> bool:
    configured = environment(ENDPOINT_VARIABLE)
    items = [*_trusted(trusted_endpoints), *([configured] if configured else [])]
    return any(_is_listed(urlsplit(url), item) for item in items)


def _environment_region() -> str | None:
    return next((value for name in REGION_VARIABLES if (value := environment(name))), None)


def default_endpoint(region: str, stage: str | None = None) -> str:
    """Return the public endpoint of the job runtime in a region; `stage` is None or "prod" for the public service."""
    suffix = _dual_stack_suffix(region)
    if suffix is None:
        raise ConfigurationError(f"{region!r} is not an AWS region; check region= and the job ARN")
    if stage and not re.fullmatch(r"[a-z0-9-]+", stage):
        raise ConfigurationError(f"{STAGE_VARIABLE} is {stage!r}; it may hold letters, digits and hyphens")
    label = f"{stage}." if stage and stage != "prod" else ""
    return f"https://job-runtime.{label}sagemaker.{region}.{suffix}"


def _dual_stack_suffix(region: str) -> str | None:
    return next((suffix for form, suffix in _DUAL_STACK_SUFFIXES if form.fullmatch(region)), None)


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


def _checked_form(url: str, source: str) -> str:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError as error:
        raise ConfigurationError(f"{source} is not a URL: {error}") from error
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not _is_well_formed(parts.netloc)
        or parts.username is not None
        or "?" in url
        or "#" in url
    ):
        raise ConfigurationError(
            f"{source} must be a URL such as https://host or http://127.0.0.1:8080, without user, query or fragment"
        )
    return url


def check_trusted(url: str, trusted_endpoints: Iterable[str] = ()) -> None:
    """Refuse an endpoint from a payload that credentials must not be sent to.

    Allowed are https URLs without userinfo, query or fragment, on the default port, of the service's own hosts (VPC
    endpoints and FIPS hosts included); https URLs of what the operator lists; http and https on loopback, any port.

    Args:
        url: The endpoint as the payload names it.
        trusted_endpoints: Hosts, `host:port`s or URLs that are allowed besides, added to `RFT_TRUSTED_ENDPOINTS`.

    Raises:
        UntrustedEndpointError: The endpoint is not allowed. Nothing was sent and no credential was read.
    """
    problem = _trust_problem(url, _trusted(trusted_endpoints))
    if problem:
        raise UntrustedEndpointError(
            f"the payload's endpoint {_printable(url)} is refused: {problem}. The https endpoint of a host of yours is "
            f"allowed once the host is listed in {TRUSTED_ENDPOINTS_VARIABLE} or trusted_endpoints="
        )


def _trust_problem(url: str, trusted: list[str]) -> str | None:
    if not url.isascii() or not url.isprintable() or any(c in url for c in "\\ "):
        return "it holds characters that do not belong in a URL"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "it is not a URL"
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        return "it is not an http(s) URL with a host"
    if not _is_well_formed(parts.netloc):
        return "its host is not well formed"
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        return "it holds user information"
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return "it holds a query or a fragment"
    if host.endswith("."):
        return "its host ends in a dot"
    if _is_loopback(host):
        return None
    if parts.scheme != "https":
        return "it is not https, and credentials do not cross a network in the clear"
    if any(_is_listed(parts, item) for item in trusted):
        return None
    if port not in (None, 443):
        return "its port is not that of the service"
    return None if _is_service_host(host) else "its host is not the service's"


def _is_service_host(host: str) -> bool:
    if match := _VPC_ENDPOINT_HOST.fullmatch(host):
        return match["suffix"] == _VPC_ENDPOINT_SUFFIXES.get(_dual_stack_suffix(match["region"]) or "")
    match = _SERVICE_HOST.fullmatch(host)
    return match is not None and match["suffix"] == _dual_stack_suffix(match["region"])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_well_formed(netloc: str) -> bool:
    # `urlsplit` takes what stands in brackets for the host, whatever stands around them.
    return "[" not in netloc or re.fullmatch(r"\[[0-9a-f:.]+\](:\d*)?", netloc, re.IGNORECASE) is not None


def _is_listed(parts: SplitResult, item: str) -> bool:
    try:
        # A host without a scheme means https; on loopback, where nothing leaves this machine, it means either.
        scheme = parts.scheme if _is_loopback(parts.hostname or "") else "https"
        listed = urlsplit(item if "://" in item else f"{scheme}://{item}")
        return (listed.scheme, listed.hostname, _port(listed)) == (parts.scheme, parts.hostname, _port(parts))
    except ValueError as error:
        raise ConfigurationError(
            f"{TRUSTED_ENDPOINTS_VARIABLE} or trusted_endpoints= holds {item!r}, which is no host, host:port or URL"
        ) from error


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _trusted(trusted_endpoints: Iterable[str]) -> list[str]:
    """Return what the operator lists, in code and in the environment."""
    listed = (environment(TRUSTED_ENDPOINTS_VARIABLE) or "").split(",")
    return [*trusted_endpoints, *(item.strip() for item in listed if item.strip())]


def _printable(url: str) -> str:
    """Return a URL that may be logged: without user information, printable, and short."""
    tail = url.rsplit("@", 1)[-1]
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in tail)
    return repr(shown[:200])
