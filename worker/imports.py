"""Which code a worker may import because a config asks for it.

An experiment comes over the network, so a name in it must never reach more than the operator of
this machine permitted with `--allow`. A reference is either a name in one of psedge's own tables
or `module:name`, and the named object must be *defined* in a permitted package: an `import os` in
a permitted module does not permit `os`. psedge itself is reachable through its tables only.
torchvision is permitted by default, for its models (whose pretrained weights a worker never
fetches: the servers hold the parameters) and its data set classes.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from psedge.protocol.errors import ConfigError, DataError, ModelError, UserError

Factory = Callable[..., Any]

#: Reachable on every worker, within the limits that this file sets for each.
DEFAULT_PACKAGES = ("psedge", "torchvision")

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_WEIGHT_ARGUMENTS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")


class AllowList:
    """The packages that the operator of this machine lets a config import from.

    packages: names such as `my_package` or `my_package.models`, beside `DEFAULT_PACKAGES`.
    Raises ConfigError when one of them is not the name of a package.
    """

    def __init__(self, packages: Iterable[str] = ()) -> None:
        self.packages = tuple(dict.fromkeys(packages))
        for package in self.packages:
            if not _MODULE.fullmatch(package):
                raise ConfigError(
                    f"--allow {package}: not the name of a package; write for instance "
                    "`--allow my_package`"
                )

    def permits(self, module: str) -> bool:
        """Whether `module` lies in a package that the operator named."""
        return any(
            module == package or module.startswith(package + ".")
            for package in self.packages
            if package.partition(".")[0] not in DEFAULT_PACKAGES
        )

    def describe(self) -> str:
        return ", ".join(dict.fromkeys((*DEFAULT_PACKAGES, *self.packages)))


def resolve(
    reference: str,
    table: Mapping[str, Factory],
    allow: AllowList,
    kind: str,
    *,
    pretrained: bool = False,
) -> Factory:
    """The callable that a config's `reference` names.

    reference: a key of `table`, or `module:name`.
    kind: what it is for in messages: `model`, `data set`, `loss`, `metric` or `optimizer`.
    pretrained: lets torchvision's models fetch weights; for the process that makes the initial
    parameters, never for a worker.
    Raises ConfigError when the name is unknown or not permitted, ModelError or DataError when
    torchvision cannot be imported.
    """
    if reference in table:
        return table[reference]
    module_name, colon, name = reference.partition(":")
    if not colon:
        raise ConfigError(_unknown(reference, table, kind))
    if not _MODULE.fullmatch(module_name) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{kind} {reference!r}: write `module:function`, with one plain name after the colon"
        )
    package = module_name.partition(".")[0]
    if package == "psedge":
        raise ConfigError(
            f"{kind} {reference!r}: psedge's own are named without a module: {_names(table)}"
        )
    if package == "torchvision":
        return _from_torchvision(module_name, name, kind, pretrained)
    if not allow.permits(module_name):
        raise ConfigError(
            f"{kind} {reference!r}: this machine does not let a config import {package!r} "
            f"(permitted: {allow.describe()}); if you trust it, start with `--allow {package}`"
        )
    return _from_package(module_name, name, allow, kind)


def _from_package(module_name: str, name: str, allow: AllowList, kind: str) -> Factory:
    found = _attribute(_imported(module_name, kind), name, kind)
    origin = str(getattr(found, "__module__", ""))
    if not allow.permits(origin):
        raise ConfigError(
            f"{kind} '{module_name}:{name}': {name} is only imported there, from "
            f"{origin or 'somewhere else'}; write a function of your own in {module_name}"
        )
    return found


def _from_torchvision(module_name: str, name: str, kind: str, pretrained: bool) -> Factory:
    if module_name not in ("torchvision.models", "torchvision.datasets"):
        raise ConfigError(
            f"{kind} '{module_name}:{name}': of torchvision only `torchvision.models:NAME` and "
            "`torchvision.datasets:NAME` can be used"
        )
    found = _attribute(_imported(module_name, kind), name, kind)
    if module_name == "torchvision.models":
        if not _is_model(found, name):
            raise ConfigError(f"{kind} '{module_name}:{name}': {name} does not make a model")
        return found if pretrained else _without_weights(found)
    if not _is_dataset(found):
        raise ConfigError(f"{kind} '{module_name}:{name}': {name} is not a data set class")
    return found


def _imported(module_name: str, kind: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        if module_name.startswith("torchvision"):
            raise _torchvision_error(kind, error) from error
        raise ConfigError(
            f"{kind}: importing {module_name!r} failed: {type(error).__name__}: {error}; install "
            "its package on this machine, or start in the folder that holds it"
        ) from error


def _torchvision_error(kind: str, error: Exception) -> UserError:
    mistake = ModelError if kind == "model" else DataError
    instead = "a model of psedge's own" if kind == "model" else "`npz` or `image-folder` data"
    missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    if missing.startswith("torchvision"):
        return mistake(
            "torchvision is not installed on this machine: install the one that matches "
            f"this torch, or use {instead}"
        )
    return mistake(
        f"torchvision cannot be imported here ({error}): it was built for another torch; install "
        f"the torchvision that matches this torch, from the same source, or use {instead}"
    )


def _attribute(module: ModuleType, name: str, kind: str) -> Factory:
    found = getattr(module, name, None)
    if found is None:
        near = difflib.get_close_matches(name, dir(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{kind}: {module.__name__} has no {name!r}{hint}")
    if not callable(found):
        raise ConfigError(f"{kind}: {module.__name__}:{name} is not a function or class")
    return found  # type: ignore[no-any-return]


def _is_model(found: Factory, name: str) -> bool:
    import torch
    import torchvision.models

    if isinstance(found, type):
        return issubclass(found, torch.nn.Module)
    return name in torchvision.models.list_models(module=torchvision.models)


def _is_dataset(found: Factory) -> bool:
    from torchvision.datasets import VisionDataset

    return isinstance(found, type) and issubclass(found, VisionDataset)


def _without_weights(factory: Factory) -> Factory:
    @functools.wraps(factory)
    def build(*arguments: Any, **options: Any) -> Any:
        kept = {key: value for key, value in options.items() if key not in _WEIGHT_ARGUMENTS}
        return factory(*arguments, **kept)

    return build


def _unknown(reference: str, table: Mapping[str, Factory], kind: str) -> str:
    near = difflib.get_close_matches(reference, table, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {_names(table)}"
    return f"no {kind} is called {reference!r}{hint} (your own is written `module:function`)"


def _names(table: Mapping[str, Factory]) -> str:
    return ", ".join(sorted(table)) or "none"
