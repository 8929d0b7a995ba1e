"""The rules of the house, read off the source: who may import whom, and what a core may know."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("server", "worker", "compression", "protocol")
#: What each floor may import of psedge. Of the roof, the supervisor knows only itself and the
#: experiment that it reads and writes down.
BELOW = {
    "psedge/supervisor": {*ROOMS, "supervisor", "config", "toml_text"} - {"worker"},
    "server": {"server", "compression", "protocol"},
    "worker": {"worker", "compression", "protocol"},
    "compression": {"compression", "protocol"},
    "protocol": {"protocol"},
}
#: Floors that know only NumPy, so that a server starts in a second on a small machine.
WITHOUT_TORCH = ("server", "compression", "protocol")
#: Modules with sockets, files and timers. All others on their floor are cores.
SHELLS = {
    "server": {"node.py", "service.py"},
    "protocol": {
        "aiohttp_client.py", "aiohttp_server.py", "aiohttp_transport.py", "disk.py", "door.py",
        "system_clock.py",
    },
    "compression": set[str](),
}  # fmt: skip
#: Cores on floors where most modules are shells.
FURTHER_CORES = (
    "psedge/supervisor/data_plan.py",
    "psedge/supervisor/data_pool.py",
    "psedge/supervisor/membership.py",
    "psedge/supervisor/shard_map.py",
    "worker/datasets/order.py",
)
#: A core takes these as arguments.
IMPURE = {"aiohttp", "asyncio", "random", "secrets", "socket", "threading", "time", "torch"}
#: Time and network are reached through protocol/ports.py; these implement it.
DOORS = {
    "protocol/aiohttp_client.py": {"aiohttp", "socket"},
    "protocol/aiohttp_server.py": {"aiohttp", "socket"},
    "protocol/aiohttp_transport.py": {"aiohttp", "socket"},
    "protocol/system_clock.py": {"time"},
}
LONGEST_FILE_LINES = 400


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def roof() -> list[Path]:
    return sorted((ROOT / "psedge").glob("*.py")) + sources("psedge/supervisor")


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
        assert "cli" not in known or path.name == "__main__.py", f"{name_of(path)} imports the cli"


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
    for path in sources(*ROOMS, "psedge/supervisor"):
        name = name_of(path)
        wrong = top_level(path.read_text()) & {"aiohttp", "socket", "time"}
        wrong -= DOORS.get(name, set())
        assert not wrong, f"{name} imports {min(wrong)}: use protocol/ports.py"


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
