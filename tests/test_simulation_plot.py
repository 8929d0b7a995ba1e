"""The picture of a simulated run: what is in it, with few devices and with many."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import numpy as np
import pytest
import simulated
from PIL import Image, ImageColor

from psedge.protocol.errors import ConfigError
from psedge.simulation.lane_plot import COLOURS, Strip, strips_of
from psedge.simulation.lanes import kinds_of
from psedge.simulation.outcome import Outcome
from psedge.simulation.plot import picture


def image_of(outcome: Outcome) -> Image.Image:
    image = Image.open(io.BytesIO(picture(outcome, "kitchen $\\alpha$")))
    image.load()
    assert image.format == "PNG"
    return image.convert("RGB")


def area(image: Image.Image, state: str) -> float:
    """The part of the picture in the colour of a state."""
    colour = ImageColor.getrgb(COLOURS[state])
    return float((np.asarray(image) == colour).all(axis=2).mean())


def strips(outcome: Outcome) -> list[Strip]:
    kinds = kinds_of(outcome.lanes, outcome.profiles, outcome.servers)
    return strips_of(kinds, outcome.lanes, outcome.virtual_seconds)


def test_every_state_has_its_colour() -> None:
    image = image_of(simulated.outcome(pis=8, nanos=8))
    for state in ("computing", "transferring", "waiting", "dead"):
        assert area(image, state) > 0.0005, state
    assert image.width == 1500
    assert image.height < 2200


def test_a_few_devices_have_a_strip_each() -> None:
    found = strips(simulated.outcome(pis=8, nanos=8))
    assert [strip.label for strip in found][:2] == ["nano-1", "nano-2"]
    assert len(found) == 16
    assert all(strip.height == 1 for strip in found)


def test_many_devices_are_shown_by_kind_with_some_of_each() -> None:
    outcome = simulated.outcome(pis=80, nanos=20, seconds=60.0)
    found = strips(outcome)
    kinds = [strip for strip in found if strip.is_kind]
    assert [strip.label for strip in kinds] == ["jetson-nano × 20", "raspberry-pi-4b × 80"]
    assert len(kinds[1].hosts) == 80
    assert len(found) <= 40
    # The one that failed is among those that stand for all.
    assert "pi-2" in [strip.label for strip in found]
    image = image_of(outcome)
    assert image.height < 2600
    assert area(image, "computing") > 0.05


def test_thousands_of_devices_stay_one_page() -> None:
    outcome = simulated.outcome(pis=2, nanos=2, seconds=60.0)
    lane = outcome.lanes["pi-1"]
    names = [f"pi-{number}" for number in range(1, 3001)]
    crowd = msgspec.structs.replace(
        outcome,
        lanes=dict.fromkeys(names, lane),
        profiles=dict.fromkeys(names, "raspberry-pi-4b"),
        servers=(),
    )
    assert image_of(crowd).height < 2600


def test_strips_do_not_overlap() -> None:
    found = strips(simulated.outcome(pis=80, nanos=20, seconds=60.0))
    top = 0.0
    for strip in found:
        assert strip.bottom + strip.height < top
        top = strip.bottom


def test_curves_are_there_when_there_is_something_to_draw() -> None:
    with_loss = image_of(simulated.outcome())
    without = image_of(simulated.outcome(real_work=False))
    nothing = image_of(msgspec.structs.replace(simulated.outcome(), rows=()))
    assert with_loss.height > without.height > nothing.height


def test_many_faults_and_one_long_run_are_drawn() -> None:
    outcome = simulated.outcome(seconds=4 * 86_400.0, step_seconds=4000.0)
    fault = next(event for event in outcome.events if event.kind == "fault")
    faults = [msgspec.structs.replace(fault, at=1000.0 * n, node=f"x-{n}") for n in range(200)]
    image_of(msgspec.structs.replace(outcome, events=tuple(faults)))


def test_nothing_to_draw_is_said() -> None:
    outcome = Outcome(seed=0, phase="failed", virtual_seconds=0.0)
    with pytest.raises(ConfigError, match="nothing to draw"):
        picture(outcome, "kitchen")


def test_the_picture_leaves_no_global_state(tmp_path: Path) -> None:
    import matplotlib

    before = matplotlib.get_backend()
    picture(simulated.outcome(seconds=20.0), "kitchen")
    assert matplotlib.get_backend() == before
