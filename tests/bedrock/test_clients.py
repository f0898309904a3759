"""Every route, called by the real openai and boto3 clients."""

from __future__ import annotations

import json
import threading

import openai
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from aws_rft_sdk.runtime import LocalBedrock
from tests.bedrock.bedrock_parts import (
    ARN,
    MODEL,
    client_of,
    create,
    ended,
    events,
    grader,
    guess,
    jsonl,
    lambda_of,
    method,
    rows,
    upload,
)

USER = [{"role": "user", "content": "1 mod 2?"}]


@pytest.fixture(scope="module")
def server():
    with LocalBedrock(guess, functions={"gsm8k": grader}) as server:
        yield server


@pytest.fixture
def client(server):
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="module")
def tuned(server):
    with client_of(server) as client:
        return ended(client, create(client))


def test_files_when_uploaded_then_they_can_be_listed_read_and_deleted(client):
    first, second = upload(client), upload(client, b'{"a": "\r\n--b\r\n"}')

    assert (first.bytes, first.purpose, first.filename) == (len(jsonl(rows())), "fine-tune", "train.jsonl")
    assert client.files.retrieve(second.id) == second
    assert client.files.content(second.id).read() == b'{"a": "\r\n--b\r\n"}'
    listed = [file.id for file in client.files.list(purpose="fine-tune", order="asc", limit=1)]
    assert [item for item in listed if item in (first.id, second.id)] == [first.id, second.id]
    assert client.files.delete(first.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(first.id)


def test_job_when_it_has_run_then_events_and_checkpoints_tell_of_each_step(client, tuned):
    said = list(client.fine_tuning.jobs.list_events(tuned["id"], limit=3))
    steps = [event.data for event in said if event.type == "metrics"]
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(tuned["id"], limit=1))

    assert (tuned["status"], tuned["error"]) == ("succeeded", None)
    assert [step["step"] for step in steps] == list(range(1, 11))
    assert {step["total_steps"] for step in steps} == {10}
    assert len({event.id for event in said}) == len(said)
    assert all(0 < step["critic_rewards_mean"] < 1 for step in steps)
    assert {step["response_length_mean"] for step in steps} == {2.0}
    assert {step[f"actor_{name}"] for step in steps for name in ("entropy", "pg_loss", "grad_norm")} == {None}
    assert [checkpoint.step_number for checkpoint in checkpoints] == [2, 5, 8, 10]
    words = " / ".join(event.message for event in said if event.type == "message")
    for word in ("Created", "Validating", "queued", "started", "Checkpoint created at step 8", "completed"):
        assert word in words


def test_jobs_when_listed_then_newest_first_page_by_page(client):
    jobs = [create(client) for _ in range(3)]

    listed = [job.id for job in client.fine_tuning.jobs.list(limit=2)]

    assert listed[:3] == [job.id for job in reversed(jobs)]
    for job in jobs:
        ended(client, job)


def test_events_when_newest_first_then_paging_still_gives_each_once():
    with LocalBedrock(guess, functions={ARN: grader}, newest_first=True) as server, client_of(server) as client:
        job = create(client)
        ended(client, job)

        steps = [event.data["step"] for event in events(client, job, limit=4) if event.type == "metrics"]

    assert steps == list(range(10, 0, -1))


@pytest.mark.parametrize("which", ["base", "tuned", "checkpoint"])
@pytest.mark.parametrize("stream", [False, True])
def test_inference_when_the_model_is_known_then_chat_and_responses_answer(client, tuned, which, stream):
    checkpoint = client.fine_tuning.jobs.checkpoints.list(tuned["id"]).data[0].fine_tuned_model_checkpoint
    model = {"base": MODEL, "tuned": tuned["fine_tuned_model"], "checkpoint": checkpoint}[which]

    chat = client.chat.completions.create(model=model, messages=USER, seed=1, stream=stream)
    answer = client.responses.create(model=model, input=USER, extra_body={"seed": 1}, stream=stream)

    if stream:
        chat = list(chat)
        assert {chunk.model for chunk in chat} == {model}
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chat)
        answer = list(answer)[-1].response
    else:
        assert chat.model == model
        text = chat.choices[0].message.content
    assert text == answer.output_text == guess({"seed": 1})
    assert client.responses.retrieve(answer.id).output_text == text


