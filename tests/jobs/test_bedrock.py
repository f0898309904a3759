"""BedrockJobs against a Mantle endpoint over real HTTP, through the real openai client."""

from __future__ import annotations

import base64
import json
import re
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import httpx
import openai
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials

from aws_rft_sdk import credentials, errors
from aws_rft_sdk.jobs import BedrockJobs, Checkpoint, Event, File, Job
from aws_rft_sdk.jobs import bedrock as bedrock_module
from aws_rft_sdk.jobs import types as values
from aws_rft_sdk.jobs.bedrock import create_body, problems, whole
from tests.jobs.mantle import Asked, Json, Mantle, Trouble, honest_page

ARN = "arn:aws:lambda:us-west-2:123456789012:function:gsm8k"
MODEL = "openai.gpt-oss-20b"
AWS = "https://bedrock-mantle.us-west-2.api.aws"
CONFIGURATION, UNTRUSTED = errors.ConfigurationError, errors.UntrustedEndpointError
BROKEN, LOST, HALF = Trouble(), Trouble(applied=True), Trouble(200, True, cut=True)
SIGNATURE = re.compile(
    "AWS4-HMAC-SHA256 Credential=([^/]+)/([^/]+)/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([^,]+), Signature=(.+)"
)


def metric(step: int, created_at: int | None = None, **fields: Any) -> Json:
    data = {"step": step, "total_steps": 67, "critic_rewards_mean": 0.5}
    about = {"id": f"ftevent-{step}", "object": "fine_tuning.job.event", "level": "info", "type": "metrics"}
    return {**about, "message": f"step {step}", "created_at": created_at or 1000 + step, "data": data, **fields}


def said(name: str, created_at: int | None, **fields: Any) -> Json:
    return {"id": name, "created_at": created_at, "level": "info", "message": name, "type": "message", **fields}


def ids(found: Any) -> list[str]:
    return [item.id for item in found]


# --- who is asked, and with what ------------------------------------------------------------------------------------


def check_signature(asked: Asked, endpoint: str, keys: credentials.Keys) -> None:
    """Compute the signature of a request as it arrived, body included, with botocore."""
    match = SIGNATURE.fullmatch(asked.headers["authorization"])
    assert match is not None
    access_key, _, region, service, signed, _ = match.groups()
    assert (access_key, region, service) == (keys.access_key, "us-west-2", "bedrock-mantle")
    query = "&".join(f"{name}={value}" for name, many in asked.query.items() for value in many)
    request = AWSRequest(
        "POST" if asked.body else "GET", f"{endpoint}{asked.path}?{query}".rstrip("?"), data=asked.body
    )
    for name in signed.split(";"):
        request.headers[name] = asked.headers[name]
    request.context["timestamp"] = asked.headers["x-amz-date"]
    signer = SigV4Auth(BotocoreCredentials(*keys), service, region)
    canonical = signer.canonical_request(request)
    assert signer.signature(signer.string_to_sign(request, canonical), request) == match[6]


def decoded(asked: Asked) -> dict[str, str]:
    token = asked.headers["authorization"].removeprefix("Bearer bedrock-api-key-")
    target, _, query = base64.b64decode(token).decode().partition("?")
    assert target == "bedrock.amazonaws.com/"
    return {name: many[0] for name, many in parse_qs(query).items()}


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_calls_when_signed_then_each_covers_its_body_and_the_upload_too(
    suffix: str, mantle: Mantle, train: Path, aws_keys: credentials.Keys
) -> None:
    with BedrockJobs(base_url=mantle.endpoint + suffix, auth="sigv4") as jobs:
        job = jobs.create(MODEL, jobs.upload(train), ARN)
        list(jobs.events(job))
        jobs.chat(MODEL, [{"role": "user", "content": "2+2?"}])
        jobs.respond(MODEL, "2+2?")
    assert {asked.operation for asked in mantle.asked} >= {"CreateFile", "CreateFineTuningJob", "events", "responses"}
    for asked in mantle.asked:
        check_signature(asked, mantle.endpoint, aws_keys)
    assert train.read_bytes() in mantle.state.files["file-0"]


def test_upload_when_sent_then_the_parts_are_those_of_the_openai_client(
    mantle: Mantle, jobs: BedrockJobs, train: Path
) -> None:
    file = jobs.upload(train)
    body = mantle.of("CreateFile")[0].body
    parts = re.findall(rb'name="(\w+)"(?:; filename="([^"]+)")?\r\n(?:Content-Type: (\S+)\r\n)?', body)
    assert parts == [(b"purpose", b"", b""), (b"file", b"train.jsonl", b"application/octet-stream")]
    assert b"\r\n\r\nfine-tune\r\n" in body
    assert (type(file), file.id, file["purpose"]) == (File, "file-0", "fine-tune")


