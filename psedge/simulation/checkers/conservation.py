"""Invariant 5: what a codec drops is in the residual, and shards decode what workers encoded.

For every push and shard: residual before + gradient = decoded + residual after, so that the sum of
all that was decoded and the residual is the sum of all gradients, over any number of steps, codec
switches, refusals and joinings. A push that was given up, or that was not finite, leaves the
residual as it was; a shard may have applied it nevertheless, which is told to the supervisor by its
count of samples and not to the worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from psedge.compression.codec import Float32Array
from psedge.compression.native import kernels
from psedge.compression.top_k import TopK
from psedge.protocol.shards import ShardState
from psedge.protocol.wire import Header, Status
from psedge.server.push import Outcome
from psedge.server.push import Push as ServerPush
from psedge.server.replica import Replica
from psedge.server.shard import Shard
from psedge.simulation.checkers.checker import Checker
from psedge.worker.client import ExchangeResult
from psedge.worker.push import Piece, Push
from psedge.worker.session import Session

#: Roundings of one push: the sum with the residual, the difference to what was decoded, and both
#: undone again, each off by half a unit in the last place of what it is applied to.
_ROUNDING = 8 * float(np.finfo(np.float32).eps)
#: Below this float32 loses digits, and encoders everything.
_SMALLEST = 1e-30


@dataclass(slots=True)
class _Sent:
    """One shard's part of a push: what it decodes to, and the residual without and with it."""

    decoded: Float32Array
    before: Float32Array
    after: Float32Array
    scale: Float32Array


@dataclass(slots=True)
class _Books:
    """One session's. residual: what it should be. parts: of the push on its way, by shard."""

    session: Session
    residual: Float32Array
    parts: dict[int, _Sent] = field(default_factory=dict)


@dataclass(slots=True)
class _Copy:
    """One copy of a shard. outcomes: sequence and status of each sender's latest push."""

    host: str
    outcomes: dict[tuple[int, int], tuple[int, Status]] = field(default_factory=dict)


class Conservation(Checker):
    """Keeps the books of each worker's residual."""

    invariant = 5

    def __init__(self, *further: Any) -> None:
        super().__init__(*further)
        self._books: dict[str, _Books] = {}
        #: Digests of what the pushes on their way decode to, by shard and sender.
        self._digests: dict[tuple[int, int, int], tuple[int, int]] = {}
        #: What became of the latest push of each sender in each copy of a shard.
        self._copies: dict[Shard, _Copy] = {}
        #: The same, as far as a server has acknowledged it, by shard and sender.
        self._outcomes: dict[tuple[int, int, int], tuple[int, Status]] = {}

    def host_gone(self, host: str) -> None:
        self._books.pop(host, None)
        for shard in [shard for shard, copy in self._copies.items() if copy.host == host]:
            del self._copies[shard]

    def shard_made(self, host: str, shard: Shard, state: ShardState | None) -> None:
        copy = self._copies[shard] = _Copy(host)
        for account in (state.accounts or ()) if state is not None else ():
            sender = (account.progress.worker, account.progress.incarnation)
            copy.outcomes[sender] = account.progress.sequence, Status(account.latest_status)

    def worker_encoded(
        self, host: str, session: Session, push: Push, gradient: Float32Array
    ) -> None:
        books = self._of(host, session, len(gradient))
        books.parts.clear()
        for piece in push.pieces:
            place = piece.link.parameters
            header = piece.header
            assert header is not None
            now = _residual(session, place)
            if not push.finite:
                scale = np.abs(books.residual[place]) + _finite(np.abs(gradient[place]))
                self._compare(host, piece, now, books.residual[place], scale, "was not finite")
                books.residual[place] = now
                continue
            sent = _sent(piece, gradient[place], books.residual[place], now)
            books.parts[header.shard] = sent
            self._digests[header.shard, header.worker, header.incarnation] = (
                header.sequence,
                kernels.digest(sent.decoded),
            )
            self._compare(host, piece, now, sent.after, sent.scale, "was encoded")
            sent.after = now
            books.residual[place] = now

    def shard_pushed(self, host: str, shard: Shard, push: ServerPush, outcome: Outcome) -> None:
        outcomes, sender = self._copies[shard].outcomes, (push.worker, push.incarnation)
        if outcome.status is Status.DUPLICATE or outcomes.get(sender, (0,))[0] >= push.sequence:
            return
        outcomes[sender] = push.sequence, outcome.status
        key = (shard.assignment.shard, *sender)
        sequence, digest = self._digests.get(key, (0, 0))
        if sequence != push.sequence or push.opened is None:
            return
        decoded = np.zeros(push.opened.piece.elements, np.float32)
        push.opened.decode(decoded)
        if kernels.digest(decoded) != digest:
            self.violated(
                host,
                f"push {push.sequence} of worker {push.worker} decodes on shard {key[0]} to other "
                "values than the worker encoded",
            )

    def push_answered(self, host: str, replica: Replica, header: Header) -> None:
        sender = (header.worker, header.incarnation)
        found = self._copies[replica.shard].outcomes.get(sender)
        if found is not None:
            place = (header.shard, *sender)
            self._outcomes[place] = found

    def worker_sent(
        self, host: str, session: Session, push: Push, result: ExchangeResult | BaseException
    ) -> None:
        books = self._books.get(host)
        if books is None or books.session is not session:
            return
        for piece in push.pieces:
            header = piece.header
            assert header is not None
            sent = books.parts.pop(header.shard, None)
            if sent is None:
                continue
            place = piece.link.parameters
            key = (header.shard, header.worker, header.incarnation)
            status = self._outcomes.get(key, (0, Status.NONE))
            expected, why = _expected(sent, piece, status == (header.sequence, Status.REFUSED_LAG))
            if status == (header.sequence, Status.REFUSED_NONFINITE) and piece.settled:
                expected, why = sent.before, "was refused as not finite"
            now = _residual(session, place)
            self._compare(host, piece, now, expected, sent.scale, why)
            books.residual[place] = now

    def _of(self, host: str, session: Session, elements: int) -> _Books:
        books = self._books.get(host)
        if books is None or books.session is not session:
            books = self._books[host] = _Books(session, np.zeros(elements, np.float32))
        return books

    def _compare(
        self,
        host: str,
        piece: Piece,
        found: Float32Array,
        expected: Float32Array,
        scale: Float32Array,
        why: str,
    ) -> None:
        """The residual after a push that, as `why` says, was encoded, or refused, or given up."""
        with np.errstate(all="ignore"):
            excess = np.abs(found.astype(np.float64) - expected) - _ROUNDING * scale - _SMALLEST
        wrong = ~(excess <= 0)
        if not wrong.any():
            return
        at = int(np.argmax(np.where(np.isnan(excess), np.inf, excess)))
        header = piece.header
        assert header is not None
        self.violated(
            host,
            f"after push {header.sequence} of worker {header.worker} to shard {header.shard} "
            f"({piece.coder.codec.name}) {why}, {int(wrong.sum())} of {len(found)} values of the "
            f"residual are wrong: {found[at]:.6g} instead of {expected[at]:.6g} at {at}",
        )


def _sent(piece: Piece, gradient: Float32Array, before: Float32Array, now: Float32Array) -> _Sent:
    """What the books say after an encoding. Arrays are of one shard, and not kept."""
    decoded = np.zeros(len(gradient), np.float32)
    piece.opened().decode(decoded)
    added = _added(piece, gradient)
    scale = np.abs(before) + np.abs(added) + np.abs(decoded) + np.abs(now) + np.abs(gradient)
    after = (before.astype(np.float64) + added - decoded).astype(np.float32)
    return _Sent(decoded, before.copy(), after, scale)


def _added(piece: Piece, gradient: Float32Array) -> Float32Array:
    """What a push adds to what is owed: its gradient, or with momentum correction the velocity."""
    codec, carried = piece.coder.codec, piece.before
    if carried is None or not isinstance(codec, TopK) or carried.velocity is None:
        return gradient
    added: Float32Array = gradient.copy()
    added[: len(carried.velocity)] += np.float32(codec.momentum) * carried.velocity
    return added


def _expected(sent: _Sent, piece: Piece, refused_as_old: bool) -> tuple[Float32Array, str]:
    """The residual of a shard's part once the push is over, and why."""
    if not piece.settled:
        return sent.before, "was given up"
    if refused_as_old:
        taken_back: Float32Array = sent.after + sent.decoded
        return taken_back, "was refused as too old"
    return sent.after, "was answered"


def _residual(session: Session, place: slice) -> Float32Array:
    """A copy; zeros where nothing is owed."""
    vector = session.client.residual
    if vector is None:
        return np.zeros(place.stop - place.start, np.float32)
    owed: Float32Array = vector[place].copy()
    return owed


def _finite(values: Float32Array) -> Float32Array:
    return np.where(np.isfinite(values), values, np.float32(0))
