"""Accuracy of codecs under staleness: ResNet-20 on CIFAR-10 by 8 asynchronous workers.

Event-driven in one process: the workers take turns in the order of a virtual clock, on which each
step takes an exponentially distributed time, so that a gradient is some 7 updates old when it is
applied, and at times 30. Shard, codecs, error feedback, chains of deltas and the merging of buffers
are psedge's own; only the network is left out.

    python benchmarks/cifar10_codecs.py --data FOLDER --push q4 --pull q4 --out q4-0.json

FOLDER holds cifar10.npz or the binary version of CIFAR-10.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import time
from pathlib import Path

import numpy as np
import torch

from psedge.compression.codec import EncoderState, Float32Array
from psedge.compression.coder import Coder
from psedge.compression.identity import Identity
from psedge.compression.lossless import stage_named
from psedge.compression.table import codec_named
from psedge.protocol.coding import CodingSettings
from psedge.protocol.layout import slice_of
from psedge.protocol.shards import (
    Assignment,
    GroupSettings,
    Member,
    Members,
    OptimizerSettings,
    ScheduleSettings,
    Segment,
    SyncSettings,
)
from psedge.protocol.wire import Status
from psedge.server.push import Push
from psedge.server.shard import Shard
from psedge.worker.binding import Binding, layout_of
from psedge.worker.datasets import cifar10
from psedge.worker.datasets.order import permuted
from psedge.worker.evaluation import evaluate
from psedge.worker.models.table import MODELS
from psedge.worker.objectives import accuracy, cross_entropy

CPU = torch.device("cpu")


@dataclasses.dataclass(eq=False)
class Worker:
    """The model as one worker has it, what its pushes still owe, and the server's record of it."""

    parameters: Float32Array
    buffers: Float32Array
    counters: bytes
    residual: Float32Array
    record: Float32Array
    version: int = 0
    sequence: int = 0
    pushing: EncoderState = dataclasses.field(default_factory=EncoderState)
    pulling: EncoderState = dataclasses.field(default_factory=EncoderState)


class Cluster:
    """One shard and its workers, without a network between them."""

    def __init__(self, options: argparse.Namespace, total_samples: int, warmup: int) -> None:
        torch.manual_seed(options.seed)
        self.model = MODELS[options.model]().to(memory_format=torch.channels_last)
        layout = layout_of(self.model)
        self.binding = Binding(self.model, layout, CPU)
        self.binding.read_model()
        vectors = self.binding.vectors
        elements = len(self.binding.parameters)
        self.piece = slice_of(layout, 0, elements)
        settings = CodingSettings(push=options.push, pull=options.pull, density=options.density)
        lossless = stage_named("none")
        self.push = Coder(codec_named(options.push, settings), lossless, self.piece)
        self.pull = Coder(codec_named(options.pull, settings), lossless, self.piece)
        group = GroupSettings(
            lr=options.lr, weight_decay=5e-4, momentum=options.momentum, nesterov=True
        )
        assignment = Assignment(
            shard=0,
            start=0,
            stop=elements,
            buffers_start=0,
            buffers_stop=len(self.binding.buffers),
            counters_bytes=len(self.binding.counters),
            segments=(Segment(0, elements, 0),),
            optimizer=OptimizerSettings(
                "sgd", (group,), momentum_adaptation=options.momentum_adaptation
            ),
            schedule=ScheduleSettings("cosine", total=total_samples, warmup=warmup),
            sync=SyncSettings("asp"),
            tensors=self.piece.tensors,
            coding=settings,
        )
        self.shard = Shard(
            assignment, vectors["parameters"], vectors["buffers"], vectors["counters"].tobytes()
        )
        members = tuple(Member(worker, 1) for worker in range(options.workers))
        self.shard.set_members(Members(1, members))
        self.workers = [
            Worker(
                parameters=self.shard.parameters.copy(),
                buffers=self.shard.buffers.copy(),
                counters=self.shard.counters,
                residual=np.zeros(elements, np.float32),
                record=self.shard.parameters.copy(),
            )
            for _ in members
        ]
        self.lags: list[int] = []
        self.refused = 0
        self.bytes_pushed = 0
        self.bytes_pulled = 0

    def load(self, worker: Worker) -> None:
        """Put a worker's parameters and buffers into the model."""
        binding = self.binding
        np.copyto(binding.parameters, worker.parameters)
        np.copyto(binding.buffers, worker.buffers)
        binding.counters[:] = np.frombuffer(worker.counters, np.uint8)
        binding.write_parameters()
        binding.write_buffers()

    def exchange(self, number: int, samples: int) -> None:
        """Push the model's gradients as worker `number`, and receive parameters."""
        worker = self.workers[number]
        self.binding.read_gradients()
        self.binding.read_buffers()
        worker.sequence += 1
        worker.pushing.seed = (number << 16) + worker.sequence
        encoded = self.push.encode(self.binding.gradients, worker.residual, worker.pushing)
        worker.pushing.payloads += 1
        payload = b"".join(encoded.parts)
        outcome = self.shard.push(
            Push(
                worker=number,
                incarnation=1,
                sequence=worker.sequence,
                version=worker.version,
                samples=samples,
                opened=self.push.open(memoryview(payload)) if encoded.finite else None,
                buffers=self.binding.buffers.copy(),
                counters=self.binding.counters.tobytes(),
            )
        )
        self.lags.append(outcome.lag)
        self.refused += outcome.status is not Status.APPLIED
        self.bytes_pushed += len(payload)
        self.receive(worker)

    def receive(self, worker: Worker) -> None:
        """Bring a worker's parameters up to the shard's."""
        if isinstance(self.pull.codec, Identity):
            np.copyto(worker.parameters, self.shard.published())
            self.bytes_pulled += worker.parameters.nbytes
        else:
            encoded = self.pull.encode_delta(self.shard.published(), worker.record, worker.pulling)
            payload = b"".join(encoded.parts)
            self.bytes_pulled += len(payload)
            self.pull.open(memoryview(payload)).decode_delta(worker.parameters)
        np.copyto(worker.buffers, self.shard.buffers)
        worker.counters = self.shard.counters
        worker.version = self.shard.version


