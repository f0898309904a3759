"""What happens before a handler runs: ordinary traffic, malformed rollouts, wrong options, and whose client it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fakes import JOB_ARN, TWICE, Service

from aws_rft_sdk import RFTContext, RolloutFeedbackClient, rft_handler
from aws_rft_sdk.errors import (
    ConfigurationError,
    PayloadError,
    UntrustedEndpointError,
)

from .handler_kinds import KINDS, call


class Boom(Exception):
    pass


every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
DONE = [("/CompleteTrajectory", None), ("/UpdateReward", [1.0])]


def impatient(request: Any) -> RolloutFeedbackClient:
    return RolloutFeedbackClient(request, backoff=TWICE)


def turn_then(result: Any) -> Callable[[Any], Any]:
    """Return a body that makes one tracked call, then returns `result` or raises it."""

    def body(payload: Any) -> Any:
        RFTContext.get_headers()
        if isinstance(result, BaseException):
            raise result
        return result

    return body


# --- before the function runs ----------------------------------------------------------------------------------------


@every_kind
def test_handler_when_the_payload_is_ordinary_then_it_runs_untouched(kind: Any, service: Service) -> None:
    seen = []

    def body(payload: Any) -> Any:
        seen.append((payload, RFTContext.current(), RFTContext.get_headers()))
        return {"reward": float("nan")}  # nobody looks at it

    payload = {"prompt": "hello", "metadata": {"user": "u"}}
    call(kind(body), payload)
    assert seen == [(payload, None, {})]
    assert service.requests == []
    with pytest.raises(Boom):
        call(kind(turn_then(Boom())), payload)


@every_kind
def test_handler_when_the_rollout_is_malformed_then_it_does_not_run(kind: Any) -> None:
    ran: list[Any] = []
    for metadata, wanted in (
        ({"jobArn": "nope", "rolloutId": "t"}, PayloadError),
        ({"jobArn": JOB_ARN, "rolloutId": "t", "endpoint": "https://evil.example"}, UntrustedEndpointError),
    ):
        with pytest.raises(wanted):
            call(kind(ran.append), {"metadata": metadata})
    assert ran == []
    assert RFTContext.current() is None


@pytest.mark.parametrize(
    "options",
    [
        {"on_error": "flor"},
        {"reward": "later"},
        {"floor_reward": float("nan")},
        {"floor_reward": True},
        {"on_error": None},
    ],
    ids=str,
)
def test_rft_handler_when_an_option_is_wrong_then_it_fails_at_decoration(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"on_error|reward"):
        rft_handler(**options)


def test_rft_handler_when_it_decorates_no_function_then_configuration_error() -> None:
    for value in ("floor", 1, classmethod(lambda cls, payload: 1)):
        with pytest.raises(ConfigurationError):
            rft_handler(value)  # type: ignore[type-var] # that is the point


def test_rft_handler_when_it_decorates_a_staticmethod_then_it_works_or_says_so(service: Service) -> None:
    try:

        class Agent:
            @rft_handler(require_turns=False)
            @staticmethod
            def handler(payload: Any) -> float:
                return 1.0

    except ConfigurationError:
        return
    assert Agent().handler(service.payload()) == 1.0


# --- the client ------------------------------------------------------------------------------------------------------


def test_client_option_when_it_is_a_function_then_it_makes_the_client(service: Service) -> None:
    made = []

    def make(request: Any) -> RolloutFeedbackClient:
        made.append(request.trajectory_id)
        return RolloutFeedbackClient(request, api="ga")

    handler = rft_handler(client=make, require_turns=False)(lambda payload: 1.0)
    handler(service.payload("t-9"))
    assert made == ["t-9"]
    assert [path for path, _ in service.feedback] == ["/complete-rollout", "/update-reward"]


def test_client_option_when_it_is_the_client_class_then_it_makes_the_client(service: Service) -> None:
    rft_handler(client=RolloutFeedbackClient, require_turns=False)(lambda payload: 1.0)(service.payload())
    assert service.feedback == DONE


def test_client_option_when_it_is_bound_to_another_trajectory_then_configuration_error(service: Service) -> None:
    client = RolloutFeedbackClient(service.payload("t-1"))
    handler = rft_handler(client=lambda request: client, require_turns=False)(lambda payload: 1.0)
    handler(service.payload("t-1"))
    assert service.feedback == DONE
    with pytest.raises(ConfigurationError, match="t-1"):
        handler(service.payload("t-2"))


def test_require_turns_when_it_is_no_bool_then_decoration_refuses_it() -> None:
    with pytest.raises(ConfigurationError, match="require_turns is 'no'; it must be True or False"):
        rft_handler(require_turns="no")  # type: ignore[call-overload] # that is the point
