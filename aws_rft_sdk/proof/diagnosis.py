"""Names the causes of what a proof found. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from aws_rft_sdk.proof.verdict import HostCall, ModelCall, ProbeOutcome, Reach, Verdict

_SHOWN_ERRORS = 3
_SHOWN_LENGTH = 300


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
    FOREIGN_MODEL = "another model was asked"
    """A call inside a rollout went to another model than the one that is trained."""
    FOREIGN_HOST = "a model provider was called"
    """A rollout tried to reach the host of one."""
    NOT_REACHED = "tools or agents were not reached"
    """Nothing is known about the turns that they make."""
    HUNG = "the handler did not return"
    """It was not over at its deadline."""
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
    detail: str = ""
    """What the headline says besides the kind, "" for nothing."""

    @property
    def headline(self) -> str:
        """One line that names it."""
        return f"{self.kind.value} {self.detail}".rstrip()


@dataclass(frozen=True)
class Evidence:
    """What was found out about a handler besides what arrived."""

    reach: Reach = field(default_factory=Reach)
    hosts: tuple[tuple[HostCall, int], ...] = ()
    """Hosts that rollouts called, and how often."""
    deadline_seconds: float = 0.0


_NO_EVIDENCE = Evidence()


def diagnose(
    verdict: Verdict, outcomes: Sequence[ProbeOutcome], evidence: Evidence = _NO_EVIDENCE
) -> tuple[Cause, ...]:
    """Name what is wrong, the most fundamental first; empty when nothing is.

    Args:
        verdict: What the requests say.
        outcomes: How the rollouts ended.
        evidence: What else is known.
    """
    hung = _hung(outcomes, evidence)
    if _is_undecorated(outcomes):
        candidates = [_not_decorated(outcomes), hung]
    else:
        candidates = [
            hung,
            *_foreign(verdict),
            _foreign_hosts(evidence),
            None if hung or verdict.foreign else _no_inference(verdict),
            _wrong(verdict),
            _stray(verdict),
            *_untracked(verdict),
            _duplicates(verdict),
            _reused(verdict),
            _shared(verdict),
            *_failures(verdict, outcomes),
            None if hung else _not_reached(evidence.reach),
        ]
    return tuple(cause for cause in candidates if cause is not None)


def _is_undecorated(outcomes: Sequence[ProbeOutcome]) -> bool:
    return bool(outcomes) and not any(outcome.is_bound for outcome in outcomes)


def _not_decorated(outcomes: Sequence[ProbeOutcome]) -> Cause:
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


def _hung(outcomes: Sequence[ProbeOutcome], evidence: Evidence) -> Cause | None:
    hung = [outcome for outcome in outcomes if outcome.hung_at is not None]
    if not hung:
        return None
    place = next((outcome.hung_at for outcome in hung if outcome.hung_at), None)
    seconds = f"{evidence.deadline_seconds:g} s"
    where = f"it stood at {place}" if place else "no line of your own was found in the stacks of its threads and tasks"
    return Cause(
        CauseKind.HUNG,
        len(hung),
        f"the handler did not return within {seconds}; {where}. No further rollouts were started",
        "mend what waits there, give it longer (--deadline SECONDS), or leave out a tool that waits (--skip-tool NAME)",
        f"within {seconds}",
    )


_ASK_THE_POLICY = (
    "give every agent, sub-agents and summarizers too, a model that asks the policy inside rollouts: "
    "model = runtime_model(BedrockModel(...)), or wrap_model(OpenAIModel(...)) at the runtime's address; a judge that "
    "is meant to be another model is let through by --allow with its model id or its agent's name"
)
_CARRY = (
    "hand work to threads with RFTContext.carry: pool.submit(RFTContext.carry(work), item); or use asyncio.to_thread, "
    "which carries the context by itself"
)


def _foreign(verdict: Verdict) -> list[Cause | None]:
    inside = [call for call in verdict.foreign if call.knows_rollout]
    lost = [call for call in verdict.foreign if not call.knows_rollout]
    seen = "calls inside rollouts went to another model than the one that is trained:"
    where = "in a thread that does not know its rollout, where even runtime_model is the production model:"
    return [
        Cause(CauseKind.FOREIGN_MODEL, len(inside), f"{seen} {_callers(inside)}", _ASK_THE_POLICY) if inside else None,
        Cause(CauseKind.FOREIGN_MODEL, len(lost), f"{seen[:-1]}, {where} {_callers(lost)}", _CARRY) if lost else None,
    ]


def _foreign_hosts(evidence: Evidence) -> Cause | None:
    refused = [(call, count) for call, count in evidence.hosts if call.is_refused]
    if not refused:
        return None
    return Cause(
        CauseKind.FOREIGN_HOST,
        sum(count for _, count in refused),
        f"rollouts tried to reach model providers, and were refused: {describe_hosts(refused)}",
        "ask the model inside rollouts through runtime_model(...) or wrap_model(...), and hand work to threads with "
        "RFTContext.carry; --allow HOST lets a host be called that is meant to be, for a judge or for embeddings",
    )


def _not_reached(reach: Reach) -> Cause | None:
    missed = {"tools": reach.missed_tools, "agents": reach.missed_agents}
    count = sum(map(len, missed.values()))
    if not count:
        return None
    options = [f"--skip-tool {name}" for name in reach.missed_tools]
    options += [f"--skip-agent {name.partition(' (')[0]}" for name in reach.missed_agents]
    return Cause(
        CauseKind.NOT_REACHED,
        count,
        "; ".join(f"{kind} that never ran: {', '.join(names)}" for kind, names in missed.items() if names),
        f"give prompts that lead there (--prompt, --dataset), or leave them out: {' '.join(options)}",
    )


def _untracked(verdict: Verdict) -> list[Cause | None]:
    count, turns = len(verdict.untracked), verdict.rollout_requests
    share = "no turn carries" if count == turns else f"{count} of {turns} requests do not carry"
    known = [call for call in verdict.untracked_by if call is not None]
    lost = [call for call in known if not call.knows_rollout]
    bare = [call for call in known if call.knows_rollout]
    unknown = count - len(known)
    # Where no request has headers, the model is not wrapped, whatever client it is.
    guessed = unknown if count == turns and not known else 0
    where = f": {_callers(bare)}" if bare else ""
    which = "the model is not wrapped" if count == turns else "one of the models is not wrapped (a sub-agent's?)"
    return [
        Cause(
            CauseKind.LOST_CONTEXT,
            len(lost),
            f"{share} the rollout's headers: calls are made in threads or pools of your own, which do not know the "
            f"rollout: {_callers(lost)}",
            _CARRY,
        )
        if lost
        else None,
        Cause(
            CauseKind.UNWRAPPED_MODEL,
            len(bare) + guessed,
            f"{share} the rollout's headers: {which}{where}",
            "wrap every model once, where it is built: model = wrap_model(OpenAIModel(...))",
        )
        if bare or guessed
        else None,
        Cause(
            CauseKind.UNTRACKED,
            unknown - guessed,
            f"{share} the rollout's headers: calls in threads that do not know the rollout, or a second model that is "
            "not wrapped",
            "use wrap_model on every model, sub-agents' too, and RFTContext.carry for threads of your own",
        )
        if unknown > guessed
        else None,
    ]


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


def _failures(verdict: Verdict, outcomes: Sequence[ProbeOutcome]) -> list[Cause | None]:
    counted = [outcome for outcome in outcomes if outcome.is_bound and not outcome.expects_failure]
    missing = [outcome for outcome in counted if outcome.error_type == "RewardError"]
    consequences = {"RewardError"}
    if verdict.untracked or not verdict.requests:
        consequences.add("NoTrackedTurnsError")
    if verdict.wrong or verdict.stray:
        consequences |= _TOO_LATE
    # A rollout that asked another model was refused, or has no turn of its own.
    foreign = {call.run for call in verdict.foreign}
    raised = [
        o
        for o in counted
        if o.error is not None and o.error_type not in consequences and o.hung_at is None and o.run not in foreign
    ]
    unreported = [o for o in outcomes if o.is_bound and not o.is_reported and o.hung_at is None]
    silent = [o for o in unreported if o.error is None or (o.expects_failure and o.error_type not in consequences)]
    return [
        Cause(CauseKind.NO_REWARD, len(missing), _examples(missing), _NO_REWARD_FIX) if missing else None,
        Cause(CauseKind.NOT_DELIVERED, len(silent), _NOT_DELIVERED, _NOT_DELIVERED_FIX) if silent else None,
        Cause(CauseKind.HANDLER_RAISED, len(raised), _examples(raised), _RAISED_FIX) if raised else None,
    ]


_TOO_LATE = frozenset({"BadRequestError", "TrajectoryConflictError"})
"""What a turn and a reward end in that arrive under a trajectory which is over."""
_NO_REWARD_FIX = (
    "return {'reward': x} with a finite number, or decorate with reward='deferred'; if the reward needs a prompt that "
    "holds the right answer, give one (--prompt, --dataset)"
)
_NOT_DELIVERED = "rollouts ended, and the runtime never got their reward, or got another one"
_NOT_DELIVERED_FIX = "return the reward, or report it with RolloutFeedbackClient; reward='deferred' leaves it to you"
_RAISED_FIX = "run one rollout alone to see the traceback; a prompt of your own (--prompt, --dataset) may help"


def _examples(outcomes: Sequence[ProbeOutcome]) -> str:
    texts = Counter(
        (outcome.error or "").replace(outcome.run.trajectory_id or "\0", "<id>").replace(outcome.run.marker, "<marker>")
        if outcome.run.marker
        else outcome.error or ""
        for outcome in outcomes
    )
    return "; ".join(f"{count} x {text[:_SHOWN_LENGTH]}" for text, count in texts.most_common(_SHOWN_ERRORS))


def _callers(calls: Sequence[ModelCall]) -> str:
    """Describe who asked which model, the most frequent three."""
    texts = Counter(
        (f"agent {call.agent!r}" if call.agent else "code outside any agent")
        + f" asked {call.model_id or 'a model'} ({call.provider})"
        + (f" at {call.where}" if call.where else "")
        for call in calls
    )
    return _listed(texts)


def describe_hosts(hosts: Sequence[tuple[HostCall, int]]) -> str:
    """Describe hosts and who called them, the most frequent three."""
    texts: Counter[str] = Counter()
    for call, count in hosts:
        who = ", ".join(part for part in (call.who, call.where) if part)
        texts[f"{call.host} ({who})" if who else call.host] += count
    return _listed(texts)


def _listed(texts: Counter[str]) -> str:
    shown = [f"{text}, {count} x" for text, count in texts.most_common(_SHOWN_ERRORS)]
    more = len(texts) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])])
