"""Each cause of a broken history, made on purpose with a real Strands agent, and silence where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from strands import Agent, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager, SummarizingConversationManager

from aws_rft_sdk import LocalRuntime, rft_handler, runtime_model
from aws_rft_sdk.runs.fidelity import Fidelity, check_histories
from aws_rft_sdk.runtime import Fault, Faults

Answer = Callable[[dict[str, Any]], dict[str, Any]]
ID = {"type": "function", "id": "call-1"}


def call_tool(arguments: str, **fields: Any) -> dict[str, Any]:
    call = {**ID, "function": {"name": "look_up", "arguments": arguments}}
    return {"role": "assistant", "content": "Let me see.", "tool_calls": [call], **fields}


def say(text: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


@tool
def look_up(word: str = "") -> str:
    """Look a word up.

    Args:
        word: The word.
    """
    return f"a kind of {word}"


@tool
def guess(word: str) -> str:
    """Guess a word.

    Args:
        word: The word.
    """
    return word


class Rollout:
    """One rollout of an agent that is made of a policy's answers."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers = iter(answers)

    def run(self, work: Callable[[Callable[..., Agent], str], Any], faults: Faults | None = None) -> Fidelity:
        model = runtime_model()

        def agent(*tools: Any, **options: Any) -> Agent:
            return Agent(
                model=model,
                tools=list(tools) or [look_up],
                **{"system_prompt": "Be brief.", "callback_handler": None, **options},
            )

        @rft_handler
        def handler(payload: dict[str, Any]) -> float:
            work(agent, payload["prompt"])
            return 1.0

        with LocalRuntime(policy=lambda request: next(self._answers, say("And so on.")), faults=faults) as runtime:
            payload = runtime.new_rollout("What is a newt?")
            handler(payload)
            return check_histories(runtime.trajectory(payload["metadata"]["rolloutId"]))


def ask(*prompts: str, tools: tuple[Any, ...] = (), **options: Any) -> Callable[..., Any]:
    def work(agent: Callable[..., Agent], prompt: str) -> None:
        made = agent(*tools, **options)
        for text in (prompt, *prompts):
            made(text)

    return work


def edited(agent: Callable[..., Agent], prompt: str) -> None:
    made = agent()
    made(prompt)
    made.messages[0]["content"][0]["text"] = "What is an eft?"
    made("More?")


def answer_edited(agent: Callable[..., Agent], prompt: str) -> None:
    made = agent()
    made(prompt)
    made.messages[1]["content"][0]["text"] = "Something else."
    made("More?")


def other_system_prompt(agent: Callable[..., Agent], prompt: str) -> None:
    made = agent()
    made(prompt)
    made.system_prompt = "Be long."
    made("More?")


def other_tools(agent: Callable[..., Agent], prompt: str) -> None:
    made = agent()
    made(prompt)
    made.tool_registry.process_tools([guess])
    made("More?")


def summarised(agent: Callable[..., Agent], prompt: str) -> None:
    manager = SummarizingConversationManager(summary_ratio=0.5, preserve_recent_messages=2)
    made = agent(conversation_manager=manager)
    for text in (prompt, "More?", "And more?"):
        made(text)
    manager.reduce_context(made)
    made("At last?")


def everything(agent: Callable[..., Agent], prompt: str) -> None:
    made = agent()
    made(prompt)
    made.system_prompt = "Be long."
    made.messages[0]["content"][0]["text"] = "What is an eft?"
    made("More?")


