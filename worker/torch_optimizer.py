"""Between torch.optim and the settings that servers apply, in both directions.

A user's optimizer is only read for its groups and settings; the servers do the stepping. With
`local_steps` the worker steps itself, with an optimizer made from settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from psedge.protocol.errors import ConfigError
from psedge.protocol.shards import GroupSettings, LocalOptimizer, OptimizerSettings

#: Options that change the update rule in a way that servers do not know.
_UNKNOWN_OPTIONS = ("amsgrad", "maximize", "differentiable")


def settings_of_torch(
    optimizer: Optimizer, trained: Sequence[tuple[str, nn.Parameter]]
) -> tuple[OptimizerSettings, tuple[int, ...]]:
    """What servers need to step as `optimizer` would, and the group of each parameter tensor.

    trained: the model's trainable parameters by name, in the layout's order.
    Parameters of the model that the optimizer does not hold get a group that leaves them as they
    are. Raises ConfigError for an optimizer or an option that servers do not know.
    """
    rule = _rule_of(optimizer)
    groups = [_group_settings(group, type(optimizer).__name__) for group in optimizer.param_groups]
    group_of = {
        id(parameter): index
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    indices = [group_of.get(id(parameter), -1) for _, parameter in trained]
    if all(index < 0 for index in indices):
        raise ConfigError("the optimizer holds none of the model's parameters: make it from model")
    if -1 in indices:
        groups.append(GroupSettings(lr=0.0))
    untouched = len(groups) - 1
    return (
        OptimizerSettings(rule=rule, groups=tuple(groups)),
        tuple(untouched if index < 0 else index for index in indices),
    )


def _rule_of(optimizer: Optimizer) -> Literal["sgd", "adam", "adamw"]:
    # AdamW is a subclass of Adam in some versions of torch, so the order matters.
    if isinstance(optimizer, torch.optim.AdamW):
        return "adamw"
    if isinstance(optimizer, torch.optim.Adam):
        return "adam"
    if isinstance(optimizer, torch.optim.SGD):
        return "sgd"
    raise ConfigError(
        f"the servers cannot step as {type(optimizer).__name__} does: use torch.optim.SGD, Adam "
        "or AdamW"
    )


def _group_settings(group: dict[str, Any], optimizer: str) -> GroupSettings:
    for option in _UNKNOWN_OPTIONS:
        if group.get(option):
            raise ConfigError(f"{optimizer}({option}=True) is not supported by the servers")
    if optimizer == "Adam" and group.get("decoupled_weight_decay"):
        raise ConfigError("Adam(decoupled_weight_decay=True): use torch.optim.AdamW, which is it")
    betas = group.get("betas", (0.9, 0.999))
    return GroupSettings(
        lr=float(group["lr"]),
        weight_decay=float(group.get("weight_decay", 0.0)),
        momentum=float(group.get("momentum", 0.0)),
        dampening=float(group.get("dampening", 0.0)),
        nesterov=bool(group.get("nesterov", False)),
        betas=(float(betas[0]), float(betas[1])),
        eps=float(group.get("eps", 1e-8)),
    )


def torch_optimizer(local: LocalOptimizer, parameters: list[nn.Parameter]) -> Optimizer:
    """The torch optimizer that `local` describes.

    parameters: in the layout's order. The rates are those before the schedule's factor.
    """
    rule = local.optimizer.rule
    groups = []
    for index, settings in enumerate(local.optimizer.groups):
        chosen = [p for p, g in zip(parameters, local.groups, strict=True) if g == index]
        if chosen:
            groups.append({"params": chosen, **_options(rule, settings)})
    if rule == "sgd":
        return torch.optim.SGD(groups)
    return torch.optim.Adam(groups) if rule == "adam" else torch.optim.AdamW(groups)


def _options(rule: str, settings: GroupSettings) -> dict[str, Any]:
    options: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if rule == "sgd":
        options |= {
            "momentum": settings.momentum,
            "dampening": settings.dampening,
            "nesterov": settings.nesterov,
        }
    else:
        options |= {"betas": settings.betas, "eps": settings.eps}
    return options
