"""Any model that people have survives the way to flat vectors and back."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from psedge.protocol.errors import ModelError
from psedge.worker.binding import Binding, layout_of, state_dict_of

CPU = torch.device("cpu")


class Tied(nn.Module):
    """Input and output embedding are one parameter; some parameters get no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.unused = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(x)))  # type: ignore[no-any-return]


class Buffers(nn.Module):
    """Buffers of every kind, at offsets that do not fit their element sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("count", torch.tensor(7, dtype=torch.int64))
        self.register_buffer("small", torch.tensor([1, -2], dtype=torch.int16))
        self.register_buffer("mean", torch.randn(3).double())
        self.register_buffer("scratch", torch.randn(5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4))


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    return model


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, num_layers=2, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x, x)  # type: ignore[no-any-return]


ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "batch norm": (batch_norm, lambda: torch.randn(2, 3, 5, 5)),
    "frozen": (frozen, lambda: torch.randn(3, 4)),
    "tied": (Tied, lambda: torch.randint(0, 11, (4,))),
    "buffers": (Buffers, lambda: torch.randn(2, 3)),
    "lstm": (Sequence, lambda: torch.randn(3, 2, 4)),
    "transformer": (Attention, lambda: torch.randn(2, 3, 8)),
    "sparse embedding": (lambda: nn.Embedding(9, 3, sparse=True), lambda: torch.tensor([1, 1, 5])),
    "bfloat16": (lambda: nn.Linear(4, 3).bfloat16(), lambda: torch.randn(2, 4).bfloat16()),
    "float16": (lambda: nn.Linear(4, 3).half(), lambda: torch.randn(2, 4).half()),
    "scalar": (lambda: nn.PReLU(), lambda: torch.randn(4)),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
        lambda: torch.randn(2, 3),
    ),
    "channels last": (
        lambda: batch_norm().to(memory_format=torch.channels_last),
        lambda: torch.randn(2, 3, 5, 5),
    ),
}


def bound(model: nn.Module) -> Binding:
    return Binding(model, layout_of(model), CPU)


@pytest.mark.parametrize("name", ZOO)
def test_the_whole_state_comes_back_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    model = ZOO[name][0]()
    binding = bound(model)
    binding.read_model()
    expected = copy.deepcopy(model.state_dict())
    vectors = {key: array.copy() for key, array in binding.vectors.items()}
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    binding.write_parameters()
    binding.write_buffers()
    binding.write_frozen()
    _assert_equal_states(model.state_dict(), expected)
    _assert_equal_states(state_dict_of(binding.layout, vectors), expected)


def _assert_equal_states(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert set(left) == set(right)
    for name, tensor in right.items():
        assert left[name].dtype == tensor.dtype
        assert left[name].shape == tensor.shape
        assert torch.equal(left[name], tensor), name


@pytest.mark.parametrize("name", ZOO)
def test_gradients_lie_where_their_parameters_lie(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = ZOO[name]
    model = make()
    binding = bound(model)
    binding.gradients.fill(9.0)
    model(inputs()).float().square().sum().backward()
    binding.read_gradients()
    named = dict(model.named_parameters())
    for spec in binding.layout.of_role("parameter"):
        gradient = named[spec.name].grad
        piece = binding.gradients[spec.offset : spec.offset + spec.extent].reshape(spec.shape)
        expected = np.zeros(spec.shape) if gradient is None else gradient.to_dense().float().numpy()
        np.testing.assert_array_equal(piece, expected, err_msg=spec.name)
    binding.zero_gradients()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_tied_weights_appear_once_with_their_other_name() -> None:
    layout = layout_of(Tied())
    names = [spec.name for spec in layout.tensors]
    assert "head.weight" not in names
    assert layout.of_role("parameter")[0].aliases == ("head.weight",)
    state = state_dict_of(layout, bound(Tied()).vectors)
    assert state["head.weight"] is state["embedding.weight"]


def test_matrices_come_before_vectors_and_otherwise_the_models_order_holds() -> None:
    model = nn.Sequential(
        nn.Linear(2, 3), nn.Conv1d(3, 2, 1), nn.LayerNorm(2), nn.Bilinear(2, 2, 1)
    )
    names = [spec.name for spec in layout_of(model).of_role("parameter")]
    matrices, vectors = ["0.weight", "1.weight", "3.weight"], ["0.bias", "1.bias", "2.weight"]
    assert names == [*matrices, *vectors, "2.bias", "3.bias"]


def test_layouts_are_ordered_by_role_and_offset() -> None:
    model = nn.Sequential(frozen(), Buffers())
    layout = layout_of(model)
    roles = [spec.role for spec in layout.tensors]
    assert roles == sorted(roles, key=["parameter", "buffer", "counter", "frozen"].index)
    for role in set(roles):
        specs = layout.of_role(role)
        ends = [0, *np.cumsum([spec.extent for spec in specs])]
        assert [spec.offset for spec in specs] == ends[:-1]
    assert "1.scratch" not in [spec.name for spec in layout.tensors]
    assert layout.difference(layout_of(copy.deepcopy(model))) is None


def test_a_compiled_model_has_the_layout_of_the_plain_one() -> None:
    model = batch_norm()
    assert layout_of(torch.compile(model)) == layout_of(model)


def test_changes_of_buffers_are_noticed() -> None:
    model = batch_norm()
    binding = bound(model)
    binding.read_model()
    assert binding.read_buffers() == (False, False)
    model(torch.randn(2, 3, 5, 5))
    assert binding.read_buffers() == (True, True)
    assert binding.read_buffers() == (False, False)
    mean = binding.layout.of_role("buffer")[0]
    assert mean.name == "1.running_mean"
    expected = model[1].running_mean.numpy()
    np.testing.assert_array_equal(binding.buffers[: mean.extent], expected)


def test_a_buffer_may_be_replaced() -> None:
    model = Buffers()
    binding = bound(model)
    model.mean = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    binding.read_buffers()
    np.testing.assert_array_equal(binding.buffers, [1.0, 2.0, 3.0])


def _sharing() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.data)
    return model


def _extra_state() -> nn.Module:
    class Extra(nn.Linear):
        def get_extra_state(self) -> object:
            return {"calls": 3}

        def set_extra_state(self, state: object) -> None:
            return

    return Extra(2, 2)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "nothing trainable": (lambda: nn.ReLU(), "no trainable parameters"),
    "float64": (lambda: nn.Linear(2, 2).double(), "weight is float64"),
    "complex": (lambda: nn.Linear(2, 2, dtype=torch.complex64), "weight is complex64"),
    "meta": (lambda: nn.Linear(2, 2, device="meta"), "meta device"),
    "lazy": (lambda: nn.LazyLinear(2), "lazy"),
    "shared memory": (_sharing, "share memory"),
    "extra state": (_extra_state, "not a tensor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_with_its_reason(case: str) -> None:
    make, reason = REFUSED[case]
    with pytest.raises(ModelError, match=reason):
        layout_of(make())


def test_neighbours_in_one_storage_are_no_overlap() -> None:
    storage = torch.randn(8)
    model = nn.Module()
    model.register_parameter("first", nn.Parameter(storage[:4]))
    model.register_parameter("second", nn.Parameter(storage[4:]))
    assert layout_of(model).length("parameter") == 8


def test_another_models_layout_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"weight.*\[2, 3\].*\[2, 4\]"):
        Binding(nn.Linear(3, 2), layout_of(nn.Linear(4, 2)), CPU)
