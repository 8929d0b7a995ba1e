"""`psedge replay`: a server's logs applied once more on a desk, and what came out shown."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import click

from psedge.protocol.bundle import pack
from psedge.protocol.disk import Disk
from psedge.protocol.errors import ConfigError
from psedge.protocol.shards import ShardOrder
from psedge.protocol.system_clock import SystemClock
from psedge.server.log_folder import LogFolder
from psedge.server.replay import Replayed, replay
from psedge.terminal.figures import count, data_size, plural

_SHARD = re.compile(r"shard-(\d+)")
OUT_SUFFIX = ".safetensors"


def run_replay(folder: Path, shard: int | None, to: int | None, out: Path | None) -> int:
    """Replay the logs in a folder, print what they come to; the exit code.

    folder: of a server, or one shard's in it. Raises ConfigError for a user's mistake.
    """
    places = _shard_folders(folder, shard)
    if out is not None and out.suffix != OUT_SUFFIX:
        raise ConfigError(f"--out {out}: the file's name ends in {OUT_SUFFIX}")
    if len(places) > 1 and (out is not None or to is not None):
        option = "--out" if out is not None else "--to"
        names = ", ".join(name.removeprefix("shard-") for name in places)
        raise ConfigError(f"{option} needs --shard: {folder} holds the shards {names}")
    codes = [_code_of(folder, place, to, out) for place in places]
    return max(codes)


def _code_of(folder: Path, place: str, to: int | None, out: Path | None) -> int:
    """Of one shard; one that cannot be replayed does not keep the others from it."""
    try:
        return _replay_one(folder, place, to, out)
    except ConfigError as error:
        _complain(str(error))
        return 2


def _replay_one(folder: Path, place: str, to: int | None, out: Path | None) -> int:
    where = str(folder / place)
    clock = SystemClock()
    began = clock.now()
    try:
        found = asyncio.run(replay(LogFolder(Disk(folder), place), where, to))
    except OSError as error:
        raise _unreadable(error, where) from None
    _show(found, clock.now() - began)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if found.differs is not None:
        _complain(
            f"shard {_number(found)}: entry {found.differs} does not lead where it led when it was "
            f"written; up to entry {found.at.index} the log and the parameters agree"
        )
        return 1
    if out is not None:
        _write(out, found)
    if found.loss:
        _complain(found.loss)
        return 2
    return 0


def _shard_folders(folder: Path, shard: int | None) -> list[str]:
    """Names of the folders to look into, in order of their shards; empty: `folder` itself."""
    try:
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {folder}")
        shards = sorted(
            int(match[1])
            for path in folder.iterdir()
            if (match := _SHARD.fullmatch(path.name)) and path.is_dir()
        )
    except OSError as error:
        raise _unreadable(error, folder) from None
    if not shards:
        match = _SHARD.fullmatch(folder.resolve().name)
        if shard is not None and (match is None or int(match[1]) != shard):
            raise ConfigError(f"{folder} holds no log of shard {shard}")
        return [""]
    if shard is not None and shard not in shards:
        names = ", ".join(map(str, shards))
        raise ConfigError(f"{folder} holds no log of shard {shard}, only of {names}")
    return [f"shard-{number}" for number in shards if shard in (None, number)]


def _unreadable(error: OSError, place: Path | str) -> ConfigError:
    """place: what was looked into, where the error names no file."""
    return ConfigError(f"{error.filename or place} cannot be read: {error.strerror or error}")


def _show(found: Replayed, seconds: float) -> None:
    applied = found.at.index - found.begins.index
    terms = ("term " if len(found.terms) == 1 else "terms ") + ", ".join(map(str, found.terms))
    rate = f"{count(found.pushes / seconds)} pushes/s, " if found.pushes and seconds else ""
    entries = (
        f"{count(found.begins.index + 1)} to {count(found.at.index)}, {terms}"
        if applied
        else f"none after {count(found.at.index)}"
    )
    equal = f"{count(found.digests)} checked, all equal" if found.digests else "none to check"
    rows = {
        "entries": entries,
        "pushes": count(found.pushes),
        "digests": equal,
        "parameters": f"{plural(len(found.shard.parameters), 'value')}, version "
        f"{count(found.shard.version)}, XXH3-64 {found.parameters_digest}",
        "speed": f"{rate}{data_size(found.log_bytes)} of log in {seconds:.1f} s",
    }
    click.echo(click.style(f"shard {_number(found)} of run {found.run}", bold=True))
    for name, text in rows.items():
        click.echo(f"  {name:<12}{text}")


def _number(found: Replayed) -> int:
    return found.shard.assignment.shard


def _complain(text: str) -> None:
    click.echo(click.style("error: ", fg="red", bold=True) + text, err=True)


def _write(out: Path, found: Replayed) -> None:
    state, arrays = found.shard.state()
    order = ShardOrder(found.shard.assignment, state, at=found.at)
    try:
        out.write_bytes(pack(order, arrays))
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from None
    click.echo(f"wrote {out}")
