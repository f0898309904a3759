from __future__ import annotations

import base64
import dataclasses
import json
import pickle
from typing import Any, Literal

import pytest
from fakes import JOB_ARN, ga_payload
from hypothesis import given
from hypothesis import strategies as st

from aws_rft_sdk import wire
from aws_rft_sdk.errors import PayloadError
from aws_rft_sdk.types import InferenceParams, RolloutMetadata, RolloutRequest

GA = {
    "prompt": "p",
    "metadata": {"jobArn": JOB_ARN, "rolloutId": "t-1", "endpoint": "https://e", "region": "us-west-2"},
    "inferenceParams": {"temperature": 0.7, "topP": 0.9, "maxTokens": 512},
}
SNAKE = {
    "instance": "p",
    "metadata": {"job_arn": JOB_ARN, "trajectory_id": "t-1", "endpoint": "https://e", "region": "us-west-2"},
    "inference_params": {"temperature": 0.7, "top_p": 0.9, "max_tokens": 512},
}
PASCAL = {
    "Prompt": "p",
    "Metadata": {"JobArn": JOB_ARN, "TrajectoryId": "t-1", "Endpoint": "https://e", "Region": "us-west-2"},
    "InferenceParams": {"Temperature": 0.7, "TopP": 0.9, "MaxTokens": 512},
}
WANTED = RolloutRequest(
    prompt="p",
    metadata=RolloutMetadata(JOB_ARN, "t-1", "https://e", "us-west-2"),
    inference_params=InferenceParams(0.7, 0.9, 512),
)


def encoded(payload: object) -> str:
    return base64.b64encode(json.dumps(payload).encode()).decode()


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(GA, id="ga"),
        pytest.param(SNAKE, id="snake"),
        pytest.param(PASCAL, id="pascal"),
        pytest.param({"body": json.dumps(GA)}, id="body-string"),
        pytest.param({"body": GA}, id="body-object"),
        pytest.param({"body": encoded(SNAKE), "isBase64Encoded": True}, id="body-base64"),
        pytest.param({"body": json.dumps(GA), "isBase64Encoded": False, "httpMethod": "POST"}, id="gateway-event"),
        pytest.param({"metadata": {"user": 1}, "body": json.dumps(GA)}, id="body-beside-metadata-of-its-own"),
        pytest.param({**GA, "instance": "p"}, id="two-spellings-that-agree"),
    ],
)
def test_parse_when_spelled_in_any_known_way_then_it_is_the_same_request(payload: dict[str, Any]) -> None:
    assert RolloutRequest.parse(payload) == WANTED


@pytest.mark.parametrize("job_key", ["jobArn", "job_arn", "JobArn"])
@pytest.mark.parametrize("id_key", ["rolloutId", "trajectoryId", "trajectory_id", "TrajectoryId"])
@pytest.mark.parametrize("params_key", ["inferenceParams", "inference_params"])
@pytest.mark.parametrize("prompt_key", ["prompt", "instance"])
def test_parse_when_spellings_are_mixed_then_each_field_is_found(
    job_key: str, id_key: str, params_key: str, prompt_key: str
) -> None:
    request = RolloutRequest.parse(
        {prompt_key: "p", "metadata": {job_key: JOB_ARN, id_key: "t-1"}, params_key: {"maxTokens": 5}}
    )
    assert request == RolloutRequest("p", RolloutMetadata(JOB_ARN, "t-1"), InferenceParams(max_tokens=5))
    assert (request.job_arn, request.trajectory_id) == (JOB_ARN, "t-1")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param({"prompt": "hello"}, id="prompt-alone"),
        pytest.param({}, id="empty"),
        pytest.param({"prompt": "x", "metadata": {"user": "u", "endpoint": "e"}}, id="metadata-of-its-own"),
        pytest.param({"prompt": "x", "metadata": {}}, id="empty-metadata"),
        pytest.param({"metadata": "a string"}, id="metadata-string"),
        pytest.param({"metadata": [JOB_ARN]}, id="metadata-list"),
        pytest.param({"metadata": None}, id="metadata-null"),
        pytest.param({"jobArn": JOB_ARN, "rolloutId": "t"}, id="keys-outside-metadata"),
        pytest.param({"body": "plain text"}, id="body-text"),
        pytest.param({"body": "{"}, id="body-broken-json"),
        pytest.param({"body": '"x"'}, id="body-json-string"),
        pytest.param({"body": json.dumps([GA])}, id="body-array"),
        pytest.param({"body": json.dumps({"prompt": "x"})}, id="body-without-metadata"),
        pytest.param({"body": encoded(GA)}, id="base64-not-declared"),
        pytest.param({"body": "%%%", "isBase64Encoded": True}, id="broken-base64"),
        pytest.param({"body": "\xff\xfe", "isBase64Encoded": True}, id="not-ascii-base64"),
        pytest.param({"body": 7}, id="body-number"),
        pytest.param(None, id="none"),
        pytest.param("text", id="text"),
        pytest.param(json.dumps(GA), id="json-text"),
        pytest.param([GA], id="list"),
        pytest.param(7, id="number"),
        pytest.param(object(), id="object"),
    ],
)
def test_parse_when_it_is_ordinary_traffic_then_none(payload: object) -> None:
    assert RolloutRequest.parse(payload) is None


