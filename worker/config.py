"""What the `[model]`, `[data]` and `[worker]` sections of an experiment may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is trained."""

    factory: Annotated[
        str,
        Meta(
            description="A model that psedge ships (`digits-cnn`, `fashion-cnn`, `parts-cnn`, "
            "`defects-cnn`, `resnet20`, `resnet32`, `mobilenetv2`, `mlp`), or `module:function` "
            "returning a torch.nn.Module, such as `torchvision.models:resnet18`. A worker imports "
            "only packages its operator allowed."
        ),
    ]
    arguments: Annotated[dict[str, Any], Meta(description="Keyword arguments for `factory`.")] = {}
    loss: Annotated[
        str,
        Meta(
            description="`cross-entropy`, `bce-with-logits`, `mse`, or `module:function` taking "
            "(output, target) and returning the mean loss over the batch."
        ),
    ] = "cross-entropy"
    loss_arguments: Annotated[
        dict[str, Any],
        Meta(description="Keyword arguments for the loss, such as `label_smoothing = 0.1`."),
    ] = {}
    metrics: Annotated[
        tuple[str, ...],
        Meta(
            description="Measured on the test data: `accuracy`, or `module:function` taking "
            "(output, target) and returning one number, the batch's mean."
        ),
    ] = ("accuracy",)
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Meta(
            description="Autocast of the forward pass. `bfloat16` is 1.5 to 3 times faster where "
            "the chip has it (recent x86, Orin), slower where it has not (Pi, Nano)."
        ),
    ] = "float32"
    channels_last: Annotated[
        bool,
        Meta(description="NHWC memory order for convolutions; faster on most CPUs and on GPUs."),
    ] = False


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it is trained on."""

    dataset: Annotated[
        str,
        Meta(
            description="`digits`, `parts` or `defects` (made on the spot), `cifar10`, "
            "`fashion-mnist`, `npz`, `image-folder`, `torchvision:NAME`, or `module:function` "
            'returning a torch Dataset; it is called with `split="train"` or `"test"`.'
        ),
    ]
    arguments: Annotated[
        dict[str, Any], Meta(description="Keyword arguments for the data set.")
    ] = {}
    path: Annotated[
        str,
        Meta(
            description="File or folder of the data, beneath the data folder that `--data` names "
            "on each machine (default `data`). Relative: a config never reaches outside of it."
        ),
    ] = ""
    placement: Annotated[
        Literal["shared", "local"],
        Meta(
            description="`shared`: every worker has the whole data set, the supervisor hands out "
            "index ranges so that each epoch visits every sample exactly once. `local`: each "
            "worker trains on what only it has, and no sample leaves the machine."
        ),
    ] = "shared"
    batch_size: Annotated[
        int,
        Meta(
            ge=1,
            description="Samples per worker and step. In `bsp` the joint batch is this times the "
            "number of workers.",
        ),
    ] = 32
    augment: Annotated[
        tuple[str, ...],
        Meta(
            description="Applied to training images in order: `crop` (4 pixels of padding), "
            "`flip` (horizontal)."
        ),
    ] = ()
    train_limit: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Use only the first so many training samples."),
    ] = None
    test_limit: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Use only the first so many test samples."),
    ] = None
    loader_threads: Annotated[
        int,
        Meta(
            ge=1,
            description="Threads that read samples ahead of training where the data set reads "
            "files (`image-folder`, user data sets).",
        ),
    ] = 2


class WorkerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How each worker takes a step."""

    overlap: Annotated[
        bool,
        Meta(
            description="Send an update while the next gradient is computed. Hides the network "
            "behind the computation and costs one step of extra lag."
        ),
    ] = False
    clip_norm: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Scale a worker's gradient down to this L2 norm. Absent: never."),
    ] = None
    accumulate: Annotated[
        int,
        Meta(
            ge=1,
            description="Batches whose gradients are averaged before a push: the same result as "
            "a batch that many times larger, in the memory of one.",
        ),
    ] = 1
    threads: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Threads torch computes with. Absent: torch's own choice."),
    ] = None