def test_token_when_there_are_credentials_then_it_is_made_from_them(
    mantle: Mantle, jobs: BedrockJobs, aws_keys: credentials.Keys
) -> None:
    list(jobs.list())
    fields = decoded(mantle.asked[0])
    assert fields["Action"] == "CallWithBearerToken"
    assert fields["X-Amz-Credential"].startswith(f"{aws_keys.access_key}/")
    assert fields["X-Amz-Credential"].endswith("/us-west-2/bedrock/aws4_request")


def test_token_when_the_credentials_end_soon_then_it_ends_with_them(
    mantle: Mantle, jobs: BedrockJobs, aws_keys: credentials.Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_at = datetime.now(timezone.utc) + timedelta(minutes=20)  # botocore renews them in the last 15 minutes
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", ends_at.isoformat())
    list(jobs.list())
    assert 1000 < int(decoded(mantle.asked[0])["X-Amz-Expires"]) <= 1200


def test_token_when_made_for_two_services_then_each_gets_its_own(aws_keys: credentials.Keys) -> None:
    shared = credentials.shared_credentials()
    assert shared.bearer_token("us-west-2").startswith("sagemaker-api-key-")
    assert shared.bearer_token("us-west-2", "bedrock").startswith("bedrock-api-key-")


def test_token_when_made_then_it_is_the_one_of_the_official_generator(aws_keys: credentials.Keys) -> None:
    generator = pytest.importorskip("aws_bedrock_token_generator")
    tokens = []
    while len(set(tokens)) != 1:  # both within one second
        theirs = generator.BedrockTokenGenerator().get_token(BotocoreCredentials(*aws_keys), "us-west-2")
        tokens = [theirs, credentials.mint_token(aws_keys, "us-west-2", service="bedrock")]
        assert [len(token) for token in tokens] == [len(theirs)] * 2


@pytest.mark.parametrize(
    ("environment", "auth", "sent"),
    [
        pytest.param({}, "token", "Bearer bedrock-api-key-", id="no-credentials"),
        pytest.param({}, "sigv4", "AWS4-HMAC-SHA256 Credential=NOCREDENTIALS", id="no-credentials-signed"),
        pytest.param({"AWS_BEARER_TOKEN_BEDROCK": "a-key"}, "token", "Bearer a-key", id="api-key"),
        pytest.param({"AWS_BEARER_TOKEN_BEDROCK": "a-key"}, "sigv4", "AWS4-HMAC-SHA256 ", id="api-key-signed"),
        pytest.param(
            {"OPENAI_API_KEY": "other", "OPENAI_BASE_URL": "http://127.0.0.1:1"},
            "token",
            "Bearer bedrock-api-key-",
            id="of-openai",
        ),
    ],
)
def test_authorization_when_the_environment_says_then_it_is_this(
    environment: dict[str, str], auth: Any, sent: str, mantle: Mantle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with BedrockJobs(base_url=mantle.endpoint, auth=auth) as jobs:
        list(jobs.list())
    assert mantle.asked[0].headers["authorization"].startswith(sent)


def test_credentials_when_refused_then_they_are_loaded_anew_once(
    mantle: Mantle, jobs: BedrockJobs, monkeypatch: pytest.MonkeyPatch, aws_keys: credentials.Keys
) -> None:
    def rotate(asked: Asked) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDROTATED")

    mantle.before = rotate
    mantle.troubles["ListFineTuningJobs"].append(Trouble(401))
    list(jobs.list())
    assert [decoded(asked)["X-Amz-Credential"].split("/")[0] for asked in mantle.asked] == [
        "AKIDEXAMPLE",
        "AKIDROTATED",
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        pytest.param({"region": "mars"}, CONFIGURATION, "no AWS region", id="region"),
        pytest.param({"auth": "bearer"}, CONFIGURATION, "'token' or 'sigv4'", id="auth"),
        pytest.param({"base_url": "127.0.0.1:80"}, CONFIGURATION, "base_url= must be a URL", id="no-url"),
        pytest.param({"base_url": "https://example.com"}, UNTRUSTED, "RFT_TRUSTED_ENDPOINTS", id="host"),
        pytest.param({"base_url": AWS.replace("https", "http")}, UNTRUSTED, "https", id="plain"),
        pytest.param({"base_url": AWS + ".example.com"}, UNTRUSTED, "host", id="suffix"),
        pytest.param({"base_url": AWS.replace("//", "//example.com/")}, UNTRUSTED, "host", id="path"),
        pytest.param({"base_url": AWS.replace("west-2", "east-1")}, CONFIGURATION, "'us-east-1'", id="region-there"),
        pytest.param({"client": "x"}, CONFIGURATION, "an openai.OpenAI", id="client"),
    ],
)  # fmt: skip
def test_arguments_when_wrong_then_nothing_is_made(arguments: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=re.escape(told)):
        BedrockJobs(**arguments)


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        pytest.param({}, "https://bedrock-mantle.us-west-2.api.aws/v1", id="default"),
        pytest.param({"region": "eu-west-1"}, "https://bedrock-mantle.eu-west-1.api.aws/v1", id="region"),
        pytest.param(
            {"base_url": "https://vpce-1-a.bedrock-mantle.us-west-2.vpce.amazonaws.com"},
            "https://vpce-1-a.bedrock-mantle.us-west-2.vpce.amazonaws.com/v1",
            id="vpc-endpoint",
        ),
        pytest.param({"base_url": "https://proxy.example.com/aws"}, "https://proxy.example.com/aws/v1", id="listed"),
    ],
)
def test_base_url_when_resolved_then_it_is_this(arguments: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFT_TRUSTED_ENDPOINTS", "proxy.example.com")
    with BedrockJobs(**arguments) as jobs:
        assert jobs.base_url == url
        assert repr(jobs).startswith("BedrockJobs(region=")


def test_credentials_when_missing_away_from_this_machine_then_nothing_is_sent() -> None:
    with BedrockJobs() as jobs, pytest.raises(errors.CredentialsError, match="AWS_PROFILE"):
        jobs.get("ftjob-1")


def test_client_when_given_then_its_own_key_and_place_are_used(mantle: Mantle) -> None:
    with openai.OpenAI(base_url=f"{mantle.endpoint}/v1", api_key="mine") as client:
        with BedrockJobs(client=client) as jobs:
            assert list(jobs.list()) == []
        client.get("/fine_tuning/jobs", cast_to=str)  # still open
    assert {asked.headers["authorization"] for asked in mantle.asked} == {"Bearer mine"}


# --- files and jobs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "check", "told"),
    [
        pytest.param("train.jsonl", 99, True, "99 rows", id="too-few"),
        pytest.param("train.csv", 100, True, "dataset convert", id="csv"),
        pytest.param("missing.jsonl", 0, False, "there is no file", id="missing"),
    ],
)
def test_upload_when_the_file_is_no_good_then_nothing_is_sent(
    name: str, rows: int, check: bool, told: str, mantle: Mantle, jobs: BedrockJobs, train: Path
) -> None:
    path = train.with_name(name)
    if rows:
        path.write_text("".join(train.read_text().splitlines(keepends=True)[:rows]))
    with pytest.raises(errors.DatasetError, match=told):
        jobs.upload(path, check=check)
    assert mantle.asked == []


