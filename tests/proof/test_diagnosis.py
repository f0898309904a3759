"""Causes: which one is named for what is seen, and which consequences are not."""

from __future__ import annotations

import pytest

from aws_rft_sdk.proof.diagnosis import CauseKind, diagnose
from aws_rft_sdk.proof.observer import Arrival, Claim
from aws_rft_sdk.proof.outcome import Evidence, Outcome
from aws_rft_sdk.proof.verdict import Run, Verdict

RUN = Run("rft-proof-00000000000a", "job", "trajectory")
FINE = Outcome(RUN)
ONE = (Arrival(Claim()),)
RESENT = (Arrival(Claim(), resend=1),)


def verdict(requests: int = 4, **found: tuple[Arrival, ...]) -> Verdict:
    return Verdict(requests=requests, rollout_requests=requests, turns=requests, **found)


def failed(error_type: str, **fields: bool) -> Outcome:
    return Outcome(RUN, error=f"{error_type}: oh", error_type=error_type, **{"is_reported": False, **fields})


SILENT = Outcome(RUN, is_reported=False)
UNTRACKED = verdict(untracked=ONE)
ALL_UNTRACKED = verdict(1, untracked=ONE)


@pytest.mark.parametrize(
    ("seen", "outcomes", "evidence", "kinds"),
    [
        pytest.param(verdict(), [FINE], Evidence(), [], id="nothing"),
        pytest.param(verdict(0), [FINE], Evidence(), [CauseKind.NO_INFERENCE], id="no request"),
        pytest.param(verdict(wrong=ONE), [FINE], Evidence(), [CauseKind.SHARED_HEADERS], id="wrong"),
        pytest.param(verdict(stray=ONE), [FINE], Evidence(), [CauseKind.STALE_HEADERS], id="stray"),
        pytest.param(UNTRACKED, [FINE], Evidence(), [CauseKind.UNTRACKED], id="some untracked, not tried"),
        pytest.param(UNTRACKED, [FINE], Evidence(True), [CauseKind.LOST_CONTEXT], id="some, threads are why"),
        pytest.param(UNTRACKED, [FINE], Evidence(False), [CauseKind.UNWRAPPED_MODEL], id="some, threads are not why"),
        pytest.param(ALL_UNTRACKED, [FINE], Evidence(), [CauseKind.UNWRAPPED_MODEL], id="all untracked"),
        pytest.param(ALL_UNTRACKED, [FINE], Evidence(True), [CauseKind.LOST_CONTEXT], id="all, threads are why"),
        pytest.param(verdict(duplicates=RESENT), [FINE], Evidence(), [CauseKind.CLIENT_RETRIES], id="duplicates"),
        pytest.param(verdict(reused_spans=ONE), [FINE], Evidence(), [CauseKind.REUSED_SPANS], id="reused spans"),
        pytest.param(verdict(shared=ONE), [FINE], Evidence(), [CauseKind.SHARED_CONVERSATION], id="conversation"),
        pytest.param(
            verdict(wrong=ONE, reused_spans=ONE, duplicates=RESENT),
            [failed("ConflictError", is_reported=True)],
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
            [Outcome(RUN, is_bound=False, is_reported=False)],
            Evidence(),
            [CauseKind.NOT_DECORATED],
            id="not decorated, and what follows",
        ),
    ],
)
def test_causes(seen, outcomes, evidence, kinds):
    assert [cause.kind for cause in diagnose(seen, outcomes, evidence)] == kinds


def test_variables_that_hold_a_model_are_named():
    (cause,) = diagnose(ALL_UNTRACKED, [FINE], Evidence(unwrapped_names=("agent.model",)))

    assert "agent.model, built at import" in cause.what


def test_retries_of_the_client_are_told_from_others():
    texts = [diagnose(verdict(duplicates=found), [FINE])[0].what for found in (RESENT, ONE)]

    assert ["OpenAI client's own" in text for text in texts] == [True, False]


def test_errors_are_counted_without_what_differs_between_rollouts():
    errors = [Outcome(Run(f"rft-proof-{n:012x}", "j", f"t{n}"), f"E: t{n} rft-proof-{n:012x}", "E") for n in range(3)]

    (cause,) = diagnose(verdict(), errors)

    assert (cause.count, cause.what) == (3, "3 x E: <id> <marker>")
