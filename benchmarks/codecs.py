"""What codecs cost on this machine, in units of copying as many float32 numbers.

Each operation runs in turns with `np.copyto` of a vector of the same length, on one thread; figures
are medians of processor time, so that other processes disturb them little. What the same work costs
in PyTorch operations, and in those of hivemind's Uniform8BitQuantization, is measured in the same
turns.

    python benchmarks/codecs.py                        # 3,500,000 and 464,154 elements, some 30 s
    python benchmarks/codecs.py --elements 11700000 --json codecs.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psedge.compression.codec import Codec, EncoderState
from psedge.compression.ecsq import Ecsq
from psedge.compression.identity import Identity
from psedge.compression.native import NATIVE, kernels
from psedge.compression.q4 import Q4
from psedge.compression.q8 import Q8
from psedge.compression.step import Step
from psedge.compression.table import PULL_CODECS, codec_named
from psedge.compression.top_k import TopK
from psedge.protocol.layout import Slice, TensorSlice

Operation = Callable[[], Any]
Row = dict[str, Any]

#: Elements that each turn goes through at least, so that clocks and calls do not count.
TURN_ELEMENTS = 14_000_000
HIVEMIND_BINS = 256
HIVEMIND_SIGMAS = 6
#: (peer's row, our row) whose times are compared.
PEERS = (
    (("torch", "encode q8 stochastic"), ("q8", "encode stochastic")),
    (("torch", "encode q4 stochastic"), ("q4", "encode stochastic")),
    (("hivemind Uniform8Bit", "encode"), ("q8", "encode")),
    (("hivemind Uniform8Bit", "decode"), ("q8", "decode")),
    (("torch", "topk of 1 %"), ("top-k", "encode")),
)


class Bench:
    """Vectors of one length, and the operations on them."""

    def __init__(self, elements: int) -> None:
        draw = np.random.default_rng(0)
        self.elements = elements
        self.piece = Slice(0, elements, (TensorSlice(0, elements, 256),))
        # Heavy-tailed, as gradients are.
        values = draw.standard_normal(elements) * np.exp(draw.standard_normal(elements)) * 1e-3
        self.gradients = [np.roll(values, shift).astype(np.float32) for shift in (0, 1000)]
        self.residual = np.zeros(elements, np.float32)
        self.published = np.zeros(elements, np.float32)
        self.parameters = np.zeros(elements, np.float32)
        self.velocity = np.zeros(elements, np.float32)
        self.out = np.zeros(elements, np.float32)
        self.turn = 0

    def gradient(self) -> Any:
        self.turn += 1
        return self.gradients[self.turn % 2]

    def operations(self) -> Iterator[tuple[str, str, Operation]]:
        for name in PULL_CODECS:
            yield from self._of_codec(codec_named(name))
        yield "identity", "encode without residual", lambda: self._encode_plain(Identity())
        for codec in (Q8("stochastic"), Q4("stochastic"), Ecsq("stochastic")):
            yield codec.name, "encode stochastic", self._encoder(codec)
        for name in ("identity", "q8", "q4", "sign"):
            yield from self._applied(codec_named(name))
        yield "top-k", "encode", self._encoder(TopK(density=0.01), changing=True)
        yield "", "digest", lambda: kernels.digest(self.out)
        yield from self._peers()

    def _encoder(self, codec: Codec, changing: bool = False) -> Operation:
        """changing: another gradient each time; otherwise in the same memory, as in training."""
        state = EncoderState()
        gradient = self.gradient if changing else lambda: self.gradients[0]

        def encode() -> bytes | memoryview:
            state.seed = (state.seed + 1) % 2**32
            encoded = codec.encode(gradient(), self.residual, self.piece, state)
            state.payloads += 1
            return memoryview(encoded.parts[0])

        return encode

    def _encode_plain(self, codec: Codec) -> Any:
        return codec.encode(self.gradient(), None, self.piece, EncoderState())

    def _payload(self, codec: Codec) -> Any:
        parts = codec.encode(self.gradients[0], None, self.piece, EncoderState()).parts
        return np.frombuffer(b"".join(parts), np.uint8)

    def _of_codec(self, codec: Codec) -> Iterator[tuple[str, str, Operation]]:
        payload, piece, out = self._payload(codec), self.piece, self.out
        state = EncoderState()
        yield codec.name, "encode", self._encoder(codec)
        yield codec.name, "decode", lambda: codec.decode(payload, piece, out)
        yield (
            codec.name,
            "decode-accumulate",
            lambda: codec.decode_accumulate(payload, piece, 0.5, out),
        )
        yield codec.name, "check", lambda: codec.check(payload, piece, 1e30)
        yield (
            codec.name,
            "encode delta",
            lambda: codec.encode_delta(self.gradient(), self.published, piece, state),
        )

    def _applied(self, codec: Codec) -> Iterator[tuple[str, str, Operation]]:
        step = Step(
            "sgd",
            self.parameters,
            (self.velocity,),
            np.array([self.elements], np.int64),
            np.array([[0.1, 5e-4, 0.9, 1.0, 0.0]], np.float32),
        )
        payload = self._payload(codec)
        four = [self._payload(codec) for _ in range(4)]
        yield (
            codec.name,
            "decode + momentum + apply",
            lambda: codec.decode_apply([payload], [1.0], self.piece, step),
        )
        yield (
            codec.name,
            "4 payloads + apply",
            lambda: codec.decode_apply(four, [0.25] * 4, self.piece, step),
        )

    def _peers(self) -> Iterator[tuple[str, str, Operation]]:
        tensor, residual = torch.from_numpy(self.gradients[0]), torch.zeros(self.elements)
        k = max(1, self.elements // 100)
        for name, levels in (("q8", 127), ("q4", 7)):
            yield (
                "torch",
                f"encode {name} stochastic",
                lambda levels=levels: torch_stochastic(tensor, residual, levels),
            )
        yield "torch", "topk of 1 %", lambda: torch.topk(tensor.abs(), k)
        codes, table = hivemind_encode(tensor)
        yield "hivemind Uniform8Bit", "encode", lambda: hivemind_encode(tensor)
        yield "hivemind Uniform8Bit", "decode", lambda: hivemind_decode(codes, table)


def torch_stochastic(gradient: torch.Tensor, residual: torch.Tensor, levels: int) -> torch.Tensor:
    """Stochastic rounding with error feedback, a scale per 256 values, in plain operations."""
    whole = len(gradient) // 256 * 256
    values = (gradient + residual)[:whole].view(-1, 256)
    scale = values.abs().amax(1, keepdim=True).clamp_min(1e-30) / levels
    codes = torch.floor(values / scale + torch.rand_like(values)).clamp_(-levels, levels)
    packed = codes.to(torch.int8)
    if levels == 7:
        packed = (packed[:, :128] + 8) | ((packed[:, 128:] + 8) << 4)
    residual[:whole] = (values - codes * scale).view(-1)
    return packed


def hivemind_encode(tensor: torch.Tensor) -> tuple[Any, Any]:
    """The operations of hivemind's Uniform8BitQuantization.quantize (learning-at-home/hivemind)."""
    centred = tensor - tensor.mean()
    deviation = centred.norm() / math.sqrt(centred.numel() - 1)
    scale = HIVEMIND_SIGMAS * deviation / HIVEMIND_BINS
    codes = torch.quantize_per_tensor(centred, scale, HIVEMIND_BINS // 2, torch.quint8).int_repr()
    sums = torch.zeros(HIVEMIND_BINS).scatter_add_(0, codes.flatten().long(), tensor.flatten())
    counts = torch.clamp_min_(torch.bincount(codes.flatten(), minlength=HIVEMIND_BINS), 1)
    return np.asarray(codes, dtype=np.uint8), np.asarray(sums / counts)


def hivemind_decode(codes: Any, table: Any) -> torch.Tensor:
    return torch.as_tensor(table)[torch.as_tensor(codes, dtype=torch.int64)]


def measure(elements: int, rounds: int) -> list[Row]:
    bench = Bench(elements)
    operations = list(bench.operations())
    source, target = np.ones(elements, np.float32), np.empty(elements, np.float32)
    repeats = max(1, TURN_ELEMENTS // elements)
    ratios: list[list[float]] = [[] for _ in operations]
    nanoseconds: list[list[float]] = [[] for _ in operations]
    for index, (_, _, operation) in enumerate(operations):
        operation()
        for _ in range(rounds):
            copy = timed(lambda: np.copyto(target, source), repeats)
            own = timed(operation, repeats)
            ratios[index].append(own / copy)
            nanoseconds[index].append(own / elements * 1e9)
    return [
        {
            "codec": codec,
            "operation": name,
            "elements": elements,
            "memcpy_ratio": round(statistics.median(ratios[index]), 3),
            "nanoseconds_per_element": round(statistics.median(nanoseconds[index]), 4),
        }
        for index, (codec, name, _) in enumerate(operations)
    ]


def timed(operation: Operation, repeats: int) -> float:
    started = time.thread_time()
    for _ in range(repeats):
        operation()
    return (time.thread_time() - started) / repeats


def calls() -> list[Row]:
    """Seconds of one call on a single bucket, which is all overhead."""
    values, out = np.zeros((2, 256), np.float32)
    payload = np.zeros(130, np.uint8)
    operations: dict[str, Operation] = {
        "encode": lambda: kernels.encode(Q4.id, values, out, payload, False, 0, 0, 2.0),
        "decode": lambda: kernels.decode(Q4.id, payload, out),
        "decode-accumulate": lambda: kernels.decode_accumulate(Q4.id, payload, 1.0, out),
    }
    rows = []
    for name, operation in operations.items():
        seconds = statistics.median(timed(operation, 1000) for _ in range(31))
        rows.append({"operation": name, "microseconds_per_call": round(seconds * 1e6, 3)})
    return rows


def show(rows: list[Row], call_rows: list[Row]) -> None:
    sizes = sorted({row["elements"] for row in rows}, reverse=True)
    print(f"times np.copyto, ns per element; native kernels: {NATIVE}")
    print(f"{'':48}" + "".join(f"{size:>20,}" for size in sizes))
    by_key = {(row["codec"], row["operation"], row["elements"]): row for row in rows}
    for codec, name in dict.fromkeys((row["codec"], row["operation"]) for row in rows):
        cells = [by_key[codec, name, size] for size in sizes]
        figures = "".join(
            f"{cell['memcpy_ratio']:>11.2f} {cell['nanoseconds_per_element']:>8.3f}"
            for cell in cells
        )
        print(f"{codec:>21}  {name:25}{figures}")
    print("times as long as psedge")
    for peer, ours in PEERS:
        factors = [
            by_key[(*peer, size)]["nanoseconds_per_element"]
            / by_key[(*ours, size)]["nanoseconds_per_element"]
            for size in sizes
        ]
        print(f"{peer[0]:>21}  {peer[1]:25}" + "".join(f"{factor:>20.1f}" for factor in factors))
    for row in call_rows:
        print(f"call of {row['operation']}: {row['microseconds_per_call']:.2f} microseconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # Newer versions of PyTorch mean to drop what hivemind is built on.
    warnings.filterwarnings("ignore", message="torch.quantize_per_tensor")
    rows: list[Row] = []
    for elements in options.elements or [3_500_000, 464_154]:
        rows += measure(elements, options.rounds)
    call_rows = calls()
    show(rows, call_rows)
    if options.json is not None:
        options.json.write_text(json.dumps(rows + call_rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
