"""The figures of `psedge bench codecs` as a table for people."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from psedge.bench_measure import OPERATIONS, Row
from psedge.terminal import figures

#: A lossless stage that saves less is not worth a line.
WORTH_SAVING = 0.05

#: Columns of a terminal that has room for all of the table's.
_WIDE = 92
#: Beyond this speed a link in megabits per second is only said to be beyond it.
_FASTEST = 100_000.0

_HEADINGS = ("encode", "decode", "add", "apply")


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured and where. kernels: their instruction set; empty without native ones."""

    title: str
    steps: int
    step_seconds: float
    machine: str
    kernels: str


def report(rows: Sequence[Row], facts: Facts, width: int) -> RenderableType:
    """Heading, table and explanation; fits into 100 columns, and leaves some out in less."""
    first = rows[0]
    memcpy = first.nanoseconds_per_element / first.memcpy_ratio
    heading = Text.assemble(
        (facts.title, "bold"),
        f"  {figures.count(first.elements)} parameters, "
        f"{short_time(facts.step_seconds)} a training step",
    )
    kernels = f"{facts.kernels} kernels" if facts.kernels else "NumPy, for want of native kernels"
    machine = Text(f"{facts.machine}, one thread, {kernels}", style="dim")
    wide = width >= _WIDE
    legend = _legend(memcpy, facts, wide)
    content = Group(heading, machine, Text(), _table(rows, wide), Text(), legend)
    return Padding(content, (0, 1), expand=False)


def shown(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each codec and stage that belong into a table: stages only where they save."""
    groups = [
        list(group) for _, group in itertools.groupby(rows, lambda row: (row.codec, row.lossless))
    ]
    plain = {group[0].codec: group[0] for group in groups if group[0].lossless == "none"}
    return [group for group in groups if _worth(group[0], plain[group[0].codec])]


def _worth(row: Row, plain: Row) -> bool:
    saved = 1 - row.bits_per_parameter / plain.bits_per_parameter
    return row is plain or saved >= WORTH_SAVING


def _table(rows: Sequence[Row], wide: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("codec", no_wrap=True, min_width=9)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    if wide:
        table.add_column("ns both", justify="right", no_wrap=True)
    table.add_column("bits", justify="right", no_wrap=True)
    if wide:
        table.add_column("smaller", justify="right", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    table.add_column("pays below", justify="right", no_wrap=True)
    groups = shown(rows)
    plain_bits = groups[0][0].bits_per_parameter
    for group in groups:
        table.add_row(*_cells(group, plain_bits, wide))
    return table


def _cells(group: Sequence[Row], plain_bits: float, wide: bool) -> list[Text | str]:
    by_operation = {row.operation: row for row in group}
    first = group[0]
    stage = first.lossless != "none"
    name = Text(f"  + {first.lossless}", style="dim") if stage else Text(first.codec, style="bold")
    both = (
        by_operation["encode"].nanoseconds_per_element
        + by_operation["decode-accumulate"].nanoseconds_per_element
    )
    cells: list[Text | str] = [name]
    cells += [_ratio(by_operation[operation].memcpy_ratio) for operation in OPERATIONS]
    if wide:
        cells.append(f"{both:.2f}" if both < 100 else f"{both:.0f}")
    cells.append(f"{first.bits_per_parameter:.2f}")
    if wide:
        cells.append(_ratio(plain_bits / first.bits_per_parameter))
    cells.append(_error(first.relative_error))
    cells.append(link_speed(first.pays_below_megabits_per_second))
    return cells


def _legend(memcpy_nanoseconds: float, facts: Facts, wide: bool) -> Text:
    both = "; ns both: of encode and add" if wide else ""
    return Text(
        "Times are multiples of copying as many float32, "
        f"{memcpy_nanoseconds:.2f} ns a parameter: encode with error feedback, decode, decode and "
        f"add, decode and apply by SGD with momentum{both}. bits: a parameter on the wire, with "
        "header, biases and norms. error: what one push drops, of the gradient's norm; the next "
        "ones bring it. pays below: on slower links faster than float32, if the other end computes "
        f"as fast as this one. On the gradients of training step {facts.steps} and those before "
        "it.",
        style="dim",
    )


def _ratio(value: float) -> str:
    if value < 9.95:
        return f"{value:.2f}×" if value < 0.995 else f"{value:.1f}×"
    return f"{figures.count(value)}×"


def _error(value: float) -> str:
    if value == 0:
        return "0"
    return f"{100 * value:.2g} %" if value < 0.0995 else f"{100 * value:.0f} %"


def link_speed(megabits_per_second: float) -> str:
    """`850 Mb/s`, `6.1 Gb/s`; `always` for infinity, a dash for never."""
    if megabits_per_second == math.inf:
        return "always"
    if megabits_per_second <= 0:
        return "–"
    if megabits_per_second > _FASTEST:
        return f"> {link_speed(_FASTEST)}"
    for factor, unit in ((1e3, "Gb/s"), (1.0, "Mb/s")):
        if megabits_per_second >= 0.9995 * factor:
            return f"{_three_digits(megabits_per_second / factor)} {unit}"
    return f"{_three_digits(megabits_per_second * 1000)} kb/s"


def short_time(seconds: float) -> str:
    """`1.9 s`, `210 ms`, `85 µs`."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= 0.9995 * factor:
            value = seconds / factor
            return f"{value:.2g} {unit}" if value < 99.5 else f"{value:.0f} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _three_digits(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
