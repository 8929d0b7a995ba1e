"""What the `[compression]` section of an experiment may say."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

PushName = Literal[
    "auto",
    "identity",
    "float16",
    "bfloat16",
    "q8",
    "q4",
    "ternary",
    "sign",
    "ecsq",
    "top-k",
    "adacomp",
    "power-sgd",
]
PullName = Literal["auto", "identity", "float16", "bfloat16", "q8", "q4", "ternary", "sign", "ecsq"]


class CompressionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How updates and parameters travel between workers and servers."""

    push: Annotated[
        PushName,
        Meta(
            description="Codec of what workers send. `auto`: each worker measures its link and its "
            "own speed, takes the least lossy codec whose time is near the shortest, and looks "
            "again while it trains. `identity` is float32; bits per parameter of the others: "
            "`float16`, `bfloat16` 16, `q8` 8, `q4` 4, `ternary` 2, `sign` 1, `ecsq` 1 to 1.5, "
            "`top-k`, `adacomp`, `power-sgd` far less. What a codec drops is kept and sent with "
            "the next pushes (error feedback), so nothing is lost in the sum; biases and norms "
            "always travel as float32. See `docs/codecs.md`."
        ),
    ] = "auto"
    pull: Annotated[
        PullName,
        Meta(
            description="Codec of what workers receive. All but `identity` send differences to the "
            "model as the worker has it; what one drops, the next ones bring. `auto`: as for "
            "`push`; with one chain for all it means `q8`."
        ),
    ] = "auto"
    lossless: Annotated[
        Literal["auto", "none", "lz4", "zstd", "deflate"],
        Meta(
            description="Stage after the codec that drops nothing. `auto`: only where it saves "
            "more time on the link than it takes. `lz4` gains 0 to 3 % on quantized gradients, "
            '`zstd` (`pip install "psedge[zstd]"`) and `deflate` up to a third.'
        ),
    ] = "auto"
    rounding: Annotated[
        Literal["nearest", "stochastic"],
        Meta(
            description="How `q8`, `q4` and `ecsq` round. With error feedback `nearest` is the "
            "better one; `stochastic` is unbiased in each push."
        ),
    ] = "nearest"
    density: Annotated[
        float, Meta(gt=0, le=1, description="Part of the parameters that a `top-k` push carries.")
    ] = 0.01
    warmup_pushes: Annotated[
        int,
        Meta(
            ge=0,
            description="Pushes of a worker over which `top-k` comes down from 25 % to `density`.",
        ),
    ] = 0
    momentum_correction: Annotated[
        bool,
        Meta(
            description="With `top-k`: workers apply `optimizer.momentum` before they select, and "
            "the servers none (Lin et al. 2018, Deep Gradient Compression)."
        ),
    ] = False
    rank: Annotated[
        int, Meta(ge=1, le=64, description="Rank of `power-sgd`'s approximation of a matrix.")
    ] = 4
    pull_chain: Annotated[
        Literal["auto", "worker", "shared"],
        Meta(
            description="What compressed pulls are differences to. `worker`: the servers keep the "
            "model as each worker has it, 4 bytes per parameter and worker, and everyone gets the "
            "newest. `shared`: one published model, encoded once for all; published every "
            "8 updates it cost 2 to 5 points of accuracy in a study with 8 asynchronous workers. "
            "`auto`: `shared` in `bsp` where `pull` names a codec, as it costs nothing there; else "
            "`worker` while memory lasts."
        ),
    ] = "auto"
    publish_every: Annotated[
        int,
        Meta(
            ge=1,
            description="Updates between two publications of the shared chain in `ssp` and `asp`; "
            "fewer are fresher and cost the servers time. `bsp` publishes every update.",
        ),
    ] = 8
    chain_memory_megabytes: Annotated[
        int,
        Meta(
            ge=1,
            description="Most memory, on each server, for the models as the workers have them "
            'before `pull_chain = "auto"` takes the shared chain.',
        ),
    ] = 1024
