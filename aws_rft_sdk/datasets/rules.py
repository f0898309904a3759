"""The rules that a dataset is checked by: one row each, with what it costs to break it and how to mend it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Target(str, Enum):
    """What a dataset is for."""

    MTRL = "mtrl"
    """Multi-turn RL jobs of SageMaker: a column of prompts."""
    BEDROCK = "bedrock"
    """Reinforcement fine-tuning on Bedrock: messages and a reference answer."""
    NOVA = "nova"
    """Nova RFT with a reward Lambda: messages, a reference answer, perhaps ids and tools."""
    NOVA_MULTITURN = "nova-multiturn"
    """Nova Forge with an environment of one's own: an id and metadata."""


class Severity(str, Enum):
    """What it costs to break a rule."""

    ERROR = "error"
    """The job is refused, or learns the wrong thing."""
    WARNING = "warning"
    """The job runs, and this is probably not what was meant."""


class Rule(NamedTuple):
    """One rule."""

    severity: Severity
    targets: frozenset[Target]
    meaning: str
    """What holds in a dataset that keeps the rule."""
    fix: str


_ALL = frozenset(Target)
_MTRL = frozenset({Target.MTRL})
_CHAT = frozenset({Target.BEDROCK, Target.NOVA})
_MULTI = frozenset({Target.NOVA_MULTITURN})
_ROWS = _CHAT | _MULTI  # one JSON object a line
_PROMPT = _MTRL | _MULTI
_E, _W = Severity.ERROR, Severity.WARNING

