"""The proof that kernels elsewhere do what NumPy does: `make test-sanitize`, `make test-aarch64`.

The proofs themselves need compilers and minutes; here a build without optimisation shows that they
work, and that they would notice.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from native.cases import Call, calls
from native.fuzz_codecs import damaged, honest, receive
from native.prove import (
    BUILDS,
    ROOT,
    Build,
    Driver,
    MissingToolError,
    differences,
    expected,
    main,
    packed,
)

from psedge.compression import reference

NOT_KERNELS = {"instruction_sets", "use_instruction_set"}

has_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")


def answered(asked: list[Call]) -> bytes:
    """What a driver whose kernels are right would write."""
    parts = []
    for call in asked:
        results, arrays = expected(call)
        parts.append(bytes([len(results)]))
        parts += [result.to_bytes(8, "little") for result in results]
        parts += [array.tobytes() for array in arrays]
    return b"".join(parts)


def test_calls_are_drawn_from_a_seed_and_reach_every_kernel() -> None:
    first, again = list(calls(48, seed=3)), list(calls(48, seed=3))
    assert [packed(call) for call in first] == [packed(call) for call in again]
    assert {name for name, _ in first} == set(reference.__all__) - NOT_KERNELS


def test_right_answers_have_no_differences() -> None:
    asked = list(calls(24, seed=4))
    assert differences(asked, answered(asked)) == []


def test_a_wrong_bit_is_noticed() -> None:
    asked = [
        ("decode", [0, np.arange(8, dtype=np.float32).view(np.uint8), np.zeros(8, np.float32)])
    ]
    content = bytearray(answered(asked))
    content[-3] ^= 1
    (found,) = differences(asked, bytes(content))
    assert "decode" in found
    assert "array 1 differs" in found


def test_a_wrong_result_is_noticed() -> None:
    asked = [("digest", [np.arange(8, dtype=np.float32)])]
    content = bytearray(answered(asked))
    content[1] ^= 1
    (found,) = differences(asked, bytes(content))
    assert "returned" in found


def test_a_missing_tool_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="sudo apt install a-package"):
        Driver(Build("no-such-compiler", (), packages="a-package"), tmp_path / "driver")


def test_a_missing_tool_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(BUILDS, "aarch64", Build("no-such-compiler", ()))
    monkeypatch.setattr(sys, "argv", ["prove.py", "aarch64"])
    assert main() == 2
    assert capsys.readouterr().err.startswith("error: no-such-compiler is not installed")


@has_compiler
def test_the_driver_answers_as_numpy_does(tmp_path: Path) -> None:
    # Without optimisation it takes seconds to compile and not a minute.
    driver = Driver(Build("g++", ("-O0",)), tmp_path / "driver")
    asked = list(calls(96, seed=5))
    best = driver.instruction_sets()[-1]
    assert differences(asked, driver.answers(asked, best)) == []
    assert "500 inputs" in driver.fuzz(500, 1, best)
    with pytest.raises(subprocess.CalledProcessError):
        driver.answers(asked, "no-such-set")


def test_damaged_payloads_are_refused_or_decoded() -> None:
    draw = np.random.default_rng(7)
    ends = {
        receive(coder, damaged(draw, payload)) for coder, payload in honest(draw) for _ in range(4)
    }
    assert ends == {"refused", "too large", "decoded"}


@pytest.mark.parametrize("name", ["prove.py", "prove_bindings.py", "fuzz_codecs.py"])
def test_the_makefile_names_scripts_that_exist(name: str) -> None:
    assert (ROOT / "tests/native" / name).exists()
