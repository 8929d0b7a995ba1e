"""Which processes are remembered of a run whose servers are started again and again."""

from __future__ import annotations

from psedge.protocol.messages import Register
from psedge.supervisor.server_list import ServerEntry, ServerList


def started(servers: ServerList, host: str, incarnation: int, store: str = "") -> ServerEntry:
    entry = Register("0", 1, host, 7700, incarnation, ("none",), store=store)
    return servers.register(entry, "", float(incarnation))


def numbers(servers: ServerList, *held: int) -> list[int]:
    return [record.server for record in servers.records(held)]


def test_who_was_started_again_and_again_is_remembered_once() -> None:
    servers = ServerList()
    for incarnation in range(100):
        started(servers, "a", incarnation, "folder a")
        started(servers, "b", 1000 + incarnation)
    assert numbers(servers) == [198, 199]
    assert numbers(servers, 3, 10) == [3, 10, 198, 199]
    assert [entry.server for entry in servers.lasting((3, 10))] == [3, 10, 198, 199]
    assert started(servers, "c", 5000).server == 200


def test_nobody_is_forgotten_who_may_live_or_whose_folder_nobody_has_taken_over() -> None:
    servers = ServerList()
    started(servers, "a", 1, "folder a").prove_gone("it is dead")
    started(servers, "a", 2, "folder b")
    started(servers, "b", 3).prove_gone("it is dead")
    started(servers, "c", 4, "folder c")
    started(servers, "d", 5, "folder c")
    assert numbers(servers) == [0, 1, 2, 3, 4]


def test_numbers_outlive_the_supervisor_and_the_forgotten() -> None:
    servers, again = ServerList(), ServerList()
    for incarnation in range(3):
        started(servers, "a", incarnation)
        started(servers, "b", 10 + incarnation)
    again.restore(servers.records((1,)), 100.0)
    again.check_invariants()
    assert numbers(again, 1) == [1, 4, 5]
    assert [entry.incarnation for entry in again.lasting((1,))] == [10, 2, 12]
    assert again.entries[0].gone
    assert again.expire(100.0) == [], "nobody hears of the end of the forgotten a second time"
    assert started(again, "a", 2).server == 4
    assert started(again, "c", 20).server == 6
