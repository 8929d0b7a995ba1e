"""Where the primaries are: workers ask when one of them is not where it was."""

from __future__ import annotations

from psedge.protocol.calls import answer, read_message
from psedge.protocol.messages import SHARDS, ShardsQuery, ShardsReply
from psedge.protocol.ports import Clock, Handler, Incoming, Reply
from psedge.supervisor.guardian import Guardian
from psedge.supervisor.run_state import RunState
from psedge.supervisor.waits import until

#: Longest time a question waits for a newer map.
MAP_POLL_SECONDS = 10.0


class MapDesk:
    """Answers every worker, also one that has yet to hear that it is taken for dead."""

    def __init__(self, state: RunState, guardian: Guardian, clock: Clock) -> None:
        self._state = state
        self._guardian = guardian
        self._clock = clock

    def routes(self) -> dict[str, Handler]:
        return {SHARDS: self.shards}

    async def shards(self, incoming: Incoming) -> Reply:
        """A long poll; suspects are looked after at once."""
        query = await read_message(incoming, ShardsQuery)
        fleet, now = self._state.fleet, self._clock.now()
        deadline = now + MAP_POLL_SECONDS
        if fleet.map_revision == query.revision:
            self._guardian.suspect(query.suspects)
        while fleet.map_revision == query.revision and now < deadline and not self._state.ended:
            await until(fleet.moved, deadline - now)
            now = self._clock.now()
        return answer(ShardsReply(fleet.map_revision, fleet.addresses()))
