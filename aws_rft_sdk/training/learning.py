"""GRPO over the local runtime: rollouts of a real agent, an update from what was recorded, held-out success.

The update reads the recorded decisions, their log-probabilities, and the rewards that the runtime received. A turn that
is recorded under another trajectory, a reward that is lost, and one that is doubled therefore show as failure to learn.
The controls make such faults on purpose.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.advantages import group_normalised, is_dead
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.datasets import unpack
from aws_rft_sdk.errors import ConfigurationError, NoActiveRolloutError, UnavailableError
from aws_rft_sdk.handler import rft_handler
from aws_rft_sdk.jobs.steps import Step
from aws_rft_sdk.lifecycle import loops
from aws_rft_sdk.lifecycle.calling import Handler
from aws_rft_sdk.rewards import Rollout, evaluate, gsm8k
from aws_rft_sdk.rollout import run, run_rollouts
from aws_rft_sdk.rollout.folder import RunFolder
from aws_rft_sdk.rollout.options import complete_options
from aws_rft_sdk.rollout.planning import plan_run
from aws_rft_sdk.runs.metrics.intervals import wilson
from aws_rft_sdk.runs.records import DATABASE_FILE
from aws_rft_sdk.runtime import LocalRuntime
from aws_rft_sdk.training import arithmetic
from aws_rft_sdk.training.softmax import SoftmaxPolicy, read_choices, update
from aws_rft_sdk.types import RolloutMetadata, RolloutRequest

CONTROLS = ("constant", "random", "shuffled_ids", "lost_rewards")
"""Runs with a fault made on purpose. The first three must not learn. The last one learns more slowly."""
MUST_FAIL = CONTROLS[:3]
LOST_SHARE = 0.3
_SMALLEST_RISE = 0.15
"""A smaller rise of held-out success is not called learning: that of a control drifts by up to 0.1 by chance."""


@dataclass(frozen=True)
class Course:
    """One training run: success on held-out problems before and after, and what happened between."""

    before: float
    """Share of the held-out problems that were solved, 0 to 1."""
    after: float
    held_out: int
    rollouts: int
    """Rollouts of the training, without those of the two evaluations."""
    steps: tuple[Step, ...]
    table_before: Mapping[str, Mapping[str, float]] = field(repr=False)
    table_after: Mapping[str, Mapping[str, float]] = field(repr=False)

    @property
    def learned(self) -> bool:
        """Whether success rose by at least 15 points, and the 95 % intervals of before and after do not overlap."""
        low, high = wilson(self.after, self.held_out)[0], wilson(self.before, self.held_out)[1]
        return self.after - self.before >= _SMALLEST_RISE and low > high


def learn(
    folder: Path | None = None,
    *,
    handler: Handler = arithmetic.handler,
    control: str | None = None,
    seed: int = 0,
    steps: int = 10,
    prompts: int = 12,
    group_size: int = 8,
    held_out: int = 100,
    learning_rate: float = 27.0,
    tell: Callable[[Step, int], None] | None = None,
) -> Course:
    """Train a new `SoftmaxPolicy` on word problems by GRPO, and measure it on problems that it was not trained on.

    Args:
        folder: Where the records go: `train`, `before` and `after`, each a folder of a run. None to keep none.
        handler: Solves the training's problems, as `arithmetic.handler` does. A rollout in which it fails is left out.
        control: A fault to make on purpose, one of `CONTROLS`. None for none. It brings a handler of its own.
        seed: The same seed gives the same problems, and the same draws of the policy and of the faults.
        steps: Updates.
        prompts: Problems of a step. No problem comes twice.
        group_size: Rollouts of each problem.
        held_out: Problems of each evaluation.
        learning_rate: Factor of the gradient.
        tell: Is called after each step, with the number of its rollouts that have a reward.

    Returns:
        The course of the training. The same arguments give the same course.

    Raises:
        ConfigurationError: There is no such control, or the folder holds a run.
        BreakerError: With the control `shuffled_ids`, a rollout could not begin, so no other one can get its id.
        UnavailableError: A held-out problem got no reward, because its rollout failed or was interrupted.
    """
    if control is not None and control not in CONTROLS:
        raise ConfigurationError(f"control is {control!r}. Give one of {', '.join(CONTROLS)}, or None")
    random = Random(f"problems {seed}")
    tests = arithmetic.problems(held_out, random)
    tasks = arithmetic.problems(steps * prompts, random, without=[question for question, _ in tests])
    policy = SoftmaxPolicy(arithmetic.decide, arithmetic.untrained(), seed=seed)

    def success(name: str) -> float:
        cells = [arithmetic.prompt_cell(*task) for task in tests]
        out = {"discard": True} if folder is None else {"out": folder / name}
        # A new policy draws the same for the same table, so what did not learn does not change by chance.
        fresh = SoftmaxPolicy(arithmetic.decide, policy.table, seed=seed)
        records = run(arithmetic.handler, cells, policy=fresh, **out).records
        rewards = [record.reward for record in records if record.reward is not None]
        if len(rewards) < held_out:  # a rollout that failed says nothing about the policy
            error = next((record.error for record in records if record.error), "they were interrupted")
            lost = held_out - len(rewards)
            raise UnavailableError(f"{lost} of {held_out} held-out problems have no reward: {error}")
        return fmean(rewards)

    table_before = {state: dict(moves) for state, moves in policy.table.items()}
    before = success("before")
    cells = [arithmetic.prompt_cell(*task) for task in tasks]
    training = _Training(policy, handler, cells, prompts, group_size, control, seed, learning_rate)
    loops.run(training.train(None if folder is None else folder / "train", tell))
    after = success("after")
    rollouts = steps * prompts * group_size
    return Course(before, after, held_out, rollouts, tuple(training.steps), table_before, policy.table)


class _Training:
    """The training of one policy."""

    def __init__(
        self,
        policy: SoftmaxPolicy,
        handler: Handler,
        cells: list[str],
        prompts: int,
        group_size: int,
        control: str | None,
        seed: int,
        learning_rate: float,
    ) -> None:
        self._policy, self._honest, self._cells = policy, handler, cells
        self._prompts, self._group_size = prompts, group_size
        self._control, self._seed, self._learning_rate = control, seed, learning_rate
        self._lock = threading.Lock()
        self._names: dict[str, tuple[str, int]] = {}
        """Prompt and number of the rollouts of a step, by trajectory id: they are the same whenever the seed is."""
        self._shuffle = _IdShuffle(prompts * group_size)
        self.steps: list[Step] = []

    async def train(self, path: Path | None, tell: Callable[[Step, int], None] | None) -> None:
        """Go through all steps. The records are in one folder of a run."""
        with ExitStack() as stack:
            folder = None
            if path is not None:
                options = complete_options({"group_size": self._group_size, "policy": self._policy}, None)
                plan = plan_run(arithmetic.handler, self._cells, options)
                folder = stack.enter_context(RunFolder(path, plan.manifest, prompts=plan.prompts_text))
            database = ":memory:" if folder is None else folder.path / DATABASE_FILE
            runtime = stack.enter_context(LocalRuntime(self._policy, db=database))
            total = len(self._cells) // self._prompts
            for number in range(total):
                step, rewarded = await self._step(runtime, number, total, folder)
                self.steps.append(step)
                if tell is not None:
                    tell(step, rewarded)

    async def _step(self, runtime: LocalRuntime, number: int, total: int, folder: RunFolder | None) -> tuple[Step, int]:
        cells = self._cells[number * self._prompts :][: self._prompts]
        self._names.clear()
        runtime.reset()

        def start(prompt: str) -> Mapping[str, Any]:
            with self._lock:
                payload = runtime.new_rollout(prompt)
                count = sum(name == prompt for name, _ in self._names.values())
                self._names[payload["metadata"]["rolloutId"]] = (prompt, count)
            return payload

        # All rollouts of a step run at once, and no rollout of the next step begins before the update.
        size = self._prompts * self._group_size
        # Where all rollouts wait for each other, the first one to end tells whether one of them failed to begin.
        breaker = 1 if self._control == "shuffled_ids" else None
        records = run_rollouts(
            self._handler(), cells, start, group_size=self._group_size, concurrency=size, breaker=breaker
        )
        async for record in records:
            if folder is not None:
                folder.write(replace(record, prompt_index=record.prompt_index + number * self._prompts))
        return self._update(runtime, number, total)

    def _update(self, runtime: LocalRuntime, number: int, total: int) -> tuple[Step, int]:
        # A failed rollout has no reward. It is left out, because a reward of 0 would say that its decisions were wrong.
        recorded = {
            self._names[t.trajectory_id]: (t, math.fsum(t.rewards))
            for t in runtime.trajectories()
            if t.rewards is not None
        }
        groups: dict[str, list[float]] = {}
        for name in sorted(recorded):  # sums of floats must come out the same each time
            groups.setdefault(name[0], []).append(recorded[name][1])
        advantages = [value for prompt in sorted(groups) for value in group_normalised(groups[prompt])]
        choices = [[read_choices(turn.response) for turn in recorded[name][0].turns] for name in sorted(recorded)]
        samples = [(turn, advantage) for turns, advantage in zip(choices, advantages, strict=True) for turn in turns]
        figures = update(self._policy.table, samples, learning_rate=self._learning_rate)
        known = [reward for _, reward in recorded.values()]
        lengths = [sum(map(len, turns)) for turns in choices]
        step = Step(
            step=number + 1,
            total_steps=total,
            time=time.time(),
            reward_mean=fmean(known) if known else None,
            reward_std=pstdev(known) if known else None,
            reward_min=min(known, default=None),
            reward_max=max(known, default=None),
            entropy=self._policy.entropy,
            grad_norm=figures["grad_norm"],
            advantage_mean=fmean(advantages) if known else None,
            response_length_mean=fmean(lengths) if known else None,
            response_length_max=max(lengths, default=None),
            dead_group_share=fmean(is_dead(rewards) for rewards in groups.values()) if known else None,
        )
        return step, len(known)

    def _handler(self) -> Handler:
        """Return the handler of a step: the honest one, or one with the fault of the control."""
        if self._control is None:
            return self._honest

        @rft_handler(on_error="failed")
        async def handler(payload: dict[str, Any]) -> dict[str, JSON]:
            request = RolloutRequest.parse(payload)
            own = None if request is None else request.metadata
            if request is None or own is None:
                raise NoActiveRolloutError("a control runs in rollouts only")
            task = unpack(payload["prompt"])
            if self._control == "shuffled_ids":
                answer = await self._solve_under_another_id(str(task), request, own)
            else:
                answer = await arithmetic.solve(str(task))
            reward = evaluate(gsm8k, Rollout.of_answer(answer, task.ground_truth)).reward
            return {"reward": self._spoilt(reward, self._names[own.trajectory_id])}

        return handler

    async def _solve_under_another_id(self, question: str, request: RolloutRequest, own: RolloutMetadata) -> str:
        """Solve a question with the headers of another rollout of the step, as if a shared model had kept them."""
        other = await self._shuffle.other(own.trajectory_id, self._names, Random(f"{self._seed} {len(self.steps)}"))
        try:
            with RFTContext.bind(replace(request, metadata=replace(own, trajectory_id=other))):
                return await arithmetic.solve(question)
        finally:
            await self._shuffle.all_have_answered()  # a reward seals its trajectory, and turns after it are refused

    def _spoilt(self, reward: float | None, name: tuple[str, int]) -> float | None:
        chance = Random(f"{self._seed} {self._control} {name}").random()
        if self._control == "constant":
            return 1.0
        if self._control == "random":
            return float(chance < 0.5)
        if self._control == "lost_rewards":
            return 0.0 if chance < LOST_SHARE else reward
        return reward


class _IdShuffle:
    """Gives each rollout of a step the trajectory id of another one. Waits until all rollouts of the step take part."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: list[asyncio.Future[None]] = []
        self._others: dict[str, str] = {}

    async def other(self, trajectory_id: str, names: Mapping[str, tuple[str, int]], random: Random) -> str:
        """Return the id to use."""
        if trajectory_id not in self._others:
            self._others.clear()
        await self._all()
        if not self._others:
            ids = sorted(names, key=names.__getitem__)
            self._others = dict(zip(ids, random.sample(ids, len(ids)), strict=True))
        return self._others[trajectory_id]

    async def all_have_answered(self) -> None:
        """Wait until all rollouts of the step are here."""
        await self._all()

    async def _all(self) -> None:
        here = asyncio.get_running_loop().create_future()
        self._waiting.append(here)
        if len(self._waiting) == self._size:
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
            self._waiting = []
        await here
