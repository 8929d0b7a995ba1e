"""The models that psedge ships, by the names that configs use, and how a config becomes a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from psedge.protocol.errors import ModelError, PsedgeError
from psedge.worker.config import ModelConfig
from psedge.worker.imports import AllowList, resolve
from psedge.worker.models.mlp import mlp
from psedge.worker.models.mobilenet import mobilenetv2
from psedge.worker.models.resnet import resnet20, resnet32
from psedge.worker.models.small_cnn import defects_cnn, digits_cnn, fashion_cnn, parts_cnn

MODELS: dict[str, Callable[..., nn.Module]] = {
    "digits-cnn": digits_cnn,
    "fashion-cnn": fashion_cnn,
    "parts-cnn": parts_cnn,
    "defects-cnn": defects_cnn,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "mobilenetv2": mobilenetv2,
    "mlp": mlp,
}


def build(
    config: ModelConfig, allow: AllowList, seed: int, *, pretrained: bool = False
) -> nn.Module:
    """The model that a config describes, with initial parameters drawn from `seed`.

    torch's own random state is left as it was.
    pretrained: whether torchvision's models may fetch weights; only the process that makes the
    initial parameters needs them.
    Raises ModelError if the factory rejects its arguments, fails, or returns something else than
    a torch.nn.Module.
    """
    factory = resolve(config.factory, MODELS, allow, "model", pretrained=pretrained)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = factory(**config.arguments)
        except PsedgeError:
            raise
        except Exception as error:
            given = ", ".join(f"{key} = {value!r}" for key, value in config.arguments.items())
            raise ModelError(
                f"model {config.factory}({given}) cannot be built: "
                f"{type(error).__name__}: {error}; see model.arguments"
            ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model.factory {config.factory} returned a {type(model).__name__}, "
            "not a torch.nn.Module"
        )
    return model
