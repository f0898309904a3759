"""Arithmetic for the calculator tool: text in, number out, nothing else can happen."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable

LONGEST = 200
"""Characters of an expression."""
LARGEST = 10**15
"""No value in a calculation reaches this size."""
LARGEST_EXPONENT = 1000

_ALPHABET = re.compile(r"[0-9.+\-*/%() ]+")
_SYMBOLS = str.maketrans("\N{MULTIPLICATION SIGN}\N{DIVISION SIGN}\N{MINUS SIGN}\N{NO-BREAK SPACE}\t", "*/-  ")
_TOO_LARGE = "the numbers are too large"


def calculate(expression: str) -> str:
    """Return the value of an expression as text.

    Args:
        expression: Numbers with `+ - * / // % **`, unary signs and parentheses.

    Returns:
        The value with up to 15 significant digits, without a trailing ".0".

    Raises:
        ValueError: It is no such expression, divides by zero, or is larger than the limits of this module.
    """
    source = expression.translate(_SYMBOLS).strip()
    if not source or len(source) > LONGEST:
        raise ValueError(f"an expression must have 1 to {LONGEST} characters")
    if not _ALPHABET.fullmatch(source):
        raise ValueError("use digits, + - * / // % ** and parentheses only, no commas, letters or units")
    try:
        value = _evaluate(ast.parse(source, mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("this is not an arithmetic expression") from error
    except ZeroDivisionError as error:
        raise ValueError("division by zero") from error
    except OverflowError as error:
        raise ValueError(_TOO_LARGE) from error
    return f"{value + 0:.15g}"  # + 0 turns -0.0 into 0.0


def _evaluate(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            value: object = number
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            value = _UNARY[type(op)](_evaluate(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            value = _BINARY[type(op)](_evaluate(left), _evaluate(right))
        case _:
            raise ValueError("this is not an arithmetic expression")
    if not isinstance(value, int | float):  # a root of a negative number is complex
        raise ValueError("the result is not a real number")
    if not -LARGEST < value < LARGEST:
        raise ValueError(_TOO_LARGE)
    return value


def _power(base: float, exponent: float) -> object:
    # Both are bounded, so the largest whole number that can arise here has 15,000 digits: no time at all.
    if abs(exponent) > LARGEST_EXPONENT:
        raise ValueError(_TOO_LARGE)
    return base**exponent


_UNARY: dict[type[ast.unaryop], Callable[[float], object]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_BINARY: dict[type[ast.operator], Callable[[float, float], object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
