"""Print or submit the recipe as a SageMaker training job.

    python launch_sagemaker.py --prompts s3://BUCKET/prompts --output s3://BUCKET/out            prints
    python launch_sagemaker.py --prompts s3://BUCKET/prompts --output s3://BUCKET/out --submit   submits; costs money

What is printed are the arguments of the SageMaker SDK's `ModelTrainer`. Printing needs neither AWS nor the SDK.
Submitting needs both: `pip install sagemaker-train`. The prompts are what `dataset.py` wrote.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMAGE = "763104351884.dkr.ecr.{region}.amazonaws.com/pytorch-training:2.8.0-gpu-py312-cu129-ubuntu22.04-sagemaker"
"""A container with PyTorch by AWS. Its account is another one in some regions; give `--image` there."""


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `ModelTrainer` as plain values."""
    command = ["python", "sagemaker_entry.py", "--recipe", options.recipe]
    return {
        "base_job_name": "grpo-gsm8k",
        "role": options.role,
        "training_image": options.image or IMAGE.format(region=options.region),
        "source_code": {
            "source_dir": str(HERE),
            "requirements": "requirements.txt",
            "command": shlex.join(command),
        },
        "compute": {
            "instance_type": options.instance_type,
            "instance_count": options.instances,
            "volume_size_in_gb": 200,
        },
        "stopping_condition": {"max_runtime_in_seconds": options.hours * 3600},
        "input_data_config": [{"channel_name": "prompts", "data_source": options.prompts}],
        "output_data_config": {"s3_output_path": options.output},
        "environment": {"RFT_MODEL": options.model} if options.model else {},
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the job, or submit it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", required=True, help="S3 URI of the folder that dataset.py wrote")
    parser.add_argument("--output", required=True, help="S3 URI for the result")
    parser.add_argument("--recipe", default="recipe.toml", choices=["recipe.toml", "recipe_qlora.toml"])
    parser.add_argument("--model", help="instead of the recipe's model")
    parser.add_argument("--role", help="ARN of the job's role; by default that of the SageMaker SDK")
    parser.add_argument("--region", default="us-west-2", help="of the default image")
    parser.add_argument("--image", help="another training image")
    parser.add_argument("--instance-type", default="ml.g6.48xlarge", help="8 GPUs; the post's, as is the count of 1")
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument("--hours", type=int, default=24, help="longest runtime")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--submit", action="store_true", help="submit the job")
    how.add_argument("--dry-run", action="store_true", help="print the job. This is the default")
    options = parser.parse_args(argv)
    arguments = arguments_of(options)
    if not options.submit:
        sys.stdout.write(json.dumps(arguments, indent=2) + "\n")
        return
    try:
        from sagemaker.train import ModelTrainer
    except ImportError as error:
        raise SystemExit("Submitting needs the SageMaker SDK. Type: pip install sagemaker-train") from error
    ModelTrainer(**arguments).train(wait=False)


if __name__ == "__main__":
    main()
