"""Each of these went wrong once, or would have without anyone noticing."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import anyio
import botocore.credentials
import botocore.session
import pytest
import responses
from fakes import JOB_ARN, ONCE, Answer, Service, error, ga_payload

from aws_rft_sdk import LocalRuntime, RFTContext, RolloutFeedbackClient, RolloutRequest, RolloutResult, rft_handler
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.context import active
from aws_rft_sdk.credentials import Credentials
from aws_rft_sdk.errors import PayloadError, RewardError, StatusError
from aws_rft_sdk.feedback.off_the_loop import off_the_loop

NOW = Backoff(base_seconds=0.0)
HOST = "https://job-runtime.sagemaker.us-west-2.api.aws"

SECRETS = [
    "sagemaker-api-key-c2FnZW1ha2VyLmFtYXpvbmF3cy5jb20v",
    "Signature=0909c8b43c52d8c57a4480b6be7bb93a",
    "AKIAIOSFODNN7EXAMPLE",
    "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLXdlc3QtMiJIMEYCIQD" * 3,
]


@pytest.mark.parametrize(
    "quoted",
    [
        '{"Message": "The canonical string was x-amz-security-token:%s and then more"}',
        '{"Message": "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/x, %s"}',
        '{"Message": "you sent %s"}',
        "<html>%s</html>",
    ],
)
@pytest.mark.parametrize("secret", SECRETS)
@responses.activate
def test_error_when_the_service_quotes_our_credentials_then_they_are_removed(
    quoted: str, secret: str, aws_keys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    responses.post(f"{HOST}/complete-rollout", body=quoted % secret, status=400)
    client = RolloutFeedbackClient(ga_payload(endpoint=HOST), backoff=NOW)

    with caplog.at_level(logging.DEBUG, "aws_rft_sdk"), pytest.raises(StatusError) as caught:
        client.complete_trajectory()

    for text in (str(caught.value), caught.value.body, repr(caught.value), caplog.text):
        assert secret not in text
    assert "400" in str(caught.value)


@responses.activate
def test_error_when_headers_of_the_answer_hold_control_characters_then_they_are_printable(aws_keys: Any) -> None:
    headers = {"x-amzn-ErrorType": "Foo\x1b[31m" + "y" * 500, "x-amzn-RequestId": "r\x07id"}
    responses.post(f"{HOST}/complete-rollout", status=404, headers=headers)

    with pytest.raises(StatusError) as caught:
        RolloutFeedbackClient(ga_payload(endpoint=HOST), backoff=NOW).complete_trajectory()

    assert str(caught.value).isprintable()
    assert caught.value.code is not None
    assert len(caught.value.code) <= 128
    assert caught.value.request_id == "r id"


def test_parse_when_a_payload_nests_deeply_then_payload_error() -> None:
    prompt: Any = "x"
    for _ in range(5000):
        prompt = [prompt]

    with pytest.raises(PayloadError, match="too deeply"):
        RolloutRequest.parse({"prompt": prompt, "metadata": {"jobArn": JOB_ARN, "rolloutId": "t"}})


def test_handler_when_its_own_report_did_not_get_through_then_no_floor_takes_its_place(service: Service) -> None:
    service.script(Answer(200, b"{}"), error(503))

    @rft_handler(require_turns=False, client=lambda request: RolloutFeedbackClient(request, backoff=NOW))
    def handler(payload: Any) -> None:
        RolloutFeedbackClient(payload, backoff=ONCE).report_complete(1.0)

    with pytest.raises(StatusError):
        handler(service.payload())

    assert [rewards for path, rewards in service.feedback if path == "/UpdateReward"][-1] == [1.0]


def test_handler_when_a_result_is_no_reward_by_its_own_making_then_nothing_is_sent(service: Service) -> None:
    @rft_handler
    def handler(payload: Any) -> RolloutResult:
        RFTContext.get_headers()
        return RolloutResult(reward=float("nan"))

    with pytest.raises(RewardError):
        handler(service.payload())

    assert service.requests == []


def test_handler_when_it_failed_the_trajectory_itself_then_no_reward_is_missed(service: Service) -> None:
    @rft_handler(require_turns=False)
    def handler(payload: Any) -> str:
        RolloutFeedbackClient(payload, api="ga").complete_trajectory("failed")
        return "gave up"

    assert handler(service.payload()) == "gave up"


def test_generator_when_its_consumer_leaves_after_the_reward_then_the_reward_counts(service: Service) -> None:
    @rft_handler(require_turns=False)
    def handler(payload: Any) -> Any:
        yield {"reward": 0.5}
        yield "a last chunk that nobody reads"

    items = handler(service.payload())
    next(items)
    items.close()

    assert service.feedback == [("/CompleteTrajectory", None), ("/UpdateReward", [0.5])]


def test_async_generator_when_its_consumer_leaves_before_the_reward_then_the_floor_counts(service: Service) -> None:
    @rft_handler(require_turns=False)
    async def handler(payload: Any) -> Any:
        yield "a chunk"
        yield {"reward": 0.5}

    async def main() -> None:
        items = handler(service.payload())
        await anext(items)
        await items.aclose()

    asyncio.run(main())
    assert service.feedback == [("/CompleteTrajectory", None), ("/UpdateReward", [0.0])]


def test_off_the_loop_when_a_server_scope_is_cancelled_then_the_work_ends_first_and_the_loop_rests() -> None:
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        assert release.wait(30)
        ended.set()

    async def main() -> int:
        ticks = 0
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                nonlocal ticks
                await asyncio.to_thread(started.wait, 30)
                scope.cancel()
                for _ in range(50):
                    await asyncio.sleep(0)
                    ticks += 1
                release.set()

            helper = asyncio.create_task(cancel())
            await off_the_loop(work)
        await helper
        return ticks

    assert asyncio.run(main()) == 50
    assert ended.is_set()


def test_context_when_the_span_of_the_rollout_itself_is_recording_then_it_is_no_turns() -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    span = TracerProvider().get_tracer("test").start_span("rollout")
    own = trace.format_span_id(span.get_span_context().span_id)
    request = RolloutRequest.parse(ga_payload())
    assert request is not None
    context = RFTContext(request)
    context.own_span_id = own
    with active(context), trace.use_span(span, end_on_exit=True):
        assert context.begin_turn().span_id != own


def test_bearer_token_when_only_the_session_token_changes_then_a_new_one_is_minted() -> None:
    session = botocore.session.Session()
    session.set_credentials("AKIAEXAMPLE", "secret", "one")
    credentials = Credentials(session)
    first = credentials.bearer_token("us-west-2")
    session.set_credentials("AKIAEXAMPLE", "secret", "two")

    assert credentials.bearer_token("us-west-2") != first


def test_refresh_when_many_were_refused_at_once_then_one_renews() -> None:
    credentials = Credentials(network=False)
    seen = credentials.generation
    for _ in range(32):
        credentials.refresh(seen)

    assert credentials.generation == seen + 1


def test_replay_when_two_cells_lead_to_one_question_then_each_gets_a_recording_of_its_own() -> None:
    import requests

    from aws_rft_sdk.runtime import ReplayPolicy

    rows = [
        {"prompt": "q", "turns": [{"role": "assistant", "content": "one"}]},
        {"prompt": "q", "turns": [{"role": "assistant", "content": "two"}]},
    ]
    answers = []
    with LocalRuntime(ReplayPolicy(rows)) as runtime:
        for cell in ('{"question": "q", "answer": 1}', '{"question": "q", "answer": 2}'):
            payload = runtime.new_rollout(cell)
            with RFTContext.bind(payload) as rollout:
                answer = requests.post(
                    f"{runtime.endpoint}/v1/chat/completions",
                    headers=rollout.headers(),
                    json={"model": "m", "messages": [{"role": "user", "content": "q"}]},
                    timeout=10,
                )
            answers.append(answer.json()["choices"][0]["message"]["content"])

    assert answers == ["one", "two"]
