"""What may be acknowledged: the rule, case by case."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from replica_rig import peer, reign

from psedge.server.peer_table import NOTHING, PeerTable


def table(acks: Any, *having: int, learners: tuple[int, ...] = ()) -> PeerTable:
    """Backups 1, 2, ... that have entries up to these; NOTHING for one that was not heard."""
    made = PeerTable()
    backups = tuple(range(1, 1 + len(having)))
    made.follow(reign(1, 1, 0, backups, learners, acks))
    for server, index in zip(backups, having, strict=True):
        if index != NOTHING:
            made.heard(server, index)
    return made


@pytest.mark.parametrize(
    ("acks", "having", "while_lease_holds", "after_it"),
    [
        # Nobody else can be promoted.
        ("primary", (), 10, 10),
        ("replica", (), 10, 10),
        ("all", (), 10, 10),
        # One backup.
        ("primary", (4,), 10, 4),
        ("replica", (4,), 4, 4),
        ("all", (4,), 4, 4),
        ("primary", (10,), 10, 10),
        ("replica", (10,), 10, 10),
        ("all", (10,), 10, 10),
        ("primary", (NOTHING,), 10, 0),
        ("replica", (NOTHING,), 0, 0),
        ("all", (NOTHING,), 0, 0),
        # Two.
        ("primary", (3, 7), 10, 3),
        ("replica", (3, 7), 7, 3),
        ("replica", (7, 3), 7, 3),
        ("all", (3, 7), 3, 3),
        ("replica", (NOTHING, 9), 9, 0),
        ("all", (NOTHING, 9), 0, 0),
        ("all", (10, 10), 10, 10),
    ],
)
def test_acks_by_lease_by_who_has_it(
    acks: Any, having: tuple[int, ...], while_lease_holds: int, after_it: int
) -> None:
    known = table(acks, *having)
    assert known.acknowledged(10, lease_holds=True) == while_lease_holds
    assert known.acknowledged(10, lease_holds=False) == after_it
    known.check_invariants(10)


@pytest.mark.parametrize("acks", ["primary", "replica", "all"])
@pytest.mark.parametrize("lease_holds", [True, False])
def test_what_is_not_in_the_own_log_is_not_acknowledged(acks: Any, lease_holds: bool) -> None:
    assert table(acks, 10, 10).acknowledged(6, lease_holds=lease_holds) == 6
    assert table(acks).acknowledged(6, lease_holds=lease_holds) == 6


def test_a_learner_counts_from_when_its_admission_is_asked_for() -> None:
    known = table("all", 10, learners=(2,))
    assert known.acknowledged(10, lease_holds=True) == 10, "nobody counts on a learner"
    known.heard(2, 8)
    assert not known.admit(2, 10), "it lacks what was acknowledged without it"
    assert known.in_set == (peer(1), peer(2))
    assert known.acknowledged(12, lease_holds=True) == 8
    known.heard(2, 9)
    assert not known.admit(2, 12)
    known.heard(2, 10)
    assert known.admit(2, 12), "the supervisor may be asked"
    known.follow(reign(1, 2, 0, (1, 2), acks="all"))
    assert known.acknowledged(12, lease_holds=True) == 10, "what it has is still known"
    known.check_invariants(12)


def test_who_is_being_admitted_counts_until_the_reign_is_another() -> None:
    known = table("all", 3, learners=(2,))
    known.admit(2, 3)
    assert known.in_set == (peer(1), peer(2)), "the request may be under way"
    known.follow(reign(1, 2, 0, (1,), (2, 3), acks="all"))
    assert known.in_set == (peer(1),), "it is not carried out any more"
    known.admit(2, 3)
    assert known.in_set == (peer(1), peer(2))
    known.follow(reign(1, 3, 0, (1,), acks="all"))
    assert known.in_set == (peer(1),)
    known.check_invariants(9)
    assert known.acknowledged(9, lease_holds=True) == 3
    known.follow(reign(1, 4, 0, acks="all"))
    assert known.acknowledged(9, lease_holds=False) == 9


def test_only_learners_are_admitted() -> None:
    known = table("all", 3, learners=(2,))
    for server in (0, 1, 7):
        assert not known.admit(server, 3)
    assert known.in_set == (peer(1),)


def test_who_has_left_and_comes_back_is_unknown_again() -> None:
    known = table("replica", 9)
    known.follow(reign(1, 2, 0))
    known.follow(reign(1, 3, 0, (1,)))
    assert known.has(1) == 0
    assert known.acknowledged(9, lease_holds=True) == 0
    known.heard(7, 9)
    known.check_invariants(9)


def test_a_new_term_knows_nothing_of_the_one_before() -> None:
    known = table("replica", 9, learners=(2,))
    known.admit(2, 3)
    known.follow(reign(2, 2, 0, (1,), (2,)))
    assert known.acknowledged(9, lease_holds=True) == 0
    assert known.in_set == (peer(1),)


def test_entries_are_needed_as_long_as_a_peer_can_be_brought_up_to_date_with_them() -> None:
    known = table("replica", NOTHING, NOTHING)
    assert known.needed_after(5, 20) == 4, "they may lack but a little"
    known.heard(1, 12)
    assert known.needed_after(5, 20) == 4
    known.heard(2, 15)
    assert known.needed_after(5, 20) == 12
    known.heard(2, 3)
    assert known.needed_after(5, 20) == 12, "the tail is of no use to it"
    known.heard(1, 20)
    assert known.needed_after(5, 20) == 20
    known.image_made(17, 5)
    assert known.needed_after(5, 20) == 17, "what follows the image that it gets is"
    known.image_made(19, 5)
    assert known.needed_after(5, 20) == 17, "the first one may still be under way"
    known.image_made(25, 19)
    assert known.needed_after(19, 30) == 20, "but not for as long as it likes"
    known.heard(1, 30)
    assert known.needed_after(19, 30) == 25


def test_one_backup_is_enough_only_if_the_supervisor_counts_it_too() -> None:
    known = table("replica", 3, learners=(2,))
    known.heard(2, 9)
    assert known.admit(2, 3)
    assert known.acknowledged(9, lease_holds=True) == 3, "the supervisor may not have admitted it"
    known.follow(reign(1, 2, 0, (1, 2)))
    assert known.acknowledged(9, lease_holds=True) == 9
    alone = table("replica", learners=(1, 2))
    for server, index in ((1, 5), (2, 9)):
        alone.heard(server, index)
        alone.admit(server, 4)
    assert alone.acknowledged(9, lease_holds=True) == 5, "either may be the only backup"
    alone.check_invariants(9)


def test_a_backup_is_dropped_once_another_one_has_all_that_was_acknowledged() -> None:
    known = table("replica", 9, 4)
    assert known.acknowledged(12, lease_holds=True) == 9
    assert not known.doubt(1), "only this one has what workers were told"
    known.heard(1, 12)
    assert known.acknowledged(12, lease_holds=True) == 4, "it may be dropped at any time"
    assert known.trust(1)
    assert known.acknowledged(12, lease_holds=True) == 12
    known.heard(2, 12)
    assert known.doubt(1)
    assert not known.trust(1), "the supervisor may have heard it already"
    known.follow(reign(1, 2, 0, (2,)))
    assert known.doubt(2), "without backups nobody else can be promoted"
    assert known.trust(2)
    known.check_invariants(12)


def test_of_backups_that_all_fail_who_has_least_goes_first() -> None:
    known = table("replica", 9, 7, 8)
    assert known.acknowledged(9, lease_holds=True) == 9
    assert not any(known.doubt(server) for server in (1, 2, 3)), "3 might have caught up"
    assert [known.doubt(server) for server in (1, 2, 3)] == [False, True, False]
    known.follow(reign(1, 2, 0, (1, 3)))
    assert [known.doubt(server) for server in (1, 3)] == [False, True]
    known.follow(reign(1, 3, 0, (1,)))
    assert known.doubt(1)


def test_who_is_doubted_by_the_supervisor_is_not_counted_on() -> None:
    known = table("replica", 9, 4)
    doubted = msgspec.structs.replace(reign(1, 2, 0, (1, 2)), doubted=(1,))
    known.follow(doubted)
    assert known.acknowledged(9, lease_holds=True) == 4
    assert not known.trust(1)
    assert known.doubt(1)


@pytest.mark.parametrize("acks", ["primary", "all"])
def test_with_other_acks_a_backup_can_always_be_spared(acks: Any) -> None:
    known = table(acks, 9, 4)
    before = known.acknowledged(9, lease_holds=True)
    assert known.doubt(1)
    assert known.acknowledged(9, lease_holds=True) == before
    assert known.trust(1)
