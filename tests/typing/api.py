"""Never executed: what a type checker must accept, and what it must infer, in code of a user."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from strands.models.openai import OpenAIModel
from typing_extensions import assert_type

from aws_rft_sdk import (
    AsyncRolloutFeedbackClient,
    RFTContext,
    RolloutFeedbackClient,
    RolloutRequest,
    RolloutResult,
    rft_handler,
    wrap_model,
)


@rft_handler
def function(payload: dict[str, Any], context: object = None) -> RolloutResult:
    return RolloutResult(reward=1.0)


@rft_handler(on_error="failed", floor_reward=-1.0, reward="deferred", require_turns=False)
async def coroutine(payload: dict[str, Any]) -> float:
    return 1.0


@rft_handler(on_error=lambda error: 0.0, client=RolloutFeedbackClient)
def generator(payload: dict[str, Any]) -> Iterator[str]:
    yield "x"


async def make_client(request: RolloutRequest) -> AsyncRolloutFeedbackClient:
    return AsyncRolloutFeedbackClient(request)


class OwnClient:
    def __init__(self, request: RolloutRequest) -> None: ...
    async def report_complete(self, rewards: float | Sequence[float]) -> None: ...
    def update_reward(self, rewards: float | Sequence[float]) -> None: ...
    def report_error(self, error: BaseException | str, reward: float | Sequence[float] | None = None) -> None: ...


rft_handler(client=AsyncRolloutFeedbackClient, outbox="outbox.db", auth="bearer")
rft_handler(client=make_client)
rft_handler(client=OwnClient)
rft_handler(client=lambda request: RolloutFeedbackClient(request, timeout_seconds=5))
rft_handler(client=RolloutFeedbackClient({}))  # type: ignore[call-overload]
rft_handler(auth="basic")  # type: ignore[call-overload]


@rft_handler()
async def async_generator(payload: dict[str, Any]) -> AsyncIterator[str]:
    yield "x"


class Agent:
    @rft_handler
    def handler(self, payload: dict[str, Any]) -> float:
        return 1.0

    @rft_handler
    def __call__(self, payload: dict[str, Any]) -> int:
        return 1


async def handlers(payload: dict[str, Any]) -> None:
    assert_type(function(payload), RolloutResult)
    assert_type(function(payload, None), RolloutResult)
    assert_type(await coroutine(payload), float)
    assert_type(generator(payload), Iterator[str])
    assert_type(async_generator(payload), AsyncIterator[str])
    assert_type(Agent().handler(payload), float)
    assert_type(Agent()(payload), int)
    function(1)  # type: ignore[arg-type]
    rft_handler(on_error="flor")  # type: ignore[call-overload]


def models(model: OpenAIModel) -> None:
    assert_type(wrap_model(model), OpenAIModel)
    assert_type(wrap_model(model, sampling="model"), OpenAIModel)
    wrap_model(model, sampling="service")  # type: ignore[arg-type]
    wrap_model("model")  # type: ignore[type-var]


def work(item: int, *, flag: bool = False) -> str:
    return str(item)


def takes_function(fn: Callable[..., str]) -> None: ...


def contexts(payload: dict[str, Any], request: RolloutRequest) -> None:
    assert_type(RolloutRequest.parse(payload), RolloutRequest | None)
    assert_type(request.to_payload("alpha"), dict[str, Any])
    assert_type(request.prompt, Any)
    assert_type(RFTContext.current(), RFTContext | None)
    assert_type(RFTContext.get_headers(), dict[str, str])
    with RFTContext.bind(payload) as context:
        assert_type(context, RFTContext)
        assert_type(context.job_arn, str)
        assert_type(context.headers(), dict[str, str])
        begun, answered, failed, unsure = context.turns
        assert_type(context.turns.tracked + begun + answered + failed + unsure, int)
    assert_type(RFTContext.carry(work)(1, flag=True), str)
    RFTContext.carry(work)("1")  # type: ignore[arg-type]
    takes_function(RFTContext.carry(work))


def feedback(request: RolloutRequest) -> None:
    client = RolloutFeedbackClient(request, api="ga", auth="bearer", timeout_seconds=10, max_seconds=20)
    client.complete_trajectory("failed")
    client.complete_rollout()
    client.update_reward(1)
    client.update_reward([0.5, 1.0])
    client.report_complete((1.0, 0.0))
    client.report_error(ValueError(), None)
    client.complete_trajectory("done")  # type: ignore[arg-type]
    RolloutFeedbackClient(request, api="beta")  # type: ignore[arg-type]
    client.update_reward(None)  # type: ignore[arg-type]
