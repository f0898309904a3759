"""Chats as a template renders them, and the turns that a chat continues token for token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime import PolicyError

Messages = list[dict[str, Any]]


class Chat(NamedTuple):
    """What a request gives the chat template."""

    messages: Messages
    """Text as text, arguments of tool calls as objects."""
    tools: list[dict[str, Any]]
    options: dict[str, Any]
    """`chat_template_kwargs` of the request, for example `enable_thinking`."""

    @property
    def key(self) -> str:
        """Is equal for equal tools and options."""
        return json.dumps([self.tools, self.options], sort_keys=True)


class AnsweredTurn(NamedTuple):
    """A request with its answer."""

    chat: Chat
    """The request's messages and the answer."""
    ids: list[int]
    """Tokens of the prompt, and the sampled ones."""
    text: str
    """The sampled tokens as text, without the token that ended them."""
    end_id: int | None
    """The token that ended them. None if they were cut off."""

    def begins(self, chat: Chat) -> bool:
        """Return whether `chat` has the same tools and begins with these messages. Agents write them in other ways."""
        own = self.chat.messages
        same = len(chat.messages) >= len(own) and self.chat.key == chat.key
        return same and all(_canonical(a) == _canonical(b) for a, b in zip(own, chat.messages, strict=False))


def read_chat(request: Mapping[str, Any]) -> Chat:
    """Return what a chat request gives the template.

    Raises:
        PolicyError: 400. A message holds something else than text.
    """
    tools = [] if request.get("tool_choice") == "none" else request.get("tools") or []
    return Chat([read_message(m) for m in request["messages"]], tools, request.get("chat_template_kwargs") or {})


def read_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with its content as text and the arguments of its tool calls as objects.

    Raises:
        PolicyError: 400. The content holds something else than text.
    """
    read = {name: value for name, value in message.items() if value is not None}
    read["role"] = {"developer": "system"}.get(message["role"], message["role"])
    read["content"] = _read_text(message.get("content"))
    if calls := message.get("tool_calls"):
        read["tool_calls"] = [{**c, "function": {**c["function"], "arguments": _read_arguments(c)}} for c in calls]
    else:
        read.pop("tool_calls", None)
    return read


def _read_text(content: JSON) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for block in content:
        if not isinstance(block, Mapping) or not isinstance(block.get("text"), str):
            kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
            raise PolicyError(f"a message has content of type {kind!r:.80}. TorchPolicy reads text only")
        texts.append(block["text"])
    return "\n".join(texts)


def _read_arguments(call: Mapping[str, Any]) -> Any:
    arguments = call["function"].get("arguments")
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _canonical(message: Mapping[str, Any]) -> object:
    calls = [(c["function"].get("name"), c["function"]["arguments"]) for c in message.get("tool_calls", ())]
    return message["role"], message["content"].strip(), calls


class Template:
    """The chat template of a tokenizer.

    Args:
        tokenizer: Must have a chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def render(self, chat: Chat, count: int | None = None, *, answers: bool = True) -> str:
        """Return the text of the first `count` messages, or of all.

        Args:
            chat: The chat.
            count: How many messages.
            answers: Whether an answer comes next.

        Raises:
            PolicyError: 400. The template refuses the messages.
        """
        try:
            text: str = self._tokenizer.apply_chat_template(
                chat.messages[:count],
                tools=chat.tools or None,
                add_generation_prompt=answers,
                tokenize=False,
                **chat.options,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise PolicyError(f"the chat template refuses the messages: {error}") from error
        return text

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a rendered text. Markers in it become special tokens, as in `apply_chat_template`."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def encode_after(self, text: str, end_id: int | None) -> list[int]:
        """Return the tokens of a text that comes after a token. Alone, some tokenizers would begin it with a space."""
        end_id = self._tokenizer.eos_token_id if end_id is None else end_id
        if end_id is None:
            return self.encode(text)
        ids: list[int] = self.encode(self._tokenizer.decode([end_id]) + text)
        return ids[1:] if ids[:1] == [end_id] else self.encode(text)

    def prompt_ids(self, chat: Chat, turns: Sequence[AnsweredTurn]) -> list[int]:
        """Return the tokens of a chat: those of the longest turn that it continues and what comes after, or all anew.

        Raises:
            PolicyError: 400. The template refuses the messages.
        """
        found = [turn for turn in turns if turn.begins(chat)]
        if found:
            turn = max(reversed(found), key=lambda turn: len(turn.chat.messages))
            # As they were answered: agents lose what they do not know, for example reasoning.
            messages = turn.chat.messages + chat.messages[len(turn.chat.messages) :]
            added = self._text_after(turn, chat._replace(messages=messages))
            if added is not None:
                return [*turn.ids, *self.encode_after(added, turn.end_id)]
        return self.encode(self.render(chat))

    def _text_after(self, turn: AnsweredTurn, chat: Chat) -> str | None:
        """Return what the template writes after the tokens of a turn. None if it shows the turn otherwise now."""
        count = len(turn.chat.messages)
        whole = self.render(chat)
        end = "" if turn.end_id is None else self._tokenizer.decode([turn.end_id])
        asked = self.render(chat, count - 1)
        if whole.startswith(asked + turn.text):
            after = whole[len(asked + turn.text) :]
        else:
            # The message is written in another way than it was sampled: spaces, JSON, or tokens that are not shown.
            shown = self.render(chat, count, answers=False)
            before = self.render(chat, count - 1, answers=False)
            mark = shown.rfind(end or self._tokenizer.eos_token or "\0", len(before))
            if mark < 0 or not whole.startswith(shown):
                return None
            after = whole[mark:]
        blank = len(after) - len(after.lstrip())
        return after[blank + len(end) :] if end and after.startswith(end, blank) else after
