"""The kernels' Python module under AddressSanitizer and UBSan: its tests, and damaged payloads.

python tests/native/prove_bindings.py [--payloads N]

prove.py sends the kernels what the bindings let through; here the bindings themselves are on trial,
and the codecs on top of them. The module is built anew in a copy of the sources.
Exit codes: 0 all is well, 1 something is not, 2 a tool is missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nanobind

sys.path.insert(0, str(Path(__file__).parent))

from prove import BUILDS, FLAGS, ROOT

COPY = ROOT / "build/native/bindings"
SOURCES = ("psedge", "compression", "protocol", "server", "worker", "tests")
#: Tests that reach kernels and codecs directly.
TESTS = ("test_kernels.py", "test_codecs.py", "test_apply_kernels.py", "test_top_k.py",
         "test_adacomp.py")  # fmt: skip


def build() -> None:
    """A copy of the sources with a module of its own."""
    for name in SOURCES:
        target = COPY / name
        if target.exists():
            shutil.rmtree(target)
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, target, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", COPY / "pyproject.toml")
    home = Path(nanobind.__file__).parent
    folders = (
        sysconfig.get_path("include"),
        nanobind.include_dir(),
        home / "src",
        home / "ext/robin_map/include",
    )
    module = COPY / f"compression/_kernels{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = sorted((COPY / "compression/kernels").glob("*.cpp"))
    flags = [*FLAGS[:-2], *BUILDS["sanitize"].flags, "-shared", "-fPIC", "-fvisibility=hidden"]
    defines = ["-DNDEBUG", "-DNB_COMPACT_ASSERTIONS"]
    includes = [f"-I{folder}" for folder in folders]
    command = ["g++", *flags, *defines, *includes, *map(str, sources), "-o", str(module)]
    subprocess.run(command, check=True)


def run(arguments: list[str]) -> int:
    """Python in the copy, with the sanitizers loaded before it."""
    # Without C++'s own library the sanitizer would not find what throws exceptions.
    libraries = " ".join(map(_library, ("libasan.so", "libstdc++.so.6")))
    # Python itself never frees some of what it takes.
    environment = {**os.environ, "LD_PRELOAD": libraries, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([sys.executable, *arguments], cwd=COPY, env=environment).returncode


def _library(name: str) -> str:
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--payloads", type=int, default=100_000)
    options = parser.parse_args()
    if shutil.which("g++") is None:
        print("error: g++ is not installed; on Debian: sudo apt install g++", file=sys.stderr)
        return 2
    build()
    # An installed psedge must not stand in for the copy.
    own = "from psedge.compression import _kernels as k; raise SystemExit(not k.__file__.startswith"
    if run(["-c", f"{own}({str(COPY)!r}))"]):
        print(f"error: the module in {COPY} is not the one that Python imports", file=sys.stderr)
        return 1
    tests = [f"tests/{name}" for name in TESTS if (COPY / "tests" / name).exists()]
    # What a sanitizer reports must not end in pytest's hands together with the process.
    flags = ["-p", "no:cacheprovider", "--timeout=600", "--capture=sys"]
    arguments = ["-m", "pytest", *flags, *tests]
    fuzz = ["tests/native/fuzz_codecs.py", str(options.payloads)]
    return 1 if run(arguments) or run(fuzz) else 0


if __name__ == "__main__":
    sys.exit(main())
