"""Prompt files, as the service reads them."""

from aws_rft_sdk.datasets.prompts import read_prompts

__all__ = ["read_prompts"]
