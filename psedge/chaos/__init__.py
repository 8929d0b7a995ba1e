"""Breaks a test cluster on purpose and judges what follows: `psedge chaos`."""
