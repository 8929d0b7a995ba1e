"""Codecs as their tests use them: whole vectors as one slice."""

from __future__ import annotations

import numpy as np
import pytest

from psedge.compression.codec import EncoderState
from psedge.compression.codes import LEVELS
from psedge.compression.table import PULL_CODECS, PUSH_CODECS, codec_named
from psedge.protocol.layout import Slice, TensorSlice

CODES = [codec_named(name) for name in PULL_CODECS]
QUANTIZERS = [codec for codec in CODES if codec.id in LEVELS]


def by_name(codec):
    return codec.name


KERNEL = pytest.mark.parametrize("codec", CODES, ids=by_name)
LOSSY = pytest.mark.parametrize("codec", CODES[1:], ids=by_name)
QUANTIZER = pytest.mark.parametrize("codec", QUANTIZERS, ids=by_name)
EVERY = pytest.mark.parametrize("codec", [codec_named(name) for name in PUSH_CODECS], ids=by_name)


def slice_of(elements, offset=0):
    return Slice(offset, elements, (TensorSlice(0, elements, elements),) if elements else ())


def encode(codec, values, residual=None, seed=0, offset=0):
    encoded = codec.encode(values, residual, slice_of(len(values), offset), EncoderState(seed))
    return np.frombuffer(b"".join(encoded.parts), np.uint8), encoded.finite


def decode(codec, payload, elements):
    out = np.full(elements, 7.0, np.float32)
    codec.decode(payload, slice_of(elements), out)
    return out


def gradient(seed, elements, scale=1e-3):
    draw = np.random.default_rng(seed)
    return (draw.standard_normal(elements) * scale * draw.random(elements) ** 4).astype(np.float32)
