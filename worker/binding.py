"""The bridge between a torch model and the flat NumPy vectors that travel.

Copies go through multi-tensor kernels (`torch._foreach_copy_`): one call moves all tensors of a
model, so that a step costs two passes over memory and not a Python loop. On a CPU the vectors are
the torch side's own memory; for other devices one staging vector there makes a single transfer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from psedge.compression.codec import Float32Array
from psedge.protocol.errors import ModelError
from psedge.protocol.layout import Layout, TensorSpec
from psedge.worker.model_layout import layout_of, plain

__all__ = ["Binding", "BytesArray", "Vectors", "layout_of", "state_dict_of"]

BytesArray = NDArray[np.uint8]


class Vectors(Protocol):
    """What a shard client reads and writes: see `psedge.protocol.layout` for the vectors."""

    parameters: Float32Array
    buffers: Float32Array
    counters: BytesArray


class Binding:
    """A model and its vectors. The methods say which way they copy; none is called by the others.

    parameters, gradients: float32, elements of the layout's role `parameter`.
    buffers: float32. counters, frozen: uint8, raw bytes of the tensors in their own dtypes.
    device: where the model is; it may be moved later, at the price of slower copies.
    Raises ModelError if `layout` is not the model's.
    """

    def __init__(self, model: nn.Module, layout: Layout, device: torch.device) -> None:
        difference = layout_of(model).difference(layout)
        if difference is not None:
            raise ModelError(f"the model is not the one of the layout: {difference}")
        module = plain(model)
        named = dict(module.named_parameters(remove_duplicate=False))
        self.layout = layout
        self._trained = [named[spec.name] for spec in layout.of_role("parameter")]
        self._fixed = [named[spec.name] for spec in layout.of_role("frozen")]
        self._buffer_places = _places(module, layout.of_role("buffer"))
        self._counter_places = _places(module, layout.of_role("counter"))
        self._parameters = _FloatVector(layout.of_role("parameter"), device)
        self._gradients = _FloatVector(layout.of_role("parameter"), device)
        self._buffers = _FloatVector(layout.of_role("buffer"), device)
        self._counters = _RawVector(layout.of_role("counter"))
        self._frozen = _RawVector(layout.of_role("frozen"))
        self.parameters: Float32Array = self._parameters.array
        self.gradients: Float32Array = self._gradients.array
        self.buffers: Float32Array = self._buffers.array
        self.counters: BytesArray = self._counters.array
        self.frozen: BytesArray = self._frozen.array

    @torch.no_grad()
    def read_model(self) -> None:
        """Model to `parameters`, `buffers`, `counters` and `frozen`."""
        self._parameters.read(self._trained)
        self._buffers.read(_tensors(self._buffer_places))
        self._counters.read(_tensors(self._counter_places))
        self._frozen.read(self._fixed)

    @torch.no_grad()
    def read_parameters(self) -> None:
        """Model to `parameters`."""
        self._parameters.read(self._trained)

    @torch.no_grad()
    def write_parameters(self) -> None:
        """`parameters` to the model, rounded to each parameter's dtype."""
        self._parameters.write(self._trained)

    @torch.no_grad()
    def write_buffers(self) -> None:
        """`buffers` and `counters` to the model."""
        self._buffers.write(_tensors(self._buffer_places))
        self._counters.write(_tensors(self._counter_places))

    @torch.no_grad()
    def write_frozen(self) -> None:
        """`frozen` to the model."""
        self._frozen.write(self._fixed)

    @torch.no_grad()
    def read_buffers(self) -> tuple[bool, bool]:
        """Model to `buffers` and `counters`; says which of the two changed by it."""
        buffers, counters = self.buffers.tobytes(), self.counters.tobytes()
        self._buffers.read(_tensors(self._buffer_places))
        self._counters.read(_tensors(self._counter_places))
        return buffers != self.buffers.tobytes(), counters != self.counters.tobytes()

    @torch.no_grad()
    def read_gradients(self) -> None:
        """Gradients to `gradients`: zeros where there is none, dense where it is sparse."""
        self._gradients.read_some(
            [
                None
                if parameter.grad is None
                else parameter.grad.to_dense()
                if parameter.grad.layout != torch.strided
                else parameter.grad
                for parameter in self._trained
            ]
        )

    def zero_gradients(self) -> None:
        """Forget the gradients, as `optimizer.zero_grad()` does."""
        for parameter in self._trained:
            parameter.grad = None

    @property
    def vectors(self) -> dict[str, NDArray[Any]]:
        """The whole state under the names that `state_dict_of` and bundles use; no copies."""
        return {
            "parameters": self.parameters,
            "buffers": self.buffers,
            "counters": self.counters,
            "frozen": self.frozen,
        }

    @property
    def trained(self) -> Sequence[nn.Parameter]:
        """The trainable parameters, in the layout's order."""
        return self._trained


