"""Which writes are done in the event loop: short ones, as long as the disk makes nobody wait."""

from __future__ import annotations

from psedge.protocol.write_pace import QUICK_BYTES, REST_SECONDS, SLOW_SECONDS, WritePace


def test_only_short_writes_are_quick() -> None:
    pace = WritePace()
    assert pace.is_quick(QUICK_BYTES, 0.0)
    assert not pace.is_quick(QUICK_BYTES + 1, 0.0)


def test_nothing_is_quick_while_something_is_forced_to_disk() -> None:
    pace = WritePace()
    with pace.forcing(), pace.forcing():
        assert not pace.is_quick(1, 0.0)
    assert pace.is_quick(1, 0.0)


def test_one_slow_write_is_enough_for_a_while() -> None:
    pace = WritePace()
    pace.took(SLOW_SECONDS, 0.0)
    assert pace.is_quick(1, 0.0)
    pace.took(2 * SLOW_SECONDS, 5.0)
    assert not pace.is_quick(1, 5.0 + REST_SECONDS / 2)
    assert pace.is_quick(1, 5.0 + REST_SECONDS)
