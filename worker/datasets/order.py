"""The order in which an epoch visits its samples: a permutation that nobody has to store or send.

Any worker can turn any range of positions into sample indices by itself, given four integers. All
arithmetic is on unsigned 64-bit integers, so every machine, CPU and NumPy version agrees.

The permutation is a Feistel network over the smallest power of two that holds all positions
(Luby & Rackoff 1988); values that fall outside are sent through it again until they come to lie
inside (cycle walking, Black & Rogaway 2002), which keeps it a bijection.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

#: Even, so that the two halves end with the widths they began with.
ROUNDS = 8

_WORD = (1 << 64) - 1


def permuted(positions: NDArray[np.int64], n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Sample indices, int64 of the shape of `positions`, at these positions of an epoch's order.

    positions: each in 0..n-1. Over all of them the indices are a permutation of 0..n-1, which
    depends on seed and epoch (any integers; their low 64 bits count).
    Raises ValueError for a position outside of the epoch.
    """
    if positions.size == 0:
        return np.zeros(positions.shape, np.int64)
    if int(positions.min()) < 0 or int(positions.max()) >= n:
        raise ValueError(f"positions must lie in 0..{n - 1}")
    keys = _round_keys(seed, epoch)
    bits = max(2, (n - 1).bit_length())
    values = _feistel(positions.astype(np.uint64).ravel(), bits, keys)
    limit = np.uint64(n)
    outside = np.flatnonzero(values >= limit)
    while outside.size:
        values[outside] = _feistel(values[outside], bits, keys)
        outside = outside[values[outside] >= limit]
    return values.astype(np.int64).reshape(positions.shape)


def _feistel(values: Words, bits: int, keys: list[np.uint64]) -> Words:
    """A bijection on integers of `bits` bits; halves of unequal width swap theirs each round."""
    left_bits, right_bits = bits // 2, bits - bits // 2
    left = values >> np.uint64(right_bits)
    right = values & np.uint64((1 << right_bits) - 1)
    for key in keys:
        mask = np.uint64((1 << left_bits) - 1)
        left, right = right, left ^ (_mix(right ^ key) & mask)
        left_bits, right_bits = right_bits, left_bits
    joined: Words = (left << np.uint64(right_bits)) | right
    return joined


def _mix(words: Words) -> Words:
    """The finaliser of splitmix64 (Steele et al. 2014), modulo 2**64; array products wrap."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = words ^ (words >> np.uint64(31))
    return mixed


def _round_keys(seed: int, epoch: int) -> list[np.uint64]:
    start = _mix(np.array([seed & _WORD], np.uint64)) ^ np.uint64(epoch & _WORD)
    steps = np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return list(_mix(_mix(start) + steps))
