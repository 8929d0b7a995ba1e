"""Readers of data files: each format, the places it may lie in, and damaged or missing files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from psedge.protocol.errors import DataError
from psedge.worker.datasets import cifar10, digits, fashion_mnist, image_folder, npz

DRAW = np.random.default_rng(6)


def test_digits_are_split_by_class_and_never_overlap() -> None:
    train, test = digits.load("train"), digits.load("test")
    assert (len(train), len(test)) == (1438, 359)
    both = np.concatenate(
        [
            source.batch(np.arange(len(source)), None)[0].flatten(1).numpy()
            for source in (train, test)
        ]
    )
    assert len(np.unique(both, axis=0)) == 1797
    assert abs(float(both.mean())) < 0.01
    assert abs(float(both.std()) - 1) < 0.01
    labels = test.batch(np.arange(len(test)), None)[1].numpy()
    assert np.bincount(labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def write_npz(folder: Path, **arrays: NDArray[np.generic]) -> Path:
    file = folder / "mine.npz"
    np.savez_compressed(file, **arrays)
    return file


def test_npz_of_pictures_and_of_numbers(tmp_path: Path) -> None:
    file = write_npz(
        tmp_path,
        x_train=DRAW.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8),
        y_train=np.arange(6),
        x_test=DRAW.standard_normal((3, 7)),
        y_test=DRAW.standard_normal(3),
    )
    train, test = npz.load(file, "train", augment=("flip",)), npz.load(file, "test")
    assert train.batch(np.arange(6), None)[0].shape == (6, 3, 5, 4)
    assert train.classes == 6
    inputs, targets = test.batch(np.arange(3), None)
    assert inputs.shape == (3, 7)
    assert targets.is_floating_point()


@pytest.mark.parametrize(
    ("shape", "dtype", "axes", "expected"),
    [
        ((2, 8, 9), np.uint8, "auto", (2, 1, 8, 9)),
        ((2, 8, 9, 3), np.float64, "auto", (2, 3, 8, 9)),
        ((2, 3, 8, 9), np.float32, "auto", (2, 3, 8, 9)),
        ((2, 3, 8, 9), np.uint8, "nchw", (2, 3, 8, 9)),
        ((2, 3, 8, 3), np.uint8, "nhwc", (2, 3, 3, 8)),
        ((2, 8, 9), np.float32, "auto", (2, 8, 9)),
        ((2, 8, 9), np.float32, "nhw", (2, 1, 8, 9)),
        ((2, 8, 9, 3), np.uint8, "none", (2, 8, 9, 3)),
        ((2, 12), np.int64, "auto", (2, 12)),
    ],
)
def test_npz_axes(
    tmp_path: Path,
    shape: tuple[int, ...],
    dtype: type,
    axes: npz.Axes,
    expected: tuple[int, ...],
) -> None:
    file = write_npz(tmp_path, x_train=np.zeros(shape, dtype), y_train=np.zeros(2, int))
    data = npz.load(file, "train", axes=axes)
    assert data.batch(np.arange(2), None)[0].shape == expected


def test_npz_statistics_are_applied(tmp_path: Path) -> None:
    file = write_npz(tmp_path, x_train=np.full((1, 2, 2, 1), 51, np.uint8), y_train=np.zeros(1))
    data = npz.load(file, "train", mean=[0.1], std=[0.05])
    assert np.allclose(data.batch(np.arange(1), None)[0].numpy(), 2.0)
    with pytest.raises(DataError, match="one number for each of the 1 channels"):
        npz.load(file, "train", mean=[0.1, 0.2])


def test_npz_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data file .*gone\.npz"):
        npz.load(tmp_path / "gone.npz", "train")
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(DataError, match=r"is no \.npz file; write it with numpy\.savez"):
        npz.load(tmp_path / "damaged.npz", "train")
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"is no \.npz"):
        npz.load(tmp_path / "empty.npz", "train")
    file = write_npz(tmp_path, x_train=np.zeros((2, 3)), images=np.zeros(2))
    with pytest.raises(DataError, match="no array 'y_train', only x_train, images"):
        npz.load(file, "train")


class Trap:
    """Tells whether it was ever unpickled."""

    sprung = False

    def __setstate__(self, state: object) -> None:
        Trap.sprung = True

    def __getstate__(self) -> dict[str, int]:
        return {"any": 1}


def test_python_objects_in_npz_are_never_unpickled(tmp_path: Path) -> None:
    objects = np.empty(1, object)
    objects[0] = Trap()
    file = write_npz(tmp_path, x_train=objects, y_train=np.zeros(1))
    with pytest.raises(DataError, match="holds Python objects, which psedge never loads"):
        npz.load(file, "train")
    assert not Trap.sprung


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"is no \.npz file"):
        npz.load(tmp_path / "single.npy", "train")


def test_ambiguous_axes_are_asked_for(tmp_path: Path) -> None:
    file = write_npz(tmp_path, x_train=np.zeros((2, 3, 8, 3)), y_train=np.zeros(2))
    with pytest.raises(DataError, match=r'data\.arguments\.axes to "nhwc" or "nchw"'):
        npz.load(file, "train")
    with pytest.raises(DataError, match="does not fit"):
        npz.load(file, "train", axes="nhw")


def test_numbers_cannot_be_augmented(tmp_path: Path) -> None:
    file = write_npz(tmp_path, x_train=np.zeros((2, 3)), y_train=np.zeros(2))
    with pytest.raises(DataError, match=r"augment is for pictures.*\[2, 3\]"):
        npz.load(file, "train", augment=("crop",))


def write_cifar_binary(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Writes 5 x 2 training and 2 test records; returns the training pictures and labels."""
    folder.mkdir(parents=True)
    planes = DRAW.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(12, dtype=np.uint8) % 10
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for part, name in enumerate(names):
        rows = range(2 * part, 2 * part + 2)
        content = b"".join(bytes([labels[row]]) + planes[row].tobytes() for row in rows)
        (folder / name).write_bytes(content)
    return planes[:10].transpose(0, 2, 3, 1), labels[:10]


