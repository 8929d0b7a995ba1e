"""A run folder read back: its config, its result, and its model in a file that needs no psedge."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psedge.config import Experiment
from psedge.protocol.disk import Disk
from psedge.protocol.errors import ConfigError
from psedge.supervisor.checkpoint import CheckpointMeta, CheckpointStore
from psedge.supervisor.run_rows import RESULT_FILE
from psedge.toml_config import load_config

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder.

    result: what `result.json` says, empty while the run has not ended.
    checkpoint: of the newest sound checkpoint. model: its tensors as a safetensors file.
    notes: what was passed over on the way to it, in sentences.
    """

    folder: Path
    experiment: Experiment
    result: dict[str, Any]
    checkpoint: CheckpointMeta
    model: bytes
    notes: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The model's tensors under its own names and dtypes, for `load_state_dict`."""
        from safetensors.torch import load

        tensors: dict[str, torch.Tensor] = load(self.model)
        return tensors


def load_run(folder: str | Path) -> Run:
    """Read a run folder. Raises ConfigError if it is none, or holds no model yet."""
    folder = Path(folder)
    config = folder / "config.toml"
    if not config.is_file():
        raise ConfigError(
            f"{folder} is no run folder: it has no config.toml; name a folder that psedge run made"
        )
    notes: list[str] = []
    store = CheckpointStore(Disk(folder), keep=1, notify=notes.append)
    found = asyncio.run(store.latest_model())
    if found is None:
        why = "; ".join(notes) or "wait for the first, or train longer"
        raise ConfigError(f"{folder} has no usable checkpoint: {why}")
    return Run(folder, load_config(config), _result(folder), *found, tuple(notes))


def export(run: Run, output: str | Path) -> Path:
    """Write the run's model as `.safetensors`, or as `.pt` or `.pth` for `torch.load`.

    Plain torch or safetensors loads either; what is inside is a state_dict.
    Raises ConfigError for another suffix or a place that cannot be written.
    """
    output = Path(output)
    suffix = output.suffix.lower()
    if suffix == ".safetensors":
        content = run.model
    elif suffix in (".pt", ".pth"):
        content = _torch_file(run)
    else:
        raise ConfigError(f"{output}: the name must end in .safetensors, .pt or .pth")
    write_file(output, content)
    return output


def write_file(output: Path, content: bytes) -> None:
    """Replace a file as a whole. Raises ConfigError if its place cannot be written."""
    output = output.absolute()
    try:
        asyncio.run(Disk(output.parent).write_atomic(output.name, [content]))
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror or error}") from None


def _torch_file(run: Run) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(run.state_dict(), file)
    return file.getvalue()


def _result(folder: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return result
