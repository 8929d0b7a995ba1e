"""TensorBoard event records as bytes, so that they reach the disk through Storage like all else.

A record is its length, the masked CRC-32C of the length, an Event message, and that message's CRC.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import text as text_summary


def file_start(timestamp: float) -> bytes:
    """The record that every event file begins with."""
    return _record(Event(wall_time=timestamp, file_version="brain.Event:2"))


def resumed(step: int, timestamp: float) -> bytes:
    """Tells TensorBoard to drop what earlier files say from `step` on."""
    started = SessionLog(status=SessionLog.SessionStatus.START)
    return _record(Event(wall_time=timestamp, step=step, session_log=started))


def scalars(values: Mapping[str, float], step: int, timestamp: float) -> bytes:
    """One point of each curve. timestamp: seconds since 1970."""
    points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    return _record(Event(wall_time=timestamp, step=step, summary=Summary(value=points)))


def note(text: str, step: int, timestamp: float) -> bytes:
    """A line of text on TensorBoard's text page."""
    return _record(Event(wall_time=timestamp, step=step, summary=text_summary("notes", text)))


def _record(event: Event) -> bytes:
    data: bytes = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join((length, _crc(length), data, _crc(data)))


def _crc(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))
