"""Memory that is freed and needed again costs no page faults, where the C library can do that."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ROUNDS, BLOCKS, BYTES = 10, 8, 2_000_000
PROGRAM = f"""
import resource
import numpy as np
from psedge.memory import keep_freed_memory

def use():
    blocks = [np.ones({BYTES}, np.uint8) for _ in range({BLOCKS})]

keep_freed_memory()
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has such settings")
def test_memory_is_used_again_without_asking_for_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < ROUNDS * BLOCKS * BYTES / 4096 / 20
