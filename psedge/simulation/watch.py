"""Looks over the shoulders of production code and tells the checkers what it does.

Shards, services and sessions of the virtual world are the production classes with a watch in their
ear: each override calls the original and reports, and decides nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from psedge.compression.codec import Float32Array
from psedge.compression.coding_work import CodingWork
from psedge.compression.lossless import stage_of_frame
from psedge.compression.table import codec_of_frame
from psedge.protocol.log_entry import Entry, EntryKind
from psedge.protocol.messages import ClaimReply
from psedge.protocol.ports import Buffer, Clock, Incoming, Reply
from psedge.protocol.shards import Assignment, Members, ShardState
from psedge.protocol.wire import HEADER_BYTES, Content, Header, Status, decode_header
from psedge.server.push import Outcome, Push
from psedge.server.replica import Replica
from psedge.server.service import HostedShard, ShardService
from psedge.server.shard import Shard
from psedge.simulation.checkers.checker import Checker
from psedge.simulation.outcome import Violation
from psedge.simulation.trace import Trace
from psedge.worker import push as worker_push
from psedge.worker.client import ExchangeResult
from psedge.worker.session import Session

#: Violations that are kept; one that repeats says nothing new.
VIOLATIONS_LIMIT = 100


class Watch:
    """Hands what happens to every checker that wants to hear of it.

    now: virtual seconds. joined: called with the host of a worker that was admitted. pushed: with
    a worker's host after each of its pushes that was answered, and with when that push began.
    applied: after each push that a primary of shard 0 took. snapped: after its state was taken.
    services: of the hosts with a server process.
    """

    def __init__(
        self,
        now: Callable[[], float],
        checkers: Sequence[type[Checker]],
        *,
        joined: Callable[[str], None],
        pushed: Callable[[str, float], None],
        applied: Callable[[], None],
        snapped: Callable[[], None],
    ) -> None:
        self.violations: list[Violation] = []
        self.services: dict[str, ShardService] = {}
        self.now = now
        self.joined, self.pushed, self.applied, self.snapped = joined, pushed, applied, snapped
        self._checkers = [checker(self._report, now) for checker in checkers]
        self._hooks: dict[str, list[Callable[..., None]]] = {}

    def tell(self, hook: str, *arguments: Any) -> None:
        """Call a hook of every checker that has one of its own."""
        hooks = self._hooks.get(hook)
        if hooks is None:
            hooks = self._hooks[hook] = [
                getattr(checker, hook)
                for checker in self._checkers
                if getattr(type(checker), hook) is not getattr(Checker, hook)
            ]
        for call in hooks:
            call(*arguments)

    def host_gone(self, host: str) -> None:
        """The process on a host has ended, however it did."""
        self.services.pop(host, None)
        self.tell("host_gone", host)

    def holders(self, role: str, shard: int) -> tuple[str, ...]:
        """The hosts with this role of a shard; of several primaries, that of the highest term."""
        found = [
            (hosted.replica.term, host)
            for host, service in self.services.items()
            if (hosted := service.hosted.get(shard)) is not None and hosted.replica.role == role
        ]
        if role == "primary":
            found = sorted(found)[-1:]
        return tuple(host for _, host in sorted(found))

    def _report(self, violation: Violation) -> None:
        if len(self.violations) < VIOLATIONS_LIMIT:
            self.violations.append(violation)


def watched_shard(watch: Watch, host: str) -> type[Shard]:
    """What the shards on a host are made of."""

    class WatchedShard(Shard):
        def __init__(
            self,
            assignment: Assignment,
            parameters: Float32Array,
            buffers: Float32Array,
            counters: bytes,
            state: ShardState | None = None,
        ) -> None:
            rest = () if state is None else (state,)
            super().__init__(assignment, parameters, buffers, counters, *rest)
            if state is None:
                watch.tell("shard_made", host, self, None)

        @classmethod
        def restored(
            cls, assignment: Assignment, state: ShardState, arrays: Mapping[str, NDArray[Any]]
        ) -> Shard:
            shard = super().restored(assignment, state, arrays)
            watch.tell("shard_made", host, shard, state)
            return shard

        def set_members(self, members: Members) -> bool:
            changed = super().set_members(members)
            watch.tell("members_set", host, self, members)
            return changed

        def push(self, push: Push) -> Outcome:
            watch.tell("shard_pushing", host, self, push)
            try:
                outcome = super().push(push)
            except Exception as error:
                watch.tell("shard_raised", host, self, push, error)
                raise
            watch.tell("shard_pushed", host, self, push, outcome)
            return outcome

        def image(self) -> tuple[ShardState, dict[str, NDArray[Any]], int]:
            state, arrays, behind = super().image()
            watch.tell("shard_imaged", host, self, state, arrays)
            return state, arrays, behind

        def state(self) -> tuple[ShardState, dict[str, NDArray[Any]]]:
            state, arrays = super().state()
            watch.tell("shard_state", host, self, state, arrays)
            if self.assignment.shard == 0:
                watch.snapped()
            return state, arrays

    return WatchedShard


class WatchedService(ShardService):
    """Serves watched shards, and counts what that costs a processor.

    hosts: host of each worker by its number. work: not charged to the processor yet.
    """

    def __init__(
        self,
        clock: Clock,
        watch: Watch,
        trace: Trace,
        host: str,
        hosts: Mapping[int, str],
        **further: Any,
    ) -> None:
        """further: as ShardService takes it."""
        super().__init__(clock, watched_shard(watch, host), **further)
        self.work = CodingWork()
        self._watch = watch
        self._trace = trace
        self._host = host
        self._hosts = hosts
        watch.services[host] = self
        watch.tell("server_opened", host, self)

    def replica_changed(self, replica: Replica, what: str) -> None:
        self._trace.record("replica", self._host, _told(replica, what), notable=what in _NOTABLE)
        self._watch.tell("replica_changed", self._host, replica, what)

    def entries_appended(self, replica: Replica, entries: Sequence[Entry]) -> None:
        elements = self._elements(replica.shard.assignment.shard)
        for entry in entries:
            if entry.kind is EntryKind.PUSH:
                header = decode_header(memoryview(entry.body)[:HEADER_BYTES])
                self.work.applied[_coding(header)] += elements
        self._watch.tell("entries_applied", self._host, replica, entries)

    def reply(self, header: Header, sections: Sequence[Buffer]) -> Reply:
        if header.content is not Content.NONE:
            self.work.published[_coding(header)] += self._elements(header.shard)
        reply = super().reply(header, sections)
        hosted = self._hosted.get(header.shard)
        if header.status is not Status.NONE and hosted is not None:
            self._watch.tell("push_answered", self._host, hosted.replica, header)
        self._watch.tell("step")
        return reply

    async def receive_push(
        self, incoming: Incoming, header: Header, hosted: HostedShard
    ) -> tuple[Outcome, float]:
        received = await super().receive_push(incoming, header, hosted)
        self.work.applied[_coding(header)] += self._elements(header.shard)
        if header.shard == 0:
            self._watch.applied()
        return received

    async def wait_at_gate(self, hosted: HostedShard, header: Header) -> bool:
        worker = self._hosts.get(header.worker, "")
        if worker and not hosted.shard.may_proceed(header.worker):
            self._trace.lane(worker, "waiting")
        passed = await super().wait_at_gate(hosted, header)
        if passed:
            self._watch.tell(
                "gate_passed", self._host, hosted.shard, header.worker, header.incarnation
            )
        if worker:
            self._trace.lane(worker, "transferring")
        return passed

    def _elements(self, shard: int) -> int:
        hosted = self._hosted.get(shard)
        if hosted is None:
            return 0
        return hosted.shard.assignment.stop - hosted.shard.assignment.start


def watched_session(watch: Watch, trace: Trace, host: str, hosts: dict[int, str]) -> type[Session]:
    """What the session of the worker on a host is. hosts: where it enters its number."""

    class WatchedSession(Session):
        async def come_in(self) -> None:
            await super().come_in()
            hosts[self.joined.worker] = host
            watch.tell("worker_joined", host, self)
            watch.joined(host)

        async def claim(self, *, idle: bool) -> ClaimReply:
            if idle:
                trace.lane(host, "waiting")
            reply = await super().claim(idle=idle)
            watch.tell("range_claimed", host, self, reply)
            return reply

        def encode(self, samples: int, gradient: Float32Array | None = None) -> worker_push.Push:
            push = super().encode(samples, gradient)
            values = self.binding.gradients if gradient is None else gradient
            watch.tell("worker_encoded", host, self, push, values)
            return push

        async def send(self, push: worker_push.Push) -> ExchangeResult:
            trace.lane(host, "transferring")
            began = watch.now()
            try:
                result = await super().send(push)
            except BaseException as error:
                watch.tell("worker_sent", host, self, push, error)
                raise
            watch.tell("worker_sent", host, self, push, result)
            trace.lane(host, "waiting")
            watch.pushed(host, began)
            return result

        def take(self) -> None:
            if not self.client.received:
                return
            super().take()
            watch.tell("worker_took", host, self)
            watch.tell("step")

    return WatchedSession


#: What becomes of copies and people want to see.
_NOTABLE = ("promoted", "recovered")


def _told(replica: Replica, what: str) -> str:
    number, at = replica.shard.assignment.shard, replica.at
    return f"shard {number} {what} in term {replica.term} at entry {at.index}"


def _coding(header: Header) -> tuple[str, str]:
    return _names(header.codec, header.codec_parameters, header.lossless)


@functools.lru_cache(maxsize=256)
def _names(codec: int, parameters: bytes, lossless: int) -> tuple[str, str]:
    return codec_of_frame(codec, parameters).name, stage_of_frame(lossless).name
