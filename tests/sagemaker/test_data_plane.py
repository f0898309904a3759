"""S3, CloudWatch Logs and MLflow of `LocalJobs`: boto3's real clients, and MLflow's API over plain HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

from aws_rft_sdk.agent_rft import EVALUATION, TRAINING
from tests.sagemaker.plane import MLFLOW_APP, Plane, parameters, serving, training


@pytest.fixture
def plane() -> Iterator[Plane]:
    with serving() as plane:
        yield plane


def code_of(call: Any, **given: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**given)
    return str(caught.value.response["Error"]["Code"])


# --- S3 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"Body": b"one\ntwo\n"},
        {"Body": BytesIO(b"one\ntwo\n")},
        {"Body": b"one\ntwo\n", "ChecksumAlgorithm": "SHA256"},
        {"Body": b"one\ntwo\n", "ContentMD5": "IJS2AdqsPWj1rtUdPCD3zQ==", "ContentType": "text/plain"},
        {"Body": b""},
    ],
    ids=["bytes", "stream", "sha256", "md5", "empty"],
)
def test_object_when_put_then_it_comes_back(plane: Plane, given: dict[str, Any]) -> None:
    s3, where = plane.client("s3"), {"Bucket": "bucket", "Key": "data/ü +%.jsonl"}
    etag = s3.put_object(**where, **given)["ETag"]
    head, answer = s3.head_object(**where), s3.get_object(**where)
    content = answer["Body"].read()
    assert content in (b"one\ntwo\n", b"")
    assert (head["ContentLength"], head["ETag"], answer["ETag"]) == (len(content), etag, etag)
    assert answer["ContentType"] == given.get("ContentType", "binary/octet-stream")
    if content:
        assert s3.get_object(**where, Range="bytes=4-")["Body"].read() == b"two\n"
        assert s3.get_object(**where, Range="bytes=-2")["Body"].read() == b"o\n"
        assert code_of(s3.get_object, **where, Range="bytes=99-") == "InvalidRange"
    s3.delete_object(**where)
    assert code_of(s3.get_object, **where) == "NoSuchKey"
    assert code_of(s3.head_object, **where) == "404"


def test_file_when_large_then_its_parts_become_one_object(plane: Plane) -> None:
    s3, content = plane.client("s3"), bytes(range(256)) * 48_000  # 12 MB, so two parts
    s3.upload_fileobj(BytesIO(content), "bucket", "large")
    assert s3.get_object(Bucket="bucket", Key="large")["Body"].read() == content
    upload = s3.create_multipart_upload(Bucket="bucket", Key="k")["UploadId"]
    s3.abort_multipart_upload(Bucket="bucket", Key="k", UploadId=upload)
    given = {"Bucket": "bucket", "Key": "k", "UploadId": upload, "PartNumber": 1}
    assert code_of(s3.upload_part, **given, Body=b"x") == "NoSuchUpload"
    assert plane.objects.list("") == ["s3://bucket/large"]


def chunked(*chunks: bytes, trailer: str = "") -> bytes:
    """Return a body in the form that boto3 sends over https."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return body + b"0\r\n" + trailer.encode() + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "length", "status"),
    [
        (chunked(b"one\n", b"two\n", trailer="x-amz-checksum-crc32:EroL5g=="), "8", 200),
        (chunked(b"one\n", b"two\n", trailer="x-amz-checksum-crc32:AAAAAA=="), "8", 400),
        (chunked(b"one\n"), "8", 400),
        (b"zz\r\none", "3", 400),
        (b"ff\r\none", "3", 400),
    ],
    ids=["right", "other-checksum", "too-short", "no-size", "cut"],
)
def test_body_when_in_chunks_then_the_object_is_what_they_hold(
    plane: Plane, body: bytes, length: str, status: int
) -> None:
    headers = {"content-encoding": "aws-chunked", "x-amz-decoded-content-length": length}
    answer = requests.put(f"{plane.endpoint}/bucket/key", data=body, headers=headers, timeout=30)
    assert answer.status_code == status
    assert plane.objects.list("s3://") == (["s3://bucket/key"] if status == 200 else [])


