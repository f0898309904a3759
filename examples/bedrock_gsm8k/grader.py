"""The reward of GSM8K as a Lambda function: is the number after the last `####` the right one?"""

from __future__ import annotations

from aws_rft_sdk.rewards import gsm8k, reward_lambda

reward = gsm8k
handler = reward_lambda(reward)
