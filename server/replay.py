"""Applies a shard's log to the snapshot that it follows, and says whether it leads where it led."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import xxhash

from psedge.compression.coder import Coders
from psedge.protocol.errors import ConfigError, FrameError
from psedge.protocol.log_entry import Entry, EntryKind
from psedge.protocol.replicas import Position
from psedge.server.log_apply import applied, shard_of
from psedge.server.log_folder import LogFolder
from psedge.server.log_reader import LogReader
from psedge.server.recovery import LogContents, SoundSnapshot
from psedge.server.shard import Shard
from psedge.server.snapshot import snapshot_name


@dataclass(slots=True)
class Replayed:
    """What a log came to.

    begins, at: the snapshot's entry and the latest one applied. terms: of all entries in between,
    rising. pushes: applied or refused. digests: that were compared and are equal. log_bytes: of the
    entries. differs: index of an entry that does not lead where it led; None if all do.
    notes: sentences about files that were passed over. loss: a sentence about damage in the middle
    of the log, which no power cut explains; empty if there is none.
    """

    run: str
    shard: Shard
    begins: Position
    at: Position
    terms: list[int] = field(default_factory=list)
    pushes: int = 0
    digests: int = 0
    log_bytes: int = 0
    differs: int | None = None
    notes: list[str] = field(default_factory=list)
    loss: str = ""

    @property
    def parameters_digest(self) -> str:
        """XXH3-64 of the float32 parameters, as 16 hexadecimal digits."""
        return xxhash.xxh3_64_hexdigest(self.shard.parameters.data)

    def apply(self, entries: Sequence[Entry], coders: Coders, to: int | None) -> bool:
        """False: there is no use in going on."""
        for entry in entries:
            if to is not None and entry.index > to:
                return False
            if not applied(entry, self.shard, coders):
                self.differs = entry.index
                return False
            self.at = Position(entry.term, entry.index)
            self.log_bytes += entry.size
            self.pushes += entry.kind is EntryKind.PUSH
            self.digests += entry.kind is EntryKind.DIGEST
            if not self.terms or self.terms[-1] != entry.term:
                self.terms.append(entry.term)
        return True


async def replay(folder: LogFolder, where: str, to: int | None = None) -> Replayed:
    """Apply a shard's log from its oldest snapshot on, or from the last one before entry `to`.

    where: the folder in words, for people. to: the last entry to apply.
    Raises ConfigError when there is no log that could be applied, or when it does not hold `to`.
    Raises OSError when a file cannot be read.
    """
    contents = await LogContents.of(folder)
    if not contents.snapshots and not contents.segments:
        raise ConfigError(f"{where} is no folder with the log of a shard")
    begin = await _first_snapshot(contents, where, to)
    order = begin.snapshot.order
    try:
        shard = shard_of(order, begin.arrays)
    except FrameError as error:
        raise ConfigError(f"{where}: {snapshot_name(begin.index)}: {error}") from error
    number = order.assignment.shard
    replayed = Replayed(begin.snapshot.run, shard, order.at, order.at)
    coders = Coders(shard.piece)
    reader = LogReader(begin.snapshot.run, number, begin.snapshot.lineage, order.at)
    async for entries in contents.entries(reader, all_files=True):
        if not replayed.apply(entries, coders, to):
            break
    replayed.notes += [
        f"{where}/{snapshot_name(index)} is not used ({why})"
        for index, why in sorted(contents.damaged.items())
    ]
    if replayed.differs is None and (to is None or replayed.at.index < to):
        _note_loss(replayed, reader, number)
    if to is not None and replayed.differs is None and replayed.at.index < to and not replayed.loss:
        raise ConfigError(f"the log in {where} ends with entry {replayed.at.index}, before {to}")
    return replayed


def _note_loss(replayed: Replayed, reader: LogReader, number: int) -> None:
    if reader.loss is None:
        return
    sentence = reader.loss.sentence(number, "not read")
    if reader.loss.after:
        replayed.loss = sentence
    else:
        replayed.notes.append(sentence)


async def _first_snapshot(contents: LogContents, where: str, to: int | None) -> SoundSnapshot:
    """The oldest one that belongs to the newest log here, or the last of those before `to`."""
    sound = [
        found
        for index in contents.snapshots
        if (found := await contents.sound_snapshot(index)) is not None
    ]
    if not sound:
        why = "; ".join(
            f"{snapshot_name(index)}: {why}" for index, why in sorted(contents.damaged.items())
        )
        raise ConfigError(f"{where} holds no snapshot to begin with ({why or 'there is none'})")
    newest = max(found.snapshot.lineage for found in sound)
    usable = [found for found in sound if found.snapshot.lineage == newest]
    if to is None:
        return usable[0]
    before = [found for found in usable if found.index <= to]
    if not before:
        raise ConfigError(
            f"the log in {where} begins after entry {usable[0].index}: {to} is before that"
        )
    return before[-1]
