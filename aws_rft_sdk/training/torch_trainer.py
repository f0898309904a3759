"""Lets jobs of `LocalBedrock` and `LocalJobs` train a language model: a step is one update of TRL's `GRPOTrainer`."""

from __future__ import annotations

import copy
import random
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftConfig, get_peft_model
from safetensors.torch import load, save
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from aws_rft_sdk._checks import check_number
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.bedrock.trainers import TrainingStep, Update
from aws_rft_sdk.training.rows import row_of_completion
from aws_rft_sdk.training.torch_policy import TorchPolicy

_WEIGHT, _MOMENT = "weight.", "optimizer."
_updating = threading.Lock()
"""TRL seeds the generators of the whole process, so one update runs at a time."""


class TorchTrainer:
    """The trainer of a causal language model: `LocalBedrock(trainer=TorchTrainer(model, tokenizer, ...))`.

    In a multi-turn job of `LocalJobs`, every model call of a rollout is one sample of the batch.

    A step makes one update from the recorded tokens, log-probabilities and advantages: TRL's clipped objective,
    averaged over all sampled tokens (`loss_type="dapo"`), and AdamW. The state holds the trained weights and the
    optimizer's moments as safetensors. It has the size of three models, or with `peft_config` of three adapters.

    Args:
        model: The base model. It is not changed.
        tokenizer: Its tokenizer, with a chat template.
        learning_rate: `learning_rate_multiplier` of the step multiplies it.
        peft_config: The adapter to train, for example a `LoraConfig`. All jobs share the base model's memory then. None
            to train all weights, and keep a whole model for each job and each tuned model in use.
        max_tokens: Of an answer, if the request names no limit.
        micro_batch_size: Most completions that go through the model at once. It changes memory and speed only.
        max_grad_norm: Gradients with a larger norm are scaled down to it.
        seed: Of the adapter's first weights.

    Raises:
        ConfigurationError: A number is out of its range.

    Concurrency: as in `Trainer`. The updates of a process run one after the other.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        learning_rate: float = 1e-5,
        peft_config: PeftConfig | None = None,
        max_tokens: int = 512,
        micro_batch_size: int = 16,
        max_grad_norm: float = 1.0,
        seed: int = 0,
    ) -> None:
        for name, value in (("learning_rate", learning_rate), ("max_grad_norm", max_grad_norm)):
            check_number(name, value, low=0)
        for name, value in (("max_tokens", max_tokens), ("micro_batch_size", micro_batch_size)):
            check_number(name, value, low=1, whole=True)
        self._model, self._tokenizer, self._peft_config = model, tokenizer, peft_config
        self._learning_rate, self._max_grad_norm = learning_rate, max_grad_norm
        self._max_tokens, self._micro_batch_size, self._seed = max_tokens, micro_batch_size, seed

    def policy(self, state: bytes | None) -> TorchPolicy:
        """Return the policy with the weights of a state. None is the base model."""
        model = self._model
        if state is not None:
            model = self._copy()
            _restore(model, load(state))
        return TorchPolicy(model.eval(), self._tokenizer, seed=self._seed, max_tokens=self._max_tokens)

    def step(self, state: bytes | None, step: TrainingStep) -> Update:
        """Update the weights from the groups of one step, once.

        Raises:
            ConfigurationError: The step has one completion only, or the state is that of another model.
            PayloadError: A completion has no token ids, no log-probabilities or no tokens of its prompt.
        """
        samples = [sample for group in step.groups for sample in group.samples]
        if len(samples) < 2:
            raise ConfigurationError("the step has one completion. Nothing can be learnt without a group: set group=8")
        batch = _batch([s.completion for s in samples], [s.advantage for s in samples], self._tokenizer)
        rate = self._learning_rate * step.hyperparameters["learning_rate_multiplier"]
        with _updating, _kept_random_state():
            model = self._copy()
            optimizer = torch.optim.AdamW((weight for _, weight in _trained(model)), lr=rate, weight_decay=0.0)
            if state is not None:
                tensors = load(state)
                _restore(model, tensors)
                _restore_moments(optimizer, tensors)
            figures = self._update(model, optimizer, batch, len(samples))
            return Update(_saved(model, optimizer), figures)

    def _copy(self) -> Any:
        """Return a copy of the base model, whose trained weights are its own."""
        if self._peft_config is None:
            return copy.deepcopy(self._model)
        weights = [*self._model.parameters(), *self._model.buffers()]
        model = copy.deepcopy(self._model, {id(weight): weight for weight in weights})
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            return get_peft_model(model, copy.deepcopy(self._peft_config))

    def _update(
        self, model: Any, optimizer: torch.optim.Optimizer, batch: Mapping[str, torch.Tensor], count: int
    ) -> dict[str, float]:
        size = next(size for size in range(min(count, self._micro_batch_size), 0, -1) if count % size == 0)
        with tempfile.TemporaryDirectory() as folder:
            config = GRPOConfig(
                output_dir=folder,
                max_steps=1,
                num_generations=count,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=count // size,
                max_grad_norm=self._max_grad_norm,
                disable_dropout=True,  # the log-probabilities were recorded without
                use_cpu=model.device.type == "cpu",
                bf16=False,  # the model keeps its own type
                seed=self._seed,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            )
            constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
            trainer = _Recorded(batch, model, config, self._tokenizer, (optimizer, constant))
            trainer.train()
        figures = trainer.state.log_history[0]
        return {"entropy": figures["entropy"], "pg_loss": figures["loss"], "grad_norm": figures["grad_norm"]}


class _Recorded(GRPOTrainer):  # type: ignore[misc] # TRL has no types here
    """Makes one update from completions that were sampled elsewhere, with the advantages that they were given."""

    def __init__(
        self,
        batch: Mapping[str, torch.Tensor],
        model: Any,
        config: GRPOConfig,
        tokenizer: PreTrainedTokenizerBase,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR],
    ) -> None:
        one = Dataset.from_dict({"prompt": [""]})  # TRL wants to draw prompts, and to have rewards
        super().__init__(model, [_no_reward], config, one, processing_class=tokenizer, optimizers=optimizers)
        self.remove_callback(PrinterCallback)
        self._batch = batch

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: values.to(self.accelerator.device) for name, values in self._batch.items()}


def _no_reward(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def _batch(
    completions: Sequence[Mapping[str, Any]], advantages: Sequence[float], tokenizer: PreTrainedTokenizerBase
) -> dict[str, torch.Tensor]:
    """Return what TRL makes of a generation: prompts padded on the left, completions on the right."""
    rows = [row_of_completion(completion) for completion in completions]
    prompts = [torch.tensor(row.prompt_ids) for row in rows]
    sampled = [torch.tensor(row.completion_ids) for row in rows]
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def padded(values: list[torch.Tensor], value: float, side: str = "right") -> torch.Tensor:
        return pad_sequence(values, batch_first=True, padding_value=value, padding_side=side)

    mask = padded([torch.ones_like(ids) for ids in sampled], 0)
    return {
        "prompt_ids": padded(prompts, filler, "left"),
        "prompt_mask": padded([torch.ones_like(ids) for ids in prompts], 0, "left"),
        "completion_ids": padded(sampled, filler),
        "completion_mask": mask,
        "old_per_token_logps": padded([torch.tensor(row.logprobs) for row in rows], 0),
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": mask.sum(),
    }


# --- states ----------------------------------------------------------------------------------------------------------


def _trained(model: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def _saved(model: Any, optimizer: torch.optim.Optimizer) -> bytes:
    tensors = {f"{_WEIGHT}{name}": weight.detach() for name, weight in _trained(model)}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"{_MOMENT}{index}.{key}": value for key, value in moments.items()}
    return bytes(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


def _restore(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    trained = dict(_trained(model))
    saved = {name.removeprefix(_WEIGHT): tensor for name, tensor in tensors.items() if name.startswith(_WEIGHT)}
    if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in trained.items()}:
        raise ConfigurationError(
            "the stored state is that of another model or adapter. Start LocalBedrock with the same model and "
            "peft_config, or with another db"
        )
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(saved[name])


def _restore_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_MOMENT):
            index, key = name.removeprefix(_MOMENT).split(".")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


@contextmanager
def _kept_random_state() -> Iterator[None]:
    """Leave the generators of the process as they were: TRL seeds them, and a grader here may draw from them."""
    ours, theirs = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)
