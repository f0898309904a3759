"""Accuracy by number of solved examples, on the test split that `dataset.py` wrote.

    python evaluate.py FOLDER --model Qwen/Qwen2.5-0.5B-Instruct [--tuned RUN/model] [--json]
    python evaluate.py FOLDER --policy upstream:http://127.0.0.1:8000 [--json]

Questions go through the handler and the wire of the training, so "correct" means the same. Every problem is answered
once. The intervals are Wilson's, for 95 %. Exit status 1: rollouts have failed, and accuracy is that of the rest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from dataset import SHOT_COUNTS, test_file

from aws_rft_sdk.errors import RFTError
from aws_rft_sdk.rollout import run
from aws_rft_sdk.runtime.policies import Policy, PolicyFunction
from aws_rft_sdk.training.learning import wilson

HANDLER = f"{Path(__file__).with_name('agent.py')}:handler"


@dataclass(frozen=True)
class Score:
    """Accuracy of one policy with one number of solved examples."""

    accuracy: float | None
    """Share of right numbers. None if no problem was answered."""
    low: float
    high: float
    correct: int
    answered: int
    failed: int
    """Problems without an answer, because their rollout failed. They are not in `accuracy`."""
    form: float | None
    """Share of answers that end in the line that the recipe asks for."""


def score(
    policy: Policy | PolicyFunction | str,
    folder: str | Path,
    *,
    shots: Iterable[int] = SHOT_COUNTS,
    limit: int | None = None,
    temperature: float = 0.0,
    max_tokens: int = 512,
    out: Path | None = None,
    concurrency: int = 64,
) -> dict[int, Score]:
    """Return the score of a policy for each number of solved examples.

    Args:
        policy: What `run` takes, for example a `TorchPolicy`.
        folder: What `dataset.py` wrote.
        shots: Numbers of solved examples.
        limit: Use the first `limit` problems. None for all.
        temperature: 0 takes the likeliest token each time.
        max_tokens: Of an answer. A longer answer is cut off and scored as far as it goes.
        out: Folder for a run of each number, to look at and for `aws-rft compare`. None to keep none.
        concurrency: Rollouts in flight.
    """
    scores = {}
    for count in shots:
        records = run(
            HANDLER,
            Path(folder) / test_file(count),
            policy=policy,
            limit=limit,
            temperature=temperature,
            max_tokens=max_tokens,
            concurrency=concurrency,
            **({"discard": True} if out is None else {"out": out / test_file(count).removesuffix(".jsonl")}),
        ).records
        ended = [record.metrics for record in records if record.reward is not None]
        correct, formed = (sum(each[part] == 1 for each in ended) for part in ("correct", "format"))
        share = correct / len(ended) if ended else None
        form = formed / len(ended) if ended else None
        scores[count] = Score(
            share, *wilson(share or 0.0, len(ended)), correct, len(ended), len(records) - len(ended), form
        )
    return scores


def load_policy(model: str, tuned: str | None = None, *, seed: int = 0) -> Policy:
    """Return a policy of a model's weights, or of its tuned weights. Needs the extra `train`.

    Args:
        model: Path or hub id of the base model.
        tuned: Path of what training has left: an adapter, or a whole model. None for the base model.
        seed: Of the sampling, where the temperature is not 0.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aws_rft_sdk.training.torch_policy import TorchPolicy

    is_adapter = tuned is not None and (Path(tuned) / "adapter_config.json").exists()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = tuned if tuned and not is_adapter else model
    weights = AutoModelForCausalLM.from_pretrained(name, dtype="auto").to(device)
    if is_adapter:
        from peft import PeftModel

        weights = PeftModel.from_pretrained(weights, tuned)
    return TorchPolicy(weights.eval(), AutoTokenizer.from_pretrained(model), seed=seed)


def show(scores: dict[str, dict[int, Score]]) -> str:
    """Return scores by the name of their policy as a table."""
    lines = ["policy    shots  right       accuracy  95 % interval   in the form"]
    for name, by_shots in scores.items():
        for count, each in by_shots.items():
            right, form = f"{each.correct}/{each.answered}", "-" if each.form is None else f"{each.form:.0%}"
            share = "-" if each.accuracy is None else f"{each.accuracy:.1%}"
            failed = f"  {each.failed} rollouts failed" if each.failed else ""
            lines.append(
                f"{name:9} {count:5}  {right:11} {share:8}  {each.low:6.1%} to {each.high:5.1%}  {form}{failed}"
            )
    return "\n".join(lines)


def main() -> int:
    """Evaluate what the command line names, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help="path or hub id of the base model")
    which.add_argument("--policy", help="a policy by name, as for aws-rft rollout")
    parser.add_argument("--tuned", help="adapter or model that training has left, to compare with --model")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOT_COUNTS, choices=SHOT_COUNTS)
    parser.add_argument("--limit", type=int, help="use the first so many problems")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the runs, one for each policy and number")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.tuned and not options.model:
        parser.error("--tuned is compared with --model; give both")
    names = ["policy"] if options.policy else ["base", "tuned"] if options.tuned else ["base"]
    scores = {}
    for name in names:
        tuned = options.tuned if name == "tuned" else None
        scores[name] = score(
            options.policy or load_policy(options.model, tuned, seed=options.seed),
            options.folder,
            shots=options.shots,
            limit=options.limit,
            temperature=options.temperature,
            max_tokens=options.max_tokens,
            out=options.out and options.out / name,
        )
    result = {name: {count: asdict(each) for count, each in by_shots.items()} for name, by_shots in scores.items()}
    sys.stdout.write((json.dumps(result) if options.json else show(scores)) + "\n")
    return int(any(each.failed for by_shots in scores.values() for each in by_shots.values()))


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except RFTError as error:
        raise SystemExit(str(error)) from error
