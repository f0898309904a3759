"""TRL's GRPOTrainer, fed by rollouts of an agent. This module needs the extra `train`.

TRL does the update, and accelerate and DeepSpeed carry it to more devices. What differs from TRL's own rollouts:
a trajectory has as many rows as it needs, advantages are those of `grpo.ADVANTAGES`, and a failed rollout has no rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation

from aws_rft_sdk.advantages import ADVANTAGES
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.jobs.steps import Step, read_step
from aws_rft_sdk.rollout.schedule import BREAKER
from aws_rft_sdk.training.collecting import Sample
from aws_rft_sdk.training.groups import figures_of, in_groups, without_small
from aws_rft_sdk.training.recipe import Recipe
from aws_rft_sdk.training.rows import Row

CHECKPOINT_COMPLETE = "complete"
"""A checkpoint without this file was being written when the process died."""
_MEANS_OF_ROWS = ("grpo", "dr_grpo", "luspo", "sapo")
"""Losses that divide by the number of rows. The others divide by the number of sampled tokens."""
_NOT_OF_AN_AGENT = ("completions/", "reward", "rewards/", "frac_reward_zero_std")
"""TRL's figures of its own rollouts, and of rewards that it does not see here. `figures_of` has those of ours."""
_KEPT_CHECKPOINTS = 2  # the last complete one stays while the next one is written
_ANY_NORM = 1e9

Collect = Callable[[Sequence[str], Sequence[tuple[int, int]], str, bool], list[Sample]]
"""Runs one rollout of each prompt cell: cells, index of the prompt and number of the sample of each, name of the round,
and whether it is for validation."""


class Listener:
    """What a trainer tells. In processes other than the main one, nobody listens."""

    def keep(self, samples: Sequence[Sample], validation: int | None) -> None:
        """Take all samples of a batch of rollouts: of a step, or of the validation after a step with this number."""

    def tell(self, step: Step) -> None:
        """Take the record of a step."""


