"""A training in a process of its own: `python launched_training.py OUT STEP`. It is killed after the step.

It is killed in its first rollout if STEP is -1.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from training.tiny import tiny_model, tiny_tokenizer
from training.training_worlds import CELLS, OneByOne, handler, recipe

from aws_rft_sdk.jobs.steps import Step
from aws_rft_sdk.training.run import train


def trained(**others: Any) -> Any:
    """Return the model of a training of 6 steps."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    values = recipe(max_steps=6, save_every=2, val_every=3, micro_batch_size=4)
    given = {"policy": OneByOne(model, tokenizer), "model": model, "tokenizer": tokenizer, **others}
    train(handler, CELLS, values, validation=["say five", "say six"], **given)
    return model


class _Killed(OneByOne):
    async def answer(self, call: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, kill_at = Path(sys.argv[1]), int(sys.argv[2])
    if kill_at < 0:
        trained(out=folder, policy=_Killed(tiny_model(tiny_tokenizer()), tiny_tokenizer()))

    def tell(step: Step) -> None:
        if step.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save(trained(out=folder, tell=tell).state_dict(), folder / f"rank-{os.environ.get('RANK')}.pt")
