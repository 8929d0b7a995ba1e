"""What servers ask of the supervisor: to come in, a lease, a change of who holds their shards."""

from __future__ import annotations

from psedge.protocol.calls import answer, read_message
from psedge.protocol.errors import RefusedError
from psedge.protocol.messages import (
    REGISTER,
    SERVER_HEARTBEAT,
    Register,
    RegisterReply,
    ServerHeartbeatReply,
)
from psedge.protocol.ports import Clock, Handler, Incoming, Reply
from psedge.protocol.replicas import SET_CHANGE, SetChange
from psedge.protocol.shards import ServerReport
from psedge.supervisor.guardian import Guardian
from psedge.supervisor.roster import Roster
from psedge.supervisor.run_state import RunState
from psedge.supervisor.server_list import ServerEntry, url_of
from psedge.supervisor.set_keeper import SetKeeper
from psedge.supervisor.versions import require_same_wire


class ServerDesk:
    """Serves the servers of one run."""

    def __init__(
        self, state: RunState, roster: Roster, guardian: Guardian, keeper: SetKeeper, clock: Clock
    ) -> None:
        self._state = state
        self._fleet = state.fleet
        self._roster = roster
        self._guardian = guardian
        self._keeper = keeper
        self._clock = clock

    def routes(self) -> dict[str, Handler]:
        return {
            REGISTER: self.register,
            SERVER_HEARTBEAT: self.heartbeat,
            SET_CHANGE: self.change_set,
        }

    async def register(self, incoming: Incoming) -> Reply:
        """A server comes in; its number is kept over the supervisor's own death."""
        message = await read_message(incoming, Register)
        require_same_wire(message.psedge, message.wire)
        fleet, now = self._fleet, self._clock.now()
        self._guardian.pulse(now)
        if not fleet.servers and fleet.beside not in (None, message.incarnation):
            raise RefusedError("not-ready", "this server is still starting")
        self._require_own_run(message)
        await self._require_own_folder(message, incoming.peer)
        now = self._clock.now()
        is_new = fleet.list.known(message.incarnation) is None
        entry = fleet.register(message, incoming.peer, now)
        self._guardian.heard(entry)
        if is_new:
            await fleet.decrees.save()
            if entry.incarnation != fleet.beside:
                role = "spare: all shards are taken" if self._is_spare(entry) else "joined"
                self._state.note(f"server {entry.server} at {entry.url} {role}")
            self._state.decided("server", f"server {entry.server}", "join", f"from {entry.url}")
        self._guardian.wake()
        self._roster.announce()
        lease = self._guardian.lease_for(entry, self._clock.now())
        beat = self._state.experiment.cluster.heartbeat_seconds
        return answer(RegisterReply(entry.server, lease, beat, self._identity))

    async def heartbeat(self, incoming: Incoming) -> Reply:
        report = await read_message(incoming, ServerReport)
        state, now = self._state, self._clock.now()
        self._guardian.pulse(now)
        if not self._fleet.take_report(report, now):
            return answer(ServerHeartbeatReply("register"))
        entry = self._fleet.servers[report.server]
        self._guardian.heard(entry)
        self._note_trouble(entry, report.trouble)
        if state.ended:
            entry.told = True
            self._roster.announce()
            return answer(ServerHeartbeatReply("stop"))
        reigns, drop = self._keeper.news_for(entry)
        lease = self._guardian.lease_for(entry, now)
        return answer(ServerHeartbeatReply("continue", lease, reigns, drop))

    def _note_trouble(self, entry: ServerEntry, trouble: str) -> None:
        """Who looks at the run need not look into the terminal of each server."""
        if trouble and not entry.trouble:
            self._state.note(f"server {entry.server} {trouble}")
        elif entry.trouble and not trouble:
            self._state.note(f"server {entry.server} writes its logs again")
        entry.trouble = trouble

    async def change_set(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, SetChange)
        if message.action == "drop":
            self._guardian.doubt(message.server)
        reign = await self._keeper.change(message)
        self._guardian.wake()
        return answer(reign)

    def _is_spare(self, entry: ServerEntry) -> bool:
        """Whether each shard has as many copies as it is to have, and none of them is here."""
        fleet = self._fleet
        there = {each.server for each in fleet.list.live()}
        copies = [
            sum(peer.server in there for peer in (reign.primary, *reign.backups, *reign.learners))
            for reign in fleet.table.reigns()
        ]
        return fleet.assigned and not entry.keeps and min(copies) >= fleet.replication.replicas

    @property
    def _identity(self) -> str:
        book = self._state.book
        return book.identity if book is not None else ""

    def _require_own_run(self, message: Register) -> None:
        """Raises RefusedError `conflict` for a server whose folder holds another run's logs."""
        if message.run and self._identity and message.run != self._identity:
            raise RefusedError(
                "conflict",
                f"the folder of this server holds logs of another run than "
                f"{self._state.setup.run}: start it with a folder of its own for this run",
            )

    async def _require_own_folder(self, message: Register, peer: str) -> None:
        """Raises RefusedError `conflict` for a folder that another live server keeps its logs in,
        `not-ready` while it is not clear whether that one lives."""
        for rival in self._fleet.list.rivals(message, peer):
            where = f"server {rival.server} at {rival.url}"
            if rival.attached and await self._guardian.probe(rival) == "answers":
                raise RefusedError(
                    "conflict",
                    f"{where} already keeps its logs in the folder of the server at "
                    f"{url_of(message, peer)}: every server needs a folder of its own",
                )
            if not rival.gone and not rival.dead:
                raise RefusedError(
                    "not-ready", f"{where}, which has the same folder, may still be there"
                )
