"""A production model that answers in this process, and handlers that ask it inside rollouts by mistake."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from strands import Agent, tool
from strands.agent.conversation_manager import SummarizingConversationManager
from strands.models.model import Model
from strands.multiagent import GraphBuilder, Swarm

from aws_rft_sdk import RFTContext, rft_handler
from aws_rft_sdk.adapters.runtime_model import runtime_model


class Production(Model):
    """Answers one sentence, and opens no connection."""

    def __init__(self, model_id: str = "acme.production-1") -> None:
        self.config = {"model_id": model_id}

    def update_config(self, **config: Any) -> None:
        self.config.update(config)

    def get_config(self) -> dict[str, str]:
        return self.config

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[dict[str, Any]]:
        await asyncio.sleep(0)
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"start": {}}}
        yield {"contentBlockDelta": {"delta": {"text": "from production"}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}

    async def structured_output(self, output_model: Any, *args: Any, **kwargs: Any) -> AsyncIterator[dict[str, Any]]:
        yield {"output": output_model()}


policy = runtime_model(Production())
production = Production()


def agent(model: Model = policy, *tools: Any, name: str = "main", **options: Any) -> Agent:
    return Agent(model=model, tools=list(tools), name=name, callback_handler=None, **options)


def answers(work: Any) -> Any:
    """Return a decorated handler that does `work` with the prompt."""

    @rft_handler
    def handler(payload: dict[str, Any]) -> float:
        work(payload["prompt"])
        return 1.0

    return handler


def sub_agent(prompt: str, model: Model = production) -> None:
    reviewer = agent(model, name="reviewer")
    agent(policy, reviewer.as_tool(description="Reviews."))(prompt)


def sub_agent_in_a_tool(prompt: str, model: Model = production) -> None:
    @tool
    def ask_reviewer(question: str) -> str:
        """Ask a reviewer.

        Args:
            question: What to ask.
        """
        return str(agent(model, name="reviewer")(question))

    agent(policy, ask_reviewer)(prompt)


def graph(prompt: str, model: Model = production) -> None:
    builder = GraphBuilder()
    builder.add_node(agent(name="writer"), "writer")
    builder.add_node(agent(model, name="reviewer"), "reviewer")
    builder.add_edge("writer", "reviewer")
    builder.set_entry_point("writer")
    builder.build()(prompt)


def swarm(prompt: str, model: Model = production) -> None:
    Swarm([agent(name="writer"), agent(name="editor"), agent(model, name="reviewer")])(prompt)


def summarizer(prompt: str, model: Model = production) -> None:
    manager = SummarizingConversationManager(
        summarization_agent=agent(model, name="reviewer"), preserve_recent_messages=1
    )
    main = agent(conversation_manager=manager)
    for part in range(3):
        main(f"{prompt}, part {part}")
    manager.reduce_context(main)


def structured(prompt: str, model: Model = production) -> None:
    from pydantic import BaseModel

    class Form(BaseModel):
        note: str = ""

    async def parse() -> None:
        async for _ in model.structured_output(Form, [{"role": "user", "content": [{"text": prompt}]}]):
            pass

    agent()(prompt)
    asyncio.run(parse())


def in_a_thread(prompt: str, work: Any = None) -> None:
    agent()(prompt)
    thread = threading.Thread(target=work or (lambda: agent(name="reviewer")(prompt)))
    thread.start()
    thread.join()


def in_a_carried_thread(prompt: str) -> None:
    in_a_thread(prompt, RFTContext.carry(lambda: agent(name="reviewer")(prompt)))
