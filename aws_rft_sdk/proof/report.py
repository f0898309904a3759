"""The result of a proof, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from aws_rft_sdk.proof.diagnosis import Cause, describe_hosts
from aws_rft_sdk.proof.stage import Arrival
from aws_rft_sdk.proof.verdict import HostCall, ProbeOutcome, Reach, Verdict

_SHOWN_EXAMPLES = 3


@dataclass(frozen=True)
class Proof:
    """The result."""

    subject: str
    """What was proved: the name of a handler, or the mixture."""
    verdict: Verdict
    outcomes: tuple[ProbeOutcome, ...]
    """One for each rollout, in the order of their start."""
    causes: tuple[Cause, ...] = ()
    """Why it failed; empty when it passed."""
    notes: tuple[str, ...] = ()
    """What somebody who reads the result should know."""
    reach: Reach = field(default_factory=Reach)
    """Tools and agents that the rollouts reached, and those that they did not."""
    hosts: tuple[tuple[HostCall, int], ...] = ()
    """Hosts that rollouts called, and how often; the most frequent first."""
    outside_calls: int = 0
    """Calls made outside any rollout."""
    seconds: float = 0.0
    """How long it took."""

    @property
    def is_passed(self) -> bool:
        """Whether each model call arrived once, under its own trajectory, each reward too, and all was reached."""
        return self.verdict.is_clean and self.verdict.turns > 0 and not self.causes


def proof_table(proof: Proof) -> Table:
    """Return the numbers as a table."""
    verdict = proof.verdict
    table = Table(title=f"attribution of {proof.subject}", show_header=False)
    table.add_row("rollouts", str(len(proof.outcomes)))
    table.add_row("reported", str(sum(outcome.is_reported for outcome in proof.outcomes)))
    table.add_row("calls outside rollouts", str(proof.outside_calls))
    table.add_row("inference requests", str(verdict.requests))
    table.add_row("turned away (429, 503)", str(verdict.requests - verdict.turns))
    table.add_row("turns seen", str(verdict.turns))
    for name, found in _errors(verdict):
        table.add_row(name, str(len(found)), style="red" if found else None)
    table.add_row("calls of other models", str(len(verdict.foreign)), style="red" if verdict.foreign else None)
    if verdict.unproven:
        table.add_row("turns of unknown rollouts", str(len(verdict.unproven)))
    table.add_row("seconds", f"{proof.seconds:.1f}")
    return table


def proof_lines(proof: Proof) -> list[str]:
    """Return causes, notes and the verdict as lines of text."""
    lines = []
    for cause in proof.causes:
        lines += [f"cause: {cause.headline} ({cause.count})", f"  seen: {cause.what}", f"  fix:  {cause.fix}"]
    lines += [f"{name}: {', '.join(names)}" for name, names in _reached(proof.reach).items() if names]
    others = [(call, count) for call, count in proof.hosts if not call.is_refused]
    if others:
        lines.append(f"other hosts that rollouts called: {describe_hosts(others)}")
    lines += [f"note: {note}" for note in proof.notes]
    return [*lines, _conclusion(proof)]


def _conclusion(proof: Proof) -> str:
    if not proof.is_passed:
        why = "; ".join(cause.headline for cause in proof.causes) or "no turn arrived as it should"
        return f"not proved: {why}"
    skipped = [*proof.reach.skipped_tools, *proof.reach.skipped_agents]
    return f"proved, except for what was skipped: {', '.join(skipped)}" if skipped else "proved"


def proof_json(proof: Proof) -> dict[str, Any]:
    """Return everything as plain JSON values."""
    verdict = proof.verdict
    errors = {name.replace(" ", "_"): len(found) for name, found in _errors(verdict)}
    return {
        "subject": proof.subject,
        "passed": proof.is_passed,
        "rollouts": len(proof.outcomes),
        "rollouts_by_kind": dict(Counter(outcome.run.kind for outcome in proof.outcomes)),
        "reported": sum(outcome.is_reported for outcome in proof.outcomes),
        "calls_outside_rollouts": proof.outside_calls,
        "inference_requests": verdict.requests,
        "turns_seen": verdict.turns,
        **errors,
        "turns_of_unknown_rollouts": len(verdict.unproven),
        "reach": asdict(proof.reach),
        "hosts": [{**call._asdict(), "count": count} for call, count in proof.hosts],
        "examples": {name.replace(" ", "_"): _examples(found) for name, found in _errors(verdict) if found},
        "calls_of_other_models": len(verdict.foreign),
        "causes": [
            {"kind": cause.kind.name.lower(), "count": cause.count, "seen": cause.what, "fix": cause.fix}
            for cause in proof.causes
        ],
        "notes": list(proof.notes),
        "seconds": round(proof.seconds, 3),
    }


def _errors(verdict: Verdict) -> list[tuple[str, tuple[Arrival, ...]]]:
    return [
        ("turns under the wrong trajectory", verdict.wrong),
        ("untracked turns", verdict.untracked),
        ("stray headers outside rollouts", verdict.stray),
        ("duplicate turns", verdict.duplicates),
    ]


def _reached(reach: Reach) -> dict[str, tuple[str, ...]]:
    return {
        "tools reached": reach.tools,
        "tools not reached": reach.missed_tools,
        "tools skipped": reach.skipped_tools,
        "tools that failed each time, so that what follows was not seen": reach.failed_tools,
        "agents reached": reach.agents,
        "agents not reached": reach.missed_agents,
        "agents skipped": reach.skipped_agents,
    }


def _examples(found: Sequence[Arrival]) -> list[dict[str, Any]]:
    return [
        {
            "marker": arrival.markers[-1] if arrival.markers else None,
            "trajectory_id": arrival.claim.trajectory_id,
            "span_id": arrival.claim.span_id,
        }
        for arrival in found[:_SHOWN_EXAMPLES]
    ]