def test_response_when_deleted_or_not_stored_then_it_cannot_be_read(client):
    kept = client.responses.create(model=MODEL, input="1 mod 2?")
    unkept = client.responses.create(model=MODEL, input="1 mod 2?", store=False)

    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(kept.id)
    client.responses.delete(kept.id)
    for answer in (kept, unkept):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(answer.id)


def test_inference_when_the_model_is_unknown_then_it_is_not_found(client):
    for call in (
        lambda: client.chat.completions.create(model="no-such-model", messages=USER),
        lambda: client.responses.create(model="no-such-model", input="1 mod 2?"),
    ):
        with pytest.raises(openai.NotFoundError, match="no-such-model") as refused:
            call()
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
        assert refused.value.request_id


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"suffix": "mine"}, "suffix"),
        ({"hyperparameters": {"n_epochs": 1}}, "hyperparameters"),
        ({"integrations": []}, "integrations"),
        ({"training_file": "no-such-file"}, "training_file"),
        ({"validation_file": "no-such-file"}, "validation_file"),
        ({"model": "no-such-model"}, "model"),
        ({"model": None}, "model"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"seed": -1}, "seed"),
        ({"method": None}, "method.type"),
        ({"method": {"type": "supervised"}}, "method.type"),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement"),
        ({"method": method("gsm8k")}, "method.reinforcement.grader.lambda.function"),
        (
            {"method": {"type": "reinforcement", "reinforcement": {"grader": {"type": "string_check"}}}},
            "method.reinforcement.grader.type",
        ),
        *(
            ({"method": method(**{name: value})}, f"method.reinforcement.hyperparameters.{name}")
            for name, value in (
                ("n_epochs", 0),
                ("n_epochs", 1.5),
                ("n_epochs", True),
                ("batch_size", "4"),
                ("batch_size", -1),
                ("n_epochs", 10**400),
                ("learning_rate_multiplier", 0),
                ("epochs", 1),
            )
        ),
    ],
    ids=str,
)
def test_create_when_a_field_is_wrong_then_the_answer_names_it_and_nothing_is_created(server, client, change, param):
    before = client.fine_tuning.jobs.list().data
    body = {"model": MODEL, "training_file": upload(client).id, "method": method(), **change}

    answer = requests.post(f"{server.base_url}/fine_tuning/jobs", json=body, timeout=10)

    error = answer.json()["error"]
    assert answer.status_code == (404 if change.get("model") else 400)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert param.rpartition(".")[2] in error["message"]
    assert client.fine_tuning.jobs.list().data == before


@pytest.mark.parametrize("value", ["1e400", '"\\ud800"'])
def test_create_when_no_json_can_say_a_value_then_it_is_refused_and_jobs_can_still_be_listed(server, client, value):
    body = json.dumps({"model": MODEL, "training_file": upload(client).id, "method": method(eval_samples="?")})

    answer = requests.post(f"{server.base_url}/fine_tuning/jobs", data=body.replace('"?"', value), timeout=10)

    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert client.fine_tuning.jobs.list().data is not None


def test_create_when_hyperparameters_are_left_out_or_auto_then_the_walkthroughs_values_count(client):
    job = create(client, hyperparameters={"n_epochs": "auto", "reasoning_effort": "low"})

    assert ended(client, job)["hyperparameters"] == {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/fine_tuning/jobs/x/pause", {}, 404),
        ("/fine_tuning/jobs/x/resume", {}, 404),
        ("/fine_tuning/jobs/x/cancel", {}, 404),
        ("/embeddings", {}, 404),
        ("/files", {}, 400),
        ("/fine_tuning/jobs", [], 400),
        ("/chat/completions", {"messages": USER}, 400),
        ("/chat/completions", {"model": MODEL}, 400),
        ("/responses", {"model": MODEL}, 400),
    ],
)
def test_call_when_it_is_not_served_then_the_error_has_openais_form(server, path, body, status):
    answer = requests.post(server.base_url + path, json=body, timeout=10)

    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", f"limit={'1' * 5000}", "after=nobody"], ids=["zero", "x", "long", "after"]
)
def test_page_when_it_cannot_be_then_the_answer_says_so(server, tuned, query):
    answer = requests.get(f"{server.base_url}/fine_tuning/jobs/{tuned['id']}/events?{query}", timeout=10)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