def test_upload_when_unchecked_then_the_rows_are_the_users_business(jobs: BedrockJobs, train: Path) -> None:
    train.write_text("{}\n")
    file = jobs.upload(str(train), check=False)
    jobs.delete_file(file)
    jobs.delete_file(file.id)  # gone already


def test_create_when_sent_then_the_body_is_the_documented_one_and_the_answer_stays_raw(
    mantle: Mantle, jobs: BedrockJobs
) -> None:
    hyperparameters = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0}
    job = jobs.create(MODEL, "file-1", ARN, hyperparameters=hyperparameters, validation_file=File({}, "file-2"))
    assert mantle.of("CreateFineTuningJob")[0].json == {
        "model": MODEL,
        "training_file": "file-1",
        "validation_file": "file-2",
        "method": {
            "type": "reinforcement",
            "reinforcement": {
                "grader": {"type": "lambda", "lambda": {"function": ARN}},
                "hyperparameters": hyperparameters,
            },
        },
    }
    assert job["method"]["reinforcement"]["grader"] == {"type": "lambda", "lambda": {"function": ARN}}
    assert (job["vendor"], job.status, job.state) == ({"x": 1}, "validating_files", "queued")
    assert (job.tuned_model, job.failure) == (None, None)


G, H = "method.reinforcement.grader", "method.reinforcement.hyperparameters"
RIGHT = {"n_epochs": "auto", "learning_rate_multiplier": 2, "reasoning_effort": "low"}
RATE = "learning_rate_multiplier"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        pytest.param({}, None, id="right"),
        pytest.param({"grader": ARN + ":live"}, None, id="alias"),
        pytest.param({"grader": ARN + ":$LATEST"}, None, id="latest"),
        pytest.param({"grader": {"type": "score_model", "model": "x"}}, None, id="other-grader"),
        pytest.param({"hyperparameters": RIGHT}, None, id="auto"),
        pytest.param({"model": ""}, "model", id="no-model"),
        pytest.param({"model": None}, "model", id="null-model"),
        pytest.param({"model": "amazon.nova-2-lite-v1:0:256k"}, "model", id="nova"),
        pytest.param({"training_file": ""}, "training_file", id="no-file"),
        pytest.param({"training_file": "data/train.jsonl"}, "training_file", id="path"),
        pytest.param({"training_file": "s3://b/k"}, "training_file", id="s3"),
        pytest.param({"validation_file": "v.jsonl"}, "validation_file", id="validation-path"),
        pytest.param({"grader": "gsm8k"}, f"{G}.lambda.function", id="name"),
        pytest.param({"grader": ARN.replace("us-west-2", "us-east-1")}, f"{G}.lambda.function", id="region"),
        pytest.param({"grader": ARN.replace("aws", "aws-us-gov", 1)}, f"{G}.lambda.function", id="partition"),
        pytest.param({"grader": ARN.replace("12345", "")}, f"{G}.lambda.function", id="account"),
        pytest.param({"grader": ARN + "\n"}, f"{G}.lambda.function", id="line-end"),
        pytest.param({"grader": {"type": "lambda"}}, f"{G}.lambda.function", id="no-function"),
        pytest.param({"grader": None}, G, id="no-grader"),
        pytest.param({"grader": {}}, G, id="no-type"),
        pytest.param({"hyperparameters": [1]}, H, id="list"),
        pytest.param({"hyperparameters": {"epochs": 1}}, f"{H}.epochs", id="unknown"),
        pytest.param({"hyperparameters": {"n_epochs": 0}}, f"{H}.n_epochs", id="zero"),
        pytest.param({"hyperparameters": {"n_epochs": True}}, f"{H}.n_epochs", id="bool"),
        pytest.param({"hyperparameters": {"batch_size": 4.5}}, f"{H}.batch_size", id="half"),
        pytest.param({"hyperparameters": {"batch_size": "4"}}, f"{H}.batch_size", id="text"),
        pytest.param({"hyperparameters": {RATE: float("nan")}}, f"{H}.{RATE}", id="nan"),
        pytest.param({"hyperparameters": {RATE: None}}, f"{H}.{RATE}", id="null"),
        pytest.param({"hyperparameters": {"reasoning_effort": "extreme"}}, f"{H}.reasoning_effort", id="effort"),
    ],
)  # fmt: skip
def test_create_when_the_request_is_wrong_then_all_is_told_and_nothing_is_sent(
    change: Any, path: str | None, mantle: Mantle, jobs: BedrockJobs
) -> None:
    given = {"model": MODEL, "training_file": "file-1", "grader": ARN, **change}
    found = problems(create_body(**given), "us-west-2")
    assert [item.path for item in found] == ([] if path is None else [path])
    assert all(
        isinstance(item, values.Problem) and item.rule.startswith(("must ", "is ")) and item.source for item in found
    )
    arguments = {name: value for name, value in given.items() if name not in ("model", "training_file", "grader")}
    if path is None:
        jobs.create(given["model"], given["training_file"], given["grader"], **arguments)
        return
    with pytest.raises(errors.JobConfigError, match=re.escape(path)) as raised:
        jobs.create(given["model"], given["training_file"], given["grader"], **arguments)
    assert [item.path for item in raised.value.problems] == [path]  # type: ignore[attr-defined] # they are Problems
    assert mantle.asked == []


