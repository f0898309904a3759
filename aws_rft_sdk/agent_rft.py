"""Facts of SageMaker's multi-turn RL jobs: models, hyperparameters and limits. Values and pure functions.

The job's file, the plan, the preflight and the stand-in of the service read them here. Sources: hyperpod-recipes of
2026-06-23, `mtrl_recipe_template_parameters.json` and the recipes' records, where nothing else is said; the Amazon
SageMaker developer guide, "hyperparameters" and "evaluation" pages of multi-turn RL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aws_rft_sdk._frozen import JSON

TRAINING, EVALUATION = "AgentRFT", "AgentRFTEvaluation"
"""The categories of jobs."""
SCHEMA_VERSION = "1.0.0"
"""Of the job's document, as the official SDK sends it."""
ROLLOUT_STARTS_PER_SECOND = 5.0
"""Fixed as `rollout_tps` in the recipes."""
ROLLOUT_CONCURRENCY = 96
"""Rollouts in progress at once: the default, and the most that a job may have."""
ROLLOUT_TIMEOUT_SECONDS = 600.0
"""Default of `rollout_timeout`: a rollout that takes longer fails."""
AGENTCORE_CALL_SECONDS = 900.0
"""Longest synchronous call of an AgentCore runtime. Source: AgentCore's quotas."""
LAMBDA_CALL_SECONDS = 900.0
"""Longest run of a Lambda function. Source: Lambda's quotas."""
MAX_RUNTIME_SECONDS = 86_400
"""Time limit of a job that sets none. A quota can raise it."""
EVALUATION_MAX_RUNTIME_SECONDS = 259_200
"""Highest time limit of an evaluation."""

TOKEN_KINDS = ("prefill", "sample", "train")
"""Kinds of tokens that are billed: those of requests, of answers, and of training rows."""
Value = int | float | str | tuple[int, ...]


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter of a model. The type of the default is the type of the value.

    Attributes:
        default: What applies if the job's document leaves it out.
        low: Smallest value.
        high: Largest value.
        choices: The only values. Empty if a range says it.
        excludes_low: Whether the value must be above `low`.
        conflict: What the sources disagree about, and what was chosen here. Empty if they agree.
    """

    default: Value
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[int | str, ...] = ()
    excludes_low: bool = False
    conflict: str = ""

    @property
    def rule(self) -> str:
        """What the value must be, in words."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if isinstance(self.default, tuple):
            return "a list of whole numbers of at least 1, each once"
        number = "a whole number" if isinstance(self.default, int) else "a number"
        if math.isinf(self.high):
            return number
        return f"{number} from {self.low:g} to {self.high:g}" + (f", and not {self.low:g}" * self.excludes_low)

    def allows(self, value: JSON) -> bool:
        """Return whether a value, or its text as it travels, is one that the service takes."""
        try:
            read = self.read(value)
        except (TypeError, ValueError):
            return False
        if isinstance(read, tuple):
            return bool(read) and min(read) >= 1 and len(set(read)) == len(read)
        if self.choices:
            return read in self.choices
        if isinstance(read, str) or not math.isfinite(read):
            return False
        return self.low <= read <= self.high and not (self.excludes_low and read == self.low)

    def read(self, value: JSON) -> Value:
        """Return the value that a text means. Values that are no texts are returned with the type of the default.

        Raises:
            TypeError, ValueError: It has another type, or the text is no number.
        """
        if isinstance(value, bool):
            raise TypeError("a boolean is no hyperparameter")
        if isinstance(self.default, str):
            if not isinstance(value, str):
                raise TypeError("the value must be a text")
            return value
        if isinstance(self.default, tuple):
            items = value.split(",") if isinstance(value, str) else value
            return tuple(_whole(item) for item in items)
        return _whole(value) if isinstance(self.default, int) else float(value)

    def text(self, value: JSON) -> str:
        """Return the text that a value travels as, for example `1,2,4` or `1e-05`.

        Raises:
            TypeError, ValueError: See `read`.
        """
        read = self.read(value)
        return ",".join(map(str, read)) if isinstance(read, tuple) else str(read)


