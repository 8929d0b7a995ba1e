"""Files that safetensors itself, in NumPy and torch, reads as the model they hold."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from psedge.protocol.layout import DTYPE_BYTES, Layout, Role, TensorSpec
from psedge.supervisor.tensor_file import bfloat16_bits, model_file, vectors_file


def _joined(parts: list[bytes | bytearray | memoryview]) -> bytes:
    return b"".join(parts)


def test_every_dtype_and_alias_is_read_by_torch() -> None:
    values = torch.tensor([0.5, -1.25, 3.0])
    specs, vectors = [], {"parameters": np.zeros(0, np.float32), "buffers": np.zeros(0, np.float32)}
    raw: dict[str, bytes] = {"counters": b"", "frozen": b""}
    for dtype in ("uint8", "float32", "float16", "bfloat16"):
        offset = len(vectors["parameters"])
        aliases = ("tied.weight",) if dtype == "bfloat16" else ()
        specs.append(TensorSpec(f"p.{dtype}", (3, 1), dtype, "parameter", offset, aliases))
        if dtype == "uint8":
            specs.pop()
            continue
        vectors["parameters"] = np.append(vectors["parameters"], values.numpy())
    specs.append(TensorSpec("mean", (3,), "float64", "buffer", 0))
    vectors["buffers"] = values.numpy()
    for dtype in DTYPE_BYTES:
        role: Role = "frozen" if "float" in dtype else "counter"
        place = "frozen" if role == "frozen" else "counters"
        tensor = values.abs().to(getattr(torch, dtype))
        specs.append(TensorSpec(f"r.{dtype}", (3,), dtype, role, len(raw[place])))
        raw[place] += tensor.view(torch.uint8).numpy().tobytes()
    vectors_all = vectors | {name: np.frombuffer(data, np.uint8) for name, data in raw.items()}
    loaded = safetensors.torch.load(_joined(model_file(Layout(tuple(specs)), vectors_all)))

    for dtype in ("float32", "float16", "bfloat16"):
        assert loaded[f"p.{dtype}"].dtype == getattr(torch, dtype)
        assert torch.equal(loaded[f"p.{dtype}"].float(), values.reshape(3, 1))
    assert torch.equal(loaded["tied.weight"], loaded["p.bfloat16"])
    assert torch.equal(loaded["mean"], values.double())
    for dtype in DTYPE_BYTES:
        assert torch.equal(loaded[f"r.{dtype}"], values.abs().to(getattr(torch, dtype)))


def test_scalars_and_empty_vectors() -> None:
    layout = Layout((
        TensorSpec("gain", (), "float32", "parameter", 0),
        TensorSpec("none", (0, 4), "float16", "parameter", 1),
        TensorSpec("count", (), "int64", "counter", 0),
    ))  # fmt: skip
    vectors = {
        "parameters": np.array([2.5], np.float32),
        "buffers": np.zeros(0, np.float32),
        "counters": np.frombuffer(np.int64(-7).tobytes(), np.uint8),
        "frozen": np.zeros(0, np.uint8),
    }
    loaded = safetensors.torch.load(_joined(model_file(layout, vectors)))
    assert loaded["gain"].item() == 2.5
    assert loaded["gain"].shape == ()
    assert loaded["none"].shape == (0, 4)
    assert loaded["count"].item() == -7
    flat = safetensors.numpy.load(_joined(vectors_file(vectors)))
    assert flat.keys() == vectors.keys()
    assert all(np.array_equal(flat[name], vectors[name]) for name in vectors)


def test_vectors_that_are_views_are_written_as_they_look() -> None:
    vector = np.arange(10, dtype=np.float32)
    loaded = safetensors.numpy.load(_joined(vectors_file({"x": vector[::2], "y": vector[3:5]})))
    assert loaded["x"].tolist() == [0, 2, 4, 6, 8]
    assert loaded["y"].tolist() == [3, 4]


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_bfloat16_rounds_as_torch_does(values: list[float]) -> None:
    array = np.array(values, np.float32)
    ours = torch.from_numpy(bfloat16_bits(array).view(np.int16)).view(torch.bfloat16)
    theirs = torch.from_numpy(array).bfloat16()
    nan = torch.isnan(theirs)
    assert torch.equal(torch.isnan(ours), nan)
    assert torch.equal(ours[~nan].view(torch.int16), theirs[~nan].view(torch.int16))


@pytest.mark.parametrize("bits", [0x00000001, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x3F808000])
def test_bfloat16_at_the_edges(bits: int) -> None:
    array = np.array([bits], np.uint32).view(np.float32)
    theirs = torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert bfloat16_bits(array)[0] == theirs[0]
