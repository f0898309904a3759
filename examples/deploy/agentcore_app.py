"""The calculator agent inside AgentCore's own app. `python agentcore_app.py` serves it on port 8080.

The handler is the one in `../gsm8k_calculator/agent.py`; put that folder on `PYTHONPATH`, or copy its files beside this
one. Order matters: the app's `entrypoint` is outermost, `rft_handler` is nearest to the function.
"""

from __future__ import annotations

from agent import handler
from bedrock_agentcore import BedrockAgentCoreApp

from aws_rft_sdk.workers.agentcore import drained, in_background

app = BedrockAgentCoreApp(lifespan=drained)

# Answers a rollout at once and runs it in the background, with a ping that is busy meanwhile. Rollouts that are always
# shorter than AgentCore's 15 minutes for one call need no more than `app.entrypoint(handler)`.
app.entrypoint(in_background(app)(handler))

if __name__ == "__main__":
    app.run()
