"""Applies another reward to saved rollouts. What was saved is not changed."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from aws_rft_sdk._frozen import JSON, thaw
from aws_rft_sdk.errors import ConfigurationError, DatasetError, RewardError
from aws_rft_sdk.failures import RolloutStatus, describe_error
from aws_rft_sdk.rewards import RewardResult, Rollout, evaluate_group
from aws_rft_sdk.rewards._checks import check_reward
from aws_rft_sdk.rewards.rollout import AnyReward, is_group_reward
from aws_rft_sdk.runs.manifest import read_manifest
from aws_rft_sdk.runs.recorded import choose_records, find_database
from aws_rft_sdk.runs.records import RECORDS_FILE, RolloutRecord
from aws_rft_sdk.runs.truth import TruthFinder, cell_truth
from aws_rft_sdk.runtime import TrajectoryReader
from aws_rft_sdk.runtime.capture import check_captured
from aws_rft_sdk.types import Trajectory

_WAITING = 4
_Batch = tuple[RolloutRecord, ...]
"""Records that are scored together: those of one prompt, or one alone."""


class RescoreStatus(str, Enum):
    """What became of applying the reward to a rollout."""

    SCORED = "scored"
    UNJUDGED = "cannot be judged"
    """The reward gave None: no score, which is not zero."""
    RAISED = "raised"
    """The reward raised, or gave something that is no reward."""
    FAILED = "failed rollout"
    """The handler failed, so the rollout keeps the reward that it was reported with. The reward was not applied."""
    MISSING = "missing"
    """The conversation cannot be read, or has no turns."""


@dataclass(frozen=True)
class RescoredRollout:
    """A saved rollout and its other reward."""

    record: RolloutRecord
    """As it was saved."""
    status: RescoreStatus
    result: RewardResult | None = None
    """What the reward gave; None unless it is scored or cannot be judged."""
    note: str | None = None
    """What the reward raised, or what is missing."""

    @property
    def old(self) -> float | None:
        """The recorded reward, None when there is none."""
        return self.record.reward

    @property
    def new(self) -> float | None:
        """The other reward, None when there is none. Of a failed rollout the recorded one."""
        if self.status is RescoreStatus.FAILED:
            return self.record.reward
        if self.result is None:
            return None
        per_turn = self.result.turns_rewards
        return self.result.reward if per_turn is None else sum(per_turn)

    @property
    def new_record(self) -> RolloutRecord:
        """The record with the other reward, and its components among the metrics.

        Figures leave failed rollouts out. One that has a score now counts, so its record says that it completed.
        """
        if self.status is RescoreStatus.FAILED:
            return self.record
        result = self.result or RewardResult(None)
        per_turn = result.turns_rewards
        parts = {component.name: component.value for component in result.components}
        scored: dict[str, Any] = {"status": RolloutStatus.COMPLETED, "failure": None, "floor": None}
        return dataclasses.replace(
            self.record,
            **(scored if self.new is not None else {}),
            reward=self.new,
            rewards=per_turn if per_turn is not None and len(per_turn) > 1 else None,
            metrics={**thaw(self.record.metrics), **parts},
            error=f"rescoring: {self.note}" if self.note else self.record.error,
        )

    def to_json(self) -> dict[str, JSON]:
        """Return it as plain JSON."""
        result = self.result or RewardResult(None)
        return {
            "trajectory_id": self.record.trajectory_id,
            "prompt_index": self.record.prompt_index,
            "sample_index": self.record.sample_index,
            "status": self.status.value,
            "old": self.old,
            "new": self.new,
            "components": {component.name: component.value for component in result.components},
            "note": self.note,
        }


def rescore(
    folder: str | Path,
    reward: AnyReward,
    *,
    truth: TruthFinder | None = None,
    include_failed: bool = False,
    concurrency: int = 1,
    limit: int | None = None,
    db: str | Path | None = None,
) -> Iterator[RescoredRollout]:
    """Apply a reward to the rollouts of a folder, a few of them in memory at a time.

    The reward gets the conversation of the last turn with its answer, the ground truth, the prompt cell, the other
    fields of the cell as metadata, and the state that the handler returned. A group reward gets the rollouts of one
    prompt at a time, without those that failed or are missing. If it raises, it raised for the whole group.

    Args:
        folder: What `aws-rft rollout --out` named. Nothing is written to it.
        reward: A function or an object that takes a `Rollout`, or a group reward.
        truth: Where ground truths are found; None for `cell_truth()`.
        include_failed: Whether rollouts whose handler failed are scored too, on what there is of them. Otherwise they
            keep the reward that they were reported with.
        concurrency: Rewards at work at once, each in a thread of its own; 1 for this thread.
        limit: The first so many rollouts, in the order of the dataset; None for all. A group reward also compares them
            with the rest of the last group.
        db: Database with the trajectories; None for the one in the folder.

    Yields:
        Each rollout with its other reward, in the order of the dataset, group by group.

    Raises:
        ConfigurationError: There is no database, there are no records, or a number is below 1.
        DatasetError: The records cannot be read, or the ground truth is not where it should be.
    """
    if concurrency < 1:
        raise ConfigurationError(f"concurrency is {concurrency}; it must be at least 1")
    records = choose_records(folder, (), limit)
    wanted = len(records)
    if is_group_reward(reward):
        last = records[-1].prompt_index
        records = [record for record in choose_records(folder, (), None) if record.prompt_index <= last]
        batches: list[_Batch] = [
            tuple(group) for _, group in itertools.groupby(records, key=lambda record: record.prompt_index)
        ]
    else:
        batches = [(record,) for record in records]
    with TrajectoryReader(find_database(folder, db)) as reader:
        score = functools.partial(_score, reader, reward, truth or cell_truth(), include_failed)
        scored = map(score, batches) if concurrency == 1 else _in_threads(score, batches, concurrency)
        yield from itertools.islice(itertools.chain.from_iterable(scored), wanted)


def _score(
    reader: TrajectoryReader, reward: AnyReward, truth: TruthFinder, include_failed: bool, records: _Batch
) -> list[RescoredRollout]:
    found = [_find(reader, truth, include_failed, record) for record in records]
    ready = [item for item in found if isinstance(item, _Ready)]
    try:
        results = iter(evaluate_group(reward, [item.rollout for item in ready]) if ready else ())
    except (Exception, SystemExit) as error:  # a reward may run what the policy wrote
        note = describe_error(error)
        return [
            RescoredRollout(item.record, RescoreStatus.RAISED, note=note) if isinstance(item, _Ready) else item
            for item in found
        ]
    return [item.rescored(next(results)) if isinstance(item, _Ready) else item for item in found]


class _Ready(NamedTuple):
    """A saved rollout that a reward can be applied to."""

    record: RolloutRecord
    rollout: Rollout
    trajectory: Trajectory

    def rescored(self, result: RewardResult) -> RescoredRollout:
        try:
            _check_count(result.turns_rewards, self.record, self.trajectory)
        except RewardError as error:
            return RescoredRollout(self.record, RescoreStatus.RAISED, note=describe_error(error))
        judged = result.reward is not None or result.turns_rewards is not None
        return RescoredRollout(self.record, RescoreStatus.SCORED if judged else RescoreStatus.UNJUDGED, result)


def _find(
    reader: TrajectoryReader, truth: TruthFinder, include_failed: bool, record: RolloutRecord
) -> _Ready | RescoredRollout:
    if record.status is RolloutStatus.FAILED and not include_failed:
        return RescoredRollout(record, RescoreStatus.FAILED)
    try:
        trajectory = reader.find(record.trajectory_id)
    except DatasetError as error:
        return RescoredRollout(record, RescoreStatus.MISSING, note=str(error))
    if trajectory is None or not trajectory.turns:
        missing = "no conversation is saved under this id" if trajectory is None else "the rollout has no turns"
        return RescoredRollout(record, RescoreStatus.MISSING, note=missing)
    check_captured(trajectory)
    known = truth(record, trajectory)
    messages = tuple(trajectory.messages)
    rollout = Rollout(messages, known.ground_truth, trajectory.prompt, known.metadata, record.state)
    return _Ready(record, rollout, trajectory)


def _check_count(per_turn: tuple[float, ...] | None, record: RolloutRecord, trajectory: Trajectory) -> None:
    # As when a rollout is reported: a turn that failed may have a reward of its own, or none.
    recorded = len(trajectory.turns)
    fewest, most = recorded - record.unsure_turns, max(recorded, record.turns)
    if per_turn is not None and len(per_turn) != 1 and not fewest <= len(per_turn) <= most:
        raise RewardError(f"{len(per_turn)} rewards for {recorded} turns; give one for each, or one for all")


def _in_threads(
    score: Callable[[_Batch], list[RescoredRollout]], batches: Iterable[_Batch], concurrency: int
) -> Iterator[list[RescoredRollout]]:
    waiting: deque[Future[list[RescoredRollout]]] = deque()
    with ThreadPoolExecutor(concurrency, thread_name_prefix="rft-rescore") as pool:
        try:
            for batch in batches:
                if len(waiting) == _WAITING * concurrency:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(score, batch))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def configured(target: Any, arguments: Mapping[str, Any], name: str = "the reward") -> AnyReward:
    """Return a reward with its arguments: of a class an object made with them, of a function one that is given them.

    Args:
        target: A reward or a group reward, a function that takes more than a rollout, or a class of rewards.
        arguments: By name.
        name: What to call it in messages.

    Raises:
        ConfigurationError: An argument is missing or unknown, or the class refuses them.
    """
    made = isinstance(target, type)
    if not made:
        check_reward(target, name)
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some builtins have none, and a group reward need not be callable
        signature = None
    if signature is not None:
        try:
            signature.bind(*(() if made else (None,)), **arguments)
        except TypeError as error:
            takes = [str(parameter) for parameter in signature.parameters.values()][0 if made else 1 :]
            raise ConfigurationError(
                f"{name} cannot be called with these arguments: {error}; "
                + (f"it takes {', '.join(takes)}" if takes else "it takes none besides the rollout")
            ) from error
    if not made:
        if arguments and not callable(target):
            raise ConfigurationError(f"{name} is an object that takes no arguments; name its class instead")
        return functools.partial(target, **arguments) if arguments else target
    try:
        reward = target(**arguments)
    except Exception as error:
        raise ConfigurationError(f"{name} cannot be made: {type(error).__name__}: {error}") from error
    check_reward(reward, f"what {name} makes")
    return reward  # type: ignore[no-any-return] # it has just been checked


def write_new_run(
    rollouts: Iterable[RescoredRollout], path: str | Path, *, of: str | Path, reward: str, success_threshold: float
) -> int:
    """Write a new folder with the other rewards, which can be measured and compared as `of` can; return their number.

    Args:
        rollouts: What `rescore` yields.
        path: The folder.
        of: The folder that was rescored. What it was made of is noted in the new one, too.
        reward: Name of the reward, noted beside that.
        success_threshold: Lowest reward that counts as a success.

    Raises:
        ConfigurationError: The folder exists already, or cannot be written.
    """
    path = Path(path)
    manifest = read_manifest(of)
    try:
        path.mkdir(parents=True)
        if manifest is not None:
            settings = {**manifest.settings, "reward": reward}
            dataclasses.replace(manifest, settings=settings, success_threshold=success_threshold).write(path)
    except FileExistsError as error:
        raise ConfigurationError(f"{path} exists already; choose another folder") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    return write_new_records(rollouts, path / RECORDS_FILE)


def write_new_records(rollouts: Iterable[RescoredRollout], path: str | Path) -> int:
    """Write records with the other rewards to a new file, in the order given, and return how many.

    Raises:
        ConfigurationError: The file exists already, or cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with path.open("x"):  # from here on the name is ours
            pass
        try:
            with part.open("w", encoding="utf-8") as file:
                for rollout in rollouts:
                    file.write(rollout.new_record.to_json() + "\n")
                    count += 1
            part.replace(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            part.unlink(missing_ok=True)
    except FileExistsError as error:
        raise ConfigurationError(f"{path} exists already; choose another file") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    return count
