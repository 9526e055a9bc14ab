"""ImageNet-1k and its robust sets from folders of class folders, as they are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nashsolve.core.errors import InvalidProblem, MissingExtra

SUFFIXES = {".jpeg", ".jpg", ".png"}
SETS = {"train": "train", "validation": "val", "A": "imagenet-a", "O": "imagenet-o", "R": "imagenet-r"}
"""Part -> folder below the root."""
_MEAN, _SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageFolders(Dataset[tuple[Tensor, int]]):
    """Images below folders that are named after their class.

    Parameters
    ----------
    root : folder of the data sets
    part : of `SETS`
    side : in pixels; training crops and mirrors at random, other parts cut the centre
    classes : names in the order of their numbers; None takes the folders of the training part. Images of ImageNet-A and
        -R keep the number that their class has there; those of ImageNet-O, whose classes are unknown, get -1

    Raises
    ------
    InvalidProblem
        Where a folder is missing or empty.
    """

    def __init__(self, root: str | Path, part: str, side: int, classes: Sequence[str] | None = None) -> None:
        if part not in SETS:
            raise InvalidProblem(f"part is {part!r}; known are {', '.join(SETS)}")
        self.folder, self.part, self.side = Path(root) / SETS[part], part, side
        known = list(classes) if classes is not None else class_names(root)
        number = {name: k for k, name in enumerate(known)}
        self.files: list[tuple[Path, int]] = []
        for found in _folders(self.folder):
            if part != "O" and found.name not in number:
                raise InvalidProblem(f"{found} is no class of the training part")
            label = -1 if part == "O" else number[found.name]
            self.files += [(f, label) for f in sorted(found.iterdir()) if f.suffix.lower() in SUFFIXES]
        if not self.files:
            raise InvalidProblem(f"{self.folder} holds no images")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image (3, side, side), float32, standardised, and its class."""
        try:
            from PIL import Image
        except ImportError:
            raise MissingExtra("pillow", "experiments", "reading images") from None
        path, label = self.files[index]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
            short = min(image.size)
            scale = self.side * 8 // 7 / short
            image = image.resize(
                (max(self.side, round(image.width * scale)), max(self.side, round(image.height * scale)))
            )
        left, top = image.width - self.side, image.height - self.side
        if self.part == "train":
            left, top = (int(torch.randint(0, room + 1, ())) for room in (left, top))
        else:
            left, top = left // 2, top // 2
        pixels = np.asarray(image.crop((left, top, left + self.side, top + self.side)), dtype=np.float32) / 255
        found = torch.from_numpy((pixels - np.array(_MEAN, np.float32)) / np.array(_SD, np.float32)).permute(2, 0, 1)
        if self.part == "train" and bool(torch.rand(()) < 0.5):
            found = found.flip(-1)
        return found.contiguous(), label


def class_names(root: str | Path) -> list[str]:
    """Names of the training part's classes, in the order of their numbers."""
    return [folder.name for folder in _folders(Path(root) / SETS["train"])]


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InvalidProblem(
            f"{folder} does not exist; ImageNet cannot be downloaded without an account: unpack it there, one folder "
            "for each class"
        )
    return sorted(found for found in folder.iterdir() if found.is_dir())