class _FloatVector:
    """A float32 vector whose slices stand for tensors of any floating-point dtype."""

    def __init__(self, specs: Sequence[TensorSpec], device: torch.device) -> None:
        length = sum(spec.extent for spec in specs)
        self._host = torch.zeros(length, pin_memory=device.type == "cuda")
        self._stage = self._host
        if device.type != "cpu":
            self._stage = torch.zeros(length, device=device)
        self.array: Float32Array = self._host.numpy()
        self._views = [
            self._stage[spec.offset : spec.offset + spec.extent].view(spec.shape) for spec in specs
        ]

    def read(self, tensors: Sequence[Tensor]) -> None:
        if self._views:
            torch._foreach_copy_(self._views, list(tensors))
        self._download()

    def read_some(self, tensors: Sequence[Tensor | None]) -> None:
        """As `read`, with zeros where there is no tensor."""
        pairs = list(zip(self._views, tensors, strict=True))
        present = [(view, tensor) for view, tensor in pairs if tensor is not None]
        absent = [view for view, tensor in pairs if tensor is None]
        if present:
            torch._foreach_copy_([view for view, _ in present], [tensor for _, tensor in present])
        if absent:
            torch._foreach_zero_(absent)
        self._download()

    def write(self, tensors: Sequence[Tensor]) -> None:
        if self._stage is not self._host:
            self._stage.copy_(self._host)
        if self._views:
            torch._foreach_copy_(list(tensors), self._views)

    def _download(self) -> None:
        if self._stage is not self._host:
            self._host.copy_(self._stage)


class _RawVector:
    """A byte vector whose slices are tensors in their own dtypes.

    A tensor whose place is not a multiple of its element size cannot be a view of the vector;
    it goes through a mirror of its own.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        host = torch.zeros(sum(spec.extent for spec in specs), dtype=torch.uint8)
        self.array: BytesArray = host.numpy()
        self._views: list[Tensor] = []
        self._mirrored: list[tuple[Tensor, Tensor]] = []
        for spec in specs:
            raw = host[spec.offset : spec.offset + spec.extent]
            dtype = getattr(torch, spec.dtype)
            if spec.offset % dtype.itemsize == 0:
                self._views.append(raw.view(dtype).view(spec.shape))
            else:
                mirror = torch.zeros(spec.shape, dtype=dtype)
                self._views.append(mirror)
                self._mirrored.append((raw, mirror.view(-1).view(torch.uint8)))

    def read(self, tensors: Sequence[Tensor]) -> None:
        if self._views:
            torch._foreach_copy_(self._views, list(tensors))
        for raw, mirror in self._mirrored:
            raw.copy_(mirror)

    def write(self, tensors: Sequence[Tensor]) -> None:
        for raw, mirror in self._mirrored:
            mirror.copy_(raw)
        if self._views:
            torch._foreach_copy_(list(tensors), self._views)


#: Buffers are replaced when a module moves to another device, so they are found anew each time.
_Place = tuple[nn.Module, str]


def _places(module: nn.Module, specs: Sequence[TensorSpec]) -> list[_Place]:
    places = []
    for spec in specs:
        path, _, name = spec.name.rpartition(".")
        places.append((module.get_submodule(path), name))
    return places


def _tensors(places: Sequence[_Place]) -> list[Tensor]:
    return [getattr(module, name) for module, name in places]


def state_dict_of(layout: Layout, vectors: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """The model's `state_dict`: original names, dtypes and shapes, in memory of its own.

    vectors: `parameters`, `buffers` (float32), `counters`, `frozen` (uint8), whole.
    Tied tensors appear under each of their names as one and the same tensor.
    """
    keys = {
        "parameter": "parameters",
        "buffer": "buffers",
        "counter": "counters",
        "frozen": "frozen",
    }
    state: dict[str, Tensor] = {}
    for spec in layout.tensors:
        piece = vectors[keys[spec.role]][spec.offset : spec.offset + spec.extent]
        tensor = torch.from_numpy(np.array(piece))
        dtype = getattr(torch, spec.dtype)
        is_float = spec.role in ("parameter", "buffer")
        tensor = tensor.to(dtype) if is_float else tensor.view(dtype)
        tensor = tensor.reshape(spec.shape)
        state.update(dict.fromkeys((spec.name, *spec.aliases), tensor))
    return state
