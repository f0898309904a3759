"""The rules that a dataset is checked by: what breaking each of them costs, how to mend it, and who says so."""

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
    """What it costs for most targets. `severity_for` knows the others."""
    targets: frozenset[Target]
    source: str
    """Who states the rule."""
    meaning: str
    """What is wrong with a dataset that breaks the rule."""
    fix: str
    warns: frozenset[Target] = frozenset()
    """Targets for which it is a warning only, because their own sources do not state it."""

    def severity_for(self, target: Target) -> Severity:
        """Return what it costs to break the rule in a dataset for `target`."""
        return Severity.WARNING if target in self.warns else self.severity


_ALL = frozenset(Target)
_MTRL = frozenset({Target.MTRL})
_CHAT = frozenset({Target.BEDROCK, Target.NOVA})
_MULTI = frozenset({Target.NOVA_MULTITURN})
_ROWS = _CHAT | _MULTI  # one JSON object a line
_PROMPT = _MTRL | _MULTI
_NOVA = frozenset({Target.NOVA})
_LAX = frozenset({Target.BEDROCK})  # an error where the source states it, a warning on Bedrock
_E, _W = Severity.ERROR, Severity.WARNING

_ASSETS = "SageMaker AI developer guide, assets of multi-turn RL"
_BEDROCK = "Amazon Bedrock user guide, data for reinforcement fine-tuning"
_FORGE = "nova-forge-sdk, RFT dataset validators"
_OPENAI = "OpenAI chat completions API"
_SCHEMA = "JSON Schema draft 7"
_JSON = "RFC 8259 (JSON) and JSON Lines"
_CSV = "RFC 4180 (CSV)"
_OURS = "this package: jobs that ran and learned the wrong thing"

_SAMPLE = "aws-rft dataset sample IN OUT --rows 20000"