def test_create_when_much_is_wrong_then_all_of_it_is_told() -> None:
    body = create_body("", "a/b", "x", {"n_epochs": 0, "y": 1}, "c d")
    assert len(problems(body)) == 6


@pytest.mark.parametrize(
    ("troubles", "made"),
    [
        pytest.param([LOST], 1, id="answer-lost"),
        pytest.param([HALF], 1, id="answer-cut"),
        pytest.param([Trouble(500, True)], 1, id="500-after"),
        pytest.param([Trouble(503, True)], 1, id="503-after"),
        pytest.param([Trouble(429)], 1, id="429"),
        pytest.param([Trouble(500)], 1, id="500-before"),
        pytest.param([BROKEN, LOST], 1, id="broken-then-lost"),
    ],
)
def test_create_when_its_answer_is_lost_then_there_is_one_job_and_it_is_returned(
    troubles: list[Trouble], made: int, mantle: Mantle, jobs: BedrockJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bedrock_module, "_LOOKS", (0.0, 0.0, 0.0))
    earlier = jobs.create(MODEL, "file-1", ARN)  # the same request, and another job
    mantle.troubles["CreateFineTuningJob"].extend(troubles)
    job = jobs.create(MODEL, "file-1", ARN)
    assert len(mantle.state.jobs) == 1 + made
    assert job.id == "ftjob-1" != earlier.id


