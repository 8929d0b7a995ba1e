"""Checkers of what workers do: silent over lost messages and refusals, loud on planted bugs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checker_rig import Checked, WorkerRig
from tiny_cluster import run
from worker_bench import gradient

from psedge.compression.coder import Coder
from psedge.compression.table import PUSH_CODECS
from psedge.protocol.coding import CodingSettings
from psedge.protocol.messages import EXCHANGE, ClaimReply
from psedge.protocol.shards import ShardState, SyncSettings
from psedge.protocol.wire import Status
from psedge.server.push import Outcome
from psedge.worker import client, push
from psedge.worker.client import Rejoin, ShardClient
from psedge.worker.session import Session

LAGGING = SyncSettings("asp", lag_bound=0, lag_action="refuse")


def coding(name: str) -> CodingSettings:
    corrected = 0.9 if name == "corrected" else 0.0
    push = "top-k" if corrected else name
    return CodingSettings(push=push, pull="q8", density=0.1, momentum_correction=corrected)


async def steps(rig: WorkerRig, session: Session, seeds: range, scale: float = 1.0) -> None:
    """Exchanges of random gradients, joined again wherever the servers ask for it."""
    for seed in seeds:
        try:
            await session.send(session.encode(8, scale * gradient(rig.bench, seed)))
            session.take()
        except Rejoin:
            await session.rejoin()


@pytest.mark.parametrize("chain", ["worker", "shared"])
@pytest.mark.parametrize("name", [*PUSH_CODECS, "corrected"])
def test_nothing_is_found_where_nothing_is_wrong(name: str, chain: Any) -> None:
    settings = CodingSettings(**{**_fields(coding(name)), "chain": chain})
    rig = WorkerRig(servers=2, sync=LAGGING, coding=settings)

    async def work() -> None:
        one, other = await rig.session("a", 100), await rig.session("b", 200)
        network = rig.bench.cluster.network
        for turn in range(6):
            await steps(rig, one, range(turn, turn + 3), 10.0**turn)
            network.lose_request[EXCHANGE] = turn % 3
            network.lose_reply[EXCHANGE] = turn
            # Its parameters are older than the other's pushes, so this one is refused.
            await steps(rig, other, range(turn, turn + 3))
            await steps(rig, other, range(50, 51), float("nan"))
            if turn % 2:
                await rig.bench.cluster.expel(other.joined.worker)
        for session in (one, other):
            await session.leave()

    run(work())
    assert rig.found() == []


def _fields(settings: CodingSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__struct_fields__}


def test_a_codec_that_loses_mass_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Coder.encode

    def leaky(self: Coder, values: Any, residual: Any, state: Any) -> Any:
        encoded = encode(self, values, residual, state)
        if residual is not None:
            residual *= np.float32(0.999)
        return encoded

    monkeypatch.setattr(Coder, "encode", leaky)
    assert "was encoded" in _found_over_steps(WorkerRig(coding=coding("q4")), 5)


def test_a_residual_that_is_dropped_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = ShardClient.__init__

    def forgetful(self: ShardClient, *things: Any, owed: Any = None, **further: Any) -> None:
        original(self, *things, **further)

    monkeypatch.setattr(ShardClient, "__init__", forgetful)
    assert "was encoded" in _found_over_steps(WorkerRig(coding=coding("q4")), 5)


def test_a_refusal_that_is_not_taken_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "take_back", lambda *_: None)
    rig = WorkerRig(coding=coding("q4"), sync=LAGGING)
    assert "was refused as too old" in _found_over_steps(rig, 5)


def test_a_push_that_is_given_up_and_not_undone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "undo", lambda *_: None)
    assert "was given up" in _found_over_steps(WorkerRig(coding=coding("q4")), 5)


def test_other_values_than_were_encoded_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = ShardClient._frame

    def scrambled(self: ShardClient, pieces: Any, *further: Any) -> None:
        frame(self, pieces, *further)
        for piece in pieces:
            payload = bytearray(b"".join(bytes(part) for part in piece.payload))
            payload[-1] ^= 1
            piece.payload = (bytes(payload),)

    monkeypatch.setattr(ShardClient, "_frame", scrambled)
    checked = WorkerRig(coding=coding("q4"))
    encoded = push.Piece.opened
    kept: dict[int, Any] = {}

    def first(self: push.Piece) -> Any:
        return kept.setdefault(id(self), encoded(self))

    monkeypatch.setattr(push.Piece, "opened", first)
    pieces = push.encode_pieces

    def opened_at_once(*things: Any) -> Any:
        made, finite = pieces(*things)
        for piece in made:
            piece.opened()
        return made, finite

    monkeypatch.setattr(client, "encode_pieces", opened_at_once)
    assert "decodes on shard 0 to other values" in _found_over_steps(checked, 5)


def _found_over_steps(rig: WorkerRig, invariant: int) -> str:
    """What is found while two workers push, join again and are refused."""

    async def work() -> None:
        one, other = await rig.session("a", 100), await rig.session("b", 200)
        await steps(rig, one, range(2))
        await steps(rig, other, range(2))
        await rig.bench.cluster.expel(one.joined.worker)
        await steps(rig, one, range(2, 5))
        for session in (one, other):
            await session.leave()

    run(work())
    found = rig.found(invariant)
    return found[0] if found else ""


@pytest.mark.parametrize("chain", ["worker", "shared"])
def test_a_reply_that_is_taken_twice_is_found(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from psedge.worker.shard_link import ShardLink

    take = ShardLink.take_parameters

    def twice(self: ShardLink, out: Any) -> None:
        take(self, out)
        take(self, out)

    settings = CodingSettings(push="q8", pull="q8", chain=chain)
    rig = WorkerRig(coding=settings)
    monkeypatch.setattr(ShardLink, "take_parameters", twice)
    assert "on record" in _found_over_steps(rig, 3)


def test_whole_parameters_of_another_version_are_found() -> None:
    rig = WorkerRig(coding=CodingSettings())

    async def work() -> None:
        session = await rig.session()
        await steps(rig, session, range(2))
        assert rig.found() == []
        session.binding.parameters[3] += 1
        rig.watch.tell("worker_took", "pi", session)
        assert "are not those of version" in rig.found(3)[0]
        await session.leave()

    run(work())


def test_an_acknowledgement_of_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = WorkerRig(coding=CodingSettings())
    lying = Outcome(Status.APPLIED, 1, 0, 0)
    monkeypatch.setattr("psedge.server.shard.Shard.push", lambda *_: lying)

    async def work() -> None:
        session = await rig.session()
        rig.watch._hooks["shard_pushed"] = []
        await session.send(session.encode(8, gradient(rig.bench, 1)))
        await session.leave()

    run(work())
    assert "never arrived" in rig.found(1)[0]


class Readers(Checked):
    """Workers whose claims and pushes a test writes down by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.shards: dict[str, Any] = {}

    def join(self, host: str, worker: int) -> Any:
        session = SimpleNamespace(
            joined=SimpleNamespace(worker=worker, name=host, sync=SyncSettings("asp")),
            incarnation=1,
            identity=SimpleNamespace(local_samples=None),
            client=SimpleNamespace(links=(), residual=None, check_invariants=lambda: None),
            binding=SimpleNamespace(parameters=None),
        )
        self.watch.tell("worker_joined", host, session)
        return session

    def made(self, host: str, state: Any = None) -> Any:
        from checker_rig import ShardRig

        rig = ShardRig()
        rig.watch, rig.host = self.watch, host
        rig.replica = rig.made(host, state)
        rig.tell()
        return rig

    def claim(self, host: str, session: Any, start: int, stop: int) -> None:
        self.watch.tell("range_claimed", host, session, ClaimReply("range", 0, start, stop))

    def visit(self, host: str, session: Any, indices: list[int], sequence: int) -> Any:
        """A step on these samples, and its push as it is encoded."""
        self.watch.tell("batch_made", host, np.array(indices))
        header = SimpleNamespace(
            worker=session.joined.worker, incarnation=1, sequence=sequence, shard=0
        )
        made: Any = SimpleNamespace(samples=len(indices), pieces=[SimpleNamespace(header=header)])
        for checker in self.watch._checkers:
            if checker.invariant == 6:
                checker.worker_encoded(host, session, made, np.zeros(0, np.float32))
        return header


