"""A real worker at a device's pace: everything is as in production but the gradient.

Session, trainer, codecs and transport are psedge's own. A step replays a gradient, as in `psedge
simulate`, and takes as long as the device of the profile would need; so do codecs, of whose time
what this machine spent on them is taken off. Prints a line of JSON at its end: `late`, the share of
its computing that this machine was too slow for.

    python benchmarks/paced_worker.py CONFIG --join http://TOKEN@HOST:PORT --profile jetson-nano \\
        --name nano-1
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from psedge.loop import on_interrupt, run_async
from psedge.protocol.address import parse_join
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.errors import UserError
from psedge.protocol.ports import Clock
from psedge.protocol.system_clock import SystemClock
from psedge.simulation.devices import Device, device_named
from psedge.simulation.replay import ReplayWork
from psedge.simulation.work import Timed
from psedge.toml_config import load_config
from psedge.work import Parts, Worker, this_machine
from psedge.worker.feed import Compute
from psedge.worker.session import Session

T = TypeVar("T")
Charge = Callable[[float], None]


class PacedProcessor:
    """Runs functions on this machine, and ends them when the device would have.

    session: of the worker, once it has one.
    """

    def __init__(
        self, device: Device, compute: Compute, clock: Clock, session: Callable[[], Session | None]
    ) -> None:
        self.busy_seconds = 0.0
        self.late_seconds = 0.0
        self._device = device
        self._own = Device(device_named("pc"))
        self._compute = compute
        self._clock = clock
        self._session = session
        self._charged = 0.0

    def charge(self, seconds: float) -> None:
        """What runs now takes so long on the device."""
        self._charged += seconds

    async def compute(self, function: Callable[[], T]) -> T:
        """A Compute; see `psedge.worker.feed`."""
        started = self._clock.now()
        result = await self._compute(function)
        due, self._charged = self._charged + self._coding_seconds(), 0.0
        if due > 0:
            left = started + due - self._clock.now()
            if left > 0:
                await self._clock.sleep(left)
            self.busy_seconds += due
            self.late_seconds += self._clock.now() - started - due
        return result

    def _coding_seconds(self) -> float:
        session = self._session()
        if session is None or not session.connected:
            return 0.0
        work = session.client.work.drain()
        seconds = self._device.coding_seconds(work)
        if work.encoded:
            # This machine spends its own part of an exchange outside of here.
            more = self._device.exchange_seconds() - self._own.exchange_seconds()
            seconds += max(0.0, more) * len(session.joined.shards)
        return seconds


def parts_of(options: argparse.Namespace, device: Device, charge: Charge) -> Parts:
    """Replayed gradients of the config's model, each as slow as the device's would be."""
    experiment = load_config(options.config)
    work = ReplayWork(experiment, options.data, lambda text: None)
    made = work.parts(options.number, lambda indices: None)
    assert made.step is not None
    timed = Device(device.profile, model_factor=work.model_factor)
    step = Timed(made.step, charge, timed.batch_seconds)
    return Parts(made.model, made.source, made.loss, step)


async def work(options: argparse.Namespace) -> int:
    transport, clock = AiohttpTransport(), SystemClock()
    device = Device(device_named(options.profile))
    with this_machine(transport) as machine:
        processor = PacedProcessor(device, machine.compute, clock, lambda: worker.session)
        worker = Worker(
            parse_join(options.join),
            torch.device("cpu"),
            options.name,
            lambda plan: parts_of(options, device, processor.charge),
            pace=1.0,
            notify=lambda text: print(text, flush=True),
        )
        on_interrupt(lambda reason: worker.stop())
        try:
            await worker.run(
                dataclasses.replace(machine, compute=processor.compute, costs=device.costs.speeds)
            )
        finally:
            await transport.close()
    late = processor.late_seconds / max(processor.busy_seconds, 1e-9)
    print(json.dumps({"late": late, "busy_seconds": processor.busy_seconds}), flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--join", required=True)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--number", type=int, default=0, help="among the config's devices, from 0")
    try:
        return run_async(work(parser.parse_args()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
