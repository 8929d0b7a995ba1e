"""Tables of a fault plan become structs; a wrong key or value is one line that says what to do."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

import msgspec

from psedge.config_types import choices
from psedge.protocol.errors import ConfigError
from psedge.toml_text import inline

S = TypeVar("S", bound=msgspec.Struct)

#: What people and other tools call a kind or a key of a plan.
_KNOWN_ELSEWHERE = {
    "kill": ("crash",),
    "restart": ("restart_after", "crash"),
    "poweroff": ("power-cut",),
    "stop": ("freeze",),
    "pause": ("freeze",),
    "sigstop": ("freeze",),
    "disconnect": ("partition",),
    "latency": ("delay_seconds", "link"),
    "bandwidth": ("bits_per_second_factor", "link"),
    "loss": ("link",),
    "corruption": ("link",),
    "bit-rot": ("disk-rot",),
    "skew": ("by_seconds", "clock-skew"),
    "drift": ("clock-skew",),
    "type": ("kind",),
    "host": ("on",),
    "node": ("on",),
    "target": ("on",),
    "role": ("on",),
    "time": ("at",),
    "when": ("at",),
    "event": ("after",),
    "duration": ("seconds", "restart_after"),
    "for": ("seconds", "restart_after"),
    "seconds": ("restart_after",),
    "until": ("seconds", "restart_after"),
    "end": ("stop",),
}
_WORDS = (
    ("float", "a number"),
    ("int", "a whole number"),
    ("str", "a string"),
    ("bool", "true or false"),
    ("array", "a list"),
    ("object", "a table"),
)


def check_keys(raw: Mapping[str, Any], known: Iterable[str], place: str) -> None:
    """Raises ConfigError for the first unknown key, naming the nearest right one."""
    names = tuple(known)
    for key in raw:
        if key not in names:
            raise ConfigError(f'{place} has no key "{key}"{nearest(key, names)}')


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word."""
    names = tuple(known)
    elsewhere = _KNOWN_ELSEWHERE.get(word.lower().replace("_", "-"), ())
    near = [name for name in elsewhere if name in names]
    near = near or difflib.get_close_matches(word, names, n=1)
    return f'; did you mean "{near[0]}"?' if near else f"; known are {', '.join(names)}"


def convert_values(raw: Mapping[str, Any], type_: type[S], place: str) -> S:
    """A struct from a table whose keys are known to be right. Raises ConfigError."""
    hints = get_type_hints(type_, include_extras=True)
    for key, value in raw.items():
        shown = f"{place}: {key} = {_shown(value)}"
        if not _finite(value):
            raise ConfigError(f"{shown}: expected finite numbers")
        try:
            msgspec.convert(value, hints[key])
        except msgspec.ValidationError as error:
            raise ConfigError(f"{shown}: {_in_words(str(error), value, hints[key])}") from None
    for field in msgspec.structs.fields(type_):
        if field.required and field.name not in raw:
            raise ConfigError(f'{place} lacks the key "{field.name}"')
    return type_(**{key: msgspec.convert(value, hints[key]) for key, value in raw.items()})


def _finite(value: Any) -> bool:
    """TOML has `inf` and `nan`; no key has a use for them."""
    if isinstance(value, Mapping):
        return all(_finite(item) for item in value.values())
    if isinstance(value, list):
        return all(_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def _shown(value: Any) -> str:
    """A value as TOML writes it; its dates and times as they print."""
    try:
        return inline(value)
    except TypeError:
        return str(value)


def _in_words(message: str, value: Any, hint: Any) -> str:
    """msgspec's message in the words of a plan."""
    options = choices(hint)
    if options:
        near = difflib.get_close_matches(str(value), options, n=1)
        meant = f'; did you mean "{near[0]}"?' if near else ""
        return f"must be one of {', '.join(options)}{meant}"
    text = message.partition(", got")[0].partition(" - at")[0].replace("`", "")
    text = text.replace("Expected", "expected").replace(" | null", "").replace(" | ", " or ")
    for name, words in _WORDS:
        text = re.sub(rf"\b{name}\b", words, text)
    return text
