"""Data sets of medical pictures: read in their native depth, windowed, and resized one by one."""

__all__ = ["MedicalDataset", "SyntheticMedicalDataset"]

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataset
from anomalib.data.utils import LabelName
from anomalib.data.utils.generators import PerlinAnomalyGenerator
from pandas import DataFrame, Series
from torch import Tensor
from torchvision.transforms.v2 import Resize, Transform
from torchvision.tv_tensors import Image, Mask

from anomalib_scrd.data.items import MedicalBatch, MedicalItem
from anomalib_scrd.data.validation import seeded
from anomalib_scrd.imaging import PictureInfo, Preparation, Prepared, UnreadableImageError, read_picture
from anomalib_scrd.imaging.masks import read_mask

_BLEND = (0.01, 0.2)  # anomalib's range for validation images


class MedicalDataset(AnomalibDataset):
    """Pictures of a table.

    Args:
        samples: Rows of ``read_table``.
        name: Name of the data set.
        augmentations: Augmentations of images and masks; the model's Resize belongs there, so that every picture is
            resized separately and a score does not depend on the other images of its batch.

    Attributes:
        preparation: Preparation of the files. It has to be set before a picture is read.
    """

    def __init__(self, samples: DataFrame, name: str, augmentations: Transform | None = None) -> None:
        super().__init__(augmentations=augmentations)
        self._name = name
        self.preparation: Preparation | None = None
        self.samples = samples

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self._name

    @property
    def samples(self) -> DataFrame:
        """The table, sorted by file and number of the picture."""
        return super().samples

    @samples.setter
    def samples(self, samples: DataFrame) -> None:
        self._samples = samples.sort_values(["image_path", "picture"], ignore_index=True)

    def info(self, index: int) -> PictureInfo:
        """Describe where a picture is stored.

        Args:
            index: Index of the picture.

        Returns:
            Options of the readers.
        """
        row = self.samples.iloc[index]
        return PictureInfo(Path(row.image_path), int(row.picture), int(row.pictures), bool(row.eight_bit))

    def __getitem__(self, index: int) -> MedicalItem:
        """Read a picture, and its mask if it has one.

        Args:
            index: Index of the picture.

        Returns:
            The item; its image is (3, H, W), float32 in [0, 1].

        Raises:
            UnreadableImageError: If a file cannot be read; the message names it.
            RuntimeError: If the data module has not been set up.
        """
        row = self.samples.iloc[index]
        info = self.info(index)
        prepared = self._read(info)
        mask = None
        if self.task == TaskType.SEGMENTATION:
            mask = Mask(torch.from_numpy(self._mask(row, info, prepared)))
        image, mask = self._augment(as_tensor(prepared.image), mask)
        return MedicalItem(
            image=Image(image.expand(3, -1, -1)),
            gt_mask=mask,
            gt_label=torch.tensor(int(row.label_index)),
            image_path=info.name,
            mask_path=row.mask_path,
            patient=row.patient,
            volume=row.volume,
            sample=index,
        )

    @property
    def collate_fn(self) -> Callable[..., Any]:
        """The function that makes batches of items."""
        return MedicalBatch.collate

    def _read(self, info: PictureInfo) -> Prepared:
        if self.preparation is None:
            msg = "the window of the pictures is not decided yet: call the data module's setup, or set `preparation`"
            raise RuntimeError(msg)
        return self.preparation(read_picture(info, self.preparation.volumes))

    def _mask(self, row: Series, info: PictureInfo, prepared: Prepared) -> np.ndarray:
        """(H, W) uint8, of the image's size."""
        if not row.mask_path:
            return np.zeros(prepared.image.shape[:2], np.uint8)
        assert self.preparation is not None
        mask = read_mask(Path(row.mask_path), info, self.preparation.volumes, prepared.orientation)
        mask = prepared.padding.apply(mask)
        if mask.shape != prepared.image.shape[:2]:
            reason = f"this mask has {mask.shape} pixels, its image {str(info.path)!r} has {prepared.image.shape[:2]}"
            raise UnreadableImageError.of(row.mask_path, reason)
        return mask.astype(np.uint8)

    def _augment(self, image: Tensor, mask: Mask | None) -> tuple[Tensor, Mask | None]:
        """Image and mask after the augmentations; a grey image keeps one channel if they only resize."""
        if self.augmentations is None:
            return Image(image), mask
        if not isinstance(self.augmentations, Resize):
            image = image.expand(3, -1, -1)
        return (self.augmentations(Image(image)), None) if mask is None else self.augmentations(Image(image), mask)


class SyntheticMedicalDataset(MedicalDataset):
    """Normal pictures, half of them with anomalies of anomalib's Perlin generator, from fixed seeds.

    anomalib's own class writes 8-bit files; here the anomalies are added to the windowed picture when it is read.

    Args:
        normal: Normal pictures.
        seed: Seed of the choice and of the anomalies; None for another result each time.
    """

    def __init__(self, normal: MedicalDataset, seed: int | None) -> None:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        samples = normal.samples.copy()
        chosen = torch.randperm(len(samples), generator=generator)[: len(samples) // 2].numpy()
        seeds = torch.randint(2**31, (len(samples),), generator=generator).numpy()
        samples["anomaly_seed"] = -1
        samples.loc[chosen, "anomaly_seed"] = seeds[chosen]
        samples.loc[chosen, ["label", "label_index"]] = ["abnormal", int(LabelName.ABNORMAL)]
        samples.attrs["task"] = TaskType.SEGMENTATION.value
        super().__init__(samples, normal.name, normal.augmentations)
        with seeded(seed):  # its constructor draws a parameter
            self._generator = PerlinAnomalyGenerator(probability=1.0, blend_factor=_BLEND)

    def __getitem__(self, index: int) -> MedicalItem:
        """Read a picture and add its anomaly; arguments and errors as in :class:`MedicalDataset`."""
        row = self.samples.iloc[index]
        info = self.info(index)
        image = as_tensor(self._read(info).image).expand(3, -1, -1)
        mask = torch.zeros(1, *image.shape[1:])
        if row.anomaly_seed >= 0:
            with seeded(int(row.anomaly_seed)):
                image, mask = self._generator(image.contiguous())
                image = image.clamp(0, 1)
        image, augmented = self._augment(image.reshape(3, *image.shape[-2:]), Mask(mask.squeeze().to(torch.uint8)))
        return MedicalItem(
            image=Image(image),
            gt_mask=augmented,
            gt_label=torch.tensor(int(row.label_index)),
            image_path=info.name,
            patient=row.patient,
            volume=row.volume,
            sample=index,
        )


def as_tensor(image: np.ndarray) -> Tensor:
    """Convert a prepared picture to a tensor.

    Args:
        image: (H, W) or (H, W, 3), float32.

    Returns:
        (1, H, W) or (3, H, W).
    """
    tensor = torch.from_numpy(np.ascontiguousarray(image))
    return tensor[None] if image.ndim == 2 else tensor.permute(2, 0, 1)  # noqa: PLR2004
