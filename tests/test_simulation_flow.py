"""TCP as the virtual network has it, without an event loop: channels, windows, losses."""

from __future__ import annotations

import heapq
import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psedge.simulation.network.body import Body
from psedge.simulation.network.flow import (
    GIVE_UP_SECONDS,
    INITIAL_WINDOW_BYTES,
    TIMEOUT_SECONDS,
    Congestion,
    Flow,
)
from psedge.simulation.network.links import Channel, LinkProfile, Port, either, wire_bytes
from psedge.simulation.network.route import Route

FAST = LinkProfile("fast", 100e6, buffer_bytes=2**24)


def route(first: LinkProfile = FAST, second: LinkProfile = FAST, *, open_: bool = True) -> Route:
    way = Route(Port(first), Port(second))
    way.update(1, open_=open_, acknowledged=open_)
    return way


def carried(flow: Flow, now: float = 0.0) -> list[tuple[float, int]]:
    """Run a flow to its end; returns when which number of bytes was delivered."""
    deliveries = []
    while True:
        if flow.group:
            amount = flow.group
            at = flow.cross(now)
            assert at is not None
            deliveries.append((at, amount))
        due = flow.advance(now)
        if due is None:
            return deliveries
        assert due >= now
        now = due


def test_a_channel_serves_in_order_and_never_two_at_once():
    channel = Channel()
    assert channel.reserve(1.0, 2.0) == 3.0
    assert channel.reserve(1.5, 1.0) == 4.0
    assert channel.reserve(10.0, 1.0) == 11.0


def test_headers_are_counted_per_segment():
    assert wire_bytes(0) == 0
    assert wire_bytes(1) == 67
    assert wire_bytes(1448) == 1448 + 66
    assert wire_bytes(1449) == 1449 + 2 * 66


def test_either_of_two_chances():
    assert either(0.0, 0.0) == 0.0
    assert either(0.5, 0.5) == 0.75
    assert either(1.0, 0.3) == 1.0


def test_a_long_message_takes_the_time_of_the_slower_link():
    slow = LinkProfile("slow", 10e6, buffer_bytes=2**24)
    for way in (route(slow, FAST), route(FAST, slow)):
        deliveries = carried(Flow(way, Congestion(), 10**6, math.inf, Random(1)))
        ideal = 8 * wire_bytes(10**6) / 10e6
        assert ideal < deliveries[-1][0] < 1.02 * ideal


def test_a_window_starts_small_grows_and_starts_anew_after_a_pause():
    far = LinkProfile("far", 100e6, delay_seconds=0.025, buffer_bytes=2**24)
    control = Congestion()
    first = carried(Flow(route(far, far), control, 200_000, math.inf, Random(1)))[-1][0]
    assert first > 0.05 + 3 * 0.1, "one way, and three round trips until the window is open"
    control.begin(first)
    again = carried(Flow(route(far, far), control, 200_000, math.inf, Random(1)))[-1][0]
    assert again == pytest.approx(0.05 + 8 * wire_bytes(200_000) / 100e6, rel=0.1)
    control.begin(first + 10 * TIMEOUT_SECONDS)
    assert control.window == INITIAL_WINDOW_BYTES


def test_a_receiver_without_room_stops_its_sender():
    flow = Flow(route(), Congestion(), 100_000, 30_000, Random(1))
    assert sum(amount for _, amount in carried(flow)) == 30_000
    assert not flow.given_up
    flow.allowance = 100_000
    assert sum(amount for _, amount in carried(flow, 1.0)) == 70_000


def test_what_a_closed_way_swallows_is_tried_again_until_it_is_given_up():
    flow = Flow(route(open_=False), Congestion(), 1000, math.inf, Random(1))
    now, pauses = 0.0, []
    while not flow.given_up:
        assert flow.advance(now) is not None
        assert flow.cross(now) is None
        due = flow.backoff(now)
        if due is not None:
            pauses.append(due - now)
            now = due
    assert pauses[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert max(pauses) == 120.0
    assert GIVE_UP_SECONDS < sum(pauses) <= GIVE_UP_SECONDS + 120.0


def test_a_queue_that_overflows_loses_what_does_not_fit():
    narrow = LinkProfile("narrow", 10e6, buffer_bytes=30_000)
    way = route(LinkProfile("wide", 1e9), narrow)
    control = Congestion()
    deliveries = carried(Flow(way, control, 500_000, math.inf, Random(1)))
    assert sum(amount for _, amount in deliveries) == 500_000
    assert way.source.sent_bytes > wire_bytes(500_000)
    assert control.threshold < 2**22


links = st.builds(
    LinkProfile,
    name=st.just("any"),
    bits_per_second=st.floats(1e6, 1e10),
    delay_seconds=st.floats(0.0, 0.1),
    jitter_seconds=st.floats(0.0, 0.05),
    loss=st.floats(0.0, 0.3),
    duplication=st.floats(0.0, 0.3),
    reordering=st.floats(0.0, 0.3),
    corruption=st.floats(0.0, 0.3),
    buffer_bytes=st.integers(10_000, 10**6),
)


@settings(max_examples=60, deadline=None)
@given(links, links, st.lists(st.integers(1, 300_000), min_size=1, max_size=4), st.integers())
def test_every_message_arrives_in_order_and_no_faster_than_its_links(first, second, sizes, seed):
    way = route(first, second)
    random = Random(seed)
    flows = [Flow(way, Congestion(), size, math.inf, random) for size in sizes]
    arrived = [0.0] * len(flows)
    totals = [0] * len(flows)
    due = [(0.0, index) for index in range(len(flows))]
    while due:
        now, index = heapq.heappop(due)
        flow = flows[index]
        if flow.group:
            amount = flow.group
            at = flow.cross(now)
            assert at is not None
            assert at >= max(now, arrived[index]), "in order, and not before it was sent"
            arrived[index] = at
            totals[index] += amount
        then = flow.advance(now)
        if then is not None:
            heapq.heappush(due, (then, index))
    assert totals == sizes
    slower = min(first.bits_per_second, second.bits_per_second)
    assert max(arrived) >= 8 * sum(map(wire_bytes, sizes)) / slower * 0.999
    assert way.source.sent_bytes >= sum(map(wire_bytes, sizes))
    assert way.target.received_bytes >= sum(map(wire_bytes, sizes))


@given(st.lists(st.binary(max_size=20), max_size=6), st.data())
def test_a_body_is_its_parts_one_after_the_other(parts, data):
    whole = b"".join(parts)
    body = Body(parts)
    assert body.length == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    target = bytearray(stop - start)
    body.copy_into(memoryview(target), start)
    assert target == whole[start:stop]
    if stop > start:
        bit = data.draw(st.integers(8 * start, 8 * stop - 1))
        body.flip(bit)
        body.keep()
        flipped = bytearray(stop - start)
        body.copy_into(memoryview(flipped), start)
        assert [i for i in range(len(target)) if target[i] != flipped[i]] == [bit // 8 - start]