def test_objects_when_listed_then_prefix_folders_and_pages_hold(plane: Plane) -> None:
    s3 = plane.client("s3")
    for key in ("a/1", "a/2", "b", "c/d/e"):
        s3.put_object(Bucket="bucket", Key=key, Body=b"x")
    s3.put_object(Bucket="bucket2", Key="a/3", Body=b"x")

    def keys(**given: Any) -> list[str]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", **given)
        return [
            row.get("Key") or row["Prefix"]
            for p in pages
            for row in p.get("Contents", []) + p.get("CommonPrefixes", [])
        ]

    assert keys() == ["a/1", "a/2", "b", "c/d/e"]
    assert keys(PaginationConfig={"PageSize": 1}) == ["a/1", "a/2", "b", "c/d/e"]
    assert keys(Prefix="a/") == ["a/1", "a/2"]
    assert sorted(keys(Delimiter="/", PaginationConfig={"PageSize": 1})) == ["a/", "b", "c/"]
    assert keys(Prefix="c/", Delimiter="/") == ["c/d/"]
    assert keys(StartAfter="a/2") == ["b", "c/d/e"]
    assert s3.list_objects_v2(Bucket="bucket")["KeyCount"] == 4
    assert s3.get_bucket_location(Bucket="bucket")["LocationConstraint"] == "us-west-2"
    s3.head_bucket(Bucket="bucket")
    assert code_of(s3.get_object_acl, Bucket="bucket", Key="b") == "NotImplemented"
    assert code_of(s3.put_object, Bucket="bucket", Key="b", Body=b"y", IfNoneMatch="*") == "PreconditionFailed"


# --- logs ------------------------------------------------------------------------------------------------------------


def test_log_when_read_then_streams_are_found_by_the_job_and_tokens_go_on(plane: Plane) -> None:
    logs, group = plane.client("logs"), f"/aws/sagemaker/Job/{TRAINING}"
    assert code_of(logs.describe_log_streams, logGroupName=group) == "ResourceNotFoundException"
    for name in ("abc", "abc-2"):
        plane.client("sagemaker").create_job(**parameters(name=name))
        for line in ("step 1", "step 2 failed", "step 3"):
            plane.store.log(plane.job(name), f"{name} {line}")
        plane.store.advance(plane.job(name), status="Completed")

    def streams(prefix: str) -> list[str]:
        pages = logs.get_paginator("describe_log_streams").paginate(
            logGroupName=group, logStreamNamePrefix=prefix, PaginationConfig={"PageSize": 1}
        )
        return [row["logStreamName"] for page in pages for row in page["logStreams"]]

    assert [name.partition("/")[0] for name in streams("abc")] == ["abc-2", "abc"]  # "-" is before "/"
    (stream,) = streams("abc/")
    given = {"logGroupName": group, "logStreamName": stream, "startFromHead": True, "limit": 2}
    first = logs.get_log_events(**given)
    second = logs.get_log_events(**given, nextToken=first["nextForwardToken"])
    last = logs.get_log_events(**given, nextToken=second["nextForwardToken"])
    said = [[event["message"] for event in page["events"]] for page in (first, second, last)]
    assert said == [["abc step 1", "abc step 2 failed"], ["abc step 3"], []]
    assert last["nextForwardToken"] == second["nextForwardToken"]
    before = logs.get_log_events(**given, nextToken=second["nextBackwardToken"])
    assert [event["message"] for event in before["events"]] == said[0]
    assert code_of(logs.get_log_events, **{**given, "logStreamName": "abc"}) == "ResourceNotFoundException"
    found = logs.filter_log_events(logGroupName=group, logStreamNamePrefix="abc/", filterPattern='"failed"')
    assert [event["message"] for event in found["events"]] == ["abc step 2 failed"]
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group, PaginationConfig={"PageSize": 4})
    assert len([event for page in pages for event in page["events"]]) == 6
    assert code_of(logs.get_log_events, **given, nextToken="x/1") == "InvalidParameterException"


# --- MLflow ----------------------------------------------------------------------------------------------------------


def opened(plane: Plane) -> requests.Session:
    url = plane.client("sagemaker").create_presigned_mlflow_app_url(Arn=MLFLOW_APP)["AuthorizedUrl"]
    session = requests.Session()
    assert session.get(url, timeout=30).ok
    return session


def test_url_when_presigned_then_it_opens_one_session_that_ends(caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    with caplog.at_level(logging.DEBUG), serving(clock=lambda: now[0]) as plane:
        client = plane.client("sagemaker")
        search = f"{plane.endpoint}/api/2.0/mlflow/experiments/search"
        assert requests.get(search, timeout=30).status_code == 403
        assert requests.get(search, cookies={"session": "guess"}, timeout=30).status_code == 403
        url = client.create_presigned_mlflow_app_url(Arn=MLFLOW_APP)["AuthorizedUrl"]
        session = requests.Session()
        assert session.get(url, timeout=30).ok
        assert requests.get(url, timeout=30).status_code == 403  # once
        now[0] += 240
        assert session.get(search, timeout=30).ok
        now[0] += 60
        assert session.get(search, timeout=30).status_code == 403
        url = client.create_presigned_mlflow_app_url(Arn=MLFLOW_APP, ExpiresInSeconds=5)["AuthorizedUrl"]
        now[0] += 5
        assert session.get(url, timeout=30).status_code == 403
        secrets = (url.partition("=")[2], next(iter(session.cookies)).value or "")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("aws_rft_sdk", "uvicorn"))]
    assert not [line for line in ours if any(secret in line for secret in secrets)]


