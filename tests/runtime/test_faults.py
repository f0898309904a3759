"""Faults strike where they should, as often as they should, and the record shows whether the call took effect."""

from __future__ import annotations

import threading

import pytest
import requests

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime import Fault, Faults, LocalRuntime
from aws_rft_sdk.types import TrajectoryStatus

from .conftest import echo

CONNECTION_ERRORS = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


@pytest.mark.parametrize(
    ("fault", "first", "took_effect"),
    [
        pytest.param(Fault("status", status=503), 503, False, id="status"),
        pytest.param(Fault("status", status=429, retry_after_seconds=3), 429, False, id="throttled"),
        pytest.param(Fault("status", after=True), 500, True, id="status-after"),
        pytest.param(Fault("reset"), None, False, id="reset"),
        pytest.param(Fault("reset", after=True), None, True, id="answer-lost"),
        pytest.param(Fault("cut"), None, True, id="cut"),
        pytest.param(Fault("skew"), 403, False, id="skew"),
        pytest.param(Fault("slow", seconds=0.0), 200, True, id="slow"),
        pytest.param(Fault("slow", seconds=0.0, after=True), 200, True, id="slow-after"),
    ],
)
def test_fault_when_it_strikes_the_first_attempt_then_seen_and_the_retry_works(
    open_wire, caplog, fault, first, took_effect
):
    once = Fault(fault.kind, "*", 1.0, (1,), fault.after, fault.status, fault.retry_after_seconds, fault.seconds)
    with LocalRuntime(echo, auth="none", faults=Faults(once)) as runtime:
        wire, payload = open_wire(runtime), runtime.new_rollout("p")

        def trajectory():
            return runtime.trajectory(payload["metadata"]["rolloutId"])

        assert _status(lambda: wire.chat(payload, span="s", stream=True)) == first
        assert len(trajectory().turns) == took_effect
        assert wire.chat(payload, span="s").status_code == 200
        assert len(trajectory().turns) == 1
        assert _status(lambda: wire.complete(payload, ClientToken="c")) == first
        assert (trajectory().status is TrajectoryStatus.READY) == took_effect
        assert wire.complete(payload, ClientToken="c").status_code == 200
        assert _status(lambda: wire.reward(payload, ClientToken="r")) == first
        assert (trajectory().rewards == (1.0,)) == took_effect
        assert wire.reward(payload, ClientToken="r").status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def _status(call):
    try:
        return call().status_code
    except CONNECTION_ERRORS:
        return None


def _hits(faults, order):
    found = {}
    for trajectory in order:
        headers = [(b"x-trajectory-id", trajectory.encode())]
        found[trajectory] = [faults.draw("reward", headers, b"") is not None for _ in range(5)]
    return found


def test_faults_when_the_order_of_calls_differs_then_the_same_ones_strike():
    names = [f"t{n}" for n in range(200)]
    share = Fault("status", "feedback", probability=0.3)
    hits = _hits(Faults(share, seed=7), names)
    assert hits == _hits(Faults(share, seed=7), reversed(names))
    assert hits != _hits(Faults(share, seed=8), names)
    assert 240 < sum(map(sum, hits.values())) < 360
    faults = Faults(share)
    assert faults.draw("inference", [], b"") is None
    body = b'{"TrajectoryId": "t"}'
    assert [Faults(Fault("reset", "complete", attempts=(2,))).draw("complete", [], body)] == [None]


def test_faults_when_given_as_a_list_then_refused_before_any_call():
    with pytest.raises(ConfigurationError, match="one by one"):
        Faults([Fault("reset")])


