"""The policy that answers from a script: the same turns for each rollout, in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime._recent import Recent
from aws_rft_sdk.runtime.answers import encode
from aws_rft_sdk.runtime.chat import AnswerError, read_answer
from aws_rft_sdk.runtime.policies import Call, Policy, PolicyError
from aws_rft_sdk.runtime.recordings import first_user_text

Script = Sequence[JSON]
"""The turns of a rollout. See `ScriptedPolicy`."""


def call(name: str, /, **arguments: JSON) -> dict[str, JSON]:
    """Return the call of a tool, as an item of a script.

    Args:
        name: Name of the tool.
        arguments: What the tool is called with.
    """
    return {"call": name, "arguments": arguments}


def scripted(script: Script | Mapping[str, Script]) -> ScriptedPolicy:
    """Return a policy that answers from a script. The arguments and errors are those of `ScriptedPolicy`.

    Example:
        >>> policy = scripted([call("look_up_order", order_id="A1"), "Your order is on its way."])
    """
    return ScriptedPolicy(script)


class ScriptedPolicy(Policy):
    """Answers turn k of each trajectory with item k of a script.

    Every rollout gets the whole script from its beginning. A turn past the end of the script is answered 400, and the
    text says how many turns the script has.

    An item is one of:

    - a text,
    - a call of a tool: `call("look_up", id=1)`, or in a file `{"call": "look_up", "arguments": {"id": 1}}`,
    - a list of calls that are made in one turn, where the first element may be a text,
    - an assistant message in OpenAI chat format, or a whole chat completion (which may have `usage`).

    Args:
        script: The items, or several such lists by prompt. A rollout gets the list with the longest key that occurs in
            its first user message, so the key "" is for all other prompts. A rollout without a list is answered 400.
        name: How errors call the script, usually the name of its file.

    Raises:
        ConfigurationError: There is no item, or an item is none of the above. The text names the item.
    """

    def __init__(self, script: Script | Mapping[str, Script], name: str = "the script") -> None:
        self._name = name
        scripts = script if isinstance(script, Mapping) else {"": script}
        self._scripts = {
            key: _read_script(items, f"{name}, prompt {key!r:.80}" if isinstance(script, Mapping) else name)
            for key, items in scripts.items()
        }
        if not self._scripts or not all(isinstance(key, str) for key in self._scripts):
            raise ConfigurationError(f"{name} must be a list of items, or an object of such lists by prompt")
        self._chosen: Recent[str, list[JSON]] = Recent()
        """The script of each trajectory. Its first user message may leave the agent's window later."""

    @classmethod
    def read(cls, path: str | Path) -> ScriptedPolicy:
        """Read a script from a JSON file: a list of items, or an object of such lists by prompt.

        Raises:
            ConfigurationError: The file cannot be read, is no JSON or holds no script. The text names the item.
        """
        try:
            script = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"the script {path} cannot be read: {error}") from error
        return cls(script, str(path))

    async def answer(self, call: Call) -> Mapping[str, JSON]:
        """Return the item of this turn."""
        if call.trajectory_id is None:
            script, turn = self._choose(call.request), _turns_before(call.request)
        else:
            if call.trajectory_id not in self._chosen:
                self._chosen[call.trajectory_id] = self._choose(call.request)
            script, turn = self._chosen[call.trajectory_id], call.turn
        if turn >= len(script):
            raise PolicyError(
                f"the script is over: {self._name} has {len(script)} turns, and the agent asks for turn {turn + 1}. "
                "Add an item, or let the agent stop earlier"
            )
        return read_answer(script[turn], call.request)

    def _choose(self, request: Mapping[str, Any]) -> list[JSON]:
        prompt = first_user_text(request)
        key = max((key for key in self._scripts if key in prompt), key=len, default=None)
        if key is None:
            raise PolicyError(
                f"{self._name} has no script for the prompt {prompt[:200]!r}. Its keys are "
                f"{', '.join(repr(key) for key in self._scripts)[:400]}. Add one, or the key '' for all other prompts"
            )
        return self._scripts[key]


def _turns_before(request: Mapping[str, Any]) -> int:
    """Return the number of answers in a conversation that belongs to no trajectory."""
    return sum(message.get("role") == "assistant" for message in request["messages"])


def _read_script(items: object, name: str) -> list[JSON]:
    if isinstance(items, str) or not isinstance(items, Sequence):
        raise ConfigurationError(f"{name} must be a list of items, not {items!r:.80}")
    if not items:
        raise ConfigurationError(f"{name} has no items")
    return [_read_item(item, f"{name}, item {number}") for number, item in enumerate(items, 1)]


def _read_item(item: JSON, where: str) -> JSON:
    """Return an item as what `read_answer` takes.

    Raises:
        ConfigurationError: It is no item. The text begins with `where`.
    """
    try:
        if isinstance(item, list | tuple):
            text = item[0] if item and isinstance(item[0], str) else None
            calls = item if text is None else item[1:]
            item = {"content": text, "tool_calls": [_read_call(part) for part in calls]}
        elif isinstance(item, Mapping) and "call" in item:
            item = {"content": None, "tool_calls": [_read_call(item)]}
        read_answer(item, {})
        encode(item)
    except (AnswerError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f'{where}: {error}. An item is a text, {{"call": <tool>, "arguments": {{...}}}}, a list of such calls, or '
            "an assistant message"
        ) from error
    return item


def _read_call(item: object) -> dict[str, JSON]:
    if not isinstance(item, Mapping) or not isinstance(item.get("call"), str) or not item["call"]:
        raise AnswerError(f"{item!r:.80} is no call of a tool")
    if unknown := item.keys() - {"call", "arguments"}:
        raise AnswerError(f"a call has no field {min(unknown)!r}")
    arguments = item.get("arguments", {})
    if not isinstance(arguments, Mapping):
        raise AnswerError(f"the arguments of {item['call']!r} are no object: {arguments!r:.80}")
    return {"function": {"name": item["call"], "arguments": encode(dict(arguments)).decode()}}
