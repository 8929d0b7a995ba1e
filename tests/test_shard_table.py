"""The table of reigns: terms only rise, a term has one primary, sets change one step at a time."""

from __future__ import annotations

import random

import msgspec
import pytest

from psedge.protocol.errors import RefusedError
from psedge.protocol.replicas import Peer, Position, Reign
from psedge.supervisor.shard_table import Decision, ShardTable, ShardTableState

PEERS = [Peer(server, f"http://10.0.0.{server}:7700") for server in range(5)]


def opened(*backups: int, learners: tuple[int, ...] = ()) -> ShardTable:
    """Shard 0 with server 0 as its primary."""
    table = ShardTable()
    enact(table, table.opened(0, 1, PEERS[0], [PEERS[each] for each in backups], "replica", "go"))
    for server in learners:
        enact(table, table.recruited(0, PEERS[server], "a copy is missing"))
    return table


def enact(table: ShardTable, decision: Decision) -> Reign:
    assert decision.reign is not None
    assert decision.reason
    stored = table.export([decision.reign])
    table.enact(decision.reign)
    table.check_invariants()
    assert table.export() == stored, "what is stored is what then holds"
    return decision.reign


def servers(peers: tuple[Peer, ...]) -> list[int]:
    return [peer.server for peer in peers]


def test_a_shard_is_handed_out_in_ever_higher_terms() -> None:
    table = opened(1)
    assert table.next_term(0) == 2
    reign = enact(table, table.opened(0, 2, PEERS[3], [], "all", "the start failed half-way"))
    assert (reign.term, reign.revision, reign.primary, reign.acks) == (2, 1, PEERS[3], "all")


def test_the_map_changes_with_primaries_and_not_with_backups() -> None:
    table = opened(1, 2)
    revision = table.map_revision
    enact(table, table.dropped(0, 1, 1, "it does not answer"))
    enact(table, table.recruited(0, PEERS[3], "a copy is missing"))
    enact(table, table.admitted(0, 1, 3, "it has caught up"))
    assert table.map_revision == revision
    table.reserve(0, 2)
    enact(table, table.promoted(0, 2, PEERS[2], [], "the primary is dead"))
    assert table.map_revision == revision + 1


def test_nothing_is_in_force_before_it_is_enacted() -> None:
    table = opened(1)
    before = table.reign(0)
    decision = table.dropped(0, 1, 1, "it does not answer")
    table.export([decision.reign] if decision.reign else [])
    assert table.reign(0) is before
    assert table.export(reserved=((0, 9),)).reserved == ((0, 9),)
    assert not table.is_sealing(0)


def test_changes_of_a_set() -> None:
    table = opened(1, learners=(2,))
    with pytest.raises(RefusedError) as refused:
        table.admitted(0, 1, 4, "it is here")
    assert refused.value.code == "conflict"
    assert table.dropped(0, 1, 4, "it has no part").action == "keep"
    assert table.admitted(0, 1, 1, "again, as the answer was lost").action == "keep"
    assert table.recruited(0, PEERS[0], "it is the primary").action == "keep"
    assert table.dismissed(0, 1, "a backup is no learner").action == "keep"
    reign = enact(table, table.admitted(0, 1, 2, "it has caught up"))
    assert (servers(reign.backups), servers(reign.learners)) == ([1, 2], [])
    reign = enact(table, table.dropped(0, 1, 1, "it does not answer"))
    assert servers(reign.backups) == [2]
    assert table.dropped(0, 1, 0, "the last copy stays").action == "keep"


def test_a_backup_on_which_a_push_may_depend_is_doubted_and_not_dropped() -> None:
    table = opened(1, 2, learners=(3,))
    reign = enact(table, table.given_up(0, 1, 1, "it is silent"))
    assert (servers(reign.backups), reign.doubted) == ([1, 2], (1,))
    assert table.given_up(0, 1, 1, "it is silent").action == "keep"
    reign = enact(table, table.given_up(0, 1, 3, "it is silent"))
    assert (servers(reign.backups), reign.learners, reign.doubted) == ([1, 2], (), (1,))
    reign = enact(table, table.dropped(0, 1, 1, "the other one has everything"))
    assert (servers(reign.backups), reign.doubted) == ([2], ())
    reign = enact(table, table.given_up(0, 1, 2, "nobody else can be promoted"))
    assert reign.backups == ()
    with pytest.raises(RefusedError, match="has ended"):
        table.given_up(0, 0, 2, "it is silent")


def test_with_acks_all_whoever_is_left_has_everything() -> None:
    table = ShardTable()
    enact(table, table.opened(0, 1, PEERS[0], PEERS[1:3], "all", "go"))
    reign = enact(table, table.given_up(0, 1, 1, "it is silent"))
    assert (servers(reign.backups), reign.doubted) == ([2], ())


