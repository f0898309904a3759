"""`train`: a model learns from an agent's rewards. It is what `aws-rft train` calls. It needs the extra `train`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import PeftModel

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.jobs.steps import Step, read_steps
from aws_rft_sdk.lifecycle.calling import Handler
from aws_rft_sdk.rollout._appending import AppendedFile
from aws_rft_sdk.rollout.engines import Engine
from aws_rft_sdk.rollout.folder import PROMPTS_FILE, RunFolder
from aws_rft_sdk.rollout.options import RunOptions, complete_options
from aws_rft_sdk.rollout.planning import RunPlan, plan_run
from aws_rft_sdk.rollout.policies import parse_policy
from aws_rft_sdk.rollout.starting import access_in
from aws_rft_sdk.runs.manifest import Manifest
from aws_rft_sdk.runs.records import DATABASE_FILE
from aws_rft_sdk.runtime import LocalRuntime, Policy, standin
from aws_rft_sdk.training.collecting import Collector, Sample
from aws_rft_sdk.training.models import adapter_of, check_loaded, is_on_cpu, load_model, load_tokenizer
from aws_rft_sdk.training.recipe import Recipe
from aws_rft_sdk.training.torch_policy import TorchPolicy, context_limit, end_ids
from aws_rft_sdk.training.trl_trainer import Listener, Plan, RolloutTrainer, last_checkpoint, make_config
from aws_rft_sdk.training.vllm import VLLMPolicy, weight_sender

STEPS_FILE = "steps.jsonl"
RECIPE_FILE = "recipe.toml"
BROKEN_ROWS_FILE = "broken-rows.jsonl"


@dataclass(frozen=True)
class TrainingRun:
    """A training that is over."""

    folder: Path
    steps: list[Step]
    """By number. Step 0 is the validation before the training, if there is one."""
    model: Path
    """Folder of the trained adapter or model, with its tokenizer."""

    @property
    def validation_before(self) -> float | None:
        """Mean reward on the validation prompts before the training. None without validation."""
        return self.steps[0].validation_reward_mean if self.steps and self.steps[0].step == 0 else None

    @property
    def validation_after(self) -> float | None:
        """Mean reward on the validation prompts after the last step. None without validation."""
        return self.steps[-1].validation_reward_mean if self.steps else None

    @property
    def rollouts(self) -> int:
        """Rollouts of the training, without those of validations and without repeated attempts."""
        return self._sum("training/num_trajectories")

    @property
    def failed_rollouts(self) -> int:
        """Rollouts that failed or got no reward. Nothing was learnt from them."""
        return self._sum("training/failed_rollouts")

    @property
    def dropped_groups(self) -> int:
        """Groups that had fewer than two rewards. Nothing was learnt from them."""
        return self._sum("training/dropped_groups")

    @property
    def dead_groups(self) -> int:
        """Groups whose advantages were all 0, because their rewards were equal."""
        return self._sum("analysis/zero_adv_groups")

    @property
    def rows(self) -> int:
        """Rows of tokens that the model learnt from."""
        return self._sum("training/num_datums")

    @property
    def broken_rows(self) -> int:
        """Rows that began because a turn did not continue the tokens of an earlier one."""
        return self._sum("training/broken_prefixes")

    def _sum(self, name: str) -> int:
        return int(sum(step.other.get(name, 0) for step in self.steps))


def train(
    handler: Handler | str,
    dataset: str | Path | Iterable[str],
    recipe: Recipe,
    *,
    validation: str | Path | Iterable[str] | None = None,
    policy: Policy | str | None = None,
    model: Any = None,
    tokenizer: Any = None,
    out: Path | None = None,
    resume: Path | None = None,
    engine: str | Engine | None = None,
    limit: int | None = None,
    tell: Callable[[Step], None] | None = None,
) -> TrainingRun:
    """Train a language model on the rewards of an agent. Blocks until it is trained.

    The rollouts run through the local runtime as those of `rollout.run` do. Every process of `accelerate launch` calls
    this function, and runs its share of the rollouts.

    Args:
        handler: See `rollout.run`.
        dataset: Prompts to learn from. See `rollout.run`.
        recipe: All values of the training.
        validation: Prompts that the model is measured on: before the first step, every `val_every` steps, after the
            last step. None for no validation.
        policy: Who answers inference, as for `LocalRuntime`, or "upstream:URL" for a vLLM server, see `VLLMPolicy`. It
            must tell token ids and log-probabilities. If it has a method `new_round(name)`, that is called before each
            batch of rollouts: the weights may have changed. None for a `TorchPolicy` of the model.
        model: A causal language model of transformers that is already loaded. None to load `recipe.model`.
        tokenizer: Its tokenizer. None to load it.
        out: Folder for a new training, made if missing. None for `runs/train-<time in UTC>`.
        resume: Folder of a training to go on with, from its last complete checkpoint. With the same arguments the steps
            are those of a training that was not interrupted.
        engine: See `rollout.run`. None for that of the recipe.
        limit: Use the first `limit` prompts of the dataset. None for all.
        tell: Is called in the main process after each step.

    Returns:
        The training, as its folder has it: `steps.jsonl`, the records of all rollouts in `train`, those of validations
        in `validation-<step>`, `checkpoints`, the result in `model`, and `recipe.toml`. If rows broke,
        `broken-rows.jsonl` says where.

    Raises:
        ConfigurationError: An argument or a value of the recipe cannot be followed, the model cannot be loaded, or the
            folder holds another training. No training was begun.
        DatasetError: The prompts cannot be read. No training was begun.
        UnavailableError: 32 rollouts in a row got no reward, or none up to the last step. Or something that the
            training needs does not work. It can be resumed.

    Repeating a call begins a new training. Repeating it with `resume` trains what is left.
    """
    if out is not None and resume is not None:
        raise ConfigurationError("out begins a training, and resume goes on with one. Give one of them")
    on_cpu = is_on_cpu(recipe)
    processes = PartialState(cpu=on_cpu)
    shared: RunOptions = {
        "engine": engine or recipe.engine,
        "policy": standin(),  # the model is loaded later, when all else is known to be right
        "concurrency": recipe.rollout_max_concurrency,
        "deadline_seconds": recipe.rollout_timeout,
        "success_threshold": recipe.success_threshold,
        "max_tokens": recipe.sampling_max_tokens,
    }
    sampled: RunOptions = {
        "group_size": recipe.group_size,
        "temperature": recipe.temperature,
        "top_p": recipe.sampling_top_p,
    }
    options = complete_options({**shared, **sampled, "limit": limit}, None)
    work = plan_run(handler, dataset, options)
    plan = Plan.of(recipe, len(work.prompts), processes.num_processes)
    cells = plan.in_order(work.prompts, recipe)
    tests = None
    if validation is not None:
        tests = plan_run(handler, validation, complete_options({**shared, "temperature": 0.0, "top_p": 1.0}, None))
    if isinstance(policy, str):
        parse_policy(policy)  # so that what is wrong with it is told before a model is loaded
    now = datetime.now(timezone.utc).strftime("train-%Y-%m-%dT%H-%M-%SZ")
    folder = Path(broadcast_object_list([str(resume or out or Path("runs", now))])[0])
    with ExitStack() as stack:
        listener = Listener()
        if processes.is_main_process:
            named = recipe.model if model is None else type(model).__name__
            manifest = _manifest(work, cells, {"policy": f"model:{named}", "steps": plan.steps})
            resumed = resume is not None
            listener = _Files(folder, manifest, cells, recipe, tests, tell=tell, resumed=resumed)
            stack.enter_context(listener)
        tokenizer = load_tokenizer(recipe) if tokenizer is None else tokenizer
        model = load_model(recipe, on_cpu=on_cpu) if model is None else model
        check_loaded(recipe, model, tokenizer)
        config = make_config(recipe, plan, folder / "checkpoints", on_cpu=on_cpu)
        config.ds3_gather_for_generation = not isinstance(policy, str)  # vLLM gets the weights one after the other
        if recipe.kl_coef and recipe.method == "full" and not model.config.name_or_path:
            _keep_reference(model, folder / "reference")
        trainer = RolloutTrainer(
            recipe,
            cells,
            [] if tests is None else tests.prompts,
            is_on_policy=policy is None,
            listener=listener,
            model=model,
            processing_class=tokenizer,
            args=config,
            peft_config=None if isinstance(model, PeftModel) else adapter_of(recipe),
        )
        collector = stack.enter_context(_collector(stack, work, _policy(policy, trainer, recipe), recipe, folder))
        params = {False: work.params, True: work.params if tests is None else tests.params}
        trainer.collect = lambda cells, places, name, is_test: collector.collect(cells, places, params[is_test], name)
        checkpoint = last_checkpoint(folder / "checkpoints") if resume else None
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trainer.save_model(str(folder / "model"))
    processes.wait_for_everyone()
    return TrainingRun(folder, read_steps(folder / STEPS_FILE), folder / "model")


def _keep_reference(model: Any, folder: Path) -> None:
    """Save a model that was loaded from nowhere: TRL loads the reference of the divergence from a folder."""
    if PartialState().is_main_process and not folder.exists():
        model.save_pretrained(folder)
    PartialState().wait_for_everyone()
    model.config.name_or_path = str(folder)


def _manifest(work: RunPlan, cells: Sequence[str], settings: Mapping[str, JSON]) -> Manifest:
    """Return the manifest of the training's rollouts: their prompts are those of all steps, in order."""
    return replace(
        work.manifest,
        dataset=PROMPTS_FILE,
        dataset_sha256=hashlib.sha256(_lines(cells).encode()).hexdigest(),
        rows=len(cells),
        settings={**work.manifest.settings, **settings},
    )


