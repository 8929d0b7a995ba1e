"""The way from one host to another, as both links and all partitions are at present."""

from __future__ import annotations

from psedge.simulation.network.links import SEGMENT_BYTES, Port, either

#: A flow hands over at most so many segments, or so much of the slower link's time, before others
#: have their turn; a segment at least.
GROUP_SEGMENTS = 45
GROUP_SECONDS = 0.005


class Route:
    """One direction between two ports; `update` brings it up to date.

    up, down: seconds per byte of the first and the second link. loss: of a segment, for any reason.
    open: whether segments pass. acknowledged: whether acknowledgements come back.
    """

    __slots__ = (
        "acknowledged",
        "buffer_bytes",
        "corruption_undetected",
        "delay",
        "down",
        "duplication",
        "group_bytes",
        "jitter",
        "loss",
        "open",
        "reordering",
        "source",
        "target",
        "up",
        "version",
    )

    def __init__(self, source: Port, target: Port) -> None:
        self.source = source
        self.target = target
        #: Of the state of the network that this route was last brought up to.
        self.version = -1
        self.open = True
        self.acknowledged = True
        self.delay = 0.0

    def update(self, version: int, *, open_: bool, acknowledged: bool) -> None:
        """The links, a partition or a host has changed."""
        first, second = self.source.profile, self.target.profile
        self.version = version
        self.open = open_
        self.acknowledged = acknowledged
        self.up = 8.0 / first.bits_per_second
        self.down = 8.0 / second.bits_per_second
        self.delay = first.delay_seconds + second.delay_seconds
        self.jitter = first.jitter_seconds + second.jitter_seconds
        self.loss = either(
            either(first.loss, second.loss), either(first.corruption, second.corruption)
        )
        self.duplication = either(first.duplication, second.duplication)
        self.reordering = either(first.reordering, second.reordering)
        self.corruption_undetected = either(
            first.corruption_undetected, second.corruption_undetected
        )
        self.buffer_bytes = second.buffer_bytes
        segments = int(GROUP_SECONDS / (SEGMENT_BYTES * max(self.up, self.down)))
        self.group_bytes = SEGMENT_BYTES * min(max(segments, 1), GROUP_SEGMENTS)
