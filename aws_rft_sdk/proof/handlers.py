"""The proof of somebody's own handler."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from strands import Agent

from aws_rft_sdk._checks import check_seconds
from aws_rft_sdk._loading import load_callable
from aws_rft_sdk._user_code import standing_places, user_location
from aws_rft_sdk.agent_rft import ROLLOUT_CONCURRENCY
from aws_rft_sdk.errors import ConfigurationError, RolloutTimeoutError
from aws_rft_sdk.lifecycle.calling import Ended, Handler, run_handler
from aws_rft_sdk.lifecycle.kinds import runs_in_loop
from aws_rft_sdk.proof.diagnosis import Evidence, diagnose
from aws_rft_sdk.proof.markers import Placement, new_marker, place, placements
from aws_rft_sdk.proof.report import Proof
from aws_rft_sdk.proof.stage import ANSWER_LOST, THROTTLED, UNAVAILABLE, Probe, Stage
from aws_rft_sdk.proof.verdict import ProbeOutcome, Reach, Verdict, judge
from aws_rft_sdk.proof.witness import Witness
from aws_rft_sdk.types import TrajectoryStatus

DEFAULT_PROMPT = "What is 12 * 7? Use a tool if there is one that helps."
DEADLINE_SECONDS = 60.0

_TASKS_AT_ONCE = 64
_RENDEZVOUS = 8
_FAULTS = {3: THROTTLED, 5: UNAVAILABLE, 7: ANSWER_LOST}
"""Which rollouts of every eight meet a fault in their first turn."""
_EVERY = 8
_POLL_SECONDS = 0.1
_BLOCKED_SECONDS = 2.0
"""After a deadline, for the event loop to notice it. Past that, the handler blocks the loop that it runs in."""
_END_SECONDS = 5.0
"""For a loop to close when all rollouts in it are over."""

T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """How a handler is proved."""

    rollouts: int = ROLLOUT_CONCURRENCY
    """How many rollouts run at once, after those that find out how to mark a prompt."""
    threads: int = 32
    """How many of them run in threads at once."""
    outside: int = 0
    """How many calls are made without rollout metadata. They use the production model."""
    faults: bool = True
    """Whether some turns meet an injected 429, 503 or lost answer."""
    deferred: bool = False
    """Whether rewards are delivered elsewhere, later."""
    deadline_seconds: float = DEADLINE_SECONDS
    """How long each rollout may take. When one takes longer, no further ones are started."""
    skip_tools: tuple[str, ...] = ()
    """Tools that are not called: names, or patterns with `*`."""
    skip_agents: tuple[str, ...] = ()
    """Names of agents that need not be reached."""
    allow: tuple[str, ...] = ()
    """Hosts of model providers, ids of models and names of agents that rollouts may use, and then really do."""

    def __post_init__(self) -> None:
        """Refuse what would be taken for something else.

        Raises:
            ConfigurationError: The deadline is no number of seconds above 0, or a text stands where a tuple belongs.
        """
        check_seconds("deadline_seconds", self.deadline_seconds)
        for name in ("skip_tools", "skip_agents", "allow"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigurationError(f"{name} is the text {value!r}; give a tuple, for example ({value!r},)")


def prove_handler(
    handler: Handler | str,
    prompts: Sequence[str] = (DEFAULT_PROMPT,),
    trial: Trial = Trial(),
    *,
    progress: Callable[[], None] | None = None,
) -> Proof:
    """Run a handler many times at once and judge where its model calls went.

    A plain function runs in threads; a coroutine function half as tasks of one event loop, half in threads with loops
    of their own. A stand-in answers inference and calls every tool. Blocks until all is over, at most until a rollout
    has passed its deadline: a thread that hangs then is left behind. OpenAI clients that name no address are led to
    the stand-in meanwhile, connections to model providers are refused inside rollouts, and Strands' spans do not reach
    the user's exporters; everything else that the handler and its tools do is really done.

    Args:
        handler: A function, or where to load one from (`path/to/file.py:function`, `module:function`); loading it here
            leads models that are built at import to the stand-in too.
        prompts: Prompt cells, used in turns. A marker is added to each.
        trial: How many of what.
        progress: Called after each rollout, from any thread.

    Raises:
        ConfigurationError: There is no such function, importing it failed, or there is no prompt.
    """
    if not prompts:
        raise ConfigurationError("a proof needs at least one prompt")
    began = time.perf_counter()
    with Stage(trial.skip_tools) as stage, stage.environment():
        witness = Witness(urlsplit(stage.runtime.endpoint).port, trial.allow)
        with witness.watching():
            if isinstance(handler, str):
                fn, name = _load(handler), handler
            else:
                fn, name = handler, getattr(handler, "__qualname__", repr(handler))
                for variable, value in _globals(handler):
                    if isinstance(value, Agent):
                        witness.know(value, variable)
            proof = _HandlerProof(stage, witness, fn, prompts, trial, progress or (lambda: None)).prove(name)
    return replace(proof, seconds=time.perf_counter() - began)


def _load(reference: str) -> Handler:
    """Load a handler.

    Raises:
        ConfigurationError: It is not there, or importing it failed; one line says what is wrong and where.
    """
    try:
        return load_callable(reference)
    except SyntaxError as error:
        text = f"{error.filename}:{error.lineno} is no valid Python: {error.msg}"
        raise ConfigurationError(text) from error
    except (Exception, SystemExit) as error:
        where = user_location(error)
        if isinstance(error, ConfigurationError) and not where:
            raise  # it says what is wrong with the reference
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigurationError(f"importing {reference} failed{f' at {where}' if where else ''}: {text}") from error


class _HandlerProof:
    """One proof of one handler."""

    def __init__(
        self,
        stage: Stage,
        witness: Witness,
        handler: Handler,
        prompts: Sequence[str],
        trial: Trial,
        progress: Callable[[], None],
    ) -> None:
        self._stage = stage
        self._witness = witness
        self._handler = handler
        self._prompts = prompts
        self._trial = trial
        self._progress = progress
        self._placement: Placement | None = None
        self._due: dict[Probe, float] = {}  # deadlines that no event loop has noticed
        self._outcomes: dict[Probe, ProbeOutcome] = {}  # of all rollouts that have begun, in this order
        self._outside: list[Probe] = []
        self._outside_errors: list[str] = []
        self._threads_before = set(threading.enumerate())
        self._hung_at: str | None = None

    def prove(self, name: str) -> Proof:
        """Find out how to mark a prompt, run all rollouts, and explain what was seen."""
        self._find_placement()
        (alone,) = self._outcomes.values()
        if alone.is_bound and self._hung_at is None:
            self._forget()
            self._run(self._run_all)
        at = self._hung_at or ""
        outcomes = tuple(replace(o, hung_at=at) if o.hung_at is not None else o for o in self._outcomes.values())
        late = {outcome.run for outcome in outcomes if outcome.hung_at is not None}
        # Whether a call that was given up at the deadline would have arrived is not known.
        calls = [c for c in self._witness.take_calls() if c.run not in late or not (c.raised or c.ended == math.inf)]
        verdict = judge([*self._outcomes, *self._outside], self._stage.watch.take(), calls)
        hosts = self._witness.sightings().hosts
        evidence = Evidence(self._reach(), hosts, self._trial.deadline_seconds)
        return Proof(
            subject=name,
            verdict=verdict,
            outcomes=outcomes,
            causes=diagnose(verdict, outcomes, evidence),
            notes=tuple(self._notes(verdict, outcomes, alone)),
            reach=evidence.reach,
            hosts=hosts,
            outside_calls=len(self._outside),
        )

    # --- one rollout -------------------------------------------------------------------------------------------------

    def _cell(self, index: int, marker: str) -> tuple[str, bool]:
        """Return a prompt cell, and whether the marker is in it."""
        cell = self._prompts[index % len(self._prompts)]
        if self._placement is None:
            return cell, False
        for placement in (self._placement, *placements(cell)):
            with contextlib.suppress(LookupError, TypeError, ValueError):
                return place(cell, placement, marker), True
        return cell, False

    async def _rollout(self, index: int, *, faults: bool) -> None:
        """Run one rollout, unless one has hung before."""
        if self._hung_at is not None:
            return
        marker = new_marker()
        cell, is_marked = self._cell(index, marker)
        payload, run = self._stage.start_rollout(cell, marker if is_marked else "", "rollout")
        fault = _FAULTS.get(index % _EVERY) if faults and is_marked else None
        if fault is not None:
            self._stage.watch.order(marker, fault)
        loop, seconds = asyncio.get_running_loop(), self._trial.deadline_seconds
        self._outcomes[run] = ProbeOutcome(run, is_reported=False, expects_failure=fault is not None, hung_at="")
        self._due[run] = time.monotonic() + seconds
        # It is due just before the deadline of `run_handler`: a coroutine that is cancelled no longer stands anywhere.
        alarm = loop.call_later(seconds, self._is_late, run, loop)
        with self._witness.within(run), self._stage.watch.in_progress(run.trajectory_id or ""):
            ended = await run_handler(self._handler, payload, deadline_seconds=seconds, trajectory_id=run.trajectory_id)
        alarm.cancel()
        self._outcomes[run] = self._outcome(run, ended, expects_failure=fault is not None)
        self._due.pop(run, None)
        self._progress()

    def _outcome(self, run: Probe, ended: Ended, *, expects_failure: bool) -> ProbeOutcome:
        error, status = ended.error, self._stage.trajectory(run).status
        name = type(error).__name__ if error is not None else None
        is_late = isinstance(error, RolloutTimeoutError) and ended.seconds >= self._trial.deadline_seconds
        if error is None:
            is_reported = status is TrajectoryStatus.REWARD_RECEIVED or self._trial.deferred
        else:
            is_reported = status is not TrajectoryStatus.PENDING
        return ProbeOutcome(
            run,
            error=f"{name}: {error}" if error is not None else None,
            error_type=name,
            is_bound=ended.context is not None,
            is_reported=is_reported,
            expects_failure=expects_failure,
            hung_at=self._hung_at if is_late else None,
        )

    async def _call_outside(self, index: int) -> None:
        """Call the handler as production does."""
        marker = new_marker()
        cell, is_marked = self._cell(index, marker)
        run = Probe(marker if is_marked else "", kind="outside")
        self._outside.append(run)
        seconds = self._trial.deadline_seconds
        self._due[run] = time.monotonic() + seconds
        with self._witness.within(run):
            ended = await run_handler(self._handler, {"prompt": cell}, deadline_seconds=seconds, trajectory_id=None)
        self._due.pop(run, None)
        if ended.error is not None:
            self._outside_errors.append(f"{type(ended.error).__name__}: {ended.error}")

    # --- many of them ------------------------------------------------------------------------------------------------

    def _run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run rollouts in a thread. Return when they are over, or when one blocks its event loop past its deadline."""
        done, thread = in_loop_of_its_own(work)
        while not wait([done], _POLL_SECONDS).done:
            blocked = [run for run, due in self._due.copy().items() if due + _BLOCKED_SECONDS < time.monotonic()]
            if blocked:
                self._is_late(blocked[0], None)
                return
        done.result()
        if self._hung_at is None:
            thread.join(_END_SECONDS)

    def _is_late(self, run: Probe, loop: asyncio.AbstractEventLoop | None) -> None:
        """Note where a rollout stands at its deadline. `loop` is where it runs, None when that is blocked."""
        self._due.pop(run, None)
        if self._hung_at is None:
            places = standing_places(loop, self._threads_before)
            tools = ", ".join(self._witness.running_tools())
            self._hung_at = f"{places} ({tools})" if places and tools else places or tools
            if run in self._outside:
                self._outside_errors.append(f"RolloutTimeoutError: it blocks its event loop at {self._hung_at}")

    async def _run_all(self) -> None:
        trial = self._trial
        self._stage.policy.gather(min(_RENDEZVOUS, trial.rollouts, trial.threads))
        tasks, threads = asyncio.Semaphore(_TASKS_AT_ONCE), asyncio.Semaphore(trial.threads)

        async def rollout(index: int) -> None:
            if not runs_in_loop(self._handler):
                async with threads:
                    await self._rollout(index, faults=trial.faults)
            elif index // _EVERY % 2 == 0:  # eight of these, eight of those, so that both kinds meet every fault
                async with tasks:
                    await self._rollout(index, faults=trial.faults)
            else:
                async with threads:
                    done, _ = in_loop_of_its_own(lambda: self._rollout(index, faults=trial.faults))
                    await asyncio.wrap_future(done)

        async def outside(index: int) -> None:
            async with threads:
                await self._call_outside(index)

        # Without markers, calls outside are told from rollouts by coming after them.
        during = trial.outside // 2 if self._placement is not None else 0
        await asyncio.gather(*map(rollout, range(trial.rollouts)), *map(outside, range(during)))
        # And when no rollout is in progress any more: what is left behind shows now.
        if self._hung_at is None:
            await asyncio.gather(*map(outside, range(trial.outside - during)))

    # --- what was found ----------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Begin anew with the record of rollouts; which tools and agents were reached stays known."""
        self._outcomes = {}
        self._stage.watch.take()
        self._witness.take_calls()

    def _find_placement(self) -> None:
        """Run one rollout at a time until its marker arrives; keep the record of the last one."""
        for placement in (*placements(self._prompts[0]), None):
            self._placement = placement
            self._forget()
            self._run(lambda: self._rollout(0, faults=False))
            (alone,) = self._outcomes.values()
            arrived = any(alone.run.marker in arrival.markers for arrival in self._stage.watch.seen())
            if arrived or not alone.is_bound or self._hung_at is not None:
                return

    def _reach(self) -> Reach:
        seen, policy, trial = self._witness.sightings(), self._stage.policy, self._trial
        skipped = {tool for tool in policy.offered if policy.skips(tool)}
        ran = seen.tools | policy.ran
        idle = [(name, where) for name, where in seen.idle_agents if name not in {*trial.skip_agents, *skipped}]
        return Reach(
            tools=tuple(sorted(ran)),
            missed_tools=tuple(sorted(policy.offered - ran - skipped)),
            skipped_tools=tuple(sorted(skipped - ran)),
            failed_tools=tuple(sorted(seen.failed_tools)),
            agents=tuple(sorted(seen.agents)),
            missed_agents=tuple(sorted(f"{name} ({where})" if where else name for name, where in idle)),
            skipped_agents=tuple(sorted({name for name, _ in seen.idle_agents} - {name for name, _ in idle})),
        )

    def _notes(self, verdict: Verdict, outcomes: Sequence[ProbeOutcome], alone: ProbeOutcome) -> Iterator[str]:
        if self._placement is None and verdict.requests:
            yield (
                "no marker arrived in the requests, wherever in the prompt it was put: the agent does not show the "
                "model its prompt. Whose a turn is was told by its span id and by which rollouts were in progress"
            )
            if alone.error:
                yield f"a rollout that was run alone ended in {alone.error}"
        if self._placement is not None:
            faulty = [outcome for outcome in outcomes if outcome.expects_failure]
            failed = sum(outcome.error is not None for outcome in faulty)
            if failed:
                yield (
                    f"{len(faulty)} rollouts met an injected 429, 503 or lost answer; {failed} of them ended in an "
                    "error, which is not counted against the handler (nothing but an error is right for a lost answer)"
                )
        if self._outside_errors:
            yield (
                f"{len(self._outside_errors)} of {self._trial.outside} calls outside rollouts raised, the first one "
                f"{self._outside_errors[0][:300]}"
            )


def in_loop_of_its_own(work: Callable[[], Coroutine[Any, Any, T]]) -> tuple[Future[T], threading.Thread]:
    """Start a coroutine in a daemon thread with an event loop.

    The future has its result before the loop closes: a loop waits for the threads of its pool, and one may hang.
    """
    future: Future[T] = Future()

    async def settle() -> None:
        try:
            future.set_result(await work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(settle()), name="rft-proof", daemon=True)
    thread.start()
    return future, thread


def _globals(handler: Callable[..., Any]) -> list[tuple[str, object]]:
    variables = getattr(inspect.unwrap(getattr(handler, "__func__", handler)), "__globals__", {})
    return [(f"{variables.get('__name__', '')}.{name}", value) for name, value in list(variables.items())]
