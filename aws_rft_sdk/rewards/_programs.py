"""Finds the program in an answer."""

from __future__ import annotations

import ast
import html
import re
import textwrap
from collections.abc import Iterator, Sequence

from aws_rft_sdk.rewards.extract import strip_thoughts

# A fence ends with a line, before a closing tag, where the next fence with a language begins, or with the text.
_FENCE = re.compile(
    r"(?P<fence>`{3,}|~{3,})[ \t]*[{.]*(?P<language>[a-z]*)[\d.]*(?P<body>.*?)"
    r"(?:(?P=fence)[`~]*[ \t]*(?:$|(?=[<\[]/))|^[ \t]*(?=(?P=fence)[ \t]*[a-z{])|\Z)",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)
_QUOTE = re.compile(r"^[ \t]*> ?", re.MULTILINE)
_QUOTED_FENCE = re.compile(r"^[ \t]*> ?(?:```|~~~)", re.MULTILINE)
_TAG = re.compile(r"[<\[](code|pre|python|answer|solution)\b[^>\]]*[>\]](.*?)(?:[<\[]/\1[>\]]|\Z)", re.DOTALL | re.I)
_PYTHON = ("py", "python", "ipython")
_CODE_STARTS = re.compile(r"(?:def|class|import|from|async|@)(?![^\s\w])")
_READS = re.compile(r"\binput\b|\bstdin\b|\bopen\(0")
_MAX_CHARACTERS = 100_000
_MAX_PROSE_LINES = 20
_MAX_TAGS = 3
Function = ast.FunctionDef | ast.AsyncFunctionDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def find_program(answer: str) -> list[str]:
    """Return the blocks of Python that make up the program of an answer, in order. Returns [] if nothing compiles.

    An answer that is Python as a whole is the program. Otherwise the blocks fenced as Python are, and with them blocks
    without a language if no block fenced as Python defines anything. If the answer has no fence, the program is the
    text of a tag such as `<code>`, else the code between lines of prose.
    """
    text = _said(answer)
    if _QUOTED_FENCE.search(text):
        text = _QUOTE.sub("", text)
    if whole := _block(text):
        return [whole]
    if _FENCE.search(text):
        blocks = list(_fenced(text))
        of_python = [block for is_python, block in blocks if is_python]
        return of_python if any(map(_defines, of_python)) else [block for _, block in blocks]
    for _ in range(_MAX_TAGS):
        tag = _TAG.search(text)
        text = text if tag is None else html.unescape(tag[2])
    return _between_prose(textwrap.dedent(text.strip("\n")).splitlines())


def _said(answer: str) -> str:
    text = (strip_thoughts(answer) or "").replace("\r\n", "\n")
    return text if len(text) <= _MAX_CHARACTERS else ""


def complete(prompt: str, answer: str) -> list[str]:
    """Return the prompt with the answer as the body of its last function; empty if this does not compile."""
    text = _said(answer)
    fence = _FENCE.search(text)
    body = textwrap.dedent((fence["body"] if fence else text).strip("\n"))
    if not prompt or not body.strip():
        return []
    *_, last = prompt.rstrip().splitlines()
    source = _block(f"{prompt.rstrip()}\n{textwrap.indent(body, last[: len(last) - len(last.lstrip())])}")
    return [source] if source else []


def as_script(program: Sequence[str]) -> list[str]:
    """Return the last block that reads standard input, after the definitions of the blocks before it.

    If no block reads, the last one that acts is taken. Returns an empty list if all blocks only define.
    """
    acting = [number for number, block in enumerate(program) if len(_definitions(block)) < len(ast.parse(block).body)]
    if not acting:
        return []
    last = ([number for number in acting if _READS.search(program[number])] or acting)[-1]
    return [*(ast.unparse(node) for block in program[:last] for node in _definitions(block)), program[last]]


def only_function(program: Sequence[str]) -> str | None:
    """Return the only function that no other function uses; None if there are several.

    If the program has a class `Solution`, its methods are meant.
    """
    body: Sequence[ast.stmt] = [node for block in program for node in ast.parse(block).body]
    solutions = [node for node in body if isinstance(node, ast.ClassDef) and node.name == "Solution"]
    functions = {
        node.name: node
        for node in (solutions[-1].body if solutions else body)
        if isinstance(node, Function) and not node.name.startswith(("_", "test_"))
    }
    mentions = [
        (name, getattr(node, "attr" if solutions else "id", None))
        for name, function in functions.items()
        for node in ast.walk(function)
    ]
    used = {mentioned for name, mentioned in mentions if mentioned != name}
    left = functions.keys() - used - {"main"}
    return left.pop() if len(left) == 1 else None


def parse(source: str) -> ast.Module | None:
    """Return the syntax tree of source that compiles, else None."""
    try:
        tree = ast.parse(source)
        compile(tree, "answer.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None
    return tree


def _block(source: str) -> str:
    """Return source without its indentation; an empty text if it does nothing or does not compile."""
    source = textwrap.dedent(source.strip("\n"))
    tree = parse(source)
    return source if tree and tree.body else ""


def _definitions(block: str) -> list[ast.stmt]:
    return [node for node in ast.parse(block).body if isinstance(node, _DEFINITIONS)]


def _defines(block: str) -> bool:
    return any(
        isinstance(node, Function | ast.ClassDef) or isinstance(getattr(node, "value", None), ast.Lambda)
        for node in ast.parse(block).body
    )


def _fenced(text: str) -> Iterator[tuple[bool, str]]:
    """Yield what is fenced as Python (True) or without a language (False), and compiles."""
    for found in _FENCE.finditer(text):
        language, body = found["language"], found["body"]
        if _CODE_STARTS.fullmatch(language):  # code on the line of the fence, without a language
            language, body = "", language + body
        if language and language.lower() not in _PYTHON:
            continue
        head, _, code = body.partition("\n")
        # What follows the language on the same line is code, or a title and the like.
        if block := _block(f"{head.strip()}\n{code}" if head.strip() else code) or _block(code):
            yield bool(language), block


def _between_prose(lines: list[str]) -> list[str]:
    start = next((number for number, line in enumerate(lines) if _CODE_STARTS.match(line)), len(lines))
    for end in range(len(lines), max(start, len(lines) - _MAX_PROSE_LINES), -1):
        if block := _block("\n".join(lines[start:end])):
            return [block]
    return []
