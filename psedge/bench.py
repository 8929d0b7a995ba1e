"""`psedge bench codecs`: what the codecs do to a user's own model, on the machine at hand."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console

from psedge.bench_gradients import Gradients, train
from psedge.bench_measure import Bench, Row, measure
from psedge.bench_plot import picture
from psedge.bench_table import Facts, report
from psedge.compression.coding_plan import resolve_coding
from psedge.compression.native import NATIVE, kernels
from psedge.compression.table import CODECS
from psedge.config import Experiment
from psedge.export import write_file
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import ConfigError
from psedge.protocol.layout import slice_of
from psedge.toml_config import load_config
from psedge.worker.device import describe

#: Without a config: ResNet-32 on pictures that are drawn from a seed, so that it runs anywhere.
DEFAULT_EXPERIMENT: dict[str, Any] = {
    "name": "resnet32",
    "model": {"factory": "resnet32", "arguments": {"num_classes": 6, "in_channels": 1}},
    "data": {"dataset": "parts", "arguments": {"samples": 768, "size": 32}},
    "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
}


@dataclass(frozen=True, slots=True)
class BenchOrder:
    """What the command line asks for.

    codecs: names; empty measures all. out: where the picture goes; None puts it into the current
    folder, or nowhere with `as_json`.
    """

    config: Path | None
    overrides: tuple[str, ...]
    data: Path
    device: str
    steps: int
    synthetic: bool
    codecs: tuple[str, ...]
    as_json: bool
    out: Path | None


def bench_codecs(order: BenchOrder) -> int:
    """Train a little, measure, and print a table and draw a picture, or print JSON.

    Raises UserError for a codec or config there is not, and for data that are not here.
    """
    names = _names(order.codecs)
    _check_out(order.out)
    experiment = load_config(order.config or DEFAULT_EXPERIMENT, order.overrides)
    with _progress() as notify:
        gradients = train(
            experiment,
            data=order.data,
            device=order.device,
            steps=order.steps,
            synthetic=order.synthetic,
            notify=notify,
        )
        rows = measure(_bench(experiment, gradients), names, notify)
    out = order.out
    if out is None and not order.as_json:
        out = Path(f"codecs-{experiment.name}.png")
    if out is not None:
        write_file(out, picture(rows, gradients.title, gradients.step_seconds))
    if order.as_json:
        text = msgspec.json.format(msgspec.json.encode(rows), indent=2)
        sys.stdout.write(text.decode() + "\n")
    else:
        _print(rows, gradients, out)
    return 0


def _names(chosen: Sequence[str]) -> list[str]:
    known = [codec.name for codec in CODECS]
    for name in chosen:
        if name not in known:
            raise ConfigError(f"--codec {name}: there is no such codec; known: {', '.join(known)}")
    return list(chosen) or known


def _check_out(out: Path | None) -> None:
    """Before minutes are spent on what could then not be written."""
    if out is None:
        return
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: the picture is a PNG, so its name must end in .png")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")


def _bench(experiment: Experiment, gradients: Gradients) -> Bench:
    elements = len(gradients.parameters)
    return Bench(
        slice_of(gradients.layout, 0, elements),
        gradients.parameters,
        gradients.vectors,
        _settings(experiment, elements),
    )


def _settings(experiment: Experiment, parameters: int) -> CodingSettings:
    """Rounding, density and rank as the experiment has them; warm-up belongs to long runs."""
    settings, _ = resolve_coding(
        experiment.compression,
        mode=experiment.sync.mode,
        momentum=0.0,
        parameters=parameters,
        workers=experiment.cluster.workers,
        servers=experiment.cluster.servers,
        seed=experiment.seed,
    )
    return msgspec.structs.replace(settings, warmup_pushes=0)


def _print(rows: list[Row], gradients: Gradients, out: Path | None) -> None:
    facts = Facts(
        title=gradients.title,
        steps=gradients.steps,
        step_seconds=gradients.step_seconds,
        machine=describe(torch.device("cpu")),
        kernels=kernels.instruction_sets()[-1] if NATIVE else "",
    )
    console = Console()
    console.print(report(rows, facts, console.width))
    if out is not None:
        console.print(f"\n wrote {out}", highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line that says what is going on, where somebody watches; gone at the end."""
    watched = sys.stderr.isatty()

    def notify(text: str) -> None:
        if watched:
            sys.stderr.write(f"\r\x1b[K {text}")
            sys.stderr.flush()

    try:
        yield notify
    finally:
        if watched:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
