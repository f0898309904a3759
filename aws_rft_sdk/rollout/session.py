"""One run of a dataset on an engine, from its options to its records: what `aws-rft rollout` does, without a screen."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.datasets import read_prompts
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.lifecycle.calling import Handler
from aws_rft_sdk.rollout.access import Access
from aws_rft_sdk.rollout.driver import Progress, run_rollouts
from aws_rft_sdk.rollout.engines import Engine
from aws_rft_sdk.rollout.engines.choosing import EngineChoice
from aws_rft_sdk.rollout.folder import RunFolder
from aws_rft_sdk.rollout.schedule import DEFAULT_RETRY_BUDGET, parse_retry_budget
from aws_rft_sdk.rollout.starting import access_at, access_in
from aws_rft_sdk.runs.manifest import Manifest, file_sha256, handler_sources
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD
from aws_rft_sdk.runs.records import DATABASE_FILE, RolloutRecord
from aws_rft_sdk.runs.table import RolloutTable
from aws_rft_sdk.runtime import LocalRuntime, Policy
from aws_rft_sdk.types import InferenceParams, RolloutMetadata


@dataclass(frozen=True)
class RunOptions:
    """What to run, and how."""

    dataset: str
    choice: EngineChoice
    params: InferenceParams
    group_size: int = 1
    limit: int | None = None
    policy: str | None = None
    """As it was named; None for a runtime that has its own, and for the one beside the handler."""
    endpoint: str | None = None
    job_arn: str | None = None
    out: Path | None = None
    """Folder for a new run; None to keep nothing."""
    resume: Path | None = None
    """Folder of the run to go on with; None to begin one."""
    accept_changes: bool = False
    success_threshold: float = SUCCESS_THRESHOLD
    retries: int = 0
    retry_budget: str = DEFAULT_RETRY_BUDGET

    @property
    def folder(self) -> Path | None:
        """Where records are kept, None for nowhere."""
        return self.resume or self.out

    def check(self) -> None:
        """Refuse options that exclude each other, before anything is written.

        Raises:
            ConfigurationError: Which they are.
            PayloadError: The job ARN has not the form of one.
        """
        if self.policy and self.endpoint:
            raise ConfigurationError(
                "--policy is for a runtime of our own; with --endpoint, the runtime has its policy"
            )
        if self.out and self.resume:
            raise ConfigurationError("--out begins a run and --resume goes on with one; give one of them")
        if self.accept_changes and not self.resume:
            raise ConfigurationError("--accept-changes is for --resume")
        if self.job_arn is not None:
            RolloutMetadata(job_arn=self.job_arn, trajectory_id="of-no-rollout")
        self.choice.check_reach(self.endpoint)

    def manifest(self, fn: Handler | None, rows: int) -> Manifest:
        """Return what the run is made of.

        Args:
            fn: The loaded handler, None for a deployed agent.
            rows: Prompts that are run.
        """
        choice, sampling = self.choice, self.params
        settings: dict[str, JSON] = {
            "group-size": self.group_size,
            "limit": self.limit,
            "policy": self.policy,
            "endpoint": self.endpoint,
            "job-arn": self.job_arn,
            "qualifier": choice.qualifier,
            "deadline-seconds": choice.deadline_seconds,
            "temperature": sampling.temperature,
            "top-p": sampling.top_p,
            "max-tokens": sampling.max_tokens,
        }
        sources = {} if fn is None else handler_sources(choice.handler, fn)
        for part in (self.policy or "").split(":")[1:]:
            if Path(part).is_file():
                sources[part] = file_sha256(part)
        return Manifest(
            choice.handler,
            sources,
            self.dataset,
            file_sha256(self.dataset),
            rows,
            settings,
            self.success_threshold,
        )


@dataclass
class Session:
    """A run that may begin: everything that may be refused was."""

    options: RunOptions
    prompts: list[str]
    access: Access
    engine: Engine
    folder: RunFolder | None
    table: RolloutTable = field(default_factory=RolloutTable)
    """What has ended, in earlier runs and in this one."""

    @property
    def total(self) -> int:
        """Rollouts of the run, those of earlier runs included."""
        return len(self.prompts) * self.options.group_size

    async def run(self, stopping: asyncio.Event | None = None) -> AsyncGenerator[RolloutRecord, None]:
        """Run what is left to do, and write every record down before it is yielded.

        Args:
            stopping: See `run_rollouts`.

        Yields:
            Records of rollouts that an earlier run began and did not record, then of each attempt.
        """
        progress, options = Progress(), self.options
        if self.folder is not None:
            for record in await self.folder.recover(self.access.observe):
                self.table.add_record(record)
                yield record
            progress = self.folder.past.progress()
        attempts = run_rollouts(
            self.engine,
            self.prompts,
            self.access.start,
            group_size=options.group_size,
            concurrency=options.choice.concurrency,
            starts_per_second=options.choice.starts_per_second,
            retries=options.retries,
            retry_budget=parse_retry_budget(options.retry_budget, self.total),
            observe=self.access.observe,
            progress=progress,
            journal=self.folder,
            stopping=stopping,
        )
        async with aclosing(attempts) as records:
            async for record in records:
                if self.folder is not None:
                    record = self.folder.write(record)
                self.table.add_record(record)
                yield record


@contextmanager
def open_session(options: RunOptions, fn: Handler | None, policy: Policy | None) -> Iterator[Session]:
    """Open what a run needs: the runtime, the engine and the folder. Nothing is written before all of it is possible.

    Args:
        options: What to run.
        fn: The loaded handler; None for a deployed agent.
        policy: Who answers inference in a runtime of our own; None with an endpoint.

    Raises:
        ConfigurationError: An option cannot be followed; the runtime cannot be reached or opened; see `RunFolder`.
        DatasetError: The dataset cannot be read.
    """
    options.check()
    prompts = list(itertools.islice(read_prompts(options.dataset), options.limit))
    parse_retry_budget(options.retry_budget, len(prompts) * options.group_size)
    with ExitStack() as stack:
        access = None
        if options.endpoint:
            access = access_at(options.endpoint, options.params, options.job_arn)
            engine = options.choice.make(fn, access)
        folder = None
        if options.folder is not None:
            manifest = options.manifest(fn, len(prompts))
            folder = stack.enter_context(
                RunFolder(
                    options.folder,
                    manifest,
                    resume=options.resume is not None,
                    accept_changes=options.accept_changes,
                )
            )
        if access is None:
            database = options.folder / DATABASE_FILE if options.folder else ":memory:"
            runtime = stack.enter_context(LocalRuntime(policy, db=database))
            access = access_in(runtime, options.params, options.job_arn)
            engine = options.choice.make(fn, access)
        session = Session(options, prompts, access, engine, folder)
        if folder is not None:
            session.table = folder.past.table
            session.table.limit(len(prompts), options.group_size)
        yield session