def test_run_when_read_then_metrics_and_traces_are_those_of_the_job(plane: Plane) -> None:
    plane.client("sagemaker").create_job(**parameters(training(mlflow_experiment="calc", mlflow_run="first")))
    row = plane.job()
    for step in (1, 2, 3):
        plane.store.finish_step(row, step, None, {"rollout/reward/mean": step / 4}, {}, False)
    plane.store.log_metrics(row, 0, {"val/reward/mean": 0.125})
    message = {"content": None, "tool_calls": [{"id": "c1", "function": {"name": "add", "arguments": "{}"}}]}
    turn = {"request": {"messages": []}, "response": {"choices": [{"message": message}]}}
    for number in range(3):
        plane.store.trace(row, {"id": f"r{number}", "prompt": "1+1", "reward": 1.0, "step": 1, "turns": [turn]})
    session = opened(plane)

    def get(path: str, **query: Any) -> Any:
        answer = session.get(f"{plane.endpoint}/{path}", params=query, timeout=30)
        assert answer.ok, answer.text
        return answer.json()

    experiment = get("api/2.0/mlflow/experiments/get-by-name", experiment_name="calc")["experiment"]
    assert experiment["experiment_id"] == row.output["MlflowDetails"]["ExperimentId"]
    run = get("api/2.0/mlflow/runs/get", run_id=row.run_id)["run"]
    assert (run["info"]["run_name"], run["info"]["status"]) == ("first", "RUNNING")
    latest = {metric["key"]: (metric["step"], metric["value"]) for metric in run["data"]["metrics"]}
    assert latest == {"rollout/reward/mean": (3, 0.75), "val/reward/mean": (0, 0.125)}
    given = {"run_id": row.run_id, "metric_key": "rollout/reward/mean", "max_results": 2}
    first = get("api/2.0/mlflow/metrics/get-history", **given)
    second = get("api/2.0/mlflow/metrics/get-history", **given, page_token=first["next_page_token"])
    history = [(item["step"], item["value"]) for item in first["metrics"] + second["metrics"]]
    assert history == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert "next_page_token" not in second

    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment["experiment_id"]}}
    body = {"locations": [place], "filter": f"attribute.run_id = '{row.run_id}'", "max_results": 2}
    url = f"{plane.endpoint}/api/3.0/mlflow/traces/search"
    page = session.post(url, json=body, timeout=30).json()
    rest = session.post(url, json={**body, "page_token": page["next_page_token"]}, timeout=30).json()
    traces = [*page["traces"], *rest["traces"]]
    assert [trace["client_request_id"] for trace in traces] == ["r0", "r1", "r2"]
    trace_id = traces[0]["trace_id"]
    spans = get("ajax-api/2.0/mlflow/get-trace-artifact", request_id=trace_id)["spans"]
    assert [span["name"] for span in spans] == ["trajectory", "turn-1", "add"]
    assert [span["parent_span_id"] for span in spans] == [None, spans[0]["span_id"], spans[1]["span_id"]]
    assert (spans[0]["attributes"]["reward"], spans[0]["attributes"]["prompt"]) == ("1.0", '"1+1"')
    old = get("api/2.0/mlflow/traces", experiment_ids=experiment["experiment_id"])["traces"]
    assert [trace["request_id"] for trace in old] == [trace["trace_id"] for trace in traces]
    assert session.post(url, json={**body, "filter": "tags.a = 'b'"}, timeout=30).status_code == 400
    for path in (
        "runs/get?run_id=x",
        "metrics/get-history?run_id=x&metric_key=y",
        "get-trace-artifact?request_id=tr-0",
    ):
        assert session.get(f"{plane.endpoint}/api/2.0/mlflow/{path}", timeout=30).status_code == 404


def test_evaluation_when_read_then_its_experiment_is_its_own(plane: Plane) -> None:
    client = plane.client("sagemaker")
    client.create_job(**parameters())
    client.create_job(**parameters(name="eval", category=EVALUATION))
    names = [
        row["name"]
        for row in opened(plane)
        .get(f"{plane.endpoint}/api/2.0/mlflow/experiments/search", timeout=30)
        .json()["experiments"]
    ]
    assert names == [TRAINING, "mtrl-eval-openai-reasoning-gpt-oss-20b"]
    assert plane.job("eval", EVALUATION).run_name == "base-model-eval"
