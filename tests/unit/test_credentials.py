from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import botocore.awsrequest
import botocore.exceptions
import pytest
import requests
from botocore.credentials import ReadOnlyCredentials
from fakes import ONCE, FakeClock, Service, ga_payload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aws_rft_sdk.client import RolloutFeedbackClient
from aws_rft_sdk.credentials import Bearer, Credentials, Keys, SigV4, mint_token, shared_credentials, sign
from aws_rft_sdk.errors import CredentialsError, ServiceConnectionError

KEYS = Keys("AKIDEXAMPLE", "secret/KEY+x", "session==token")
URL = "https://job-runtime.sagemaker.us-west-2.api.aws/complete-rollout"
BODY = b'{"a":1}'


def mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signing_key(keys: Keys, date: str, region: str) -> bytes:
    key = mac(f"AWS4{keys.secret_key}".encode(), date)
    return mac(mac(mac(key, region), "sagemaker"), "aws4_request")


def recomputed_signature(
    method: str, url: str, headers: dict[str, str], body: bytes, keys: Keys, region: str, signed: str
) -> str:
    """Compute a SigV4 signature from the steps of the specification, without botocore."""
    parts = urlsplit(url)
    values = {name.lower(): value for name, value in headers.items()} | {"host": parts.netloc}
    canonical = "".join(f"{name}:{values[name].strip()}\n" for name in signed.split(";"))
    digest = hashlib.sha256(body).hexdigest()
    request = "\n".join([method, parts.path or "/", parts.query, canonical, signed, digest])
    stamp = values["x-amz-date"]
    scope = f"{stamp[:8]}/{region}/sagemaker/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    return mac(signing_key(keys, stamp[:8], region), to_sign).hex()


def authorization(headers: dict[str, str]) -> dict[str, str]:
    scheme, _, rest = headers["Authorization"].partition(" ")
    assert scheme == "AWS4-HMAC-SHA256"
    return dict(part.split("=", 1) for part in rest.split(", "))  # type: ignore[misc] # pairs


@pytest.mark.parametrize("keys", [KEYS, KEYS._replace(token=None)], ids=["temporary", "long-lived"])
@pytest.mark.parametrize("url", [URL, URL.replace("us-west-2.api.aws", "us-west-2.api.aws:8443")], ids=["host", "port"])
@pytest.mark.parametrize("body", [BODY, b"", b"\xff\x00" * 100], ids=["json", "empty", "binary"])
def test_sign_when_recomputed_by_the_specification_then_the_signature_is_the_same(
    keys: Keys, url: str, body: bytes
) -> None:
    given_headers = {"Content-Type": "application/json", "X-Rft-Job-Arn": "arn:x"}
    signed = sign("POST", url, given_headers, body, keys=keys, region="us-west-2")
    parts = authorization(signed)
    assert parts["Credential"].split("/")[0] == "AKIDEXAMPLE"
    assert parts["Credential"].split("/")[2:] == ["us-west-2", "sagemaker", "aws4_request"]
    assert {"content-type", "host", "x-amz-date", "x-rft-job-arn"} <= set(parts["SignedHeaders"].split(";"))
    assert signed.get("X-Amz-Security-Token") == keys.token
    expected = recomputed_signature("POST", url, signed, body, keys, "us-west-2", parts["SignedHeaders"])
    assert parts["Signature"] == expected
    assert given_headers == {"Content-Type": "application/json", "X-Rft-Job-Arn": "arn:x"}


def decoded(token: str) -> tuple[str, dict[str, str]]:
    assert token.startswith("sagemaker-api-key-")
    url = base64.b64decode(token.removeprefix("sagemaker-api-key-"), validate=True).decode()
    parts = urlsplit(f"https://{url}")
    return parts.netloc + parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}


def test_mint_token_when_decoded_then_it_is_the_presigned_call_of_the_contract() -> None:
    target, query = decoded(mint_token(KEYS, "eu-west-1"))
    assert target == "sagemaker.amazonaws.com/"
    assert query["Action"] == "CallWithBearerToken"
    assert query["X-Amz-Expires"] == "43200"
    assert query["Version"] == "1"
    assert query["X-Amz-SignedHeaders"] == "host"
    assert query["X-Amz-Security-Token"] == KEYS.token
    assert query["X-Amz-Credential"].split("/")[2:] == ["eu-west-1", "sagemaker", "aws4_request"]
    assert re.fullmatch(r"\d{8}T\d{6}Z", query["X-Amz-Date"])
    assert KEYS.secret_key not in str(query)


