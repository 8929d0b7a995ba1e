"""How much a worker is handed at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from psedge.supervisor.range_size import RESERVE_SECONDS, range_samples


def test_it_is_enough_to_go_on_without_the_supervisor() -> None:
    assert range_samples(64, 16, 100.0, 800.0, 10**6) == 2000
    assert range_samples(64, 16, 100.0, 800.0, None) == 2000


def test_a_slow_worker_gets_no_less_than_the_config_says() -> None:
    assert range_samples(64, 16, 1.0, 800.0, 10**6) == 64
    assert range_samples(64, 16, 0.0, 800.0, 10**6) == 64
    assert range_samples(64, 16, 100.0, 0.0, 10**6) == 64


@given(
    st.integers(1, 8),
    st.integers(1, 64),
    st.floats(0, 1e4),
    st.floats(1, 1e5),
    st.integers(0, 10**7),
)
def test_towards_the_end_everybody_has_a_part_of_what_is_left(
    batches: int, push: int, rate: float, others: float, unclaimed: int
) -> None:
    least = batches * push
    found = range_samples(least, push, rate, rate + others, unclaimed)
    assert found % push == 0
    assert found >= least
    assert found <= max(least, rate * RESERVE_SECONDS)
    # Whoever gets it is done with it long before the others have done the rest.
    assert found == least or found / rate <= unclaimed / (rate + others) / 4 + 1e-6
