"""The other side of a replay: answers an agent with what was recorded, and notes where its requests differ."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.runs.request_diff import Comparable, RequestComparison, RequestDifference, compare_requests
from aws_rft_sdk.runtime import Call, Policy, PolicyError
from aws_rft_sdk.types import Turn


class Divergence(NamedTuple):
    """The first request that is not the recorded one."""

    turn: int
    """Index of the recorded turn, from 0."""
    differences: tuple[RequestDifference, ...]
    request: Comparable
    """The request of the replay."""


class Transcript:
    """The recorded turns of one rollout, and what its replay has asked so far.

    A request is answered with the recorded turn that it equals; the first that equals none, with the one that it is
    most like; later ones, with the next that was not asked for yet. So turns that were under way at the same time may
    come in another order.

    Args:
        turns: The recorded turns in order.
        strict: Whether fresh ids and times count as differences.
        clock: Seconds since the epoch.

    Concurrency: for the event loop of one runtime.
    """

    def __init__(self, turns: Sequence[Turn], *, strict: bool = False, clock: Callable[[], float] = time.time) -> None:
        self._turns = turns
        self._recorded = [Comparable(turn.request, turn.started_at) for turn in turns]
        self._open = list(range(len(turns)))
        self._strict = strict
        self._clock = clock
        self.asked = 0
        """Requests made, those beyond the end included."""
        self.beyond = 0
        """Requests made after all recorded answers were given."""
        self.ignored = 0
        """Texts that differ in nothing but fresh ids and times."""
        self.divergence: Divergence | None = None
        """The first request that differs; None while there is none."""
        self.was_extra = False
        """Whether the request that differs stood before the recorded one, which came after it."""

    @property
    def unasked(self) -> tuple[int, ...]:
        """Recorded turns that were not asked for, in order."""
        return tuple(self._open)

    def answer(self, request: Mapping[str, Any]) -> JSON:
        """Return the recorded answer of a request.

        Raises:
            PolicyError: The recording is over.
        """
        self.asked += 1
        now = Comparable(request, self._clock())
        index = self._same(now)
        if index is None and self.divergence is not None:
            again = self.divergence.turn
            if (
                not self.was_extra
                and compare_requests(self._recorded[again], now, strict=self._strict).differences == ()
            ):
                self.was_extra = True
                return self._turns[again].response
        if index is None and self._open:
            index = self._open[0]
            if self.divergence is None:
                index, found = self._most_alike(now)
                self.divergence = Divergence(index, found.differences, now)
        if index is None:
            self.beyond += 1
            raise PolicyError(
                f"the recording is over: it has {len(self._turns)} turns, and the agent asks for another one"
            )
        self._open.remove(index)
        return self._turns[index].response

    def _same(self, now: Comparable) -> int | None:
        # Comparing in full, past the first difference, with every turn that is left would take the square of their
        # number; and then the histories differ anyway.
        thorough = self.divergence is None
        for index in self._open:
            recorded = self._recorded[index]
            found = RequestComparison(()) if recorded.equals(now) else None
            if found is None and thorough and len(recorded.messages) == len(now.messages):
                found = compare_requests(recorded, now, strict=self._strict)
            if found is not None and not found.differences:
                self.ignored += found.ignored
                return index
        return None

    def _most_alike(self, now: Comparable) -> tuple[int, RequestComparison]:
        # Not always the next: that may be the turn of another agent, which was at work at the same time.
        found = {
            index: compare_requests(self._recorded[index], now, strict=self._strict)
            for index in self._open
            if index == self._open[0] or len(self._recorded[index].messages) == len(now.messages)
        }
        return min(found.items(), key=lambda item: item[1].size)


class TranscriptPolicy(Policy):
    """Answers each trajectory with its own transcript, and no other call."""

    def __init__(self) -> None:
        self._transcripts: dict[str, Transcript] = {}

    def expect(self, trajectory_id: str, transcript: Transcript) -> None:
        """Answer the calls of a trajectory with a transcript from now on."""
        self._transcripts[trajectory_id] = transcript

    def forget(self, trajectory_id: str) -> None:
        """Answer the calls of a trajectory no more."""
        self._transcripts.pop(trajectory_id, None)

    async def answer(self, call: Call) -> Mapping[str, JSON]:
        """Return the recorded completion.

        Raises:
            PolicyError: The recording is over, or it holds no answer that can be sent.
        """
        transcript = self._transcripts.get(call.trajectory_id or "")
        if transcript is None:
            raise PolicyError("nothing is recorded for this call: it belongs to no rollout that is being replayed")
        return _completion(transcript.answer(call.request))


def without_lost_turns(turns: Sequence[Turn], unsure: int) -> list[Turn]:
    """Return the turns whose answers reached the agent.

    Args:
        turns: The recorded turns in order.
        unsure: How many calls of the rollout failed and may have been recorded all the same. Such a call was made again
            at once, so its request stands there twice, and the last answer is the one that arrived.
    """
    kept: list[Turn] = []
    for turn in turns:
        if unsure > 0 and kept and kept[-1].request == turn.request:
            kept.pop()
            unsure -= 1
        kept.append(turn)
    return kept


def _completion(response: JSON) -> Mapping[str, JSON]:
    completion = thaw(response)
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not choices or not all(isinstance(choice, dict) and choice.get("message") for choice in choices):
        raise PolicyError("the recording holds no answer for this turn", status=500)
    # What another server answered was recorded as it came, and may leave out what a stream cannot be made without.
    envelope = {"id": "chatcmpl-replay", "object": "chat.completion", "created": 0, "model": "default"}
    whole = [{"index": index, "finish_reason": "stop", **choice} for index, choice in enumerate(choices)]
    return {**envelope, **completion, "choices": whole}
