"""The options `client=`, `outbox=` and `auth=`: any factory, with any kind of handler, and never without effect."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fakes import Service

from aws_rft_sdk import AsyncRolloutFeedbackClient, RFTContext, RolloutFeedbackClient, rft_handler
from aws_rft_sdk.context import collecting
from aws_rft_sdk.errors import ConfigurationError, PayloadError, RewardError
from aws_rft_sdk.feedback.outbox import Outbox, shared_outbox
from aws_rft_sdk.feedback.redrive import stop_in_background
from aws_rft_sdk.lifecycle.one_rollout import running

from .handler_kinds import KINDS, async_generator, call, coroutine, generator, returns_coroutine, sync

DONE = [("/CompleteTrajectory", None), ("/UpdateReward", [1.0])]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
some_kinds = pytest.mark.parametrize(
    "kind", [sync, coroutine, generator, async_generator, returns_coroutine], ids=lambda kind: kind.__name__
)


async def make_async(request: Any) -> AsyncRolloutFeedbackClient:
    await asyncio.sleep(0)
    return AsyncRolloutFeedbackClient(request)


async def make_sync(request: Any) -> RolloutFeedbackClient:
    await asyncio.sleep(0)
    return RolloutFeedbackClient(request)


class Factory:
    async def __call__(self, request: Any) -> RolloutFeedbackClient:
        return RolloutFeedbackClient(request)


class Subclass(RolloutFeedbackClient):
    pass


class AsyncSubclass(AsyncRolloutFeedbackClient):
    async def report_complete(self, reward: Any) -> None:
        await asyncio.sleep(0)
        await super().report_complete(reward)


class Mixed(RolloutFeedbackClient):
    async def report_complete(self, reward: Any) -> None:  # type: ignore[override] # that is the point
        await asyncio.sleep(0)
        super().report_complete(reward)


class Wrapper:
    """Plain methods that return what a coroutine function gives."""

    def __init__(self, request: Any) -> None:
        self._inner = AsyncRolloutFeedbackClient(request)

    def report_complete(self, reward: Any) -> Any:
        return self._inner.report_complete(reward)

    def update_reward(self, reward: Any) -> Any:
        return self._inner.update_reward(reward)

    def report_error(self, error: Any, reward: Any = None) -> Any:
        return self._inner.report_error(error, reward)


FACTORIES: dict[str, Any] = {
    "none": None,
    "class": RolloutFeedbackClient,
    "async-class": AsyncRolloutFeedbackClient,
    "subclass": Subclass,
    "async-subclass": AsyncSubclass,
    "wrapper": Wrapper,
    "lambda": lambda request: RolloutFeedbackClient(request),
    "lambda-async": lambda request: AsyncRolloutFeedbackClient(request),
    "partial": functools.partial(RolloutFeedbackClient, api="alpha"),
    "partial-async": functools.partial(AsyncRolloutFeedbackClient, api="alpha"),
    "coroutine-function": make_sync,
    "coroutine-function-async": make_async,
    "lambda-coroutine": lambda request: make_async(request),
    "object": Factory(),
}
every_factory = pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)


def rewarded(payload: Any) -> Any:
    RFTContext.get_headers()
    return {"reward": 1.0}


def raising(payload: Any) -> Any:
    raise LookupError("mine")


@every_factory
@every_kind
def test_client_when_it_is_any_factory_then_the_reward_arrives(kind: Any, factory: Any, service: Service) -> None:
    call(kind(rewarded, client=factory), service.payload())
    assert service.feedback == DONE


@every_factory
@some_kinds
def test_client_when_it_is_any_factory_then_the_failure_arrives(kind: Any, factory: Any, service: Service) -> None:
    with pytest.raises(LookupError):
        call(kind(raising, client=factory, floor_reward=-1), service.payload())
    assert service.feedback == [DONE[0], ("/UpdateReward", [-1.0])]


def test_client_when_a_plain_handler_is_called_inside_a_loop_then_an_async_client_works_too(service: Service) -> None:
    async def main() -> None:
        sync(rewarded, client=Wrapper)(service.payload())

    asyncio.run(main())
    assert service.feedback == DONE


class Located:
    """An asynchronous client that notes in which loop it was made and called, and which rollout was current."""

    def __init__(self) -> None:
        self.loops: list[Any] = []
        self.contexts: list[Any] = []

    async def make(self, request: Any) -> Located:
        self.loops.append(asyncio.get_running_loop())
        return self

    async def report_complete(self, reward: Any) -> None:
        await asyncio.sleep(0)
        self.loops.append(asyncio.get_running_loop())
        self.contexts.append(RFTContext.current())

    async def update_reward(self, reward: Any) -> None:
        raise AssertionError("it was not sealed")

    async def report_error(self, error: Any, reward: Any = None) -> None:
        await self.report_complete(reward)


@pytest.mark.parametrize("kind", [coroutine, async_generator], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("body", [rewarded, raising])
def test_client_when_the_handler_is_asynchronous_then_its_coroutines_run_in_the_handlers_loop(
    kind: Any, body: Any, service: Service
) -> None:
    client = Located()
    loops = []

    def noting(payload: Any) -> Any:
        loops.append(asyncio.get_running_loop())
        return body(payload)

    with contextlib.suppress(LookupError):
        call(kind(noting, client=client.make), service.payload("t-4"))
    assert client.loops == [*loops, *loops]
    assert client.contexts[0].trajectory_id == "t-4"


def test_client_when_the_handlers_are_plain_then_its_coroutines_share_one_loop(service: Service) -> None:
    client = Located()
    for kind in (sync, generator, sync):
        call(kind(rewarded, client=client.make), service.payload())
    assert len(client.loops) == 6
    assert len(set(client.loops)) == 1
    assert len({context.trajectory_id for context in client.contexts}) == 1


class Slow(Located):
    """Its delivery takes until the test lets it go, in steps that a cancellation could strike."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go, self.delivered = threading.Event(), threading.Event(), threading.Event()

    async def report_complete(self, reward: Any) -> None:
        self.begun.set()
        while not self.go.is_set():  # noqa: ASYNC110 - each step is one that a cancellation could strike
            await asyncio.sleep(0)
        self.delivered.set()


