"""The function between the job service and a worker: what `aws-rft worker lambda-package` puts into its zip."""

from aws_rft_sdk.workers.lambda_forwarder import handler as lambda_handler

__all__ = ["lambda_handler"]
