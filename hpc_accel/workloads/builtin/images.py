"""Images with classes: a folder with one sub-folder a class, or synthetic ones drawn where they are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from hpc_accel.errors import ConfigError, DataError
from hpc_accel.workloads.builtin.optional_packages import check_installed

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
HELD_OUT_EVERY = 5
"""Of each class the files numbered 4, 9, 14, ... by name are held out."""
NOISE = 2.0


class SyntheticImages(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Image `index` is the pattern of its class under noise, the same on every rank, drawn from its number."""

    def __init__(self, image: int, num_classes: int, first: int, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(num_classes, 3, 4, 4, generator=generator)
        self.patterns = nn.functional.interpolate(coarse, size=image, mode="bilinear")
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        number = self.first + index
        label = number % len(self.patterns)
        noise = torch.randn(self.patterns[label].shape, generator=torch.Generator().manual_seed(number))
        return self.patterns[label] + NOISE * noise, torch.tensor(label)


class FolderImages(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Files read when asked for: pictures through Pillow, or .npy arrays [h, w, 3] or [h, w] of bytes.

    Every image is scaled to `image` x `image` pixels, three channels of -1 to 1.
    """

    def __init__(self, files: list[tuple[Path, int]], image: int) -> None:
        self.files, self.image = files, image

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        path, label = self.files[index]
        try:
            pixels = _read(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: {error}", "an image can be read", "repair or remove the file") from error
        scaled = nn.functional.interpolate(pixels[None], size=(self.image, self.image), mode="bilinear", antialias=True)
        return scaled[0] / 127.5 - 1, torch.tensor(label)


def folder_images(folder: str, image: int) -> tuple[FolderImages, FolderImages, list[str]]:
    """Images to train on, images held out, and the classes by name. Raises ConfigError for a folder without both."""
    root = Path(folder).expanduser()
    classes = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    kept: list[tuple[Path, int]] = []
    held_out: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        files = [path for path in sorted((root / name).iterdir()) if path.suffix.lower() in (*PICTURES, ".npy")]
        for number, path in enumerate(files):
            (held_out if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else kept).append((path, label))
    if len(classes) < 2 or not held_out:
        raise ConfigError(
            f"workload vision with folder {folder}: {len(classes)} classes, {len(kept) + len(held_out)} images",
            f"the folder has a sub-folder for each of two classes or more, and one has {HELD_OUT_EVERY} images or more",
            f"arrange it as folder/class/name{PICTURES[0]} (or {', '.join(PICTURES[1:])}, .npy)",
        )
    if any(path.suffix.lower() in PICTURES for path, _ in kept + held_out):
        check_installed("vision", "vision", "PIL")
    return FolderImages(kept, image), FolderImages(held_out, image), classes


def _read(path: Path) -> torch.Tensor:
    """Three channels of 0 to 255: [3, h, w]. Raises OSError or ValueError."""
    if path.suffix.lower() == ".npy":
        array = np.load(path, allow_pickle=False)
        if array.ndim == 2:
            array = np.stack([array] * 3, axis=-1)
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise ValueError(f"an array of shape {list(array.shape)} and type {array.dtype}, not bytes [h, w, 3]")
    else:
        from PIL import Image

        with Image.open(path) as picture:
            array = np.array(picture.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1).float()