@pytest.mark.parametrize(
    ("listing", "told"),
    [
        pytest.param([Trouble(403)] * 2, "unknown", id="cannot-be-listed"),
        pytest.param([], "ftjob-0 may be it", id="other-spelling"),
    ],
)
def test_create_when_nobody_can_tell_then_it_says_so_and_is_not_sent_again(
    listing: list[Trouble], told: str, mantle: Mantle, jobs: BedrockJobs
) -> None:
    mantle.troubles["ListFineTuningJobs"].extend(listing)
    mantle.troubles["CreateFineTuningJob"].append(LOST)
    mantle.page = lambda rows, asked: honest_page([{**row, "model": "resolved"} for row in rows], asked)
    with pytest.raises(errors.ServiceConnectionError, match=told) as raised:
        jobs.create(MODEL, "file-1", ARN)
    assert raised.value.may_have_happened
    assert len(mantle.of("CreateFineTuningJob")) == 1


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param({"status": "queued"}, ("queued", False, None, None), id="queued"),
        pytest.param({"status": "running", "error": {"message": None}}, ("running", False, None, None), id="running"),
        pytest.param({"status": "succeeded", "fine_tuned_model": "ft:x"}, ("succeeded", True, "ft:x", None), id="good"),
        pytest.param({"status": "failed", "error": {"message": "why"}}, ("failed", True, None, "why"), id="bad"),
        pytest.param({"status": "failed", "error": "bad rows"}, ("failed", True, None, "bad rows"), id="text"),
        pytest.param({"status": "evaluating"}, ("unknown", False, None, None), id="new-state"),
    ],
)  # fmt: skip
def test_get_when_answered_then_known_words_are_read_and_unknown_ones_pass(
    raw: Json, expected: tuple[Any, ...], mantle: Mantle, jobs: BedrockJobs
) -> None:
    mantle.state.jobs["ftjob-7"] = {"id": "ftjob-7", **raw}
    job = jobs.get("ftjob-7")
    assert (job.state, job.finished, job.tuned_model, job.failure) == expected
    assert job.status == raw["status"] == job["status"]
    assert jobs.get(job) == job


def test_cancel_when_repeated_then_it_is_no_error_unless_the_job_ended_otherwise(
    mantle: Mantle, jobs: BedrockJobs
) -> None:
    job = jobs.create(MODEL, "file-1", ARN)
    mantle.troubles["CancelFineTuningJob"].append(LOST)
    assert jobs.cancel(job).state == jobs.cancel(job.id).state == "cancelled"
    mantle.state.jobs[job.id]["status"] = "succeeded"
    with pytest.raises(errors.JobServiceError, match="the job is succeeded"):
        jobs.cancel(job)


@pytest.mark.parametrize("job", ["", " ", "a\nb"])
def test_id_when_it_is_none_then_nothing_is_sent(job: str, mantle: Mantle, jobs: BedrockJobs) -> None:
    for call in (jobs.get, jobs.cancel, jobs.checkpoints, jobs.events):
        with pytest.raises(CONFIGURATION, match="id"):
            call(job)  # type: ignore[operator] # each takes a job
    assert mantle.asked == []


def test_id_when_it_holds_other_characters_then_it_stays_one_part_of_the_path(
    mantle: Mantle, jobs: BedrockJobs
) -> None:
    with pytest.raises(errors.JobServiceError, match="404"):
        jobs.get("../files?x=1")
    assert mantle.asked[0].path == "/v1/fine_tuning/jobs/..%2Ffiles%3Fx%3D1"


# --- events, checkpoints, lists --------------------------------------------------------------------------------------


def newest_first(rows: list[Json], asked: Asked) -> Json:
    return honest_page(rows[::-1], asked)


def lies_no_more(rows: list[Json], asked: Asked) -> Json:
    return {**honest_page(rows, asked), "has_more": False}


def lies_more(rows: list[Json], asked: Asked) -> Json:
    return {**honest_page(rows, asked), "has_more": True}


def overlapping(rows: list[Json], asked: Asked) -> Json:
    after = asked.query.get("after")
    start = max([row["id"] for row in rows].index(after[0]) - 3, 0) if after else 0
    return {"data": rows[start : start + 20], "has_more": start + 20 < len(rows)}


def short_and_shuffled(rows: list[Json], asked: Asked) -> Json:
    mixed = sorted(rows, key=lambda row: zlib.crc32(row["id"].encode()))
    return honest_page(mixed, Asked("", "", {**asked.query, "limit": ["7"]}, {}, b""))


def repeating_itself(rows: list[Json], asked: Asked) -> Json:
    page = honest_page(rows, asked)
    return {**page, "data": [page["data"][0], *page["data"]] if page["data"] else []}


