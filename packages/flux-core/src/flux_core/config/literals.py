"""Values written as text: on the command line, and in quotes by mistake."""

from __future__ import annotations

import ast
import json
from typing import Any

_WORDS = {"true": True, "false": False, "null": None, "none": None}
_BRACKETS = {"[": "]", "(": ")", "{": "}"}


def read_value(text: str) -> Any:
    """Returns what a text means: a Python or JSON value, a list without quotes, or the text.

    `true`, `false`, `null` and `none` may have any case. A list or dict in quotes loses them, as a
    shell's second pair of quotes is easily written; a number or word in quotes remains text.
    """
    text = text.strip()
    value = _value(text)
    if isinstance(value, str) and value != text and is_bracketed(value):
        inner = _value(value.strip())
        return value if isinstance(inner, str) else inner
    return value


def unquoted(text: str) -> Any:
    """Returns the number, word, list or dict that a text spells, or the text itself."""
    return _value(text.strip())


def is_quoted(value: object) -> bool:
    """Whether a value is a text that spells a list or a dict."""
    return isinstance(value, str) and is_bracketed(value) and not isinstance(unquoted(value), str)


def is_bracketed(text: str) -> bool:
    """Whether a text begins and ends with brackets of one kind."""
    text = text.strip()
    return len(text) > 1 and _BRACKETS.get(text[0]) == text[-1]


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return _plain(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError):
        pass
    try:
        return _plain(json.loads(text)) if text.startswith(("[", "{")) else text
    except (ValueError, TypeError):
        return _bare_list(text) if text.startswith("[") and text.endswith("]") else text


def _plain(value: Any) -> Any:
    """Turns tuples into lists; a TypeError for what JSON cannot hold makes it stay text."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(value)


def _bare_list(text: str) -> Any:
    """[a, b] as a list of texts: the shell took the quotes. Nested brackets make it stay text."""
    inside = text[1:-1]
    if any(bracket in inside for bracket in "[]{}()\"'"):
        return text
    return [_value(item.strip()) for item in inside.split(",") if item.strip()]
