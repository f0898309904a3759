"""The mixture: everything that gets headers mixed up elsewhere, at once, over models that all rollouts share."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel, Field
from strands import Agent, tool
from strands.models.model import Model
from strands.models.openai import OpenAIModel

from aws_rft_sdk.adapters.strands import wrap_model
from aws_rft_sdk.agent_rft import ROLLOUT_CONCURRENCY
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.handler import rft_handler
from aws_rft_sdk.lifecycle.calling import Handler, run_handler
from aws_rft_sdk.proof.diagnosis import diagnose
from aws_rft_sdk.proof.handlers import in_loop_of_its_own
from aws_rft_sdk.proof.markers import find_markers, new_marker
from aws_rft_sdk.proof.report import Proof
from aws_rft_sdk.proof.stage import ANSWER_LOST, THROTTLED, UNAVAILABLE, UNSIGNED, Probe, Stage
from aws_rft_sdk.proof.verdict import ProbeOutcome, judge
from aws_rft_sdk.types import TrajectoryStatus

# --- what the rollouts do --------------------------------------------------------------------------------------------


class Reading(BaseModel):
    """Read a meter."""

    meter: str = Field(description="Name of the meter.")
    value: int = Field(ge=0)


@dataclass(frozen=True)
class Stock:
    """What the scenarios share: the wrapped models, built once, and how agents are called."""

    model: Model
    """Streams."""
    unstreamed_model: Model
    """Does not."""
    blocking: bool
    """Whether agents are called as plain functions in threads, as opposed to awaited."""
    run_inner: Callable[[bool], Awaitable[None]]
    """Runs another rollout inside this one. Is given `blocking`."""

    def agent(self, *tools: Any) -> Agent:
        """Return a new agent over the model that streams."""
        return Agent(model=self.model, tools=list(tools), callback_handler=None)

    async def ask(self, agent: Agent, prompt: str, schema: type[BaseModel] | None = None) -> None:
        """Have an agent answer."""
        if self.blocking:
            await asyncio.to_thread(agent, prompt, structured_output_model=schema)
        else:
            await agent.invoke_async(prompt, structured_output_model=schema)


@tool
def read_meter(meter: str) -> str:
    """Read a meter.

    Args:
        meter: Its name.
    """
    return f"{meter} shows 7"


@tool
async def read_clock(place: str) -> str:
    """Read a clock.

    Args:
        place: Where it hangs.
    """
    await asyncio.sleep(0)
    return f"{place}: noon"


async def plain(stock: Stock, prompt: str) -> None:
    """One streamed turn."""
    await stock.ask(stock.agent(), prompt)


async def unstreamed(stock: Stock, prompt: str) -> None:
    """Turns that are not streamed, in one conversation."""
    agent = Agent(model=stock.unstreamed_model, callback_handler=None)
    await stock.ask(agent, prompt)
    await stock.ask(agent, "go on")


async def tools(stock: Stock, prompt: str) -> None:
    """Two tools called in one turn, which Strands runs at once."""
    await stock.ask(stock.agent(read_meter, read_clock), prompt)


async def subagent(stock: Stock, prompt: str) -> None:
    """Agents as tools of another, over the same model."""

    @tool
    async def ask_expert(question: str) -> str:
        """Ask an expert.

        Args:
            question: What to ask.
        """
        return str(await stock.agent(read_meter).invoke_async(question))

    @tool
    def ask_librarian(question: str) -> str:
        """Ask a librarian.

        Args:
            question: What to ask.
        """
        return str(stock.agent()(question))

    await stock.ask(stock.agent(ask_expert, ask_librarian), prompt)


async def structured(stock: Stock, prompt: str) -> None:
    """Structured output in both of Strands' ways: by a tool, and by a response schema."""
    await stock.ask(stock.agent(), prompt, Reading)
    async for _ in stock.model.structured_output(Reading, [{"role": "user", "content": [{"text": prompt}]}]):
        pass


async def pool(stock: Stock, prompt: str) -> None:
    """Two agents at once in a pool of threads that is given the context."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2) as threads:
        asks = [RFTContext.carry(partial(stock.agent(), f"{prompt}, part {part}")) for part in (1, 2)]
        await asyncio.gather(*(loop.run_in_executor(threads, ask) for ask in asks))


async def nested(stock: Stock, prompt: str) -> None:
    """A turn, another rollout within this one, and a turn that is this one's again."""
    await stock.ask(stock.agent(), prompt)
    await stock.run_inner(stock.blocking)
    await stock.ask(stock.agent(), f"{prompt} again")


