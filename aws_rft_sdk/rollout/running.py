"""`run`: a dataset through a handler, from options to records. It is what `aws-rft rollout` calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path

from typing_extensions import Unpack

from aws_rft_sdk._checks import check_type
from aws_rft_sdk._loading import check_not_loading
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.lifecycle.calling import Handler
from aws_rft_sdk.rollout.access import Access
from aws_rft_sdk.rollout.driver import run_rollouts
from aws_rft_sdk.rollout.engines import Engine
from aws_rft_sdk.rollout.folder import RunFolder
from aws_rft_sdk.rollout.interrupts import Interrupts
from aws_rft_sdk.rollout.options import RunOptions, complete_options, limits_of
from aws_rft_sdk.rollout.planning import RunPlan, plan_run
from aws_rft_sdk.rollout.schedule import parse_share
from aws_rft_sdk.rollout.starting import access_at, access_in, trusting
from aws_rft_sdk.runs.manifest import Manifest
from aws_rft_sdk.runs.metrics import Metrics, measure
from aws_rft_sdk.runs.records import DATABASE_FILE, RolloutRecord, latest_records, read_records
from aws_rft_sdk.runs.table import COMPLETED, RolloutTable
from aws_rft_sdk.runtime import LocalRuntime


class RunStatus(str, Enum):
    """How a run ended."""

    COMPLETED = "completed"
    """All rollouts completed, or no more failed than `fail_over` allows."""
    FAILED = "failed"
    """More rollouts failed, or were not reported."""
    INTERRUPTED = "interrupted"
    """SIGINT or SIGTERM ended it. What had ended is recorded, and `resume` goes on with the rest."""


@dataclass
class DatasetRun:
    """A run of a dataset: to watch while it goes on, and to read when it is over."""

    options: RunOptions
    """All options, with their defaults."""
    prompts: int
    """Prompts of the run."""
    engine: Engine = field(repr=False)
    folder: Path | None
    """Folder of the records. None if nothing is kept."""
    table: RolloutTable = field(default_factory=RolloutTable)
    """Rollouts that have ended, in earlier runs that this one resumed and in this one."""
    status: RunStatus | None = None
    """None while the run goes on."""
    kept: list[RolloutRecord] = field(default_factory=list, repr=False)
    """Records of a run without a folder."""

    @property
    def total(self) -> int:
        """Rollouts of the run."""
        return self.prompts * self.options["group_size"]

    @property
    def failed(self) -> int:
        """Rollouts that have not completed: they failed, were not reported, or never began."""
        self.table.settle()
        return self.total - self.table.status.count(COMPLETED)

    @property
    def hung(self) -> int:
        """Calls of handlers and tools that were given up and still hold a thread."""
        return self.engine.hung

    @property
    def records(self) -> list[RolloutRecord]:
        """The last record of each rollout, in the order in which they ended. Read from the folder each time."""
        return latest_records(self.kept) if self.folder is None else list(read_records(self.folder))

    @cached_property
    def metrics(self) -> Metrics:
        """Figures of all rollouts that have ended. Computed once; read it when the run is over."""
        return measure(
            self.table,
            success_threshold=self.options["success_threshold"],
            prompts=self.prompts,
            group_size=self.options["group_size"],
            max_tokens=self.options["max_tokens"],
        )

    def end(self, *, interrupted: bool) -> None:
        """Set the status. A run in which no rollout began has no folder any more."""
        if self.folder is not None and not self.folder.exists():
            self.folder = None
        if interrupted:
            self.status = RunStatus.INTERRUPTED
        else:
            allowed = parse_share("fail-over", self.options["fail_over"], self.total)
            self.status = RunStatus.FAILED if self.failed > allowed else RunStatus.COMPLETED


class RunListener:
    """What `run` tells while it goes on. Override what you need; calls come from the thread of the event loop."""

    def begun(self, run: DatasetRun) -> None:
        """Nothing was refused; rollouts begin. `run` holds those of earlier runs."""

    def recorded(self, record: RolloutRecord) -> None:
        """An attempt at a rollout has ended, and its record is kept."""

    def interrupted(self, times: int) -> None:
        """SIGINT or SIGTERM came for the first time, second time, and so on."""


def run(
    handler: Handler | str | None = None,
    dataset: str | Path | Iterable[str] | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    discard: bool = False,
    accept_changes: bool = False,
    listener: RunListener | None = None,
    **options: Unpack[RunOptions],
) -> DatasetRun:
    """Run a handler over a dataset, report every reward and keep a record of each rollout. Blocks until all have ended.

    It works in a script, in a thread, and in a notebook, whose own event loop waits meanwhile. In the main thread,
    SIGINT (Ctrl-C) and SIGTERM are handled while it runs: the first signal finishes the rollouts in flight and begins
    no more, the second cancels them, and the third does what it would have done without this function.

    Args:
        handler: A function decorated with `rft_handler`; its name as `path/to/file.py:function` or `module:function`;
            the URL of a worker; or the ARN of an AgentCore runtime. The engines `process` and `ray` load a function by
            its name in other processes, so it must be at the top level of a module. None for that of the resumed run.
        dataset: Path of a jsonl, json, csv or parquet file with a `prompt` column, else its first column. Or prompts,
            which are written to `prompts.jsonl` in the folder. None for that of the resumed run.
        out: Folder for a new run, made if missing. None for `runs/<time in UTC>` in the working directory.
        resume: Folder of a run to go on with. Rollouts that are missing or failed run again. Options, handler and
            dataset that are not given are those of that run.
        discard: Whether to keep no folder. The records are then in memory only.
        accept_changes: Whether to resume although dataset, handler or an option that decides over results has changed.
        listener: Is told how the run goes on. None for nobody.
        engine: "auto" (the default: http for a URL, agentcore for an ARN, else local), "local", "process", "ray",
            "http" or "agentcore"; or an `Engine`, which is entered and left here.
        policy: Who answers inference: what `LocalRuntime` takes, or a name such as "callable:FILE.py:FN". None for the
            function `policy` in a policy.py beside the handler's file.
        endpoint: URL of a runtime that is already running. None to start a local runtime for this run.
        key: The key that the runtime at `endpoint` asks for. None for `RFT_RUNTIME_KEY`. It is in the environment of
            this process while the run goes on, and it is written nowhere.
        job_arn: Job to report under. None for the local runtime's own.
        qualifier: Endpoint of the AgentCore runtime. None for its default.
        group_size: Rollouts of each prompt. Default 1.
        limit: Use the first `limit` prompts. None for all.
        concurrency: Rollouts in flight. None for 16, or 96 for deployed agents.
        starts_per_second: Rollouts begun per second. None for any number, or 5 for deployed agents.
        workers: Processes or actors of the engines `process` and `ray`. None for the engine's default.
        address: Ray cluster, as for `ray.init`. None for `RAY_ADDRESS`, else one on this machine.
        requirements: requirements.txt or pyproject.toml that pip installs on the Ray nodes. None for nothing.
        show_output: Whether to show what handlers on a Ray cluster print. Default False.
        deadline_seconds: For each rollout. None for no deadline. Default 540.
        max_turns: Turns of each rollout. Its next inference call is refused, and unless the handler catches the error,
            the rollout fails with the kind "limit". None for no limit. For the runtime that the run starts.
        max_total_tokens: The same for all tokens of a rollout's turns.
        max_cost: The same for the cost of these tokens. Needs `price_per_million`.
        price_per_million: Price of a million tokens of requests, and of a million tokens of answers.
        retries: Repetitions of a rollout that failed: a number, or numbers by kind of failure such as
            "infrastructure=2,model=1" or `{"infrastructure": 2}`. Default "infrastructure=2".
        retry_budget: Repetitions in the whole run: a count, or a share of all rollouts. Default "20%".
        breaker: End the run when so many of the first rollouts all fail for the same reason. None to go on. Default 32.
        fail_over: Rollouts that may fail before the run counts as failed: a count or a share of all. Default 0.
        temperature: Sent in the payload. Default 1.0.
        top_p: Sent in the payload. Default 1.0.
        max_tokens: Sent in the payload. Default 4096.
        success_threshold: Lowest reward that counts as a success in the metrics. Default 1.0.

    Returns:
        The run: its records, metrics, folder and status. A rollout that fails is a record and raises nothing.

    Raises:
        ConfigurationError: An option cannot be followed, the handler cannot be loaded, or the folder is in use, holds
            another run, or is none. Nothing was written.
        DatasetError: The dataset cannot be read. Nothing was written.
        UnavailableError: What the whole run needs does not work: a disk, a port, a cluster, a worker. What had ended is
            recorded, and can be resumed.
        BreakerError: The breaker ended the run. As above.
        KeyboardInterrupt: SIGINT or SIGTERM came before rollouts could begin. Nothing was written.

    Repeating a call begins a new run. Repeating it with `resume` runs what is left.
    """
    check_not_loading()
    if sum(map(bool, (out, resume, discard))) > 1:
        raise ConfigurationError(
            "--out begins a run, --resume goes on with one, --discard keeps none. Give one of them"
        )
    for name, folder in (("out", out), ("resume", resume)):
        if folder is not None:
            check_type(name, folder, (str, Path), "the path of a folder")
            if folder == "":
                raise ConfigurationError(f"{name} is empty. Give the path of a folder, or leave it out")
    if accept_changes and not resume:
        raise ConfigurationError("--accept-changes is for --resume")
    then = Manifest.read(Path(resume)) if resume else None
    plan = plan_run(handler, dataset, complete_options(options, then), then, Path(resume) if resume else None)
    watch = listener or RunListener()
    place = Path(out or resume or "") if out or resume else None
    opened = _opened(plan, place, resumed=bool(resume), accept_changes=accept_changes, discard=discard)
    with Interrupts(watch.interrupted) as interrupts, opened as work:
        watch.begun(work.run)
        interrupts.run(lambda stopping: work.go_through(watch, stopping))
    work.run.end(interrupted=interrupts.count > 0)
    return work.run


@contextmanager
def _opened(plan: RunPlan, path: Path | None, *, resumed: bool, accept_changes: bool, discard: bool) -> Iterator[_Work]:
    """Open what a run needs: runtime, engine, folder. The folder comes last, as far as possible."""
    options = plan.options
    with ExitStack() as stack:
        access = engine = None
        if options["endpoint"]:
            access = access_at(options["endpoint"], plan.params, options["job_arn"], key=options["key"])
            stack.enter_context(trusting(access, options["key"]))
            engine = plan.make_engine(access)
        folder = None
        if not discard:
            folder = stack.enter_context(
                RunFolder(path, plan.manifest, prompts=plan.prompts_text, resume=resumed, accept_changes=accept_changes)
            )
        if access is None or engine is None:
            database = ":memory:" if folder is None else folder.path / DATABASE_FILE
            runtime = stack.enter_context(LocalRuntime(plan.policy, db=database, limits=limits_of(options)))
            access = access_in(runtime, plan.params, options["job_arn"])
            engine = plan.make_engine(access)
        run = DatasetRun({**options, "key": None}, len(plan.prompts), engine, None if folder is None else folder.path)
        if folder is not None:
            run.table = folder.past.table
            run.table.limit(len(plan.prompts), options["group_size"])
        yield _Work(plan, access, engine, folder, run)


@dataclass
class _Work:
    """A run with all that it needs open."""

    plan: RunPlan
    access: Access
    engine: Engine
    folder: RunFolder | None
    run: DatasetRun

    async def go_through(self, watch: RunListener, stopping: asyncio.Event) -> None:
        """Run what is left to do. Every record is written down before the listener is told."""
        progress = None
        if self.folder is not None:
            for record in await self.folder.recover(self.access.observe):
                self._note(record, watch)
            progress = self.folder.past.progress()
        options = self.plan.options
        attempts = run_rollouts(
            self.engine,
            self.plan.prompts,
            self.access.start,
            group_size=options["group_size"],
            concurrency=self.plan.choice.concurrency,
            starts_per_second=self.plan.choice.starts_per_second,
            retries=options["retries"],
            retry_budget=self.plan.retry_budget,
            breaker=options["breaker"],
            observe=self.access.observe,
            progress=progress,
            journal=self.folder,
            stopping=stopping,
        )
        async with aclosing(attempts) as records:
            async for record in records:
                self._note(record if self.folder is None else self.folder.write(record), watch)

    def _note(self, record: RolloutRecord, watch: RunListener) -> None:
        self.run.table.add_record(record)
        if self.folder is None:
            self.run.kept.append(record)
        watch.recorded(record)
