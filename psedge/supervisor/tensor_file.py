"""Writing safetensors files without torch and without joining their tensors in memory.

The safetensors package writes bfloat16 only from torch tensors and copies every array on the way.
The format is small: 8 bytes of header length, a JSON header, and the tensors' bytes. Files made
here are read with the package itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psedge.protocol.layout import DTYPE_BYTES, Layout, Role, TensorSpec
from psedge.protocol.ports import Buffer

#: The format's names of the dtypes in `psedge.protocol.layout`.
_FORMAT_NAMES = {
    "float64": "F64",
    "int64": "I64",
    "float32": "F32",
    "int32": "I32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}

_VECTOR_NAMES: dict[Role, str] = {
    "parameter": "parameters",
    "buffer": "buffers",
    "counter": "counters",
    "frozen": "frozen",
}

#: Readers map tensors in place, so each starts at a multiple of this many bytes.
_ALIGNMENT = 8

#: name, dtype as in the layout, shape, bytes.
Tensor = tuple[str, str, Sequence[int], Buffer]


def vectors_file(vectors: Mapping[str, NDArray[Any]]) -> list[Buffer]:
    """Flat vectors (float32 or uint8) as the parts of a safetensors file."""
    return _file([
        (name, vector.dtype.name, vector.shape, _bytes(vector)) for name, vector in vectors.items()
    ])  # fmt: skip


def model_file(layout: Layout, vectors: Mapping[str, NDArray[Any]]) -> list[Buffer]:
    """A model under its own names, dtypes and shapes, as the parts of a safetensors file.

    vectors: `parameters`, `buffers` (float32), `counters`, `frozen` (uint8), as in the layout.
    A tensor with several names is written under each, so that `load_state_dict` finds them all.
    """
    tensors: list[Tensor] = []
    for spec in layout.tensors:
        data = _tensor_bytes(spec, vectors[_VECTOR_NAMES[spec.role]])
        tensors += [(name, spec.dtype, spec.shape, data) for name in (spec.name, *spec.aliases)]
    return _file(tensors)


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 rounded to the nearest bfloat16, ties to even, as its 16 bits; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def _tensor_bytes(spec: TensorSpec, vector: NDArray[Any]) -> Buffer:
    part = vector[spec.offset : spec.offset + spec.extent]
    if spec.role in ("counter", "frozen") or spec.dtype == "float32":
        return _bytes(part)
    if spec.dtype == "bfloat16":
        return _bytes(bfloat16_bits(part))
    with np.errstate(over="ignore"):
        return _bytes(part.astype(np.dtype(spec.dtype).newbyteorder("<")))


def _bytes(array: NDArray[Any]) -> Buffer:
    return np.ascontiguousarray(array).view(np.uint8).data


def _file(tensors: list[Tensor]) -> list[Buffer]:
    """Wide dtypes first: then every tensor is aligned to its own width without gaps."""
    ordered = sorted(tensors, key=lambda tensor: -DTYPE_BYTES[tensor[1]])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dtype, shape, data in ordered:
        header[name] = {
            "dtype": _FORMAT_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [position, position + len(data)],
        }
        position += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return [len(text).to_bytes(8, "little"), text, *(tensor[3] for tensor in ordered)]
