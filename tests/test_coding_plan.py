"""What a `[compression]` section comes to, and what it must not say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psedge.compression.coding_plan import resolve_coding
from psedge.compression.config import CompressionConfig
from psedge.compression.table import PULL_CODECS, PUSH_CODECS
from psedge.config_types import fields_of
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import ConfigError
from psedge.toml_config import load_config

MILLION = 10**6


def resolved(config: CompressionConfig, **further: Any) -> tuple[CodingSettings, str]:
    options = {
        "mode": "ssp", "momentum": 0.9, "parameters": MILLION, "workers": 8, "servers": 1, "seed": 3
    }  # fmt: skip
    return resolve_coding(config, **{**options, **further})


def test_by_default_each_worker_chooses_and_has_a_chain_of_its_own() -> None:
    settings, reason = resolved(CompressionConfig())
    assert (settings.push, settings.pull, settings.lossless) == ("auto", "auto", "auto")
    assert (settings.chain, settings.publish_every, settings.seed) == ("worker", 1, 3)
    assert (
        reason == "one chain of pulls per worker: a model per worker takes 30.5 MB on each server"
    )


@pytest.mark.parametrize("chain", ["auto", "shared"])
def test_bsp_has_one_chain_that_is_never_behind(chain: Any) -> None:
    settings, _ = resolved(CompressionConfig(pull="q4", pull_chain=chain), mode="bsp")
    assert (settings.chain, settings.publish_every) == ("shared", 1)


def test_bsp_lets_workers_choose_their_pulls_while_memory_lasts() -> None:
    settings, _ = resolved(CompressionConfig(), mode="bsp")
    assert (settings.pull, settings.chain) == ("auto", "worker")
    settings, reason = resolved(CompressionConfig(), mode="bsp", workers=400)
    assert (settings.pull, settings.chain, settings.publish_every) == ("q8", "shared", 1)
    assert "published" not in reason


@pytest.mark.parametrize(
    ("workers", "servers", "chain"), [(8, 1, "worker"), (400, 1, "shared"), (400, 4, "worker")]
)
def test_memory_decides_for_the_shared_chain(workers: int, servers: int, chain: str) -> None:
    settings, reason = resolved(CompressionConfig(), workers=workers, servers=servers)
    assert settings.chain == chain
    assert settings.publish_every == (8 if chain == "shared" else 1)
    assert ("chain_memory_megabytes = 1024" in reason) == (chain == "shared")


def test_delay_compensation_needs_a_chain_per_worker_whatever_it_takes() -> None:
    settings, _ = resolved(CompressionConfig(), workers=10**6, compensates=True)
    assert settings.chain == "worker"


def test_what_the_config_fixes_is_kept() -> None:
    config = CompressionConfig(
        push="top-k", pull="q4", lossless="zstd", pull_chain="worker", density=0.001, rank=2
    )
    settings, _ = resolved(config, workers=10**6)
    assert (settings.push, settings.pull, settings.lossless) == ("top-k", "q4", "zstd")
    assert (settings.chain, settings.density, settings.rank) == ("worker", 0.001, 2)
    fixed, _ = resolved(CompressionConfig(pull="q4", pull_chain="shared", publish_every=2))
    assert (fixed.pull, fixed.chain, fixed.publish_every) == ("q4", "shared", 2)


@pytest.mark.parametrize("mode", ["bsp", "asp"])
def test_a_small_model_travels_as_it_is(mode: str) -> None:
    settings, _ = resolved(CompressionConfig(), parameters=4_000, mode=mode)
    assert (settings.push, settings.pull, settings.lossless) == ("identity", "identity", "none")
    asked, _ = resolved(CompressionConfig(push="q4"), parameters=4_000, mode=mode)
    assert (asked.push, asked.pull, asked.lossless) == ("q4", "identity", "auto")


def test_float32_pulls_need_no_chain() -> None:
    settings, _ = resolved(CompressionConfig(pull="identity"), mode="bsp")
    assert settings.chain == "worker"


def test_momentum_moves_to_the_workers_only_with_correction() -> None:
    assert resolved(CompressionConfig())[0].momentum_correction == 0.0
    config = CompressionConfig(push="top-k", momentum_correction=True)
    assert resolved(config)[0].momentum_correction == 0.9


@given(
    parameters=st.integers(1, 10**10),
    workers=st.integers(1, 10**5),
    servers=st.integers(1, 100),
    limit=st.integers(1, 10**5),
)
def test_the_memory_of_chains_is_bounded(
    parameters: int, workers: int, servers: int, limit: int
) -> None:
    config = CompressionConfig(chain_memory_megabytes=limit)
    settings, _ = resolved(config, parameters=parameters, workers=workers, servers=servers)
    if settings.chain == "worker":
        assert 4 * parameters * workers / servers <= limit * 2**20


def test_a_config_knows_the_codecs_that_exist() -> None:
    keys = fields_of(CompressionConfig)
    assert set(keys["push"].type.__args__) == {"auto", *PUSH_CODECS}
    assert set(keys["pull"].type.__args__) == {"auto", *PULL_CODECS}


@pytest.mark.parametrize(
    ("compression", "further", "message"),
    [
        ({"push": "ecsq", "lossless": "none"}, {}, "needs an entropy coder"),
        ({"pull": "ecsq", "lossless": "lz4"}, {}, '[compression] pull = "ecsq" needs'),
        ({"push": "q4", "warmup_pushes": 9}, {}, 'warmup_pushes = 9 is for push = "top-k"'),
        ({"momentum_correction": True}, {}, 'needs push = "top-k"'),
        ({"density": 0.0}, {}, "density = 0.0: expected a number > 0"),
        ({"rank": 0}, {}, "rank = 0"),
        ({"push": "top-k", "momentum_correction": True}, {"optimizer": {"momentum": 0.0}},
         "momentum above 0"),
        ({"push": "top-k", "momentum_correction": True},
         {"optimizer": {"kind": "adam"}}, 'kind = "sgd"'),
        ({"push": "top-k", "momentum_correction": True},
         {"optimizer": {"nesterov": True}}, "remove [optimizer] nesterov"),
        ({"push": "top-k", "momentum_correction": True},
         {"optimizer": {"factory": "mine:optimizer"}}, "factory"),
        ({"push": "top-k", "momentum_correction": True},
         {"sync": {"local_steps": 4}}, "local_steps above 1"),
    ],
)  # fmt: skip
def test_contradictions_are_named(
    compression: dict[str, Any], further: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"compression": compression, **further})
    assert message in str(caught.value)


def test_what_fits_together_is_taken() -> None:
    experiment = load_config(
        {"compression": {"push": "top-k", "momentum_correction": True, "warmup_pushes": 100}}
    )
    assert experiment.compression.momentum_correction
    assert load_config({"compression": {"push": "ecsq"}}).compression.lossless == "auto"
