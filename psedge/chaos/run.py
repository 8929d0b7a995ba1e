"""`psedge chaos`: strikes processes of a test cluster on this machine, and watches what follows.

The shell around the cores: it asks for the status several times a second, shows every answer to
the judge, and does to processes what was drawn. Whatever ends it, nobody is left standing still
and whoever was killed is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console

from psedge.chaos import processes
from psedge.chaos.hands import Hands, is_started_by_parent
from psedge.chaos.judge import PATIENCE_SECONDS, Judge, Recovery, Stall, has_heard, progress_of
from psedge.chaos.report import Struck, Teller, verdict
from psedge.chaos.strikes import Fault, Role, Strike, draw_strikes
from psedge.chaos.targets import Census, Target, census, everybody, targets_of
from psedge.launch import RESTARTS_LIMIT, RESTARTS_SECONDS
from psedge.loop import on_interrupt
from psedge.own_token import with_saved_token
from psedge.protocol.address import Address, parse_join
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.calls import ask
from psedge.protocol.errors import ConfigError, PsedgeError
from psedge.protocol.messages import STATUS, Acknowledged
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.status import ENDED, Status
from psedge.protocol.system_clock import SystemClock
from psedge.terminal.look import fetch_status

_LOOK_SECONDS = 0.2
_STATUS_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ChaosOrder:
    """What the command line asks for. every: seconds of peace between two strikes."""

    join: str
    seed: int
    minutes: float
    roles: tuple[Role, ...]
    faults: tuple[Fault, ...]
    every: float


def run_chaos(order: ChaosOrder, console: Console | None = None) -> int:
    """Strike a cluster until time is up or its run ends; 0 if it kept every promise.

    Raises UserError when there is no such cluster, or it is not the user's own on this machine.
    """
    processes.require_linux()
    address = with_saved_token(parse_join(order.join))
    host = urlsplit(address.url).hostname or ""
    if not processes.is_here(host):
        raise ConfigError(
            f"{host} is another machine: psedge chaos strikes only a test cluster on this one"
        )
    return asyncio.run(_run(order, address, console or Console()))


async def _run(order: ChaosOrder, address: Address, console: Console) -> int:
    clock, transport = SystemClock(), AiohttpTransport()
    try:
        status = await fetch_status(transport, clock, address)
        if status.phase in ENDED:
            raise ConfigError(f"the run {status.run} has {status.phase} already: nothing to strike")
        chaos = Chaos(order, address, status, clock, transport, console)
        on_interrupt(lambda reason: chaos.stop())
        return await chaos.run()
    finally:
        await transport.close()


class Chaos:
    """One session on one cluster, which is `status` when it begins."""

    def __init__(
        self,
        order: ChaosOrder,
        address: Address,
        status: Status,
        clock: Clock,
        transport: Transport,
        console: Console,
    ) -> None:
        self._order = order
        self._address = address
        self._clock = clock
        self._transport = transport
        self._console = console
        self._judge = Judge()
        self._stopping = asyncio.Event()
        self._port = urlsplit(address.url).port or 0
        folder = Path(status.folder)
        self._hands = Hands(clock, folder, self._port, self._stopping, lambda: self._has_ended)
        self._strikes: list[Struck] = []
        self._census: Census | None = None
        self._stall: Stall | None = None
        self._struck_workers = 0
        self._first_died_at: list[float] = []
        #: The latest answer, None while the supervisor does not answer; when it came.
        self._now: Status | None = status
        self._now_at = clock.now()
        self._teller = Teller(console, clock.now())

    def stop(self) -> None:
        """Ctrl-C: mend what is broken and judge."""
        self._stopping.set()

    async def run(self) -> int:
        """Strike until time is up, the run has ended or somebody stops it.

        Raises ConfigError when there is nobody to strike.
        """
        self._require_own()
        looking = asyncio.ensure_future(self._look_on())
        try:
            if await self._begins():
                await self._strike_all(self._strikable())
            self._say("end", self._cut_short or "that was all")
            if self._has_ended:
                await self._hands.farewell()
        finally:
            self._teller.close()
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        judge = self._judge
        judge.conclude(self._struck_workers)
        for part in verdict(self._strikes, judge.violations, judge.losses, judge.latest):
            self._console.print(part, highlight=False)
        return 1 if judge.violations else 0

    async def _strike_all(self, roles: tuple[Role, ...]) -> None:
        order, clock = self._order, self._clock
        strikes = draw_strikes(np.random.default_rng(order.seed), roles, order.faults)
        self._say("note", f"seed {order.seed}; roles: {', '.join(roles)}")
        end = clock.now() + 60 * order.minutes
        for strike in strikes:
            await self._peace(order.every)
            if clock.now() > end or self._over or self._judge.violations:
                break
            await self._strike(strike)

    async def _begins(self) -> bool:
        """Wait until training goes on with everybody; who takes part then sets the measure."""
        since, told = self._clock.now(), False
        while not self._over:
            status = self._now
            if status is not None and status.phase == "waiting":
                if not told:
                    self._say("note", "waiting for training to begin")
                since, told = self._clock.now(), True
            elif status is not None and all(s.wanted <= len(s.backups) for s in status.shards):
                self._census = census(status)
                return True
            if self._clock.now() - since > PATIENCE_SECONDS:
                self._judge.violated(f"the cluster was not whole within {PATIENCE_SECONDS:.0f} s")
                return False
            await self._clock.sleep(_LOOK_SECONDS / 2)
        return False

    async def _strike(self, strike: Strike) -> None:
        """One fault, until all is whole again."""
        candidates = self._targets().get(strike.role, [])
        target = strike.of(candidates) if candidates else None
        running = processes.look_up(target.process) if target is not None else None
        if target is None or running is None:
            self._say("note", f"there is no {strike.role} to {strike.fault} now")
            return
        if strike.fault == "kill" and is_started_by_parent(running) and not self._first_may_die():
            self._say("note", "psedge run gives a first server up that dies so often: not killed")
            return
        started = self._clock.now()
        self._stall = Stall(self._progress(), started)
        self._say(strike.fault, f"{target.name}, process {target.process}")
        self._struck_workers += strike.role == "worker"
        there = await self._hands.do(strike.fault, running, strike.seconds, self._say)
        assert self._census is not None
        gone = 0 if there else running.pid
        recovery = Recovery(self._census, there, gone, self._progress())
        whole = await self._becomes_whole(recovery)
        self._tell(strike, target, started, whole, recovery)

    def _tell(
        self, strike: Strike, target: Target, started: float, whole: bool, recovery: Recovery
    ) -> None:
        assert self._stall is not None
        stall, self._stall = self._stall.seconds, None
        now = self._clock.now()
        what = f"{strike.fault} of {target.name}"
        took = now - started if whole else None
        cut_short = "run over" if self._has_ended else self._cut_short
        self._strikes.append(Struck(strike.fault, target.name, stall, took, cut_short))
        if whole:
            self._say("whole", f"after {now - started:.1f} s; no push for {stall:.1f} s at most")
        elif not self._over:
            wrong = "training did not go on" if recovery.is_there else "all was not whole again"
            self._judge.violated(f"{wrong} within {PATIENCE_SECONDS:.0f} s after the {what}")
            self._say("wrong", self._judge.violations[-1])

    async def _becomes_whole(self, recovery: Recovery) -> bool:
        """Whether the cluster was as at its best so far, and went on, in an answer after this."""
        deadline, seen_at = self._clock.now() + PATIENCE_SECONDS, self._clock.now()
        while self._clock.now() < deadline and not self._over:
            status = self._now
            if status is not None and self._now_at > seen_at and status.phase == "training":
                seen_at = self._now_at
                if recovery.observe(status):
                    return True
            await self._clock.sleep(_LOOK_SECONDS / 2)
        return False

    def _first_may_die(self) -> bool:
        """Whether `psedge run` will start its first server once more; notes that it has to."""
        now = self._clock.now()
        # It looks a little later than this does.
        recent = [at for at in self._first_died_at if now - at < RESTARTS_SECONDS + 1]
        may_die = len(recent) < RESTARTS_LIMIT
        self._first_died_at = [*recent, now] if may_die else recent
        return may_die

    async def _peace(self, seconds: float) -> None:
        end = self._clock.now() + seconds
        while self._clock.now() < end and not self._over:
            await self._clock.sleep(_LOOK_SECONDS)

    async def _look_on(self) -> None:
        while True:
            self._hands.reap()
            await self._look()
            await self._clock.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        """Ask once, and show the answer to everybody who is interested."""
        status: Status | None = None
        with contextlib.suppress(PsedgeError):
            status = await ask(
                self._transport, self._address, STATUS, Acknowledged(), Status,
                timeout_seconds=_STATUS_TIMEOUT_SECONDS,
            )  # fmt: skip
        now = self._clock.now()
        if status is not None and status.phase != "waiting":
            said = len(self._judge.violations)
            self._judge.observe(status)
            for violation in self._judge.violations[said:]:
                self._say("wrong", violation)
        self._now, self._now_at = status, now
        if self._has_ended:
            # There is nothing left to strike; what is struck now is mended at once.
            self._stopping.set()
        if self._stall is not None:
            # A supervisor that was just started does not know how far the servers are.
            known = status is not None and has_heard(status)
            self._stall.observe(self._progress() if known else None, now)
        self._teller.show(status)

    def _targets(self) -> dict[Role, list[Target]]:
        status = self._now or self._judge.latest
        return {} if status is None else targets_of(status)

    def _require_own(self) -> None:
        """Raises ConfigError when a process is on another machine or somebody else's."""
        status, here = self._now or self._judge.latest, socket.gethostname()
        assert status is not None
        for target in everybody(status):
            if target.machine not in ("", here):
                raise ConfigError(
                    f"{target.name} is on {target.machine}: psedge chaos strikes only a test "
                    "cluster that is all on this machine"
                )
            processes.look_up(target.process)

    def _strikable(self) -> tuple[Role, ...]:
        """The wanted roles that somebody has.

        Raises ConfigError as `_require_own` does, or when nobody has any of them.
        """
        self._require_own()
        found = self._targets()
        roles = tuple(role for role in self._order.roles if found.get(role))
        if not roles:
            raise ConfigError(
                f"the run has no {' or '.join(self._order.roles)} to strike: it may have a single "
                "copy of each shard (replication.replicas)"
            )
        return roles

    def _progress(self) -> int:
        return 0 if self._judge.latest is None else progress_of(self._judge.latest)

    @property
    def _phase(self) -> str:
        return "" if self._judge.latest is None else self._judge.latest.phase

    @property
    def _has_ended(self) -> bool:
        return self._phase in ENDED

    @property
    def _cut_short(self) -> str:
        """Why nothing more is struck, in words; empty while something may be."""
        if self._has_ended:
            return f"the run has {self._phase}"
        return "stopped" if self._stopping.is_set() else ""

    @property
    def _over(self) -> bool:
        return self._has_ended or self._stopping.is_set()

    def _say(self, word: str, text: str) -> None:
        self._teller.say(self._clock.now(), word, text)