@pytest.mark.parametrize(
    "faults",
    [[Fault("reset")], Fault("reset"), "reset", 0.1, {"kind": "reset"}, Faults, (), False],
    ids=lambda value: type(value).__name__,
)
def test_runtime_when_its_faults_are_none_then_refused_before_anything_starts(faults):
    with pytest.raises(ConfigurationError, match=r"faults must be a Faults, for example Faults\(Fault\("):
        LocalRuntime(faults=faults)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"kind": "explode"}, "kind"),
        ({"kind": None}, "kind"),
        ({"kind": ["reset"]}, "kind"),
        ({"route": "/sample"}, "route"),
        ({"route": 1}, "route"),
        ({"probability": -0.1}, "probability"),
        ({"probability": 1.1}, "probability"),
        ({"probability": "0.5"}, "probability"),
        ({"probability": True}, "probability"),
        ({"probability": float("nan")}, "probability"),
        ({"status": 200}, "status"),
        ({"status": 600}, "status"),
        ({"status": "503"}, "status"),
        ({"status": 429.5}, "status"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": "1"}, "seconds"),
        ({"retry_after_seconds": -1}, "retry_after_seconds"),
        ({"retry_after_seconds": "soon"}, "retry_after_seconds"),
        ({"attempts": 1}, "attempts"),
        ({"attempts": "12"}, "attempts"),
        ({"attempts": [0]}, "attempts"),
        ({"attempts": ["1"]}, "attempts"),
        ({"after": "yes"}, "after"),
    ],
)
def test_fault_when_a_field_is_impossible_then_an_error_names_it_and_the_value(fields, name):
    with pytest.raises(ConfigurationError, match=f"{name} must be") as raised:
        Fault(**{"kind": "status", **fields})
    (value,) = fields.values()
    assert repr(value[0] if name == "attempts" and isinstance(value, list) else value) in str(raised.value)


def test_fault_when_the_old_name_of_seconds_is_used_then_it_works_with_a_warning():
    with pytest.warns(DeprecationWarning, match="retry_after_seconds") as warned:
        fault = Fault("status", retry_after=3)
    assert fault == Fault("status", retry_after_seconds=3)
    assert warned[0].filename == __file__


def test_fault_when_it_drips_then_the_answer_comes_byte_by_byte_and_whole(open_wire):
    with LocalRuntime(echo, auth="none", faults=Faults(Fault("drip", seconds=0.0))) as runtime:
        wire, payload = open_wire(runtime), runtime.new_rollout("p")
        headers = {"X-Rft-Job-Arn": payload["metadata"]["jobArn"], "X-Trajectory-Id": payload["metadata"]["rolloutId"]}
        body = {"messages": [{"role": "user", "content": "hello"}]}
        for stream in (False, True):
            url = runtime.endpoint + "/v1/chat/completions"
            with wire.session.post(
                url, json={**body, "stream": stream}, headers=headers, stream=True, timeout=30
            ) as answer:
                whole = b"".join(answer.iter_content(None))
            assert b"HELLO" in whole
        assert wire.complete(payload).json() == {}
        assert len(runtime.trajectory(payload["metadata"]["rolloutId"]).turns) == 2


