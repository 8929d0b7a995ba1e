"""The packages that an experiment's `module:function` references come from.

Whoever starts a run has chosen its config, so on that machine all that it names may be imported.
On every other machine only what its own operator allows.
"""

from __future__ import annotations

from psedge.config import Experiment
from psedge.worker.imports import DEFAULT_PACKAGES, AllowList


def packages_of(experiment: Experiment) -> tuple[str, ...]:
    """Top-level packages named by the config, without those that are always allowed."""
    references = [experiment.optimizer.factory]
    if experiment.model is not None:
        model = experiment.model
        references += [model.factory, model.loss, *model.metrics]
    if experiment.data is not None and not experiment.data.dataset.startswith("torchvision:"):
        references.append(experiment.data.dataset)
    modules = [reference.partition(":")[0] for reference in references if ":" in reference]
    packages = dict.fromkeys(module.partition(".")[0] for module in modules)
    return tuple(package for package in packages if package not in DEFAULT_PACKAGES)


def own_allow_list(experiment: Experiment) -> AllowList:
    """What the machine on which the run was started permits."""
    return AllowList(packages_of(experiment))
