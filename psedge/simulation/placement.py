"""Which machine is where: the hosts of a cluster, by name, as a config lists them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from psedge.config import ClusterConfig, SlowConfig
from psedge.simulation.devices import DeviceProfile, device_named, link_named
from psedge.simulation.faults.hosts import APART, Hosts
from psedge.simulation.network.links import LinkProfile


@dataclass(frozen=True, slots=True)
class Place:
    """One host. joins_at: virtual seconds, 0 at the start. leaves_at: None stays to the end."""

    name: str
    profile: DeviceProfile
    link: LinkProfile
    joins_at: float = 0.0
    leaves_at: float | None = None
    slows: tuple[SlowConfig, ...] = ()


def supervisor_places(cluster: ClusterConfig) -> tuple[Place, ...]:
    """The supervisor's own host, if it has one. Raises ConfigError."""
    if not cluster.supervisor_apart:
        return ()
    return (Place(APART, device_named(cluster.server_profile), link_named(cluster.server_link)),)


def server_places(cluster: ClusterConfig) -> tuple[Place, ...]:
    """server-0, server-1, ...; the first one also supervises, unless a host apart does that.

    Raises ConfigError.
    """
    profile, link = device_named(cluster.server_profile), link_named(cluster.server_link)
    return tuple(Place(f"server-{index}", profile, link) for index in range(cluster.servers))


def worker_places(cluster: ClusterConfig) -> tuple[Place, ...]:
    """In the order of the config, NAME-1, NAME-2, ...; without devices worker-1, worker-2, ...

    Where a name stands in several entries, numbers go on. Raises ConfigError for an unknown profile
    or link.
    """
    if not cluster.devices:
        return _of_the_servers_kind(cluster)
    last: Counter[str] = Counter()
    places = []
    for device in cluster.devices:
        profile, link = device_named(device.profile), link_named(device.link)
        name = device.name or device.profile
        for _ in range(device.count):
            last[name] += 1
            places.append(
                Place(
                    f"{name}-{last[name]}",
                    profile,
                    link,
                    device.joins_at or 0.0,
                    device.leaves_at,
                    device.slows,
                )
            )
    return tuple(places)


def hosts_of(cluster: ClusterConfig) -> Hosts:
    """The names of all of them, as fault plans use them. Raises ConfigError."""
    return Hosts(
        tuple(place.name for place in worker_places(cluster)),
        tuple(place.name for place in server_places(cluster)),
        cluster.supervisor_apart,
    )


def _of_the_servers_kind(cluster: ClusterConfig) -> tuple[Place, ...]:
    profile, link = device_named(cluster.server_profile), link_named(cluster.server_link)
    pace = (*cluster.pace, *[1.0] * cluster.workers)
    return tuple(
        Place(
            f"worker-{index + 1}",
            profile,
            link,
            slows=() if pace[index] == 1.0 else (SlowConfig(0.0, pace[index]),),
        )
        for index in range(cluster.workers)
    )