def deaf(rows: list[Json], asked: Asked) -> Json:
    return {"data": rows, "has_more": True}


@pytest.mark.parametrize(
    "page",
    [honest_page, newest_first, lies_no_more, lies_more, overlapping, repeating_itself, short_and_shuffled, deaf],
    ids=lambda page: page.__name__,
)
def test_events_when_pages_come_in_any_way_then_each_is_there_once_by_its_step(
    page: Callable[[list[Json], Asked], Json], mantle: Mantle, jobs: BedrockJobs
) -> None:
    job = jobs.create(MODEL, "file-1", ARN)
    messages = [said("created", 1000), said("checkpoint", 1030, new={"field": [1]}), said("succeeded", 2000)]
    steps = [metric(step) for step in range(1, 251)]
    mantle.state.events[job.id] = [messages[0], *steps[:30], messages[1], *steps[30:], messages[2]]
    mantle.page = page
    expected = ["created", *(f"ftevent-{n}" for n in range(1, 251)), "succeeded"]
    found = list(jobs.events(job))
    assert [item for item in ids(found) if item != "checkpoint"] == expected
    # Created in the same second as step 30: before or after it where the service's order says nothing.
    assert 29 <= ids(found).index("checkpoint") - ids(found).index("created") <= 31
    checkpoint = next(event for event in found if event.id == "checkpoint")
    assert (type(checkpoint), checkpoint["new"], checkpoint.created_at) == (Event, {"field": [1]}, 1030.0)


TOLD = [said("s", 5), metric(1, 5), said("c", 5), metric(2, 5), said("e", 5)]
STORY = "s ftevent-1 c ftevent-2 e"


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([metric(2), metric(1)], "ftevent-1 ftevent-2", id="swapped"),
        pytest.param([metric(1, 50, id="b"), metric(1, 40, id="a")], "a b", id="same-step-by-time"),
        pytest.param(TOLD, STORY, id="one-second"),
        pytest.param(TOLD[::-1], STORY, id="one-second-newest-first"),
        pytest.param([metric(1, 10), said("x", 15), metric(2, 20)], "ftevent-1 x ftevent-2", id="between"),
        pytest.param([said("x", None), metric(1, 10)], "x ftevent-1", id="no-time"),
        pytest.param([metric(1), said("x", None), metric(2)], "ftevent-1 x ftevent-2", id="no-time-between"),
        pytest.param([said("x", 9, data=[1]), said("y", 9, data={"step": True})], "x y", id="odd"),
        pytest.param([metric(10), metric(9)], "ftevent-9 ftevent-10", id="numbers"),
        pytest.param([], "", id="none"),
    ],
)  # fmt: skip
def test_events_when_listed_then_the_order_is_this(
    events: list[Json], expected: str, mantle: Mantle, jobs: BedrockJobs
) -> None:
    mantle.state.jobs["j"] = {"id": "j", "status": "running"}
    mantle.state.events["j"] = events
    assert " ".join(ids(jobs.events("j"))) == expected


def test_events_when_followed_through_trouble_then_each_comes_once_and_the_last_ones_too(
    mantle: Mantle, jobs: BedrockJobs
) -> None:
    job = jobs.create(MODEL, "file-1", ARN)
    events = mantle.state.events[job.id]
    shown = deque([metric(1), metric(4), metric(3), metric(5)])
    mantle.troubles["GetFineTuningJob"].extend([BROKEN, Trouble(429), HALF, Trouble(500, True)])
    mantle.troubles["events"].extend([Trouble(502), LOST, HALF, Trouble(503)])

    def go_on(asked: Asked) -> None:
        if asked.operation == "GetFineTuningJob":
            if shown:
                events.append(shown.popleft())
            else:
                mantle.state.jobs[job.id]["status"] = "succeeded"
        elif mantle.state.jobs[job.id]["status"] == "succeeded" and len(events) == 4:
            events.append(said("the very last", 9999))  # shown after the state says that the job has ended

    mantle.before = go_on
    found = list(jobs.events(job, follow=True, poll_seconds=0.01))
    assert sorted(ids(found)) == sorted(row["id"] for row in events)
    assert len(found) == len(events) == 5
    assert mantle.of("CancelFineTuningJob") == []


def test_events_when_one_is_shown_late_then_it_is_yielded_late(mantle: Mantle, jobs: BedrockJobs) -> None:
    job = jobs.create(MODEL, "file-1", ARN)
    mantle.state.events[job.id] = [metric(4), metric(2)]
    following = jobs.events(job, follow=True, poll_seconds=0.01)
    assert [next(following).id, next(following).id] == ["ftevent-2", "ftevent-4"]
    mantle.state.events[job.id].insert(1, metric(3))
    assert next(following).id == "ftevent-3"
    mantle.state.jobs[job.id]["status"] = "cancelled"
    assert list(following) == []


