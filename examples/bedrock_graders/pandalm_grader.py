"""Grades evaluations of two responses. The judge is a model on Bedrock, called through boto3, which Lambda has."""

import boto3
from botocore.config import Config

from aws_rft_sdk.rewards import PANDALM, Judge


def bedrock():
    """Return a client that does not retry, because the judge does."""
    return boto3.client("bedrock-runtime", config=Config(retries={"total_max_attempts": 1}))


reward = Judge(bedrock, PANDALM, model_id="us.amazon.nova-pro-v1:0")
