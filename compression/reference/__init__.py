"""The kernels in NumPy: the oracle of their tests, and what runs where no compiler was found.

Names and signatures are those of `_kernels.pyi`, and so are the results, bit for bit.
"""

from __future__ import annotations

from psedge.compression.reference.apply import adam, sgd
from psedge.compression.reference.dequantize import decode, decode_accumulate
from psedge.compression.reference.digest import digest
from psedge.compression.reference.quantize import encode, encode_delta
from psedge.compression.reference.signs import signs_accumulate, signs_check, signs_encode
from psedge.compression.reference.sparse import (
    sample_threshold,
    select,
    select_bins,
    sparse_accumulate,
    sparse_check,
    sparse_encode,
)

__all__ = [
    "adam",
    "decode",
    "decode_accumulate",
    "digest",
    "encode",
    "encode_delta",
    "instruction_sets",
    "sample_threshold",
    "select",
    "select_bins",
    "sgd",
    "signs_accumulate",
    "signs_check",
    "signs_encode",
    "sparse_accumulate",
    "sparse_check",
    "sparse_encode",
    "use_instruction_set",
]


def instruction_sets() -> list[str]:
    return ["numpy"]


def use_instruction_set(name: str) -> None:
    if name not in instruction_sets():
        raise ValueError("this processor has no such instruction set")
