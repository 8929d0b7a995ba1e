"""What this machine computes on, and what it is called."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch

from psedge.protocol.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(wish: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` takes the fastest there is.

    Raises ConfigError when the machine, or the installed torch, has no such device.
    """
    if wish == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = wish.partition(":")
    if kind not in DEVICES or (number and (kind != "cuda" or not number.isdecimal())):
        raise ConfigError(f"--device {wish}: expected one of {', '.join(DEVICES)}")
    if kind == "cuda":
        _require_cuda(wish, int(number or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: this machine or its torch has no Metal; use --device cpu")
    return torch.device(wish)


def _require_cuda(wish: str, number: int) -> None:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = (
            "no NVIDIA GPU or driver was found"
            if built
            else f"torch {torch.__version__} was built without CUDA"
        )
        raise ConfigError(f"--device {wish}: {reason}; use --device cpu or install another torch")
    if number >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {wish}: there are {torch.cuda.device_count()} GPUs, counted from 0"
        )


def use_threads(threads: int | None) -> None:
    """How many threads torch computes with in this process; None keeps torch's own choice."""
    if threads is not None:
        torch.set_num_threads(threads)


def describe(device: torch.device, root: Path = Path("/")) -> str:
    """A name for people, such as `Raspberry Pi 4 Model B` or `NVIDIA Orin`.

    root: where `proc` lies.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _board(root) or _processor(root) or platform.processor() or platform.machine()
    return f"{name} (mps)" if device.type == "mps" else name


def _board(root: Path) -> str:
    """The board's own name, which single-board computers have."""
    try:
        raw = (root / "proc/device-tree/model").read_bytes()
    except OSError:
        return ""
    return raw.decode(errors="replace").strip("\0 \n")


@functools.lru_cache(maxsize=1)
def _processor(root: Path) -> str:
    try:
        lines = (root / "proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in ("model name", "hardware") and value.strip():
            return " ".join(value.split())
    return ""
