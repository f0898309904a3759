"""Policies that learn on the same wire as in a training job.

`SoftmaxPolicy` is a table of numbers, for `aws-rft demo` (`learning`, `arithmetic`). `train` trains a language model,
for `aws-rft train`. There `recipe` has all values, `torch_policy` samples, `collecting` and `rows` make tokens of
rollouts, `grpo` makes advantages of rewards, and `trl_trainer` updates the model. `training_session`,
`session_trainer` and `session_policy` train on AWS. Only `recipe`, `rows`, `grpo`, `training_session` and
`session_trainer` work without the extra `train`.

The names are resolved when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from aws_rft_sdk.errors import ConfigurationError

_NAMES = {
    "recipe": "Recipe read_recipe",
    "rows": "Row rows_of",
    "run": "TrainingRun train",
    "session_policy": "SessionPolicy",
    "session_trainer": "SessionTrainer",
    "softmax": "SoftmaxPolicy SoftmaxTrainer",
    "torch_policy": "TorchPolicy",
    "torch_trainer": "TorchTrainer",
    "training_session": "TrainingSession",
    "vllm": "VLLMPolicy",
}
"""The public names, by their modules."""
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
_EXTRA = ("accelerate", "datasets", "peft", "torch", "transformers", "trl")

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise ConfigurationError(f"training needs {error.name}. Type: pip install 'aws-rft-sdk[train]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # `X as X` is how type checkers know a name as public
    # isort: off
    from aws_rft_sdk.training.recipe import Recipe as Recipe, read_recipe as read_recipe
    from aws_rft_sdk.training.rows import Row as Row, rows_of as rows_of
    from aws_rft_sdk.training.run import TrainingRun as TrainingRun, train as train
    from aws_rft_sdk.training.session_policy import SessionPolicy as SessionPolicy
    from aws_rft_sdk.training.softmax import SoftmaxPolicy as SoftmaxPolicy, SoftmaxTrainer as SoftmaxTrainer
    from aws_rft_sdk.training.torch_policy import TorchPolicy as TorchPolicy
    from aws_rft_sdk.training.torch_trainer import TorchTrainer as TorchTrainer
    from aws_rft_sdk.training.session_trainer import SessionTrainer as SessionTrainer
    from aws_rft_sdk.training.training_session import TrainingSession as TrainingSession
    from aws_rft_sdk.training.vllm import VLLMPolicy as VLLMPolicy