class Plan(NamedTuple):
    """How many prompts, rows and updates a training has."""

    steps: int
    per_generation: int
    """Updates that are made from one batch of rollouts."""
    micro_batch: int
    """Rows that a process computes gradients for at once."""
    accumulation: int
    """Micro batches of an update in each process."""

    @classmethod
    def of(cls, recipe: Recipe, prompts: int, processes: int) -> Plan:
        """Plan a training of a dataset with so many prompts.

        Raises:
            ConfigurationError: The batch cannot be divided among the processes, or a process's part of it in micro
                batches.
        """
        if recipe.global_batch_size % processes:
            raise ConfigurationError(
                f"global_batch_size is {recipe.global_batch_size}, and there are {processes} processes. All rollouts "
                f"of a prompt run in one of them, so give a multiple of {processes}"
            )
        if not recipe.temperature:
            raise ConfigurationError("temperature is 0, so all rollouts of a prompt are the same. Give 1.0")
        rows = recipe.global_batch_size * recipe.group_size // processes
        micro_batch = min(recipe.micro_batch_size, rows)
        if rows % micro_batch:
            raise ConfigurationError(
                f"micro_batch_size is {micro_batch}, and a process has {rows} rollouts a step (global_batch_size x "
                f"group_size / processes). Give a divisor of {rows}"
            )
        steps = min(recipe.max_steps, recipe.max_epochs * math.ceil(prompts / recipe.global_batch_size))
        return cls(steps, recipe.max_steps_off_policy + 1, micro_batch, rows // micro_batch)

    def in_order(self, prompts: Sequence[str], recipe: Recipe) -> list[str]:
        """Return the prompts of all steps: epoch after epoch, each in an order of its own.

        There are as many as `steps` need, and as the last rollouts could serve updates beyond them.
        """
        size = self.saves(self.steps) * recipe.global_batch_size
        epochs = range(math.ceil(size / len(prompts)))
        orders = [Random(f"{recipe.seed} epoch {epoch}").sample(prompts, len(prompts)) for epoch in epochs]
        return list(chain.from_iterable(orders))[:size]

    def saves(self, every: int) -> int:
        """Return the steps between checkpoints: at least `every`, and only where no rollouts are left to learn from."""
        return math.ceil(every / self.per_generation) * self.per_generation


def make_config(recipe: Recipe, plan: Plan, folder: Path, *, on_cpu: bool) -> GRPOConfig:
    """Return the arguments of TRL's trainer. Checkpoints go to `folder`."""
    low, high = 1 - recipe.clip_low_threshold, recipe.clip_high_threshold - 1
    if recipe.loss_type == "cispo":
        high = recipe.clip_high_threshold  # TRL takes it for the largest ratio itself
    elif recipe.loss_fn == "importance_sampling":
        low, high = 1.0, _ANY_NORM  # a ratio is never below 0
    return GRPOConfig(
        output_dir=str(folder),
        use_cpu=on_cpu,
        bf16=not on_cpu and recipe.dtype in ("auto", "bfloat16"),
        fp16=not on_cpu and recipe.dtype == "float16",
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="steps" if recipe.save_every else "no",
        save_steps=plan.saves(recipe.save_every) if recipe.save_every else 1,
        save_total_limit=_KEPT_CHECKPOINTS,
        seed=recipe.seed,
        max_steps=plan.steps,
        per_device_train_batch_size=plan.micro_batch,
        gradient_accumulation_steps=plan.accumulation,
        steps_per_generation=plan.per_generation * plan.accumulation,
        num_generations=recipe.group_size,
        max_completion_length=recipe.sampling_max_tokens,  # cuts nothing; the loss dr_grpo divides by it
        temperature=recipe.temperature,
        shuffle_dataset=False,  # its rows are in the order of the training
        disable_dropout=True,  # what samples and what learns must be the same policy
        mask_truncated_completions=False,
        gradient_checkpointing=recipe.gradient_checkpointing,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.lr_schedule,
        warmup_steps=recipe.warmup_steps,
        adam_beta1=recipe.adam_beta1,
        adam_beta2=recipe.adam_beta2,
        adam_epsilon=recipe.adam_eps,
        weight_decay=recipe.adam_weight_decay,
        max_grad_norm=recipe.adam_grad_clip_norm or _ANY_NORM,  # with 0 the norm would not be logged
        loss_type=recipe.loss_type,
        importance_sampling_level="sequence" if recipe.loss_type == "luspo" else "token",
        epsilon=low,
        epsilon_high=high,
        beta=recipe.kl_coef,
    )


class RolloutTrainer(GRPOTrainer):  # type: ignore[misc] # TRL has no types
    """Updates a model by rollouts of an agent.

    Set `collect` before `train`.

    Args:
        recipe: All values of the training.
        cells: Prompt cells in the order of the training, each once for all of its rollouts.
        validation: Prompt cells that are not trained on. May be empty.
        is_on_policy: Whether the model that is trained samples the rollouts, with its own log-probabilities. Otherwise
            the recorded ones decide over the ratios, also in the first update.
        listener: Is told about steps and rollouts.
        others: Arguments of `GRPOTrainer`.
    """

    collect: Collect

    def __init__(
        self,
        recipe: Recipe,
        cells: Sequence[str],
        validation: Sequence[str],
        *,
        is_on_policy: bool,
        listener: Listener,
        **others: Any,
    ) -> None:
        rows = Dataset.from_dict({"prompt": list(cells), "position": list(range(len(cells)))})
        super().__init__(train_dataset=rows, reward_funcs=_no_reward, **others)
        self.rollout_func = self._rows_for_trl  # set here, because TRL's constructor warns about it
        self.remove_callback(PrinterCallback)
        self._recipe, self._validation = recipe, validation
        self._is_on_policy = is_on_policy and not recipe.max_steps_off_policy
        self._listener = listener
        self._rows: list[Row] = []
        self._in_vain, self._is_rewarded = 0, False
        self._figures: dict[str, float] = {}

    # --- one batch of rollouts ---------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.state.global_step == 0 and self._validation:
            self._listener.tell(Step(0, time=time.time(), validation_reward_mean=self._validate()))
        size = self._recipe.group_size
        cells = [row["prompt"] for row in inputs]
        places = [(row["position"], index % size) for index, row in enumerate(inputs)]
        began = time.perf_counter()
        with self._sampling():
            samples = self.collect(cells, places, f"step {self.state.global_step + 1}", False)
        seconds = time.perf_counter() - began
        everything = gather_object([replace(sample, rows=()) for sample in samples])
        self._listener.keep(everything, None)
        self._check_rewards(everything)
        groups = in_groups(everything, size)
        counted = without_small(groups)
        advantages = ADVANTAGES[self._recipe.advantage_method]([[s.scored for s in group] for group in counted])
        threshold, pass_k = self._recipe.success_threshold, self._recipe.pass_k_values
        self._figures = figures_of(groups, advantages, success_threshold=threshold, pass_k=pass_k)
        self._figures["timing_s/rollouts"] = seconds
        own = slice(self.accelerator.process_index * len(cells), (self.accelerator.process_index + 1) * len(cells))
        of_turns = list(chain.from_iterable(advantages))[own]
        is_counted = [sample.datums > 0 for sample in chain.from_iterable(counted)][own]
        trained = zip(samples, of_turns, is_counted, strict=True)
        return self._scored([(row, values) for s, values, counts in trained if counts for row in s.rows])

    def _scored(self, rows: list[tuple[Row, tuple[float, ...]]]) -> dict[str, Any]:
        """Return what TRL learns from: rows, each with the advantages of its trajectory's turns."""
        counts = self.accelerator.gather(torch.tensor([len(rows)], device=self.accelerator.device)).tolist()
        # TRL cuts the rows into groups and into micro batches, and compares figures of all processes row by row.
        unit = math.lcm(self.num_generations, self.args.steps_per_generation)
        size = max(1, math.ceil(max(counts) / unit)) * unit
        end = self._tokenizer.eos_token_id
        padding = Row((end,), (end,), (0.0,), (0,), (0,))
        self._rows = [row for row, _ in rows] + [padding] * (size - len(rows))
        output: dict[str, Any] = super()._generate_and_score_completions([{"prompt": ""} for _ in self._rows])
        output["advantages"] = torch.zeros_like(output["completion_ids"], dtype=torch.float32)
        for index, (row, of_turns) in enumerate(rows):
            output["advantages"][index, : len(row.mask)] = torch.tensor(row.per_token(of_turns))
        if not self._is_on_policy:
            output["old_per_token_logps"] = output["sampling_per_token_logps"]
        if self._recipe.loss_type in _MEANS_OF_ROWS:
            scale = size * self.accelerator.num_processes / max(1, sum(counts))
            output["scale"] = torch.tensor(scale, device=self.accelerator.device)
        return output

    def _check_rewards(self, samples: Sequence[Sample]) -> None:
        """Refuse to go on where nothing can be learnt.

        Raises:
            UnavailableError: Many rollouts in a row got no reward, or none has got one up to the last step.
        """
        problems = [sample.problem for sample in samples if sample.problem is not None]
        self._is_rewarded |= len(problems) < len(samples)
        self._in_vain = self._in_vain + len(samples) if len(problems) == len(samples) else 0
        is_last = self.state.global_step + self._recipe.max_steps_off_policy + 1 >= self.state.max_steps
        if self._in_vain >= BREAKER or (is_last and not self._is_rewarded):
            raise UnavailableError(f"the last {self._in_vain} rollouts got no reward: {problems[0]}")

    def _rows_for_trl(self, prompts: list[str], trainer: object) -> dict[str, list[list[Any]]]:
        return {
            "prompt_ids": [list(row.prompt_ids) for row in self._rows],
            "completion_ids": [list(row.completion_ids) for row in self._rows],
            "logprobs": [list(row.logprobs) for row in self._rows],
            "env_mask": [list(row.mask) for row in self._rows],
        }

    def _calculate_rewards(self, inputs: list[Any], *_: Any) -> torch.Tensor:
        # TRL makes advantages of them, which are replaced.
        return torch.zeros(len(inputs) * self.accelerator.num_processes, 1, device=self.accelerator.device)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> torch.Tensor:
        """Return TRL's loss. Rows that only fill up the batch do not shrink a mean over rows."""
        loss: torch.Tensor = super().compute_loss(model, inputs, *args, **options)
        return loss * inputs["scale"] if "scale" in inputs else loss

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """Let the policy use the model: with ZeRO-3 the weights are gathered, and nothing is kept for gradients."""
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ):
            self.model.eval()
            try:
                yield
            finally:
                self.model.train()

    # --- what is written down ----------------------------------------------------------------------------------------

    def _validate(self) -> float | None:
        """Return the mean reward on the validation prompts, or None if no rollout got one."""
        step, rank = self.state.global_step, self.accelerator.process_index
        indexes = range(len(self._validation))[rank :: self.accelerator.num_processes]
        cells, places = [self._validation[index] for index in indexes], [(index, 0) for index in indexes]
        with self._sampling():
            samples = self.collect(cells, places, f"validation {step}", True)
        samples = gather_object([replace(sample, rows=()) for sample in samples])
        self._listener.keep(samples, step)
        rewards = [sample.scored.reward for sample in samples if sample.scored.reward is not None]
        return math.fsum(rewards) / len(rewards) if rewards else None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write down a step. The record is complete before the checkpoint of the step is written."""
        if "loss" not in logs:  # the summary at the end
            super().log(logs, start_time)
            return
        metrics = self._metrics["train"]
        for name in [name for name in metrics if name.startswith(_NOT_OF_AN_AGENT)]:
            del metrics[name]
        super().log(logs, start_time)
        number, last = self.state.global_step, self.state.max_steps
        every = self._recipe.val_every
        is_due = number == last or (every > 0 and number % every == 0)
        validation = self._validate() if self._validation and is_due else None
        record = {**logs, **self._figures, "validation_reward_mean": validation}
        self._figures = {}  # further updates from the same rollouts have no figures of rollouts
        step = read_step({**record, "step": number, "total_steps": last, "time": time.time()})
        if step is not None:
            self._listener.tell(step)

    def create_model_card(self, *args: Any, **options: Any) -> None:
        """Write none: TRL's says how to train with TRL, and asks the hub."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / CHECKPOINT_COMPLETE).touch()


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a folder that was written in full, or None."""
    complete = [file.parent for file in folder.glob(f"checkpoint-*/{CHECKPOINT_COMPLETE}")]
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _no_reward(prompts: list[str], **_: Any) -> list[float]:
    """Stand where TRL wants a reward function. `_calculate_rewards` does not call it."""
    return [0.0] * len(prompts)