def test_client_when_the_loop_is_shut_down_while_it_delivers_then_the_delivery_ends_first(service: Service) -> None:
    client = Slow()

    async def main() -> None:
        task = asyncio.create_task(coroutine(rewarded, client=lambda request: client)(service.payload()))
        await asyncio.to_thread(client.begun.wait, 30)
        asyncio.get_running_loop().call_soon(client.go.set)
        assert not task.done()  # asyncio.run cancels it and all other tasks now

    asyncio.run(main())
    assert client.delivered.is_set()


# --- refused at decoration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(lambda service: RolloutFeedbackClient(service.payload()), id="instance"),
        pytest.param(lambda service: AsyncRolloutFeedbackClient(service.payload()), id="async-instance"),
        pytest.param(lambda service: Wrapper(service.payload()), id="own-instance"),
        pytest.param(lambda service: "client", id="text"),
        pytest.param(lambda service: 1, id="number"),
        pytest.param(lambda service: lambda: None, id="no-argument"),
        pytest.param(lambda service: lambda request, more: None, id="two-arguments"),
        pytest.param(lambda service: make_sync(service), id="coroutine"),
    ],
)
def test_client_when_it_is_no_factory_then_decoration_refuses_it_and_says_what_to_type(
    client: Callable[[Service], Any], service: Service
) -> None:
    value = client(service)
    with pytest.raises(ConfigurationError, match=r"client=lambda request: my_client"):
        rft_handler(client=value)
    if asyncio.iscoroutine(value):
        value.close()
    assert service.requests == []


@pytest.mark.parametrize("auth", ["basic", "", True, "SIGV4"])
def test_auth_when_it_is_another_word_then_decoration_refuses_it(auth: Any) -> None:
    with pytest.raises(ConfigurationError, match="auth is"):
        rft_handler(auth=auth)


# --- refused before the function runs --------------------------------------------------------------------------------


def fails(request: Any) -> Any:
    raise KeyError("sagemaker-api-key-secret")


async def fails_later(request: Any) -> Any:
    await asyncio.sleep(0)
    raise KeyError("sagemaker-api-key-secret")


async def gives_none(request: Any) -> Any:
    return None