def test_cifar10_reads_npz_and_the_binary_version_alike(tmp_path: Path) -> None:
    pictures, labels = write_cifar_binary(tmp_path / "one" / "cifar-10-batches-bin")
    (tmp_path / "two").mkdir()
    np.savez(tmp_path / "two" / "cifar10.npz", x_train=pictures, y_train=labels)
    places = [
        tmp_path / "one",
        tmp_path / "one" / "cifar-10-batches-bin",
        tmp_path / "two",
        tmp_path / "two" / "cifar10.npz",
    ]
    batches = [cifar10.load(place, "train").batch(np.arange(10), None) for place in places]
    expected = (pictures / 255 - cifar10.MEAN) / cifar10.STD
    for inputs, targets in batches:
        assert np.allclose(inputs.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
        assert targets.tolist() == labels.tolist()
    assert len(cifar10.load(tmp_path / "one", "test")) == 2


def test_cifar10_that_is_missing_damaged_or_pickled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"CIFAR-10 is not in .*cifar10\.npz.*https://"):
        cifar10.load(tmp_path, "train")
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="pickled and never read"):
        cifar10.load(tmp_path, "train")
    write_cifar_binary(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").write_bytes(b"\x00" * 3000)
    with pytest.raises(DataError, match=r"data_batch_3\.bin is damaged"):
        cifar10.load(tmp_path, "train")
    (tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin cannot be read"):
        cifar10.load(tmp_path, "train")
    np.savez(tmp_path / "cifar10.npz", x_train=np.zeros((2, 28, 28)), y_train=np.zeros(2))
    with pytest.raises(DataError, match=r"pictures are uint8 \[n, 32, 32, 3\]"):
        cifar10.load(tmp_path, "train")


def write_idx(folder: Path, split: str, packed: bool) -> NDArray[np.uint8]:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = DRAW.integers(0, 256, (4, 28, 28), dtype=np.uint8)
    images = struct.pack(">IIII", 0x803, 4, 28, 28) + pictures.tobytes()
    labels = struct.pack(">II", 0x801, 4) + bytes([9, 0, 3, 1])
    for name, content in ((f"{split}-images-idx3", images), (f"{split}-labels-idx1", labels)):
        data = gzip.compress(content) if packed else content
        (folder / f"{name}-ubyte{'.gz' if packed else ''}").write_bytes(data)
    return pictures


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_reads_idx_files(tmp_path: Path, packed: bool, place: str) -> None:
    pictures = write_idx(tmp_path / place, "t10k", packed)
    inputs, targets = fashion_mnist.load(tmp_path, "test").batch(np.arange(4), None)
    expected = (pictures[:, None] / 255 - fashion_mnist.MEAN) / fashion_mnist.STD
    assert np.allclose(inputs.numpy(), expected, atol=1e-5)
    assert targets.tolist() == [9, 0, 3, 1]


def test_fashion_mnist_reads_npz(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "fashion-mnist.npz",
        x_train=np.zeros((2, 28, 28), np.uint8),
        y_train=np.array([1, 2]),
    )
    assert fashion_mnist.load(tmp_path, "train").classes == 10


def test_fashion_mnist_that_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not in .*train-images-idx3-ubyte\.gz"):
        fashion_mnist.load(tmp_path, "train")
    write_idx(tmp_path, "train", packed=True)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="download it again"):
        fashion_mnist.load(tmp_path, "train")
    for content, told in (
        (b"", "not an IDX file"),
        (b"\x00\x00\x08\x03\x00", "not an IDX file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00", "not an IDX file"),
        (struct.pack(">IIII", 0x803, 4, 28, 28) + b"abc", "should hold 3136 bytes.* has 3"),
        (struct.pack(">IIII", 0x803, *(2**32 - 1,) * 3) + b"abc", "should hold"),
    ):
        images.write_bytes(gzip.compress(content))
        with pytest.raises(DataError, match=told):
            fashion_mnist.read_idx(images)


def write_photographs(folder: Path, classes: dict[str, int], level: int = 40) -> None:
    for step, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image = Image.new("RGB", (30, 20), (level * (step + 1),) * 3)
            image.save(folder / name / f"{index}.png")


def test_photographs_in_folders(tmp_path: Path) -> None:
    write_photographs(tmp_path / "train", {"nut": 2, "bolt": 3})
    write_photographs(tmp_path / "test", {"bolt": 1})
    (tmp_path / "train" / "nut" / "notes.txt").write_text("not a picture")
    train = image_folder.load(tmp_path, "train", size=16, augment=("flip",))
    assert (len(train), train.classes, train.class_names) == (5, 2, ("bolt", "nut"))
    for _ in ("read", "kept"):
        inputs, targets = train.batch(np.array([4, 0]), None)
        assert inputs.shape == (2, 3, 16, 16)
        assert targets.tolist() == [1, 0]
        centre = inputs.numpy()[:, :, 8, 8] * image_folder.STD + image_folder.MEAN
        assert np.allclose(255 * centre, [[40] * 3, [80] * 3], atol=0.5)
    grey = image_folder.load(tmp_path, "test", size=8, grey=True)
    assert grey.batch(np.array([0]), None)[0].shape == (1, 1, 8, 8)


def test_kept_photographs_stay_within_their_budget(tmp_path: Path) -> None:
    write_photographs(tmp_path / "train", {"nut": 4})
    none = image_folder.load(tmp_path, "train", size=16, cache_megabytes=0)
    none.batch(np.arange(4), None)
    for file in (tmp_path / "train" / "nut").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        none.batch(np.array([0]), None)


def test_classes_can_be_named_where_a_machine_lacks_some(tmp_path: Path) -> None:
    write_photographs(tmp_path / "train", {"washer": 1})
    data = image_folder.load(tmp_path, "train", classes=["bolt", "nut", "washer"])
    assert data.batch(np.array([0]), None)[1].tolist() == [2]
    with pytest.raises(DataError, match=r"'washer' is none of the classes bolt, nut"):
        image_folder.load(tmp_path, "train", classes=["bolt", "nut"])


def test_photographs_that_are_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train/CLASS/\*\.jpg"):
        image_folder.load(tmp_path, "train")
    (tmp_path / "train" / "nut").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no pictures"):
        image_folder.load(tmp_path, "train")
    (tmp_path / "train" / "nut" / "one.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    data = image_folder.load(tmp_path, "train")
    with pytest.raises(DataError, match=r"the picture .*one\.png cannot be read"):
        data.batch(np.array([0]), None)