def train(options: argparse.Namespace) -> dict[str, object]:
    train_set = cifar10.load(options.data, "train", augment=("crop", "flip"))
    test_set = cifar10.load(options.data, "test")
    per_epoch = len(train_set)
    cluster = Cluster(options, options.epochs * per_epoch, per_epoch // 2)
    random = np.random.default_rng(options.seed)
    events = [(random.exponential(), number) for number in range(options.workers)]
    heapq.heapify(events)
    generator = torch.Generator().manual_seed(options.seed)
    history: list[dict[str, float]] = []
    started = time.monotonic()
    for epoch in range(options.epochs):
        order = permuted(np.arange(per_epoch), per_epoch, options.seed, epoch)
        cluster.model.train()
        losses = []
        for at in range(0, per_epoch, options.batch_size):
            now, number = heapq.heappop(events)
            inputs, targets = train_set.batch(order[at : at + options.batch_size], generator)
            cluster.load(cluster.workers[number])
            cluster.binding.zero_gradients()
            with torch.autocast("cpu", torch.bfloat16):
                outputs = cluster.model(inputs.to(memory_format=torch.channels_last))
                loss = torch.nn.functional.cross_entropy(outputs, targets)
            loss.backward()
            losses.append(loss.item())
            cluster.exchange(number, len(targets))
            heapq.heappush(events, (now + random.exponential(), number))
        history.append(measure(cluster, test_set, epoch + 1, float(np.mean(losses)), started))
        print(options.push, options.pull, options.seed, history[-1], flush=True)
        options.out.write_text(json.dumps(summary(options, cluster, history), indent=1) + "\n")
    return summary(options, cluster, history)


def measure(
    cluster: Cluster, test_set: cifar10.ArraySource, epoch: int, loss: float, started: float
) -> dict[str, float]:
    """The shard's own model on the test pictures; the workers' are a few updates behind."""
    shard = cluster.shard
    zeros = np.zeros(0, np.float32)
    cluster.load(Worker(shard.parameters, shard.buffers, shard.counters, zeros, zeros))
    measured = evaluate(cluster.model, test_set, cross_entropy, {"accuracy": accuracy}, CPU)
    assert measured.accuracy is not None
    return {
        "epoch": epoch,
        "seconds": round(time.monotonic() - started, 1),
        "train_loss": round(loss, 4),
        "accuracy": measured.accuracy,
    }


def summary(
    options: argparse.Namespace, cluster: Cluster, history: list[dict[str, float]]
) -> dict[str, object]:
    pushes = len(cluster.lags)
    return {
        "push": options.push,
        "pull": options.pull,
        "seed": options.seed,
        "momentum_adaptation": options.momentum_adaptation,
        "lr": options.lr,
        "momentum": options.momentum,
        "workers": options.workers,
        "batch_size": options.batch_size,
        "lag_mean": float(np.mean(cluster.lags)),
        "lag_p99": float(np.percentile(cluster.lags, 99)),
        "refused": cluster.refused,
        "bytes_per_push": cluster.bytes_pushed / pushes,
        "bytes_per_pull": cluster.bytes_pulled / pushes,
        "accuracy": history[-1]["accuracy"],
        "history": history,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--push", default="identity")
    parser.add_argument("--pull", default="identity")
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument(
        "--momentum-adaptation", action=argparse.BooleanOptionalAction, default=True
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(train(options)["accuracy"]))


if __name__ == "__main__":
    main()
