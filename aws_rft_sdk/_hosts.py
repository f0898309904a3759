"""The hosts and URLs of runtimes: which belong to the service, which are on this machine, and which are well formed.

Pure functions. Nothing here reads the environment.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from urllib.parse import SplitResult, urlsplit

from aws_rft_sdk.errors import ConfigurationError

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
_MANTLE_HOST = re.compile(r"bedrock-mantle(?:-fips)?\.(?P<region>[a-z0-9-]+)\.(?P<suffix>.+)")
_MANTLE_VPC_ENDPOINT_HOST = re.compile(
    r"vpce-[a-z0-9-]+(?:\.[a-z0-9-]+)*\.bedrock-mantle\.(?P<region>[a-z0-9-]+)\.vpce\.(?P<suffix>.+)"
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


def dual_stack_suffix(region: str) -> str | None:
    """Return the end of the service's dual-stack hosts in a region. Returns None if it is no AWS region."""
    return next((suffix for form, suffix in _DUAL_STACK_SUFFIXES if form.fullmatch(region)), None)


def check_url(url: str, source: str) -> str:
    """Return a base URL that the operator gave, if it is one.

    Raises:
        ConfigurationError: It is no http(s) URL, or it has user information, a query or a fragment.
    """
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


def trust_problem(
    url: str, trusted: Iterable[str], configured: str | None, *, is_service: Callable[[str], bool] | None = None
) -> str | None:
    """Return why credentials must not be sent to an endpoint. Returns None if they may.

    Args:
        url: The endpoint as it was named.
        trusted: Hosts, `host:port`s or URLs that the operator lists.
        configured: The runtime that the operator has configured. Its URL may be a plain http one.
        is_service: Tells whether a host is the service's own. None for the job runtime, see `is_service_host`.
    """
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
    if is_loopback(host) or (configured is not None and is_listed(url, configured)):
        return None
    if parts.scheme != "https":
        return "it is not https, and credentials do not cross a network in the clear"
    if any(is_listed(url, item) for item in trusted):
        return None
    if port not in (None, 443):
        return "its port is not that of the service"
    return None if (is_service or is_service_host)(host) else "its host is not the service's"


def is_service_host(host: str) -> bool:
    """Return whether a host is one of the service's own, in any partition, VPC endpoints included."""
    if match := _VPC_ENDPOINT_HOST.fullmatch(host):
        return match["suffix"] == _VPC_ENDPOINT_SUFFIXES.get(dual_stack_suffix(match["region"]) or "")
    match = _SERVICE_HOST.fullmatch(host)
    return match is not None and match["suffix"] == dual_stack_suffix(match["region"])


def mantle_region(host: str) -> str | None:
    """Return the region of a host of Bedrock's OpenAI-compatible API. Returns None for any other host."""
    if match := _MANTLE_VPC_ENDPOINT_HOST.fullmatch(host):
        known = match["suffix"] == _VPC_ENDPOINT_SUFFIXES.get(dual_stack_suffix(match["region"]) or "")
        return match["region"] if known else None
    match = _MANTLE_HOST.fullmatch(host)
    return match["region"] if match and match["suffix"] == dual_stack_suffix(match["region"]) else None


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine by its name or address, so that nothing leaves it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_own_host(header: str, own: Iterable[str] = ()) -> bool:
    """Return whether a `Host` header names this machine, or one of our own hosts.

    A browser that was led here by a foreign name sends that name: a page of that name must read nothing.

    Args:
        header: The header, a host with or without a port. "" if there is none.
        own: Further host names, without ports.
    """
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    return is_loopback(host) or host in {name.lower() for name in own}


def is_loopback_url(url: str) -> bool:
    """Return whether the host of a URL is this machine, see `is_loopback`."""
    return is_loopback(urlsplit(url).hostname or "")


def _is_well_formed(netloc: str) -> bool:
    # `urlsplit` takes the part in brackets for the host, and ignores any text around the brackets.
    return "[" not in netloc or re.fullmatch(r"\[[0-9a-f:.]+\](:\d*)?", netloc, re.IGNORECASE) is not None


def is_listed(url: str, item: str) -> bool:
    """Return whether a URL has the scheme, host and port of an item: a host, a `host:port` or a URL.

    Raises:
        ConfigurationError: The item is none of these.
    """
    parts = urlsplit(url)
    try:
        # A host without a scheme means https; on loopback, where nothing leaves this machine, it means either.
        scheme = parts.scheme if is_loopback(parts.hostname or "") else "https"
        listed = urlsplit(item if "://" in item else f"{scheme}://{item}")
        return (listed.scheme, listed.hostname, _port(listed)) == (parts.scheme, parts.hostname, _port(parts))
    except ValueError as error:
        raise ConfigurationError(
            f"RFT_TRUSTED_ENDPOINTS or trusted_endpoints= holds {item!r}, which is no host, host:port or URL"
        ) from error


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def printable(url: str) -> str:
    """Return a URL in a form that may be logged: without user information, printable, and short."""
    tail = url.rsplit("@", 1)[-1]
    shown = "".join(c if c.isascii() and c.isprintable() else "?" for c in tail)
    return repr(shown[:200])
