"""Virtual and real, side by side: the same configs simulated, and run by real processes.

Real: `psedge server` and paced workers in network namespaces, every link shaped both ways (see
real_links.py); needs Linux and root. Virtual: `psedge simulate`. A link that does not carry what it
should, or a machine too busy to stand for the devices, is an error and not a figure.

    sudo python benchmarks/virtual_and_real.py                        # all of benchmarks/agreement
    sudo python benchmarks/virtual_and_real.py A.toml B.toml --repeat 3 --record figures.json
    python benchmarks/virtual_and_real.py --recorded figures.json     # simulate only

Of repeated real runs the one with the median samples/s counts.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from real_run import run_for_real

from psedge.config import Experiment
from psedge.protocol.errors import PsedgeError
from psedge.simulation.outcome import Order
from psedge.simulation.run import simulate
from psedge.toml_config import load_config

CONFIGS = Path(__file__).parent / "agreement"
#: What a ratio may differ from 1.
AGREED = 0.10


class Figures(msgspec.Struct, frozen=True):
    """Of one run in one world. wire_bytes: on the servers' links, both ways, headers included."""

    samples_per_second: float
    bytes_pushed: int
    bytes_pulled: int
    wire_bytes: int


class Pair(msgspec.Struct, frozen=True):
    config: str
    real: Figures
    virtual: Figures | None = None


def real(config: Path, experiment: Experiment, data: Path, repeat: int) -> Figures:
    found = []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            run = run_for_real(config, experiment, Path(folder) / "run", data)
        wire = sum(server.sent_bytes + server.received_bytes for server in run.servers)
        found.append(Figures(run.samples_per_second, run.bytes_pushed, run.bytes_pulled, wire))
    return sorted(found, key=lambda figures: figures.samples_per_second)[len(found) // 2]


def virtual(experiment: Experiment, data: Path) -> Figures:
    outcome = simulate(Order(experiment, data=data, checkers=False, lanes=False))
    result = outcome.result
    if result is None:
        raise RuntimeError(f"the simulated run has {outcome.phase}: {outcome.reason}")
    servers = [f"server-{index}" for index in range(experiment.cluster.servers)]
    traffic = [outcome.traffic[name] for name in servers]
    return Figures(
        result.samples_per_second,
        result.bytes_pushed,
        result.bytes_pulled,
        sum(host.sent_bytes + host.received_bytes for host in traffic),
    )


def table(pairs: Sequence[Pair]) -> str:
    """In Markdown; virtual over real behind each pair of figures."""
    head = ["config"]
    for name in ("samples/s", "MB pushed", "MB pulled", "MB on the wire"):
        head += [f"{name}, real", "virtual", "ratio"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for pair in pairs:
        cells = [Path(pair.config).stem]
        for of_real, of_virtual in _compared(pair):
            ratio = of_virtual / of_real
            mark = "" if abs(ratio - 1) <= AGREED else " (!)"
            cells += [f"{of_real:.1f}", f"{of_virtual:.1f}", f"{ratio:.3f}{mark}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _compared(pair: Pair) -> list[tuple[float, float]]:
    """Real and virtual, as people read them."""
    a, b = pair.real, pair.virtual
    assert b is not None
    return [
        (a.samples_per_second, b.samples_per_second),
        (a.bytes_pushed / 1e6, b.bytes_pushed / 1e6),
        (a.bytes_pulled / 1e6, b.bytes_pulled / 1e6),
        (a.wire_bytes / 1e6, b.wire_bytes / 1e6),
    ]


def agree(pair: Pair) -> bool:
    return all(abs(found / expected - 1) <= AGREED for expected, found in _compared(pair))


def measured(options: argparse.Namespace) -> list[Pair]:
    recorded: dict[str, Pair] = {}
    if options.recorded is not None:
        pairs = msgspec.json.decode(options.recorded.read_bytes(), type=list[Pair])
        recorded = {pair.config: pair for pair in pairs}
    found = []
    for config in options.configs or sorted(CONFIGS.glob("*.toml")):
        experiment = load_config(config)
        if options.recorded is None:
            pair = Pair(config.name, real(config, experiment, options.data, options.repeat))
        elif config.name in recorded:
            pair = recorded[config.name]
        else:
            raise RuntimeError(f"{options.recorded} has no figures of {config.name}")
        if not options.only_real:
            pair = msgspec.structs.replace(pair, virtual=virtual(experiment, options.data))
        print(pair, file=sys.stderr, flush=True)
        found.append(pair)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Virtual and real, side by side.")
    parser.add_argument("configs", type=Path, nargs="*")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--repeat", type=int, default=1, help="real runs of each config")
    parser.add_argument("--record", type=Path, help="write all figures to this file")
    parser.add_argument("--recorded", type=Path, help="take the real figures from this file")
    parser.add_argument("--only-real", action="store_true", help="do not simulate")
    options = parser.parse_args()
    # What was set up is taken down again when this process is asked to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        pairs = measured(options)
    except (PsedgeError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.record is not None:
        options.record.write_bytes(msgspec.json.format(msgspec.json.encode(pairs)))
    if options.only_real:
        return 0
    print(table(pairs))
    return 0 if all(agree(pair) for pair in pairs) else 1


if __name__ == "__main__":
    sys.exit(main())
