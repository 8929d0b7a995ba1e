"""The whole state of the model in training, between the torch model and the shards.

It comes from one of three places: a model built from the config, the first library worker, or a
checkpoint. From there it is cut into shard slices, and put together again from what shards return.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Layout
from psedge.protocol.shards import OptimizerSettings, ShardState

_OPTIMIZER_PREFIX = "optimizer."


@dataclass(slots=True)
class ModelState:
    """Flat vectors of a whole model; see `psedge.protocol.layout` for what lies where.

    parameters, buffers: float32. counters, frozen: uint8.
    optimizer: one float32 vector as long as `parameters` for each array of the update rule.
    shard_states: of each shard when this was put together; empty for a fresh model.
    """

    layout: Layout
    settings: OptimizerSettings
    groups: tuple[int, ...]
    parameters: NDArray[np.float32]
    buffers: NDArray[np.float32]
    counters: NDArray[np.uint8]
    frozen: NDArray[np.uint8]
    optimizer: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    shard_states: tuple[ShardState, ...] = ()

    def check(self) -> None:
        """Raises FrameError when a vector has not the length that the layout says, or the layout
        not the order that codecs rely on."""
        for role, vector in (
            ("parameter", self.parameters),
            ("buffer", self.buffers),
            ("counter", self.counters),
            ("frozen", self.frozen),
        ):
            expected = self.layout.length(role)  # type: ignore[arg-type]
            if vector.ndim != 1 or len(vector) != expected:
                raise FrameError(
                    f"the {role} vector has {vector.shape} elements, its layout says {expected}"
                )
        flat = [len(tensor.shape) < 2 for tensor in self.layout.of_role("parameter")]
        if flat != sorted(flat):
            raise FrameError("the layout has parameters of one dimension before others")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All vectors by name, as a checkpoint stores them."""
        named: dict[str, NDArray[Any]] = {
            "parameters": self.parameters,
            "buffers": self.buffers,
            "counters": self.counters,
            "frozen": self.frozen,
        }
        for name, vector in self.optimizer.items():
            named[_OPTIMIZER_PREFIX + name] = vector
        return named

    def samples_seen(self) -> int:
        """Samples behind these parameters, as the first shard counted them."""
        return self.shard_states[0].samples_seen if self.shard_states else 0

    def states_for(self, shards: int) -> tuple[ShardState | None, ...]:
        """The state each of `shards` shards starts from. Another number of shards than before is
        fine: all of them then continue from the state of the first."""
        if len(self.shard_states) == shards:
            return self.shard_states
        return (self.shard_states[0] if self.shard_states else None,) * shards

    def with_vectors(
        self, vectors: Mapping[str, NDArray[Any]], shard_states: tuple[ShardState, ...]
    ) -> ModelState:
        """The same model with what the shards hold now; frozen tensors never change."""
        return ModelState(
            layout=self.layout,
            settings=self.settings,
            groups=self.groups,
            parameters=vectors["parameters"],
            buffers=vectors["buffers"],
            counters=vectors["counters"],
            frozen=self.frozen,
            optimizer={
                name.removeprefix(_OPTIMIZER_PREFIX): vector
                for name, vector in vectors.items()
                if name.startswith(_OPTIMIZER_PREFIX)
            },
            shard_states=shard_states,
        )
