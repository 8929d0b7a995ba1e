"""Real machines on real links, made of network namespaces: for measurements, on Linux, as root.

Each host is a network namespace with one interface, joined to the others by a bridge in one more
namespace. `tc` shapes both directions of every host, the servers' too: what it sends in its own
namespace, what it receives at the bridge's port. The burst is as small as the rate demands, for
with a customary 64 kB a compressed push crosses a 20 Mb/s link in no time; and before anything is
measured, `check` sends the real payload over the idle link.

Nothing is touched outside of these namespaces, whose names are this process's own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

#: Bytes of headers on the wire, Ethernet's among them, per so many of the user's.
HEADER_BYTES, SEGMENT_BYTES = 66, 1448
#: A link that differs by more from what it should carry is not reported on.
TOLERANCE = 0.10
#: A link must have been idle for so long that its bucket of tokens is full again.
IDLE_SECONDS = 1.0
TRIES = 3

_SUBNET, _ROUTE = "10.213.{}.{}", "10.213.0.0/16"
_SEND = Path(__file__).parent / "send_payload.py"


@dataclass(frozen=True, slots=True)
class Link:
    """Both directions of a host. bits_per_second: with headers. buffer_bytes: of each queue."""

    bits_per_second: float
    buffer_bytes: int = 262_144

    @property
    def burst_bytes(self) -> int:
        if self.bits_per_second <= 50e6:
            return 5_000
        return 8_000 if self.bits_per_second <= 100e6 else 65_536


@dataclass(frozen=True, slots=True)
class Host:
    """namespace: to run things in. address: IPv4."""

    namespace: str
    address: str
    link: Link
    port: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes on the wire, headers and retransmissions included."""

    sent_bytes: int
    received_bytes: int


class RealNetwork:
    """Use it in a `with`: at its end every namespace is gone, whatever happened inside."""

    def __init__(self) -> None:
        self._prefix = f"psedge{os.getpid()}"
        self._switch = f"{self._prefix}-switch"
        self._stack = ExitStack()
        self._hosts: dict[str, Host] = {}

    def __enter__(self) -> RealNetwork:
        if os.geteuid() != 0:
            raise PermissionError("network namespaces need root: run this with sudo")
        self._add_namespace(self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add_host(self, name: str, link: Link) -> Host:
        """A namespace that the others can reach."""
        number = len(self._hosts) + 1
        namespace, port = f"{self._prefix}-{name}", f"port{number}"
        address = _SUBNET.format(number // 250, number % 250 + 1)
        self._add_namespace(namespace)
        ends = ("eth0", "netns", namespace, "type", "veth", "peer", "name", port)
        _ip("link", "add", *ends, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "addr", "add", f"{address}/16", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        self._shape(namespace, "eth0", link)
        self._shape(self._switch, port, link)
        # What Debian and Raspberry Pi OS use; this machine may have been set to another.
        _ip("-n", namespace, "route", "change", _ROUTE, "dev", "eth0", "congctl", "cubic")
        host = self._hosts[name] = Host(namespace, address, link, port)
        return host

    def command(self, host: Host, arguments: Sequence[str]) -> list[str]:
        """How to run something on a host; the process has the number of the one started."""
        return ["ip", "netns", "exec", host.namespace, *arguments]

    def traffic(self, host: Host) -> Traffic:
        """So far."""
        sent = _shaped_bytes(host.namespace, "eth0")
        return Traffic(sent, _shaped_bytes(self._switch, host.port))

    def set_up(self, host: Host, up: bool) -> None:
        """Plug the host's cable in or pull it out: the carrier is gone, its address stays."""
        _ip("-n", self._switch, "link", "set", host.port, "up" if up else "down")

    def reshape(self, host: Host, link: Link) -> None:
        """Make both directions of a host as fast as `link` from now on."""
        for namespace, device in ((host.namespace, "eth0"), (self._switch, host.port)):
            self._shape(namespace, device, link, "change")

    def check(self, source: Host, target: Host, payload_bytes: int) -> float:
        """Send a payload over the idle path a few times; returns measured time over expected.

        Raises RuntimeError when that is further from 1 than TOLERANCE.
        """
        rate = min(source.link.bits_per_second, target.link.bits_per_second)
        expected = 8 * payload_bytes * (1 + HEADER_BYTES / SEGMENT_BYTES) / rate
        ratio = statistics.median(self._send_times(source, target, payload_bytes)) / expected
        if abs(ratio - 1) > TOLERANCE:
            raise RuntimeError(
                f"{payload_bytes} bytes took {ratio:.2f} times as long as {rate / 1e6:g} Mb/s "
                f"demand, from {source.namespace} to {target.namespace}: nothing measured on "
                "this link could be believed"
            )
        return ratio

    def _send_times(self, source: Host, target: Host, payload_bytes: int) -> list[float]:
        receiving = [sys.executable, str(_SEND), "receive", target.address, str(payload_bytes)]
        with subprocess.Popen(
            self.command(target, receiving), stdout=subprocess.PIPE, text=True
        ) as receiver:
            assert receiver.stdout is not None
            try:
                port = receiver.stdout.readline().strip()
                settings = (str(payload_bytes), port, str(TRIES), str(IDLE_SECONDS))
                sending = [sys.executable, str(_SEND), "send", target.address, *settings]
                found = _run(*self.command(source, sending))
            finally:
                receiver.kill()
        return [float(seconds) for seconds in found.split()]

    def _add_namespace(self, name: str) -> None:
        _ip("netns", "add", name)
        self._stack.callback(_remove, name)

    def _shape(self, namespace: str, device: str, link: Link, verb: str = "add") -> None:
        rate, burst = f"{link.bits_per_second:.0f}bit", str(link.burst_bytes)
        limits = ("burst", burst, "limit", str(link.buffer_bytes))
        _run("tc", "-n", namespace, "qdisc", verb, "dev", device, "root", "tbf",
             "rate", rate, *limits)  # fmt: skip


def _shaped_bytes(namespace: str, device: str) -> int:
    shown = _run("tc", "-n", namespace, "-s", "-j", "qdisc", "show", "dev", device)
    return int(json.loads(shown)[0]["bytes"])


def _remove(namespace: str) -> None:
    """Ends what still runs in a namespace, and takes it away with its interfaces."""
    for pid in _run("ip", "netns", "pids", namespace).split():
        subprocess.run(["kill", "-KILL", pid], check=False, stderr=subprocess.DEVNULL)
    for _ in range(20):
        if subprocess.run(["ip", "netns", "del", namespace], check=False).returncode == 0:
            return
        time.sleep(0.1)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout
