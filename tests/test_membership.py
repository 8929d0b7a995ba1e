"""Who is in, under which number, until when."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.protocol.errors import RefusedError
from psedge.protocol.messages import Heartbeat, Place
from psedge.protocol.shards import Member
from psedge.supervisor.membership import Membership, MembershipState


def test_numbers_count_up_and_members_follow() -> None:
    table = Membership(10.0)
    first = table.join("pi", 11, 0.0, device="Raspberry Pi 4", loader=False, local_samples=7)
    second = table.join("nano", 22, 0.0)
    assert (first.worker, second.worker) == (0, 1)
    assert (first.device, first.loader, first.local_samples) == ("Raspberry Pi 4", False, 7)
    assert table.members().members == (Member(0, 11), Member(1, 22))


def test_revision_rises_with_every_change_and_only_then() -> None:
    table = Membership(10.0)
    seen = [table.revision]

    def changed() -> bool:
        seen.append(table.members().revision)
        assert seen[-1] >= seen[-2]
        return seen[-1] > seen[-2]

    table.join("pi", 1, 0.0)
    assert changed()
    table.join("pi", 1, 1.0)
    assert not changed()
    assert table.renew(0, 1, 2.0)
    assert not changed()
    assert table.set_idle(0, 1, True)
    assert changed()
    assert not table.set_idle(0, 1, True)
    assert not changed()
    assert table.members().members == (Member(0, 1, True),)
    assert table.expire(12.0) == []
    assert not changed()
    assert [entry.state for entry in table.expire(12.1)] == ["dead"]
    assert changed()
    assert table.members().members == ()


def test_a_retried_join_is_answered_like_the_first() -> None:
    table = Membership(9.0)
    table.join("pi", 1, 0.0)
    other = table.join("pi", 2, 0.0)
    assert table.join("pi", 2, 1.0).worker == other.worker
    assert len(table.entries()) == 2


def test_a_name_held_by_a_live_machine_gets_a_suffix() -> None:
    table = Membership(9.0)
    names = [table.join("raspberrypi", incarnation, 0.0).name for incarnation in (1, 2, 3)]
    assert names == ["raspberrypi", "raspberrypi-2", "raspberrypi-3"]
    assert [table.join("", incarnation, 0.0).name for incarnation in (4, 5)] == [
        "worker",
        "worker-2",
    ]


def test_a_restarted_worker_takes_its_place_back() -> None:
    table = Membership(9.0)
    old = table.join("pi", 1, 0.0)
    table.renew(old.worker, 1, 1.0, Heartbeat(old.worker, 1, samples=100, bytes_pushed=5))
    new = table.join("pi", 2, 4.5)
    assert (new.worker, new.name) == (old.worker, "pi")
    assert new.totals.samples == 100
    assert not table.renew(old.worker, 1, 5.0), "the old process must hear that its place is taken"
    table.renew(new.worker, 2, 5.0, Heartbeat(new.worker, 2, samples=20, bytes_pushed=1))
    entry = table.entry(new.worker, 2)
    assert entry is not None
    assert (entry.totals.samples, entry.totals.bytes_pushed) == (120, 6)


def test_a_leaver_returns_under_its_number_but_not_under_its_incarnation() -> None:
    table = Membership(9.0)
    table.join("pi", 1, 0.0)
    left = table.leave(0, 1, "out of memory")
    assert left is not None
    assert (left.state, left.note) == ("left", "out of memory")
    assert table.leave(0, 1) is None
    with pytest.raises(RefusedError, match="new incarnation") as refused:
        table.join("pi", 1, 0.1)
    assert refused.value.code == "unknown-worker"
    back = table.join("pi", 2, 0.1)
    assert (back.worker, back.state, back.note) == (0, "alive", "")
    assert table.entry(0, 2) is not None
    assert table.entry(0, 1) is None


def test_similar_names_are_different_workers() -> None:
    table = Membership(9.0)
    table.join("pi2", 7, 0.0)
    assert table.join("pi", 7, 0.0).name == "pi"
    assert len(table.entries()) == 2


def test_a_restored_table_keeps_numbers_and_figures() -> None:
    table = Membership(9.0)
    table.join("a", 1, 0.0)
    table.join("b", 2, 0.0)
    table.renew(1, 2, 1.0, Heartbeat(1, 2, steps=3, samples=30))
    state = msgspec.json.decode(msgspec.json.encode(table.export()), type=MembershipState)
    again = Membership.restored(state, 9.0)
    again.check_invariants()
    assert again.live() == ()
    assert again.revision > table.revision
    back = again.join("b", 5, 100.0)
    assert (back.worker, back.totals.samples, back.totals.steps) == (1, 30, 3)
    assert again.join("c", 6, 100.0).worker == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "renew", "leave", "idle", "expire", "restore"]),
            st.sampled_from(["", "pi", "pi-2", "pc"]),
            st.integers(1, 6),
            st.floats(0, 4),
            st.none() | st.builds(Place, st.sampled_from(["one", "two"]), st.integers(1, 4)),
        ),
        max_size=40,
    )
)
def test_the_table_never_contradicts_itself(
    steps: list[tuple[str, str, int, float, Place | None]],
) -> None:
    table, now = Membership(6.0), 0.0
    for action, name, incarnation, passed, place in steps:
        now += passed
        worker = incarnation % 3
        if action == "join":
            try:
                before = table.predecessor(name, incarnation, now, place)
                entry = table.join(name, incarnation, now, place=place)
                assert before is None or before.worker == entry.worker
            except RefusedError:
                continue
            assert table.entry(entry.worker, incarnation) is not None
        elif action == "renew":
            table.renew(worker, incarnation, now)
        elif action == "leave":
            table.leave(worker, incarnation)
        elif action == "idle":
            table.set_idle(worker, incarnation, incarnation % 2 == 0)
        elif action == "expire":
            table.expire(now)
            assert all(now - entry.seen_at <= 6.0 for entry in table.live())
        else:
            table = Membership.restored(table.export(), 6.0)
        table.check_invariants()
        members = table.members().members
        assert len({member.worker for member in members}) == len(members)


def test_a_place_under_a_suffix_is_settled_before_it_is_taken_over() -> None:
    table = Membership(10.0, recent_seconds=3.0)
    table.join("pi", 1, 0.0)
    second = table.join("pi", 2, 0.0)
    assert second.name == "pi-2"
    table.renew(0, 1, 8.0)
    assert table.predecessor("pi", 3, 1.0) is None
    before = table.predecessor("pi", 3, 8.0)
    assert before is not None
    assert before.name == "pi-2"
    assert table.join("pi", 3, 8.0).worker == second.worker
    assert table.predecessor("pi", 3, 8.0) is None


def test_whoever_comes_from_a_dead_ones_place_gets_its_name_at_once() -> None:
    table = Membership(9.0)
    old = table.join("pi", 1, 0.0, place=Place("here", 1))
    beside = table.join("pi", 2, 0.0, place=Place("here too", 1))
    elsewhere = table.join("pi", 3, 0.0, place=Place("there", 5))
    assert [entry.name for entry in (old, beside, elsewhere)] == ["pi", "pi-2", "pi-3"]
    assert table.predecessor("pi", 4, 0.0, Place("here too", 2)) == beside
    again = table.join("pi", 4, 0.0, place=Place("here too", 2))
    assert (again.name, again.worker) == ("pi-2", beside.worker)
    assert not table.renew(beside.worker, 2, 0.1), "the old process is dead"
    assert table.live_count == 3
    assert table.join("pi", 5, 0.0, place=Place("not seen before", 1)).name == "pi-4"
    assert table.join("pi", 6, 0.0).name == "pi-5"


def test_a_process_that_joins_again_gets_its_own_name() -> None:
    """As when its goodbye was not heard; it then asks by the name that it was given."""
    table = Membership(9.0)
    table.join("pi", 1, 0.0, place=Place("there", 1))
    own = table.join("pi", 2, 0.0, place=Place("here", 1))
    again = table.join("pi-2", 3, 0.1, place=Place("here", 1))
    assert (again.name, again.worker) == ("pi-2", own.worker)


def test_a_place_keeps_its_name_over_every_end() -> None:
    table = Membership(9.0)
    table.join("pi", 1, 0.0, place=Place("there", 1))
    own = table.join("pi", 2, 0.0, place=Place("here", 1))
    table.leave(0, 1)
    table.leave(1, 2)
    table = Membership.restored(table.export(), 9.0)
    again = table.join("pi", 3, 100.0, place=Place("here", 2))
    assert (again.name, again.worker) == (own.name, own.worker)


def test_a_join_that_comes_after_its_successors_takes_nobodys_place() -> None:
    table = Membership(9.0)
    first = table.join("pi", 1, 0.0, place=Place("here", 1))
    third = table.join("pi", 3, 0.1, place=Place("here", 3))
    assert third.worker == first.worker
    late = table.join("pi", 2, 0.2, place=Place("here", 2))
    assert (late.name, late.place) == ("pi-2", None)
    assert table.entry(third.worker, 3) == third
    table.check_invariants()