def ended(samples: int) -> Any:
    """A supervisor whose plan was one epoch."""
    pool = SimpleNamespace(samples=samples, end=samples)
    plan = SimpleNamespace(placement="shared", export=lambda: SimpleNamespace(pools=[pool]))
    journal = SimpleNamespace(latest=lambda most: ())
    return SimpleNamespace(state=SimpleNamespace(plan=plan, journal=journal))


def test_samples_that_are_visited_once_are_in_order() -> None:
    readers = Readers()
    rig, session = readers.made("server-0"), readers.join("a", 0)
    readers.claim("a", session, 0, 4)
    for sequence, indices in enumerate([[3, 1], [0, 2]], 1):
        readers.visit("a", session, indices, sequence)
        rig.push(0, samples=2)
        if sequence == 1:
            saved = rig.checkpoint()
    readers.watch.tell("run_ended", "server-0", ended(4), SimpleNamespace(phase="finished"))
    assert readers.found(6) == []
    # Back to the checkpoint: what was visited after it is visited once more.
    rig.crash()
    rig.replica = rig.made("server-0", saved)
    rig.tell()
    session = readers.join("a", 0)
    readers.claim("a", session, 2, 4)
    readers.visit("a", session, [0, 2], 2)
    rig.push(0, samples=2, sequence=2)
    readers.watch.tell("run_ended", "server-0", ended(4), SimpleNamespace(phase="finished"))
    assert readers.found(6) == []


def test_samples_that_are_visited_twice_or_never_are_found() -> None:
    readers = Readers()
    rig, session, other = readers.made("server-0"), readers.join("a", 0), readers.join("b", 1)
    for host, member, worker in (("a", session, 0), ("b", other, 1)):
        readers.claim(host, member, 0, 2)
        readers.visit(host, member, [3, 1], 1)
        rig.push(worker, samples=2)
    assert "visits 2 samples for the second time: 3 of epoch 0, 1 of epoch 0" in readers.found(6)[0]
    readers.watch.tell("run_ended", "server-0", ended(4), SimpleNamespace(phase="finished"))
    assert "not visited: 0 of epoch 0, 2 of epoch 0" in readers.found(6)[0]


def test_a_step_beyond_what_was_claimed_is_found() -> None:
    readers = Readers()
    session = readers.join("a", 0)
    readers.claim("a", session, 0, 2)
    readers.visit("a", session, [3, 1, 2], 1)
    assert "3 samples of 2 that were claimed" in readers.found(6)[0]


def test_a_restored_plan_without_its_shard_counts_as_unknown() -> None:
    readers = Readers()
    foreign = ShardState(version=9, samples_seen=90, pushes_applied=9)
    rig = readers.made("server-0")
    arrays = rig.checkpoint()[1]
    rig.replica = rig.made("server-0", (foreign, arrays))
    readers.watch.tell("run_ended", "server-0", ended(4), SimpleNamespace(phase="finished"))
    assert readers.found(6) == []
