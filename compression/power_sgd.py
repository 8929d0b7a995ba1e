"""power-sgd: each matrix as the product of two thin ones, float32.

PowerSGD (Vogels et al. 2019, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
Optimization"): one step of subspace iteration a payload, started from the payload before.

Payload, float32: per tensor the left factor [rank, rows] and the right one [rank, columns], or the
values themselves where these are no more. A decoder adds up the products of their rows, one rank
after the other and without a matrix library, so that all machines get the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from psedge.compression.bucketed import plain
from psedge.compression.codec import Bytes, Encoded, EncoderState, Float32Array
from psedge.compression.codes import BUCKET, INFINITE_FROM
from psedge.compression.push_codec import PushCodec
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice, TensorSlice

if TYPE_CHECKING:
    from typing_extensions import Self

LARGEST_RANK = 256

#: Values that are multiplied out at a time: two float32 arrays of it stay in the cache.
_CHUNK = 1 << 15


class PowerSgd(PushCodec):
    """A part of a tensor that a shard holds counts as rows of the tensor's columns, from the part's
    start on and padded with zeros: where a shard begins within a row the part's rank is higher than
    the tensor's, and the residual takes the difference.

    If a value is not finite, all tensors that share a bucket with it decode to zeros.
    """

    id: ClassVar[int] = 10
    name: ClassVar[str] = "power-sgd"

    def __init__(self, rank: int = 4) -> None:
        if not 1 <= rank <= LARGEST_RANK:
            raise ValueError(f"a rank is from 1 to {LARGEST_RANK}, got {rank}")
        self.rank = rank

    @classmethod
    def of_settings(cls, settings: CodingSettings) -> Self:
        return cls(settings.rank)

    @classmethod
    def of_parameters(cls, parameters: bytes) -> Self:
        """Raises FrameError for a rank that no encoder uses."""
        rank = int.from_bytes(parameters[:4], "little")
        if len(parameters) != 8 or any(parameters[4:]) or not 1 <= rank <= LARGEST_RANK:
            raise FrameError(f"codec {cls.name} does not know parameters {parameters.hex()}")
        return cls(rank)

    def parameters(self) -> bytes:
        return self.rank.to_bytes(4, "little") + bytes(4)

    def payload_limit(self, piece: Slice) -> int:
        return 4 * sum(self._numbers(tensor) for tensor in piece.tensors)

    def encode(
        self, values: Float32Array, residual: Float32Array | None, piece: Slice, state: EncoderState
    ) -> Encoded:
        """Keeps the right factors' directions in `state.bases`, by the tensor's place."""
        with np.errstate(all="ignore"):
            total = plain(values) if residual is None else residual + values
        kept = _finite_elements(total)
        numbers = np.zeros(self.payload_limit(piece) // 4, np.float32)
        for index, (tensor, part) in enumerate(self._parts(numbers, piece)):
            if kept is None or bool(kept[_in_buckets(tensor, piece)].all()):
                self._encode_tensor(total[tensor.start : tensor.stop], part, tensor, index, state)
        if residual is not None:
            carried = np.zeros_like(total)
            self._decode_into(numbers, piece, carried)
            with np.errstate(all="ignore"):
                np.subtract(total, carried, out=residual, where=True if kept is None else kept)
        return Encoded((numbers.data.cast("B"),), kept is None)

    def check(self, payload: Bytes, piece: Slice, limit: float) -> bool:
        numbers = self._checked(payload, piece)
        bound = 0.0
        for tensor, part in self._parts(numbers, piece):
            with np.errstate(all="ignore"):
                largest = self._bound(np.abs(part).astype(np.float64), tensor)
            if not largest <= limit:
                return False
            bound = max(bound, largest)
        return bound != np.inf

    def decode_accumulate(
        self, payload: Bytes, piece: Slice, weight: float, out: Float32Array
    ) -> None:
        numbers = self._checked(payload, piece)
        values = np.empty(piece.coded, np.float32)
        with np.errstate(all="ignore"):
            self._decode_into(numbers, piece, values)
            values *= np.float32(weight)
            out += values

    def _checked(self, payload: Bytes, piece: Slice) -> Float32Array:
        if len(payload) != self.payload_limit(piece):
            raise FrameError(
                f"{self.name} payload of rank {self.rank} is {self.payload_limit(piece)} bytes, "
                f"got {len(payload)}"
            )
        return np.frombuffer(payload.tobytes(), "<f4")

    def _factors(self, tensor: TensorSlice) -> tuple[int, int, int]:
        """Rank, rows and columns of a tensor's part; rank 0 if its values are sent themselves."""
        elements = tensor.stop - tensor.start
        columns = min(tensor.columns, elements)
        rows = -(-elements // columns)
        rank = min(self.rank, rows, columns)
        return (rank if rank * (rows + columns) < elements else 0), rows, columns

    def _numbers(self, tensor: TensorSlice) -> int:
        rank, rows, columns = self._factors(tensor)
        return rank * (rows + columns) if rank else tensor.stop - tensor.start

    def _parts(
        self, numbers: Float32Array, piece: Slice
    ) -> Iterator[tuple[TensorSlice, Float32Array]]:
        start = 0
        for tensor in piece.tensors:
            stop = start + self._numbers(tensor)
            yield tensor, numbers[start:stop]
            start = stop

    def _encode_tensor(
        self,
        total: Float32Array,
        part: Float32Array,
        tensor: TensorSlice,
        index: int,
        state: EncoderState,
    ) -> None:
        rank, rows, columns = self._factors(tensor)
        if not rank:
            part[:] = total
            return
        base = state.bases.get(index)
        if base is None or base.shape != (columns, rank):
            base = np.random.default_rng(index).standard_normal((columns, rank), np.float32)
        matrix, size = _matrix(total, rows, columns)
        left = np.linalg.qr(matrix @ base)[0]
        right = matrix.T @ left
        part[: rank * rows] = left.T.reshape(-1)
        part[rank * rows :] = np.clip(right.T * size, -_LARGEST, _LARGEST).reshape(-1)
        state.bases[index] = _directions(right, base)

    def _decode_into(self, numbers: Float32Array, piece: Slice, out: Float32Array) -> None:
        for tensor, part in self._parts(numbers, piece):
            rank, rows, columns = self._factors(tensor)
            target = out[tensor.start : tensor.stop]
            if rank:
                left = part[: rank * rows].reshape(rank, rows)
                _multiply(left, part[rank * rows :].reshape(rank, columns), target)
            else:
                target[:] = part

    def _bound(self, sizes: NDArray[np.float64], tensor: TensorSlice) -> float:
        """No decoded value is larger, nor any sum on the way to it; NaN where a number is NaN."""
        rank, rows, columns = self._factors(tensor)
        if not rank:
            return float(sizes.max())
        left = sizes[: rank * rows].reshape(rank, rows).max(axis=1)
        right = sizes[rank * rows :].reshape(rank, columns).max(axis=1)
        return float((left * right).sum())


_LARGEST = np.float32(INFINITE_FROM)


def _matrix(values: Float32Array, rows: int, columns: int) -> tuple[Float32Array, np.float32]:
    """The padded values over a power of two near their largest, and that power.

    No product of a few such matrices can overflow, or vanish where the values are small.
    """
    largest = float(np.abs(values).max())
    size = np.float32(2.0 ** np.floor(np.log2(largest))) if largest >= 2.0**-100 else np.float32(1)
    matrix = np.zeros((rows, columns), np.float32)
    np.divide(values, size, out=matrix.reshape(-1)[: len(values)])
    return matrix, size


def _directions(right: Float32Array, before: Float32Array) -> Float32Array:
    """Columns of length 1, which say as much to the next payload; zeros are as they were before."""
    lengths = np.sqrt((right * right).sum(axis=0))
    useful = lengths > 2.0**-60
    return np.where(useful, right / np.where(useful, lengths, np.float32(1)), before)


def _multiply(left: Float32Array, right: Float32Array, out: Float32Array) -> None:
    """out = sum over ranks of outer products, as much of it as `out` holds."""
    columns = right.shape[1]
    step = max(1, _CHUNK // columns)
    total = np.empty((step, columns), np.float32)
    term = np.empty((step, columns), np.float32)
    for start in range(0, left.shape[1], step):
        rows = left[:, start : start + step, None]
        some, product = total[: rows.shape[1]], term[: rows.shape[1]]
        np.multiply(rows[0], right[0], out=some)
        for rank in range(1, len(left)):
            np.multiply(rows[rank], right[rank], out=product)
            np.add(some, product, out=some)
        target = out[start * columns : (start + step) * columns]
        target[:] = some.reshape(-1)[: len(target)]


def _finite_elements(values: Float32Array) -> NDArray[np.bool_] | None:
    """Which elements lie in buckets without NaN and infinity; None for all of them.

    As in the kernels, magnitudes from 2**127 on count as infinite.
    """
    with np.errstate(all="ignore"):
        finite = np.abs(values) < _LARGEST
    if finite.all():
        return None
    starts = np.arange(0, len(values), BUCKET)
    return np.repeat(np.logical_and.reduceat(finite, starts), BUCKET)[: len(values)]


def _in_buckets(tensor: TensorSlice, piece: Slice) -> slice:
    """The buckets that a tensor lies in, all of their elements."""
    return slice(
        tensor.start // BUCKET * BUCKET, min(piece.coded, -(-tensor.stop // BUCKET) * BUCKET)
    )
