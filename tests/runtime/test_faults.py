"""Faults strike where they should, as often as they should, and the record shows whether the call took effect."""

from __future__ import annotations

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
        ("what = 1", "what"),
        ("[", "cannot be read"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=match):
            Faults.from_toml(file)
