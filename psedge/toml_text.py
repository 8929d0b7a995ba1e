"""TOML text from plain Python values; the standard library only reads TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dumps(table: Mapping[str, Any]) -> str:
    """A document of str, bool, int, float, lists and mappings; None is left out.

    Raises TypeError for any other value.
    """
    lines: list[str] = []
    _write(lines, (), table)
    return "\n".join(lines).strip() + "\n"


def inline(value: Any) -> str:
    """One value on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # JSON leaves DEL as it is, which TOML forbids; all its other escapes are TOML's too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(inline(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = [f"{_key(k)} = {inline(v)}" for k, v in value.items() if v is not None]
        return "{ " + ", ".join(pairs) + " }" if pairs else "{}"
    raise TypeError(f"TOML has no {type(value).__name__}")


def _write(lines: list[str], path: tuple[str, ...], table: Mapping[str, Any]) -> None:
    """Values first: whatever follows a section's header belongs to that section."""
    sections = [name for name, value in table.items() if _is_section(value)]
    for name, value in table.items():
        if name not in sections and value is not None:
            lines.append(f"{_key(name)} = {inline(value)}")
    for name in sections:
        inner = (*path, name)
        header = ".".join(_key(part) for part in inner)
        value = table[name]
        for item in [value] if isinstance(value, Mapping) else value:
            brackets = f"[{header}]" if isinstance(value, Mapping) else f"[[{header}]]"
            lines.extend(["", brackets])
            _write(lines, inner, item)


def _is_section(value: Any) -> bool:
    """Tables, and lists of nothing but tables, get headers; empty ones fit on a line."""
    if isinstance(value, Mapping):
        return bool(value)
    is_list = isinstance(value, list | tuple) and bool(value)
    return is_list and all(isinstance(item, Mapping) for item in value)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else inline(name)
