"""The rules of the house, read off the source: who may import whom, and what a core may know."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("server", "worker", "compression", "protocol")
#: What the virtual world runs, and what it reads and shows like a real run.
SIMULATED = {
    "bench_gradients", "config", "config_types", "export", "first_server", "hosting",
    "own_packages", "plot", "prepare", "run_folder", "supervisor", "terminal", "toml_config",
    "toml_text", "work",
}  # fmt: skip
#: What each floor may import of psedge. Of the roof, the supervisor knows only itself and the
#: experiment that it reads and writes down.
BELOW = {
    "psedge/simulation": {*ROOMS, *SIMULATED, "simulation"},
    "psedge/supervisor": {*ROOMS, "supervisor", "config", "toml_text"} - {"worker"},
    "server": {"server", "compression", "protocol"},
    "worker": {"worker", "compression", "protocol"},
    "compression": {"compression", "protocol"},
    "protocol": {"protocol"},
}
#: Floors that know only NumPy, so that a server starts in a second on a small machine.
WITHOUT_TORCH = ("server", "compression", "protocol")
#: Modules with sockets, files and timers, or that are handed a seeded source of chance. All others
#: on their floor are cores.
SHELLS = {
    "server": {
        "background.py", "copies.py", "hosted_shard.py", "log_files.py", "log_folder.py", "node.py",
        "pauses.py", "petition.py", "pump.py", "recovery.py", "replay.py", "replica_routes.py",
        "replication.py", "reports.py", "service.py", "shard_log.py", "store.py", "waiters.py",
        "write_trouble.py",
    },
    "protocol": {
        "aiohttp_client.py", "aiohttp_server.py", "aiohttp_transport.py", "append_file.py",
        "disk.py", "door.py", "system_clock.py",
    },
    "compression": set[str](),
    "psedge/simulation/checkers": set[str](),
    "psedge/simulation/faults": {"draw.py", "inject.py", "plan.py"},
    "psedge/simulation/network": {"exchange.py", "network.py", "serving.py", "transport.py"},
}  # fmt: skip
#: Cores on floors where most modules are shells.
FURTHER_CORES = (
    "psedge/supervisor/book_rows.py",
    "psedge/supervisor/data_plan.py",
    "psedge/supervisor/data_pool.py",
    "psedge/supervisor/detector.py",
    "psedge/supervisor/failover.py",
    "psedge/supervisor/figures.py",
    "psedge/supervisor/journal.py",
    "psedge/supervisor/membership.py",
    "psedge/supervisor/placement.py",
    "psedge/supervisor/progress_table.py",
    "psedge/supervisor/range_size.py",
    "psedge/supervisor/server_list.py",
    "psedge/supervisor/shard_map.py",
    "psedge/supervisor/shard_table.py",
    "psedge/supervisor/shard_view.py",
    "psedge/supervisor/turns.py",
    "psedge/supervisor/worker_entry.py",
    "psedge/chaos/judge.py",
    "psedge/chaos/restart.py",
    "psedge/chaos/strikes.py",
    "psedge/chaos/targets.py",
    "psedge/device_checks.py",
    "psedge/simulation/device_costs.py",
    "psedge/simulation/devices.py",
    "psedge/simulation/file_system.py",
    "psedge/simulation/lanes.py",
    "psedge/simulation/placement.py",
    "psedge/simulation/recovery.py",
    "psedge/simulation/report.py",
    "psedge/simulation/timeline.py",
    "psedge/simulation/trace.py",
    "worker/datasets/order.py",
    "worker/pace.py",
)
#: A core takes these as arguments.
IMPURE = {"aiohttp", "asyncio", "random", "secrets", "socket", "threading", "time", "torch"}
#: Time and network are reached through protocol/ports.py; these implement it.
DOORS = {
    "protocol/aiohttp_client.py": {"aiohttp", "socket"},
    "protocol/aiohttp_server.py": {"aiohttp", "socket"},
    "protocol/aiohttp_transport.py": {"aiohttp", "socket"},
    "protocol/system_clock.py": {"time"},
    # One keeps the clock from simulated code, the other says how long a simulation takes.
    "psedge/simulation/guard.py": {"time"},
    "psedge/simulation/progress.py": {"time"},
}
#: Of the roof, who knows the virtual world: a config names devices and links that it defines.
KNOW_SIMULATION = {"psedge/device_checks.py", "psedge/commands/simulate.py"}
LONGEST_FILE_LINES = 400


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def roof() -> list[Path]:
    floors = ("chaos", "commands", "simulation", "supervisor", "terminal")
    return sorted((ROOT / "psedge").glob("*.py")) + sources(*(f"psedge/{name}" for name in floors))


def cores() -> list[Path]:
    found = [
        path
        for floor, shells in SHELLS.items()
        for path in sources(floor)
        if path.name not in shells
    ]
    return found + [ROOT / name for name in FURTHER_CORES]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(source: str) -> set[str]:
    """Every module a source may import, wherever the statement stands, as a dotted name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from psedge import server` imports psedge.server, so the names count as well.
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def floors(source: str) -> set[str]:
    """The second parts of all psedge.* imports."""
    return {name.split(".")[1] for name in imports(source) if name.startswith("psedge.")}


def top_level(source: str) -> set[str]:
    return {name.split(".")[0] for name in imports(source)}


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b\ndef f():\n    from psedge import worker\n    from c import d\n"
    assert imports(source) == {"a.b", "psedge", "psedge.worker", "c", "c.d"}
    assert floors(source) == {"worker"}
    assert top_level(source) == {"a", "c", "psedge"}


@pytest.mark.parametrize("floor", BELOW)
def test_imports_run_downward(floor: str) -> None:
    files = sources(floor)
    assert files
    for path in files:
        wrong = floors(path.read_text()) - BELOW[floor]
        assert not wrong, f"{name_of(path)} imports psedge.{min(wrong)}"


def test_the_command_line_is_the_top() -> None:
    for path in roof():
        known = floors(path.read_text())
        name = name_of(path)
        assert "cli" not in known or path.name == "__main__.py", f"{name} imports the cli"
        above = path.name == "cli.py" or path.parent.name == "commands"
        assert "commands" not in known or above, f"{name} imports the commands"


def test_real_runs_do_not_know_the_virtual_world() -> None:
    for path in roof():
        name = name_of(path)
        if "simulation" in floors(path.read_text()) and not name.startswith("psedge/simulation/"):
            assert name in KNOW_SIMULATION, f"{name} imports psedge.simulation"


@pytest.mark.parametrize("floor", WITHOUT_TORCH)
def test_servers_do_not_import_torch(floor: str) -> None:
    for path in sources(floor):
        assert "torch" not in top_level(path.read_text()), name_of(path)


@pytest.mark.parametrize("path", cores(), ids=name_of)
def test_a_core_knows_neither_time_nor_network_nor_chance(path: Path) -> None:
    assert path.exists(), f"{name_of(path)} moved: say so in {Path(__file__).name}"
    wrong = top_level(path.read_text()) & IMPURE
    assert not wrong, f"{name_of(path)} imports {min(wrong)}"


def test_every_shell_that_is_excused_exists() -> None:
    for floor, shells in SHELLS.items():
        for shell in shells:
            assert (ROOT / floor / shell).exists(), f"{floor}/{shell} is gone"


def test_time_and_network_are_reached_through_the_ports() -> None:
    for path in sources(*ROOMS, "psedge/supervisor", "psedge/simulation"):
        name = name_of(path)
        wrong = top_level(path.read_text()) & {"aiohttp", "socket", "time"}
        wrong -= DOORS.get(name, set())
        assert not wrong, f"{name} imports {min(wrong)}: use protocol/ports.py"


def test_nothing_that_is_simulated_asks_for_the_date() -> None:
    """`datetime` reads its clock in C, where no guard of a simulation can be put in front of it."""
    programs = [ROOT / "psedge" / name for name in ("first_server.py", "hosting.py", "work.py")]
    for path in [*sources(*ROOMS, "psedge/supervisor", "psedge/simulation"), *programs]:
        assert "datetime" not in top_level(path.read_text()), name_of(path)


def test_nothing_is_unpickled_and_imports_are_absolute() -> None:
    for path in sources(*ROOMS) + roof():
        found = imports(path.read_text())
        assert not top_level(path.read_text()) & {"pickle", "marshal", "shelve", *ROOMS}, path
        assert not any(name.startswith(".") for name in found), path


def test_rooms_are_namespace_packages_behind_links() -> None:
    for room in ROOMS:
        assert not (ROOT / room / "__init__.py").exists()
        assert (ROOT / "psedge" / room).readlink() == Path("..") / room


def test_files_stay_short() -> None:
    for path in sources(*ROOMS, "tests") + roof():
        lines = len(path.read_text().splitlines())
        assert lines <= LONGEST_FILE_LINES, f"{name_of(path)} has {lines} lines: split it"