def test_events_when_a_new_state_appears_then_following_goes_on(mantle: Mantle, jobs: BedrockJobs) -> None:
    job = jobs.create(MODEL, "file-1", ARN)
    mantle.state.jobs[job.id]["status"] = "evaluating"
    asked_twice = threading.Event()

    def end(asked: Asked) -> None:
        if len(mantle.of("events")) >= 2:
            mantle.state.jobs[job.id]["status"] = "failed"
            asked_twice.set()

    mantle.before = end
    assert list(jobs.events(job, follow=True, poll_seconds=0.01)) == []
    assert asked_twice.is_set()


def test_events_when_the_service_is_away_for_long_then_following_waits_but_not_before_its_first_answer(
    mantle: Mantle, jobs: BedrockJobs, caplog: pytest.LogCaptureFixture
) -> None:
    job = jobs.create(MODEL, "file-1", ARN)
    mantle.state.events[job.id] = [metric(1)]
    following = jobs.events(job, follow=True, poll_seconds=0.01)
    assert next(following).id == "ftevent-1"
    mantle.troubles["GetFineTuningJob"].extend([BROKEN] * 20)
    mantle.state.events[job.id].append(metric(2))
    assert next(following).id == "ftevent-2"
    assert "the events cannot be read now" in caplog.text
    mantle.troubles["GetFineTuningJob"].extend([BROKEN] * 6)
    with pytest.raises(errors.ServiceConnectionError):
        next(jobs.events(job, follow=True))


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        pytest.param([Trouble(404, body={"message": "gone"})], errors.JobServiceError, id="unknown-job"),
        pytest.param([Trouble(403, body={"message": "no"})] * 2, errors.JobServiceError, id="denied"),
        pytest.param([Trouble(401)] * 2, errors.CredentialsError, id="expired"),
    ],
)
def test_events_when_waiting_is_pointless_then_following_ends(
    trouble: list[Trouble], error: type[Exception], mantle: Mantle, jobs: BedrockJobs
) -> None:
    mantle.troubles["GetFineTuningJob"].extend(trouble)
    with pytest.raises(error):
        list(jobs.events("j", follow=True, poll_seconds=0.01))


def test_events_when_the_arguments_are_wrong_then_it_says_so_at_once(jobs: BedrockJobs) -> None:
    with pytest.raises(CONFIGURATION, match="poll_seconds"):
        jobs.events("j", poll_seconds=0)


def test_events_when_the_answer_has_no_list_then_it_is_an_error(mantle: Mantle, jobs: BedrockJobs) -> None:
    mantle.state.jobs["j"] = {"id": "j", "status": "running"}
    mantle.page = lambda rows, asked: {"events": []}
    with pytest.raises(errors.JobServiceError, match=r"without a list; the keys are \['events'\]"):
        list(jobs.events("j"))


def test_checkpoints_when_paged_then_they_are_ordered_by_step_and_can_be_called(
    mantle: Mantle, jobs: BedrockJobs
) -> None:
    job = jobs.create(MODEL, "file-1", ARN)
    steps = [*range(220, 0, -1), None]
    mantle.state.checkpoints[job.id] = [
        {"id": f"c{step}", "step_number": step, "fine_tuned_model_checkpoint": f"ft:{step}", "metrics": {"x": 1}}
        for step in steps
    ]
    found = jobs.checkpoints(job)
    assert [item.step for item in found] == [*range(1, 221), None]
    assert (type(found[0]), found[0].model, found[0]["metrics"]) == (Checkpoint, "ft:1", {"x": 1})
    jobs.chat(found[0], [])
    assert mantle.of("chat")[0].json["model"] == "ft:1"


def test_list_when_there_are_pages_then_all_jobs_come_and_pages_are_read_as_needed(
    mantle: Mantle, jobs: BedrockJobs
) -> None:
    mantle.state.jobs = {str(n): {"id": str(n), "status": "running"} for n in range(250)}
    assert next(jobs.list()).id == "0"
    assert len(mantle.asked) == 1
    assert ids(jobs.list()) == [str(n) for n in range(250)]


# --- the tuned model -------------------------------------------------------------------------------------------------


def test_chat_and_respond_when_called_then_they_are_the_openai_clients_own(mantle: Mantle, jobs: BedrockJobs) -> None:
    done = Job({}, "j", status="succeeded", state="succeeded", tuned_model="ft:1")
    answer = jobs.chat(done, [{"role": "user", "content": "2+2?"}], temperature=0.5, max_tokens=5)
    assert type(answer).__name__ == "ChatCompletion"
    sent = mantle.of("chat")[0].json
    assert sent.pop("messages") == [{"role": "user", "content": "2+2?"}]
    assert sent == {"model": "ft:1", "temperature": 0.5, "max_tokens": 5, "stream": False}
    assert type(jobs.respond("ft:1", "2+2?")).__name__ == "Response"
    assert mantle.of("responses")[0].json["input"] == "2+2?"


