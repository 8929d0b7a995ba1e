"""What a server keeps on its disk: whose folder it is, and the log of each shard.

`store.json` says which run the logs are of, so that a server never goes on with another run's
parameters. A folder belongs to one server process at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
import xxhash

from psedge.protocol.errors import ConfigError
from psedge.protocol.ports import Clock, RandomBits, Storage
from psedge.protocol.shards import LogSettings
from psedge.server.log_files import LogStart
from psedge.server.log_folder import LogFolder, shard_folder
from psedge.server.recovery import Recovered, recover
from psedge.server.segment import LOG_VERSION
from psedge.server.shard_log import ShardLog
from psedge.server.write_trouble import WriteTrouble, reason_of

__all__ = ["Recovered", "ServerStore"]

Notify = Callable[[str], None]

STORE_FILE = "store.json"
IDENTITY_BITS = 64

_ELSEWHERE = "name another folder with --store"
#: The logs themselves may be whole.
_PUT_BACK = "put the right file back, or name another folder with --store and give these logs up"

_SHARD = re.compile(r"shard-(0|[1-9]\d{0,9})")


class StoreRecord(msgspec.Struct, frozen=True):
    """store: identity of the folder. run: of the run, empty as long as there is none.

    checksum: XXH3-64 of the record without it, as 16 hexadecimal digits.
    """

    log_version: int
    store: str
    run: str
    checksum: str = ""


class ServerStore:
    """identity: of the folder, random, and the same as long as the folder lasts.

    run: identity of the run whose logs lie here; empty in a new folder before `bind`.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        notify: Notify,
        random_bits: RandomBits,
        where: str = "the server's folder",
    ) -> None:
        """where: the folder in words, for people."""
        self.identity = ""
        self.run = ""
        self._storage = storage
        self._clock = clock
        self._notify = notify
        self._random_bits = random_bits
        self._where = where
        self._trouble = WriteTrouble(notify, clock, where)
        self._starts: dict[int, LogStart] = {}
        self._logs: dict[int, ShardLog] = {}

    @property
    def trouble(self) -> str:
        """What people were told that cannot be written, and why; empty if all can."""
        return self._trouble.told

    async def open(self, run: str = "") -> list[Recovered]:
        """What the folder holds. Call it once, before anything else.

        run: identity of the run, empty if that is not known yet: then `bind` it later.
        Raises ConfigError when the folder is of another run, cannot be read or written, or is no
        folder of a server. What was lost of a log is said, and raises nothing.
        """
        try:
            record = await self._record()
            self.identity = record.store or self._new_identity()
            self.run = record.run
            await self.bind(run)
            return await self._recover_all()
        except OSError as error:
            raise self._refused(f"cannot be used ({reason_of(error)})") from None

    async def require_new(self) -> None:
        """Raise ConfigError, as `open` does, unless this folder could be that of a new run."""
        try:
            record = await self._record()
        except OSError as error:
            raise self._refused(f"cannot be used ({reason_of(error)})") from None
        if record.run:
            raise self._of_another(record.run, "a new run")
        self.identity = record.store or self._new_identity()
        await self.bind("")

    async def bind(self, run: str) -> None:
        """Say which run the logs are of; an empty identity changes nothing.

        Raises ConfigError when they are of another run, or the folder cannot be written to.
        """
        if run and self.run and run != self.run:
            raise self._of_another(self.run, f"run {run}")
        self.run = self.run or run
        try:
            # Written each time: whether we may write here is better known now than in an hour.
            await self._storage.write_atomic(STORE_FILE, [self._encoded()])
        except OSError as error:
            raise self._refused(f"cannot be written to ({reason_of(error)})") from None

    def log(self, shard: int, settings: LogSettings) -> ShardLog:
        """The log of a shard, the same one as long as it is neither dropped nor closed.

        `write` continues what was recovered; any other shard needs a `begin` first.
        """
        if settings.sync == "off" or not self.run:
            raise ValueError("a log needs a run, and settings that ask for one")
        log = self._logs.get(shard)
        if log is None:
            log = self._logs[shard] = ShardLog(
                self._folder(shard),
                self.run,
                shard,
                settings,
                self._clock,
                self._trouble,
                self._notify,
                self._starts.pop(shard, LogStart()),
            )
        log.adopt(settings)
        return log

    async def drop(self, shard: int) -> None:
        """Forget a shard: its log is closed, and its files are removed."""
        log = self._logs.pop(shard, None)
        lineage = self._starts.pop(shard, LogStart()).lineage
        if log is not None:
            await log.drop()
            lineage = log.lineage
        # What a power cut brings back of the removed files must not pass for newer than new ones.
        self._starts[shard] = LogStart(lineage=lineage)
        await self._trouble.attempt("what is removed", self._folder(shard).remove_all())

    async def close(self) -> None:
        """Write what the logs still have to write."""
        logs = list(self._logs.values())
        self._logs.clear()
        for log in logs:
            await log.close()

    def _folder(self, shard: int) -> LogFolder:
        return LogFolder(self._storage, shard_folder(shard))

    async def _recover_all(self) -> list[Recovered]:
        names = await self._storage.names(".")
        shards = sorted(int(match[1]) for name in names if (match := _SHARD.fullmatch(name)))
        recovered = []
        for shard in shards:
            found = await recover(self._folder(shard), self.run, shard)
            self._starts[shard] = found.start
            for note in found.notes:
                self._notify(note)
            if found.recovered is not None:
                recovered.append(found.recovered)
        return recovered

    async def _record(self) -> StoreRecord:
        """That of the folder; one without an identity in a new folder."""
        try:
            content = await self._storage.read(STORE_FILE)
        except FileNotFoundError:
            names = await self._storage.names(".")
            if any(_SHARD.fullmatch(name) for name in names):
                raise self._refused(
                    f"holds logs, but no {STORE_FILE} that says of which run", _PUT_BACK
                ) from None
            return StoreRecord(LOG_VERSION, "", "")
        try:
            record = msgspec.json.decode(content, type=StoreRecord)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._refused(
                f"has a {STORE_FILE} that cannot be read ({error})", _PUT_BACK
            ) from None
        if record.log_version != LOG_VERSION:
            raise self._refused(
                f"holds logs of version {record.log_version}; this psedge reads {LOG_VERSION}"
            )
        if record.checksum != _checksum(record):
            raise self._refused(
                f"has a {STORE_FILE} that has changed since it was written", _PUT_BACK
            )
        return record

    def _encoded(self) -> bytes:
        record = StoreRecord(LOG_VERSION, self.identity, self.run)
        record = msgspec.structs.replace(record, checksum=_checksum(record))
        return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"

    def _new_identity(self) -> str:
        return f"{self._random_bits(IDENTITY_BITS):016x}"

    def _of_another(self, run: str, wanted: str) -> ConfigError:
        return ConfigError(
            f"{self._where} holds the logs of run {run}, and this is {wanted}: name another folder "
            "with --store, or empty this one if that run is over"
        )

    def _refused(self, why: str, way_out: str = _ELSEWHERE) -> ConfigError:
        return ConfigError(f"{self._where} {why}: {way_out}")


def _checksum(record: StoreRecord) -> str:
    return xxhash.xxh3_64_hexdigest(
        msgspec.json.encode(msgspec.structs.replace(record, checksum=""))
    )
