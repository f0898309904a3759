"""The feedback client against a real server on loopback, for what only a real connection can do wrong."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fakes import ONCE, Answer, AtMost, Service, error, ga_payload, refused_endpoint

from aws_rft_sdk import errors
from aws_rft_sdk._backoff import Backoff
from aws_rft_sdk.client import RolloutFeedbackClient
from aws_rft_sdk.feedback import _requests
from aws_rft_sdk.runtime import LocalRuntime


def make(endpoint: str, trajectory_id: str = "t", **kwargs: Any) -> RolloutFeedbackClient:
    settings: dict[str, Any] = {"endpoint": endpoint, "backoff": Backoff(0, 0), **kwargs}
    return RolloutFeedbackClient(ga_payload(trajectory_id), **settings)


def test_call_when_the_connection_is_reset_instead_of_an_answer_then_409_means_done(service: Service) -> None:
    service.script(Answer(reset=True), error(409))
    make(service.endpoint).complete_trajectory()
    first, second = service.requests
    assert first.json == second.json


def test_call_when_the_answer_breaks_off_then_it_is_sent_again(service: Service) -> None:
    service.script(Answer(promised_bytes=100), Answer(chunks=[b"{"], reset=True), Answer())
    make(service.endpoint).update_reward(1.0)
    assert len(service.requests) == 3


def test_call_when_the_answer_is_late_then_service_timeout_error(service: Service) -> None:
    service.script(Answer(gate=service.gate()))
    with pytest.raises(errors.ServiceTimeoutError, match=r"within 0\.05 s") as caught:
        make(service.endpoint, timeout_seconds=0.05, backoff=ONCE).update_reward(1.0)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.retry_safe is None


def test_call_when_a_late_answer_is_followed_by_409_then_it_is_done(service: Service) -> None:
    service.script(Answer(gate=service.gate()), error(409))
    make(service.endpoint, timeout_seconds=0.05).update_reward(1.0)


def test_call_when_nobody_listens_then_service_connection_error_after_all_attempts() -> None:
    with refused_endpoint() as endpoint, pytest.raises(errors.ServiceConnectionError) as caught:
        make(endpoint, backoff=AtMost(attempts=3)).update_reward(1.0)
    assert isinstance(caught.value, ConnectionError)
    assert caught.value.attempts == 3


def test_call_when_the_server_redirects_then_it_is_not_followed(service: Service) -> None:
    service.script(Answer(status=307, headers={"Location": f"{service.endpoint}/elsewhere"}))
    with pytest.raises(errors.StatusError) as caught:
        make(service.endpoint).update_reward(1.0)
    assert caught.value.status == 307
    assert len(service.requests) == 1


def test_call_when_a_proxy_is_set_then_loopback_does_not_use_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused_endpoint() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        make(service.endpoint, backoff=ONCE).update_reward(1.0)
    assert service.feedback == [("/UpdateReward", [1.0])]


def test_call_when_a_netrc_file_names_the_host_then_it_is_not_read(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    make(service.endpoint).update_reward(1.0)
    assert "authorization" not in service.requests[0].headers


def test_clients_when_used_one_after_another_then_one_connection_serves_them(service: Service) -> None:
    _requests._forget_after_fork()
    for i in range(20):
        make(service.endpoint, f"t{i}").report_complete(1.0)
    assert len(service.requests) == 40
    assert len({request.connection for request in service.requests}) == 1


def test_clients_when_32_threads_report_at_once_then_each_reward_goes_to_its_trajectory(service: Service) -> None:
    barrier = threading.Barrier(32)

    def report(i: int) -> None:
        barrier.wait(20)
        make(service.endpoint, f"t{i}").report_complete(float(i))

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(report, range(32)))
    rewards = {r.json["TrajectoryId"]: r.json["Rewards"] for r in service.of("/UpdateReward")}
    assert rewards == {f"t{i}": [float(i)] for i in range(32)}
    assert len(service.of("/CompleteTrajectory")) == 32


def test_connections_when_their_service_is_gone_then_the_first_call_to_another_service_closes_them() -> None:
    ports, idle = [], []
    for _ in range(2):
        with LocalRuntime() as runtime:
            RolloutFeedbackClient(runtime.new_rollout("p")).report_complete(1.0)
            ports.append(int(runtime.endpoint.rpartition(":")[2]))
            pools = [pool for pool in _requests._pools if pool.port == ports[0]]
            idle.append(sum(c is not None and c.sock is not None for pool in pools for c in pool.pool.queue))
    assert idle == [1, 0]
