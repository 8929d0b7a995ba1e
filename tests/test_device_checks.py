"""`[[cluster.devices]]`: who is counted, and one clear line for every mistake."""

from __future__ import annotations

from typing import Any

import pytest

from psedge.protocol.errors import ConfigError
from psedge.toml_config import from_json, load_config, to_json, to_toml, tomllib

PI = {"profile": "raspberry-pi-4b", "count": 3}
NANO = {"profile": "jetson-nano", "slows": [{"at": 2, "factor": 2.5, "until": 4}], "leaves_at": 9}


def with_devices(*devices: dict[str, Any], **cluster: Any) -> dict[str, Any]:
    return {"cluster": {**cluster, "devices": list(devices)}}


def test_the_number_of_workers_follows_the_devices() -> None:
    assert load_config(with_devices(PI, NANO)).cluster.workers == 4
    assert load_config(with_devices(PI, NANO, workers=4)).cluster.workers == 4
    assert load_config(with_devices(PI, NANO), ["cluster.devices=[]"]).cluster.workers == 1
    fewer = load_config(with_devices(PI), ['cluster.devices=[{profile="pc", count=2}]'])
    assert fewer.cluster.workers == 2


def test_the_resolved_config_reads_back_the_same() -> None:
    experiment = load_config(with_devices(PI, NANO, pace=[1.0, 2.0]))
    assert load_config(tomllib.loads(to_toml(experiment))) == experiment
    assert from_json(to_json(experiment)) == experiment


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (with_devices(PI, workers=2), "[cluster] workers = 2, and [[cluster.devices]] names 3"),
        (with_devices(PI, {"profile": "raspberry-pi-4"}),
         '[[cluster.devices]] number 2: there is no device profile "raspberry-pi-4"; did you mean '
         '"raspberry-pi-4b"?'),
        (with_devices({"profile": "pc", "link": "wlan-50"}),
         '[[cluster.devices]] number 1: there is no link "wlan-50"; did you mean "wifi-50"?'),
        (with_devices({"profile": "pc", "links": "gbe"}),
         '[cluster.devices] has no key "links"; did you mean "link"?'),
        (with_devices({"profile": "pc", "count": 0}), "[cluster.devices] count = 0: expected"),
        (with_devices({"count": 2}), '[cluster.devices] lacks the key "profile"'),
        (with_devices({"profile": "pc", "name": "my pi"}), 'name = "my pi": expected up to 40'),
        (with_devices({"profile": "pc", "name": "server"}), "is the servers' own"),
        (with_devices({"profile": "pc", "joins_at": 5, "leaves_at": 5}),
         "leaves_at = 5 is not after joins_at = 5"),
        (with_devices({"profile": "pc", "joins_at": float("inf")}), "expected a finite number"),
        (with_devices({"profile": "pc", "slows": [{"at": 5, "factor": 2, "until": 5}]}),
         "slows at = 5: until = 5 is not after it"),
        (with_devices({"profile": "pc", "slows": [{"at": 5, "factor": 0.5}]}),
         "[cluster.devices.slows] factor = 0.5: expected a number >= 1.0"),
        (with_devices({"profile": "pc", "slows": [{"at": 1, "factor": 2}, {"at": 3, "factor": 3}]}),
         "slows at = 3: begins before the one in front of it ends"),
        (with_devices({"profile": "pc", "leaves_at": 3, "slows": [{"at": 4, "factor": 2}]}),
         "slows at = 4: the device leaves at 3"),
        (with_devices({"profile": "pc", "slows": [{"at": 1, "factor": float("inf")}]}),
         "expected finite numbers"),
        ({"cluster": {"devices": 3}}, "[cluster] devices = 3: expected a list"),
        ({"cluster": {"server_profile": "Pc"}},
         '[cluster] server_profile: there is no device profile "Pc"; did you mean "pc"?'),
        ({"cluster": {"server_link": "gb"}}, '[cluster] server_link: there is no link "gb"'),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    assert message in str(caught.value)
    assert str(caught.value).startswith("config: ")
    assert "\n" not in str(caught.value)


def test_a_flag_replaces_the_whole_list() -> None:
    for flag in ("cluster.devices.count=4", "cluster.devices.0.count=4"):
        with pytest.raises(ConfigError) as caught:
            load_config(with_devices(PI), [flag])
        assert str(caught.value) == (
            f"--set {flag}: devices is a list, set all of it: "
            "--set 'cluster.devices=[{...}, {...}]'"
        )
    with pytest.raises(ConfigError, match=r"^--set: \[cluster\] devices = \"pi\": expected a list"):
        load_config(with_devices(PI), ["cluster.devices=pi"])
