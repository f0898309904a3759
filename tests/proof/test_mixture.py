"""The mixture: clean with wrap_model, and each mistake of a wrapper is found."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from aws_rft_sdk.proof import CauseKind, Proof, prove_mixture
from aws_rft_sdk.proof.mixture import SCENARIOS

from .broken import OneSpan, RetriesBlindly, WritesHeaders, remake

SMALL = ["plain", "parallel tools", "throttled (429)", "answer lost (500)"]


def kinds(proof: Proof) -> set[CauseKind]:
    return {cause.kind for cause in proof.causes}


def test_mixture_at_96_rollouts_is_clean_and_holds_every_scenario():
    proof = prove_mixture(rollouts=96, threads=32)

    verdict, by_kind = proof.verdict, Counter(outcome.run.kind for outcome in proof.outcomes)
    assert (verdict.wrong, verdict.untracked, verdict.stray, verdict.duplicates) == ((), (), (), ())
    assert (verdict.unproven, verdict.reused_spans, verdict.shared, proof.causes) == ((), (), (), ())
    assert proof.is_passed, proof.causes
    assert set(by_kind) == set(SCENARIOS)
    assert sum(by_kind.values()) == 96 + by_kind["nested"]
    assert all(outcome.is_reported for outcome in proof.outcomes)
    assert Counter(o.error_type for o in proof.outcomes) == {
        None: sum(by_kind.values()) - by_kind["cancelled"] - by_kind["answer lost (500)"],
        "CancelledError": by_kind["cancelled"],
        "InternalServerError": by_kind["answer lost (500)"],
    }
    turned_away = 2 * by_kind["throttled (429)"] + 2 * by_kind["unavailable (503)"]
    assert verdict.requests - verdict.turns >= turned_away
    assert proof.outside_calls == 13


@pytest.mark.timeout(240)
def test_mixture_at_1000_rollouts_is_clean():
    proof = prove_mixture(rollouts=1000, threads=32, kinds=["plain", "nested", "throttled (429)", "cancelled"])

    assert proof.is_passed, proof.causes
    assert len(proof.outcomes) == 1250
    assert proof.verdict.turns >= 1500


@pytest.mark.parametrize("threads", [pytest.param(1, id="one thread"), pytest.param(16, id="16 threads")])
def test_wrapper_that_writes_headers_into_client_args_is_found(threads):
    proof = prove_mixture(
        rollouts=48, threads=threads, wrap=remake(WritesHeaders, max_retries=0), kinds=["plain", "parallel tools"]
    )

    assert not proof.is_passed
    assert {CauseKind.SHARED_HEADERS, CauseKind.STALE_HEADERS} <= kinds(proof)
    assert len(proof.verdict.wrong) > 10


def test_model_that_is_not_wrapped_is_found():
    proof = prove_mixture(rollouts=16, threads=4, wrap=lambda model: model, kinds=["plain"])

    assert kinds(proof) == {CauseKind.UNWRAPPED_MODEL}
    assert len(proof.verdict.untracked) == 16
    assert proof.verdict.stray == ()


def test_client_that_resends_sampled_turns_is_found():
    proof = prove_mixture(rollouts=16, threads=4, wrap=remake(RetriesBlindly), kinds=SMALL)

    assert kinds(proof) == {CauseKind.CLIENT_RETRIES}
    assert len(proof.verdict.duplicates) == sum(o.run.kind == "answer lost (500)" for o in proof.outcomes)
    assert "the OpenAI client's own retries" in proof.causes[0].what


def test_client_that_resends_only_what_was_turned_away_is_none():
    proof = prove_mixture(
        rollouts=8, threads=4, wrap=remake(RetriesBlindly), kinds=["plain", "throttled (429)", "unavailable (503)"]
    )

    assert proof.verdict.duplicates == ()
    assert kinds(proof) == set()


def test_headers_made_once_for_a_rollout_are_found():
    proof = prove_mixture(rollouts=8, threads=4, wrap=remake(OneSpan, max_retries=0), kinds=["parallel tools"])

    assert kinds(proof) == {CauseKind.REUSED_SPANS}
    assert proof.verdict.is_clean
    assert not proof.is_passed


def test_progress_is_told_for_each_rollout():
    told: list[Any] = []

    prove_mixture(rollouts=6, threads=2, kinds=["plain"], progress=lambda: told.append(None))

    assert len(told) == 6
