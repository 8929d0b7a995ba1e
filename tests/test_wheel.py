"""The built wheel holds what the checkout holds, and the source archive what a build needs.

The rooms behind the symlinks are included; the C++ sources of the kernels become one module.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from psedge.compression import native

#: It compiles the kernels once for each instruction set, which a busy machine takes minutes for.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[1]
ROOMS = ("server", "worker", "compression", "protocol")
KERNELS = "psedge/compression/kernels/"
NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.so", ".*")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from, so that a build leaves nothing in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("psedge", *ROOMS):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=NOT_SHIPPED)
    for file in ("pyproject.toml", "README.md", "LICENSE", "setup.py"):
        if (ROOT / file).exists():
            shutil.copy2(ROOT / file, source / file)
    return source


@pytest.fixture(scope="module")
def shipped(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in the wheel."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "-w", str(target), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("psedge-*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_holds_every_file_of_the_checkout(source: Path, shipped: list[str]) -> None:
    expected = {f"psedge/{path.name}" for path in (source / "psedge").iterdir() if path.is_file()}
    for folder in (source / "psedge").iterdir():
        room = folder.resolve()
        if room.is_dir() and folder.suffix != ".egg-info":
            files = (path for path in room.rglob("*") if path.is_file())
            expected |= {f"psedge/{folder.name}/{path.relative_to(room)}" for path in files}
    expected = {name for name in expected if not name.startswith(KERNELS)}
    if native.NATIVE:
        expected.add(f"psedge/compression/_kernels{sysconfig.get_config_var('EXT_SUFFIX')}")
    modules = {name for name in shipped if ".dist-info/" not in name}
    assert modules == expected
    for room in ROOMS:
        assert any(name.startswith(f"psedge/{room}/") for name in modules), room


def test_the_source_archive_builds_the_kernels_anywhere(source: Path, tmp_path: Path) -> None:
    build = "from setuptools import build_meta; build_meta.build_sdist({!r})"
    command = [sys.executable, "-c", build.format(str(tmp_path))]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("psedge-*.tar.gz")
    with tarfile.open(archive) as tar:
        inside = {member.name.partition("/")[2] for member in tar if member.isfile()}
    assert {f"{KERNELS}{path.name}" for path in (ROOT / "compression/kernels").iterdir()} <= inside
    assert {"setup.py", "pyproject.toml", "LICENSE", "psedge/compression/_kernels.pyi"} <= inside


def test_an_install_without_a_compiler_succeeds(source: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "CC": "no-such-compiler", "CXX": "no-such-compiler"}
    command = [sys.executable, "setup.py", "--quiet", "build", "-b", str(tmp_path)]
    done = subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("reference/quantize.py"))
    assert not list(tmp_path.rglob("_kernels*.so"))


def test_the_wheel_has_the_command_and_the_licence(shipped: list[str]) -> None:
    metadata = [name for name in shipped if ".dist-info/" in name]
    assert any(name.endswith("/entry_points.txt") for name in metadata)
    assert any(name.endswith("LICENSE") for name in metadata)


def test_rooms_are_namespace_packages() -> None:
    """A run from the repository root would let `compression/__init__.py` shadow the stdlib's."""
    for room in ROOMS:
        assert not (ROOT / room / "__init__.py").exists(), room
        assert (ROOT / "psedge" / room).is_symlink(), room