def test_a_learner_that_is_dropped_cannot_be_admitted_by_an_older_request() -> None:
    table = opened(1, learners=(2,))
    before = table.reign(0)
    assert before is not None
    assert not table.is_overtaken(0, 1, before.revision)
    reign = enact(table, table.dropped(0, 1, 2, "it lags behind"))
    assert reign.role_of(2) is None
    enact(table, table.recruited(0, PEERS[2], "a copy is missing"))
    assert table.is_overtaken(0, 1, before.revision)
    assert table.is_overtaken(0, 1, reign.revision)


@pytest.mark.parametrize("action", ["dropped", "admitted", "is_overtaken"])
def test_a_reign_that_is_being_ended_grants_nothing(action: str) -> None:
    """Else a primary that is cut off could drop the backup that was sealed to replace it."""
    table = opened(1, learners=(2,))
    change = getattr(table, action)
    arguments = (1,) if action == "is_overtaken" else (1, "it asks")
    for term in (0, 2, 99):
        with pytest.raises(RefusedError) as refused:
            change(0, term, *arguments)
        assert refused.value.code == "stale-term"
    table.reserve(0, 2)
    assert table.is_sealing(0)
    with pytest.raises(RefusedError, match="has ended"):
        change(0, 1, *arguments)


def test_a_promotion_empties_the_set() -> None:
    table = opened(1, 2, learners=(3,))
    table.reserve(0, 2)
    reign = enact(table, table.promoted(0, 2, PEERS[2], [PEERS[1], PEERS[2]], "dead"))
    assert (reign.primary, servers(reign.backups), servers(reign.learners)) == (PEERS[2], [], [1])
    assert not table.is_sealing(0)
    assert table.next_term(0) == 3


def test_a_change_must_follow_the_present_reign() -> None:
    table = opened(1, 2)
    first = table.dropped(0, 1, 1, "slow").reign
    second = table.dropped(0, 1, 2, "slow").reign
    assert first is not None
    assert second is not None
    table.enact(first)
    with pytest.raises(ValueError, match="does not follow"):
        table.enact(second)


def test_a_restored_table_goes_on_where_the_other_stopped() -> None:
    table = opened(1, learners=(3,))
    table.reserve(0, 5)
    table.note_position(0, Position(1, 77))
    table.note_position(0, Position(1, 12))
    state = msgspec.json.decode(msgspec.json.encode(table.export()), type=ShardTableState)
    again = ShardTable.restored(state)
    again.check_invariants()
    assert again.export() == state
    assert (again.is_sealing(0), again.next_term(0), again.at(0)) == (True, 6, Position(1, 77))


def test_what_an_unknown_supervisor_did_is_outdone() -> None:
    table = ShardTable()
    table.heard_of(0, 7, 41)
    assert table.next_term(0) == 8
    reign = enact(table, table.opened(0, 8, PEERS[0], [], "replica", "go"))
    assert reign.revision == 42


def test_a_forgotten_table_is_not_repeated() -> None:
    table = opened(1, 2)
    enact(table, table.dropped(0, 1, 1, "slow"))
    revision = table.map_revision
    table.forget()
    assert table.reigns() == ()
    reign = enact(table, table.opened(0, table.next_term(0), PEERS[1], [], "replica", "again"))
    assert (reign.term, reign.revision) == (2, 2)
    assert table.map_revision > revision


def proposed(table: ShardTable, before: Reign, peer: Peer, chance: random.Random) -> Decision:
    """Something that somebody may ask for."""
    what = chance.randrange(6)
    if what == 5:
        return table.given_up(0, before.term, peer.server, "it is silent")
    if what == 0:
        return table.dropped(0, before.term, peer.server, "it does not answer")
    if what == 1:
        return table.admitted(0, before.term, peer.server, "it has caught up")
    if what == 2:
        return table.recruited(0, peer, "a copy is missing")
    if what == 3:
        return table.dismissed(0, peer.server, "it is dead")
    return table.promoted(0, table.next_term(0), peer, [PEERS[0]], "the primary is dead")


@pytest.mark.parametrize("seed", range(20))
def test_random_changes_never_contradict_each_other(seed: int) -> None:
    chance, table = random.Random(seed), opened(1, 2)
    primaries: dict[int, int] = {}
    for _ in range(300):
        before = table.reign(0)
        assert before is not None
        assert primaries.setdefault(before.term, before.primary.server) == before.primary.server
        if chance.random() < 0.1:
            table.reserve(0, table.next_term(0))
        try:
            decision = proposed(table, before, chance.choice(PEERS), chance)
        except RefusedError:
            continue
        if decision.reign is not None:
            after = enact(table, decision)
            assert after.term >= before.term
            assert after.revision == before.revision + 1