def _whole(value: JSON) -> int:
    number = int(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError("the value must be a whole number")
    return number


_H = Hyperparameter
_ADVANTAGE_METHODS = (
    *("monte_carlo", "group_based", "group_based_per_turn", "rloo", "reinforce_pp"),
    *("reinforce_pp_baseline", "opo", "grpo_passk", "gpg"),
)
_STEPS_CONFLICT = "the developer guide says 50; the hub's records say 100, and jobs with the hub's defaults ran 100"
_RATE_CONFLICT = "the developer guide says 4e-5; the hub's record of this model says 1e-5, and the record is applied"
_BOTH = {
    "success_threshold": _H(1.0),
    "pass_k_values": _H((1, 2, 4, 8, 16, 32)),
    "rollout_timeout": _H(int(ROLLOUT_TIMEOUT_SECONDS), 300, 86_400),
    "rollout_max_retries": _H(3, 1, 10),
    "rollout_max_concurrency": _H(ROLLOUT_CONCURRENCY, 32, ROLLOUT_CONCURRENCY),
}
_COMMON = {
    "global_batch_size": _H(128, choices=(32, 64, 128)),
    "group_size": _H(8, 2, 32),
    "advantage_method": _H("group_based", choices=_ADVANTAGE_METHODS),
    "loss_fn": _H("ppo", choices=("importance_sampling", "ppo", "cispo")),
    "clip_low_threshold": _H(0.8, 0, 1),
    "clip_high_threshold": _H(1.2, 1, 10),
    "temperature": _H(1.0, 0, 2),
    "sampling_top_p": _H(1.0, 0, 1),
    "sampling_max_tokens": _H(4096, 512, 8192),
    "max_epochs": _H(1, 1, 30),
    "max_steps": _H(100, 1, 1000, conflict=_STEPS_CONFLICT),
    "val_every": _H(10, 0, 100),
    "lora_rank": _H(32, 16, 64),
    "lora_alpha": _H(64, 16, 128),
    "learning_rate": _H(1e-5, 0, 0.01, excludes_low=True, conflict=_RATE_CONFLICT),
    "adam_beta1": _H(0.9, 0, 0.999999),
    "adam_beta2": _H(0.95, 0, 0.999999),
    "adam_eps": _H(1e-8, 1e-16, 1e-2),
    "adam_weight_decay": _H(0.0, 0, 1),
    "adam_grad_clip_norm": _H(1.0, 0, 100),
    "max_steps_off_policy": _H(3, 0, 10),
    **_BOTH,
}
_TEMPLATE = "the template of Nova says {}; its recipe says {}, and for other models the recipe is what the hub shows"
_NOVA = {
    **_COMMON,
    "global_batch_size": _H(32, choices=(8, 16, 32, 64)),
    "group_size": _H(4, 2, 32),
    "temperature": _H(1.0, 0, 2, conflict=_TEMPLATE.format("0.7", "1.0")),
    "sampling_top_p": _H(1.0, 0, 1, conflict=_TEMPLATE.format("0.95", "1.0")),
    "max_steps": _H(100, 1, 1000, conflict=_TEMPLATE.format("50", "100")),
    "val_every": _H(10, 0, 100, conflict=_TEMPLATE.format("5", "10")),
    "save_every": _H(5, 0, 100),
    "lora_rank": _H(32, 16, 32),
    "lora_plus_lr_ratio": _H(32.0, 1, 100, conflict=_TEMPLATE.format("64", "32")),
    "adam_eps": _H(1e-8, 1e-16, 1e-2, conflict=_TEMPLATE.format("1e-12", "1e-8")),
    "adam_weight_decay": _H(0.01, 0, 1, conflict=_TEMPLATE.format("0", "0.01")),
    "adam_grad_clip_norm": _H(1.0, 0, 100, conflict=_TEMPLATE.format("0", "1.0")),
}
EVALUATION_HYPERPARAMETERS: Mapping[str, Hyperparameter] = MappingProxyType(
    {
        "eval_group_size": _H(1, 1, 128),
        "temperature": _H(0.0, 0, 2),
        "sampling_top_p": _H(1.0, 0, 1),
        "sampling_max_tokens": _H(4096, 512, 8192),
        **_BOTH,
    }
)
"""Of an evaluation, for all models. Source: `mtrl_eval_recipe_template_parameters.json`. The official evaluator writes
`sampling_temperature`, `top_p` and `max_tokens`, which the service's schema refuses."""
REFUSED_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "sampling_temperature": "temperature",
        "top_p": "sampling_top_p",
        "max_tokens": "sampling_max_tokens",
        "batch_size": "global_batch_size",
    }
)
"""Names that are often written, and the ones that the schema has."""


