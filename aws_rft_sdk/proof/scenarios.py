"""What the rollouts of the mixture do. Each scenario is written once and played with `await` or without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, Field
from strands import Agent, tool
from strands.models.model import Model

from aws_rft_sdk.context import RFTContext


class Step(Protocol):
    """One thing that a rollout does."""

    async def perform(self) -> None:
        """Do it in the running event loop."""

    def perform_blocking(self) -> None:
        """Do it in a thread without an event loop."""


Script = Generator[Step, None, None]


class Reading(BaseModel):
    """Read a meter."""

    meter: str = Field(description="Name of the meter.")
    value: int = Field(ge=0)


@dataclass(frozen=True)
class Stock:
    """What all scenarios share: the wrapped models, built once."""

    model: Model
    """Streams."""
    unstreamed_model: Model
    """Does not."""
    start_inner: Callable[[], tuple[dict[str, object], Callable[[], None]]]
    """Starts another rollout: returns its payload, and what is to be called when it is over."""
    inner_async: Callable[[dict[str, object]], Any]
    """The decorated coroutine function that runs it."""
    inner_sync: Callable[[dict[str, object]], Any]
    """The decorated function that runs it."""


@dataclass(frozen=True)
class Ask:
    """Have an agent answer."""

    agent: Agent
    prompt: str
    schema: type[BaseModel] | None = None

    async def perform(self) -> None:
        """Ask it in this loop."""
        await self.agent.invoke_async(self.prompt, structured_output_model=self.schema)

    def perform_blocking(self) -> None:
        """Ask it in the thread and loop that Strands makes for it."""
        self.agent(self.prompt, structured_output_model=self.schema)


@dataclass(frozen=True)
class Parse:
    """Ask a model for structured output, without an agent."""

    model: Model
    prompt: str

    async def perform(self) -> None:
        """Ask it."""
        async for _ in self.model.structured_output(Reading, [{"role": "user", "content": [{"text": self.prompt}]}]):
            pass

    def perform_blocking(self) -> None:
        """Ask it in a loop of its own."""
        asyncio.run(self.perform())


@dataclass(frozen=True)
class InPool:
    """Have several agents answer at once in a pool of threads that is given the context."""

    asks: tuple[Ask, ...]

    async def perform(self) -> None:
        """Wait for the pool without blocking the loop."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(len(self.asks)) as pool:
            calls = [loop.run_in_executor(pool, RFTContext.carry(ask.perform_blocking)) for ask in self.asks]
            await asyncio.gather(*calls)

    def perform_blocking(self) -> None:
        """Wait for the pool."""
        with ThreadPoolExecutor(len(self.asks)) as pool:
            for call in [pool.submit(RFTContext.carry(ask.perform_blocking)) for ask in self.asks]:
                call.result()


@dataclass(frozen=True)
class Inner:
    """Run another rollout inside this one."""

    stock: Stock

    async def perform(self) -> None:
        """Call its handler."""
        payload, over = self.stock.start_inner()
        try:
            await self.stock.inner_async(payload)
        finally:
            over()

    def perform_blocking(self) -> None:
        """Call its handler."""
        payload, over = self.stock.start_inner()
        try:
            self.stock.inner_sync(payload)
        finally:
            over()


async def play(script: Script) -> None:
    """Perform a script in the running event loop."""
    for step in script:
        await step.perform()


def play_blocking(script: Script) -> None:
    """Perform a script in a thread without an event loop."""
    for step in script:
        step.perform_blocking()


# --- the scenarios ---------------------------------------------------------------------------------------------------


@tool
def read_meter(meter: str) -> str:
    """Read a meter.

    Args:
        meter: Its name.
    """
    return f"{meter} shows 7"


@tool
async def read_clock(place: str) -> str:
    """Read a clock.

    Args:
        place: Where it hangs.
    """
    await asyncio.sleep(0)
    return f"{place}: noon"


def _agent(model: Model, *tools: Any) -> Agent:
    return Agent(model=model, tools=list(tools), callback_handler=None)


def plain(stock: Stock, prompt: str) -> Script:
    """One streamed turn."""
    yield Ask(_agent(stock.model), prompt)


def unstreamed(stock: Stock, prompt: str) -> Script:
    """Turns that are not streamed, in one conversation."""
    agent = _agent(stock.unstreamed_model)
    yield Ask(agent, prompt)
    yield Ask(agent, "go on")


def tools(stock: Stock, prompt: str) -> Script:
    """Two tools called in one turn, which Strands runs at once."""
    yield Ask(_agent(stock.model, read_meter, read_clock), prompt)


def subagent(stock: Stock, prompt: str) -> Script:
    """An agent as a tool of another, over the same model."""

    @tool
    async def ask_expert(question: str) -> str:
        """Ask an expert.

        Args:
            question: What to ask.
        """
        return str(await _agent(stock.model, read_meter).invoke_async(question))

    @tool
    def ask_librarian(question: str) -> str:
        """Ask a librarian.

        Args:
            question: What to ask.
        """
        return str(_agent(stock.model)(question))

    yield Ask(_agent(stock.model, ask_expert, ask_librarian), prompt)


def structured(stock: Stock, prompt: str) -> Script:
    """Structured output in both of Strands' ways: by a tool, and by a response schema."""
    yield Ask(_agent(stock.model), prompt, Reading)
    yield Parse(stock.model, prompt)


def pool(stock: Stock, prompt: str) -> Script:
    """Two agents at once in a pool of threads."""
    yield InPool(tuple(Ask(_agent(stock.model), f"{prompt}, part {part}") for part in (1, 2)))


def nested(stock: Stock, prompt: str) -> Script:
    """A turn, another rollout within this one, and a turn that is this one's again."""
    yield Ask(_agent(stock.model), prompt)
    yield Inner(stock)
    yield Ask(_agent(stock.model), f"{prompt} again")


SCENARIOS: dict[str, Callable[[Stock, str], Script]] = {
    "plain": plain,
    "not streamed": unstreamed,
    "parallel tools": tools,
    "agents as tools": subagent,
    "structured output": structured,
    "thread pool": pool,
    "nested": nested,
    "throttled (429)": plain,
    "unavailable (503)": tools,
    "answer lost (500)": plain,
    "cancelled": plain,
}
"""By kind. What makes the last four special is done to them from outside."""
