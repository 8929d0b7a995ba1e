"""What a run's `[compression]` section comes to, once the model and the cluster are known."""

from __future__ import annotations

import msgspec

from psedge.compression.config import CompressionConfig
from psedge.protocol.coding import CodingSettings

#: As float32 a model below this fits into the packets that TCP sends without waiting for an answer,
#: so that there is nothing to gain by making it smaller.
SMALL_MODEL_BYTES = 16 * 1024


def resolve_coding(
    config: CompressionConfig,
    *,
    mode: str,
    momentum: float,
    parameters: int,
    workers: int,
    servers: int,
    seed: int,
    compensates: bool = False,
) -> tuple[CodingSettings, str]:
    """The settings that servers and workers share, and why the pulls' chain is as it is.

    momentum: the optimizer's; the workers' own with momentum correction, and then the servers must
    have none. parameters: of the whole model. `auto` stays where each worker decides for itself.
    compensates: the servers need to know the model of each worker anyway.
    """
    if 4 * parameters < SMALL_MODEL_BYTES:
        config = _without_auto(config)
    if compensates and config.pull_chain == "auto":
        config = msgspec.structs.replace(config, pull_chain="worker")
    shared, reason = _chain(config, mode, parameters, workers, servers)
    settings = CodingSettings(
        push=config.push,
        pull="q8" if shared and config.pull == "auto" else config.pull,
        lossless=config.lossless,
        rounding=config.rounding,
        chain="shared" if shared else "worker",
        publish_every=config.publish_every if shared and mode != "bsp" else 1,
        density=config.density,
        momentum_correction=momentum if config.momentum_correction else 0.0,
        warmup_pushes=config.warmup_pushes,
        rank=config.rank,
        seed=seed,
    )
    return settings, reason


def _without_auto(config: CompressionConfig) -> CompressionConfig:
    """For a model so small that float32 is as fast as anything."""
    push = "identity" if config.push == "auto" else config.push
    pull = "identity" if config.pull == "auto" else config.pull
    plain = config.lossless == "auto" and (push, pull) == ("identity", "identity")
    lossless = "none" if plain else config.lossless
    return msgspec.structs.replace(config, push=push, pull=pull, lossless=lossless)


def _chain(
    config: CompressionConfig, mode: str, parameters: int, workers: int, servers: int
) -> tuple[bool, str]:
    """Whether all workers pull from one published model, and why."""
    if config.pull == "identity":
        return False, "pulls are whole float32 models"
    megabytes = workers * 4 * parameters / servers / 2**20
    memory = f"a model per worker takes {megabytes:.3g} MB on each server"
    if config.pull_chain != "auto":
        return config.pull_chain == "shared", f'pull_chain = "{config.pull_chain}"'
    if mode == "bsp" and config.pull != "auto":
        return True, "one chain of pulls for all: in bsp every worker has the same model"
    if megabytes > config.chain_memory_megabytes:
        cadence = "" if mode == "bsp" else f", published every {config.publish_every} updates"
        return True, (
            f"one chain of pulls for all{cadence}: "
            f"{memory}, and chain_memory_megabytes = {config.chain_memory_megabytes}"
        )
    return False, f"one chain of pulls per worker: {memory}"