SCENARIOS: dict[str, Callable[[Stock, str], Awaitable[None]]] = {
    "plain": plain,
    "not streamed": unstreamed,
    "parallel tools": tools,
    "agents as tools": subagent,
    "structured output": structured,
    "thread pool": pool,
    "nested": nested,
    "throttled (429)": plain,
    "unavailable (503)": tools,
    "answer lost (500)": plain,
    "cancelled": plain,
}
"""By kind. What makes the last four special is done to them from outside."""

# --- the proof -------------------------------------------------------------------------------------------------------

_TASKS_AT_ONCE = 64
_OUTSIDE_SHARE = 8
_FAULTS = {
    "throttled (429)": (THROTTLED, THROTTLED),
    "unavailable (503)": (UNAVAILABLE, THROTTLED),
    "answer lost (500)": (ANSWER_LOST,),
}
_CANCELLED = "cancelled"
_EXPECTED_ERRORS = {_CANCELLED: ("CancelledError",), "answer lost (500)": ("InternalServerError",)}
_FLOOR = -1.0

Wrap = Callable[[Model], Model]


def prove_mixture(
    *,
    rollouts: int = ROLLOUT_CONCURRENCY,
    threads: int = 32,
    wrap: Wrap = wrap_model,
    kinds: Sequence[str] = tuple(SCENARIOS),
    progress: Callable[[], None] | None = None,
) -> Proof:
    """Run a mixture of rollouts over shared models and judge where their turns arrived.

    Even ones run as tasks of one event loop, odd ones in a pool of threads; calls outside any rollout run between them,
    through the same models. Blocks until all is over. Starts a local runtime of its own and talks to nothing else.

    Args:
        rollouts: How many, not counting those that are nested in others.
        threads: Size of the pool.
        wrap: What makes a Strands model trainable; another function shows what the proof finds.
        kinds: Which scenarios, in turns.
        progress: Called after each rollout, from any thread.
    """
    began = time.perf_counter()
    with Stage() as stage:
        mixture = _Mixture(stage, wrap, progress)
        outside = asyncio.run(mixture.run_all(rollouts, threads, kinds))
        verdict = judge(mixture.runs, stage.watch.take())
        outcomes = tuple(mixture.outcome(run) for run in mixture.runs if run.trajectory_id is not None)
    return Proof(
        subject="the mixture",
        verdict=verdict,
        outcomes=outcomes,
        causes=diagnose(verdict, outcomes),
        notes=_notes(mixture.outside_errors),
        outside_calls=outside,
        seconds=time.perf_counter() - began,
    )


def _notes(outside_errors: Sequence[Exception]) -> tuple[str, ...]:
    if not outside_errors:
        return ()
    first = outside_errors[0]
    return (f"{len(outside_errors)} calls outside rollouts raised, the first {type(first).__name__}: {first}"[:300],)


