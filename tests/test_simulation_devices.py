"""Profiles of machines and links, and what they say of the time that work takes."""

from __future__ import annotations

import numpy as np
import pytest

from psedge.compression.choice import CANDIDATES
from psedge.compression.coding_work import CodingWork
from psedge.compression.lossless import NoStage, available, stage_named
from psedge.compression.table import PULL_CODECS, PUSH_CODECS, codec_named
from psedge.config import ClusterConfig, DeviceConfig, SlowConfig
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import ConfigError
from psedge.simulation.devices import Device, device_named, devices, link_named, links
from psedge.simulation.placement import server_places, worker_places
from psedge.worker.coding import WorkerCoding

ELEMENTS = 100_000
SAMPLE = np.random.default_rng(0).standard_normal(ELEMENTS).astype(np.float32)


@pytest.mark.parametrize("profile", devices().values(), ids=lambda profile: profile.name)
def test_a_profile_makes_sense(profile) -> None:
    low, high = profile.rate_range
    assert 0 < low <= profile.rate_images_per_second <= high
    assert 0 < profile.step_seconds < 1
    assert profile.memory_bytes >= 1e9
    assert profile.coding_factor >= profile.core_factor >= 1
    assert 0 < profile.exchange_seconds < 0.1
    assert len(profile.source) > 20


@pytest.mark.parametrize("link", links().values(), ids=lambda link: link.name)
def test_a_link_makes_sense(link) -> None:
    assert 1e6 <= link.bits_per_second <= 100e9
    assert 0 < link.delay_seconds < 1
    assert 0 <= link.loss < 0.1
    assert link.shared == link.name.startswith("wifi")
    assert link.buffer_bytes >= 65_536


def test_what_the_documents_promise_exists() -> None:
    assert {
        "raspberry-pi-3b-plus", "raspberry-pi-4b", "raspberry-pi-5", "jetson-nano",
        "jetson-orin-nano", "pc", "laptop",
    } <= set(devices())  # fmt: skip
    assert {
        "gbe", "fast-ethernet", "wifi-50", "wifi-20", "20mbit", "10gbe", "loopback",
    } <= set(links())  # fmt: skip


def test_gigabit_gives_its_users_941_megabits() -> None:
    for name, usable in (("gbe", 941e6), ("fast-ethernet", 94.1e6), ("wifi-50", 50e6)):
        assert link_named(name).bits_per_second * 1448 / 1514 == pytest.approx(usable, rel=0.01)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r'no device profile "pi-4b"; did you mean "raspberry'):
        device_named("pi-4b")
    with pytest.raises(ConfigError, match=r'no link "wifi50"; did you mean "wifi-50"'):
        link_named("wifi50")
    with pytest.raises(ConfigError, match=r'no link "zzzzzz"; known are loopback, '):
        link_named("zzzzzz")


def test_a_batch_takes_a_fixed_time_and_one_per_sample() -> None:
    profile = device_named("raspberry-pi-4b")
    device = Device(profile)
    assert device.batch_seconds(0) == profile.step_seconds
    assert device.batch_seconds(24) == pytest.approx(profile.step_seconds + 1)
    light = Device(profile, model_factor=0.5)
    assert light.batch_seconds(48) == pytest.approx(profile.step_seconds + 1)


def test_a_slow_device_is_slow_in_all_it_does() -> None:
    device = Device(device_named("jetson-nano"))
    work = CodingWork()
    work.encoded["q4", available()[-1]] += ELEMENTS

    def times() -> tuple[float, ...]:
        return (
            device.batch_seconds(8),
            device.coding_seconds(work),
            device.exchange_seconds(),
            device.request_seconds(),
            device.speeds([codec_named("q4")], [NoStage()], SAMPLE)[0].encode_seconds,
        )

    before = times()
    device.slow_factor = 3.0
    assert times() == pytest.approx([3 * each for each in before])


@pytest.mark.parametrize("codec", PUSH_CODECS)
def test_every_codec_with_every_stage_has_its_costs(codec: str) -> None:
    pc, pi = Device(device_named("pc")), Device(device_named("raspberry-pi-4b"))
    for stage in ("none", "lz4", "zstd", "deflate"):
        for kind in ("encoded", "decoded", "applied", "published"):
            if kind == "published" and codec not in PULL_CODECS:
                continue
            work = CodingWork()
            getattr(work, kind)[codec, stage] += ELEMENTS
            assert 0 < pc.coding_seconds(work) < 0.1
            assert 5 < pi.coding_seconds(work) / pc.coding_seconds(work) < 50