@some_kinds
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        pytest.param(fails, "KeyError", id="raises"),
        pytest.param(fails_later, "KeyError", id="coroutine-raises"),
        pytest.param(lambda request: None, "returned None", id="none"),
        pytest.param(gives_none, "returned None", id="coroutine-none"),
        pytest.param(Mixed, "derive it from AsyncRolloutFeedbackClient", id="mixed"),
        pytest.param(lambda request: object(), "a object.*report_complete", id="no-methods"),
        pytest.param(lambda request: RolloutFeedbackClient, "not a feedback client", id="class"),
        pytest.param(lambda request: make_async, "not a feedback client", id="function"),
    ],
)
def test_client_when_the_factory_makes_none_then_the_function_does_not_run(
    kind: Any, factory: Any, message: str, service: Service
) -> None:
    ran: list[Any] = []
    with pytest.raises(ConfigurationError, match=message) as caught:
        call(kind(ran.append, client=factory), service.payload())
    assert ran == []
    assert service.requests == []
    assert "secret" not in str(caught.value)
    assert RFTContext.current() is None


def test_client_when_the_factory_raises_an_error_of_ours_then_it_comes_out_as_it_is(service: Service) -> None:
    def refuse(request: Any) -> Any:
        raise PayloadError("not for us", field="prompt")

    with pytest.raises(PayloadError, match="not for us"):
        call(sync(rewarded, client=refuse), service.payload())


def test_client_when_a_coroutine_handler_is_cancelled_in_its_factory_then_the_function_does_not_run(
    service: Service,
) -> None:
    ran: list[Any] = []

    async def main() -> None:
        making = asyncio.Event()

        async def hang(request: Any) -> Any:
            making.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(coroutine(ran.append, client=hang)(service.payload()))
        await making.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ran == []


# --- client= with outbox= and auth= ----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Any) -> Any:
    path = tmp_path / "outbox.db"
    yield path
    outbox = shared_outbox(path)
    assert outbox is not None
    stop_in_background(outbox)
    outbox.close()


with_outbox = pytest.mark.parametrize(
    "factory",
    [factory for name, factory in FACTORIES.items() if name != "wrapper"],
    ids=[name for name in FACTORIES if name != "wrapper"],
)


@with_outbox
@some_kinds
def test_outbox_when_there_is_a_factory_too_then_the_decision_is_in_it_and_a_second_delivery_is_not_run(
    kind: Any, factory: Any, path: Any, service: Service
) -> None:
    ran = []

    def body(payload: Any) -> Any:
        ran.append(payload)
        return rewarded(payload)

    handler = kind(body, client=factory, outbox=path)
    for _ in range(2):
        call(handler, service.payload())
    outbox = shared_outbox(path)
    assert outbox is not None
    assert outbox.ledger()[:2] == (1, 1)
    assert len(ran) == 1
    assert service.feedback == DONE


def test_outbox_when_it_is_given_then_it_comes_before_the_environment(
    path: Any, tmp_path: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_OUTBOX", str(tmp_path / "another.db"))
    call(sync(rewarded, client=FACTORIES["lambda"], outbox=path), service.payload())
    assert not (tmp_path / "another.db").exists()
    outbox = shared_outbox(path)
    assert outbox is not None
    assert outbox.ledger()[:2] == (1, 1)


def test_outbox_when_client_names_the_same_then_it_is_used(path: Any, service: Service) -> None:
    outbox = Outbox(path)
    handler = sync(rewarded, client=lambda request: RolloutFeedbackClient(request, outbox=path), outbox=outbox)
    call(handler, service.payload())
    assert outbox.ledger()[:2] == (1, 1)
    stop_in_background(outbox)
    outbox.close()


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        pytest.param(Wrapper, "without an outbox", id="knows-none"),
        pytest.param(
            lambda request: RolloutFeedbackClient(request, outbox="another.db"), "with another outbox", id="another"
        ),
    ],
)
def test_outbox_when_the_client_does_not_use_it_then_configuration_error_before_the_function_runs(
    factory: Any, message: str, path: Any, service: Service
) -> None:
    ran: list[Any] = []
    with pytest.raises(ConfigurationError, match=message):
        call(sync(ran.append, client=factory, outbox=path), service.payload())
    assert ran == []