@dataclass(frozen=True)
class BaseModel:
    """A model that multi-turn RL jobs train. They train LoRA adapters only.

    Attributes:
        name: Short name.
        hub_id: Its id in SageMaker's public hub.
        weights: Its name on the Hugging Face hub. None if the weights are not public.
        regions: Where jobs can train it.
        context_tokens: Longest sequence: the prompt and all turns of a rollout.
        hyperparameters: Everything that a job may set for it, in the order of the documentation.
    """

    name: str
    hub_id: str
    weights: str | None
    regions: tuple[str, ...]
    context_tokens: int
    hyperparameters: Mapping[str, Hyperparameter]

    def hub_arn(self, region: str, partition: str = "aws") -> str:
        """Return the ARN of the newest version of the model in the public hub."""
        return f"arn:{partition}:sagemaker:{region}:aws:hub-content/SageMakerPublicHub/Model/{self.hub_id}"


_TWO, _ONE = ("us-east-1", "us-west-2"), ("us-west-2",)
_QWEN = {**_COMMON, "learning_rate": _H(4e-5, 0, 0.01, excludes_low=True)}
MODELS: Mapping[str, BaseModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            BaseModel("gpt-oss-20b", "openai-reasoning-gpt-oss-20b", "openai/gpt-oss-20b", _TWO, 65_536, _COMMON),
            BaseModel("gemma-4-31b", "huggingface-vlm-gemma-4-31b-it", "google/gemma-4-31B-it", _ONE, 65_536, _COMMON),
            BaseModel("qwen-3.6-27b", "huggingface-vlm-qwen3-6-27b", "Qwen/Qwen3.6-27B", _ONE, 65_536, _QWEN),
            BaseModel("nova-lite-2", "nova-textgeneration-lite-v2", None, _TWO, 32_768, _NOVA),
        )
    }
)
"""By their short names."""


def hub_id(base_model: str) -> str:
    """Return the id of a model in the hub, of its ARN. Returns other texts as they are."""
    return base_model.partition("/Model/")[2].partition("/")[0] or base_model


def find_model(name: str) -> BaseModel | None:
    """Return the model of a short name, an id in the hub or a hub ARN. Returns None for others."""
    found = hub_id(name)
    return MODELS.get(name) or next((model for model in MODELS.values() if model.hub_id == found), None)


@dataclass(frozen=True)
class Prices:
    """What a million tokens of a kind cost in US dollars.

    Attributes:
        prefill: Tokens of requests, counted in full for every turn.
        sample: Tokens of answers.
        train: Tokens of training rows. An evaluation has none.
        source: Who says so.
        seen: The day on which the source had these prices, as `2026-10-02`.
    """

    prefill: float = 0.0
    sample: float = 0.0
    train: float = 0.0
    source: str = "your prices"
    seen: str = ""

    @property
    def origin(self) -> str:
        """The source and its day."""
        return f"{self.source}, {self.seen}" if self.seen else self.source

    def cost(self, prefill: int = 0, sample: int = 0, train: int = 0) -> float:
        """Return what so many tokens cost in US dollars."""
        return (self.prefill * prefill + self.sample * sample + self.train * train) / 1e6


_PRICE_LIST = "AWS Price List, as recorded in cost_accounting.json of github.com/di37/aws-rl-workshop"
PRICES: Mapping[tuple[str, str], Prices] = MappingProxyType(
    {("gpt-oss-20b", "us-west-2"): Prices(0.12, 0.30, 0.36, _PRICE_LIST, "2026-10-02")}
)
"""Prices that are known, by the short name of the model and the region. An evaluation costs the same for a token."""


def known_prices(model: str, region: str) -> Prices | None:
    """Return the prices of a model in a region. Returns None if they are not known.

    Args:
        model: Short name, id in the hub or hub ARN.
        region: AWS region of the job.
    """
    found = find_model(model)
    return PRICES.get((found.name, region)) if found else None


def steps_per_epoch(prompts: int, batch_size: int) -> int:
    """Return the steps of a pass over the prompts; the last one may be smaller.

    600 prompts in batches of 32 gave 19 steps in a public run, and 640 in batches of 128 gave 5.
    """
    return -(-prompts // batch_size)


def total_steps(prompts: int, batch_size: int, max_epochs: int, max_steps: int) -> int:
    """Return the steps of a job: it ends with its epochs or its steps, whichever comes first."""
    return min(max_steps, max_epochs * steps_per_epoch(prompts, batch_size))