def test_work_adds_up_and_nothing_costs_nothing() -> None:
    device = Device(device_named("raspberry-pi-4b"))
    work = CodingWork()
    assert device.coding_seconds(work) == 0.0
    work.encoded["q4", "none"] += ELEMENTS
    once = device.coding_seconds(work)
    work.encoded["q4", "none"] += ELEMENTS
    assert device.coding_seconds(work) == pytest.approx(2 * once)
    drained = work.drain()
    assert device.coding_seconds(drained) == pytest.approx(2 * once)
    assert device.coding_seconds(work) == 0.0


def test_serving_an_exchange_costs_what_a_real_server_was_measured_at() -> None:
    """0.40 to 0.43 ms of processor time for ResNet-32 with q4 both ways, see docs/results.md."""
    device, work = Device(device_named("pc")), CodingWork()
    work.applied["q4", "none"] = work.published["q4", "none"] = 461_872
    assert 3e-4 < device.request_seconds() + device.coding_seconds(work) < 5e-4


def test_sizes_are_measured_and_times_are_the_devices() -> None:
    device = Device(device_named("raspberry-pi-4b"))
    codecs = [codec_named(name) for name in CANDIDATES]
    stages = [stage_named(name) for name in available()]
    speeds = device.speeds(codecs, stages, SAMPLE)
    assert [(speed.codec, speed.lossless) for speed in speeds] == [
        (codec, stage) for codec in CANDIDATES for stage in available()
    ]
    assert speeds == device.speeds(codecs, stages, SAMPLE)
    for speed in speeds:
        coding, work = (speed.codec, speed.lossless), CodingWork()
        work.encoded[coding] = work.decoded[coding] = ELEMENTS
        both = ELEMENTS * (speed.encode_seconds + speed.decode_seconds)
        assert both == pytest.approx(device.coding_seconds(work))
    plain = {speed.codec: speed.bytes for speed in speeds if speed.lossless == "none"}
    assert plain["identity"] == 4.0
    assert 0.5 < plain["q4"] < 0.52


def test_a_worker_chooses_by_its_device() -> None:
    """On a link at which a PC gains by zstd after q4, the Pi's core takes longer than it saves."""

    def chosen(profile: str) -> str:
        auto = CodingSettings(push="q4", pull="q4", lossless="auto")
        costs = Device(device_named(profile)).speeds
        coding = WorkerCoding(auto, available(), ELEMENTS, 0, costs)
        coding.judge(1, 8 / 200e6, 8 / 200e6, 1.0, SAMPLE)
        return coding.push.name

    assert chosen("pc") != "q4"
    assert chosen("raspberry-pi-3b-plus") == "q4"


DEVICES = (
    DeviceConfig("raspberry-pi-4b", 2, name="pi", slows=(SlowConfig(5.0, 2.0, 9.0),)),
    DeviceConfig("jetson-nano", joins_at=3.0, leaves_at=8.0, link="wifi-50"),
    DeviceConfig("raspberry-pi-5", 1, name="pi"),
)


def test_hosts_are_numbered_by_name() -> None:
    places = worker_places(ClusterConfig(workers=4, devices=DEVICES))
    assert [place.name for place in places] == ["pi-1", "pi-2", "jetson-nano-1", "pi-3"]
    assert [place.profile.name for place in places][2:] == ["jetson-nano", "raspberry-pi-5"]
    assert places[1].slows == DEVICES[0].slows
    assert (places[2].joins_at, places[2].leaves_at, places[2].link.shared) == (3.0, 8.0, True)
    assert (places[3].joins_at, places[3].leaves_at) == (0.0, None)


def test_servers_and_workers_without_devices_are_of_one_kind() -> None:
    cluster = ClusterConfig(servers=2, workers=3, server_link="20mbit", pace=(1.0, 3.0))
    assert [place.name for place in server_places(cluster)] == ["server-0", "server-1"]
    places = worker_places(cluster)
    assert [place.name for place in places] == ["worker-1", "worker-2", "worker-3"]
    assert {place.link.name for place in (*places, *server_places(cluster))} == {"20mbit"}
    assert [place.slows for place in places] == [(), (SlowConfig(0.0, 3.0),), ()]
