"""The layout of a torch model: every tensor that workers and servers must agree on.

Order is the model's own: `named_parameters`, then persistent buffers; but trainable parameters of
two or more dimensions come before all others, because codecs may be lossy about them. What psedge
cannot train is refused here, when a worker connects, and not at some later step. Floating-point
buffers travel as float32 whatever their dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from psedge.protocol.errors import ModelError
from psedge.protocol.layout import DTYPE_BYTES, Layout, Role, TensorSpec

_TRAINABLE = (torch.float32, torch.float16, torch.bfloat16)
_ROLES: tuple[Role, ...] = ("parameter", "buffer", "counter", "frozen")

#: One tensor under its first name, with its further names.
_Named = tuple[str, Tensor, tuple[str, ...]]


def plain(model: nn.Module) -> nn.Module:
    """The module that names the tensors: what torch.compile wrapped, or the model itself."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def layout_of(model: nn.Module) -> Layout:
    """The layout of `model`, on whatever device it is.

    Raises ModelError naming the first tensor that cannot be trained or carried, and why.
    """
    parameters = list(_named_parameters(model))
    buffers = list(_named_buffers(model))
    for name, parameter, _ in parameters:
        _check(name, parameter, trainable=parameter.requires_grad)
    for name, buffer, _ in buffers:
        _check(name, buffer, trainable=False)
    if not any(parameter.requires_grad for _, parameter, _ in parameters):
        raise ModelError(
            f"{type(model).__name__} has no trainable parameters: nothing in it has requires_grad"
        )
    _check_memory([*parameters, *buffers])
    roles: dict[Role, list[_Named]] = {role: [] for role in _ROLES}
    for item in parameters:
        roles["parameter" if item[1].requires_grad else "frozen"].append(item)
    # The sort is stable.
    roles["parameter"].sort(key=lambda item: item[1].dim() < 2)
    for item in buffers:
        roles["buffer" if item[1].is_floating_point() else "counter"].append(item)
    return Layout(tuple(spec for role in _ROLES for spec in _specs(role, roles[role])))


def _specs(role: Role, items: Iterable[_Named]) -> Iterator[TensorSpec]:
    offset = 0
    for name, tensor, aliases in items:
        spec = TensorSpec(
            name=name,
            shape=tuple(tensor.shape),
            dtype=dtype_name(tensor.dtype),
            role=role,
            offset=offset,
            aliases=aliases,
        )
        yield spec
        offset += spec.extent


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def _named_parameters(model: nn.Module) -> Iterator[_Named]:
    return _grouped(plain(model).named_parameters(remove_duplicate=False))


def _named_buffers(model: nn.Module) -> Iterator[_Named]:
    module = plain(model)
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    tensors: list[tuple[str, Tensor]] = []
    for name, value in module.state_dict(keep_vars=True).items():
        if name in parameters:
            continue
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{name} in the model's state is a {type(value).__name__}, not a tensor: psedge "
                "cannot carry quantized modules or extra state"
            )
        tensors.append((name, value))
    return _grouped(tensors)


def _grouped(items: Iterable[tuple[str, Tensor]]) -> Iterator[_Named]:
    tensors: dict[int, Tensor] = {}
    names: dict[int, list[str]] = {}
    for name, tensor in items:
        tensors.setdefault(id(tensor), tensor)
        names.setdefault(id(tensor), []).append(name)
    for key, tensor in tensors.items():
        first, *others = names[key]
        yield first, tensor, tuple(others)


def _check(name: str, tensor: Tensor, *, trainable: bool) -> None:
    if is_lazy(tensor):
        raise ModelError(
            f"{name} is lazy and has no shape yet: run one batch through the model first"
        )
    if tensor.is_meta:
        raise ModelError(
            f"{name} is on the meta device and has no values: make the model on a real device"
        )
    if tensor.is_quantized:
        raise ModelError(f"{name} is quantized: train the model before quantizing it")
    if tensor.layout != torch.strided:
        raise ModelError(
            f"{name} is sparse: psedge trains dense parameters (gradients may be sparse)"
        )
    dtype = dtype_name(tensor.dtype)
    if trainable and tensor.dtype not in _TRAINABLE:
        raise ModelError(
            f"{name} is {dtype}: psedge trains float32, float16 and bfloat16 parameters; "
            "convert the model with `model.float()`"
        )
    if dtype not in DTYPE_BYTES:
        raise ModelError(f"{name} is {dtype}, which psedge cannot carry")
    if any(
        stride == 0 and extent > 1
        for stride, extent in zip(tensor.stride(), tensor.shape, strict=True)
    ):
        raise ModelError(f"{name} is an expanded tensor: give it memory of its own with `.clone()`")


def _check_memory(items: Iterable[_Named]) -> None:
    """Overlapping tensors would be updated twice; the halves of one flat storage are fine."""
    spans = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + _span_bytes(tensor), str(tensor.device), name)
        for name, tensor, _ in items
        if tensor.numel()
    )
    ends: dict[str, tuple[int, str]] = {}
    for start, stop, device, name in spans:
        end, other = ends.get(device, (0, ""))
        if start < end:
            raise ModelError(
                f"{other} and {name} share memory without being the same tensor: tie weights by "
                "assigning the same nn.Parameter to both, or give each its own with `.clone()`"
            )
        ends[device] = (stop, name)


def _span_bytes(tensor: Tensor) -> int:
    last = sum(
        (extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return (last + 1) * tensor.element_size()