def test_fault_when_it_drips_then_a_deadline_passes_before_the_end(open_wire, monkeypatch):
    monkeypatch.setattr("aws_rft_sdk.runtime.server.DRAIN_SECONDS", 0)
    with LocalRuntime(echo, auth="none", faults=Faults(Fault("drip", seconds=3600))) as runtime:
        payload = runtime.new_rollout("p")
        url, body = runtime.endpoint + "/complete-rollout", open_wire(runtime)
        ids = {"JobArn": payload["metadata"]["jobArn"], "TrajectoryId": payload["metadata"]["rolloutId"]}
        with body.session.post(url, json=ids, stream=True, timeout=30) as answer:
            assert next(answer.iter_content(1)) == b"{"
        # The call took effect, and nothing waits for the second byte when the runtime stops.
        assert runtime.trajectory(payload["metadata"]["rolloutId"]).status is TrajectoryStatus.READY


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("route", ["inference", "complete", "reward"])
@pytest.mark.parametrize("file", [False, True], ids=["memory", "file"])
def test_fault_when_the_runtime_dies_then_nothing_answers_until_it_is_restarted(
    open_wire, caplog, tmp_path, route, after, file
):
    dies = Faults(Fault("die", route, attempts=(1,), after=after))
    db = tmp_path / "a.db" if file else ":memory:"
    with LocalRuntime(echo, auth="none", faults=dies, db=db) as runtime:
        wire, other, payload = open_wire(runtime), open_wire(runtime), runtime.new_rollout("p")
        assert other.session.get(runtime.endpoint + "/ping", timeout=30).ok  # a connection that is kept
        calls = {
            "inference": lambda: wire.chat(payload, span="s"),
            "complete": lambda: wire.complete(payload, ClientToken="c"),
            "reward": lambda: wire.reward(payload, ClientToken="r"),
        }
        for name, call in calls.items():
            if name != route:
                assert call().status_code == 200
                continue
            assert _status(call) is None
            for _ in range(2):
                with pytest.raises(CONNECTION_ERRORS):
                    other.session.get(runtime.endpoint + "/ping", timeout=30)
            runtime.restart()
            trajectory = runtime.trajectory(payload["metadata"]["rolloutId"])
            happened = {
                "inference": len(trajectory.turns) == 1,
                "complete": trajectory.status is TrajectoryStatus.READY,
                "reward": trajectory.rewards == (1.0,),
            }
            assert happened[route] == after
            assert call().status_code == 200
        trajectory = runtime.trajectory(payload["metadata"]["rolloutId"])
        assert (len(trajectory.turns), trajectory.rewards) == (1, (1.0,))
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_fault_when_the_runtime_dies_then_calls_in_progress_do_not_take_effect(open_wire):
    begun, release, outcome = threading.Event(), threading.Event(), []

    def wait(request):
        begun.set()
        assert release.wait(30)
        return "too late"

    with LocalRuntime(wait, auth="none", faults=Faults(Fault("die", "complete"))) as runtime:
        first, second = runtime.new_rollout("p"), runtime.new_rollout("q")
        wire = open_wire(runtime)
        call = threading.Thread(target=lambda: outcome.append(_status(lambda: wire.chat(first))))
        call.start()
        assert begun.wait(30)
        assert _status(lambda: open_wire(runtime).complete(second)) is None
        call.join(30)
        release.set()
        assert outcome == [None]
        runtime.restart()
        assert runtime.trajectory(first["metadata"]["rolloutId"]).turns == ()


@pytest.mark.parametrize("paths", [("/CompleteTrajectory", "/UpdateReward"), ("/complete-rollout", "/update-reward")])
def test_runtime_when_it_forgets_client_tokens_then_a_repetition_conflicts(open_wire, paths):
    with LocalRuntime(echo, auth="none", client_tokens=False) as runtime:
        wire, payload = open_wire(runtime), runtime.new_rollout("p")
        body = {
            "JobArn": payload["metadata"]["jobArn"],
            "TrajectoryId": payload["metadata"]["rolloutId"],
            "ClientToken": "same",
            "Rewards": [1.0],
        }
        assert [wire.post(path, body).status_code for path in paths for _ in range(2)] == [200, 409, 200, 409]


def test_faults_when_in_a_file_then_read_and_mistakes_are_named(tmp_path):
    pytest.importorskip("tomllib")
    file = tmp_path / "faults.toml"
    file.write_text('seed = 5\n[[fault]]\nkind = "reset"\nroute = "reward"\nattempts = [1, 2]\nafter = true\n')
    assert Faults.from_toml(file)._faults == (Fault("reset", "reward", attempts=(1, 2), after=True),)
    for text, match in [
        ("[[fault]]\nkind = 'explode'", "kind"),
        ("[[fault]]\nkind = 'reset'\nroute = 'x'", "route"),
        ("[[fault]]\nkind = 'reset'\nprobability = 2", "probability"),
        ("[[fault]]\nkind = 'reset'\nprobability = 'x'", "probability must be"),
        ("[[fault]]\nkind = 'reset'\nwhat = 1", "what"),
        ("[[fault]]\nroute = 'reward'", "needs a kind"),
        ("[[fault]]\nkind = 'reset'\n[[fault]]\nkind = 'reset'\nseconds = -1", r"\[\[fault\]\] 2: .*seconds"),
        ("[fault]\nkind = 'reset'", "list of tables"),
        ("fault = [1]", "needs a kind"),
        ("what = 1", "what"),
        ("[", "cannot be read"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=match):
            Faults.from_toml(file)
