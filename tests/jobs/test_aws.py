"""Sessions and clients of boto3, and their errors as ours."""

import sys

import boto3
import pytest
from botocore.credentials import RefreshableCredentials
from jobs.control_plane import Server

from aws_rft_sdk.errors import ConfigurationError, CredentialsError, JobServiceError, ServiceConnectionError
from aws_rft_sdk.jobs import NovaJobs, _aws

KEYS = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


@pytest.mark.parametrize(
    ("region", "own", "variable", "expected"),
    [
        ("us-east-1", None, None, "us-east-1"),
        ("us-east-1", "eu-west-1", "us-west-2", "us-east-1"),
        (None, "eu-west-1", "us-west-2", "eu-west-1"),
        (None, None, "us-west-2", "us-west-2"),
        (None, None, None, "no AWS region. Pass region="),
        ("somewhere", None, None, "'somewhere', which is not an AWS region"),
    ],
)
def test_session_when_regions_differ_then_the_argument_wins(monkeypatch, region, own, variable, expected):
    if variable:
        monkeypatch.setenv("AWS_DEFAULT_REGION", variable)
    given = boto3.session.Session(*KEYS, region_name=own) if own else None
    if " " in expected:
        with pytest.raises(ConfigurationError, match=expected):
            _aws.session_for(region, given)
        return
    session = _aws.session_for(region, given)
    again = _aws.session_for(None, session)
    for made in (session, again):
        assert (made.region_name, _aws.client(made, "sts").meta.region_name) == (expected, expected)
    assert given is None or given.region_name == own


def test_session_when_boto3_is_missing_then_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'aws-rft-sdk\[aws\]'"):
        NovaJobs()


def test_session_when_the_profile_is_unknown_then_it_says_so(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigurationError, match="nobody"):
        NovaJobs()


def expired():
    def refresh():
        raise CredentialsError("the login has expired")

    session = boto3.session.Session(region_name="us-east-1")
    past = "2020-01-01T00:00:00Z"
    fresh = {"access_key": KEYS[0], "secret_key": KEYS[1], "token": "t", "expiry_time": past}
    session._session._credentials = RefreshableCredentials.create_from_metadata(fresh, refresh, "sso")
    return session


@pytest.mark.parametrize("session", [lambda: None, expired], ids=["none", "expired"])
def test_client_when_there_are_no_credentials_then_only_this_machine_is_called_without(session):
    with Server() as server:
        assert list(NovaJobs(session=session(), endpoint_url=server.endpoint).list()) == []
    with pytest.raises(CredentialsError):
        list(NovaJobs(session=session()).list())


def test_client_when_there_are_credentials_then_they_sign(aws_keys):
    with Server() as server:
        client = _aws.client(_aws.session_for("us-east-1"), "bedrock", endpoint_url=server.endpoint)
        seen = []
        client.meta.events.register("before-send", lambda request, **_: seen.append(request.headers["Authorization"]))
        client.list_model_customization_jobs()
    assert f"Credential={aws_keys.access_key}/".encode() in seen[0]


@pytest.mark.parametrize("endpoint", ["127.0.0.1:1", "ftp://host", "http://user:secret@host"])
def test_client_when_the_endpoint_is_no_url_then_it_says_so(endpoint):
    with pytest.raises(ConfigurationError, match="endpoint_url=") as refused:
        list(NovaJobs(endpoint_url=endpoint).list())
    assert "secret" not in str(refused.value)


def test_asking_when_nobody_listens_then_the_error_is_ours():
    session = _aws.session_for("us-east-1", boto3.session.Session(*KEYS))
    with Server() as server:
        endpoint = server.endpoint
    client = _aws.client(session, "bedrock", endpoint_url=endpoint)
    with pytest.raises(ServiceConnectionError, match="bedrock:List"), _aws.asking("bedrock:List"):
        client.list_model_customization_jobs()


def test_asking_when_the_error_is_not_of_boto3_then_it_passes():
    with pytest.raises(KeyError), _aws.asking("a:B"):
        raise KeyError("mine")
    with pytest.raises(JobServiceError, match=r"^mine$"), _aws.asking("a:B"):
        raise JobServiceError("mine")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "moto.example"])
def test_client_when_the_endpoint_is_given_then_buckets_are_paths_there(host):
    session = _aws.session_for("us-east-1", boto3.session.Session(*KEYS))
    client = _aws.client(session, "s3", endpoint_url=f"http://{host}:5000")
    url = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"})
    assert url.startswith(f"http://{host}:5000/bucket/key?")
