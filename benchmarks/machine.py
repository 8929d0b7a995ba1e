"""One line about the machine that a benchmark runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def about_this_machine() -> str:
    """Processor, cores that this process may use, how busy they were, Python."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0]
    return (
        f"machine: {_processor()}, {cores} cores, load {load:.1f} before, "
        f"{platform.system()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
