"""A server process in its cluster: it registers with the supervisor and keeps its lease.

The supervisor's answers carry what this server may have missed: how long it may act for its shards,
who reigns over them, which of its copies nobody wants. A server that holds copies waits for a
supervisor that is gone, however long that takes: they may be all that is left of the model.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from psedge.compression.lossless import available
from psedge.protocol.address import Address
from psedge.protocol.calls import ask
from psedge.protocol.errors import (
    AddressError,
    ConfigError,
    FrameError,
    PsedgeError,
    RefusedError,
    UnreachableError,
    not_psedge,
)
from psedge.protocol.messages import (
    HELLO,
    REGISTER,
    SERVER_HEARTBEAT,
    Hello,
    HelloReply,
    Register,
    RegisterReply,
    ServerHeartbeatReply,
)
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.server.service import ShardService

#: Between two tries to reach a supervisor that does not answer.
RETRY_SECONDS = 1.0
#: A heartbeat that goes unanswered for so many times their interval is better sent again; and for
#: this long at least.
HEARTBEATS_UNANSWERED = 2.0
LEAST_TIMEOUT_SECONDS = 2.0
#: A server without copies gives a supervisor up that has been silent for so long.
LOST_SECONDS = 60.0
#: Between two lines that tell people that the supervisor is still awaited: before this server
#: takes part in a run, and while it holds copies.
REMINDER_SECONDS = 10.0
WAITING_SECONDS = 60.0
#: Refusals that no patience mends.
FINAL = ("forbidden", "version-differs")
NOT_A_SUPERVISOR = (
    "is a further server without a supervisor: use the join line that the first `psedge server` "
    "printed"
)

Unanswered = (UnreachableError, RefusedError, FrameError)


class ServerNode:
    """Runs beside the service's listener for as long as the cluster wants this server."""

    def __init__(
        self,
        service: ShardService,
        supervisor: Address,
        *,
        host: str,
        port: int,
        incarnation: int,
        transport: Transport,
        clock: Clock,
        notify: Callable[[str], None],
        process: int = 0,
        machine: str = "",
    ) -> None:
        """host, port: where this server listens; incarnation: random, tells restarts apart.

        process, machine: pid and name of its machine, for people.
        """
        self._service = service
        service.incarnation = incarnation
        service.supervisor = supervisor
        self._supervisor = supervisor
        self._entry = Register(
            __version__,
            WIRE_VERSION,
            host,
            port,
            incarnation,
            lossless=available(),
            process=process,
            machine=machine,
        )
        self._transport = transport
        self._clock = clock
        self._notify = notify
        #: Identity of the run that the copies are of.
        self._run = ""
        #: When the first of the heartbeats that went unanswered since was noticed to be one.
        self._missed_at: float | None = None
        self._told_at: float | None = None

    async def run(self, *, patient: bool) -> None:
        """Return when the supervisor says that the run has ended.

        patient: wait for a supervisor that is not there yet, as long as it takes.
        Raises AddressError when it is no supervisor or turns this server away, ConfigError when the
        server's folder is of another run or another server's, UnreachableError when the supervisor
        stays lost.
        """
        heartbeat_seconds = await self._enter(patient)
        while True:
            began = self._clock.now()
            reply = await self._beat(heartbeat_seconds)
            if reply is not None and reply.command == "stop":
                return
            if reply is not None and reply.command == "register":
                self._service.forgotten()
                self._notify("the supervisor was started anew; registering again")
                heartbeat_seconds = await self._enter(patient=True)
                continue
            due = began + heartbeat_seconds - self._clock.now()
            # After one that was long on its way, the next one follows soon.
            await self._clock.sleep(max(due, 0.1 * heartbeat_seconds))

    async def _beat(self, heartbeat_seconds: float) -> ServerHeartbeatReply | None:
        """One sign of life; None if it was not answered."""
        report, heard = await self._service.news()
        sent_at = self._clock.now()
        try:
            reply = await ask(
                self._transport,
                self._supervisor,
                SERVER_HEARTBEAT,
                report,
                ServerHeartbeatReply,
                timeout_seconds=max(
                    LEAST_TIMEOUT_SECONDS, HEARTBEATS_UNANSWERED * heartbeat_seconds
                ),
            )
        except Unanswered as error:
            if isinstance(error, RefusedError) and error.code == "not-ready":
                # It was started anew and makes its model ready; its next answer says the rest.
                self._reached()
            else:
                self._bear(error)
            return None
        self._reached()
        if reply.command == "continue":
            heard()
            self._service.renew(sent_at + reply.lease_seconds)
            for reign in reply.reigns:
                self._service.heard(reign)
            self._service.obey(reply.drop, report)
        return reply

    def _reached(self) -> None:
        self._missed_at = self._told_at = None

    def _bear(self, error: PsedgeError) -> None:
        """A heartbeat failed. Raises what ends this server, if it is not to wait any longer."""
        final = isinstance(error, RefusedError) and error.code in FINAL
        unreachable = isinstance(error, UnreachableError)
        if final or not (self._service.hosted or unreachable):
            raise self._turned_away(error) from error
        now = self._clock.now()
        if self._missed_at is None:
            # Not when it last answered: this machine may have slept since then.
            self._missed_at = now
        silent = now - self._missed_at
        if silent <= LOST_SECONDS:
            return
        if not self._service.hosted:
            raise UnreachableError(
                f"the supervisor at {self._supervisor.url} has been silent for "
                f"{LOST_SECONDS:.0f} s; this server stops"
            ) from error
        if self._told_at is None or now - self._told_at >= WAITING_SECONDS:
            self._notify(
                f"no supervisor at {self._supervisor.url} for {silent:.0f} s ({error}); this "
                "server keeps its shards and waits for it"
            )
            self._told_at = now

    async def _enter(self, patient: bool) -> float:
        """Become known to the supervisor; seconds between heartbeats."""
        told_at: float | None = None
        while True:
            try:
                await self._meet_run()
                reply = await self._register()
            except Unanswered as error:
                missing = isinstance(error, UnreachableError)
                if isinstance(error, RefusedError) and error.code == "not-ready":
                    missing = True
                if not missing or not patient:
                    raise self._turned_away(error) from error
                now = self._clock.now()
                if told_at is None or now - told_at >= REMINDER_SECONDS:
                    self._notify(f"waiting for a supervisor: {error}")
                    told_at = now
                await self._clock.sleep(RETRY_SECONDS)
                continue
            self._reached()
            return reply.heartbeat_seconds

    async def _meet_run(self) -> None:
        """Whoever has copies, a folder for them or a past asks first which run this is.

        Raises ConfigError if the folder is of another run.
        """
        store, service = self._service.store, self._service
        unopened = store is not None and not self._run
        if not unopened and not self._run and not service.hosted:
            return
        hello = await ask(
            self._transport, self._supervisor, HELLO, Hello(__version__, WIRE_VERSION), HelloReply
        )
        if not hello.supervisor:
            raise AddressError(f"{self._supervisor.url} {NOT_A_SUPERVISOR}")
        run = hello.identity or hello.run
        if unopened and store is not None:
            service.recover(await store.open(run))
        elif self._run and run != self._run:
            if store is not None:
                await store.bind(run)
            if service.hosted:
                self._notify("the supervisor has begun another run; the shards here are given up")
            for shard in tuple(service.hosted):
                service.drop(shard)
        self._run = run

    async def _register(self) -> RegisterReply:
        service, store = self._service, self._service.store
        entry = msgspec.structs.replace(
            self._entry,
            store=store.identity if store is not None else "",
            run=self._run if store is not None or service.hosted else "",
            replicas=service.report().replicas,
        )
        sent_at = self._clock.now()
        service.entering()
        try:
            reply = await ask(self._transport, self._supervisor, REGISTER, entry, RegisterReply)
        except PsedgeError:
            service.not_entered()
            raise
        service.server = reply.server
        service.renew(sent_at + reply.lease_seconds)
        self._run = reply.run or self._run
        return reply

    def _turned_away(self, error: PsedgeError) -> PsedgeError:
        """What a supervisor's refusal means to the person who started this server."""
        url = self._supervisor.url
        if isinstance(error, FrameError):
            return not_psedge(url, error)
        if isinstance(error, RefusedError) and error.code in FINAL:
            return AddressError(f"{url} turns this server away: {error}")
        if isinstance(error, RefusedError) and error.code == "conflict":
            return ConfigError(str(error))
        if isinstance(error, RefusedError) and error.code == "not-found":
            return AddressError(f"{url} {NOT_A_SUPERVISOR}")
        return error
