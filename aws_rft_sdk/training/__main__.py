"""`accelerate launch -m aws_rft_sdk.training` is the command `aws-rft train`."""

import sys

from aws_rft_sdk.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
