"""Names the causes of what a proof found. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from aws_rft_sdk.proof.outcome import Evidence, Outcome
from aws_rft_sdk.proof.verdict import Verdict

_SHOWN_ERRORS = 3
_SHOWN_LENGTH = 300
_NO_EVIDENCE = Evidence()


class CauseKind(str, Enum):
    """What can be wrong."""

    SHARED_HEADERS = "headers written to a shared object"
    """The headers of one rollout are stored on a model or client that others use too."""
    STALE_HEADERS = "headers left behind outside rollouts"
    """The same, seen by calls that belong to no rollout."""
    UNWRAPPED_MODEL = "model not wrapped"
    """No turn carries headers, or those of some agents do not, wherever they run."""
    LOST_CONTEXT = "thread without the rollout's context"
    """Calls are made in threads that do not know the rollout."""
    UNTRACKED = "turns without headers"
    """One of the two above; which one could not be told."""
    CLIENT_RETRIES = "client sends sampled turns again"
    """The HTTP client repeats calls that the policy may have answered."""
    REUSED_SPANS = "headers made once for several turns"
    """One span id stands for several turns."""
    SHARED_CONVERSATION = "conversation shared by rollouts"
    """One agent object serves several rollouts."""
    NOT_DECORATED = "handler not decorated"
    """Nothing binds the rollout."""
    NO_INFERENCE = "no inference call arrived"
    """The agent talks to something else, or to nobody."""
    NO_REWARD = "reward missing"
    """The handler returns no reward, or something that is none."""
    NOT_DELIVERED = "reward never delivered"
    """The handler returned, and the runtime has no reward."""
    HANDLER_RAISED = "handler raised"
    """The rollout failed by itself."""


@dataclass(frozen=True)
class Cause:
    """One cause, told apart from the others."""

    kind: CauseKind
    count: int
    """How many requests or rollouts show it."""
    what: str
    """What was seen."""
    fix: str
    """What to do about it."""


def diagnose(verdict: Verdict, outcomes: Sequence[Outcome], evidence: Evidence = _NO_EVIDENCE) -> tuple[Cause, ...]:
    """Name what is wrong, the most fundamental first; empty when nothing is.

    Args:
        verdict: What the requests say.
        outcomes: How the rollouts ended.
        evidence: What else is known.
    """
    candidates = (
        _not_decorated(outcomes),
        _no_inference(verdict),
        _wrong(verdict),
        _stray(verdict),
        None if _is_undecorated(outcomes) else _untracked(verdict, evidence),
        _duplicates(verdict),
        _reused(verdict),
        _shared(verdict),
        *_failures(verdict, outcomes),
    )
    return tuple(cause for cause in candidates if cause is not None)


def _is_undecorated(outcomes: Sequence[Outcome]) -> bool:
    return bool(outcomes) and not any(outcome.is_bound for outcome in outcomes)


def _not_decorated(outcomes: Sequence[Outcome]) -> Cause | None:
    if not _is_undecorated(outcomes):
        return None
    return Cause(
        CauseKind.NOT_DECORATED,
        len(outcomes),
        "the handler bound no rollout, so no turn is tracked and no reward is sent",
        "decorate it with @rft_handler, the outermost decorator that sees the payload",
    )


def _no_inference(verdict: Verdict) -> Cause | None:
    if verdict.requests:
        return None
    return Cause(
        CauseKind.NO_INFERENCE,
        0,
        "the rollouts made no inference call to the runtime that their payload names",
        "inside a rollout, build the model from runtime_client_args(); see the errors below, if there are any",
    )


def _wrong(verdict: Verdict) -> Cause | None:
    if not verdict.wrong:
        return None
    return Cause(
        CauseKind.SHARED_HEADERS,
        len(verdict.wrong),
        "turns arrived under the trajectory of another rollout: the headers of one rollout are written to a model or "
        "client that other rollouts use too, or kept from an earlier one",
        "do not put RFTContext.get_headers() into client_args, default_headers or a model's config; build the model "
        "once and use wrap_model(model), which reads the headers when a call is sent",
    )


def _stray(verdict: Verdict) -> Cause | None:
    if not verdict.stray:
        return None
    return Cause(
        CauseKind.STALE_HEADERS,
        len(verdict.stray),
        "calls outside any rollout carry the headers of one: they are still on the model or client",
        "use wrap_model(model), which leaves nothing on the model",
    )


def _untracked(verdict: Verdict, evidence: Evidence) -> Cause | None:
    count, turns = len(verdict.untracked), verdict.rollout_requests
    if not count:
        return None
    share = "no turn carries" if count == turns else f"{count} of {turns} requests do not carry"
    if evidence.threads_lose_context:
        return Cause(
            CauseKind.LOST_CONTEXT,
            count,
            f"{share} the rollout's headers, and they do once threads get the context: calls are made in threads or "
            "pools of your own, which do not know the rollout",
            "hand work to threads with RFTContext.carry: pool.submit(RFTContext.carry(work), item); or use "
            "asyncio.to_thread, which carries the context by itself",
        )
    if evidence.threads_lose_context is None and count < turns:
        return Cause(
            CauseKind.UNTRACKED,
            count,
            f"{share} the rollout's headers: calls in threads that do not know the rollout, or a second model that is "
            "not wrapped",
            "use wrap_model on every model, sub-agents' too, and RFTContext.carry for threads of your own",
        )
    names = ", ".join(evidence.unwrapped_names)
    where = f": {names}, built at import" if names else ""
    which = "the model is not wrapped" if count == turns else "one of the models is not wrapped (a sub-agent's?)"
    return Cause(
        CauseKind.UNWRAPPED_MODEL,
        count,
        f"{share} the rollout's headers: {which}{where}",
        "wrap every model once, where it is built: model = wrap_model(OpenAIModel(...))",
    )


def _duplicates(verdict: Verdict) -> Cause | None:
    # Under a wrong trajectory a repetition may be a consequence: of a refusal, because that one was over.
    if not verdict.duplicates or verdict.wrong:
        return None
    by_client = sum(arrival.resend > 0 for arrival in verdict.duplicates)
    who = "the OpenAI client's own retries" if by_client else "retries of the agent or its client"
    return Cause(
        CauseKind.CLIENT_RETRIES,
        len(verdict.duplicates),
        f"turns that had been sampled were sent again by {who}; the job records both",
        "use wrap_model(model), or set max_retries=0 on the client; repeat only what was refused with 429 or 503",
    )


def _reused(verdict: Verdict) -> Cause | None:
    # Under a wrong trajectory it is a consequence.
    if not verdict.reused_spans or verdict.wrong:
        return None
    return Cause(
        CauseKind.REUSED_SPANS,
        len(verdict.reused_spans),
        "several turns of a rollout carry the same span id, so a runtime that goes by it takes them for one",
        "call RFTContext.get_headers() anew for each request, or use wrap_model(model)",
    )


def _shared(verdict: Verdict) -> Cause | None:
    if not verdict.shared:
        return None
    return Cause(
        CauseKind.SHARED_CONVERSATION,
        len(verdict.shared),
        "the messages of one request hold prompts of several rollouts: they share an agent, which holds the "
        "conversation",
        "build the Agent inside the handler, anew for each call; only the model may be shared",
    )


def _failures(verdict: Verdict, outcomes: Sequence[Outcome]) -> list[Cause | None]:
    counted = [outcome for outcome in outcomes if outcome.is_bound and not outcome.expects_failure]
    missing = [outcome for outcome in counted if outcome.error_type == "RewardError"]
    consequences = {"RewardError"}
    if verdict.untracked or not verdict.requests:
        consequences.add("NoTrackedTurnsError")
    if verdict.wrong or verdict.stray:
        consequences |= _CONFLICTS
    raised = [o for o in counted if o.error is not None and o.error_type not in consequences]
    unreported = [outcome for outcome in outcomes if outcome.is_bound and not outcome.is_reported]
    silent = [o for o in unreported if o.error is None or (o.expects_failure and o.error_type not in consequences)]
    return [
        Cause(CauseKind.NO_REWARD, len(missing), _examples(missing), _NO_REWARD_FIX) if missing else None,
        Cause(CauseKind.NOT_DELIVERED, len(silent), _NOT_DELIVERED, _NOT_DELIVERED_FIX) if silent else None,
        Cause(CauseKind.HANDLER_RAISED, len(raised), _examples(raised), _RAISED_FIX) if raised else None,
    ]


_CONFLICTS = frozenset({"ConflictError", "TrajectoryConflictError"})
"""What a turn ends in that arrives under a trajectory which is over."""
_NO_REWARD_FIX = (
    "return {'reward': x} with a finite number, or decorate with reward='deferred'; if the reward needs a prompt that "
    "holds the right answer, give one (--prompt, --dataset)"
)
_NOT_DELIVERED = "rollouts ended, and the runtime never got their reward, or got another one"
_NOT_DELIVERED_FIX = "return the reward, or report it with RolloutFeedbackClient; reward='deferred' leaves it to you"
_RAISED_FIX = "run one rollout alone to see the traceback; a prompt of your own (--prompt, --dataset) may help"


def _examples(outcomes: Sequence[Outcome]) -> str:
    texts = Counter(
        (outcome.error or "").replace(outcome.run.trajectory_id or "\0", "<id>").replace(outcome.run.marker, "<marker>")
        if outcome.run.marker
        else outcome.error or ""
        for outcome in outcomes
    )
    return "; ".join(f"{count} x {text[:_SHOWN_LENGTH]}" for text, count in texts.most_common(_SHOWN_ERRORS))
