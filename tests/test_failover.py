"""Who follows a primary, and when: every combination of what may be known of the copies."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from psedge.protocol.replicas import Acks, Peer, Position, Reign
from psedge.supervisor.failover import (
    RETURN_PATIENCE_SECONDS,
    SEAL_PATIENCE_SECONDS,
    Copy,
    Fate,
    View,
    decide,
    may_acknowledge,
)

FATES: tuple[Fate, ...] = ("live", "sealed", "silent", "away", "gone")


def view(*copies: Copy, acks: Acks = "replica", **fields: Any) -> View:
    """The first copy is the primary's; the others are in the set."""
    peers = [Peer(copy.server, f"http://{copy.server}") for copy in copies]
    reign = Reign(0, 1, 0, peers[0], tuple(peers[1:]), acks=acks)
    fields = {"sealing_seconds": 1.0, "evidence": "server 0 is silent", **fields}
    return View(reign, copies[0], copies[1:], **fields)


def copy(server: int, fate: Fate, index: int = 0, *, term: int = 1, **fields: Any) -> Copy:
    fields = {"holder": server, **fields}
    return Copy(server, fate, at=Position(term, index), **fields)


def dead(server: int = 0) -> Copy:
    return copy(server, "gone", stopped=True)


@pytest.mark.parametrize(
    ("seen", "action", "server", "words"),
    [
        # Nothing is done about a primary that is there, whatever becomes of its backups.
        (view(copy(0, "live"), sealing_seconds=None), "keep", -1, "is there"),
        (view(copy(0, "live"), dead(1), sealing_seconds=None), "keep", -1, "is there"),
        # A dead one is replaced by whoever has most of its log.
        (view(dead(), copy(1, "live"), sealing_seconds=None), "seal", -1, "asking server 1"),
        (view(dead(), copy(1, "sealed", 7)), "promote", 1, "up to entry 7"),
        (view(dead(), copy(1, "sealed", 7), copy(2, "sealed", 9)), "promote", 2, "entry 9"),
        (view(dead(), copy(1, "sealed", 9), copy(2, "sealed", 8, term=2)), "promote", 2, "8"),
        (view(dead(), copy(1, "sealed", 7), copy(2, "live")), "seal", -1, "server 2 may have"),
        # With acks = "all" each backup has everything, so one is enough.
        (view(dead(), copy(1, "sealed", 7), copy(2, "live"), acks="all"), "promote", 1, "7"),
        (view(copy(0, "silent"), copy(1, "sealed"), dead(2), acks="all"), "promote", 1, ""),
        # A silent one may still be heard by others: all its backups have to be sealed first,
        (view(copy(0, "silent"), copy(1, "sealed", 7)), "promote", 1, "silent"),
        (view(copy(0, "silent"), copy(1, "sealed"), copy(2, "silent")), "wait", -1, "lease"),
        (view(copy(0, "silent"), copy(1, "sealed"), dead(2)), "promote", 1, "may be lost"),
        # or its lease has to be over, if it needs nobody to acknowledge.
        (view(copy(0, "silent"), copy(1, "sealed"), acks="primary"), "wait", -1, "lease"),
        (
            view(copy(0, "silent"), copy(1, "sealed"), acks="primary", lease_over=True),
            "promote",
            1,
            "may be lost",
        ),
        (
            view(copy(0, "silent"), copy(1, "sealed"), copy(2, "silent"), lease_over=True),
            "promote",
            1,
            "may be lost",
        ),
        # One that answers after all goes on, in a new term, if it has most.
        (view(copy(0, "sealed", 7), copy(1, "sealed", 7)), "promote", 0, "answers again"),
        (view(copy(0, "live"), copy(1, "sealed", 7)), "promote", 1, ""),
        (view(copy(0, "live")), "seal", -1, "asking server 0"),
        # The last copies.
        (view(dead(), sealing_seconds=None), "lost", 0, "silent"),
        (view(dead(), dead(1)), "lost", 0, ""),
        (view(dead(), copy(1, "silent", silence=30.0)), "wait", -1, "last copies, server 1"),
        (view(dead(), copy(1, "silent", silence=61.0)), "lost", 0, ""),
        (view(copy(0, "silent", silence=61.0), sealing_seconds=None), "lost", 0, ""),
        (view(dead(), dead(1), durable=True), "lost", 0, ""),
        (view(dead(), copy(1, "away"), durable=True), "await", -1, "log of server 1"),
        (view(dead(), copy(1, "silent", silence=1e6), durable=True), "await", -1, "log of"),
    ],
)
def test_decisions(seen: View, action: str, server: int, words: str) -> None:
    decision = decide(seen)
    assert (decision.action, decision.server) == (action, server), decision.reason
    assert words in decision.reason


def returned(server: int, fate: Fate, index: int = 0, **fields: Any) -> Copy:
    """Server 10 + n has read server n's log from its disk."""
    return copy(server, fate, index, holder=10 + server, stopped=True, **fields)


def away(server: int) -> Copy:
    return copy(server, "away", stopped=True)


@pytest.mark.parametrize(
    ("seen", "action", "server"),
    [
        (view(away(0), away(1), durable=True), "await", -1),
        (view(away(0), returned(1, "live"), durable=True), "seal", -1),
        # The others may have more: they are waited for, but not for ever.
        (view(away(0), returned(1, "sealed", 5), durable=True, returned_seconds=1.0), "wait", -1),
        (
            view(
                away(0),
                returned(1, "sealed", 5),
                durable=True,
                returned_seconds=RETURN_PATIENCE_SECONDS,
                sealing_seconds=99.0,
            ),
            "promote",
            11,
        ),
        (
            view(returned(0, "live"), returned(1, "sealed", 5), durable=True, returned_seconds=0.0),
            "seal",
            -1,
        ),
        (view(returned(0, "sealed", 9), returned(1, "sealed", 5), durable=True), "promote", 10),
        # A copy that was never away waits for nobody's disk.
        (view(away(0), copy(1, "sealed", 5), durable=True), "promote", 1),
    ],
)
def test_logs_come_back_from_disks(seen: View, action: str, server: int) -> None:
    decision = decide(seen)
    assert (decision.action, decision.server) == (action, server), decision.reason


