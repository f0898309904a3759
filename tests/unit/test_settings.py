from __future__ import annotations

from typing import Any

import pytest
from fakes import JOB_ARN

from aws_rft_sdk.errors import ConfigurationError, UntrustedEndpointError
from aws_rft_sdk.settings import Endpoint, default_endpoint, environment, resolve_endpoint
from aws_rft_sdk.types import RolloutMetadata
from aws_rft_sdk.wire import Api

ALPHA_HOST = "https://finetuning-job-runtime.alpha.sagemaker.us-west-2.api.aws"
GA_HOST = "https://job-runtime.sagemaker.us-west-2.api.aws"
NO_REGION_ARN = "arn:aws:sagemaker::123456789012:job/AgentRFT/x"


def metadata(arn: str = JOB_ARN, **kwargs: Any) -> RolloutMetadata:
    return RolloutMetadata(arn, "t", **kwargs)


# --- the URL, one test for each step ---------------------------------------------------------------------------------


def test_endpoint_when_given_as_an_argument_then_it_wins_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", "https://env.example")
    endpoint = resolve_endpoint(metadata(endpoint=GA_HOST), endpoint="http://argument.example:81/")
    assert (endpoint.url, endpoint.source) == ("http://argument.example:81", "endpoint=")


def test_endpoint_when_in_the_payload_then_it_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", "https://env.example")
    endpoint = resolve_endpoint(metadata(endpoint=ALPHA_HOST + "/"))
    assert (endpoint.url, endpoint.source) == (ALPHA_HOST, "payload")


def test_endpoint_when_in_the_environment_then_it_wins_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", "http://env.example:8080")
    endpoint = resolve_endpoint(metadata())
    assert (endpoint.url, endpoint.source) == ("http://env.example:8080", "RFT_RUNTIME_ENDPOINT")


def test_endpoint_when_named_nowhere_then_it_is_ga_in_the_region_of_the_job() -> None:
    assert resolve_endpoint(metadata()) == Endpoint(GA_HOST, Api.GA, "us-west-2", "default")


def test_endpoint_when_the_payload_names_an_untrusted_one_then_the_environment_does_not_save_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", GA_HOST)
    with pytest.raises(UntrustedEndpointError):
        resolve_endpoint(metadata(endpoint="https://evil.example"))


@pytest.mark.parametrize(
    ("stage", "url"),
    [
        ("", GA_HOST),
        ("prod", GA_HOST),
        ("beta", "https://job-runtime.beta.sagemaker.us-west-2.api.aws"),
    ],
)
def test_endpoint_when_a_stage_is_set_then_the_default_host_has_its_label(
    stage: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_STAGE", stage)
    endpoint = resolve_endpoint(metadata())
    assert (endpoint.url, endpoint.api) == (url, Api.GA)


@pytest.mark.parametrize("stage", ["a.b", "x/y", "@", "Beta", "a b"])
def test_endpoint_when_the_stage_is_no_label_then_configuration_error(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_STAGE", stage)
    with pytest.raises(ConfigurationError, match="RFT_STAGE"):
        resolve_endpoint(metadata())


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-central-1", "job-runtime.sagemaker.eu-central-1.api.aws"),
        ("us-gov-west-1", "job-runtime.sagemaker.us-gov-west-1.api.aws"),
        ("cn-north-1", "job-runtime.sagemaker.cn-north-1.api.amazonwebservices.com.cn"),
        ("eusc-de-east-1", "job-runtime.sagemaker.eusc-de-east-1.api.amazonwebservices.eu"),
        ("us-iso-east-1", "job-runtime.sagemaker.us-iso-east-1.api.aws.ic.gov"),
        ("us-isob-east-1", "job-runtime.sagemaker.us-isob-east-1.api.aws.scloud"),
        ("us-isof-south-1", "job-runtime.sagemaker.us-isof-south-1.api.aws.hci.ic.gov"),
        ("eu-isoe-west-1", "job-runtime.sagemaker.eu-isoe-west-1.api.cloud-aws.adc-e.uk"),
    ],
)
def test_default_endpoint_when_the_partition_differs_then_its_dual_stack_suffix(region: str, host: str) -> None:
    assert default_endpoint(region) == f"https://{host}"


@pytest.mark.parametrize(
    "region", ["", "local", "us-west", "evil.com/", "us-west-2.evil.com", "us-west-2\n", "US-WEST-2"]
)
def test_default_endpoint_when_the_region_is_none_of_aws_then_configuration_error(region: str) -> None:
    with pytest.raises(ConfigurationError, match="region"):
        default_endpoint(region)


FORMS = [
    "host.example",
    "ftp://host",
    "https://",
    "//host",
    "http://user:pw@host",
    "https://[::1",
    "http://host:99999",
    "",
]


@pytest.mark.parametrize("url", FORMS[:-1])
def test_endpoint_when_the_operators_own_is_no_url_then_its_source_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="endpoint="):
        resolve_endpoint(metadata(), endpoint=url)
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", url)
    with pytest.raises(ConfigurationError, match="RFT_RUNTIME_ENDPOINT"):
        resolve_endpoint(metadata())


