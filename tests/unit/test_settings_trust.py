"""The trust policy: an endpoint in a payload is untrusted input, and credentials must not follow it anywhere."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aws_rft_sdk.errors import ConfigurationError, UntrustedEndpointError
from aws_rft_sdk.settings import auth_at, check_trusted, resolve_auth, resolve_endpoint
from aws_rft_sdk.types import RolloutMetadata

GOOD = [
    "https://job-runtime.sagemaker.us-west-2.api.aws",
    "https://job-runtime.sagemaker.us-west-2.api.aws/",
    "https://job-runtime.sagemaker.us-west-2.api.aws:443",
    "https://JOB-RUNTIME.SageMaker.us-west-2.api.aws",
    "https://job-runtime.beta.sagemaker.us-west-2.api.aws",
    "https://finetuning-job-runtime.alpha.sagemaker.us-west-2.api.aws",
    "https://job-runtime.sagemaker-fips.us-gov-west-1.api.aws",
    "https://job-runtime.sagemaker.cn-north-1.api.amazonwebservices.com.cn",
    "https://job-runtime.sagemaker.us-iso-east-1.api.aws.ic.gov",
    "https://job-runtime.sagemaker.us-isob-east-1.api.aws.scloud",
    "https://job-runtime.sagemaker.eusc-de-east-1.api.amazonwebservices.eu",
    "https://vpce-0abc-1def.job-runtime.sagemaker.us-west-2.vpce.amazonaws.com",
    "https://vpce-0abc-1def-us-west-2a.job-runtime.sagemaker.us-west-2.vpce.amazonaws.com",
    "https://vpce-0abc.job-runtime.sagemaker.cn-north-1.vpce.amazonaws.com.cn",
    "http://127.0.0.1:8080",
    "https://127.0.0.1:8443",
    "http://localhost:9",
    "http://LOCALHOST",
    "http://[::1]:8080",
    "http://127.8.9.10:1",
]

SERVICE = "job-runtime.sagemaker.us-west-2.api.aws"
HOSTILE = [
    # suffix and prefix tricks
    f"https://{SERVICE}.evil.com",
    f"https://{SERVICE}evil.com",
    "https://evil.com/job-runtime.sagemaker.us-west-2.api.aws",
    f"https://evil.com/.{SERVICE}",
    "https://evil-sagemaker.us-west-2.api.aws",
    "https://sagemaker.us-west-2.api.aws.evil.com",
    "https://job-runtime.sagemaker.us-west-2.evil.api.aws",
    "https://job-runtime.sagemaker.evil.com.us-west-2.api.aws",
    "https://job-runtime.sagemaker.us-west-2.api.aws.co",
    "https://job-runtime.notsagemaker.us-west-2.api.aws",
    "https://job-runtime.sagemaker.us-west-2.amazonaws.com.evil.com",
    "https://evil.s3.us-west-2.amazonaws.com",
    "https://abc.execute-api.us-west-2.amazonaws.com",
    "https://abc.lambda-url.us-west-2.on.aws",
    "https://vpce-svc-0abc.us-west-2.vpce.amazonaws.com",
    "https://vpce-0abc.vpce-svc-0def.us-west-2.vpce.amazonaws.com",
    "https://vpce-0abc.evil.sagemaker.us-west-2.vpce.amazonaws.com.evil.com",
    # user information
    f"https://{SERVICE}@evil.com",
    f"https://user:pw@{SERVICE}",
    f"https://@{SERVICE}",
    f"https://:@{SERVICE}",
    "http://127.0.0.1@evil.com",
    "http://127.0.0.1:80@evil.com",
    "http://evil.com@127.0.0.1",
    # ports, schemes
    f"https://{SERVICE}:8443",
    f"https://{SERVICE}:0",
    f"https://{SERVICE}:99999",
    f"https://{SERVICE}:x",
    f"http://{SERVICE}",
    f"http://{SERVICE}:443",
    f"ftp://{SERVICE}",
    f"ws://{SERVICE}",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "http://evil.com",
    "https://evil.com",
    SERVICE,
    f"//{SERVICE}",
    "https://",
    "https:///evil.com",
    "https:evil.com",
    "",
    # what some clients take for loopback
    "http://2130706433",
    "http://0x7f000001",
    "http://0x7f.0.0.1",
    "http://0177.0.0.1",
    "http://127.1",
    "http://127.0.1",
    "http://0",
    "http://0.0.0.0:8080",
    "http://[::]:8080",
    "http://127.0.0.1.evil.com",
    "http://127.0.0.1.nip.io",
    "http://localhost.evil.com",
    "http://localhost.localdomain",
    "http://evil.com:80#@127.0.0.1",
    "http://[::1",
    "http://[2001:db8::1]:8080",
    "http://169.254.169.254",
    "http://[fd00:ec2::254]",
    "http://10.0.0.1",
    # dots
    f"https://{SERVICE}.",
    "http://localhost.",
    "http://127.0.0.1.",
    "https://job-runtime..sagemaker.us-west-2.api.aws",
    "https://.sagemaker.us-west-2.api.aws",
    # look-alikes
    "https://job-runtime.s\u0430gemaker.us-west-2.api.aws",
    "https://job-runtime.sagemaker.us-west-2.api.\uff41ws",
    "https://job-runtime\u3002sagemaker.us-west-2.api.aws",
    "http://\u2460\u2461\u2466.0.0.1",
    "http://127\uff0e0\uff0e0\uff0e1",
    "https://xn--job-runtime.sagemaker.us-west-2.evil",
    # characters that parsers disagree about
    "http://127.0.0.1\\@evil.com",
    "http://127.0.0.1\\.evil.com",
    f"https://evil.com\\.{SERVICE}",
    "http://127.0.0.1\t.evil.com",
    f"https://{SERVICE}\n.evil.com",
    f"https://{SERVICE}\r\nX-Evil: 1",
    f" https://{SERVICE}",
    f"https://{SERVICE} ",
    f"https://evil.com%2f.{SERVICE}",
    f"https://evil.com%00.{SERVICE}",
    f"https://evil.com;.{SERVICE}",
    "http://127.0.0.1%2eevil.com",
    f"https://{SERVICE}\x00",
    # query and fragment
    f"https://{SERVICE}?x=1",
    f"https://{SERVICE}/?",
    f"https://evil.com?.{SERVICE}",
    f"https://evil.com#.{SERVICE}",
    f"https://{SERVICE}#",
    "http://127.0.0.1:80?@evil.com",
    # a suffix of another partition, or a region that is none
    "https://job-runtime.sagemaker.cn-north-1.api.aws",
    "https://job-runtime.sagemaker.us-west-2.api.amazonwebservices.com.cn",
    "https://job-runtime.sagemaker.us-west-2.api.aws.ic.gov",
    "https://job-runtime.sagemaker.us-iso-east-1.api.aws",
    "https://job-runtime.sagemaker.us-west-2.amazonaws.com",
    "https://job-runtime.sagemaker.evil.api.aws",
    "https://job-runtime.sagemaker.us-west.api.aws",
]


@pytest.mark.parametrize("url", GOOD)
def test_check_trusted_when_the_host_is_the_services_or_loopback_then_it_passes(url: str) -> None:
    check_trusted(url)


@pytest.mark.parametrize("url", HOSTILE)
def test_check_trusted_when_the_endpoint_is_hostile_then_refused(url: str) -> None:
    with pytest.raises(UntrustedEndpointError):
        check_trusted(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1].evil.com",
        "http://[::1]evil.com/",
        "http://evil.com[::1]",
        "http://evil.com[::1]:80",
        "http://[::1%25evil.com]",
    ],
)
def test_check_trusted_when_text_surrounds_a_bracketed_host_then_refused(url: str) -> None:
    with pytest.raises(UntrustedEndpointError):
        check_trusted(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://vpce-0abc.job-runtime.sagemaker.us-west-2.vpce.amazonaws.com.cn",
        "https://vpce-0abc.job-runtime.sagemaker.cn-north-1.vpce.amazonaws.com",
        "https://vpce-0abc.job-runtime.sagemaker.us-west-2.vpce.amazonaws.eu",
    ],
)
def test_check_trusted_when_a_vpc_endpoint_is_of_another_partition_then_refused(url: str) -> None:
    with pytest.raises(UntrustedEndpointError):
        check_trusted(url)


@given(st.text(string.printable, max_size=20), st.text(string.printable, max_size=20))
@example("0.0", "")
def test_check_trusted_when_it_passes_then_the_client_too_goes_to_that_host(before: str, after: str) -> None:
    # The parser that decides and the one that connects must read the same host.
    from urllib3.util import parse_url

    for url in (f"https://{before}{SERVICE}{after}", f"http://{before}127.0.0.1{after}"):
        try:
            check_trusted(url)
        except UntrustedEndpointError:
            continue
        host = parse_url(url).host or ""
        # Whatever stands before it, "0.0job-runtime" for example: the domain is the service's.
        assert host.startswith("127.") or host.endswith(SERVICE) or "." not in before


@pytest.mark.parametrize(
    ("listed", "url", "allowed"),
    [
        ("my.host", "https://my.host", True),
        ("my.host", "https://MY.HOST/path", True),
        ("MY.HOST", "https://my.host", True),
        ("my.host:8443", "https://my.host:8443", True),
        ("https://my.host:8443/x", "https://my.host:8443", True),
        ("my.host", "https://my.host:443", True),
        ("my.host", "https://my.host:8443", False),
        ("my.host:8443", "https://my.host", False),
        ("my.host", "https://sub.my.host", False),
        ("my.host", "https://my.host.evil.com", False),
        ("my.host", "https://my.host@evil.com", False),
        ("my.host", "http://my.host", False),
        ("my.host", "https://my.host?x", False),
        ("*", "https://evil.com", False),
        ("", "https://evil.com", False),
    ],
)
def test_check_trusted_when_the_operator_lists_a_host_then_exactly_that_one_passes(
    listed: str, url: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verdict(trusted: list[str]) -> bool:
        try:
            check_trusted(url, trusted)
        except UntrustedEndpointError:
            return False
        return True

    assert verdict([listed]) is allowed
    monkeypatch.setenv("RFT_TRUSTED_ENDPOINTS", f" other.host , {listed},")
    assert verdict([]) is allowed


@pytest.mark.parametrize("item", ["my.host:port", "https://[::1", "::2"])
def test_check_trusted_when_the_operators_list_is_malformed_then_it_is_named(
    item: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_TRUSTED_ENDPOINTS", item)
    # Whatever the payload says, a list that cannot be read is the operator's mistake and named as such.
    with pytest.raises(ConfigurationError, match="RFT_TRUSTED_ENDPOINTS"):
        check_trusted("https://job-runtime.sagemaker.us-west-2.api.aws")


def test_check_trusted_when_the_operator_lists_an_http_url_then_credentials_stay_here_all_the_same() -> None:
    with pytest.raises(UntrustedEndpointError, match="in the clear"):
        check_trusted("http://runtime.internal:8080", ["http://runtime.internal:8080"])


def test_check_trusted_when_it_refuses_then_the_message_hides_user_information_and_helps() -> None:
    with pytest.raises(UntrustedEndpointError, match="RFT_TRUSTED_ENDPOINTS") as caught:
        check_trusted("https://user:hunter2@evil.com\n\x1b[31m")
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).isprintable()
    with pytest.raises(UntrustedEndpointError) as caught:
        check_trusted("https://evil.com/" + "x" * 5000)
    assert len(str(caught.value)) < 1000


LOOPBACK = "http://127.0.0.1:8080"
REAL = f"https://{SERVICE}"


@pytest.mark.parametrize(
    ("url", "listed", "configured", "auth", "keys", "expected"),
    [
        pytest.param(LOOPBACK, (), None, "bearer", True, "sigv4", id="a payload's loopback gets no token"),
        pytest.param(LOOPBACK, (), None, "sigv4", True, "sigv4", id="a payload's loopback is signed"),
        pytest.param(LOOPBACK, (), None, "bearer", False, None, id="no keys, unsigned"),
        pytest.param(LOOPBACK, ["127.0.0.1:8080"], None, "bearer", True, "bearer", id="listed"),
        pytest.param(LOOPBACK, [LOOPBACK], None, "bearer", True, "bearer", id="listed as a URL"),
        pytest.param(LOOPBACK, ["127.0.0.1:8081"], None, "bearer", True, "sigv4", id="another port is listed"),
        pytest.param(LOOPBACK, (), LOOPBACK, "bearer", True, "bearer", id="configured"),
        pytest.param(REAL, (), None, "bearer", True, "bearer", id="the service"),
        pytest.param(REAL, (), None, "bearer", False, "bearer", id="the service, no keys: an error later"),
    ],
)
def test_auth_at_when_a_payload_names_the_endpoint_then_loopback_gets_tokens_only_if_listed(
    monkeypatch, url, listed, configured, auth, keys, expected
):
    if configured:
        monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", configured)
    metadata = RolloutMetadata("arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/j", "t", endpoint=url)
    assert auth_at(resolve_endpoint(metadata, trusted_endpoints=listed), auth, has_keys=keys) == expected


def test_auth_at_when_code_names_a_loopback_endpoint_then_it_gets_the_token():
    metadata = RolloutMetadata("arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/j", "t")
    assert auth_at(resolve_endpoint(metadata, endpoint=LOOPBACK), "bearer", has_keys=True) == "bearer"


def test_resolve_auth_when_asked_then_argument_environment_default_in_this_order(monkeypatch):
    assert resolve_auth() == "sigv4"
    monkeypatch.setenv("RFT_AUTH", "bearer")
    assert (resolve_auth(), resolve_auth("sigv4")) == ("bearer", "sigv4")
    monkeypatch.setenv("RFT_AUTH", "basic")
    with pytest.raises(ConfigurationError, match="RFT_AUTH is 'basic'"):
        resolve_auth()
    with pytest.raises(ConfigurationError, match="auth is 'none'"):
        resolve_auth("none")