def test_what_is_lost_is_counted() -> None:
    told = Position(1, 12)
    decision = decide(view(dead(), copy(1, "sealed", 10), acks="primary", told=told))
    assert (decision.action, decision.lost, decision.certain) == ("promote", 2, False)
    assert "at least 2 acknowledged entries are lost" in decision.reason


@pytest.mark.parametrize(
    ("seen", "certain"),
    [
        (view(dead(), copy(1, "sealed")), True),
        (view(dead(), copy(1, "sealed"), acks="primary"), False),
        (view(dead(), copy(1, "sealed"), dead(2)), False),
        (view(dead(), copy(1, "sealed"), dead(2), acks="all"), True),
        (view(copy(0, "sealed"), copy(1, "sealed"), acks="primary"), True),
        (view(returned(0, "sealed"), durable=True), False),
        (view(returned(0, "sealed"), durable=True, synced=True), True),
    ],
)
def test_a_possible_loss_is_said(seen: View, certain: bool) -> None:
    decision = decide(seen)
    assert decision.action == "promote"
    assert decision.certain == certain
    assert certain == ("may be lost" not in decision.reason)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (view(returned(0, "sealed"), sync_seconds=0.5), "; at most the last 0.5 s before a power"),
        (view(returned(0, "sealed"), away(1), returned_seconds=99.0), "; at most the last 1 s"),
        # All that was acknowledged is in either log.
        (view(away(0), returned(1, "sealed"), acks="all", returned_seconds=99.0), "; at most the"),
        (
            view(returned(0, "sealed", 5), told=Position(1, 7)),
            "; at least 2 acknowledged entries are lost, of the last 1 s before a power cut",
        ),
        # The primary may have told of what nobody else had.
        (
            view(away(0), returned(1, "sealed"), acks="primary", returned_seconds=99.0),
            "; acknowledged entries that only the others had may be lost",
        ),
        (
            view(returned(0, "sealed", 5), told=Position(1, 7), synced=True),
            "; at least 2 acknowledged entries are lost",
        ),
    ],
)
def test_a_power_cut_costs_no_more_than_the_time_between_syncs(seen: View, words: str) -> None:
    reason = decide(dataclasses.replace(seen, durable=True)).reason
    assert words in reason
    assert reason.endswith(("lost", "power cut"))


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize(
    ("told", "loss"),
    [(0, "acknowledged entries may be lost"), (7, "at least 2 acknowledged entries are lost")],
)
def test_a_damaged_log_is_not_taken_for_a_power_cut(synced: bool, told: int, loss: str) -> None:
    damaged = returned(0, "sealed", 5, damage="a file is damaged")
    decision = decide(view(damaged, told=Position(1, told), durable=True, synced=synced))
    assert decision.reason.endswith(
        f"up to entry 5; {loss}, for its log breaks off early: a file is damaged"
    )
    assert not decision.certain


def test_a_damaged_log_beside_one_that_is_whole_costs_nothing() -> None:
    both = (returned(0, "sealed", 9), returned(1, "sealed", 5, damage="a file is damaged"))
    decision = decide(view(*both, durable=True, synced=True))
    assert decision.certain
    assert decision.reason.endswith("up to entry 9")


def test_a_copy_that_is_heard_but_does_not_answer_is_not_waited_for_for_ever() -> None:
    copies = dead(), copy(1, "sealed", 3), copy(2, "live")
    assert decide(view(*copies, sealing_seconds=SEAL_PATIENCE_SECONDS - 1)).action == "seal"
    decision = decide(view(*copies, sealing_seconds=SEAL_PATIENCE_SECONDS))
    assert (decision.action, decision.server, decision.certain) == ("promote", 1, False)


@pytest.mark.parametrize("acks", ["primary", "replica", "all"])
def test_nobody_is_promoted_while_the_old_primary_may_acknowledge(acks: Acks) -> None:
    """Against the rule itself, entry by entry: who is not sealed and not stopped may still answer
    the old primary, and its lease may hold."""
    for primary, *backups in itertools.product(FATES, repeat=3):
        for lease_over, stopped in itertools.product((False, True), repeat=2):
            copies = [copy(0, primary, stopped=stopped and primary != "live")]
            copies += [
                copy(1 + n, fate, stopped=fate in ("away", "gone"))
                for n, fate in enumerate(backups)
            ]
            seen = view(*copies, acks=acks, lease_over=lease_over, durable=True)
            decision = decide(seen)
            assert decision.reason
            if decision.action != "promote":
                continue
            answering = sum(each.fate != "sealed" and not each.stopped for each in seen.backups)
            runs = not seen.primary.stopped and seen.primary.fate != "sealed"
            everybody = answering == len(seen.backups)
            needed = {"primary": 0, "replica": 1, "all": len(seen.backups)}[acks]
            acknowledges = runs and (everybody or (not lease_over and answering >= needed))
            assert not acknowledges, seen
            assert not may_acknowledge(seen)
            assert decision.server in {each.holder for each in seen.sealed}


def test_the_most_of_the_log_is_never_passed_over() -> None:
    for indices in itertools.permutations(range(4)):
        copies = [copy(n, "sealed", index) for n, index in enumerate(indices)]
        assert decide(view(*copies)).server == indices.index(3)