class _Mixture:
    """The rollouts of one proof."""

    def __init__(self, stage: Stage, wrap: Wrap, progress: Callable[[], None] | None) -> None:
        self._stage = stage
        self._progress = progress
        self.runs: list[Probe] = []
        self._ended: dict[str, tuple[BaseException | None, bool]] = {}  # what was raised, and whether it was bound
        self.outside_errors: list[Exception] = []
        arguments = {"base_url": f"{stage.runtime.endpoint}/v1", "api_key": UNSIGNED}
        streamed = wrap(OpenAIModel(client_args=arguments, model_id="default"))
        unstreamed = wrap(OpenAIModel(client_args=arguments, model_id="default", stream=False))
        self._stocks = {blocking: Stock(streamed, unstreamed, blocking, self._run_inner) for blocking in (False, True)}
        self._in_tasks = rft_handler(floor_reward=_FLOOR)(self._handle)
        self._in_threads = rft_handler(floor_reward=_FLOOR)(self._handle_blocking)

    async def run_all(self, rollouts: int, threads: int, kinds: Sequence[str]) -> int:
        """Run all rollouts and the calls outside; return how many of the latter."""
        in_loop, in_threads = asyncio.Semaphore(_TASKS_AT_ONCE), asyncio.Semaphore(threads)

        async def rollout(index: int) -> None:
            kind = kinds[index // 2 % len(kinds)]
            if index % 2 == 0:
                async with in_loop:
                    await self._run(kind, self._in_tasks)
            else:
                async with in_threads:
                    if kind == _CANCELLED:  # only tasks can be cancelled, so this one gets a loop of its own
                        await asyncio.wrap_future(in_loop_of_its_own(lambda: self._run(kind, self._in_tasks))[0])
                    else:
                        await self._run(kind, self._in_threads)

        async def outside(number: int) -> None:
            kind = kinds[number % len(kinds)]
            async with in_loop:
                await self._call_outside(kind, blocking=number % 2 == 1)

        count = -(-rollouts // _OUTSIDE_SHARE)
        await asyncio.gather(*map(rollout, range(rollouts)), *map(outside, range(count)))
        # And once more when no rollout is in progress any more: what is left behind shows now.
        await self._call_outside("plain", blocking=False)
        return count + 1

    def outcome(self, run: Probe) -> ProbeOutcome:
        """Return how a rollout ended, by the runtime's record of it."""
        trajectory = self._stage.trajectory(run)
        error, is_bound = self._ended.get(run.marker, (None, True))
        name = type(error).__name__ if error is not None else None
        expected = _EXPECTED_ERRORS.get(run.kind, ())
        wanted = _reward_of(run.marker) if error is None else _FLOOR
        return ProbeOutcome(
            run,
            error=f"{name}: {error}" if error is not None else None,
            error_type=name,
            is_bound=is_bound,
            is_reported=trajectory.status is TrajectoryStatus.REWARD_RECEIVED and trajectory.rewards == (wanted,),
            expects_failure=name is not None and name in expected,
        )

    # --- one rollout -------------------------------------------------------------------------------------------------

    def _start(self, kind: str) -> tuple[dict[str, object], Probe]:
        marker = new_marker()
        payload, run = self._stage.start_rollout(f"{kind}: read the meter ({marker})", marker, kind)
        self._stage.watch.order(marker, *_FAULTS.get(kind, ()))
        self.runs.append(run)
        return payload, run

    async def _call_outside(self, kind: str, *, blocking: bool) -> None:
        if kind in (*_EXPECTED_ERRORS, "nested"):
            kind = "plain"
        marker = new_marker()
        self.runs.append(Probe(marker, kind=f"outside, {kind}"))
        try:
            await SCENARIOS[kind](self._stocks[blocking], f"{kind}: read the meter ({marker})")
        except Exception as error:  # headers that should not be there lead to refusals
            self.outside_errors.append(error)

    async def _run(self, kind: str, handler: Handler) -> None:
        payload, run = self._start(kind)
        with self._stage.watch.in_progress(run.trajectory_id or ""):
            rollout = asyncio.ensure_future(run_handler(handler, payload, trajectory_id=run.trajectory_id))
            if kind == _CANCELLED:
                await self._cancel(rollout, run)
            try:
                ended = await rollout
                error, is_bound = ended.error, ended.context is not None
            except asyncio.CancelledError as cancelled:
                error, is_bound = cancelled, True
        self._ended[run.marker] = error, is_bound
        if self._progress is not None:
            self._progress()

    async def _cancel(self, rollout: asyncio.Future[Any], run: Probe) -> None:
        """Cancel a rollout in the middle of a turn."""
        hold = self._stage.policy.hold(run.marker)
        arrived = asyncio.wrap_future(hold.arrived)
        try:
            await asyncio.wait([arrived, rollout], return_when=asyncio.FIRST_COMPLETED)
            rollout.cancel()
            await asyncio.wait([rollout])
        finally:
            arrived.cancel()
            hold.release()

    async def _run_inner(self, blocking: bool) -> None:
        payload, run = self._start("plain")
        with self._stage.watch.in_progress(run.trajectory_id or ""):
            await (asyncio.to_thread(self._in_threads, payload) if blocking else self._in_tasks(payload))

    # --- the handlers ------------------------------------------------------------------------------------------------

    async def _handle(self, payload: dict[str, Any], blocking: bool = False) -> dict[str, float]:
        prompt = payload["prompt"]
        await SCENARIOS[prompt.partition(":")[0]](self._stocks[blocking], prompt)
        return {"reward": _reward_of(prompt)}

    def _handle_blocking(self, payload: dict[str, Any]) -> dict[str, float]:
        return asyncio.run(self._handle(payload, blocking=True))


def _reward_of(text: str) -> float:
    """Return a reward that tells the rollout, so that one that arrives elsewhere is noticed."""
    return random.Random(find_markers(text)[-1]).random()
