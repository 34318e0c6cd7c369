"""Image classification at the sizes of the literature: vision transformers and residual networks.

Written here because torchvision's models are no Sequential, and so cannot be cut into pipeline stages.
"""

from __future__ import annotations

from torch import nn
from torch.utils.data import Dataset

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.builtin import resnet, vit
from hpc_accel.workloads.builtin.images import SyntheticImages, folder_images
from hpc_accel.workloads.builtin.metrics import accuracy, majority_share
from hpc_accel.workloads.builtin.transformer import TENSOR_PLAN
from hpc_accel.workloads.workload import Metric, Workload

NORMS = {"group": resnet.group_norm, "batch": resnet.batch_norm}


def build(
    model: str = "vit-tiny",
    image: int = 32,
    patch: int = 4,
    classes: int = 10,
    samples: int = 512,
    folder: str | None = None,
    norm: str = "group",
) -> Workload:
    """`model` on square images of `image` pixels: `samples` synthetic ones of `classes`, or those of `folder`.

    `patch` is the side of a transformer's patches in pixels; `norm` a residual network's: group, or batch, with which
    layouts compute different things (see resnet.py) but for replicas with the recipe sync_batch_norm.
    Raises ConfigError for unknown names and sizes that do not fit.
    """
    known = (*vit.SIZES, *resnet.SIZES)
    if model not in known:
        raise ConfigError(f"workload vision with model {model!r}", f"models are {', '.join(known)}", "name one of them")
    if norm not in NORMS:
        raise ConfigError(f"workload vision with norm {norm!r}", f"norms are {', '.join(NORMS)}", "name one of them")
    if min(image, patch, samples) < 1 or classes < 2 or (model in vit.SIZES and image % patch):
        raise ConfigError(
            f"workload vision with image {image}, patch {patch}, classes {classes}, samples {samples}",
            "all are positive, there are two classes or more, and patches fill the image",
            "choose patch among the divisors of image",
        )
    dataset: Dataset[object]
    held_out: Dataset[object]
    if folder is not None:
        dataset, held_out, names = folder_images(folder, image)
        classes = len(names)
    else:
        dataset = SyntheticImages(image, classes, 0, samples)
        held_out = SyntheticImages(image, classes, samples, max(classes, samples // 4))
    is_transformer = model in vit.SIZES
    return Workload(
        model=vit.vision_transformer(vit.SIZES[model], image, patch, classes)
        if is_transformer
        else resnet.residual_network(resnet.SIZES[model], image, classes, NORMS[norm]),
        loss=nn.functional.cross_entropy,
        dataset=dataset,
        tensor_plan=TENSOR_PLAN if is_transformer else {},
        metric=Metric(
            name="accuracy",
            compute=accuracy,
            higher_is_better=True,
            dataset=held_out,
            also={"majority_share": majority_share},
        ),
    )
