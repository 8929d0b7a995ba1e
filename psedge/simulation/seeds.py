"""One seed, many independent sources of chance: each part of a simulation draws from its own.

A part that draws more or less often than before does not change what the others draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random


def seed_of(seed: int, *names: str | int) -> int:
    """A seed of 64 bits for the part with these names, in a run with this seed."""
    text = "\0".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def random_of(seed: int, *names: str | int) -> Random:
    """A generator for the part with these names."""
    # It draws faults and delays and guards nothing, so that it has to be predictable.
    return Random(seed_of(seed, *names))  # noqa: S311


def bits_of(seed: int, *names: str | int) -> Callable[[int], int]:
    """A source of random bits for the part with these names, in the place of `secrets.randbits`."""
    return random_of(seed, *names).getrandbits
