"""The main job on real input: 440 recorded GSM8K problems of four models through `aws-rft rollout`.

    python benchmarks/gsm8k.py MODEL_SOLUTIONS_JSONL [--limit N] [--keep FOLDER]

The file is `model_solutions.jsonl` of openai/grade-school-math. Each recorded solution is replayed through the real
example agent with real tool calls. The reward must equal the file's `is_correct` in every single rollout.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from aws_rft_sdk.rollout import read_records

EXAMPLE = Path(__file__).parents[1] / "examples" / "gsm8k_calculator"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
AWS_RFT = str(Path(sysconfig.get_path("scripts")) / "aws-rft")


def run(solutions: Path, model: str, limit: int | None, folder: Path) -> dict[str, object]:
    """Replay one model and compare every reward with the file's verdict."""
    recording, dataset, out = folder / "recording.jsonl", folder / "dataset.jsonl", folder / "out"
    convert = [sys.executable, str(EXAMPLE / "convert.py"), str(solutions), "--model", model]
    subprocess.run([*convert, "--recording", str(recording), "--dataset", str(dataset)], check=True)
    command = [AWS_RFT, "rollout", f"{EXAMPLE / 'agent.py'}:handler", str(dataset)]
    command += ["--policy", f"replay:{recording}", "--out", str(out), "--concurrency", "64"]
    command += ["--limit", str(limit)] if limit else []
    began = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - began
    verdicts = [json.loads(line)[model]["is_correct"] for line in solutions.read_text().splitlines()]
    records = list(read_records(out))
    agreeing = sum(record.reward == float(verdicts[record.prompt_index]) for record in records)
    return {
        "model": model,
        "rollouts": len(records),
        "agreeing": agreeing,
        "mean_reward": sum(record.reward or 0.0 for record in records) / len(records),
        "turns": sum(record.turns for record in records),
        "rollouts_per_second": len(records) / seconds,
    }


def main() -> None:
    """Run all models, print a table, exit 1 unless every reward agrees."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("solutions", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--keep", type=Path, help="leave the runs in this folder, as MODEL/out")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        for model in MODELS:
            folder = Path(arguments.keep or temporary, model)
            folder.mkdir(parents=True)
            results.append(run(arguments.solutions, model, arguments.limit, folder))
    for row in results:
        print(
            f"{row['model']:20} {row['agreeing']} of {row['rollouts']} agree, mean reward {row['mean_reward']:.2%}, "
            f"{row['turns']} turns, {row['rollouts_per_second']:.1f} rollouts/s"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    sys.exit(any(row["agreeing"] != row["rollouts"] for row in results))


if __name__ == "__main__":
    main()