def _lines(cells: Sequence[str]) -> str:
    return "".join(json.dumps({"prompt": cell}) + "\n" for cell in cells)


def _policy(policy: Policy | str | None, trainer: RolloutTrainer, recipe: Recipe) -> Policy:
    """Return who answers inference. Connects to vLLM, if it is that."""
    if policy is not None and not isinstance(policy, str):
        return policy
    model, tokenizer = trainer.model, trainer.processing_class
    limit, max_tokens = recipe.max_context_tokens, recipe.sampling_max_tokens
    if policy is None:
        return TorchPolicy(model, tokenizer, seed=recipe.seed, max_tokens=max_tokens, max_context_tokens=limit)
    url = policy.removeprefix("upstream:")
    return VLLMPolicy(
        url,
        tokenizer,
        end_ids=end_ids(model, tokenizer),
        seed=recipe.seed,
        max_tokens=max_tokens,
        max_context_tokens=limit or context_limit(model),
        send_weights=weight_sender(url, model, tokenizer, trainer.accelerator),
    )


def _collector(stack: ExitStack, work: RunPlan, policy: Policy, recipe: Recipe, folder: Path) -> Collector:
    """Start a runtime for the rollouts of this process, and return what runs them there."""
    rank = PartialState().process_index
    database = folder / "train" / (f"process-{rank}" if rank else "") / DATABASE_FILE
    database.parent.mkdir(parents=True, exist_ok=True)
    runtime = stack.enter_context(LocalRuntime(policy, db=database))
    engine = work.make_engine(access_in(runtime, work.params))
    retries = recipe.rollout_max_retries
    return Collector(runtime, engine, concurrency=work.choice.concurrency, retries=retries)


