"""Experiments from TOML: defaults, then the file, then flags, and from nowhere else.

Every mistake becomes one line that names the place, the key and what belongs there.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from psedge.config import Experiment
from psedge.config_checks import check
from psedge.config_types import allows_none, choices, fields_of, struct_in
from psedge.device_checks import number_of_devices
from psedge.protocol.errors import ConfigError
from psedge.toml_text import dumps, inline

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What `--set a.b=none` says where the key may be absent; elsewhere it is a word as any other.
_NONE = "none"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PATH_PART = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[\.\.\.\]")


def load_config(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> Experiment:
    """Read an experiment from a TOML file, or from a mapping of the same shape.

    overrides: `section.key=value` each, applied in order. The value is TOML; a bare word is a
    string, and `none` makes an optional key absent. A file's stem is the default name.
    Raises ConfigError with one line on the first mistake.
    """
    if isinstance(source, Mapping):
        place, raw, stem = "config", _copied(source), ""
    else:
        path = Path(source)
        place, raw, stem = str(path), read_toml(path), path.stem
    flagged: set[str] = set()
    for override in overrides:
        flagged.add(_apply(raw, override))
    experiment = _convert(raw, place, flagged)
    check(experiment, place)
    return experiment if experiment.name else msgspec.structs.replace(experiment, name=stem)


def to_json(experiment: Experiment) -> dict[str, Any]:
    """The resolved experiment as JSON types, every default included."""
    built: dict[str, Any] = msgspec.to_builtins(experiment)
    return built


def from_json(config: Mapping[str, Any]) -> Experiment:
    """The inverse of `to_json`. Raises ConfigError, as from a config of another psedge."""
    return load_config(config)


def to_toml(experiment: Experiment) -> str:
    """The resolved experiment as TOML that `load_config` reads; absent keys are left out."""
    return dumps(to_json(experiment))


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file says. Raises ConfigError if there is none, or if it is not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, _toml_files(path.parent), n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{path}: no such file{hint}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, not a TOML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is no text; a config is a TOML file in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        parsed: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return parsed


def _toml_files(folder: Path) -> list[str]:
    return [found.name for found in folder.glob("*.toml")] if folder.is_dir() else []


def _copied(source: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _copied(value) if isinstance(value, Mapping) else value
        for key, value in source.items()
    }


def _apply(raw: dict[str, Any], override: str) -> str:
    """Set one key of `raw`; returns the dotted key."""
    dotted, equals, text = override.partition("=")
    dotted = dotted.strip()
    keys = dotted.split(".")
    if not equals or not all(_BARE_KEY.fullmatch(key) for key in keys):
        raise ConfigError(f"--set {override}: expected section.key=value, such as optimizer.lr=0.1")
    table = raw
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if isinstance(inner, list):
            raise ConfigError(
                f"--set {override}: {key} is a list, set all of it: "
                f"--set '{'.'.join(keys[: keys.index(key) + 1])}=[{{...}}, {{...}}]'"
            )
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {key} is a value, it has no keys")
        table = inner
    table[keys[-1]] = _value(text.strip(), keys)
    return dotted


def _value(text: str, keys: Sequence[str]) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return None if text == _NONE and _may_be_absent(keys) else text
    return parsed["value"] if set(parsed) == {"value"} else text


def _may_be_absent(keys: Sequence[str]) -> bool:
    """So may what psedge does not know, such as the arguments of a user's own function."""
    type_: Any = Experiment
    for key in keys:
        section = struct_in(type_)
        field = fields_of(section).get(key) if section is not None else None
        if field is None:
            return True
        type_ = field.type
    return allows_none(type_)


def _convert(raw: dict[str, Any], place: str, flagged: set[str]) -> Experiment:
    _check_keys(raw, Experiment, place, (), flagged)
    try:
        experiment = msgspec.convert(raw, Experiment)
    except msgspec.ValidationError as error:
        raise ConfigError(_explained(str(error), raw, place, flagged)) from None
    cluster = experiment.cluster
    if cluster.devices and "workers" not in raw["cluster"]:
        cluster = msgspec.structs.replace(cluster, workers=number_of_devices(cluster))
    return msgspec.structs.replace(experiment, cluster=cluster)


