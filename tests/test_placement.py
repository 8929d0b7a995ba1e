"""Which servers hold which shard, and who steps in where a copy is missing."""

from __future__ import annotations

import pytest

from psedge.protocol.errors import ConfigError
from psedge.protocol.replicas import Peer, Reign
from psedge.supervisor.placement import QUIET_SECONDS, BackOff, Offer, place, recruit


def reign(*servers: int, learners: tuple[int, ...] = ()) -> Reign:
    """Of shard 0; the first is the primary, the others are backups."""
    peers = [Peer(server, f"http://{server}") for server in servers]
    return Reign(
        0,
        1,
        0,
        peers[0],
        tuple(peers[1:]),
        tuple(Peer(server, f"http://{server}") for server in learners),
    )


@pytest.mark.parametrize(
    ("shards", "servers", "replicas", "expected"),
    [
        (1, [0], 1, [(0, ())]),
        (1, [0], 3, [(0, ())]),
        (2, [0, 1], 2, [(0, (1,)), (1, (0,))]),
        (3, [0, 1, 2], 2, [(0, (1,)), (1, (2,)), (2, (0,))]),
        (3, [0, 1, 2], 3, [(0, (1, 2)), (1, (2, 0)), (2, (0, 1))]),
        (2, [0, 2, 5], 2, [(0, (2,)), (2, (5,))]),
        (3, [4, 7], 2, [(4, (7,)), (7, (4,)), (4, (7,))]),
    ],
)
def test_shards_begin_in_a_ring(
    shards: int, servers: list[int], replicas: int, expected: list[tuple[int, tuple[int, ...]]]
) -> None:
    found = place(shards, servers, replicas)
    assert [(each.primary, each.backups) for each in found] == expected
    assert [each.shard for each in found] == list(range(shards))
    assert all(str(each.primary) in each.reason for each in found)


def test_without_a_server_there_is_no_start() -> None:
    with pytest.raises(ConfigError, match="no live server"):
        place(1, [], 1)


@pytest.mark.parametrize(
    ("have", "offers", "wanted", "blocked", "expected", "words"),
    [
        (reign(0, 1), [Offer(2)], 2, {}, None, "2 of 2 copies"),
        (reign(0, learners=(1,)), [Offer(2)], 2, {}, None, "2 of 2 copies"),
        (reign(0), [Offer(0, copies=2), Offer(1, copies=1), Offer(2)], 2, {}, 2, "spare"),
        (reign(0), [Offer(2, copies=3), Offer(1, copies=1)], 2, {}, 1, "fewest others, 1"),
        (reign(0), [Offer(3), Offer(4, copies=1, keeps=(0,))], 2, {}, 4, "an older copy"),
        (reign(0), [Offer(0)], 2, {}, None, "every live server has one"),
        (reign(0), [Offer(1)], 2, {1: 8.0}, None, "waits 8 s more"),
        (reign(0), [Offer(1), Offer(2, copies=5)], 2, {1: 8.0}, 2, "fewest"),
        (reign(0, 1), [Offer(1), Offer(2), Offer(0)], 3, {}, 2, "2 of 3 copies"),
    ],
)
def test_a_missing_copy_finds_its_server(
    have: Reign,
    offers: list[Offer],
    wanted: int,
    blocked: dict[int, float],
    expected: int | None,
    words: str,
) -> None:
    server, why = recruit(have, offers, wanted, (), blocked)
    assert server == expected
    assert words in why


def test_only_who_can_undo_the_runs_lossless_stages_may_learn() -> None:
    offers = [Offer(1, lossless=("none",)), Offer(2, lossless=("zstd", "none"), copies=4)]
    assert recruit(reign(0), offers, 2, ("none", "zstd"), {})[0] == 2
    server, why = recruit(reign(0), offers[:1], 2, ("none", "zstd"), {})
    assert server is None
    assert "lacks a lossless stage" in why


def test_who_comes_and_goes_waits_longer_each_time() -> None:
    back_off, now = BackOff(), 100.0
    waits = []
    for _ in range(9):
        waits.append(back_off.dropped(0, "http://1", now))
        now += waits[-1]
        assert back_off.wait(0, "http://1", now) == 0
        back_off.admitted(0, "http://1", now)
        now += 1.0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert back_off.wait(1, "http://1", now) == 0, "another shard's copy has done nothing"


def test_a_quiet_minute_in_the_set_makes_up_for_everything() -> None:
    back_off = BackOff()
    for now in (0.0, 10.0, 20.0):
        back_off.dropped(0, "http://1", now)
    back_off.admitted(0, "http://1", 30.0)
    assert back_off.dropped(0, "http://1", 30.0 + QUIET_SECONDS) == 1.0
