"""Machines and connections as `profiles.toml` describes them, and how long a machine takes."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from psedge.compression.codec import Codec, Float32Array
from psedge.compression.codec_speed import Speed
from psedge.compression.coding_work import CodingWork
from psedge.compression.lossless import Lossless
from psedge.protocol.errors import ConfigError
from psedge.simulation.device_costs import Costs, CostTable
from psedge.simulation.network.links import LinkProfile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One kind of machine, training ResNet-32 on CIFAR-10.

    step_seconds, rate_images_per_second: a batch of b samples takes step_seconds + b / rate.
    rate_range: between which the rate most likely lies. coding_factor, core_factor: how many times
    as long as the reference PC it takes for codecs, and for what one core does without vector
    instructions. exchange_seconds: processor time of one exchange beside the codecs. source: where
    the figures come from, in words.
    """

    name: str
    step_seconds: float
    rate_images_per_second: float
    rate_range: tuple[float, float]
    memory_bytes: int
    coding_factor: float
    core_factor: float
    exchange_seconds: float
    source: str


class Device:
    """One machine in a run. It computes on one batch at a time.

    model_factor: work per sample relative to ResNet-32 on CIFAR-10.
    """

    def __init__(self, profile: DeviceProfile, *, model_factor: float = 1.0) -> None:
        self.profile = profile
        #: How many times slower than its profile it is at present.
        self.slow_factor = 1.0
        self._model_factor = model_factor
        self._made_costs: tuple[float, Costs] | None = None

    @property
    def costs(self) -> Costs:
        """Of codecs and requests on this machine as it is now."""
        profile, slow, made = self.profile, self.slow_factor, self._made_costs
        if made is None or made[0] != slow:
            costs = Costs(_costs(), slow * profile.coding_factor, slow * profile.core_factor)
            self._made_costs = made = (slow, costs)
        return made[1]

    def batch_seconds(self, samples: int) -> float:
        """To compute the gradient of one batch."""
        rate = self.profile.rate_images_per_second / self._model_factor
        return self.slow_factor * (self.profile.step_seconds + samples / rate)

    def coding_seconds(self, work: CodingWork) -> float:
        """To encode and decode what was counted."""
        return self.costs.seconds(work)

    def speeds(
        self, codecs: Sequence[Codec], stages: Sequence[Lossless], sample: Float32Array
    ) -> list[Speed]:
        """What codecs cost and save here, for a worker that chooses among them."""
        return self.costs.speeds(codecs, stages, sample)

    def exchange_seconds(self) -> float:
        """Of a worker's processor, for each exchange with each shard, beside its codecs."""
        return self.slow_factor * self.profile.exchange_seconds

    def request_seconds(self) -> float:
        """Of a server's processor, for each request, beside codecs and update rule."""
        return self.costs.request_seconds


def devices() -> dict[str, DeviceProfile]:
    """Every kind of machine, by name."""
    return dict(_devices())


def links() -> dict[str, LinkProfile]:
    """Every kind of connection, by name."""
    return dict(_links())


def device_named(name: str) -> DeviceProfile:
    """Raises ConfigError, naming the nearest, if there is no such profile."""
    if name not in _devices():
        raise ConfigError(unknown("device profile", name, _devices()))
    return _devices()[name]


def link_named(name: str) -> LinkProfile:
    """Raises ConfigError, naming the nearest, if there is no such link."""
    if name not in _links():
        raise ConfigError(unknown("link", name, _links()))
    return _links()[name]


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The one sentence about a name that is none of `known`."""
    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(names)}"
    return f'there is no {what} "{name}"; {hint}'


def _read(name: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((_FOLDER / name).read_text(encoding="utf-8"))
    return table


@cache
def _devices() -> dict[str, DeviceProfile]:
    return {
        name: msgspec.convert({"name": name, **table}, DeviceProfile)
        for name, table in _read("profiles.toml")["devices"].items()
    }


@cache
def _links() -> dict[str, LinkProfile]:
    # The struct of a link is the network's; where a figure comes from is for readers of the file.
    return {
        name: msgspec.convert({"name": name, **table}, LinkProfile)
        for name, table in _read("profiles.toml")["links"].items()
    }


@cache
def _costs() -> CostTable:
    return msgspec.convert(_read("codec_costs.toml"), CostTable)
