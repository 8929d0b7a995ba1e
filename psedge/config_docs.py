"""docs/configuration.md, written from the config types, so that it is never out of date.

`python -m psedge.config_docs FILE` writes it; a test compares the committed file with the types.
"""

from __future__ import annotations

import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec

from psedge.config import Experiment
from psedge.config_types import Field, fields_of, struct_in
from psedge.export import write_file
from psedge.toml_text import inline

_INTRODUCTION = """\
# Configuration

An experiment is one TOML file. Values come from the defaults below, then the file, then
`--set section.key=value` flags, and from nowhere else:

```
psedge run configs/digits-quickstart.toml --set optimizer.lr=0.05 --set cluster.workers=4
```

A flag's value is TOML; a bare word is a string, and `none` makes an optional key absent. An unknown
key or a wrong value is one line that names the key and what belongs there. The resolved config of a
run is `config.toml` in its run folder, and can be run again.

A small experiment in full:

```toml
[model]
factory = "digits-cnn"

[data]
dataset = "digits"
batch_size = 32

[schedule]
length = 10          # epochs

[cluster]
servers = 2
workers = 3
```

This page is generated from the types by `make docs`.
"""

_NAMES = {float: "number", int: "integer", str: "string", bool: "true / false", Any: "anything"}


def document() -> str:
    """The whole page as Markdown."""
    keys = fields_of(Experiment)
    plain = [field for field in keys.values() if struct_in(field.type) is None]
    parts = [_INTRODUCTION, _section("Top of the file", Experiment, plain)]
    for field in keys.values():
        inner = struct_in(field.type)
        if inner is not None:
            parts.append(_sections(field, inner))
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Write the page to the file that is named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m psedge.config_docs docs/configuration.md\n")
        return 2
    write_file(Path(arguments[0]), document().encode())
    return 0


def _sections(field: Field, type_: type[msgspec.Struct]) -> str:
    """A section, and after it the lists of tables in it."""
    note = f"\n{field.meta.description}\n" if field.meta and field.meta.description else ""
    parts = [_section(f"`[{field.name}]`", type_, list(fields_of(type_).values()), note)]
    return "\n".join([*parts, *_lists_of_tables(field.name, type_)])


def _lists_of_tables(path: str, type_: type[msgspec.Struct]) -> list[str]:
    """Those in a section, each followed by those in it."""
    parts = []
    for key in fields_of(type_).values():
        inner = struct_in(key.type)
        if inner is not None:
            deeper = f"{path}.{key.name}"
            parts.append(_section(f"`[[{deeper}]]`", inner, list(fields_of(inner).values())))
            parts += _lists_of_tables(deeper, inner)
    return parts


def _section(title: str, type_: type, keys: list[Field], note: str = "") -> str:
    lines = [f"## {title}\n", f"{(type_.__doc__ or '').strip()}\n{note}"]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [_row(field) for field in keys]
    return "\n".join(lines) + "\n"


def _row(field: Field) -> str:
    described = field.meta.description if field.meta and field.meta.description else ""
    cells = (f"`{field.name}`", _type(field.type, field.meta), _default(field), described)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: Field) -> str:
    if field.required:
        return "required"
    if field.default is None:
        return "absent"
    return f"`{inline(msgspec.to_builtins(field.default))}`"


def _type(type_: Any, meta: msgspec.Meta | None = None) -> str:
    """A type in a reader's words, with its bounds."""
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if origin is Annotated:
        return _type(arguments[0], next(a for a in arguments[1:] if isinstance(a, msgspec.Meta)))
    if origin in (Union, types.UnionType):
        return " or ".join(_type(each) for each in arguments if each is not type(None))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        count = "list of" if arguments[-1] is Ellipsis else str(len(arguments))
        return f"{count} {_type(arguments[0])}s"
    if origin is dict:
        return "table"
    if struct_in(type_) is not None:
        return "table"
    return _NAMES[type_] + _bounds(meta)


def _bounds(meta: msgspec.Meta | None) -> str:
    if meta is None:
        return ""
    signs = ((">", meta.gt), ("≥", meta.ge), ("<", meta.lt), ("≤", meta.le))
    bounds = [f"{sign} {bound:g}" for sign, bound in signs if bound is not None]
    return ", " + ", ".join(bounds) if bounds else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
