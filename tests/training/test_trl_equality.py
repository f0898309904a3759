"""The same rollouts through our wire and through TRL's own generation give the same update."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs: pip install -e '.[train]'")

from datasets import Dataset  # noqa: E402
from training.tiny import tiny_model, tiny_tokenizer  # noqa: E402
from training.training_worlds import CELLS, OneByOne, handler, recipe, reward_of, same_weights  # noqa: E402
from trl import GRPOTrainer  # noqa: E402

from aws_rft_sdk.training.recipe import Recipe  # noqa: E402
from aws_rft_sdk.training.run import train  # noqa: E402
from aws_rft_sdk.training.trl_trainer import Plan, make_config  # noqa: E402


class Recording(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer as it is. Notes what it samples."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any) -> Any:
        completions, logprobs = super()._generate_single_turn(prompt_ids, *args)
        for prompt, completion in zip(prompt_ids, completions, strict=True):
            self.sampled[f"step {self.state.global_step + 1}", tuple(prompt)].append(completion)
        return completions, logprobs


class Replay(OneByOne):
    """Answers with the tokens that TRL sampled for the same prompt in the same step."""

    sampled: dict[tuple[str, tuple[int, ...]], list[list[int]]]

    def draw(self, call: Any, ids: list[int], name: str) -> list[int]:
        _, count = self.seen[call.trajectory_id]
        return self.sampled[self.round, tuple(ids)][count]


def trained_by_trl(values: Recipe, folder: Path) -> tuple[Any, dict[Any, list[list[int]]]]:
    tokenizer, plan = tiny_tokenizer(), Plan.of(values, len(CELLS), processes=1)
    trainer = Recording(
        tiny_model(tokenizer),
        lambda completions, **_: [reward_of(message[0]["content"]) for message in completions],
        make_config(values, plan, folder, on_cpu=True),
        Dataset.from_dict({"prompt": [[{"role": "user", "content": cell}] for cell in plan.in_order(CELLS, values)]}),
        processing_class=tokenizer,
    )
    trainer.sampled = defaultdict(list)
    trainer.train()
    return trainer.model, trainer.sampled


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
@pytest.mark.parametrize("steps", [1, 3])
def test_train_when_trl_samples_the_same_tokens_then_the_weights_are_the_same(
    loss_type: str, steps: int, tmp_path: Path
) -> None:
    # Two micro batches. Adam divides by the size of a gradient, so with a tiny epsilon rounding would be an update.
    values = recipe(max_steps=steps, loss_type=loss_type, micro_batch_size=4, adam_eps=1e-3, kl_coef=0.0)
    tokenizer = tiny_tokenizer()
    policy = Replay(tiny_model(tokenizer), tokenizer)
    theirs, policy.sampled = trained_by_trl(values, tmp_path / "trl")
    untrained = tiny_model(tokenizer)
    train(handler, CELLS, values, policy=policy, model=policy.model, tokenizer=tokenizer, out=tmp_path / "ours")
    assert same_weights(theirs, policy.model, 1e-6)
    assert not same_weights(untrained, policy.model, 1e-3)
