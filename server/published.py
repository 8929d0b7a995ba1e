"""What workers are sent of a shard: its parameters, or differences to what they have.

With a lossy pull codec a worker is sent encode(target - P), where P is the model as the worker has
it, and P becomes P + decode(that), at both ends bit for bit. What one difference drops is still in
the next one, so nothing is lost: this is error feedback without a residual (Seide et al. 2014).

Each reply of such a chain has a position, and each request says at which position its worker is.
Where the two ends are not at the same one, because a reply was lost or the worker is new, a
snapshot of the whole begins the chain anew. Now and then the digest of P travels along, which
proves that both ends agree.

P is soft state: it is in no checkpoint and no replica, and a server that has lost it sends a
snapshot. A promoted server begins its positions where no earlier primary's can have reached, so it
never takes a position of another chain for one of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from psedge.compression.bfloat16 import Bfloat16
from psedge.compression.codec import EncoderState, Float32Array
from psedge.compression.coder import Coder
from psedge.compression.identity import Identity
from psedge.protocol.coding import CodingSettings
from psedge.protocol.layout import Slice
from psedge.protocol.ports import Buffer
from psedge.protocol.shards import Member
from psedge.protocol.wire import Content
from psedge.server.publication import (
    Publication,
    Wanted,
    delta_section,
    digest_at,
    digest_of,
    owned,
)
from psedge.server.shared_chain import SharedChain

Parameters = Callable[[], Float32Array]


@dataclass(slots=True)
class _Record:
    """A worker's model.

    parameters: as the worker has them once it has taken the reply at `position`.
    """

    parameters: Float32Array
    position: int
    state: EncoderState = field(default_factory=EncoderState)


class Published:
    """All that is sent of one shard, and the records that this takes.

    Memory: 4 bytes per parameter and worker with a chain per worker or with `remember`; twice 4
    bytes per parameter, whatever the number of workers, with a shared chain.
    """

    def __init__(
        self,
        piece: Slice,
        coding: CodingSettings,
        *,
        remember: bool = False,
        first_position: int = 0,
    ) -> None:
        """remember: keep workers' models for `model_of` where sending does not need them.

        first_position: all positions are larger, or equal with a shared chain; see `chain_begin`.
        """
        self._piece = piece
        self._first_position = first_position
        self._remember = remember
        self._records: dict[tuple[int, int], _Record] = {}
        self._shared = None
        if coding.chain == "shared" and coding.pull != Identity.name:
            self._shared = SharedChain(piece, coding, first_position)
        #: Whole float32 parameters of `_version`, by lossless stage.
        self._whole: dict[int, list[Buffer]] = {}
        self._version = -1

    def set_members(self, members: tuple[Member, ...]) -> None:
        """Forget the models of workers that have left."""
        if not self._records:
            return
        live = {(member.worker, member.incarnation) for member in members}
        for key in self._records.keys() - live:
            del self._records[key]

    def publication(self, wanted: Wanted, version: int, parameters: Parameters) -> Publication:
        """What a worker is sent now.

        version: of the shard. parameters: makes the float32 parameters as workers are to have
        them; asked only if they are needed.
        """
        if self._shared is not None:
            return self._shared.publication(wanted, version, parameters)
        if isinstance(wanted.codec, Identity):
            return self._float32(wanted, version, parameters)
        record = self._records.get(wanted.key)
        if record is None or record.position != wanted.position:
            return self._snapshot(wanted, version, parameters())
        coder = Coder(wanted.codec, wanted.lossless, self._piece)
        target = parameters()
        encoded = coder.encode_delta(target, record.parameters, record.state)
        if not encoded.finite:
            return self._snapshot(wanted, version, target)
        record.position += 1
        return Publication(
            Content.DELTAS,
            wanted.codec,
            wanted.lossless,
            version,
            delta_section(encoded.parts),
            deltas=1,
            position=record.position,
            digest=digest_at(record.position, record.parameters),
        )

    def serves_many(self, wanted: Wanted) -> bool:
        """Whether what this worker is sent suits others who are due the same version."""
        return self._shared is not None or isinstance(wanted.codec, Identity)

    def model_of(self, worker: int, incarnation: int, position: int) -> Float32Array | None:
        """The model that a worker has at a position; None where that is not on record."""
        if self._shared is not None:
            return self._shared.model_at(position)
        record = self._records.get((worker, incarnation))
        return record.parameters if record is not None and record.position == position else None

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        for record in self._records.values():
            assert record.position > self._first_position
            assert len(record.parameters) == self._piece.elements
        assert not (self._records and self._shared is not None)
        if self._shared is not None:
            self._shared.check_invariants()

    def _float32(self, wanted: Wanted, version: int, parameters: Parameters) -> Publication:
        """The parameters as they are; encoded once for all who are due the same version."""
        if self._version != version:
            self._whole.clear()
            self._version = version
        payload = self._whole.get(wanted.lossless.id)
        if payload is None:
            target = parameters()
            payload = _encoded(Coder(wanted.codec, wanted.lossless, self._piece), target)
            self._whole[wanted.lossless.id] = payload
        whole = Publication(Content.WHOLE, wanted.codec, wanted.lossless, version, payload)
        if not self._remember:
            self._records.pop(wanted.key, None)
            return whole
        return self._recorded(whole, wanted)

    def _snapshot(self, wanted: Wanted, version: int, target: Float32Array) -> Publication:
        """The first reply of a chain: 16 bits are enough, since the next ones bring the rest.

        NaN and infinity, which other codecs leave out, travel as float32: a worker is to see that
        the model has diverged.
        """
        short = self._piece.coded and np.isfinite(target).all()
        codec = Bfloat16() if short else Identity()
        payload = _encoded(Coder(codec, wanted.lossless, self._piece), target)
        whole = Publication(Content.WHOLE, codec, wanted.lossless, version, payload)
        return self._recorded(whole, wanted)

    def _recorded(self, whole: Publication, wanted: Wanted) -> Publication:
        """Take a whole model down as what the worker has, at a position not used before."""
        record = self._records.get(wanted.key)
        if record is None:
            record = _Record(
                np.empty(self._piece.elements, np.float32), position=self._first_position
            )
            self._records[wanted.key] = record
        record.position += 1
        coder = Coder(whole.codec, whole.lossless, self._piece)
        joined = whole.parts[0] if len(whole.parts) == 1 else b"".join(whole.parts)
        coder.open(memoryview(joined)).decode(record.parameters)
        return whole.at(record.position, digest_of(record.parameters))


def chain_begin(term: int) -> int:
    """The first position of a reign: no reign makes 2^32 replies to one worker."""
    return term << 32


def _encoded(coder: Coder, target: Float32Array) -> list[Buffer]:
    return owned(coder.encode(target, None, EncoderState()).parts, target)
