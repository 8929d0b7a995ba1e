"""Who has a name to itself on this machine: real files and locks, a real fork and kill."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from psedge import own_place
from psedge.own_place import MOST_PLACES, Places
from psedge.protocol.messages import Place

TAKING = """
import os, sys
from pathlib import Path
from psedge.own_place import Places
places = Places(Path(sys.argv[1]))
place = places.take("run", "pi")
"""
#: Lives until its input ends.
HOLDING = f"""{TAKING}
print(place.identity, place.holder, flush=True)
sys.stdin.read()
"""
#: Leaves a child behind, which does so.
FORKING = f"""{TAKING}
reader, writer = os.pipe()
if os.fork() == 0:
    # Closing again what is closed already must not hit another file.
    places.close()
    os.write(writer, b"1")
    sys.stdin.read()
    os._exit(0)
os.read(reader, 1)
print(place.identity, place.holder, flush=True)
os._exit(7)
"""


@contextmanager
def held_by(program: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], Place]]:
    """A process that has said which place it has."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        identity, holder = process.stdout.readline().split()
        yield process, Place(identity, int(holder))


_opened: list[Places] = []


@pytest.fixture(autouse=True)
def all_closed() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()
    assert not own_place._locked


def taken(folder: Path, run: str = "run", name: str = "pi") -> tuple[Places, Place]:
    """The place is kept until it is closed, or the test ends."""
    places = Places(folder)
    _opened.append(places)
    place = places.take(run, name)
    assert place is not None
    return places, place


def test_a_place_goes_from_one_to_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "psedge"
    first, place = taken(folder)
    first.close()
    _, again = taken(folder)
    assert again == Place(place.identity, place.holder + 1)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_those_who_live_have_one_each(tmp_path: Path) -> None:
    folder = tmp_path / "psedge"
    held = [taken(folder) for _ in range(3)]
    assert len({place.identity for _, place in held}) == 3
    held[1][0].close()
    _, again = taken(folder)
    assert again.identity == held[1][1].identity
    others = [taken(folder, "another run")[1], taken(folder, name="nano")[1]]
    assert {place.identity for place in others}.isdisjoint(place.identity for _, place in held)


def test_a_killed_process_leaves_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "psedge"
    with held_by(HOLDING, folder) as (process, place):
        _, beside = taken(folder)
        assert beside.identity != place.identity
        process.kill()
        process.wait()
        assert taken(folder)[1] == Place(place.identity, place.holder + 1)


def test_a_forked_child_does_not_keep_its_parents_place(tmp_path: Path) -> None:
    folder = tmp_path / "psedge"
    with held_by(FORKING, folder) as (process, place):
        # The parent is dead, and its child holds the other end of this.
        assert process.wait() == 7
        assert taken(folder)[1] == Place(place.identity, place.holder + 1)


def test_a_copy_of_the_folder_on_another_machine_is_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "psedge"
    first, place = taken(folder)
    first.close()
    monkeypatch.setattr(own_place, "_boot", lambda: "another boot")
    assert taken(folder)[1].identity != place.identity


def test_a_removed_file_is_another_place(tmp_path: Path) -> None:
    """As when the system clears old files away below a living worker."""
    folder = tmp_path / "psedge"
    _, place = taken(folder)
    for file in folder.iterdir():
        file.unlink()
    assert taken(folder)[1].identity != place.identity


def test_a_damaged_file_is_a_new_place(tmp_path: Path) -> None:
    folder = tmp_path / "psedge"
    first, place = taken(folder)
    first.close()
    (file,) = folder.iterdir()
    file.write_bytes(b"{")
    second, fresh = taken(folder)
    assert fresh.identity != place.identity
    second.close()
    assert taken(folder)[1] == Place(fresh.identity, 2)


def test_what_may_be_somebody_elses_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "open").mkdir(0o700)
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "file").touch()
    for name in ("link", "open", "file", "missing/folder"):
        assert Places(tmp_path / name).take("run", "pi") is None, name
    first, _ = taken(tmp_path / "real")
    first.close()
    (file,) = (tmp_path / "real").iterdir()
    file.rename(tmp_path / "file")
    file.symlink_to(tmp_path / "file")
    assert Places(tmp_path / "real").take("run", "pi") is None


def test_without_locks_nothing_is_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_place, "fcntl", None)
    assert Places(tmp_path / "psedge").take("run", "pi") is None


def test_a_full_disk_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda *_: 3)
    assert Places(tmp_path / "psedge").take("run", "pi") is None


def test_a_bounded_number_is_tried(tmp_path: Path) -> None:
    for _ in range(MOST_PLACES):
        taken(tmp_path / "psedge")
    assert Places(tmp_path / "psedge").take("run", "pi") is None


@pytest.mark.parametrize("runtime", [True, False])
def test_the_folder_is_the_users(
    runtime: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_place.tempfile, "gettempdir", lambda: str(tmp_path))
    if runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    else:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with Places() as places:
        assert places.take("run", "pi") is not None
    name = "psedge" if runtime else f"psedge-{os.getuid()}"
    assert [path.name for path in tmp_path.iterdir()] == [name]