def test_parse_when_a_body_of_others_nests_deeply_then_none() -> None:
    assert RolloutRequest.parse({"body": "[" * 100_000}) is None


def with_metadata(**metadata: Any) -> dict[str, Any]:
    return {"prompt": "p", "metadata": metadata}


def with_params(**params: Any) -> dict[str, Any]:
    return {**GA, "inferenceParams": params}


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        pytest.param(with_metadata(rolloutId="t"), "metadata.jobArn", id="no-arn"),
        pytest.param(with_metadata(jobArn=JOB_ARN), "metadata.rolloutId", id="no-id"),
        pytest.param(with_metadata(jobArn="", rolloutId="t"), "metadata.jobArn", id="empty-arn"),
        pytest.param(with_metadata(job_arn=None, rolloutId="t"), "metadata.job_arn", id="null-arn"),
        pytest.param(with_metadata(JobArn="arn:x", rolloutId="t"), "metadata.JobArn", id="no-arn-at-all"),
        pytest.param(with_metadata(jobArn=5, rolloutId="t"), "metadata.jobArn", id="arn-number"),
        pytest.param(with_metadata(jobArn=JOB_ARN, trajectory_id=""), "metadata.trajectory_id", id="empty-id"),
        pytest.param(with_metadata(jobArn=JOB_ARN, TrajectoryId="x" * 257), "metadata.TrajectoryId", id="long-id"),
        pytest.param(with_metadata(jobArn=JOB_ARN, rolloutId="a\nb"), "metadata.rolloutId", id="control-character"),
        pytest.param(with_metadata(jobArn=JOB_ARN, rolloutId=7), "metadata.rolloutId", id="id-number"),
        pytest.param({"Metadata": {"JobArn": JOB_ARN}}, "Metadata.rolloutId", id="pascal-metadata"),
        pytest.param(with_metadata(jobArn=JOB_ARN, rolloutId="t", endpoint=7), "metadata.endpoint", id="endpoint"),
        pytest.param(with_metadata(jobArn=JOB_ARN, rolloutId="t", endpoint="a\r\n"), "metadata.endpoint", id="crlf"),
        pytest.param(with_metadata(jobArn=JOB_ARN, rolloutId="t", region=["x"]), "metadata.region", id="region"),
        pytest.param({**GA, "inferenceParams": [1]}, "inferenceParams", id="params-list"),
        pytest.param({**SNAKE, "inference_params": "x"}, "inference_params", id="params-string"),
        pytest.param(with_params(temperature="0.7"), "inferenceParams.temperature", id="temperature-string"),
        pytest.param(with_params(temperature=True), "inferenceParams.temperature", id="temperature-bool"),
        pytest.param(with_params(temperature=-0.1), "inferenceParams.temperature", id="temperature-negative"),
        pytest.param(with_params(temperature=float("nan")), "inferenceParams.temperature", id="temperature-nan"),
        pytest.param(with_params(temperature=float("inf")), "inferenceParams.temperature", id="temperature-inf"),
        pytest.param(with_params(topP=1.01), "inferenceParams.topP", id="top-p-above-1"),
        pytest.param(with_params(top_p=-1), "inferenceParams.top_p", id="top-p-negative"),
        pytest.param(with_params(topP=[]), "inferenceParams.topP", id="top-p-list"),
        pytest.param(with_params(maxTokens=0), "inferenceParams.maxTokens", id="max-tokens-0"),
        pytest.param(with_params(maxTokens=1.5), "inferenceParams.maxTokens", id="max-tokens-fraction"),
        pytest.param(with_params(max_tokens="5"), "inferenceParams.max_tokens", id="max-tokens-string"),
        pytest.param(with_params(maxTokens=True), "inferenceParams.maxTokens", id="max-tokens-bool"),
        pytest.param(with_params(maxTokens=float("inf")), "inferenceParams.maxTokens", id="max-tokens-inf"),
        pytest.param(with_params(maxTokens=float("nan")), "inferenceParams.maxTokens", id="max-tokens-nan"),
        pytest.param({"body": json.dumps({"metadata": {"jobArn": JOB_ARN}})}, "metadata.rolloutId", id="in-a-body"),
        pytest.param(
            with_metadata(jobArn=JOB_ARN, rolloutId="a", trajectory_id="b"), "metadata.trajectory_id", id="two-ids"
        ),
        pytest.param({**GA, "instance": "q"}, "instance", id="two-prompts"),
        pytest.param(with_params(topP=0.1, top_p=0.2), "inferenceParams.top_p", id="two-top-ps"),
    ],
)
def test_parse_when_a_rollout_is_malformed_then_the_field_is_named_as_spelled(
    payload: dict[str, Any], field: str
) -> None:
    with pytest.raises(PayloadError) as caught:
        RolloutRequest.parse(payload)
    assert caught.value.field == field
    assert field in str(caught.value)