def _check_keys(
    raw: Mapping[str, Any], type_: type, place: str, path: tuple[str, ...], flagged: set[str]
) -> None:
    """Raises ConfigError for the first unknown key, naming the nearest right one."""
    known = fields_of(type_)
    for key, value in raw.items():
        if key not in known:
            dotted = ".".join((*path, key))
            by_flag = any(flag == dotted or flag.startswith(f"{dotted}.") for flag in flagged)
            where = "--set" if by_flag else place
            where = f"{where}: [{'.'.join(path)}]" if path else f"{where}: the experiment"
            raise ConfigError(f'{where} has no key "{key}"{_nearest(key, path)}')
        inner = struct_in(known[key].type)
        for item in value if isinstance(value, list | tuple) else [value]:
            if inner is not None and isinstance(item, Mapping):
                _check_keys(item, inner, place, (*path, key), flagged)


#: Names that other tools use for a key of psedge.
_KNOWN_ELSEWHERE = {
    "learning_rate": "lr",
    "learningrate": "lr",
    "wd": "weight_decay",
    "batchsize": "batch_size",
    "num_workers": "workers",
    "type": "kind",
}


def _nearest(key: str, path: tuple[str, ...]) -> str:
    everywhere = {(*path_, name) for path_, name in _all_keys(Experiment, ())}
    here = sorted(parts[-1] for parts in everywhere if parts[:-1] == path)
    translated = _KNOWN_ELSEWHERE.get(key.lower(), "")
    near = [translated] if translated in here else difflib.get_close_matches(key, here, n=1)
    if near:
        return f'; did you mean "{near[0]}"?'
    elsewhere = sorted((len(parts), parts) for parts in everywhere if parts[-1] == key)
    if elsewhere:
        return f"; it belongs in [{'.'.join(elsewhere[0][1][:-1])}]"
    return f"; known are {', '.join(here)}"


def _all_keys(type_: type, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    found = []
    for name, field in fields_of(type_).items():
        found.append((path, name))
        inner = struct_in(field.type)
        if inner is not None:
            found.extend(_all_keys(inner, (*path, name)))
    return found


def _explained(message: str, raw: dict[str, Any], place: str, flagged: set[str]) -> str:
    """msgspec's message in the words of the config: place, section, key, value, expectation."""
    expectation, _, path = message.partition(" - at `$")
    parts = [name or int(index or 0) for name, index in _PATH_PART.findall(path.rstrip("`"))]
    keys = [part for part in parts if isinstance(part, str)]
    section, key = ".".join(keys[:-1]), keys[-1] if keys else ""
    if ".".join(keys) in flagged:
        place = "--set"
    missing = re.search(r"missing required field `(\w+)`", expectation)
    if missing:
        return f'{place}: [{".".join(keys)}] lacks the key "{missing.group(1)}"'
    where = f"{place}: [{section}] {key}" if section else f"{place}: {key}"
    while parts and not isinstance(parts[-1], str):
        parts.pop()
    value, found = _looked_up(raw, parts)
    if found and not isinstance(value, Mapping):
        expectation = expectation.partition(", got")[0]
    shown = ""
    if found and not isinstance(value, Mapping):
        shown = f" = {_NONE if value is None else inline(value)}"
    return f"{where}{shown}: {_in_words(expectation, keys, value)}"


def _in_words(expectation: str, keys: list[str], value: Any) -> str:
    type_: Any = Experiment
    for key in keys:
        type_ = fields_of(struct_in(type_) or type_)[key].type
    options = choices(type_)
    if options:
        near = difflib.get_close_matches(str(value), options, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        return f"must be one of {', '.join(options)}{hint}"
    text = expectation.replace("`", "").replace("Expected", "expected").replace(" | ", " or ")
    for name, words in (("float", "a number"), ("int", "a whole number"), ("str", "a string"),
                        ("bool", "true or false"), ("array", "a list"), ("object", "a table"),
                        ("null", "none")):  # fmt: skip
        text = re.sub(rf"\b{name}\b", words, text)
    optional = "" if "none" in text or not allows_none(type_) else ", or leave it out"
    return text + optional


def _looked_up(raw: Any, parts: Sequence[str | int]) -> tuple[Any, bool]:
    for part in parts:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            return None, False
    return raw, True
