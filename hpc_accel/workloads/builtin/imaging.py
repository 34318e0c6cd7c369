"""Segmentation of grey and white matter in 3D patches of a brain: MONAI's U-Net and Dice loss on the MNI152 template.

The template (nonlinear, symmetric, 2009a, 1 mm) and its maps of tissue probability come inside the package nilearn:
V. Fonov et al., "Unbiased average age-appropriate brain templates from birth to adulthood", NeuroImage 54, 2011.
A voxel's label is its most probable tissue. The front of the brain (y >= 16 mm, most of the frontal lobes) is held out;
not one hemisphere, because the template is symmetric and the other would be its mirror image. One averaged brain cannot
tell how well a model carries over to other people.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.builtin.optional_packages import check_installed, package_file
from hpc_accel.workloads.workload import Metric, Workload

CLASSES = ("background", "grey matter", "white matter")
FILE = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
FRONT = 150
"""Index along y from which on voxels are held out: y = 16 mm, 83 of 233 planes."""
LARGEST_PATCH = 80
MIN_BRAIN = 0.2
"""Share of a patch that is brain; emptier ones are left out."""


def build(patch: int = 32, stride: int = 24, channels: int = 8, depth: int = 3, held_out: int = 24) -> Workload:
    """A U-Net of `depth` levels, `channels` wide at the top, on cubes of `patch` voxels taken every `stride` voxels.

    At most `held_out` patches of the front judge it. Raises ConfigError for sizes that do not fit, without the extra.
    """
    check_installed("imaging", "imaging", "monai", "nibabel", "nilearn")
    _check_sizes(patch, stride, depth)
    from monai.losses import DiceLoss
    from monai.networks.nets import UNet

    image, labels = read_template()
    model = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=len(CLASSES),
        channels=[channels * 2**level for level in range(depth)],
        strides=[2] * (depth - 1),
        num_res_units=1,
        norm="INSTANCE",  # not over the batch: a patch's result must not depend on which others share its rank
        dropout=0.0,
    )
    front = Patches(image[:, FRONT:], labels[:, FRONT:], patch, patch)  # side by side
    return Workload(
        model=model,
        # batch=False: a Dice coefficient for each patch and class, so the mean over shares is that over the batch.
        loss=DiceLoss(softmax=True, to_onehot_y=True, batch=False, reduction="mean"),
        dataset=Patches(image[:, :FRONT], labels[:, :FRONT], patch, stride),
        metric=Metric(
            name="mean_dice",
            compute=mean_dice,
            higher_is_better=True,
            dataset=front.evenly(held_out),
            also={"dice_grey_matter": dice_grey_matter, "dice_white_matter": dice_white_matter},
        ),
    )


def read_template() -> tuple[torch.Tensor, torch.Tensor]:
    """Image, scaled to mean 0 and deviation 1 over the brain, and labels 0 to 2; both [197, 233, 189], x first."""
    import nibabel

    def volume(kind: str) -> np.ndarray[Any, Any]:
        path = package_file("imaging", "imaging", "nilearn", FILE.format(kind))
        return np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj)

    t1, grey, white = volume("t1"), volume("gm"), volume("wm")
    # The maps hold probabilities in 255ths; what is neither grey nor white matter is left for the background.
    background = np.clip(255 - grey.astype(np.int16) - white, 0, None)
    labels = np.stack([background, grey, white]).argmax(axis=0).astype(np.uint8)
    brain = t1[t1 > 0].astype(np.float32)
    image = (t1.astype(np.float32) - brain.mean()) / brain.std()
    return torch.from_numpy(image), torch.from_numpy(labels)


class Patches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Cubes of a volume that hold enough brain: (image [1, p, p, p], labels [1, p, p, p])."""

    def __init__(self, image: torch.Tensor, labels: torch.Tensor, patch: int, stride: int) -> None:
        self.image, self.labels, self.patch = image, labels, patch
        starts = [range(0, size - patch + 1, stride) for size in image.shape]
        corners = [(x, y, z) for x in starts[0] for y in starts[1] for z in starts[2]]
        self.corners = [corner for corner in corners if self._cut(labels, corner).bool().float().mean() >= MIN_BRAIN]

    def evenly(self, count: int) -> Patches:
        """These patches thinned out to at most `count`, evenly over the volume."""
        thinned = object.__new__(Patches)
        thinned.image, thinned.labels, thinned.patch = self.image, self.labels, self.patch
        count = min(count, len(self.corners))
        thinned.corners = [self.corners[index * len(self.corners) // count] for index in range(count)]
        return thinned

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        corner = self.corners[index]
        return self._cut(self.image, corner)[None].clone(), self._cut(self.labels, corner)[None].long()

    def _cut(self, volume: torch.Tensor, corner: tuple[int, int, int]) -> torch.Tensor:
        x, y, z = corner
        return volume[x : x + self.patch, y : y + self.patch, z : z + self.patch]


def dice(outputs: torch.Tensor, targets: torch.Tensor, tissue: int) -> float:
    """Dice coefficient of one class over all voxels: twice the overlap over the sum of the two volumes.

    outputs [n, 3, p, p, p] scores, targets [n, 1, p, p, p] labels. NaN where neither holds the class.
    """
    found, true = outputs.argmax(dim=1) == tissue, targets[:, 0] == tissue
    total = found.sum() + true.sum()
    return float(2 * (found & true).sum() / total)


def dice_grey_matter(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Dice coefficient of grey matter."""
    return dice(outputs, targets, 1)


def dice_white_matter(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Dice coefficient of white matter."""
    return dice(outputs, targets, 2)


def mean_dice(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean of the coefficients of grey and white matter; the background is easy and would only flatter."""
    return (dice(outputs, targets, 1) + dice(outputs, targets, 2)) / 2


def _check_sizes(patch: int, stride: int, depth: int) -> None:
    smallest = 2 ** max(depth, 2)
    if depth < 2 or patch % smallest or not smallest <= patch <= LARGEST_PATCH or stride < 1:
        raise ConfigError(
            f"workload imaging with patch {patch}, stride {stride}, depth {depth}",
            f"two levels or more, each halving the patch of at most {LARGEST_PATCH} voxels; a patch every stride >= 1",
            f"for depth {max(depth, 2)} set patch to a multiple of {smallest}, for example {max(smallest, 32)}",
        )
