"""What each codec costs on this machine and leaves on the wire, measured on a model's gradients.

Copies of as many float32 take turns with what is measured, so that the ratio of the two means the
same on a quiet and on a busy machine, and on a small and on a large one.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from psedge.compression.codec import EncoderState, Float32Array
from psedge.compression.coder import Coder, apply
from psedge.compression.lossless import available, best_entropy_coder, stage_named
from psedge.compression.step import Step
from psedge.compression.table import codec_named
from psedge.protocol.coding import CodingSettings
from psedge.protocol.layout import Slice
from psedge.protocol.wire import HEADER_BYTES

#: Operations in the order in which a number meets them; `apply` is SGD with momentum.
OPERATIONS = ("encode", "decode", "decode-accumulate", "apply")

#: A timing of less is repeated until it takes so long: the clock itself costs some 50 ns.
_SHORTEST_SECONDS = 30e-6
_FEWEST_ROUNDS = 5
_MOST_ROUNDS = 60


class Row(msgspec.Struct, frozen=True):
    """One operation of one codec with one lossless stage.

    codec, lossless: as a config calls them. elements: parameters of the model, biases and norms
    included, which travel as float32. memcpy_ratio: to the time of copying as many float32.
    bits_per_parameter: on the wire, the frame's header included. relative_error: L2 norm of what
    one encoding drops, over that of the gradient.
    pays_below_megabits_per_second: on slower links an encode, a transfer and a decode-accumulate
    take less time than with float32; 0 is never, infinity (null in JSON) always.
    """

    codec: str
    lossless: str
    operation: str
    elements: int
    memcpy_ratio: float
    nanoseconds_per_element: float
    bits_per_parameter: float
    relative_error: float
    pays_below_megabits_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Bench:
    """What everything is measured on: gradients of several steps, in the order of the steps.

    seconds: how long one codec with one stage may take, about. More is steadier.
    """

    piece: Slice
    parameters: Float32Array
    gradients: Sequence[Float32Array]
    settings: CodingSettings
    seconds: float = 0.4


def measure(
    bench: Bench, codecs: Sequence[str], notify: Callable[[str], None] = lambda text: None
) -> list[Row]:
    """Rows of all codecs, `identity` first whether it is asked for or not.

    codecs: names as in a config.
    """
    rows: list[Row] = []
    baseline: tuple[float, float] | None = None
    for name in dict.fromkeys(("identity", *codecs)):
        for stage in _stages():
            notify(f"measuring {name}" + ("" if stage == "none" else f" + {stage}"))
            found = _measured(bench, name, stage)
            baseline = baseline or _bits_and_time(found)
            pays = pays_below(*baseline, *_bits_and_time(found))
            rows += [
                msgspec.structs.replace(row, pays_below_megabits_per_second=pays) for row in found
            ]
    return rows


def pays_below(
    plain_bits: float, plain_nanoseconds: float, bits: float, nanoseconds: float
) -> float:
    """Megabits per second of the link on which both ways take the same time.

    All per parameter. 0 if nothing is saved, infinity if it is not even slower to compute.
    """
    saved, longer = plain_bits - bits, nanoseconds - plain_nanoseconds
    if saved <= 0:
        return 0.0
    return math.inf if longer <= 0 else 1000 * saved / longer


def _stages() -> tuple[str, ...]:
    """No stage, lz4, and the better entropy coder that is installed."""
    names = ("none", "lz4", best_entropy_coder(available()))
    return tuple(name for name in names if name in available())


def _bits_and_time(rows: Sequence[Row]) -> tuple[float, float]:
    times = {row.operation: row.nanoseconds_per_element for row in rows}
    return rows[0].bits_per_parameter, times["encode"] + times["decode-accumulate"]


@dataclass(slots=True)
class _Sender:
    """An encoder with error feedback that takes the gradients in turn, as training would."""

    coder: Coder
    gradients: Sequence[Float32Array]
    residual: Float32Array | None
    state: EncoderState = field(default_factory=EncoderState)

    def send(self) -> list[memoryview]:
        state = self.state
        gradient = self.gradients[state.payloads % len(self.gradients)]
        encoded = self.coder.encode(gradient, self.residual, state)
        state.payloads += 1
        state.seed = state.payloads
        return [memoryview(part).cast("B") for part in encoded.parts]

    def joined(self) -> memoryview:
        """The payload after all gradients have been sent once."""
        for _ in self.gradients[1:]:
            self.send()
        return memoryview(b"".join(self.send()))


def _measured(bench: Bench, name: str, stage: str) -> list[Row]:
    coder = Coder(codec_named(name, bench.settings), stage_named(stage), bench.piece)
    elements = bench.piece.elements
    # What is never dropped needs no residual, and a worker that sends float32 keeps none.
    residual = None if name == "identity" else np.zeros(elements, np.float32)
    sender = _Sender(coder, bench.gradients, residual)
    payload = sender.joined()
    times = _times(bench, sender, payload)
    error = _error(coder, bench.gradients)
    return [
        Row(
            codec=name,
            lossless=stage,
            operation=operation,
            elements=elements,
            memcpy_ratio=times[operation] / times["memcpy"],
            nanoseconds_per_element=1e9 * times[operation] / elements,
            bits_per_parameter=8 * (HEADER_BYTES + len(payload)) / elements,
            relative_error=error,
        )
        for operation in OPERATIONS
    ]


def _error(coder: Coder, gradients: Sequence[Float32Array]) -> float:
    """Of the last gradient, encoded without a residual, by an encoder that has seen the others."""
    payload = _Sender(coder, gradients, None).joined()
    decoded = np.empty_like(gradients[-1])
    coder.open(payload).decode(decoded)
    norm = float(np.linalg.norm(gradients[-1].astype(np.float64)))
    dropped = float(np.linalg.norm(decoded.astype(np.float64) - gradients[-1]))
    return dropped / norm if norm else 0.0


def _times(bench: Bench, sender: _Sender, payload: memoryview) -> dict[str, float]:
    """Median seconds of each operation, and of a copy under `memcpy`."""
    elements = bench.piece.elements
    out, copy = np.empty(elements, np.float32), np.empty(elements, np.float32)
    step = _step(bench.parameters)
    coder = sender.coder

    def decode() -> None:
        coder.open(payload).decode(out)

    def decode_accumulate() -> None:
        opened = coder.open(payload)
        opened.check(math.inf)
        opened.decode_accumulate(1.0, copy)

    def decode_apply() -> None:
        opened = coder.open(payload)
        opened.check(math.inf)
        apply([opened], [1.0], step)

    actions: dict[str, Callable[[], object]] = {
        "memcpy": lambda: np.copyto(copy, out),
        "encode": sender.send,
        "decode": decode,
        "decode-accumulate": decode_accumulate,
        "apply": decode_apply,
    }
    return _medians(actions, bench.seconds)


def _medians(actions: dict[str, Callable[[], object]], budget_seconds: float) -> dict[str, float]:
    for action in actions.values():
        action()
    repeats = {
        name: max(1, math.ceil(_SHORTEST_SECONDS / max(_seconds(action, 1), 1e-9)))
        for name, action in actions.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in actions}
    started = time.perf_counter()
    for rounds in range(_MOST_ROUNDS):
        if rounds >= _FEWEST_ROUNDS and time.perf_counter() - started > budget_seconds:
            break
        for name, action in actions.items():
            taken[name].append(_seconds(action, repeats[name]))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _seconds(action: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        action()
    return (time.perf_counter() - started) / repeats


def _step(parameters: Float32Array) -> Step:
    """SGD with momentum at a rate so small that no number of repetitions goes anywhere."""
    settings = np.array([[1e-9, 5e-4, 0.9, 1.0, 0.0]], np.float32)
    return Step(
        "sgd",
        parameters.copy(),
        (np.zeros_like(parameters),),
        np.array([len(parameters)], np.int64),
        settings,
    )