@pytest.mark.parametrize("url", ["https://host/?a=b", "https://host/#x"])
def test_endpoint_when_the_operators_own_has_a_query_then_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        resolve_endpoint(metadata(), endpoint=url)


# --- the region ------------------------------------------------------------------------------------------------------


def region_of(meta: RolloutMetadata, **kwargs: Any) -> str:
    return resolve_endpoint(meta, endpoint="http://127.0.0.1:1", **kwargs).region


def test_region_when_given_then_argument_payload_arn_environment_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    assert region_of(metadata(region="eu-west-3"), region="eu-north-1") == "eu-north-1"
    assert region_of(metadata(region="eu-west-3")) == "eu-west-3"
    assert region_of(metadata()) == "us-west-2"
    assert region_of(metadata(NO_REGION_ARN)) == "eu-west-1"
    monkeypatch.delenv("AWS_REGION")
    assert region_of(metadata(NO_REGION_ARN)) == "eu-west-2"


def test_region_when_there_is_none_then_the_error_says_where_to_set_it() -> None:
    with pytest.raises(ConfigurationError, match=r"region=.*AWS_REGION"):
        resolve_endpoint(metadata(NO_REGION_ARN))


def test_default_endpoint_when_the_region_is_given_then_it_stands_there() -> None:
    assert resolve_endpoint(metadata(), region="eu-west-1").url == "https://job-runtime.sagemaker.eu-west-1.api.aws"
    assert resolve_endpoint(metadata(region="eu-west-3")).url == "https://job-runtime.sagemaker.eu-west-3.api.aws"


# --- the generation --------------------------------------------------------------------------------------------------

HOSTS = [
    pytest.param(ALPHA_HOST, Api.ALPHA, id="alpha"),
    pytest.param("https://finetuning-job-runtime.sagemaker.us-west-2.api.aws", Api.ALPHA, id="alpha-without-stage"),
    pytest.param(GA_HOST, Api.GA, id="ga"),
    pytest.param("https://job-runtime.sagemaker-fips.us-west-2.api.aws", Api.GA, id="fips"),
    pytest.param("https://job-runtime.beta.sagemaker.us-west-2.api.aws", Api.GA, id="stage"),
    pytest.param("https://vpce-0a1-b2.job-runtime.sagemaker.us-west-2.vpce.amazonaws.com", Api.GA, id="vpc-endpoint"),
    pytest.param("https://job-runtime.sagemaker.cn-north-1.api.amazonwebservices.com.cn", Api.GA, id="china"),
]


@pytest.mark.parametrize(("url", "api"), HOSTS)
@pytest.mark.parametrize("asked", ["alpha", "ga"])
def test_api_when_the_host_is_the_services_then_the_host_decides(url: str, api: Api, asked: str) -> None:
    assert resolve_endpoint(metadata(), endpoint=url, api=asked).api is api
    assert resolve_endpoint(metadata(endpoint=url)).api is api


def test_api_when_the_host_is_another_then_argument_environment_alpha_in_this_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = "http://127.0.0.1:8080"
    assert resolve_endpoint(metadata(), endpoint=local).api is Api.ALPHA
    monkeypatch.setenv("RFT_API", "ga")
    assert resolve_endpoint(metadata(), endpoint=local).api is Api.GA
    assert resolve_endpoint(metadata(), endpoint=local, api="alpha").api is Api.ALPHA
    assert resolve_endpoint(metadata(), endpoint=local, api=Api.GA).api is Api.GA


@pytest.mark.parametrize(
    "url", ["https://my-job-runtime.example", "https://notjob-runtime.sagemaker.x", "https://job-runtime.example"]
)
def test_api_when_the_host_only_looks_like_the_services_then_it_is_alpha(url: str) -> None:
    assert resolve_endpoint(metadata(), endpoint=url).api is Api.ALPHA


def test_api_when_it_has_another_name_then_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"'beta'.*alpha, ga"):
        resolve_endpoint(metadata(), endpoint="http://127.0.0.1:1", api="beta")
    monkeypatch.setenv("RFT_API", "v3")
    with pytest.raises(ConfigurationError, match="RFT_API"):
        resolve_endpoint(metadata(), endpoint="http://127.0.0.1:1")


def test_environment_when_a_variable_is_empty_then_it_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFT_API", "")
    assert environment("RFT_API") is None
    monkeypatch.setenv("RFT_API", "ga")  # read when needed, not at import
    assert environment("RFT_API") == "ga"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1", True),
        ("http://localhost", True),
        ("http://[::1]:1", True),
        (GA_HOST, False),
        ("http://10.0.0.1", False),
    ],
)
def test_is_loopback_when_asked_then_only_this_machine_is(url: str, expected: bool) -> None:
    assert Endpoint(url, Api.GA, "us-west-2", "test").is_loopback is expected
