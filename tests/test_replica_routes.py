"""What servers answer about their copies to whoever is late, wrong, or of a term that is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from replication_rig import Rig, refused, run

from psedge.protocol.bundle import pack
from psedge.protocol.errors import RefusedError
from psedge.protocol.log_entry import Entry, EntryKind
from psedge.protocol.messages import SHARD_ASSIGN
from psedge.protocol.replicas import (
    REPLICA_APPEND,
    REPLICA_INSTALL,
    Append,
    Appended,
    Peer,
    Position,
    Reign,
)
from psedge.protocol.shards import ShardOrder
from psedge.server import copies
from psedge.server.append_message import append_parts

ANOTHER = Peer(9, "http://another:7700")


async def append(rig: Rig, node: int, message: Append, entries: Sequence[Entry] = ()) -> Appended:
    body = b"".join(bytes(part) for part in append_parts(message, entries))
    reply = await rig.post(rig.nodes[node], REPLICA_APPEND, body)
    return msgspec.json.decode(reply, type=Appended)


async def install(rig: Rig, node: int, body: bytes) -> Appended:
    reply = await rig.post(rig.nodes[node], REPLICA_INSTALL, body)
    return msgspec.json.decode(reply, type=Appended)


def image(rig: Rig, reign: Reign | None) -> bytes:
    """What the primary has now, under some reign."""
    order, arrays = rig.nodes[0].replica.order()
    return pack(msgspec.structs.replace(order, reign=reign), arrays)


def fresh(rig: Rig, reign: Reign | None) -> bytes:
    """A shard as the supervisor hands it out."""
    arrays = {
        "parameters": np.ones(300, np.float32),
        "buffers": np.zeros(2, np.float32),
        "counters": np.zeros(0, np.uint8),
    }
    return pack(ShardOrder(rig.placed, reign=reign), arrays)


def test_a_server_without_a_copy_says_that_it_has_nothing() -> None:
    async def story(rig: Rig) -> None:
        reply = await append(rig, 2, Append(0, 1, Position(1, 5)))
        assert reply == Appended(Position(), "gap", server=2)
        for work in (rig.seal(2, 2), rig.announce(rig.reign, 2)):
            with pytest.raises(RefusedError, match="no copy of shard 0") as caught:
                await work
            assert caught.value.code == "not-ready"

    run(Rig(servers=3), story)


def test_what_is_said_in_the_name_of_an_old_term_is_refused() -> None:
    async def story(rig: Rig) -> None:
        await rig.push()
        old, body = rig.reign, image(rig, rig.reign)
        await rig.seal(1, 5)
        before = rig.nodes[1].replica.state(0.0)
        works = [
            append(rig, 1, Append(0, 4, before.at)),
            install(rig, 1, body),
            rig.seal(1, 4),
            rig.announce(old, 1),
            rig.post(rig.nodes[1], SHARD_ASSIGN, fresh(rig, old)),
        ]
        assert [await refused(work) for work in works] == ["stale-term"] * 5
        assert rig.nodes[1].replica.state(0.0) == before

    run(Rig(), story)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\x00", "too-large"),
        (b"\xff\xff\x00\x00{}", "bad-frame"),
        (b"\x10\x00\x00\x00{}", "bad-frame"),
        (b"\x02\x00\x00\x00{}", "bad-frame"),
    ],
)
def test_a_malformed_message_is_refused(body: bytes, code: str) -> None:
    async def story(rig: Rig) -> None:
        before = rig.nodes[1].replica.at
        assert await refused(rig.post(rig.nodes[1], REPLICA_APPEND, body)) == code
        assert rig.nodes[1].replica.at == before

    run(Rig(), story)


def test_entries_that_are_cut_off_or_damaged_change_nothing() -> None:
    async def story(rig: Rig) -> None:
        await rig.push()
        backup = rig.nodes[1]
        at, bits = backup.replica.at, backup.bits()
        entry = Entry(at.index + 1, 1, EntryKind.MEMBERS, b'{"revision":9,"members":[]}')
        whole = b"".join(bytes(part) for part in append_parts(Append(0, 1, at), [entry]))
        flipped = whole[:-1] + b"?"
        for body, code in ((whole[:-1], "bad-frame"), (flipped, "unreachable")):
            # What was damaged on its way counts as lost.
            assert await refused(rig.post(backup, REPLICA_APPEND, body)) == code
            assert (backup.replica.at, backup.bits()) == (at, bits)
        await rig.push()
        assert backup.bits() == rig.nodes[0].bits()

    run(Rig(), story)


def test_an_image_needs_a_reign_with_a_part_for_its_receiver() -> None:
    async def story(rig: Rig) -> None:
        others = msgspec.structs.replace(rig.reign, primary=ANOTHER, backups=(), term=2)
        assert await refused(install(rig, 1, image(rig, None))) == "bad-frame"
        assert await refused(install(rig, 1, image(rig, others))) == "conflict"
        assert await refused(install(rig, 0, image(rig, rig.reign))) == "conflict"
        assert await refused(rig.post(rig.nodes[1], SHARD_ASSIGN, fresh(rig, others))) == "conflict"

    run(Rig(), story)


def test_an_image_that_is_late_takes_nothing_back() -> None:
    async def story(rig: Rig) -> None:
        await rig.push()
        late = image(rig, rig.reign)
        await rig.pushes(3)
        at = rig.nodes[1].replica.at
        assert await install(rig, 1, late) == Appended(at, "gap", server=1)
        await rig.push()
        assert rig.nodes[1].bits() == rig.nodes[0].bits()

    run(Rig(), story)


def test_an_order_that_comes_twice_undoes_nothing() -> None:
    async def story(rig: Rig) -> None:
        body = fresh(rig, rig.reign)
        await rig.pushes(3)
        for node in (0, 1):
            await rig.post(rig.nodes[node], SHARD_ASSIGN, body)
        assert rig.nodes[0].replica.shard.version == 3
        await rig.push()
        assert rig.nodes[1].bits() == rig.nodes[0].bits()

    run(Rig(), story)


def test_a_shard_that_is_handed_out_again_is_another_one() -> None:
    async def story(rig: Rig) -> None:
        await rig.pushes(3)
        reign = msgspec.structs.replace(rig.reign, term=2, revision=5)
        for node in (1, 0):
            await rig.post(rig.nodes[node], SHARD_ASSIGN, fresh(rig, reign))
        assert await refused(rig.push()) == "not-primary"
        rig.reign, rig.sequences = reign, {}
        rig.revision = 10
        await rig.tell(0)
        await rig.push()
        assert rig.nodes[0].replica.shard.version == 1
        assert rig.nodes[1].bits() == rig.nodes[0].bits()

    run(Rig(), story)


def test_a_server_that_is_not_registered_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "REGISTRATION_SECONDS", 0.05)

    async def story(rig: Rig) -> None:
        node = rig.nodes[2]
        node.service.entering()
        reign = msgspec.structs.replace(rig.reign, learners=(node.peer,), revision=1)
        assert await refused(install(rig, 2, image(rig, reign))) == "not-ready"
        node.service.not_entered()
        assert (await install(rig, 2, image(rig, reign))).outcome == "appended"
        assert node.replica.role == "learner"

    run(Rig(servers=3), story)


def test_a_backup_that_was_started_anew_is_dropped_at_once() -> None:
    async def story(rig: Rig) -> None:
        await rig.pushes(2)
        service: Any = rig.nodes[1].service
        service.drop(0)
        service.server = 17
        await asyncio.wait_for(rig.push(), 1.5)
        assert {each.action for each in rig.asked} == {"drop"}

    run(Rig(), story)