class _Files(Listener):
    """What the main process writes down of a training. A context manager, open while the training runs."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        cells: Sequence[str],
        recipe: Recipe,
        tests: RunPlan | None,
        *,
        tell: Callable[[Step], None] | None,
        resumed: bool,
    ) -> None:
        self._folder, self._tests, self._tell = folder, tests, tell
        path = folder / "train"
        if not resumed and (folder / RECIPE_FILE).exists():
            raise ConfigurationError(
                f"{folder} holds a training. Choose another folder, or go on with --resume {folder}"
            )
        if resumed:
            then = Manifest.read(path)
            # Training goes on from its checkpoint with an agent that was mended meanwhile. Records say which one ran.
            if changes := then.changes_to(replace(manifest, sources=then.sources)):
                raise ConfigurationError(f"{folder} holds another training, begin a new one: {'; '.join(changes)}")
        self._stack = ExitStack()
        self._records = self._stack.enter_context(
            RunFolder(path, manifest, prompts=_lines(cells), resume=resumed, accept_changes=resumed)
        )
        # Written before the first rollout, because a training that is killed in it can be resumed, too.
        (folder / RECIPE_FILE).write_text(recipe.to_toml(), encoding="utf-8")

    def keep(self, samples: Sequence[Sample], validation: int | None) -> None:
        """Write records. See `Listener`."""
        with ExitStack() as stack:
            folder = self._records
            if validation is not None and self._tests is not None:
                path = self._folder / f"validation-{validation}"
                shutil.rmtree(path, ignore_errors=True)  # of a step that is repeated
                tests = self._tests
                folder = stack.enter_context(RunFolder(path, tests.manifest, prompts=tests.prompts_text))
            for sample in samples:
                for record in sample.records:
                    folder.write(record)
            breaks = [(s.records[-1].id, s.breaks) for s in samples if s.breaks and validation is None]
            if breaks:
                file = stack.enter_context(AppendedFile(self._folder / BROKEN_ROWS_FILE))
                for trajectory_id, reasons in breaks:
                    file.append(json.dumps({"trajectory_id": trajectory_id, "breaks": reasons}))

    def tell(self, step: Step) -> None:
        """Write a record, and pass it on. See `Listener`."""
        with AppendedFile(self._folder / STEPS_FILE) as file:
            file.append(json.dumps(step.to_json(), allow_nan=False))
        if self._tell is not None:
            self._tell(step)

    def __enter__(self) -> _Files:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        if not (self._folder / "train").exists():  # no rollout began, so nothing stays behind
            (self._folder / RECIPE_FILE).unlink(missing_ok=True)
            for empty in (self._folder / "checkpoints", self._folder):
                with suppress(OSError):  # something is in it
                    empty.rmdir()
