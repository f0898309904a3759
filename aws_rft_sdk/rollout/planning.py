"""What a run is, before anything of it is opened: handler, prompts, engine, policy and manifest."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws_rft_sdk._loading import load_function, reference_of
from aws_rft_sdk.datasets import read_prompts
from aws_rft_sdk.datasets._text import is_blank
from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.lifecycle.calling import Handler
from aws_rft_sdk.rollout.access import Access
from aws_rft_sdk.rollout.engines import Engine
from aws_rft_sdk.rollout.engines.choosing import CONCURRENCY, EngineChoice
from aws_rft_sdk.rollout.folder import PROMPTS_FILE
from aws_rft_sdk.rollout.options import OF_ENGINE, RunOptions, execution_of, settings_of
from aws_rft_sdk.rollout.policies import choose_policy
from aws_rft_sdk.rollout.schedule import parse_share
from aws_rft_sdk.runs.manifest import Manifest, file_sha256, handler_sources, is_deployed
from aws_rft_sdk.runtime import Policy
from aws_rft_sdk.runtime.policies import PolicyFunction
from aws_rft_sdk.types import InferenceParams


@dataclass(frozen=True)
class RunPlan:
    """A run that may begin. Handler, dataset and options are checked, and nothing is open yet."""

    options: RunOptions
    manifest: Manifest
    prompts: list[str]
    prompts_text: str | None
    """Content of `prompts.jsonl`. None for a dataset that is a file."""
    function: Handler | None
    """None for a deployed agent."""
    choice: EngineChoice
    engine: Engine | None
    """None to make the one that was chosen."""
    policy: Policy | PolicyFunction | None
    """None with an endpoint."""
    params: InferenceParams
    retry_budget: float

    def make_engine(self, access: Access) -> Engine:
        """Return the engine of the run."""
        return self.choice.make(self.function, access) if self.engine is None else self.engine


def plan_run(
    handler: Handler | str | None,
    dataset: str | Path | Iterable[str] | None,
    options: RunOptions,
    then: Manifest | None = None,
    resume: Path | None = None,
) -> RunPlan:
    """Load the handler and the policy, read the prompts, choose the engine.

    Args:
        handler: See `run`.
        dataset: See `run`.
        options: All options.
        then: What the run was made of that is resumed. None for a new run.
        resume: Folder of that run.

    Raises:
        ConfigurationError: An option cannot be followed, or the handler or the policy cannot be loaded.
        DatasetError: The dataset cannot be read.
        PayloadError: A sampling parameter is out of its range.
    """
    if then is not None and resume is not None:
        kept = resume / PROMPTS_FILE
        handler = then.handler if handler is None else handler
        dataset = (kept if kept.exists() else then.dataset) if dataset is None else dataset
    if handler is None or dataset is None:
        raise ConfigurationError("name a HANDLER and a DATASET. Only --resume knows them")
    if not isinstance(handler, str) and not callable(handler):
        raise ConfigurationError(f"handler is {handler!r:.80}. Give a function, its name, a URL or an ARN")
    reference = handler if isinstance(handler, str) else reference_of(handler)
    engine, choice = _choose(options, reference)
    function: Handler | None = None
    if not is_deployed(reference):
        function = load_function(handler) if isinstance(handler, str) else handler
    policy = None if options["endpoint"] else choose_policy(options["policy"], reference)
    params = InferenceParams(options["temperature"], options["top_p"], options["max_tokens"])
    prompts, text, sha256 = _read(dataset, options["limit"])
    budget = parse_share("retry-budget", options["retry_budget"], len(prompts) * options["group_size"])
    settings = settings_of(options)
    sources = {} if function is None else handler_sources(reference, function)
    for part in (settings["policy"] or "").split(":")[1:]:
        if Path(part).is_file():
            sources[part] = file_sha256(part)
    manifest = Manifest(
        reference,
        sources,
        PROMPTS_FILE if text is not None else str(dataset),
        sha256,
        len(prompts),
        settings,
        options["success_threshold"],
        execution_of(options),
    )
    return RunPlan(options, manifest, prompts, text, function, choice, engine, policy, params, budget)


def _choose(options: RunOptions, reference: str) -> tuple[Engine | None, EngineChoice]:
    engine, deadline = options["engine"], options["deadline_seconds"]
    if isinstance(engine, Engine):
        concurrency, pace = options["concurrency"] or CONCURRENCY, options["starts_per_second"]
        return engine, EngineChoice(type(engine).__name__, reference, concurrency, pace, deadline)
    fitting: dict[str, Any] = {name: value for name, value in options.items() if name in OF_ENGINE}
    if fitting["requirements"] is not None:
        fitting["requirements"] = Path(fitting["requirements"])
    choice = EngineChoice.of(engine, reference, deadline_seconds=deadline, **fitting)
    choice.check_reach(options["endpoint"])
    return None, choice


def _read(dataset: str | Path | Iterable[str], limit: int | None) -> tuple[list[str], str | None, str]:
    """Return the prompts, the content of `prompts.jsonl` (None for a file), and the SHA-256 of the dataset."""
    if isinstance(dataset, str | Path):
        return list(itertools.islice(read_prompts(dataset), limit)), None, file_sha256(dataset)
    if isinstance(dataset, bytes | Mapping) or not isinstance(dataset, Iterable):
        raise DatasetError(f"dataset is {dataset!r:.80}. Give the path of a file, or a list of prompts")
    prompts = list(itertools.islice(dataset, limit))
    for number, prompt in enumerate(prompts):
        if type(prompt) is not str or is_blank(prompt):
            raise DatasetError(f"prompt {number} is {prompt!r:.80}. A prompt is a string that is not blank")
    if not prompts:
        raise DatasetError("there are no prompts")
    text = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
    return prompts, text, hashlib.sha256(text.encode()).hexdigest()