def test_parse_when_it_is_a_rollout_itself_then_its_body_is_just_another_field() -> None:
    request = RolloutRequest.parse({**GA, "body": "not json"})
    assert request == dataclasses.replace(WANTED, extra={"body": "not json"})


def test_parse_when_a_second_spelling_is_null_then_it_counts_as_absent() -> None:
    # A pydantic model with both fields dumps the unused one as null.
    assert RolloutRequest.parse(with_metadata(jobArn=JOB_ARN, rolloutId="t", trajectory_id=None)) is not None


def test_parse_when_inference_params_are_absent_or_null_then_the_job_leaves_them_open() -> None:
    for payload in (ga_payload(), {**ga_payload(), "inferenceParams": None}, {**ga_payload(), "inferenceParams": {}}):
        request = RolloutRequest.parse(payload)
        assert request is not None
        assert request.inference_params.sampling() == {}


def test_sampling_when_asked_then_zero_is_a_value() -> None:
    assert InferenceParams(temperature=0, max_tokens=7).sampling() == {"temperature": 0, "max_tokens": 7}


def test_parse_when_max_tokens_is_a_whole_float_then_it_becomes_an_int() -> None:
    request = RolloutRequest.parse(with_params(maxTokens=512.0))
    assert request is not None
    assert type(request.inference_params.max_tokens) is int


def test_parse_when_fields_are_unknown_then_they_are_kept_where_they_stood() -> None:
    request = RolloutRequest.parse(
        {
            "prompt": "p",
            "model_name": "m",
            "metadata": {"jobArn": JOB_ARN, "rolloutId": "t", "split": {"name": ["val"]}},
            "inferenceParams": {"seed": 7},
        }
    )
    assert request is not None
    assert request.extra == {"model_name": "m"}
    assert request.metadata.extra == {"split": {"name": ["val"]}}
    assert request.inference_params.extra == {"seed": 7}
    assert hash(request) == hash(RolloutRequest.parse(request.to_payload()))


