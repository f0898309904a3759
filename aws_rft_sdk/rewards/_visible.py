"""Says which part of a text an answer can stand in: no thoughts, and no question that the policy asks itself next."""

from __future__ import annotations

import functools
import re

_TAG_NAMES = "think|thinking|thought|thoughts|reasoning|scratchpad|reflection|seed:think"
_THOUGHT_MARK = re.compile(
    rf"<(?:/?(?i:{_TAG_NAMES})>|\|(?i:begin|end)_(?:of|internal)_thought\|>"
    r"|\|channel\|>\s{0,9}(?:analysis|commentary|final)\b(?:\s{0,9}<\|message\|>)?)|\[/?THINK\]|\u25c1/?think\u25b7"
)
_CLOSING = re.compile(r".(?:/|\|end|\|channel\|>\s*final)", re.IGNORECASE)
_HARMONY_AS_TEXT = "assistantfinal"  # what is left of harmony's final channel if the special tokens are not decoded
_SOLUTION = re.compile(r"<\|(?:begin|end)_of_(?:solution|answer)\|>", re.IGNORECASE)
_END_OF_TURN = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|endoftext|end_of_text|end|return|end_of_turn|eos)\|>|</s>|<end_of_turn>|<eos>"
)


def strip_thoughts(text: str) -> str | None:
    r"""Return what the policy says, without what it thinks. Linear in the text.

    Known thoughts: `<think>`, `<thinking>`, `<thought>`, `<reasoning>`, `<scratchpad>`, `<reflection>`,
    `<|begin_of_thought|>`, `<|begin_internal_thought|>`, `[THINK]`, `<seed:think>`, and harmony's channels other than
    the final one. They may nest. A closing tag alone ends a thought that began in the prompt. The text ends with the
    policy's turn, for example at `<|im_end|>`. Returns None if it ends inside a thought, so that there is no answer.

    Example:
        >>> strip_thoughts("<think>6 * 7 is 42?</think>#### 42")
        '#### 42'
    """
    visible: list[str] = []
    depth, end = 0, 0
    for mark in _THOUGHT_MARK.finditer(text):
        if not _CLOSING.match(mark[0]):
            if not depth:
                visible.append(text[end : mark.start()])
            depth += 1
        elif depth:
            # The final channel ends all of harmony's other channels.
            depth = 0 if mark[0].startswith("<|channel") else depth - 1
        else:
            visible.clear()
        end = mark.end()
    if depth:
        return None
    visible.append(text[end:].rpartition(_HARMONY_AS_TEXT)[2])
    return _END_OF_TURN.split(_SOLUTION.sub("\n", "".join(visible)).lstrip("\ufeff"), maxsplit=1)[0]


QUESTION = re.compile(
    r"[\n<](?:(?<=\n)[ \t*#]{0,9}(?i:question|problem|exercise|human|user|q)[ \t]{0,3}[0-9]{0,4}[ \t*]{0,3}[:.]"
    r"|(?<=<)\|)"
)
"""A new question that the policy asks itself after its answer, or a template of a chat."""

BOX = re.compile(r"\\(?:boxed|fbox)\s?\{")
NOTHING = re.compile(
    r"(?:```\w*\n|[\s:#*_`\uff1a]|(?:the )?(?:final |correct )?answer(?: is\b)?(?=[\s:*\uff1a]))*", re.IGNORECASE
)
"""What says nothing between a marker and its answer: spaces, emphasis, a fence, another marker."""
_IS = (
    r"[\s*_]{0,9}(?:[:=\uff1a]|[ \t][\u2013\u2014-][ \t]|(?i:is|(?:should|must|will|would) be)\b"
    r"(?! (?i:correct|right|wrong|greater|more|less|fewer|larger|smaller|bigger|between|divisible|a multiple)\b))"
)
_LINE_BEGINS = "|".join(rf"(?<=^[ \t*_]{{{count}}}.)" for count in range(4))
# Begins with a set of characters and no letter before, so that a search passes over all else quickly.
PROSE_MARKER = re.compile(
    r"[AaCcOoRr#\u7b54\u041e\u043e\uc815](?<![A-Za-z].)"
    r"(?:(?<![0-9_].)(?:(?<=[Aa])(?i:nswer(?: to (?:the|this|that) (?:question|problem))?)"
    r"|(?:(?<=orrect .)|(?<=ight .)|(?<=est .))(?i:hoice|ption))" + _IS + "|"
    r"(?<=[Aa])(?:(?<=^.)|(?<=[#*_].)|(?<=[#*_] .)|(?<=inal .)|(?<=INAL .))(?i:nswer)[ \t*_]{0,9}$"
    rf"|(?<=[Aa])(?:{_LINE_BEGINS})[ \t*_]{{0,9}}[:\uff1a]"
    r"|(?<=^#)#{0,2}[ \t](?=\W{0,9}[0-9][0-9,.]{0,30}\W{0,9}$)"
    r"|(?<=\u7b54)(?:\u6848[\u662f\u4e3a:\uff1a]|\u3048[\u306f:\uff1a])"
    r"|(?<=\uc815)\ub2f5[\uc740:\uff1a]"
    r"|(?<!\w.)(?<!falsche .)(?<!falschen .)(?<!mauvaise .)(?<!fausse .)"  # not: a wrong answer
    r"(?<!\u0435\u043f\u0440\u0430\u0432\u0438\u043b\u044c\u043d\u044b\u0439 .)"
    r"(?<!\u0435\u0432\u0435\u0440\u043d\u044b\u0439 .)"
    r"(?i:(?<=A)ntwort|(?<=O)pci[o\u00f3]n|(?<=R)(?:espuesta|esposta|isposta|[e\u00e9]ponse)"
    r"|(?<=\u041e)\u0442\u0432\u0435\u0442)(?i: cor(?:rec|re|ret)ta| finale?)?"
    r"[\s*_]{0,9}(?:[:=\uff1a]|[ \t][\u2013\u2014-][ \t]|(?i:(?:est?|ist|lautet|\u00e9|\u00e8)\b(?: donc\b| la\b)?)))",
    re.MULTILINE,
)

_ANY_MARKER = re.compile(rf"{PROSE_MARKER.pattern}|####|{BOX.pattern}|<(?i:answer)>", re.MULTILINE)


@functools.lru_cache(maxsize=4)  # the extractors of a chain read the same text
def visible_text(text: str) -> str:
    """Return what an extractor sees: a text without thoughts, up to the question that the policy asks itself next.

    Returns "" if the text ends inside a thought.
    """
    visible = strip_thoughts(text) or ""
    if QUESTION.search(visible):
        for mark in _ANY_MARKER.finditer(visible):
            start = NOTHING.match(visible, mark.end()).end()  # type: ignore[union-attr] # it matches nothing too
            if not QUESTION.match(visible, start - 1):  # "Answer:", then the question again, is no answer yet
                question = QUESTION.search(visible, start)
                return visible[: question.start()] if question else visible
    return visible
