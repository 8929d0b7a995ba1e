"""A real `psedge worker` that writes down when each of its pushes was acknowledged.

Everything is as in production; only a pause follows each push, so that many workers fit on few
cores. It trains on samples that the supervisor hands out. The record is as `pushing_worker.py`'s.

    python benchmarks/claiming_worker.py --join http://127.0.0.1:7700 --name pi --record pi.txt
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TextIO

import torch

from psedge.loop import on_interrupt, run_async
from psedge.own_place import Places
from psedge.protocol.address import parse_join
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.work import Worker, parts_of_config, this_machine
from psedge.worker.client import ExchangeResult, Push
from psedge.worker.imports import AllowList
from psedge.worker.session import Session


def recording(record: TextIO, step_seconds: float) -> type[Session]:
    """A session that pauses after each push, and says when it was."""

    class Recording(Session):
        async def send(self, push: Push) -> ExchangeResult:
            if self.metrics.steps == 0:
                print(f"joined {time.monotonic():.6f} {self.joined.worker}", file=record)
            began = time.monotonic()
            result = await super().send(push)
            ended = time.monotonic()
            print(f"{began:.6f} {ended:.6f} {result.clock}", file=record)
            await self._clock.sleep(max(0.0, began + step_seconds - ended))
            return result

    return Recording


async def work(options: argparse.Namespace, record: TextIO) -> int:
    transport = AiohttpTransport()
    worker = Worker(
        parse_join(options.join),
        torch.device("cpu"),
        options.name,
        parts_of_config(AllowList(()), Path("data"), options.name),
        pace=1.0,
        notify=lambda text: print(text, flush=True),
        session_type=recording(record, options.step_seconds),
    )
    on_interrupt(lambda reason: worker.stop())
    with Places() as places, this_machine(transport, places) as machine:
        await worker.run(machine)
    await transport.close()
    return 0


def main() -> int:
    imported = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--join", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--step-seconds", type=float, default=0.1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with options.record.open("a", buffering=1) as record:
        print(f"imported {imported:.6f}", file=record)
        return run_async(work(options, record))


if __name__ == "__main__":
    raise SystemExit(main())
