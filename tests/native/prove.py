"""Whether the kernels do what NumPy does, byte for byte, on a machine that is not this one.

python tests/native/prove.py aarch64     cross-compiled, and run by qemu
python tests/native/prove.py sanitize    under AddressSanitizer and UBSan, and a million payloads
python tests/native/prove.py native      as it is built here
python tests/native/prove.py clang       as another compiler builds it

The kernels are compiled into a program of their own (driver.cpp), which is sent calls with random
arguments; `psedge.compression.reference` is asked the same. Every instruction set is tried.
Exit codes: 0 all is equal, 1 something differs, 2 a tool is missing.
"""

from __future__ import annotations

import argparse
import copy
import platform
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from cases import Call, calls  # noqa: E402

from psedge.compression import reference  # noqa: E402

#: Those of setup.py that decide about results.
FLAGS = (
    "-std=c++17",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
)


@dataclass(frozen=True)
class Build:
    """How the driver is made and run. packages: what to install on Debian if a tool is missing."""

    compiler: str
    flags: tuple[str, ...]
    runner: tuple[str, ...] = ()
    packages: str = "g++"


BUILDS = {
    "native": Build("g++", ("-O3",)),
    "clang": Build("clang++", ("-O3",), packages="clang"),
    "sanitize": Build(
        "g++", ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    ),
    "aarch64": Build(
        "aarch64-linux-gnu-g++",
        ("-O3", "-static"),
        ("qemu-aarch64-static",),
        "g++-aarch64-linux-gnu qemu-user-static",
    ),
}
if platform.machine() == "aarch64":
    BUILDS["aarch64"] = BUILDS["native"]


class MissingToolError(Exception):
    """A compiler or emulator is not installed."""


class Driver:
    """The compiled program. Building it again costs nothing while no source has changed."""

    def __init__(self, build: Build, program: Path) -> None:
        for tool in (build.compiler, *build.runner):
            if shutil.which(tool) is None:
                raise MissingToolError(
                    f"{tool} is not installed; on Debian and Ubuntu: sudo apt install "
                    f"{build.packages}"
                )
        self._command = [*build.runner, str(program)]
        sources = [
            *Path(__file__).parent.glob("*.[ch]*"),
            *(ROOT / "compression/kernels").glob("*.h"),
        ]
        newest = max(source.stat().st_mtime for source in sources)
        if program.exists() and program.stat().st_mtime > newest:
            return
        program.parent.mkdir(parents=True, exist_ok=True)
        kernels = f"-I{ROOT / 'compression/kernels'}"
        source = str(Path(__file__).parent / "driver.cpp")
        command = [build.compiler, *FLAGS, *build.flags, kernels, source, "-o", str(program)]
        subprocess.run(command, check=True)

    def instruction_sets(self) -> list[str]:
        return self._run(["--sets"]).decode().split()

    def fuzz(self, inputs: int, seed: int, instruction_set: str) -> str:
        """What became of so many damaged payloads. Raises CalledProcessError on a fault."""
        arguments = ["--set", instruction_set, "--fuzz", str(inputs), str(seed)]
        return self._run(arguments).decode().strip()

    def answers(self, asked: Sequence[Call], instruction_set: str) -> bytes:
        return self._run(["--set", instruction_set], b"".join(map(packed, asked)))

    def _run(self, arguments: list[str], given: bytes = b"") -> bytes:
        command = [*self._command, *arguments]
        return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout


def packed(call: Call) -> bytes:
    """A call as call.h reads it."""
    name, arguments = call
    parts = [struct.pack("<B", len(name)), name.encode(), struct.pack("<B", len(arguments))]
    for argument in arguments:
        if argument is None:
            parts.append(b"\x00")
        elif isinstance(argument, np.ndarray):
            parts += [b"\x02", *_packed_array(argument)]
        elif isinstance(argument, list):
            parts += [b"\x03", struct.pack("<I", len(argument))]
            for array in argument:
                parts += _packed_array(array)
        else:
            parts.append(struct.pack("<Bd", 1, argument))
    return b"".join(parts)


def _packed_array(array: NDArray[Any]) -> list[bytes]:
    return [struct.pack("<BQ", array.itemsize, array.nbytes), array.tobytes()]


def expected(call: Call) -> tuple[list[int], list[NDArray[Any]]]:
    """What NumPy answers: results as 64-bit words, and all arrays as they are afterwards."""
    name, arguments = copy.deepcopy(call)
    result = getattr(reference, name)(*arguments)
    results = result if isinstance(result, tuple) else () if result is None else (result,)
    arrays: list[NDArray[Any]] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            arrays.append(argument)
        elif isinstance(argument, list):
            arrays += argument
    return [_word(value) for value in results], arrays


def _word(value: Any) -> int:
    if isinstance(value, float | np.floating):
        return int.from_bytes(struct.pack("<d", value), "little")
    return int(value)


def differences(asked: Sequence[Call], answered: bytes) -> list[str]:
    """Each call whose answer is not NumPy's, in words."""
    found, place = [], 0
    for index, call in enumerate(asked):
        results, arrays = expected(call)
        count = answered[place]
        ours = struct.unpack_from(f"<{count}Q", answered, place + 1)
        place += 1 + 8 * count
        wrong = [] if list(ours) == results else [f"returned {list(ours)}, not {results}"]
        for number, array in enumerate(arrays):
            theirs = np.frombuffer(answered, array.dtype, array.size, place)
            place += array.nbytes
            # Behind its end the buffer of a sparse payload may hold anything.
            cut = call[0] in ("sparse_encode", "signs_encode") and number == len(arrays) - 1
            used = results[0] if cut else None
            if not _equal(array.reshape(-1)[:used], theirs[:used]):
                wrong.append(f"array {number} differs")
        if wrong:
            found.append(f"call {index}, {_described(call)}: {'; '.join(wrong)}")
    assert place == len(answered), "the driver answered more than it was asked"
    return found


def _equal(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """The same bits; of a NaN that was computed, the bits are the processor's affair."""
    if left.dtype != np.float32:
        return np.array_equal(left, right)
    same = left.view(np.uint32) == right.view(np.uint32)
    return bool((same | (np.isnan(left) & np.isnan(right))).all())


def _described(call: Call) -> str:
    name, arguments = call
    shown = [
        f"{argument.dtype}[{argument.size}]" if isinstance(argument, np.ndarray) else str(argument)
        for argument in arguments
        if not isinstance(argument, list)
    ]
    return f"{name}({', '.join(shown)})"


def prove(driver: Driver, count: int, fuzzed: int, seed: int) -> bool:
    """Whether all is well; says what was tried."""
    asked = list(calls(count, seed))
    well = True
    for instruction_set in driver.instruction_sets():
        wrong = differences(asked, driver.answers(asked, instruction_set))
        well = well and not wrong
        print(f"{instruction_set}: {count} calls, {len(wrong)} differ from NumPy")
        for line in wrong[:10]:
            print(f"  {line}")
        if fuzzed:
            started = time.perf_counter()
            report = driver.fuzz(fuzzed, seed, instruction_set)
            print(f"{instruction_set}: {report}, {time.perf_counter() - started:.0f} s")
    return well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", choices=BUILDS)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--fuzz", type=int, default=0, help="damaged payloads to decode")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        driver = Driver(BUILDS[options.build], ROOT / "build/native" / options.build)
        return 0 if prove(driver, options.calls, options.fuzz, options.seed) else 1
    except MissingToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
