"""What a host's connection to the network can carry, and what goes wrong on it."""

from __future__ import annotations

from dataclasses import dataclass

#: Payload of a full TCP segment on Ethernet, and the headers in front of it: Ethernet, IPv4, TCP
#: with timestamps.
SEGMENT_BYTES = 1448
HEADERS_BYTES = 66


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """One kind of connection, the same up and down.

    bits_per_second: raw line rate; headers of segments and of HTTP come off it.
    delay_seconds: one way, propagation and forwarding. jitter_seconds: uniform extra, 0 to jitter.
    loss, duplication, reordering, corruption: probabilities per segment; TCP finds such corruption.
    corruption_undetected: probability per body that one bit is flipped and TCP does not notice.
    shared: half-duplex, with all hosts on the medium, up and down, sharing it.
    buffer_bytes: of the queue in front of it; what overflows is lost.
    """

    name: str
    bits_per_second: float
    delay_seconds: float = 0.0001
    jitter_seconds: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    corruption: float = 0.0
    corruption_undetected: float = 0.0
    shared: bool = False
    buffer_bytes: int = 262_144


class Channel:
    """A queue that is served in order: one direction of a cable, or the air that many share."""

    __slots__ = ("free_at",)

    def __init__(self) -> None:
        #: When everything that was accepted so far will have passed, in seconds.
        self.free_at = 0.0

    def reserve(self, now: float, seconds: float) -> float:
        """Take the next free stretch of so many seconds; returns when it ends."""
        began = self.free_at
        if began < now:
            began = now
        self.free_at = ends = began + seconds
        return ends


class Port:
    """Where a host is connected: its link as it is now, and the bytes that went through.

    medium: the channel that both directions share, on a half-duplex link.
    """

    __slots__ = ("base", "down", "profile", "received_bytes", "sent_bytes", "up")

    def __init__(self, profile: LinkProfile, medium: Channel | None = None) -> None:
        self.base = profile
        self.profile = profile
        self.up = medium or Channel()
        self.down = medium or Channel()
        self.sent_bytes = 0
        self.received_bytes = 0


def wire_bytes(payload_bytes: int) -> int:
    """What a payload takes on the line, with the headers of its segments."""
    return payload_bytes + HEADERS_BYTES * -(-payload_bytes // SEGMENT_BYTES)


def either(first: float, second: float) -> float:
    """The probability that at least one of two independent things happens."""
    return first + second - first * second