RULES: dict[str, Rule] = {
    # The file
    "file-pretty": Rule(_E, _ALL, _JSON, "objects of a jsonl file are spread over several lines", "write one a line"),
    "file-array": Rule(_E, _ALL, _JSON, "a jsonl file is one JSON array", "rename it to .json, then convert it"),
    "file-format": Rule(_E, _ALL, _BEDROCK, "the file has another format", "aws-rft dataset convert IN OUT.jsonl"),
    "file-broken": Rule(_E, _ALL, _JSON, "the file cannot be read", "mend it here; the rest was not checked"),
    "file-bom": Rule(_W, _ALL, _JSON, "the file begins with a byte order mark", "save it as UTF-8 without BOM"),
    "file-delimiter": Rule(_E, _ALL, _CSV, "csv cells are not divided by commas", "aws-rft dataset convert IN OUT.csv"),
    "header-repeated": Rule(_E, _ALL, _CSV, "two columns of a csv file have one name", "rename one; only one is read"),
    "header-empty": Rule(_W, _ALL, _CSV, "a column of a csv file has no name", "name it, or leave the column out"),
    # All rows
    "rows-none": Rule(_E, _ALL, _BEDROCK, "the file has no rows", "write rows into it; is this the right file?"),
    "rows-min": Rule(_E, _CHAT, _BEDROCK, "there are fewer than 100 rows", "add rows; the service refuses fewer"),
    "rows-max": Rule(_E, _CHAT, _BEDROCK, "there are more than 20,000 rows", _SAMPLE),
    "rows-batch": Rule(_E, _ALL, _ASSETS, "a batch has as many rows or more", "add rows, or use a smaller batch"),
    "rows-few-batches": Rule(_W, _MTRL, _ASSETS, "there are fewer rows than ten batches have", "add rows"),
    "row-shape": Rule(_E, _ALL, _OURS, "rows are made for something else", "convert them"),
    # A row
    "row-encoding": Rule(_E, _ALL, _JSON, "a line is not UTF-8", "save the file as UTF-8"),
    "row-blank": Rule(_W, _ALL, _JSON, "a line is blank", "delete the line"),
    "row-json": Rule(_E, _ALL, _JSON, "a line is not one JSON value", "mend it: one object a line, no trailing commas"),
    "row-constant": Rule(_E, _ALL, _JSON, "a number is not finite", "write null, or leave the field out"),
    "row-repeated-key": Rule(_E, _ALL, _JSON, "an object has a key twice", "keep one; readers take either"),
    "row-text": Rule(_E, _ALL, _JSON, "text holds NUL or half of a surrogate pair", "remove the character"),
    "row-object": Rule(_E, _ALL, _JSON, "a row is not an object", "wrap it in an object"),
    "row-empty": Rule(_E, _ALL, _JSON, "a row has no fields", "delete the row"),
    "row-cells": Rule(_E, _ALL, _CSV, "a csv row has more or fewer cells than the header", "quote cells with commas"),
    "key-unknown": Rule(_E, _MULTI, _FORGE, "a field is neither id nor metadata", "move it into metadata.info"),
    "key-suspect": Rule(_W, _CHAT, _FORGE, "a field is spelt nearly as a known one", "rename it"),
    "optional-field": Rule(_E, _ROWS, _FORGE, "only some rows have a field", "add it here, or drop it in all", _LAX),
    # Prompts
    "prompt-column": Rule(_W, _MTRL, _ASSETS, "no column is called prompt", "rename it; the first one is read now"),
    "prompt-missing": Rule(_E, _PROMPT, _ASSETS, "a row has no prompt", "add it"),
    "prompt-type": Rule(_E, _PROMPT, _ASSETS, "a prompt is not text (nova-multiturn: or messages)", "use json.dumps"),
    "prompt-empty": Rule(_E, _PROMPT, _ASSETS, "a prompt is empty", "fill it in or delete the row"),
    "prompt-structure": Rule(_E, _MTRL, _ASSETS, "some prompts are text, some JSON", "write it like the others"),
    "prompt-keys": Rule(_W, _MTRL, _ASSETS, "JSON prompts differ in their keys", "use the same, null if unknown"),
    "prompt-json": Rule(_W, _MTRL, _ASSETS, "a prompt begins as a JSON object and is none", "write it with json.dumps"),
    "prompt-visible": Rule(_E, _MTRL, _OURS, "visible names the ground truth or no field", "use datasets.pack"),
    "prompt-duplicate": Rule(_E, _ALL, _ASSETS, "a prompt is there twice", "aws-rft dataset dedupe IN OUT", _LAX),
    "columns-ignored": Rule(_W, _MTRL, _ASSETS, "an answer stands in a column that is not read", "pack it"),
    # Messages
    "messages-missing": Rule(_E, _CHAT, _BEDROCK, "a row has no messages", "add a messages field"),
    "messages-type": Rule(_E, _ROWS, _BEDROCK, "messages are not an array", "write [{...}]"),
    "messages-empty": Rule(_E, _ROWS, _BEDROCK, "there is no message", "add the user's message"),
    "message-type": Rule(_E, _ROWS, _BEDROCK, "a message is not an object", 'write {"role": ..., "content": ...}'),
    "message-key": Rule(_E, _ROWS, _FORGE, "a message has an unknown field", "remove it; Nova refuses the row", _LAX),
    "message-name": Rule(_E, _ROWS, _FORGE, "a message's name is not text", "remove it or write it as a string", _LAX),
    "role-missing": Rule(_E, _ROWS, _BEDROCK, "a message has no role", "add it"),
    "role-unknown": Rule(_E, _ROWS, _BEDROCK, "a role is none of the service's", "use system, user, assistant or tool"),
    "system-first": Rule(_E, _ROWS, _FORGE, "a system message is not the first", "move it up, or join the two", _LAX),
    "user-missing": Rule(_E, _ROWS, f"{_FORGE}; nothing asks without it", "there is no user message", "add it"),
    "last-assistant": Rule(_W, _ROWS, _OURS, "the assistant has the last word", "remove it: the model writes that"),
    "content-missing": Rule(_E, _ROWS, _OPENAI, "a message has no content", "add it"),
    "content-type": Rule(_E, _ROWS, _OPENAI, "content is neither text nor parts", "write it as a string"),
    "content-empty": Rule(_E, _ROWS, _OPENAI, "content is empty", "fill it in or remove the message"),
    "part-type": Rule(_E, _ROWS, _OPENAI, "a part is not of type text", 'write {"type": "text", "text": ...}'),
    "part-key": Rule(_E, _ROWS, _OPENAI, "a part has an unknown field", "remove it", _LAX),
    "part-text": Rule(_E, _ROWS, _OPENAI, "a part has no text", "fill it in or remove the part"),
    # Calls
    "tool-calls-type": Rule(_E, _ROWS, _OPENAI, "tool_calls are no array of calls", "remove the field or fill it"),
    "tool-calls-role": Rule(_E, _ROWS, _OPENAI, "another than the assistant calls tools", "remove the field"),
    "tool-call": Rule(_E, _ROWS, _OPENAI, "a call lacks id, type function, name or arguments", "complete it"),
    "tool-arguments": Rule(_E, _ROWS, _OPENAI, "arguments are not a JSON object in text", 'write "{}" for none'),
    "tool-call-id": Rule(_E, _ROWS, _OPENAI, "a tool message does not say which call it answers", "add tool_call_id"),
    "tool-call-unmatched": Rule(_E, _ROWS, _OPENAI, "a tool message answers no call before", "use the id of that call"),
    "tool-call-id-role": Rule(_E, _ROWS, _OPENAI, "another than a tool answers a call", "use role tool, or remove it"),
    "tool-call-repeated": Rule(_E, _ROWS, _OPENAI, "two calls have one id", "give each call an id of its own"),
    "tool-call-unanswered": Rule(_W, _ROWS, _OPENAI, "no tool message answers a call", "add the answer, or remove it"),
    "tool-call-unknown": Rule(_W, _CHAT, _OPENAI, "a called tool is not among the row's tools", "add it to tools"),
    # Tools
    "tools-type": Rule(_E, _CHAT, _OPENAI, "tools are not an array", "write [{...}]"),
    "tools-empty": Rule(_E, _CHAT, _OPENAI, "tools are empty", "remove the field, in all rows"),
    "tool-type": Rule(_E, _CHAT, _OPENAI, "a tool is not of type function", 'write {"type": "function", ...}'),
    "tool-name": Rule(_E, _CHAT, _OPENAI, "a tool's name has other characters than a-z, A-Z, 0-9, _, -", "rename it"),
    "tool-name-repeated": Rule(_E, _CHAT, _FORGE, "two tools have one name", "rename one", _LAX),
    "tool-description": Rule(_E, _CHAT, _FORGE, "a tool has no description", "add a description", _LAX),
    "tool-parameters": Rule(_E, _CHAT, _FORGE, "parameters are no object schema", 'write {"type": "object"}', _LAX),
    "tool-property": Rule(_E, _CHAT, _SCHEMA, "a property is no valid schema", 'write {"type": "string"} or another'),
    "tool-required": Rule(_E, _CHAT, _SCHEMA, "required names no property, or one twice", "name a property, or add it"),
    # Answers
    "reference-missing": Rule(_E, _CHAT, _BEDROCK, "there is no reference_answer", "add it, or use --no-reference"),
    "reference-type": Rule(_E, _CHAT, _FORGE, "a reference_answer is no text or object", "write it as text", _LAX),
    "reference-object": Rule(_W, _NOVA, _FORGE, "a reference_answer is {}, which Nova refuses", 'write "{}" as text'),
    "reference-empty": Rule(_E, _CHAT, _OURS, "a reference_answer is null or blank", 'fill it in, perhaps with "none"'),
    "answer-leak": Rule(_E, _ALL, _OURS, "the model sees the answer", "take it out of what the model sees"),
    "answer-in-prompt": Rule(_W, _ALL, _OURS, "a long answer is part of the prompt", "is it a choice, or a leak?"),
    # Ids and metadata
    "id-missing": Rule(_E, _MULTI, _FORGE, "a row has no id", "add it"),
    "id-type": Rule(_E, _ROWS, _FORGE, "an id is not text, or empty", "write it as a string", _LAX),
    "id-duplicate": Rule(_E, _ROWS, _FORGE, "an id is there twice", "number the rows", _LAX),
    "metadata-missing": Rule(_E, _MULTI, _FORGE, "a row has no metadata", "add metadata with a prompt"),
    "metadata-type": Rule(_E, _MULTI, _FORGE, "metadata is not an object", 'write {"prompt": ...}'),
    "metadata-key": Rule(_E, _MULTI, _FORGE, "metadata has other fields than prompt, answer, task, info", "use info"),
    "metadata-value": Rule(_E, _MULTI, _FORGE, "answer or task is no text, or info no object", "write it so"),
    # Lengths
    "sequence-length": Rule(_W, _ALL, _ASSETS, "a prompt is too long, roughly", "shorten it, or set --max-tokens"),
}
"""All rules, by id, in the order of a report."""
