"""Signatures and short-term tokens: made by the real clients, checked by `LocalBedrock`."""

from __future__ import annotations

import base64
import time
from datetime import timedelta

import openai
import pytest
import requests
from aws_bedrock_token_generator import provide_token
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import CredentialProvider, Credentials

from aws_rft_sdk.credentials import Keys
from aws_rft_sdk.runtime import LocalBedrock
from tests.bedrock.bedrock_parts import ARN, MODEL, client_of, create, ended, grader, guess, lambda_of

KEYS = Keys("AKIDEXAMPLE", "a-secret-for-tests", None)
HOUR = timedelta(hours=1)


class Provider(CredentialProvider):
    METHOD = "test"

    def __init__(self, access="AKIDEXAMPLE", secret="a-secret-for-tests"):
        self.credentials = Credentials(access, secret)

    def load(self):
        return self.credentials


def token(region="us-west-2", **keys):
    return provide_token(region, Provider(**keys), HOUR)


def tampered(change):
    prefix = "bedrock-api-key-"
    text = base64.b64decode(token()[len(prefix) :]).decode()
    assert change[0] in text
    return prefix + base64.b64encode(text.replace(*change).encode()).decode()


def signing_client(server, *, region="us-west-2", secret="a-secret-for-tests"):
    return openai.BedrockOpenAI(
        base_url=server.base_url,
        aws_region=region,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key=secret,
        max_retries=0,
    )


@pytest.mark.parametrize("auth", ["any", "token"])
def test_token_when_it_is_genuine_then_a_whole_job_runs_with_it(auth):
    options = {"functions": {ARN: grader}, "auth": auth, "credentials": KEYS}
    with LocalBedrock(guess, **options) as server, client_of(server, api_key=token()) as client:
        assert ended(client, create(client))["status"] == "succeeded"


@pytest.mark.parametrize("auth", ["any", "sigv4"])
def test_signature_when_it_is_genuine_then_calls_pass(auth):
    with LocalBedrock(guess, auth=auth, credentials=KEYS) as server, signing_client(server) as client:
        assert client.fine_tuning.jobs.list().data == []
        messages = [{"role": "user", "content": "1 mod 2?"}]
        assert client.chat.completions.create(model=MODEL, messages=messages).choices
        assert list(client.responses.create(model=MODEL, input=messages, stream=True))


REFUSED = {
    "other service's region": (lambda: token("us-east-1"), "region us-west-2"),
    "other secret": (lambda: token(secret="another"), "signature does not match"),
    "other access key": (lambda: token(access="AKIDOTHER"), "access key"),
    "other action": (lambda: tampered(("CallWithBearerToken", "CallWithout")), "presigned"),
    "longer life": (lambda: tampered(("X-Amz-Expires=3600", "X-Amz-Expires=99999")), "lifetime"),
    "other host": (lambda: tampered(("bedrock.amazonaws.com/", "sagemaker.amazonaws.com/")), "presigned"),
    "no base64": (lambda: "bedrock-api-key-!", "base64"),
}


@pytest.mark.parametrize("auth", ["any", "token"])
@pytest.mark.parametrize("name", REFUSED)
def test_token_when_it_is_wrong_then_it_is_refused_and_not_repeated(auth, name):
    make, text = REFUSED[name]
    key = make()
    with LocalBedrock(guess, auth=auth, credentials=KEYS) as server, client_of(server, api_key=key) as client:
        with pytest.raises(openai.AuthenticationError, match=text) as refused:
            client.files.list()
        assert refused.value.code == "invalid_api_key"
        assert key not in str(refused.value)
        assert KEYS.secret_key not in str(refused.value)


def test_token_when_it_has_expired_then_it_is_refused():
    now = time.time()
    with (
        LocalBedrock(guess, credentials=KEYS, clock=lambda: now + 3601) as server,
        client_of(server, api_key=token()) as client,
        pytest.raises(openai.AuthenticationError, match="expired"),
    ):
        client.files.list()


@pytest.mark.parametrize(
    ("auth", "make"),
    [
        ("token", signing_client),
        ("token", client_of),
        ("sigv4", client_of),
        ("sigv4", lambda server: client_of(server, api_key=token())),
        ("any", lambda server: signing_client(server, region="us-east-1")),
        ("any", lambda server: signing_client(server, secret="another")),
    ],
)
def test_call_when_its_form_is_not_the_demanded_one_then_it_is_refused(auth, make):
    with (
        LocalBedrock(guess, auth=auth, credentials=KEYS) as server,
        make(server) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.files.list()


@pytest.mark.parametrize("auth", ["any", "none"])
def test_call_when_nothing_is_demanded_then_any_key_passes(auth):
    with LocalBedrock(guess, auth=auth, credentials=KEYS) as server, client_of(server) as client:
        assert client.files.list().data == []


@pytest.mark.parametrize("auth", ["any", "token"])
def test_token_when_the_server_has_no_credentials_then_form_scope_and_age_are_checked(auth, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOFTHISPROCESS")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with LocalBedrock(guess, auth=auth) as server:
        assert client_of(server, api_key=token()).files.list().data == []
        for wrong in ("other service's region", "other action", "longer life"):
            with pytest.raises(openai.AuthenticationError):
                client_of(server, api_key=REFUSED[wrong][0]()).files.list()


@pytest.mark.parametrize("auth", ["any", "token", "sigv4"])
def test_invoke_when_the_signature_is_anothers_then_boto3_is_refused(auth):
    with LocalBedrock(guess, functions={"gsm8k": grader}, auth=auth, credentials=KEYS) as server:
        assert lambda_of(server).invoke(FunctionName="gsm8k", Payload=b"[]")["Payload"].read() == b"[]"
        other = lambda_of(server, aws_secret_access_key="another")
        with pytest.raises(other.exceptions.ClientError, match="signature"):
            other.invoke(FunctionName="gsm8k", Payload=b"[]")


def test_upload_when_signed_by_hand_then_it_passes():
    body = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b\r\n'
    body += b'Content-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n{}\r\n--b--\r\n'
    with LocalBedrock(guess, auth="sigv4", credentials=KEYS) as server:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        request = AWSRequest("POST", f"{server.base_url}/files", headers=headers, data=body)
        SigV4Auth(Provider().credentials, "bedrock-mantle", "us-west-2").add_auth(request)
        answer = requests.post(request.url, data=body, headers=dict(request.headers), timeout=10)

    assert (answer.status_code, answer.json()["bytes"]) == (200, 2)
