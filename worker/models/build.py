"""The torch model that a config names."""

from __future__ import annotations

from torch import nn

from psedge.protocol.errors import ModelError, PsedgeError
from psedge.worker.config import ModelConfig
from psedge.worker.imports import AllowList, resolve
from psedge.worker.models.table import MODELS


def build_model(config: ModelConfig, allow: AllowList, *, pretrained: bool) -> nn.Module:
    """Call the config's factory.

    pretrained: whether torchvision's models may fetch weights; never on a worker, whose parameters
    come from the servers.
    Raises ModelError when the factory fails or does not return a model, ConfigError when it is
    unknown or not allowed.
    """
    factory = resolve(config.factory, MODELS, allow, "model", pretrained=pretrained)
    try:
        model = factory(**config.arguments)
    except PsedgeError:
        raise
    except Exception as error:
        raise ModelError(
            f"model {config.factory!r} with arguments {config.arguments}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model {config.factory!r} returned {type(model).__name__}, not a torch.nn.Module"
        )
    return model