def test_parse_when_endpoint_is_empty_then_there_is_none() -> None:
    request = RolloutRequest.parse(with_metadata(jobArn=JOB_ARN, rolloutId="t", endpoint="", region=""))
    assert request is not None
    assert (request.metadata.endpoint, request.metadata.region) == (None, None)


def test_parse_when_done_then_the_payload_is_unchanged_and_not_shared() -> None:
    payload = {**ga_payload(prompt={"q": ["x"]}), "more": {"a": [1]}}
    before = json.dumps(payload)
    request = RolloutRequest.parse(payload)
    assert json.dumps(payload) == before
    payload["more"]["a"].append(2)
    payload["prompt"]["q"].append("y")
    assert request is not None
    assert request.extra == {"more": {"a": [1]}}
    assert request.prompt == {"q": ["x"]}


def test_request_when_changed_then_it_cannot_be() -> None:
    for change in (
        lambda: setattr(WANTED, "prompt", "x"),
        lambda: setattr(WANTED.metadata, "job_arn", "x"),
        lambda: setattr(WANTED.inference_params, "top_p", 1),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()


def test_metadata_when_made_by_hand_then_it_is_checked_too() -> None:
    with pytest.raises(PayloadError) as caught:
        RolloutMetadata(job_arn="nope", trajectory_id="t")
    assert caught.value.field == "job_arn"
    with pytest.raises(PayloadError):
        dataclasses.replace(WANTED.metadata, trajectory_id="")


def test_parse_when_it_is_a_request_already_then_it_comes_back_as_it_is() -> None:
    assert RolloutRequest.parse(WANTED) is WANTED


# --- the round trip --------------------------------------------------------------------------------------------------

KNOWN = {alias for name in wire._ALIASES for alias in wire._ALIASES[name]}
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
extras = st.dictionaries(
    st.text(max_size=6).filter(lambda key: key not in KNOWN and key != "body"), json_values, max_size=2
)
ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=256)
requests = st.builds(
    RolloutRequest,
    prompt=json_values,
    metadata=st.builds(
        RolloutMetadata,
        job_arn=st.from_regex(wire.JOB_ARN_PATTERN, fullmatch=True).filter(lambda arn: len(arn) <= 256),
        trajectory_id=ids,
        endpoint=st.none() | st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=9),
        region=st.none() | st.just("us-west-2"),
        extra=extras,
    ),
    inference_params=st.builds(
        InferenceParams,
        temperature=st.none() | st.floats(0, 2) | st.integers(0, 2),
        top_p=st.none() | st.floats(0, 1),
        max_tokens=st.none() | st.integers(1, 10**6),
        extra=extras,
    ),
    extra=extras,
)


@pytest.mark.parametrize("spelling", ["ga", "alpha"])
@given(request=requests)
def test_to_payload_when_parsed_then_it_is_the_request_again(
    spelling: Literal["ga", "alpha"], request: RolloutRequest
) -> None:
    payload = request.to_payload(spelling)
    again = RolloutRequest.parse(payload)
    assert again == request
    assert hash(again) == hash(request)
    # As it would come over the wire, and within an envelope.
    assert RolloutRequest.parse(json.loads(json.dumps(payload))) == request
    assert RolloutRequest.parse({"body": json.dumps(payload)}) == request
    assert pickle.loads(pickle.dumps(request)) == request


@pytest.mark.parametrize(("spelling", "wanted"), [("ga", GA), ("alpha", SNAKE)])
def test_to_payload_when_spelled_then_the_keys_are_that_generations(
    spelling: Literal["ga", "alpha"], wanted: dict[str, Any]
) -> None:
    payload = WANTED.to_payload(spelling)
    assert payload == wanted
    assert type(payload["metadata"]) is dict


def test_to_payload_when_the_spelling_is_unknown_then_value_error() -> None:
    with pytest.raises(ValueError, match="beta"):
        WANTED.to_payload("beta")  # type: ignore[arg-type] # that is the point
