"""Looking into the types of a config: fields, nested sections, choices, bounds."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, Literal, Union

import msgspec


class Field(msgspec.Struct, frozen=True):
    """One key of a section. type: without its Annotated shell, which is split off into `meta`."""

    name: str
    type: Any
    meta: msgspec.Meta | None
    default: Any

    @property
    def required(self) -> bool:
        return self.default is msgspec.NODEFAULT


def fields_of(type_: type) -> dict[str, Field]:
    """The keys of a config struct, in the order in which they are declared."""
    hints = typing.get_type_hints(type_, include_extras=True)
    found = {}
    for info in msgspec.structs.fields(type_):
        hint, meta = hints[info.name], None
        if typing.get_origin(hint) is Annotated:
            hint, *extras = typing.get_args(hint)
            meta = next((extra for extra in extras if isinstance(extra, msgspec.Meta)), None)
        default = info.default
        if info.default_factory is not msgspec.NODEFAULT:
            default = info.default_factory()
        found[info.name] = Field(info.name, hint, meta, default)
    return found


def struct_in(type_: Any) -> type[msgspec.Struct] | None:
    """The section that a key holds: itself, optional, or the items of a list of sections."""
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return type_
    if typing.get_origin(type_) in (Union, types.UnionType, tuple):
        for argument in typing.get_args(type_):
            inner = struct_in(argument)
            if inner is not None:
                return inner
    return None


def choices(type_: Any) -> tuple[str, ...]:
    """The words that a key accepts, empty if it accepts others too."""
    if typing.get_origin(type_) is Literal:
        return tuple(str(choice) for choice in typing.get_args(type_))
    return ()


def allows_none(type_: Any) -> bool:
    """Whether a key may be absent without a value in its place."""
    is_union = typing.get_origin(type_) in (Union, types.UnionType)
    return is_union and type(None) in typing.get_args(type_)
