"""What all tests share: Hypothesis draws the same examples in every run and never looks at time."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("psedge", deadline=None, derandomize=True, database=None)
settings.load_profile("psedge")
