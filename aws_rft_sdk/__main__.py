"""`python -m aws_rft_sdk` is the command `aws-rft`."""

from aws_rft_sdk.cli import main

if __name__ == "__main__":
    main()
