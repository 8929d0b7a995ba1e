"""How a model becomes flat vectors: the agreement between workers and servers.

A model's state is four vectors. Each tensor of the model lies in one of them, whole and in C
order, in the order in which the model names its tensors:

- parameters: trainable, float32 on the servers whatever their dtype in the model; cut into shards.
  Tensors of two or more dimensions come first, then biases, norms and other vectors: codecs may be
  lossy about the former, the latter always travel as float32;
- buffers: floating-point buffers such as BatchNorm statistics, float32; merged by samples;
- counters: buffers of integer and bool type, raw bytes in their own dtype; the latest wins;
- frozen: parameters that take no gradient, raw bytes in their own dtype; sent once, at join.

A tensor known under several names (tied weights) appears once, its other names are `aliases`.
"""

from __future__ import annotations

import itertools
from typing import Literal

import msgspec

Role = Literal["parameter", "buffer", "counter", "frozen"]

#: Bytes per element of every dtype a model may hold.
DTYPE_BYTES = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float64": 8,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


class TensorSpec(msgspec.Struct, frozen=True):
    """One tensor of the model.

    offset: where it starts in the vector of its role, in elements for parameters and buffers,
    in bytes for counters and frozen tensors.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    offset: int
    aliases: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def bytes(self) -> int:
        return self.elements * DTYPE_BYTES[self.dtype]

    @property
    def extent(self) -> int:
        """Length in the vector of its role, in that vector's unit."""
        return self.elements if self.role in ("parameter", "buffer") else self.bytes

    def describe(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)} ({self.role})"


class Layout(msgspec.Struct, frozen=True):
    """Every tensor of a model, ordered by role and offset."""

    tensors: tuple[TensorSpec, ...]

    def of_role(self, role: Role) -> tuple[TensorSpec, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.role == role)

    def length(self, role: Role) -> int:
        """Length of a role's vector: elements (parameter, buffer) or bytes (counter, frozen)."""
        return sum(tensor.extent for tensor in self.of_role(role))

    def digest(self) -> str:
        """Equal for equal layouts."""
        # Brings OpenSSL with it, 4 MB that a codec on a small machine has no use for.
        import hashlib

        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def difference(self, other: Layout) -> str | None:
        """The first tensor that differs, in words, or None when the layouts are equal."""
        for mine, theirs in zip(self.tensors, other.tensors, strict=False):
            if mine != theirs:
                return f"{mine.describe()} here, {theirs.describe()} there"
        shared = min(len(self.tensors), len(other.tensors))
        if len(self.tensors) > shared:
            return f"{self.tensors[shared].describe()} here, nothing there"
        if len(other.tensors) > shared:
            return f"nothing here, {other.tensors[shared].describe()} there"
        return None


class TensorSlice(msgspec.Struct, frozen=True):
    """The part of one tensor that lies in a slice, in the slice's coordinates.

    columns: elements in a row of the tensor, seen as a matrix [shape[0], all the rest].
    """

    start: int
    stop: int
    columns: int


class Slice(msgspec.Struct, frozen=True):
    """A contiguous range of the parameter vector, as codecs need to know it.

    offset: where it starts in the whole vector, in elements. elements: how many it has.
    tensors: parts of tensors with two or more dimensions, from element 0 on and without gaps; what
    follows them is of one dimension and travels as float32.
    """

    offset: int
    elements: int
    tensors: tuple[TensorSlice, ...]

    @property
    def coded(self) -> int:
        """Elements, from the first on, that a lossy codec may change."""
        return self.tensors[-1].stop if self.tensors else 0


def slice_of(layout: Layout, start: int, stop: int) -> Slice:
    """Elements start..stop of the parameter vector."""
    tensors = tuple(
        TensorSlice(
            max(tensor.offset, start) - start,
            min(tensor.offset + tensor.extent, stop) - start,
            tensor.elements // tensor.shape[0],
        )
        for tensor in layout.of_role("parameter")
        if len(tensor.shape) > 1
        and max(tensor.offset, start) < min(tensor.offset + tensor.extent, stop)
    )
    return Slice(start, stop - start, tensors)


def cut(length: int, shards: int, grain: int = 1) -> list[tuple[int, int]]:
    """Ranges (start, stop) that cut a vector of `length` into `shards` of equal size.

    Sizes differ by at most one grain, so tensors are cut wherever a boundary falls. Every boundary
    is a multiple of `grain`, or of the largest half, quarter, ... of it that leaves no shard empty.
    """
    while grain > 1 and length < shards * grain:
        grain //= 2
    grains = length // grain
    edges = [grains * index // shards * grain for index in range(shards)]
    return list(itertools.pairwise([*edges, length]))
