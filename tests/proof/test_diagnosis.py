"""Causes: which one is named for what is seen, and which consequences are not."""

from __future__ import annotations

from typing import Any

import pytest

from aws_rft_sdk.proof.diagnosis import CauseKind, Evidence, diagnose
from aws_rft_sdk.proof.stage import Arrival, Claim, Probe
from aws_rft_sdk.proof.verdict import HostCall, ModelCall, ProbeOutcome, Reach, Verdict

RUN = Probe("rft-proof-00000000000a", "job", "trajectory")
FINE = ProbeOutcome(RUN)
ONE = (Arrival(Claim()),)
RESENT = (Arrival(Claim(), resend=1),)


def verdict(requests: int = 4, **found: tuple[Any, ...]) -> Verdict:
    return Verdict(requests=requests, rollout_requests=requests, turns=requests, **found)


def failed(error_type: str, **fields: bool) -> ProbeOutcome:
    return ProbeOutcome(RUN, error=f"{error_type}: oh", error_type=error_type, **{"is_reported": False, **fields})


def call(*, knows_rollout: bool) -> ModelCall:
    return ModelCall(RUN, "sub", "Bedrock", "claude", "s", knows_rollout=knows_rollout, where="agent.py:3", began=0.0)


LOST, BARE = call(knows_rollout=False), call(knows_rollout=True)
SILENT = ProbeOutcome(RUN, is_reported=False)
HUNG = ProbeOutcome(RUN, hung_at="agent.py:7 in wait", is_reported=False)
UNTRACKED = verdict(untracked=ONE)
ALL_UNTRACKED = verdict(1, untracked=ONE)
REFUSED = Evidence(hosts=((HostCall("api.openai.com", True, "tool t", "agent.py:9"), 2),))


@pytest.mark.parametrize(
    ("seen", "outcomes", "evidence", "kinds"),
    [
        pytest.param(verdict(), [FINE], Evidence(), [], id="nothing"),
        pytest.param(verdict(0), [FINE], Evidence(), [CauseKind.NO_INFERENCE], id="no request"),
        pytest.param(verdict(wrong=ONE), [FINE], Evidence(), [CauseKind.SHARED_HEADERS], id="wrong"),
        pytest.param(verdict(stray=ONE), [FINE], Evidence(), [CauseKind.STALE_HEADERS], id="stray"),
        pytest.param(UNTRACKED, [FINE], Evidence(), [CauseKind.UNTRACKED], id="some untracked, nobody knows by whom"),
        pytest.param(
            verdict(untracked=ONE, untracked_by=(LOST,)), [FINE], Evidence(), [CauseKind.LOST_CONTEXT], id="by a thread"
        ),
        pytest.param(
            verdict(untracked=ONE, untracked_by=(BARE,)),
            [FINE],
            Evidence(),
            [CauseKind.UNWRAPPED_MODEL],
            id="by a bare model",
        ),
        pytest.param(
            verdict(untracked=ONE * 3, untracked_by=(BARE, LOST, None)),
            [FINE],
            Evidence(),
            [CauseKind.LOST_CONTEXT, CauseKind.UNWRAPPED_MODEL, CauseKind.UNTRACKED],
            id="by all of these",
        ),
        pytest.param(ALL_UNTRACKED, [FINE], Evidence(), [CauseKind.UNWRAPPED_MODEL], id="all untracked"),
        pytest.param(
            verdict(0, foreign=(BARE, LOST)),
            [failed("NoTrackedTurnsError")],
            Evidence(),
            [CauseKind.FOREIGN_MODEL, CauseKind.FOREIGN_MODEL],
            id="other models, and what follows",
        ),
        pytest.param(verdict(), [FINE], REFUSED, [CauseKind.FOREIGN_HOST], id="a model provider"),
        pytest.param(
            verdict(), [FINE], Evidence(reach=Reach(missed_tools=("t",))), [CauseKind.NOT_REACHED], id="a tool missed"
        ),
        pytest.param(
            verdict(0),
            [HUNG],
            Evidence(reach=Reach(missed_agents=("a",))),
            [CauseKind.HUNG],
            id="hung, so not reached",
        ),
        pytest.param(verdict(duplicates=RESENT), [FINE], Evidence(), [CauseKind.CLIENT_RETRIES], id="duplicates"),
        pytest.param(verdict(reused_spans=ONE), [FINE], Evidence(), [CauseKind.REUSED_SPANS], id="reused spans"),
        pytest.param(verdict(shared=ONE), [FINE], Evidence(), [CauseKind.SHARED_CONVERSATION], id="conversation"),
        pytest.param(
            verdict(wrong=ONE, reused_spans=ONE, duplicates=RESENT),
            [failed("BadRequestError", is_reported=True)],
            Evidence(),
            [CauseKind.SHARED_HEADERS],
            id="consequences of wrong headers",
        ),
        pytest.param(
            ALL_UNTRACKED,
            [failed("NoTrackedTurnsError")],
            Evidence(),
            [CauseKind.UNWRAPPED_MODEL],
            id="its consequence",
        ),
        pytest.param(
            ALL_UNTRACKED,
            [failed("NoTrackedTurnsError", expects_failure=True)],
            Evidence(),
            [CauseKind.UNWRAPPED_MODEL],
            id="its consequence, with a fault",
        ),
        pytest.param(
            verdict(), [failed("NoTrackedTurnsError")], Evidence(), [CauseKind.HANDLER_RAISED], id="no cause for it"
        ),
        pytest.param(verdict(), [failed("RewardError")], Evidence(), [CauseKind.NO_REWARD], id="no reward"),
        pytest.param(verdict(), [SILENT], Evidence(), [CauseKind.NOT_DELIVERED], id="not delivered"),
        pytest.param(verdict(), [failed("KeyError")], Evidence(), [CauseKind.HANDLER_RAISED], id="raised"),
        pytest.param(
            verdict(),
            [failed("KeyError", is_reported=True, expects_failure=True)],
            Evidence(),
            [],
            id="failed as expected",
        ),
        pytest.param(
            verdict(),
            [failed("KeyError", expects_failure=True)],
            Evidence(),
            [CauseKind.NOT_DELIVERED],
            id="failed as expected, not reported",
        ),
        pytest.param(
            ALL_UNTRACKED,
            [ProbeOutcome(RUN, is_bound=False, is_reported=False)],
            Evidence(),
            [CauseKind.NOT_DECORATED],
            id="not decorated, and what follows",
        ),
    ],
)
def test_causes(seen, outcomes, evidence, kinds):
    assert [cause.kind for cause in diagnose(seen, outcomes, evidence)] == kinds


