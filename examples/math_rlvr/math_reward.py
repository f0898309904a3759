"""The reward: is the final number right, and a little for giving it in the right form.

One object serves the rollouts of an agent, the bench, and an AWS Lambda function.
"""

from __future__ import annotations

from aws_rft_sdk.rewards import DominantOutcome, ExactNumber, FinalAnswerLine, reward_lambda

reward = DominantOutcome(ExactNumber(), {"format": (FinalAnswerLine(), 0.1)}, bound=0.1, success_threshold=0.5)
"""1.0 for the right number, 0.0 for another; 0.1 more if the last line is "#### The final answer is <number>".

An answer that goes on after that line with a question of its own gets no 0.1, and one that names two numbers no 1.0.

However it is formatted, no wrong answer comes near a right one: that is checked when the object is made.
"""

handler = reward_lambda(reward)
"""The same reward as the handler of a Lambda function, for services that send finished answers to be scored."""
