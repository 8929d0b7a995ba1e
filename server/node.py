"""A server process in its cluster: it registers with the supervisor and keeps its lease."""

from __future__ import annotations

from collections.abc import Callable

from psedge.compression.lossless import available
from psedge.protocol.address import Address
from psedge.protocol.calls import ask
from psedge.protocol.errors import (
    AddressError,
    FrameError,
    PsedgeError,
    RefusedError,
    UnreachableError,
    not_psedge,
)
from psedge.protocol.messages import (
    REGISTER,
    SERVER_HEARTBEAT,
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
#: A server that lost its supervisor holds shards nobody can find any more; it gives up after this.
LOST_SECONDS = 60.0
#: Between two lines that tell people that the supervisor is still awaited.
REMINDER_SECONDS = 10.0


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
    ) -> None:
        """host, port: where this server listens; incarnation: random, tells restarts apart."""
        self._service = service
        self._service.incarnation = incarnation
        self._supervisor = supervisor
        self._register = Register(
            __version__, WIRE_VERSION, host, port, incarnation, lossless=available()
        )
        self._transport = transport
        self._clock = clock
        self._notify = notify

    async def run(self, *, patient: bool) -> None:
        """Return when the supervisor says that the run has ended.

        patient: wait for a supervisor that is not there yet, as long as it takes.
        Raises AddressError when it is no supervisor or turns this server away, UnreachableError
        when it stays lost.
        """
        heartbeat_seconds = await self._enter(patient)
        reached_at = self._clock.now()
        while True:
            await self._clock.sleep(heartbeat_seconds)
            report, heard = self._service.news()
            try:
                reply = await ask(
                    self._transport,
                    self._supervisor,
                    SERVER_HEARTBEAT,
                    report,
                    ServerHeartbeatReply,
                )
            except (RefusedError, FrameError) as error:
                if isinstance(error, FrameError) or error.code != "not-ready":
                    raise self._turned_away(error) from error
                # It was started anew and makes its model ready; its next answer says the rest.
                reached_at = self._clock.now()
                continue
            except UnreachableError as error:
                if self._clock.now() - reached_at > LOST_SECONDS:
                    raise UnreachableError(
                        f"the supervisor at {self._supervisor.url} has been silent for "
                        f"{LOST_SECONDS:.0f} s; this server stops"
                    ) from error
                continue
            reached_at = self._clock.now()
            if reply.command == "stop":
                return
            if reply.command == "continue":
                heard()
            if reply.command == "register":
                self._service.forgotten()
                self._notify("the supervisor was started anew; registering again")
                heartbeat_seconds = await self._enter(patient=True)

    async def _enter(self, patient: bool) -> float:
        told_at: float | None = None
        while True:
            try:
                reply = await ask(
                    self._transport, self._supervisor, REGISTER, self._register, RegisterReply
                )
            except (UnreachableError, RefusedError, FrameError) as error:
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
            self._service.server = reply.server
            return reply.heartbeat_seconds

    def _turned_away(self, error: PsedgeError) -> PsedgeError:
        """What a supervisor's refusal means to the person who started this server."""
        url = self._supervisor.url
        if isinstance(error, FrameError):
            return not_psedge(url, error)
        if isinstance(error, RefusedError) and error.code in ("forbidden", "version-differs"):
            return AddressError(f"{url} turns this server away: {error}")
        if isinstance(error, RefusedError) and error.code == "not-found":
            return AddressError(
                f"{url} is a further server without a supervisor: use the join line that the "
                "first `psedge server` printed"
            )
        return error