REASONED = {"reasoning_content": "A newt is an animal."}
CAUSES: dict[str, tuple[Rollout, Callable[..., Any], set[str], str, str]] = {
    "broken-json": (
        Rollout(call_tool('{"word": "newt'), say("A newt.")),
        ask(),
        {"tool_json_repaired"},
        '{"word": "newt',
        "{}",
    ),
    "spaced": (
        Rollout(call_tool('{ "word":  "newt" }'), say("A newt.")),
        ask(),
        {"arguments_reformatted"},
        '{ "word":  "newt" }',
        '{"word": "newt"}',
    ),
    "reasoning": (
        Rollout(call_tool('{"word": "newt"}', **REASONED), say("A newt.")),
        ask(),
        {"reasoning_dropped"},
        "A newt is an animal.",
        "",
    ),
    "window": (
        Rollout(say("A newt."), say("An eft."), say("A frog.")),
        ask("More?", "And more?", conversation_manager=SlidingWindowConversationManager(window_size=2)),
        {"sliding_window"},
        "What is a newt?",
        "",
    ),
    "window-with-equal-answers": (
        Rollout(say("Yes."), say("Yes."), say("Yes.")),
        ask("More?", "And more?", conversation_manager=SlidingWindowConversationManager(window_size=2)),
        {"sliding_window"},
        "What is a newt?",
        "",
    ),
    "summary": (
        Rollout(say("A newt."), say("An eft."), say("A frog."), say("We spoke of newts."), say("Yes.")),
        summarised,
        {"summary"},
        "What is a newt?",
        "We spoke of newts.",
    ),
    "edited": (Rollout(), edited, {"message_edited"}, "What is a newt?", "What is an eft?"),
    "answer-edited": (Rollout(say("A newt.")), answer_edited, {"message_edited"}, "A newt.", "Something else."),
    "system-prompt": (Rollout(), other_system_prompt, {"system_prompt_changed"}, "Be brief.", "Be long."),
    "tools": (Rollout(), other_tools, {"tools_changed"}, "look_up", "guess"),
    "several": (Rollout(), everything, {"message_edited", "system_prompt_changed"}, "Be brief.", "Be long."),
}


@pytest.mark.parametrize("name", CAUSES)
def test_history_when_the_agent_changes_it_then_the_cause_and_both_texts_are_named(name: str) -> None:
    rollout, work, causes, before, now = CAUSES[name]

    found = rollout.run(work)

    assert {item.cause.value for item in found.breaks} == causes
    first = found.breaks[0]
    assert before in first.before
    assert now in first.now
    assert found.rows == found.conversations + len({item.turn for item in found.breaks})


def parallel(agent: Callable[..., Agent], prompt: str) -> None:
    async def both() -> None:
        await asyncio.gather(*(agent(system_prompt=f"You are {name}.").invoke_async(prompt) for name in "abc"))

    asyncio.run(both())


def structured(agent: Callable[..., Agent], prompt: str) -> None:
    from pydantic import BaseModel

    class Animal(BaseModel):
        name: str

    agent()(prompt, structured_output_model=Animal)


def again(agent: Callable[..., Agent], prompt: str) -> None:
    for _ in range(2):
        agent()(prompt)


ANIMAL = {**ID, "function": {"name": "Animal", "arguments": '{"name": "newt"}'}}
CLEAN: dict[str, tuple[Rollout, Callable[..., Any], int]] = {
    "one-turn": (Rollout(say("A newt.")), ask(), 1),
    "tool": (Rollout(call_tool('{"word": "newt"}'), say("A newt.")), ask(), 1),
    "talk": (Rollout(say("A newt."), say("An eft.")), ask("More?", "And more?"), 1),
    "unicode": (Rollout(call_tool('{"word": "n\u00e9wt"}'), say("\u00c9.")), ask(), 1),
    "sub-agents-at-once": (Rollout(), parallel, 3),
    "call-repeated": (Rollout(), again, 2),
}


@pytest.mark.parametrize("name", CLEAN)
def test_history_when_the_agent_only_adds_to_it_then_nothing_is_said(name: str) -> None:
    rollout, work, rows = CLEAN[name]

    found = rollout.run(work)

    assert found.breaks == ()
    assert found.rows == rows


def asked_again(agent: Callable[..., Agent], prompt: str) -> None:
    made = agent()
    try:
        made(prompt)
    except Exception:  # as handlers do that try once more
        made([])


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize(
    ("status", "sampled"), [(429, False), (500, False), (500, True)], ids=["throttled", "failed", "answer-lost"]
)
def test_history_when_a_call_was_asked_again_then_no_cause_is_named(status: int, sampled: bool, turn: int) -> None:
    fault = Fault("status", route="inference", status=status, after=sampled, attempts=(turn,), retry_after_seconds=0.0)
    answers = [call_tool('{"word": "newt"}'), say("A newt.")]
    lost = [say("Lost.")] if sampled else []

    found = Rollout(*answers[: turn - 1], *lost, *answers[turn - 1 :]).run(asked_again, Faults(fault))

    # An answer that was lost on its way is a turn too, at the end of a row of its own.
    assert found.breaks == ()
    assert (found.turns, found.rows) == (2 + sampled, 1 + sampled)


def test_history_when_a_structured_answer_is_wanted_then_only_its_tool_is_new() -> None:
    found = Rollout(say("A newt."), {"role": "assistant", "content": None, "tool_calls": [ANIMAL]}).run(structured)

    assert {item.cause.value for item in found.breaks} <= {"tools_changed"}