def test_mint_token_when_recomputed_then_the_signature_is_the_same() -> None:
    raw = base64.b64decode(mint_token(KEYS, "us-west-2").removeprefix("sagemaker-api-key-")).decode()
    query, signature = raw.removesuffix("&Version=1").partition("?")[2].split("&X-Amz-Signature=")
    fields = parse_qs(query)
    canonical_query = "&".join(sorted(query.split("&")))
    empty = hashlib.sha256(b"").hexdigest()
    request = "\n".join(["POST", "/", canonical_query, "host:sagemaker.amazonaws.com\n", "host", empty])
    stamp, scope = fields["X-Amz-Date"][0], fields["X-Amz-Credential"][0].partition("/")[2]
    to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    assert mac(signing_key(KEYS, stamp[:8], "us-west-2"), to_sign).hex() == signature


# --- where credentials come from -------------------------------------------------------------------------------------


class Source:
    """A session whose keys can be rotated."""

    def __init__(self, keys: Keys | None = KEYS, error: Exception | None = None) -> None:
        self.current = keys
        self.error = error
        self.asked = 0

    def get_credentials(self) -> Any:
        self.asked += 1
        return self if self.current or self.error else None

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        if self.error:
            raise self.error
        assert self.current is not None
        return ReadOnlyCredentials(*self.current)


def test_keys_when_asked_again_then_they_are_read_anew() -> None:
    source = Source()
    credentials = Credentials(source)
    assert credentials.keys() == KEYS
    source.current = Keys("AKIDROTATED", "s2", "t2")
    assert credentials.require_keys() == source.current


def test_keys_when_there_are_none_then_none_and_require_says_what_to_do() -> None:
    for source in (Source(None), Source(Keys("", ""))):
        assert Credentials(source).keys() is None
        with pytest.raises(CredentialsError, match="AWS_ACCESS_KEY_ID"):
            Credentials(source).require_keys()


def test_keys_when_they_cannot_be_loaded_then_credentials_error_with_cause() -> None:
    failure = botocore.exceptions.CredentialRetrievalError(provider="p", error_msg="hunter2")
    with pytest.raises(CredentialsError) as caught:
        Credentials(Source(error=failure)).keys()
    assert caught.value.__cause__ is failure
    assert "hunter2" not in str(caught.value)


def test_bearer_token_when_asked_within_300_seconds_then_it_is_the_same() -> None:
    clock = FakeClock()
    credentials = Credentials(Source(), clock=clock)
    first = credentials.bearer_token("us-west-2")
    clock.now += 299.9
    # A new token would differ at the latest by its date; make that certain.
    credentials._tokens = {key: (token + "#", born) for key, (token, born) in credentials._tokens.items()}
    assert credentials.bearer_token("us-west-2") == first + "#"
    clock.now += 0.1
    assert not credentials.bearer_token("us-west-2").endswith("#")


def test_bearer_token_when_keys_rotate_or_region_changes_then_it_is_minted_anew() -> None:
    source = Source()
    credentials = Credentials(source, clock=FakeClock())
    assert decoded(credentials.bearer_token("us-west-2"))[1]["X-Amz-Credential"].startswith("AKIDEXAMPLE/")
    assert "/eu-west-1/" in decoded(credentials.bearer_token("eu-west-1"))[1]["X-Amz-Credential"]
    source.current = Keys("AKIDROTATED", "s2", "t2")
    assert decoded(credentials.bearer_token("us-west-2"))[1]["X-Amz-Credential"].startswith("AKIDROTATED/")
    assert len(credentials._tokens) == 1


def test_refresh_when_called_then_the_token_is_forgotten() -> None:
    credentials = Credentials(Source(), clock=FakeClock())
    credentials.bearer_token("us-west-2")
    credentials._tokens = {key: ("stale", born) for key, (_, born) in credentials._tokens.items()}
    assert credentials.bearer_token("us-west-2") == "stale"
    credentials.refresh()
    assert credentials.bearer_token("us-west-2") != "stale"


def test_refresh_when_the_environment_changed_then_the_new_keys_are_used(
    aws_keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = shared_credentials()
    assert credentials.keys() == aws_keys
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDNEW")
    credentials.refresh()
    assert credentials.require_keys().access_key == "AKIDNEW"


def test_shared_credentials_when_asked_from_many_threads_then_there_is_one_for_each_kind(aws_keys: Keys) -> None:
    barrier = threading.Barrier(8)

    def ask(_: int) -> tuple[Credentials, Keys | None]:
        barrier.wait(10)
        shared = shared_credentials()
        return shared, shared.keys()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(ask, range(8)))
    assert {id(shared) for shared, _ in results} == {id(shared_credentials())}
    assert {keys for _, keys in results} == {aws_keys}
    assert shared_credentials(network=False) is not shared_credentials()