def test_whoever_asked_another_model_is_named_with_what_to_type():
    inside, lost = diagnose(verdict(foreign=(BARE, BARE, LOST)), [FINE])

    assert "agent 'sub' asked claude (Bedrock) at agent.py:3, 2 x" in inside.what
    assert (inside.count, "runtime_model(" in inside.fix, "wrap_model(" in inside.fix) == (2, True, True)
    assert (lost.count, "RFTContext.carry" in lost.fix) == (1, True)


def test_what_was_not_reached_is_named_with_the_options_that_leave_it_out():
    reach = Reach(missed_tools=("delete",), missed_agents=("judge (agent.py:4)",))

    (cause,) = diagnose(verdict(), [FINE], Evidence(reach=reach))

    assert cause.what == "tools that never ran: delete; agents that never ran: judge (agent.py:4)"
    assert cause.fix.endswith("--skip-tool delete --skip-agent judge")


def test_deadline_and_the_place_that_waits_are_said():
    (cause,) = diagnose(verdict(), [HUNG], Evidence(deadline_seconds=2.5))

    assert cause.headline == "the handler did not return within 2.5 s"
    assert "agent.py:7 in wait" in cause.what


def test_retries_of_the_client_are_told_from_others():
    texts = [diagnose(verdict(duplicates=found), [FINE])[0].what for found in (RESENT, ONE)]

    assert ["OpenAI client's own" in text for text in texts] == [True, False]


def test_errors_are_counted_without_what_differs_between_rollouts():
    errors = [
        ProbeOutcome(Probe(f"rft-proof-{n:012x}", "j", f"t{n}"), f"E: t{n} rft-proof-{n:012x}", "E") for n in range(3)
    ]

    (cause,) = diagnose(verdict(), errors)

    assert (cause.count, cause.what) == (3, "3 x E: <id> <marker>")
