"""Formulas in problem files: arithmetic and a few functions, read as a tree; nothing else is ever run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from nashsolve.core.errors import InvalidProblem

_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sqrt": np.sqrt,
    "log": np.log,
    "log1p": np.log1p,
    "exp": np.exp,
    "tanh": np.tanh,
    "arctan": np.arctan,
}
_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def function_of(text: str, place: str, variable: str, size: int) -> Callable[[Any], Any]:
    """A function of `variable`: of its entries ``x[0], x[1], ...`` below `size`, or of a number where size is 0.

    Raises
    ------
    InvalidProblem
        For anything but numbers, the variable, + - * / **, parentheses and the known functions.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise InvalidProblem(f"{place} is {text[:40]!r}, which is no formula") from None
    _check(tree, text, place, variable, size)
    return lambda x: _value(tree, x)


def _check(node: ast.AST, text: str, place: str, variable: str, size: int) -> None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return
    if size == 0 and isinstance(node, ast.Name) and node.id == variable:
        return
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == variable and size:
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if isinstance(index, int) and 0 <= index < size:
            return
        raise InvalidProblem(f"{place} is {text[:40]!r}; the entries of {variable} run from 0 to {size - 1}")
    parts = _parts(node)
    if parts is None:
        what = f"{variable}[0], ..., {variable}[{size - 1}]" if size else variable
        raise InvalidProblem(
            f"{place} is {text[:40]!r}; only numbers, {what}, + - * / **, parentheses and "
            f"{', '.join(_FUNCTIONS)} are read"
        )
    for part in parts:
        _check(part, text, place, variable, size)


def _parts(node: ast.AST) -> list[ast.AST] | None:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return [node.operand]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        return list(node.args) if len(node.args) == 1 and not node.keywords else None
    return None


def _value(node: Any, x: Any) -> Any:
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return x
    if isinstance(node, ast.Subscript):
        return x[node.slice.value]  # type: ignore[attr-defined]
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left, x), _value(node.right, x))
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_value(node.operand, x))
    return _FUNCTIONS[node.func.id](_value(node.args[0], x))
