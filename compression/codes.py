"""How payloads are laid out; kernels/bucket.h says the same in C++.

A quantized payload is the scales of all buckets, each the upper half of a float32 (bfloat16, 8
significant bits), and then the codes of all buckets, the last bucket padded.
"""

from __future__ import annotations

import functools

#: Values that share a scale. Shards are cut at multiples of it, so that what becomes of an element
#: does not depend on how many shards there are.
BUCKET = 256

#: Magnitudes from here on count as infinite to all codecs that code more than single values.
INFINITE_FROM = 2.0**127

# Ids of the codecs whose payloads the kernels read and write.
FLOAT32 = 0
FLOAT16 = 1
BFLOAT16 = 2
Q8 = 3
Q4 = 4
TERNARY = 5
SIGN = 6
ECSQ = 7

#: Bytes of the codes of one bucket, by code; the scale comes on top where there is one.
CODE_BYTES = (1024, 512, 512, 256, 128, 64, 32, 128)

#: Largest magnitude of a code, in scales.
LEVELS = {Q8: 128, Q4: 8, TERNARY: 1, SIGN: 1, ECSQ: 8}


def buckets_of(elements: int) -> int:
    return -(-elements // BUCKET)


@functools.lru_cache(maxsize=4096)
def payload_bytes(code: int, elements: int) -> int:
    """Exact size of a payload. Those without scales are not padded."""
    if code in LEVELS:
        return buckets_of(elements) * (2 + CODE_BYTES[code])
    return elements * (4 if code == FLOAT32 else 2)
