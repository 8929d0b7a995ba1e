"""Which codec and lossless stage a worker uses in one direction, and why.

The least lossy codec whose predicted time is near the shortest wins: on a fast link that is float32
itself. A choice that was made is left only for one that is clearly better, because measurements of
a shared link scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psedge.compression.codec_speed import Speed

#: Candidates of `auto`, the least lossy first. All of them lost no accuracy, with error feedback.
CANDIDATES = ("identity", "float16", "q8", "q4", "ecsq")
#: Times over the shortest one that count as near it.
NEAR = 1.1
#: So much of a step may be given for a less lossy codec.
STEP_SHARE = 0.02
#: Less than this is lost in the network's own scatter.
NOISE_SECONDS = 0.001
#: A new codec must be better by this factor, a new lossless stage by that one.
HYSTERESIS = 1.25
STAGE_HYSTERESIS = 1.05


@dataclass(frozen=True, slots=True)
class Choice:
    """reason: in words, for people."""

    codec: str
    lossless: str
    reason: str = ""

    @property
    def name(self) -> str:
        """Such as `q4` or `ecsq+zstd`."""
        return self.codec if self.lossless == "none" else f"{self.codec}+{self.lossless}"


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a worker's links, and what crosses it.

    seconds_per_byte: with all shards' transfers under way at once. coded: elements that codecs see.
    tail: elements that travel as float32 whatever the codec. way: `up` or `down`.
    """

    seconds_per_byte: float
    coded: int
    tail: int
    way: str


def seconds(speed: Speed, link: Link) -> float:
    """Predicted time of one transfer: encode, send, decode."""
    size = speed.bytes * link.coded + 4 * link.tail
    work = (speed.encode_seconds + speed.decode_seconds) * link.coded
    return size * link.seconds_per_byte + work


def choose(
    speeds: Sequence[Speed], link: Link, step_seconds: float, current: Choice | None
) -> Choice:
    """The choice among `speeds`, whose codecs come in order, the least lossy first.

    step_seconds: of a whole training step. current: what has been used so far.
    """
    per_codec = [_stage(speeds, codec, link, current) for codec in _codecs(speeds)]
    times = [seconds(speed, link) for speed in per_codec]
    best = min(times)
    limit = max(NEAR * best, best + STEP_SHARE * step_seconds, best + NOISE_SECONDS)
    at = next(index for index, time in enumerate(times) if time <= limit)
    names = [speed.codec for speed in per_codec]
    if current is not None and current.codec in names:
        now_at = names.index(current.codec)
        if not _moves(times, at, now_at, limit):
            at = now_at
    taken = per_codec[at]
    return Choice(taken.codec, taken.lossless, _reason(taken, speeds, link))


def _moves(times: Sequence[float], at: int, now_at: int, limit: float) -> bool:
    """Whether `at` is better than `now_at` by so much that a change is due."""
    if at < now_at:
        return HYSTERESIS * times[at] <= max(limit, times[now_at])
    return times[now_at] > HYSTERESIS * limit


def _codecs(speeds: Sequence[Speed]) -> list[str]:
    return list(dict.fromkeys(speed.codec for speed in speeds))


def _stage(speeds: Sequence[Speed], codec: str, link: Link, current: Choice | None) -> Speed:
    """The codec with the lossless stage that is fastest here; the present one if it is near."""
    of_codec = [speed for speed in speeds if speed.codec == codec]
    best = min(of_codec, key=lambda speed: seconds(speed, link))
    for speed in of_codec:
        same = current is not None and (codec, speed.lossless) == (current.codec, current.lossless)
        if same and seconds(speed, link) <= STAGE_HYSTERESIS * seconds(best, link):
            return speed
    return best


def _reason(taken: Speed, speeds: Sequence[Speed], link: Link) -> str:
    name = Choice(taken.codec, taken.lossless).name
    whole = 4.0 * (link.coded + link.tail) * link.seconds_per_byte
    plain = next((speed for speed in speeds if speed.codec == "identity"), None)
    if plain is not None:
        whole = seconds(plain, link)
    reason = f"{name}: {_rate(link.seconds_per_byte)} {link.way}, {_time(whole)} as float32"
    if taken.codec != "identity" or taken.lossless != "none":
        reason += f", {_time(seconds(taken, link))} as {name}"
    return reason


def _rate(seconds_per_byte: float) -> str:
    """In the units that links are sold in."""
    bits = 8 / seconds_per_byte if seconds_per_byte > 0 else float("inf")
    if bits >= 20e9:
        return "over 20 Gb/s"
    if bits >= 1e9:
        return f"{bits / 1e9:.2g} Gb/s"
    return f"{bits / 1e6:.3g} Mb/s"


def _time(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.095 else f"{1000 * value:.2g} ms"