@every_factory
@some_kinds
def test_auth_when_there_is_a_factory_too_then_its_client_uses_it(
    kind: Any, factory: Any, service: Service, aws_keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", service.endpoint)
    payload = service.payload()
    del payload["metadata"]["endpoint"]
    call(kind(rewarded, client=factory, auth="bearer"), payload)
    assert {request.headers["authorization"].split()[0] for request in service.requests} == {"Bearer"}


def test_auth_when_it_is_not_given_then_the_environment_decides_and_the_clients_own_comes_first(
    service: Service, aws_keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", service.endpoint)

    def schemes(**options: Any) -> set[str]:
        service.requests.clear()
        payload = service.payload()
        del payload["metadata"]["endpoint"]
        call(sync(rewarded, **options), payload)
        return {request.headers["authorization"].split()[0] for request in service.requests}

    assert schemes() == {"AWS4-HMAC-SHA256"}
    monkeypatch.setenv("RFT_AUTH", "bearer")
    assert schemes() == {"Bearer"}
    assert schemes(auth="sigv4") == {"AWS4-HMAC-SHA256"}
    own = functools.partial(RolloutFeedbackClient, auth="bearer")
    assert schemes(auth="sigv4", client=own) == {"Bearer"}


@some_kinds
def test_defaults_when_the_function_reports_itself_then_its_client_has_those_of_the_handler(
    kind: Any, path: Any, service: Service, aws_keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_RUNTIME_ENDPOINT", service.endpoint)
    payload = service.payload()
    del payload["metadata"]["endpoint"]
    clients: list[RolloutFeedbackClient] = []

    def body(payload: Any) -> Any:
        clients.append(RolloutFeedbackClient(payload))
        worker = threading.Thread(target=lambda: clients.append(RolloutFeedbackClient(payload)))
        worker.start()
        worker.join()
        clients[1].report_complete(1.0)
        return rewarded(payload)

    call(kind(body, outbox=path, auth="bearer"), payload)
    outbox = shared_outbox(path)
    assert [client.outbox for client in clients] == [outbox, outbox]
    assert service.feedback == DONE
    assert {request.headers["authorization"].split()[0] for request in service.requests} == {"Bearer"}


def test_defaults_when_the_trajectory_is_another_or_its_handler_is_over_then_clients_do_not_get_them(
    path: Any, service: Service
) -> None:
    seen: list[Any] = []

    def body(payload: Any) -> Any:
        seen.append(RolloutFeedbackClient(service.payload("another")).outbox)
        return rewarded(payload)

    call(sync(body, outbox=path), service.payload())
    seen.append(RolloutFeedbackClient(service.payload()).outbox)
    assert seen == [None, None]


def test_outbox_when_the_environment_names_one_and_the_client_knows_none_then_it_is_said_once(
    path: Any, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RFT_OUTBOX", str(path))
    handler = sync(rewarded, client=Wrapper)
    for trajectory_id in ("t-1", "t-2"):
        call(handler, service.payload(trajectory_id))
    (record,) = [record for record in caplog.records if "RFT_OUTBOX" in record.getMessage()]
    assert "Wrapper without an outbox" in record.getMessage()
    assert record.levelname == "WARNING"


@pytest.mark.parametrize("body", [rewarded, raising])
def test_client_when_its_own_report_fails_then_the_caller_sees_it(body: Any, service: Service) -> None:
    class Broken(Located):
        async def report_complete(self, reward: Any) -> None:
            raise RewardError("the queue is full")

    with pytest.raises((RewardError, LookupError)) as caught:
        call(sync(body, client=lambda request: Broken()), service.payload())
    errors = [caught.value, caught.value.__context__]
    assert "the queue is full" in str(errors)


def test_client_when_a_process_ends_then_its_loop_ends_without_a_warning() -> None:
    """The loop in a thread is closed at exit: in a process of its own, with warnings shown."""
    import subprocess
    import sys

    code = """
import asyncio
from aws_rft_sdk import rft_handler
class Client:
    def __init__(self, request): pass
    async def report_complete(self, reward): print("rewarded", reward)
    update_reward = report_error = report_complete
payload = {"metadata": {"jobArn": "arn:aws:sagemaker:us-west-2:123456789012:job/AgentRFT/j", "rolloutId": "t"}}
rft_handler(client=Client, require_turns=False)(lambda payload: 1.0)(payload)
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "rewarded (1.0,)"), done.stderr
    assert "loop" not in done.stderr


@every_kind
def test_outbox_when_the_trajectory_was_decided_before_then_whoever_collects_rollouts_learns_of_it(
    kind: Any, path: Any, service: Service
) -> None:
    handler = kind(rewarded, outbox=path)
    call(handler, service.payload())
    with collecting() as contexts:
        call(handler, service.payload())
    assert [context.outcome for context in contexts] == ["repeated"]
    assert running() == []