def test_credentials_when_the_network_is_off_then_no_metadata_service_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    # Would be asked, and would not answer.
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/creds")
    assert shared_credentials(network=False).keys() is None


# --- requests --------------------------------------------------------------------------------------------------------


def prepared(auth: Any) -> requests.PreparedRequest:
    headers = {"Content-Type": "application/json", "X-Rft-Job-Arn": "arn", "User-Agent": "u"}
    return requests.Request("POST", URL, headers=headers, data=BODY, auth=auth).prepare()


def test_sigv4_when_a_request_is_prepared_then_what_a_proxy_may_change_is_not_signed() -> None:
    request = prepared(SigV4(Credentials(Source()), "us-west-2"))
    parts = authorization(dict(request.headers))
    names = parts["SignedHeaders"].split(";")
    assert "user-agent" not in names
    assert "accept-encoding" not in names
    expected = recomputed_signature("POST", URL, dict(request.headers), BODY, KEYS, "us-west-2", parts["SignedHeaders"])
    assert parts["Signature"] == expected


def test_bearer_when_a_request_is_prepared_then_it_carries_the_token() -> None:
    credentials = Credentials(Source())
    request = prepared(Bearer(credentials, "us-west-2"))
    assert request.headers["Authorization"] == f"Bearer {credentials.bearer_token('us-west-2')}"


# --- secrets ---------------------------------------------------------------------------------------------------------

secrets = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/+", min_size=12, max_size=40).map(
    lambda text: (
        f"planted {text}"
    )  # a text alone may be part of a message: hypothesis tries names that it finds in code
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(secret=secrets, token=secrets)
def test_secrets_when_planted_then_no_repr_error_or_log_holds_them(
    secret: str, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    caplog.set_level(logging.DEBUG, "aws_rft_sdk")
    source = Source(Keys("AKIDEXAMPLE", secret, token))
    credentials = Credentials(source)
    bearer = credentials.bearer_token("us-west-2")
    client = RolloutFeedbackClient(
        ga_payload(), endpoint="http://127.0.0.1:1", session=source, backoff=ONCE, auth="bearer"
    )
    shown = [
        repr(x) for x in (credentials, credentials.keys(), client, SigV4(credentials, "r"), Bearer(credentials, "r"))
    ]
    shown += [str(credentials.keys()), f"{credentials.keys()}"]
    with pytest.raises(ServiceConnectionError) as caught:
        client.update_reward(1.0)
    shown += [str(caught.value), repr(caught.value), str(vars(caught.value)), caplog.text]
    for text in shown:
        assert secret not in text
        assert token not in text
        assert bearer not in text


@pytest.mark.parametrize("keys", [KEYS, KEYS._replace(token=None)], ids=["session", "long-term"])
@pytest.mark.parametrize(
    "url", [URL, "https://h.example/a%20b/c?z=1&a=2&a-b=3&flag", "http://[::1]:8080/", "https://h.example:443/x"]
)
def test_sign_when_botocore_signs_the_same_then_the_signature_is_the_same(keys: Keys, url: str) -> None:
    headers = {"Content-Type": "application/json", "X-Rft-Job-Arn": "  a   b ", "User-Agent": "u"}
    ours = sign("POST", url, headers, BODY, keys=keys, region="us-west-2")
    request = botocore.awsrequest.AWSRequest("POST", url, headers, BODY)
    signer = botocore.auth.SigV4Auth(ReadOnlyCredentials(*keys), "sagemaker", "us-west-2")
    request.context["timestamp"] = ours["X-Amz-Date"]
    signer._modify_request_before_signing(request)
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    assert authorization(ours)["Signature"] == signature


def test_logs_when_everything_is_logged_then_no_session_token_is_in_them(
    caplog: pytest.LogCaptureFixture, service: Service
) -> None:
    caplog.set_level(logging.DEBUG)
    source = Source()
    for auth in ("sigv4", "bearer"):
        RolloutFeedbackClient(ga_payload(), endpoint=service.endpoint, session=source, auth=auth).report_complete(1.0)
    assert len(service.requests) == 4
    assert "x-amz-security-token" in service.requests[0].headers
    assert KEYS.token
    assert KEYS.token not in caplog.text
    assert KEYS.secret_key not in caplog.text
    assert "Signature" not in caplog.text
