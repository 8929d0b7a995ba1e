"""The model that a library worker brought, kept so that a restarted supervisor knows it too."""

from __future__ import annotations

import numpy as np

from psedge.config import Experiment
from psedge.protocol.bundle import unpack
from psedge.protocol.errors import FrameError, ModelError
from psedge.protocol.messages import Define
from psedge.protocol.ports import Buffer
from psedge.server.optimizer_settings import settings_of
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.versions import require_same_wire

#: In the run folder: the body of the Define that was accepted.
DEFINITION_FILE = "definition.safetensors"


def defined_model(body: Buffer, experiment: Experiment) -> ModelState:
    """The model in the body of a Define.

    Raises FrameError or ModelError for one that cannot be trained, RefusedError for another wire
    version.
    """
    message, arrays = unpack(memoryview(body), Define)
    require_same_wire(message.psedge, message.wire)
    if message.optimizer is not None:
        settings, groups = message.optimizer, message.groups
    else:
        settings, groups = settings_of(experiment.optimizer, message.layout)
    try:
        model = ModelState(
            message.layout,
            settings,
            groups,
            np.ascontiguousarray(arrays["parameters"], np.float32),
            np.ascontiguousarray(arrays["buffers"], np.float32),
            np.ascontiguousarray(arrays["counters"], np.uint8),
            np.ascontiguousarray(arrays["frozen"], np.uint8),
        )
    except KeyError as error:
        raise FrameError(f"define: the array {error} is missing") from error
    model.check()
    if len(model.parameters) < experiment.cluster.servers:
        raise ModelError("the model has fewer parameters than there are servers")
    return model
