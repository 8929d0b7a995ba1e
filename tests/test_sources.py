"""Sources: dtypes, augmentation and its seed, limits, and what happens to unusable data."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from psedge.protocol.errors import DataError
from psedge.worker.datasets.images import ImagePipeline
from psedge.worker.datasets.source import ArraySource, DatasetSource, LimitedSource

WHOLE = np.arange(40)


def pictures(augment: tuple[str, ...] = (), channels: int = 3) -> ArraySource:
    draw = np.random.default_rng(1)
    inputs = draw.integers(1, 256, (40, 8, 6, channels), dtype=np.uint8)
    pipeline = ImagePipeline((0.5,) * channels, (0.25,) * channels, augment)
    return ArraySource("made", inputs, np.arange(40, dtype=np.uint8) % 4, pipeline=pipeline)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pictures_become_normalised_planes() -> None:
    data = pictures()
    inputs, targets = data.batch(np.array([3, 1]), None)
    assert inputs.shape == (2, 3, 8, 6)
    assert inputs.dtype == torch.float32
    assert inputs.is_contiguous()
    raw = np.random.default_rng(1).integers(1, 256, (40, 8, 6, 3), dtype=np.uint8)
    expected = (raw[[3, 1]].transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    assert np.allclose(inputs.numpy(), expected, atol=1e-6)
    assert targets.dtype == torch.int64
    assert targets.tolist() == [3, 1]
    assert (len(data), data.classes) == (40, 4)


def test_augmentation_follows_its_seed_and_stays_out_of_measuring() -> None:
    data = pictures(("crop", "flip"))
    first, again, other = (data.batch(WHOLE, seeded(seed))[0] for seed in (1, 1, 2))
    plain = data.batch(WHOLE, None)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(plain, pictures().batch(WHOLE, None)[0])


def test_flip_mirrors_about_half_of_the_pictures() -> None:
    plain = pictures().batch(WHOLE, None)[0]
    flipped = pictures(("flip",)).batch(WHOLE, seeded(1))[0]
    same = [torch.equal(one, other) for one, other in zip(plain, flipped, strict=True)]
    mirrored = [torch.equal(one.flip(2), other) for one, other in zip(plain, flipped, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 8 <= sum(mirrored) <= 32


def test_crop_shifts_by_at_most_four_pixels_and_fills_with_black() -> None:
    plain = pictures().batch(WHOLE, None)[0]
    cropped = pictures(("crop",)).batch(WHOLE, seeded(1))[0]
    black = (0 - 0.5) / 0.25
    padded = torch.nn.functional.pad(plain, (4, 4, 4, 4), value=black)
    shifts = set()
    for before, after in zip(padded, cropped, strict=True):
        found = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if torch.equal(before[:, top : top + 8, left : left + 6], after)
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 20


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.zeros((4, 3), np.float64), torch.float32),
        (np.zeros((4, 3), np.float16), torch.float32),
        (np.zeros((4, 3), np.uint8), torch.int64),
        (np.zeros((4, 3), np.int32), torch.int64),
        (np.zeros((4, 3), bool), torch.float32),
    ],
)
def test_arrays_that_are_no_pictures_get_the_usual_dtype(
    given: NDArray[np.generic], expected: torch.dtype
) -> None:
    data = ArraySource("made", given, given)
    inputs, targets = data.batch(np.array([0, 2]), seeded(1))
    assert inputs.dtype == targets.dtype == expected
    assert data.classes is None


@pytest.mark.parametrize(
    ("inputs", "targets", "classes", "told"),
    [
        (np.zeros((3, 2)), np.zeros(4, int), None, "3 samples but 4 targets"),
        (np.zeros((0, 2)), np.zeros(0, int), None, "empty"),
        (np.zeros((2, 2)), np.array([0, -1]), None, "label -1 is out of range"),
        (np.zeros((2, 2)), np.array([0, 10]), 10, r"label 10 .*0\.\.9"),
    ],
)
def test_inconsistent_arrays_are_refused(
    inputs: NDArray[np.generic], targets: NDArray[np.generic], classes: int | None, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        ArraySource("made", inputs, targets, classes=classes)


@pytest.mark.parametrize("threads", [1, 3])
def test_any_map_style_dataset_is_a_source(threads: int) -> None:
    inputs, labels = torch.arange(20.0).reshape(10, 2).double(), torch.arange(10)
    data = DatasetSource("mine", TensorDataset(inputs, labels), threads=threads)
    batch, targets = data.batch(np.array([7, 2]), seeded(0))
    assert len(data) == 10
    assert batch.dtype == torch.float32
    assert batch.tolist() == [[14.0, 15.0], [4.0, 5.0]]
    assert targets.tolist() == [7, 2]


def test_samples_are_read_in_parallel() -> None:
    meeting = threading.Barrier(3, timeout=20)

    class Slow:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[int, int]:
            meeting.wait()
            return index, index

    data = DatasetSource("slow", Slow(), threads=3)
    assert data.batch(np.arange(3), None)[0].tolist() == [0, 1, 2]


def test_augmentation_of_a_dataset_of_pictures() -> None:
    planes = torch.rand(10, 3, 8, 8)
    data = DatasetSource("mine", TensorDataset(planes, torch.arange(10)), augment=("flip",))
    batch = data.batch(np.arange(10), seeded(1))[0]
    assert batch.is_contiguous()
    assert not torch.equal(batch, planes)
    assert torch.equal(data.batch(np.arange(10), None)[0], planes)
    for one, other in zip(batch, planes, strict=True):
        assert torch.equal(one, other) or torch.equal(one, other.flip(2))


class Samples:
    """A data set that returns the same sample whatever it is asked for."""

    def __init__(self, sample: object, length: int = 4) -> None:
        self.sample, self.length = sample, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> object:
        if isinstance(self.sample, Exception):
            raise self.sample
        return self.sample


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        ((object(), 1), "do not stack"),
        (torch.zeros(2), "must be a pair"),
        ((torch.zeros(2), 1, 2), "must be a pair"),
        (("text", 1), "must be a pair"),
        (OSError("disk gone"), "sample 2 cannot be read: OSError: disk gone"),
    ],
)
def test_unusable_samples_are_one_clear_error(sample: object, told: str) -> None:
    data = DatasetSource("mine", Samples(sample))
    with pytest.raises(DataError, match=f"mine: .*{told}"):
        data.batch(np.array([2, 2]), None)


def test_datasets_without_samples_or_length_are_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        DatasetSource("mine", Samples((1, 1), length=0))
    with pytest.raises(DataError, match="map-style"):
        DatasetSource("mine", iter([(1, 1)]))


def test_flat_samples_cannot_be_augmented() -> None:
    data = DatasetSource(
        "mine", TensorDataset(torch.zeros(4, 2), torch.zeros(4)), augment=("flip",)
    )
    with pytest.raises(DataError, match="4 axes"):
        data.batch(np.arange(2), seeded(1))


def test_unknown_augmentations_are_refused() -> None:
    with pytest.raises(DataError, match=r"'rotate'.*crop, flip"):
        ImagePipeline((0.0,), (1.0,), ("rotate",))


def test_a_limit_shortens_but_never_lengthens() -> None:
    assert len(LimitedSource(pictures(), 7)) == 7
    assert len(LimitedSource(pictures(), 70)) == 40
    assert LimitedSource(pictures(), 7).batch(np.array([6]), None)[1].tolist() == [2]
