"""What a server tells the supervisor of its shards: only what no fail-over takes back.

Figures are taken first; then it is awaited, for a while, that all entries they contain are
acknowledged. Where that does not happen in time, the report leaves the progress of workers out, and
which members the shard knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from psedge.protocol.shards import ServerReport, ShardReport
from psedge.server.copies import Copies
from psedge.server.hosted_shard import HostedShard

#: Workers whose progress one heartbeat tells at most; the next ones tell the rest.
REPORTED_WORKERS = 2000
#: How long a heartbeat waits for what it tells to be acknowledged; it must not be late.
NEWS_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class _Figures:
    """A shard's report, the latest entry in it, and up to which change of progress it goes."""

    hosted: HostedShard
    report: ShardReport
    index: int
    change: int | None


class Reporting(Copies):
    """Copies, and what the supervisor hears of them."""

    def report(self) -> ServerReport:
        """Figures as they are now, acknowledged or not."""
        return self._whole([each.report for each in self._figures(None)])

    async def told(self, seconds: float) -> ServerReport:
        """Figures for the supervisor, and whose progress changed since it heard the last `news`.

        seconds: longest wait for their acknowledgement.
        """
        figures = self._figures(None)
        late = await self._late(figures, seconds)
        return self._whole([_bare(each.report, each.hosted in late) for each in figures])

    async def news(self) -> tuple[ServerReport, Callable[[], None]]:
        """As `told`, of bounded length, and what to call once the supervisor has heard it."""
        figures = self._figures(REPORTED_WORKERS)
        late = await self._late(figures, NEWS_SECONDS)

        def heard() -> None:
            for each in figures:
                if each.change is not None and each.hosted not in late:
                    each.hosted.told = max(each.hosted.told, each.change)

        return self._whole([_bare(each.report, each.hosted in late) for each in figures]), heard

    def forgotten(self) -> None:
        """The supervisor has been started anew and knows nothing."""
        for hosted in self._hosted.values():
            hosted.told = 0

    def obey(self, drop: Sequence[int], report: ServerReport) -> None:
        """Give up copies that nobody wants, as the supervisor has seen in `report`.

        A copy that has come, or has a new place in a reign, since then is not meant.
        """
        for shard in drop:
            hosted = self._hosted.get(shard)
            reported = [state for state in report.replicas if state.shard == shard]
            if hosted is None or not reported:
                continue
            now = hosted.replica.state(self._clock.now())
            if (now.term, now.revision) == (reported[0].term, reported[0].revision):
                self.drop(shard)

    def _figures(self, most: int | None) -> list[_Figures]:
        found = []
        for hosted in self.reigning():
            change: int | None = None
            if hosted.shard.assignment.shard == 0:
                report, change = hosted.shard.news(hosted.told, most)
            else:
                report = hosted.shard.summary()
            found.append(_Figures(hosted, report, hosted.replica.at.index, change))
        return found

    async def _late(self, figures: Sequence[_Figures], seconds: float) -> list[HostedShard]:
        depends = [(each.hosted, each.index) for each in figures]
        return await self.unacknowledged(depends, seconds)

    async def unacknowledged(
        self, depends: Sequence[tuple[HostedShard, int]], seconds: float
    ) -> list[HostedShard]:
        """The shards whose entry of that index is not acknowledged after so many seconds."""
        now = self._clock.now()
        waits = {
            hosted.unacknowledged.wait(index): hosted
            for hosted, index in depends
            if hosted.replica.acknowledged(now) < index
        }
        if not waits:
            return []
        try:
            done, _ = await asyncio.wait(waits, timeout=seconds)
        finally:
            for wait in waits:
                wait.cancel()
        return [
            hosted
            for wait, hosted in waits.items()
            if wait not in done or wait.exception() is not None
        ]

    def _whole(self, shards: Sequence[ShardReport]) -> ServerReport:
        now = self._clock.now()
        return ServerReport(
            server=self.server,
            incarnation=self.incarnation,
            shards=tuple(shards),
            bytes_received=self._bytes_received,
            bytes_sent=self._bytes_sent,
            replicas=tuple(hosted.state(now) for hosted in self._hosted.values()),
            trouble="" if self.store is None else self.store.trouble,
        )


def _bare(report: ShardReport, is_late: bool) -> ShardReport:
    return msgspec.structs.replace(report, workers=(), revision=-1) if is_late else report
