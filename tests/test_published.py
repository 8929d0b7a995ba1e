"""What workers are sent: both ends of a chain agree bit for bit, whatever gets lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from psedge.compression.coder import coder_of_frame
from psedge.compression.lossless import available, stage_named
from psedge.compression.table import PULL_CODECS, codec_named
from psedge.protocol.coding import CodingSettings
from psedge.protocol.layout import Slice, TensorSlice
from psedge.protocol.shards import Member
from psedge.protocol.wire import NO_POSITION, Content
from psedge.server.publication import DIGEST_EVERY, Publication, Wanted, digest_of
from psedge.server.published import Published, chain_begin

PIECE = Slice(512, 1000, (TensorSlice(0, 600, 20), TensorSlice(600, 900, 30)))
LOSSY = [name for name in PULL_CODECS if name != "identity"]
PER_WORKER = CodingSettings()
SHARED = CodingSettings(pull="q4", chain="shared")


class Shard:
    """Parameters that change, and what is published of them."""

    def __init__(
        self, coding: CodingSettings = PER_WORKER, remember: bool = False, term: int = 0
    ) -> None:
        self.random = np.random.default_rng(5)
        self.parameters = self.random.standard_normal(PIECE.elements).astype(np.float32)
        self.version = 0
        self.published = Published(
            PIECE, coding, remember=remember, first_position=chain_begin(term)
        )

    def update(self, size: float = 0.01) -> None:
        step = size * self.random.standard_normal(PIECE.elements)
        self.parameters += step.astype(np.float32)
        self.version += 1

    def send(self, worker: Worker) -> Publication:
        wanted = Wanted(
            worker.worker, 1, codec_named(worker.codec, CodingSettings()),
            stage_named(worker.stage), worker.position,
        )  # fmt: skip
        return self.published.publication(wanted, self.version, lambda: self.parameters)

    def serve(self, worker: Worker) -> Publication:
        publication = self.send(worker)
        worker.take(publication)
        record = self.published.model_of(worker.worker, 1, worker.position)
        if publication.position != NO_POSITION:
            assert record is not None
            assert record.tobytes() == worker.parameters.tobytes()
        return publication


class Worker:
    """The receiving end, as `docs/wire.md` tells it."""

    def __init__(self, worker: int = 0, codec: str = "q4", stage: str = "none") -> None:
        self.worker, self.codec, self.stage = worker, codec, stage
        self.parameters: NDArray[np.float32] = np.full(PIECE.elements, np.nan, np.float32)
        self.position = NO_POSITION

    def take(self, publication: Publication) -> None:
        body = memoryview(b"".join(publication.parts))
        codec = publication.codec
        coder = coder_of_frame(codec.id, codec.parameters(), publication.lossless.id, PIECE)
        if publication.content is Content.WHOLE:
            assert publication.deltas == 0
            coder.open(body).decode(self.parameters)
        else:
            for _ in range(publication.deltas):
                end = 4 + int.from_bytes(body[:4], "little")
                coder.open(body[4:end]).decode_delta(self.parameters)
                body = body[end:]
            assert not len(body)
        self.position = publication.position
        if publication.digest:
            assert publication.digest == digest_of(self.parameters)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["update", "serve", "serve", "lose", "switch"]),
        st.integers(0, 2),
        st.sampled_from(PULL_CODECS),
        st.sampled_from(available()),
    ),
    max_size=40,
)


@pytest.mark.parametrize("coding", [CodingSettings(), SHARED], ids=["worker", "shared"])
@given(moves=MOVES)
def test_both_ends_agree_bit_for_bit(
    coding: CodingSettings, moves: Sequence[tuple[str, int, str, str]]
) -> None:
    shard, workers = Shard(coding), [Worker(index) for index in range(3)]
    for what, index, codec, stage in moves:
        worker = workers[index]
        if what == "update":
            shard.update()
        elif what == "serve":
            shard.serve(worker)
        elif what == "lose":
            shard.send(worker)
        else:
            worker.codec, worker.stage = codec, stage


@pytest.mark.parametrize("coding", [CodingSettings(), SHARED], ids=["worker", "shared"])
def test_what_one_difference_drops_the_next_ones_bring(coding: CodingSettings) -> None:
    shard, worker = Shard(coding), Worker(codec="q4")
    for _ in range(30):
        shard.update()
        shard.serve(worker)
    for _ in range(8):
        shard.update(size=0.0)
        shard.serve(worker)
    np.testing.assert_allclose(worker.parameters, shard.parameters, atol=1e-6)
    assert worker.parameters[900:].tobytes() == shard.parameters[900:].tobytes()


@pytest.mark.parametrize("coding", [CodingSettings(), SHARED], ids=["worker", "shared"])
@pytest.mark.parametrize("joined", [False, True])
def test_a_model_that_diverged_is_seen_as_it_is(coding: CodingSettings, joined: bool) -> None:
    for codec in LOSSY:
        shard, worker = Shard(coding), Worker(codec=codec)
        if joined:
            shard.serve(worker)
        shard.update()
        shard.parameters[[3, 700]] = np.inf, np.nan
        for _ in range(2):
            shard.serve(worker)
            assert worker.parameters.tobytes() == shard.parameters.tobytes(), codec
            shard.update()
        shard.parameters[[3, 700]] = 0.0
        shard.update()
        shard.serve(worker)
        assert np.isfinite(worker.parameters).all()


def test_a_lost_reply_costs_one_snapshot() -> None:
    shard, worker = Shard(), Worker()
    assert shard.serve(worker).content is Content.WHOLE
    assert shard.serve(worker).content is Content.DELTAS
    shard.send(worker)
    assert shard.serve(worker).content is Content.WHOLE
    assert shard.serve(worker).content is Content.DELTAS


def test_a_late_answer_to_an_abandoned_request_is_noticed() -> None:
    shard, worker = Shard(), Worker()
    shard.serve(worker)
    publication = shard.send(worker)
    shard.send(worker)
    worker.take(publication)
    assert shard.serve(worker).content is Content.WHOLE


@pytest.mark.parametrize("codec", LOSSY)
def test_a_snapshot_takes_16_bits_and_differences_take_the_codecs(codec: str) -> None:
    shard, worker = Shard(), Worker(codec=codec)
    snapshot = shard.serve(worker)
    assert (snapshot.codec.name, snapshot.payload_bytes) == ("bfloat16", 2 * 900 + 4 * 100)
    shard.update()
    difference = shard.serve(worker)
    assert (difference.codec.name, difference.deltas) == (codec, 1)
    limit = difference.codec.payload_limit(PIECE)
    assert difference.payload_bytes == 4 + limit + 4 * 100


def test_a_change_of_codec_does_not_break_the_chain() -> None:
    shard, worker = Shard(), Worker(codec="q8")
    shard.serve(worker)
    for codec in LOSSY:
        worker.codec = codec
        shard.update()
        assert shard.serve(worker).content is Content.DELTAS


def test_identity_is_whole_made_once_for_a_version_and_never_the_live_array() -> None:
    shard = Shard()
    first, second = Worker(0, "identity"), Worker(1, "identity")
    one, two = shard.serve(first), shard.serve(second)
    assert (one.content, one.position, one.digest) == (Content.WHOLE, NO_POSITION, 0)
    assert one.parts[0] is two.parts[0]
    shard.update()
    first.take(one)
    assert first.parameters.tobytes() == second.parameters.tobytes()
    assert shard.serve(first).parts[0] is not one.parts[0]
    assert first.parameters.tobytes() == shard.parameters.tobytes()


def test_parts_are_memory_that_later_updates_leave_alone() -> None:
    for coding in (CodingSettings(), SHARED):
        shard, worker = Shard(coding), Worker()
        for _ in range(3):
            publication = shard.serve(worker)
            before = b"".join(publication.parts)
            shard.update()
            shard.send(Worker(1))
            assert b"".join(publication.parts) == before


def test_a_digest_travels_with_each_snapshot_and_every_16th_position() -> None:
    for coding in (CodingSettings(), SHARED):
        shard, worker = Shard(coding), Worker()
        assert shard.serve(worker).digest
        for _ in range(2 * DIGEST_EVERY):
            shard.update()
            publication = shard.serve(worker)
            assert bool(publication.digest) is (publication.position % DIGEST_EVERY == 0)


def test_models_of_those_who_left_are_forgotten() -> None:
    shard, workers = Shard(), [Worker(0), Worker(1)]
    for worker in workers:
        shard.serve(worker)
    shard.published.set_members((Member(0, 2), Member(1, 1)))
    assert shard.published.model_of(0, 1, workers[0].position) is None
    assert shard.serve(workers[1]).content is Content.DELTAS


def test_the_model_of_a_worker_is_known_only_at_its_position() -> None:
    shard, worker = Shard(), Worker()
    shard.serve(worker)
    assert shard.published.model_of(0, 1, NO_POSITION) is None
    assert shard.published.model_of(0, 1, worker.position + 1) is None
    assert shard.published.model_of(1, 1, worker.position) is None


def test_whole_models_are_remembered_if_asked_for() -> None:
    for remember in (False, True):
        shard, worker = Shard(remember=remember), Worker(codec="identity")
        shard.serve(worker)
        sent = shard.parameters.copy()
        shard.update()
        model = shard.published.model_of(0, 1, worker.position)
        assert (model is not None) is remember
        assert model is None or model.tobytes() == sent.tobytes()
        shard.serve(worker)
        if remember:
            worker.codec = "q8"
            assert shard.serve(worker).content is Content.DELTAS


def test_a_shared_difference_is_made_once_and_is_as_old_as_its_publication() -> None:
    shard = Shard(CodingSettings(pull="q8", chain="shared", publish_every=3))
    workers = [Worker(index, codec="sign") for index in range(3)]
    assert [shard.serve(worker).version for worker in workers] == [0, 0, 0]
    versions = []
    for _ in range(7):
        shard.update()
        sent = [shard.serve(worker) for worker in workers]
        versions.append(sent[0].version)
        assert len({publication.version for publication in sent}) == 1
        assert {publication.codec.name for publication in sent} == {"q8"}
        assert len({worker.parameters.tobytes() for worker in workers}) == 1
        assert all(a is b for a, b in zip(sent[0].parts, sent[1].parts, strict=True))
    assert versions == [0, 0, 3, 3, 3, 6, 6]
    nothing_new = shard.serve(workers[0])
    assert (nothing_new.content, nothing_new.deltas, nothing_new.payload_bytes) == (
        Content.DELTAS, 0, 0,
    )  # fmt: skip


@pytest.mark.parametrize("coding", [PER_WORKER, SHARED], ids=["worker", "shared"])
def test_no_position_of_one_term_is_one_of_another(coding: CodingSettings) -> None:
    worker = Worker()
    positions = set()
    for term in (0, 1, 2, 2**32 - 2):
        shard = Shard(coding, term=term)
        shard.published.check_invariants()
        assert shard.serve(worker).content is Content.WHOLE, "of the term before it knows nothing"
        for _ in range(3):
            shard.update()
            publication = shard.serve(worker)
            assert publication.content is Content.DELTAS
            assert publication.position not in positions
            positions.add(publication.position)
        shard.published.check_invariants()


def test_auto_in_a_shared_chain_is_q8() -> None:
    shard, worker = Shard(CodingSettings(pull="auto", chain="shared")), Worker()
    shard.serve(worker)
    shard.update()
    assert shard.serve(worker).codec.name == "q8"


@pytest.mark.parametrize(("pull", "kept"), [("sign", 30), ("q4", 7), ("q8", 3)])
def test_latecomers_get_what_they_lack_or_a_snapshot(pull: str, kept: int) -> None:
    matrix = Slice(0, 25600, (TensorSlice(0, 25600, 50),))
    coding = CodingSettings(pull=pull, chain="shared")
    random = np.random.default_rng(1)
    for late in range(kept - 1, kept + 2):
        published = Published(matrix, coding)
        wanted = Wanted(0, 1, codec_named(pull, coding), stage_named("none"))
        position = published.publication(wanted, 0, lambda: random_model(random)).position
        for version in range(1, late + 1):
            published.publication(wanted, version, lambda: random_model(random))
        behind = Wanted(0, 1, wanted.codec, wanted.lossless, position)
        publication = published.publication(behind, late, lambda: random_model(random))
        if late <= kept:
            assert (publication.content, publication.deltas) == (Content.DELTAS, late)
            assert publication.payload_bytes <= 4 * matrix.elements
        else:
            assert (publication.content, publication.codec.name) == (Content.WHOLE, "identity")


def random_model(random: np.random.Generator) -> NDArray[np.float32]:
    return random.standard_normal(25600).astype(np.float32)
