"""Rules of `[[cluster.devices]]` that its types cannot say."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from psedge.config import ClusterConfig, DeviceConfig, Experiment, SlowConfig
from psedge.simulation.devices import devices, links, unknown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
#: Of the servers' own hosts.
_SERVERS = "server"


def number_of_devices(cluster: ClusterConfig) -> int:
    """How many machines `[[cluster.devices]]` names."""
    return sum(device.count for device in cluster.devices)


def device_rules(experiment: Experiment) -> Iterator[str]:
    """One sentence per broken rule, beginning with the section."""
    cluster = experiment.cluster
    if cluster.server_profile not in devices():
        yield f"[cluster] server_profile: {_no_profile(cluster.server_profile)}"
    if cluster.server_link not in links():
        yield f"[cluster] server_link: {unknown('link', cluster.server_link, links())}"
    total = number_of_devices(cluster)
    if cluster.devices and cluster.workers != total:
        yield (
            f"[cluster] workers = {cluster.workers}, and [[cluster.devices]] names {total}: leave "
            "workers out, or change the counts; --set cluster.devices=[] goes without devices"
        )
    for number, device in enumerate(cluster.devices, 1):
        for complaint in _of_device(device):
            yield f"[[cluster.devices]] number {number}: {complaint}"


def _of_device(device: DeviceConfig) -> Iterator[str]:
    if device.profile not in devices():
        yield _no_profile(device.profile)
    if device.link not in links():
        yield unknown("link", device.link, links())
    if device.name and not _NAME.fullmatch(device.name):
        yield (
            f'name = "{device.name}": expected up to 40 letters, digits, "-", "_" and ".", '
            "beginning with a letter or digit"
        )
    if device.name == _SERVERS:
        yield f'name = "{_SERVERS}" is the servers\' own, server-0, server-1, ...'
    joins_at, leaves_at = device.joins_at or 0.0, device.leaves_at
    if not math.isfinite(joins_at):
        yield f"joins_at = {joins_at}: expected a finite number of seconds"
    if leaves_at is not None and leaves_at <= joins_at:
        yield f"leaves_at = {leaves_at:g} is not after joins_at = {joins_at:g}"
    yield from _of_slows(device.slows, leaves_at)


def _of_slows(slows: tuple[SlowConfig, ...], leaves_at: float | None) -> Iterator[str]:
    """A device has one speed at a time."""
    free_from = 0.0
    for slow in slows:
        where = f"slows at = {slow.at:g}"
        if not (math.isfinite(slow.at) and math.isfinite(slow.factor)):
            yield f"{where}, factor = {slow.factor:g}: expected finite numbers"
        if slow.until is not None and slow.until <= slow.at:
            yield f"{where}: until = {slow.until:g} is not after it"
        if slow.at < free_from:
            yield f"{where}: begins before the one in front of it ends"
        if leaves_at is not None and slow.at >= leaves_at:
            yield f"{where}: the device leaves at {leaves_at:g}"
        free_from = math.inf if slow.until is None else slow.until


def _no_profile(name: str) -> str:
    return unknown("device profile", name, devices())
