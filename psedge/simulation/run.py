"""One simulated run, from its order to what it came to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec
import torch

from psedge.run_folder import SERVERS
from psedge.simulation.checkers import CHECKERS
from psedge.simulation.faults.inject import Injector
from psedge.simulation.faults.plan import FaultPlan
from psedge.simulation.host import Host
from psedge.simulation.loop import run_virtual
from psedge.simulation.outcome import Enough, HostTraffic, Order, Outcome, Progress
from psedge.simulation.seeds import seed_of
from psedge.simulation.trace import Trace
from psedge.simulation.virtual_store import FOLDER
from psedge.simulation.work import Work
from psedge.simulation.world import World
from psedge.supervisor.run_rows import RESULT_FILE, Result
from psedge.supervisor.run_state import RunState

#: Virtual seconds between two looks at how a run is going.
LOOK_SECONDS = 1.0
#: How long workers may take to end after the run has.
FAREWELL_SECONDS = 15.0
#: A run in which no push was applied for so long, and nothing is planned that could change that,
#: will come to no end.
STUCK_SECONDS = 6 * 3600.0

Report = Callable[[Progress], None]


def simulate(order: Order, progress: Report | None = None, *, work: Work | None = None) -> Outcome:
    """Run the production code on virtual time, network and disk.

    work: what workers compute; None makes it as the order says. progress: called now and then.
    Raises UserError for what the order gets wrong. A pure function of order and code.
    """
    made = work_of(order) if work is None else work
    if order.experiment.sync.local_steps > 1:
        _import_optimizers()
    # Models with dropout draw from torch's own source, which no guard stands before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(order.seed, "torch"))
        return run_virtual(_Run(order, made, progress).run())


def work_of(order: Order, notify: Callable[[str], None] = lambda text: None) -> Work:
    """Raises UserError when the config's model or data cannot be had."""
    if order.work == "real":
        from psedge.simulation.real import RealWork

        return RealWork(order.experiment, order.data, notify)
    from psedge.simulation.replay import ReplayWork

    return ReplayWork(order.experiment, order.data, notify)


def _import_optimizers() -> None:
    """The first optimizer of a process imports half of torch, which draws from unseeded chance."""
    torch.optim.SGD([torch.zeros(1)], lr=0.1)


class _Run:
    """One run within its loop."""

    def __init__(self, order: Order, work: Work, progress: Report | None) -> None:
        self._order = order
        self._work = work
        self._progress = progress
        self._told = 0
        self._samples: list[tuple[float, int]] = [(0.0, 0)]
        self._epochs = 0
        #: Why the run was cut short; empty if it was not.
        self._enough = ""
        self._stuck = False
        self._pushes = 0
        self._pushed_at = 0.0

    async def run(self) -> Outcome:
        order = self._order
        loop = asyncio.get_running_loop()
        trace = Trace(loop.time, lanes=order.lanes)
        checkers = list(CHECKERS) if order.checkers else []
        world = World(order.experiment, self._work, order.seed, trace, checkers)
        plan = order.plan or FaultPlan()
        faults = plan.concrete(world.hosts, order.seed, order.limit_seconds)
        injector = Injector(faults, world, asyncio.sleep, trace, world.fault_begun)
        world.event = injector.event
        world.boot()
        planned = max(
            [fault.at or 0.0 for fault in faults] + [host.place.joins_at for host in world.each()]
        )
        self._pushed_at = planned
        tasks = [asyncio.ensure_future(injector.run()), asyncio.ensure_future(self._look(world))]
        cut = False
        try:
            await asyncio.wait_for(world.over.wait(), order.limit_seconds)
            cut = bool(self._enough)
            if not cut:
                await self._farewell(world)
        except asyncio.TimeoutError:
            cut = True
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        failures = [task.exception() for task in tasks if not task.cancelled()]
        for failure in (world.failure, *failures):
            if failure is not None:
                raise failure
        if not cut:
            # It has come to its end already.
            with contextlib.suppress(Enough):
                self._report(world)
        return self._outcome(world, injector, FaultPlan(faults), cut)

    async def _look(self, world: World) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._watch_for_the_end(world)
            supervisor = world.first.supervisor
            if supervisor is None or world.first.process is None or world.first.process.stopped:
                continue
            world.watch.tell("supervisor_ticked", world.first.name, supervisor)
            self._tell_epoch(world)
            try:
                self._report(world)
            except Enough as enough:
                self._enough = str(enough)
                world.over.set()
                return

    def _watch_for_the_end(self, world: World) -> None:
        """End a run that goes nowhere any more, such as one whose workers are gone for good."""
        now = asyncio.get_running_loop().time()
        if world.pushes != self._pushes:
            self._pushes, self._pushed_at = world.pushes, max(now, self._pushed_at)
        world.look(now - self._pushed_at)
        if now - self._pushed_at > STUCK_SECONDS:
            self._stuck = True
            self._enough = f"no push was applied for {STUCK_SECONDS / 3600:.0f} virtual hours"
            world.over.set()

    async def _farewell(self, world: World) -> None:
        """Let the workers hear that the run has ended."""
        working = [host.task for host in world.each() if not host.serves and host.running]
        if working:
            await asyncio.wait(working, timeout=FAREWELL_SECONDS)

    def _tell_epoch(self, world: World) -> None:
        supervisor = world.first.supervisor
        assert supervisor is not None
        done = int(supervisor.state.epochs_done())
        if done > self._epochs:
            self._epochs = done
            world.event(f"epoch {done}")

    def _report(self, world: World) -> None:
        if self._progress is not None:
            self._progress(self._current(world))

    def _current(self, world: World) -> Progress:
        now = asyncio.get_running_loop().time()
        news = tuple(world.trace.events[self._told :])
        self._told = len(world.trace.events)
        supervisor = world.first.supervisor
        violations = len(world.watch.violations)
        if supervisor is None:
            return Progress(now, "down", violations=violations, news=news)
        status = supervisor.current_status(rows=False)
        self._samples = [*self._samples[-9:], (now, status.samples_applied)]
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return Progress(
            virtual_seconds=now,
            phase=status.phase,
            epoch=int(status.epochs_done),
            epochs=round(self._order.experiment.schedule.length),
            samples=status.samples,
            samples_total=round(self._order.experiment.schedule.length * self._work.train_samples),
            samples_per_second=(last - first) / (last_at - first_at) if last_at > first_at else 0.0,
            train_loss=status.train_loss,
            test_accuracy=status.evaluation.accuracy if status.evaluation else None,
            workers=supervisor.state.membership.live_count,
            violations=violations,
            news=news,
        )

    def _phase(self, state: RunState | None, cut: bool) -> str:
        if self._stuck or (state is None and not cut):
            return "failed"
        return "cut" if cut or state is None else state.phase

    def _outcome(self, world: World, injector: Injector, drawn: FaultPlan, cut: bool) -> Outcome:
        trace = world.trace
        supervisor = world.first.supervisor
        state = None if supervisor is None else supervisor.state
        files = run_files(world.first)
        result = None
        with contextlib.suppress(KeyError, msgspec.DecodeError):
            result = msgspec.json.decode(files[RESULT_FILE], type=Result)
        return Outcome(
            seed=self._order.seed,
            phase=self._phase(state, cut),
            reason=self._enough or (world.last_words if state is None else state.reason),
            virtual_seconds=asyncio.get_running_loop().time(),
            result=result,
            profiles={host.name: host.place.profile.name for host in world.each()},
            servers=tuple(host.name for host in world.each() if host.serves),
            faults=tuple(injector.struck),
            drawn=drawn,
            violations=tuple(world.watch.violations),
            recoveries=world.recoveries.all(),
            digest=trace.digest,
            events=tuple(trace.events),
            events_left_out=trace.left_out,
            lanes=trace.lanes,
            rows=tuple(world.rows),
            traffic={
                host.name: HostTraffic(
                    world.network.sent_bytes(host.name), world.network.received_bytes(host.name)
                )
                for host in world.each()
            },
            files=files,
        )


def run_files(host: Host) -> dict[str, bytes]:
    """The run folder on the supervisor's disk, without its own memory and the servers' logs."""
    root = f"{host.folder}/"
    return {
        path.removeprefix(root): content
        for path, content in host.disk.files().items()
        if path.startswith(root) and not path.startswith((f"{root}{SERVERS}/", f"{root}{FOLDER}/"))
    }