@pytest.mark.parametrize("model", ["", Job({}, "j", status="running", state="running")], ids=["empty", "unfinished"])
def test_chat_when_there_is_no_model_then_nothing_is_sent(model: Any, mantle: Mantle, jobs: BedrockJobs) -> None:
    with pytest.raises(CONFIGURATION, match="model"):
        jobs.chat(model, [])
    assert mantle.asked == []


@pytest.mark.parametrize(
    ("trouble", "calls"),
    [
        pytest.param(Trouble(429, headers=(("retry-after", "0"),)), 2, id="429"),
        pytest.param(Trouble(500), 2, id="500"),
        pytest.param(BROKEN, 2, id="broken"),
        pytest.param(Trouble(400, body={"error": {"message": "bad"}}), 1, id="400"),
    ],
)
def test_chat_when_it_breaks_then_it_is_repeated_where_that_can_help(
    trouble: Trouble, calls: int, mantle: Mantle, jobs: BedrockJobs
) -> None:
    mantle.troubles["chat"].append(trouble)
    try:
        jobs.chat(MODEL, [{"role": "user", "content": "x"}])
    except errors.JobServiceError:
        assert calls == 1
    assert len(mantle.of("chat")) == calls


@pytest.mark.parametrize(
    "body", [pytest.param("<html>proxy</html>", id="html"), pytest.param({"data": []}, id="no-choices")]
)
def test_chat_when_the_answer_is_none_of_a_model_then_it_is_an_error(
    body: object, mantle: Mantle, jobs: BedrockJobs
) -> None:
    mantle.troubles["chat"].extend([Trouble(200, body=body)] * 6)
    with pytest.raises(errors.ServiceConnectionError, match="no JSON object of this API"):
        jobs.chat(MODEL, [{"role": "user", "content": "x"}])


def piece(finish_reason: str | None) -> Any:
    return SimpleNamespace(choices=[SimpleNamespace(finish_reason=finish_reason)])


def breaks_off() -> Iterator[Any]:
    yield piece(None)
    raise httpx.RemoteProtocolError("peer closed connection")


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        pytest.param(lambda: iter([piece(None), piece("stop")]), None, id="whole"),
        pytest.param(lambda: iter([piece(None)]), errors.ServiceConnectionError, id="no-end"),
        pytest.param(lambda: iter([]), errors.ServiceConnectionError, id="nothing"),
        pytest.param(breaks_off, errors.ServiceConnectionError, id="breaks-off"),
    ],
)
def test_stream_when_its_end_is_missing_then_it_is_an_error(pieces: Any, error: Any) -> None:
    with pytest.raises(error) if error else nullcontext():
        assert list(whole(pieces()))


def test_chat_when_it_times_out_then_it_is_not_paid_for_twice(mantle: Mantle) -> None:
    arrived, gate = threading.Event(), threading.Event()

    def hold(asked: Asked) -> None:
        if asked.operation == "chat":
            arrived.set()
            gate.wait(30)

    mantle.before = hold
    with (
        openai.OpenAI(base_url=f"{mantle.endpoint}/v1", api_key="x", timeout=0.5) as client,
        pytest.raises(errors.ServiceTimeoutError),
    ):
        BedrockJobs(client=client).chat(MODEL, [])
    assert arrived.wait(30)  # a busy machine reads the call after the caller has given up
    gate.set()
    assert len(mantle.of("chat")) == 1


def test_call_when_never_answered_then_it_is_not_repeated_for_ever(
    mantle: Mantle, train: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aws_rft_sdk.jobs._bedrock_calls._PATIENCE_SECONDS", 0.0)
    gate = threading.Event()
    mantle.before = lambda asked: (gate.wait(30), None)[1]
    with (
        openai.OpenAI(base_url=f"{mantle.endpoint}/v1", api_key="x", timeout=0.2) as client,
        pytest.raises(errors.ServiceTimeoutError),
    ):
        BedrockJobs(client=client).upload(train)
    gate.set()
    assert len(mantle.of("CreateFile")) == 1


def test_values_when_read_then_they_are_mappings_over_the_raw_answer(jobs: BedrockJobs) -> None:
    job = jobs.create(MODEL, "file-1", ARN)
    assert isinstance(job, Mapping)
    assert json.loads(json.dumps(dict(job))) == job.raw
