"""A supervisor apart, and one that is killed while `psedge run` looks on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from launch_rig import World, training

from psedge.protocol.errors import (
    RefusedError,
    TrainingError,
)
from psedge.protocol.status import Status


def test_a_supervisor_apart_is_one_process_more() -> None:
    def script(world: World, look: int) -> Status:
        world.children["supervisor"].exit_code = 0
        return Status(run="small", phase="finished")

    world = World(script, apart=True)
    assert world.run().phase == "finished"
    servers = {
        name: " ".join(child.arguments)
        for name, child in world.children.items()
        if not name.startswith("worker")
    }
    join = "server --join http://127.0.0.1:45678 --port 0"
    assert servers == {
        "supervisor": "server c.toml --port 0 --data d --out out --set a.b=1 --with-parent",
        "server-0": f"{join} --store out/servers/0 --with-parent",
        "server-1": f"{join} --store out/servers/1 --with-parent",
    }


@pytest.mark.parametrize("apart", [True, False])
def test_a_killed_supervisor_is_started_again_where_everybody_looks_for_it(
    tmp_path: Path, apart: bool
) -> None:
    name = "supervisor" if apart else "server-0"
    (tmp_path / "supervisor.sqlite").touch()

    def script(world: World, look: int) -> Status:
        if look == 3:
            world.children[name].exit_code = -9
        if look == 5:
            raise RefusedError("not-ready", "this server is still starting")
        if look < 8:
            return training(look)
        world.children[name].exit_code = 0
        return Status(run="small", phase="finished")

    world = World(script, out=tmp_path, apart=apart)
    # That counts for the first start only.
    world.launch._order = msgspec.structs.replace(world.launch._order, from_checkpoint=True)
    first = world.launch._start_first(True, 0, from_checkpoint=True).arguments
    assert first[-3:] == ["--resume", "--from-checkpoint", "--with-parent"]
    others = 3 if not apart else 4
    assert world.run().phase == "finished"
    arguments = " ".join(world.children[name].arguments)
    assert arguments == (
        f"server c.toml --port 45678 --data d --out {tmp_path} --set a.b=1 --resume --with-parent"
    )
    assert len(world.children) == others + 1
    notes = {note for status in world.shown for note in status.notes}
    log = tmp_path / "logs" / f"{name}.log"
    assert notes == {f"{name}: ended by SIGKILL (see {log}); it is started again"} or notes == {
        f"{name}: last words of {name}; it is started again"
    }


def test_a_supervisor_that_is_killed_time_after_time_is_given_up(tmp_path: Path) -> None:
    def script(world: World, look: int) -> Status:
        world.children["server-0"].exit_code = -9
        return training(look)

    world = World(script, out=tmp_path)
    with pytest.raises(TrainingError, match="server-0"):
        world.run()
    assert world.looks == 6