RULES: dict[str, Rule] = {
    # The file
    "file-format": Rule(_E, _ROWS, "the file is jsonl", "convert it: aws-rft dataset convert IN OUT.jsonl"),
    "file-broken": Rule(
        _E, _ALL, "the file can be read to its end", "mend the file here; what follows was not checked"
    ),
    "file-bom": Rule(_W, _ALL, "the file has no byte order mark", "save it as UTF-8 without BOM"),
    "file-delimiter": Rule(_W, _ALL, "cells of a csv file are divided by commas", "write it with commas"),
    "header-repeated": Rule(_E, _ALL, "no two columns of a csv file have one name", "rename one; only one is read"),
    "header-empty": Rule(_W, _ALL, "columns of a csv file have names", "name it, or leave the column out"),
    "rows-none": Rule(_E, _ALL, "there are rows", "write some"),
    "rows-min": Rule(_E, _CHAT, "there are at least 100 rows", "add rows; the service refuses fewer"),
    "rows-max": Rule(_E, _CHAT, "there are at most 20,000 rows", "aws-rft dataset sample --rows 20000"),
    "rows-batch": Rule(
        _E, _ALL, "there are more rows than a batch has, not just as many", "add rows, or a smaller batch"
    ),
    "rows-few-batches": Rule(_W, _MTRL, "there are ten times as many rows as a batch has", "add rows"),
    # A line
    "row-encoding": Rule(_E, _ALL, "a line is UTF-8", "save the file as UTF-8"),
    "row-blank": Rule(_W, _ALL, "no line is blank", "delete the line"),
    "row-json": Rule(_E, _ALL, "a line is one JSON value", "mend the line; one object a line, no trailing commas"),
    "row-constant": Rule(_E, _ALL, "numbers are finite: JSON has no NaN or Infinity", "write null or leave it out"),
    "row-repeated-key": Rule(_E, _ALL, "no object has a key twice", "keep one; readers take either"),
    "row-text": Rule(_E, _ALL, "text has no NUL and no half of a surrogate pair", "remove the character"),
    "row-object": Rule(_E, _ALL, "a row is an object", "wrap it in an object"),
    "row-empty": Rule(_E, _ALL, "a row has fields", "delete the row"),
    "row-cells": Rule(_E, _ALL, "a csv row has as many cells as the header", "quote the cell that holds a comma"),
    # Fields of a row
    "key-unknown": Rule(_E, _MULTI, "there are no other fields than id and metadata", "move it into metadata.info"),
    "key-suspect": Rule(_W, _CHAT, "no field is spelt nearly as a known one is", "rename it"),
    "optional-field": Rule(
        _E, _ROWS, "an optional field is in all rows or in none", "add it here, or drop it everywhere"
    ),
    # Prompts
    "prompt-column": Rule(_W, _MTRL, "the column of prompts is called prompt", "rename it; the first one is read now"),
    "prompt-missing": Rule(_E, _PROMPT, "a row has a prompt", "add it"),
    "prompt-type": Rule(_E, _PROMPT, "a prompt is text (nova-multiturn: or messages)", "put structure in as JSON text"),
    "prompt-empty": Rule(_E, _PROMPT, "a prompt is not empty", "fill it in or delete the row"),
    "prompt-structure": Rule(
        _E, _MTRL, "prompts are all text or all JSON that parses", "write this one like the others"
    ),
    "prompt-keys": Rule(_W, _MTRL, "JSON prompts have the same keys", "give all the same keys, null where unknown"),
    "prompt-json": Rule(_W, _MTRL, "a prompt that begins as a JSON object does is one", "write it with json.dumps"),
    "prompt-visible": Rule(
        _E, _MTRL, "visible names fields of the cell, and not the ground truth", "make the cell with datasets.pack"
    ),
    "prompt-duplicate": Rule(_E, _ALL, "no prompt is there twice", "aws-rft dataset dedupe"),
    "columns-ignored": Rule(_W, _MTRL, "no answer stands in a column that is not read", "pack it into the prompt cell"),
    # Messages
    "messages-missing": Rule(_E, _CHAT, "a row has messages", "add a messages field"),
    "messages-type": Rule(_E, _ROWS, "messages are an array", "write [{...}]"),
    "messages-empty": Rule(_E, _ROWS, "there is a message", "add the user's message"),
    "message-type": Rule(_E, _ROWS, "a message is an object", 'write {"role": ..., "content": ...}'),
    "message-key": Rule(_E, _ROWS, "a message has no unknown fields", "remove it; the service refuses the row"),
    "message-name": Rule(_E, _ROWS, "a message's name is text", "remove it or write it as a string"),
    "role-missing": Rule(_E, _ROWS, "a message has a role", "add it"),
    "role-type": Rule(_E, _ROWS, "a role is text", "write it as a string"),
    "role-unknown": Rule(_E, _ROWS, "a role is one that the service knows", "use system, user, assistant or tool"),
    "system-first": Rule(_E, _ROWS, "a system message is the first and the only one", "move it up, or join the two"),
    "user-missing": Rule(_E, _ROWS, "there is a user message", "add it"),
    "last-assistant": Rule(
        _W, _ROWS, "the last message is not the assistant's", "remove it: the model writes that one"
    ),
    "content-missing": Rule(_E, _ROWS, "a message has content", "add it"),
    "content-type": Rule(_E, _ROWS, "content is text or an array of parts", "write it as a string"),
    "content-empty": Rule(_E, _ROWS, "content is not empty", "fill it in or remove the message"),
    "part-type": Rule(_E, _ROWS, "a part is an object of type text", 'write {"type": "text", "text": ...}'),
    "part-key": Rule(_E, _ROWS, "a part has no fields but type and text", "remove it"),
    "part-text": Rule(_E, _ROWS, "a part has text", "fill it in or remove the part"),
    "tool-calls-type": Rule(_E, _ROWS, "tool_calls are an array with something in it", "remove the field or fill it"),
    "tool-calls-role": Rule(_E, _ROWS, "only the assistant calls tools", "remove the field"),
    "tool-call": Rule(_E, _ROWS, "a tool call has id, type function, a name and arguments", "complete it"),
    "tool-arguments": Rule(_E, _ROWS, "arguments are a JSON object in text", 'write "{}" for none'),
    "tool-call-id": Rule(_E, _ROWS, "a tool message says which call it answers", "add tool_call_id"),
    "tool-call-unmatched": Rule(_E, _ROWS, "a tool message answers a call made before", "use the id of that call"),
    "tool-call-id-role": Rule(
        _E, _ROWS, "only a tool message answers a call", "remove tool_call_id, or make it role tool"
    ),
    "tool-call-repeated": Rule(_E, _ROWS, "no two calls have one id", "give each call an id of its own"),
    "tool-call-unanswered": Rule(
        _W, _ROWS, "a call is answered by a tool message", "add the answer, or remove the call"
    ),
    "tool-call-unknown": Rule(_W, _CHAT, "a tool that is called is among the row's tools", "add it to tools"),
    # Tools
    "tools-type": Rule(_E, _CHAT, "tools are an array", "write [{...}]"),
    "tools-empty": Rule(_E, _CHAT, "tools are not empty", "remove the field, in all rows"),
    "tool-type": Rule(
        _E, _CHAT, "a tool is an object of type function", 'write {"type": "function", "function": {...}}'
    ),
    "tool-name": Rule(_E, _CHAT, "a tool has a name of letters, digits, _ and -, up to 64", "rename it"),
    "tool-name-repeated": Rule(_E, _CHAT, "tools have different names", "rename one"),
    "tool-description": Rule(_E, _CHAT, "a tool is described", "add a description"),
    "tool-parameters": Rule(
        _E, _CHAT, "a tool's parameters are an object schema", 'write {"type": "object", "properties": {}}'
    ),
    "tool-property": Rule(
        _E, _CHAT, "a property is a schema of types that JSON Schema has", 'write {"type": "string"} or another'
    ),
    "tool-required": Rule(_E, _CHAT, "required names properties, each once", "name a property, or add it"),
    # Answers
    "reference-missing": Rule(_E, _CHAT, "a row has a reference_answer", "add it, or check with --no-reference"),
    "reference-type": Rule(_E, _CHAT, "a reference_answer is text or an object", "write numbers and arrays as text"),
    "reference-empty": Rule(_E, _CHAT, "a reference_answer is not empty", "fill it in"),
    "answer-leak": Rule(_E, _ALL, "the model does not see the answer", "take it out of what the model sees"),
    "answer-in-prompt": Rule(
        _W, _ALL, "a long answer is no part of the prompt", "look at it: a choice to pick, or a leak?"
    ),
    # Ids and metadata
    "id-missing": Rule(_E, _MULTI, "a row has an id", "add it"),
    "id-type": Rule(_E, _ROWS, "an id is text that is not empty", "write it as a string"),
    "id-duplicate": Rule(_E, _ROWS, "no id is there twice", "number the rows"),
    "metadata-missing": Rule(_E, _MULTI, "a row has metadata", "add metadata with a prompt"),
    "metadata-type": Rule(_E, _MULTI, "metadata is an object", 'write {"prompt": ...}'),
    "metadata-key": Rule(_E, _MULTI, "metadata has prompt, answer, task, info and nothing else", "move it into info"),
    "metadata-value": Rule(_E, _MULTI, "answer and task are text, info an object or one as JSON text", "write it so"),
    # Lengths
    "sequence-length": Rule(
        _W, _ALL, "a prompt fits the sequence, by a rough count of tokens", "shorten it, or set --max-tokens"
    ),
}
"""All rules, by id, in the order of a report."""