# --- Lambda ----------------------------------------------------------------------------------------------------------


def raising(event, context):
    raise ValueError("no such row")


def told(event, context):
    return {"event": event, "left": context.get_remaining_time_in_millis(), "arn": context.invoked_function_arn}


@pytest.fixture(scope="module")
def functions():
    stuck = threading.Event()
    handlers = {
        "told": told,
        ARN: told,
        "raising": raising,
        "exiting": lambda event, context: exit(1),
        "odd": lambda event, context: {1, 2},
        "stuck": lambda event, context: stuck.wait(30),
        "large": lambda event, context: "x" * 7_000_000,
    }
    with LocalBedrock(guess, functions=handlers, function_timeout_seconds=3) as server:
        yield lambda_of(server)
    stuck.set()


@pytest.mark.parametrize(
    ("name", "arn"),
    [
        ("told", "arn:aws:lambda:us-west-2:000000000000:function:told"),
        ("told:$LATEST", "arn:aws:lambda:us-west-2:000000000000:function:told"),
        ("arn:aws:lambda:us-east-1:123456789012:function:told", "arn:aws:lambda:us-east-1:123456789012:function:told"),
        (ARN, ARN),
        ("gsm8k", ARN),
    ],
)
def test_invoke_when_the_function_is_known_then_it_sees_event_and_context(functions, name, arn):
    reply = functions.invoke(FunctionName=name, Payload=json.dumps([{"a": "ä"}]))

    seen = json.load(reply["Payload"])
    assert (reply["StatusCode"], "FunctionError" in reply, reply["ExecutedVersion"]) == (200, False, "$LATEST")
    assert (seen["event"], seen["arn"]) == ([{"a": "ä"}], arn)
    assert 0 < seen["left"] <= 3000


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("raising", "ValueError", "no such row"),
        ("exiting", "SystemExit", "1"),
        ("odd", "Runtime.MarshalError", "set"),
        ("stuck", "Sandbox.Timedout", "3.00 seconds"),
        ("large", "Function.ResponseSizeTooLarge", "6291456"),
    ],
)
def test_invoke_when_the_function_fails_then_the_reply_says_how(functions, name, kind, text):
    reply = functions.invoke(FunctionName=name, Payload=b"{}")

    error = json.load(reply["Payload"])
    assert reply["FunctionError"] == "Unhandled"
    assert error["errorType"] == kind
    assert text in error["errorMessage"]


@pytest.mark.parametrize(
    ("name", "payload", "error"),
    [
        ("nobody", b"{}", "ResourceNotFoundException"),
        (ARN.replace("us-west-2", "eu-west-1"), b"{}", "ResourceNotFoundException"),
        ("told", b"{", "InvalidRequestContentException"),
        ("told", b'"' + b"x" * 6_300_000 + b'"', "RequestTooLargeException"),
    ],
    ids=["unknown", "other region", "no JSON", "too large"],
)
def test_invoke_when_it_is_refused_then_boto3_knows_the_error(functions, name, payload, error):
    with pytest.raises(functions.exceptions.ClientError) as refused:
        functions.invoke(FunctionName=name, Payload=payload)

    assert refused.value.response["Error"]["Code"] == error


def test_stop_when_a_function_is_stuck_then_it_does_not_wait_for_it():
    began, go_on = threading.Event(), threading.Event()

    def stuck(event, context):
        began.set()
        go_on.wait(60)

    server = LocalBedrock(guess, functions={"stuck": stuck}).start()
    client = lambda_of(server, config=Config(retries={"total_max_attempts": 1}))
    errors = []

    def call():
        try:
            client.invoke(FunctionName="stuck", Payload=b"{}")
        except (BotoCoreError, client.exceptions.ClientError) as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert began.wait(30)
    server.stop()
    caller.join(30)
    go_on.set()

    assert len(errors) == 1
