"""Loads the model and the tokenizer that a recipe names. This module needs the extra `train`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.training.recipe import Recipe

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def is_on_cpu(recipe: Recipe) -> bool:
    """Return whether the training runs without a GPU.

    Raises:
        ConfigurationError: The recipe asks for a GPU, and there is none. Or it asks for what needs one.
    """
    has_gpu = torch.cuda.is_available()
    if recipe.device == "cuda" and not has_gpu:
        raise ConfigurationError('device is "cuda", and PyTorch finds no GPU here. Give "auto" or "cpu"')
    if recipe.method == "qlora" and find_spec("bitsandbytes") is None:
        raise ConfigurationError(
            'method "qlora" needs bitsandbytes. Type: pip install bitsandbytes, or give the method "lora"'
        )
    return recipe.device == "cpu" or not has_gpu


def load_tokenizer(recipe: Recipe) -> Any:
    """Load the tokenizer, with the chat template of the recipe.

    Raises:
        ConfigurationError: There is none, or it has no chat template.
    """
    tokenizer = _load(AutoTokenizer.from_pretrained, recipe.tokenizer or recipe.model, "tokenizer")
    if recipe.chat_template is not None:
        tokenizer.chat_template = Path(recipe.chat_template).read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise ConfigurationError(
            f"the tokenizer of {recipe.tokenizer or recipe.model} has no chat template. Name the file of one: "
            "`chat_template` in [train]"
        )
    return tokenizer


def load_model(recipe: Recipe, *, on_cpu: bool) -> Any:
    """Load the model.

    Raises:
        ConfigurationError: There is none.
    """
    # In bfloat16 most updates are too small to change a weight. If all weights are trained, only computing is in it.
    is_wide = on_cpu if recipe.dtype == "auto" else recipe.dtype == "float32"
    name = "float32" if is_wide or recipe.method == "full" else "bfloat16"
    options: dict[str, Any] = {"dtype": _DTYPES[name if recipe.dtype != "float16" else "float16"]}
    if recipe.method == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=options["dtype"],
        )
    return _load(AutoModelForCausalLM.from_pretrained, recipe.model, "model", **options)


def adapter_of(recipe: Recipe) -> LoraConfig | None:
    """Return what the adapter is like. None if all weights are trained."""
    if recipe.method == "full":
        return None
    targets = recipe.lora_targets
    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )


def check_loaded(recipe: Recipe, model: Any, tokenizer: Any) -> None:
    """Refuse a model and a tokenizer that do not fit together, or not the recipe.

    Raises:
        ConfigurationError: The tokenizer has no token that ends an answer, or the model has no module with a name that
            the recipe wants an adapter for.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigurationError("the tokenizer has no eos_token, so no answer would end. Set tokenizer.eos_token")
    targets = recipe.lora_targets
    if recipe.method == "full" or isinstance(targets, str):
        return
    names = [name for name, _ in model.named_modules()]
    if missing := [one for one in targets if not any(name == one or name.endswith(f".{one}") for name in names)]:
        known = sorted({name.rpartition(".")[2] for name in names if name.endswith(("_proj", "_head", "attn", "fc"))})
        raise ConfigurationError(
            f"lora_targets names {', '.join(missing)}, and the model has no such module"
            + (f". It has {', '.join(known)}" if known else "")
        )


def _load(load: Any, name: str | None, what: str, **options: Any) -> Any:
    if name is None:
        raise ConfigurationError(f"there is no {what}. Give `model` in [train] of the recipe, or --model")
    try:
        return load(name, **options)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the {what} {name} cannot be loaded: {error}") from error
