"""Signatures and tokens made by botocore, verified here; then everything about them changed, one thing at a time."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aws_rft_sdk.credentials import TOKEN_PREFIX, Credentials, Keys, mint_token, sign
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.auth import Verifier, canonical_query, canonical_uri

from .conftest import KEYS, ids, tracking

LONG_TERM = Keys("AKIDLONGTERM", "another-secret")
URL = "http://127.0.0.1:8000"


def verifier(mode="sigv4", keys=KEYS, region="us-west-2", clock=time.time):
    return Verifier(mode, region, lambda: keys, clock)


def signed(path="/complete-rollout", body=b"{}", keys=KEYS, region="us-west-2", **headers):
    own = {"Content-Type": "application/json", "X-Rft-Job-Arn": "arn", **headers}
    return {**sign("POST", URL + path, own, body, keys=keys, region=region), "Host": "127.0.0.1:8000"}


def check(subject, headers, *, method="POST", path="/complete-rollout", body=b"{}"):
    raw_path, _, query = path.encode().partition(b"?")
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    subject.verify(method, raw_path, query, pairs, body)


def refusal(subject, headers, **request):
    with pytest.raises(Refusal) as caught:
        check(subject, headers, **request)
    assert caught.value.status == 403
    for secret in (KEYS.secret_key, KEYS.token, LONG_TERM.secret_key):
        assert secret not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("keys", [KEYS, LONG_TERM])
@pytest.mark.parametrize("mode", ["sigv4", "any"])
def test_signature_when_made_by_botocore_then_passes(keys, mode):
    check(verifier(mode, keys), signed(keys=keys))
    check(verifier(mode, keys), signed(keys=keys, body=b"x" * 100_000), body=b"x" * 100_000)


@pytest.mark.parametrize(
    "path", ["/a%20b", "/a/../b", "//a//b/", "/x?b=2&a=1&a=0", "/x?q=a%20b&e=", "/caf%C3%A9", "/~u"]
)
def test_signature_when_the_path_is_unusual_then_passes(path):
    check(verifier(), signed(path), path=path)


@settings(max_examples=60, deadline=None)
@given(
    path=st.text(st.sampled_from("abc/._~-%2=+é"), max_size=12),
    value=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    body=st.binary(max_size=50),
)
def test_signature_when_anything_is_signed_then_passes_and_a_changed_body_does_not(path, value, body):
    from urllib.parse import quote

    path = "/" + quote(path, safe="/._~-=+")
    headers = signed(path, body, **{"X-Thing": value})
    check(verifier(), headers, path=path, body=body)
    refusal(verifier(), headers, path=path, body=body + b"!")


def _change(headers, **changes):
    return {**headers, **{name.replace("_", "-"): value for name, value in changes.items()}}


@pytest.mark.parametrize(
    ("make", "request_", "text"),
    [
        pytest.param(lambda: signed(), {"body": b"{ }"}, "changed", id="body"),
        pytest.param(lambda: signed(), {"path": "/update-reward"}, "changed", id="path"),
        pytest.param(lambda: signed(), {"path": "/complete-rollout?a=1"}, "changed", id="query"),
        pytest.param(lambda: signed(), {"method": "PUT"}, "changed", id="method"),
        pytest.param(lambda: _change(signed(), X_Rft_Job_Arn="other"), {}, "changed", id="signed-header"),
        pytest.param(lambda: _change(signed(), Host="evil"), {}, "changed", id="host"),
        pytest.param(lambda: _change(signed(), X_Amz_Target="x"), {}, "must be signed", id="unsigned-amz-header"),
        pytest.param(
            lambda: {k: v for k, v in signed().items() if k != "X-Rft-Job-Arn"}, {}, "missing", id="header-removed"
        ),
        pytest.param(lambda: signed(keys=KEYS._replace(secret_key="x")), {}, "secret key is another", id="secret"),
        pytest.param(lambda: signed(keys=KEYS._replace(access_key="AKOTHER")), {}, "access key", id="access-key"),
        pytest.param(lambda: signed(keys=KEYS._replace(token=None)), {}, "session token is missing", id="no-token"),
        pytest.param(lambda: signed(keys=KEYS._replace(token="x")), {}, "session token does not", id="other-token"),
        pytest.param(lambda: signed(region="eu-west-1"), {}, "region us-west-2", id="region"),
        pytest.param(
            lambda: _change(signed(), Authorization=signed()["Authorization"].replace("/sagemaker/", "/s3/")),
            {},
            "service sagemaker",
            id="service",
        ),
        pytest.param(lambda: _change(signed(), Authorization="AWS4-HMAC-SHA256 nonsense"), {}, "form", id="garbage"),
        pytest.param(lambda: _change(signed(), X_Amz_Content_SHA256="UNSIGNED-PAYLOAD"), {}, "signed", id="unsigned"),
        pytest.param(lambda: {"Host": "x"}, {}, "must carry", id="nothing"),
        pytest.param(lambda: {"Authorization": "Bearer local"}, {}, "must carry", id="bearer"),
        pytest.param(
            lambda: {"Authorization": f"Bearer {mint_token(KEYS, 'us-west-2')}"}, {}, "must carry", id="token"
        ),
        pytest.param(lambda: {"Host": "x"}, {"path": "/x?X-Amz-Signature=ab"}, "Query-signed", id="query-signed"),
    ],
)
def test_signature_when_one_thing_is_wrong_then_403_says_what(make, request_, text):
    assert text in refusal(verifier(), make(), **request_)


def test_signature_when_the_content_hash_is_signed_and_wrong_then_403():
    wrong = signed(**{"X-Amz-Content-SHA256": "0" * 64})
    assert "X-Amz-Content-SHA256" in refusal(verifier(), wrong)


@pytest.mark.parametrize(("skew", "passes"), [(-290, True), (290, True), (-310, False), (310, False)])
def test_signature_when_the_clocks_differ_then_five_minutes_are_allowed(skew, passes):
    now = time.time()
    subject = verifier(clock=lambda: now + skew)
    if passes:
        check(subject, signed())
    else:
        assert "5 minutes" in refusal(subject, signed())


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def rebuilt(change, keys=KEYS):
    presigned = base64.b64decode(mint_token(keys, "us-west-2")[len(TOKEN_PREFIX) :]).decode()
    return bearer(TOKEN_PREFIX + base64.b64encode(change(presigned).encode()).decode())


def test_token_when_minted_with_the_keys_then_passes_until_it_expires():
    now = time.time()
    times = [now]
    subject = verifier("bearer", clock=lambda: times[0])
    headers = bearer(mint_token(KEYS, "us-west-2", lifetime_seconds=600))
    check(subject, headers)
    check(subject, headers)
    times[0] = now + 700
    assert "expired" in refusal(subject, headers)
    times[0] = now - 400
    assert "not valid yet" in refusal(verifier("bearer", clock=lambda: times[0]), headers)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        pytest.param(lambda: bearer(TOKEN_PREFIX + "%%%"), "base64", id="not-base64"),
        pytest.param(lambda: bearer(TOKEN_PREFIX + "AAAA"), "presigned", id="garbage"),
        pytest.param(lambda: bearer("local"), "must carry", id="dummy-key"),
        pytest.param(lambda: {}, "must carry", id="nothing"),
        pytest.param(lambda: signed(), "must carry", id="sigv4"),
        pytest.param(lambda: bearer(mint_token(KEYS, "eu-west-1")), "region", id="region"),
        pytest.param(lambda: bearer(mint_token(KEYS._replace(secret_key="x"), "us-west-2")), "secret", id="secret"),
        pytest.param(lambda: bearer(mint_token(KEYS._replace(token=None), "us-west-2")), "session", id="no-session"),
        pytest.param(lambda: bearer(mint_token(LONG_TERM, "us-west-2")), "access key", id="access-key"),
        pytest.param(lambda: rebuilt(lambda t: t.replace("Expires=43200", "Expires=43199")), "changed", id="expires"),
        pytest.param(lambda: rebuilt(lambda t: t.replace("Expires=43200", "Expires=43201")), "lifetime", id="too-long"),
        pytest.param(lambda: rebuilt(lambda t: t + "&Action=x"), "presigned", id="doubled"),
        pytest.param(lambda: rebuilt(lambda t: t.replace("amazonaws", "example")), "presigned", id="host"),
        pytest.param(lambda: rebuilt(lambda t: t.replace("CallWith", "Other")), "presigned", id="action"),
        pytest.param(lambda: rebuilt(lambda t: t.replace("%2Fsagemaker%2F", "%2Fs3%2F")), "service", id="service"),
    ],
)
def test_token_when_one_thing_is_wrong_then_403_says_what(make, text):
    assert text in refusal(verifier("bearer"), make())


def test_token_when_cached_and_the_keys_rotate_then_refused():
    current = [KEYS]
    subject = Verifier("bearer", "us-west-2", lambda: current[0])
    headers = bearer(mint_token(KEYS, "us-west-2"))
    check(subject, headers)
    current[0] = LONG_TERM
    assert "access key" in refusal(subject, headers)
    check(subject, bearer(mint_token(LONG_TERM, "us-west-2")))


def test_any_when_unsigned_then_passes_and_when_signed_is_verified():
    check(verifier("any"), {"Host": "x"})
    check(verifier("any"), bearer("local"))
    refusal(verifier("any"), bearer(TOKEN_PREFIX + "AAAA"))
    refusal(verifier("any"), signed(), body=b"other")
    assert "no credentials" in refusal(verifier("any", keys=None), signed())
    check(verifier("none"), {"Authorization": "AWS4-HMAC-SHA256 nonsense"})


def test_runtime_when_signed_calls_are_demanded_and_no_keys_exist_then_it_does_not_start(monkeypatch):
    class Nothing:
        def get_credentials(self):
            return None

    for mode in ("sigv4", "bearer"):
        with pytest.raises(ConfigurationError, match="credentials="):
            LocalRuntime(auth=mode, credentials=Nothing()).start()


def test_runtime_when_sigv4_then_unsigned_calls_are_403_on_every_route(open_wire):
    with LocalRuntime(lambda request: "x", auth="sigv4", credentials=Credentials(_Session())) as runtime:
        wire = open_wire(runtime)
        payload = runtime.new_rollout("p")
        for path in ("/sample", "/v1/chat/completions", "/complete-rollout", "/CompleteTrajectory", "/UpdateReward"):
            answer = wire.post(path, ids(payload), tracking(payload))
            assert answer.status_code == 403
            assert answer.headers["x-amzn-ErrorType"] == "AccessDeniedException"
        headers = sign("POST", runtime.endpoint + "/complete-rollout", {}, b"{}", keys=KEYS, region="us-west-2")
        assert wire.post("/complete-rollout", b"{}", headers).status_code == 400


class _Session:
    def get_credentials(self):
        return self

    def get_frozen_credentials(self):
        return KEYS


def test_canonical_forms_when_given_examples_then_as_specified():
    assert canonical_uri(b"") == "/"
    assert canonical_uri(b"/a/./b/../c//") == "/a/c/"
    assert canonical_uri(b"/a%20b") == "/a%2520b"
    assert canonical_query(b"b=2&a=x%20y&a=&c") == "a=&a=x%20y&b=2&c="
