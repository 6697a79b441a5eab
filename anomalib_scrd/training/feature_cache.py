"""The frozen teacher's features of clean training images, kept from one epoch to the next."""

__all__ = ["FeatureCache", "unsteady_step"]

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
import torch
from anomalib.data.transforms import ExportableCenterCrop, SquarePad
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import ConcatDataset, Subset
from torchvision.transforms import v2

from anomalib_scrd.components.teacher import Teacher

logger = logging.getLogger(__name__)

_GIB = 2**30
_THUMBNAIL = 4
_TOLERANCE = 1e-4
_CONTAINERS = (v2.Compose, nn.Sequential)
# Their results depend on nothing but the image. By exact type: a subclass may add what it likes.
_STEADY = frozenset(
    {
        ExportableCenterCrop,
        SquarePad,
        v2.CenterCrop,
        v2.ConvertImageDtype,
        v2.Grayscale,
        v2.Identity,
        v2.Normalize,
        v2.Pad,
        v2.RGB,
        v2.Resize,
        v2.ToDtype,
        v2.ToImage,
        v2.ToPureTensor,
    }
)


class FeatureCache(Callback):
    """Keeps the teacher's features of clean training images: after the first epoch only noisy ones need a pass.

    The features are those that the teacher gave, before their standardisation, in its precision and memory layout. So
    a training with a cache is the training without, but for one thing: the teacher's batches are smaller, and a library
    may round otherwise for another batch. On CPUs, ResNets are exact to the last bit; networks with 1 x 1 convolutions
    are where both batches are large enough for the same algorithm (from 16 images on with one thread, from 2 on with
    several), else to the rounding of float32.

    Each process of a training has a cache of its own. The first rows lie in the memory of the model's device, the rest
    in files without a name, which the system removes with the process at the latest. Images of another size than the
    first, and those that found no room, are computed every time. Nothing goes into a checkpoint.

    What varies from epoch to epoch must not be kept. Augmentations are refused at the start where they can be seen;
    beyond that, a small thumbnail of each image is compared with that of its first sight, and a difference is reported
    at the end of the epoch.

    Args:
        memory: Features in memory, in GiB.
        folder: Where the files of the rest are made; None for no files.
    """

    def __init__(self, memory: float = 0.0, folder: str | None = None) -> None:
        self.memory = memory
        self.folder = folder
        self.begin(0)

    def begin(self, images: int) -> None:
        """Forget everything and get ready.

        Args:
            images: Number of the training images.

        Raises:
            ValueError: If files cannot be made in the folder.
        """
        self._images = images
        self._rows: dict[str, int] = {}  # by path
        self._tiers: list[_Tier] = []
        self._size: torch.Size | None = None
        self._thumbnails = self._differs = torch.empty(0)
        if images and self.folder is not None:
            try:
                Path(self.folder).mkdir(parents=True, exist_ok=True)
                TemporaryFile(dir=self.folder).close()
            except OSError as error:
                msg = f"feature_cache.folder must be a folder in which files can be made, got {self.folder!r}: {error}"
                raise ValueError(msg) from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether the images stay as they are, and get ready.

        Args:
            trainer: Trainer with its training loader.
            pl_module: Model with its pre-processor.

        Raises:
            ValueError: If images are augmented, their number is unknown, or files cannot be made.
        """
        dataset = getattr(trainer.train_dataloader, "dataset", None)
        transforms = [("augmentations of the training images", steps) for steps in _augmentations(dataset)]
        transforms.append(("pre_processor", getattr(getattr(pl_module, "pre_processor", None), "transform", None)))
        for name, transform in transforms:
            step = unsteady_step(transform)
            if step is not None:
                msg = (
                    "feature_cache needs images that are the same in every epoch; "
                    f"the {name} may change them, got {step!r}"
                )
                raise ValueError(msg)
        try:
            images = len(dataset)  # type: ignore[arg-type]  # the error is the answer
        except TypeError as error:
            msg = f"feature_cache needs one training set with a length, got {dataset!r}"
            raise ValueError(msg) from error
        self.begin(images)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report images that changed.

        Args:
            trainer: Unused.
            pl_module: Unused.

        Raises:
            ValueError: If there are some.
        """
        del trainer, pl_module
        self.check()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give memory and files back."""
        del trainer, pl_module
        self.begin(0)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give memory and files back."""
        del trainer, pl_module, exception
        self.begin(0)

    @torch.no_grad()
    def features(
        self,
        teacher: Teacher,
        images: torch.Tensor,
        noisy_images: torch.Tensor | None,
        paths: Sequence[str] | None,
    ) -> list[torch.Tensor]:
        """The teacher's features of clean and noisy images, of which it sees those that are not kept.

        Args:
            teacher: The teacher.
            images: (B, 3, H, W), clean.
            noisy_images: (B, 3, H, W), or None.
            paths: What tells the clean images apart, B of them.

        Returns:
            One (B + b, C_k, H_k, W_k) per scale for b noisy images.

        Raises:
            ValueError: If there are no paths.
        """
        if paths is None:
            msg = "feature_cache needs batches with image_path, which tells images apart, got None"
            raise ValueError(msg)
        self._size = self._size or images.shape[1:]
        if images.shape[1:] != self._size:
            return teacher(images if noisy_images is None else torch.cat([images, noisy_images]))
        batch = len(paths)
        looks = F.adaptive_avg_pool2d(images.float(), _THUMBNAIL).flatten(1)
        pieces, positions = [], []
        for tier in self._tiers:
            found = [place for place, path in enumerate(paths) if self._rows.get(path, -1) in tier.rows]
            if found:
                pieces.append(tier.take([self._rows[paths[place]] for place in found], images.device))
                positions += found
        new = [place for place, path in enumerate(paths) if path not in self._rows]
        shown = [images if len(new) == batch else _selected(images, new)] if new else []
        if noisy_images is not None:
            shown.append(noisy_images)
            batch += len(noisy_images)
        if shown:
            computed = teacher(shown[0] if len(shown) == 1 else torch.cat(shown))
            if not self._tiers:
                self._make_room(computed)
            self._keep(paths, new, computed, looks)
            pieces.append(computed)
            positions += [*new, *range(len(paths), batch)]
        self._compare(paths, looks)
        if len(pieces) == 1:
            return pieces[0]
        joined = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
        order = sorted(range(batch), key=positions.__getitem__)
        return joined if order == list(range(batch)) else [_selected(feature, order) for feature in joined]

    def check(self) -> None:
        """Report images that changed since their first sight.

        Raises:
            ValueError: If there are some; the message names one.
        """
        rows = set(self._differs.nonzero().flatten().tolist())
        if rows:
            path = next(path for path, row in self._rows.items() if row in rows)
            msg = (
                "feature_cache needs images that are the same in every epoch, each with a path of "
                f"its own; {len(rows)} changed, got another image for {path!r}"
            )
            raise ValueError(msg)

    def _make_room(self, features: Sequence[torch.Tensor]) -> None:
        """Prepare memory and files for features like these."""
        size = sum(feature[0].numel() * feature.element_size() for feature in features)
        in_memory = min(self._images, int(self.memory * _GIB) // size)
        in_file = 0 if self.folder is None else self._images - in_memory
        device = features[0].device
        self._tiers = [
            _Tier(range(in_memory), [_store(feature, in_memory) for feature in features]),
            _Tier(
                range(in_memory, in_memory + in_file),
                [_store(feature, in_file, self.folder) for feature in features],
            ),
        ]
        room = in_memory + in_file
        self._thumbnails = torch.empty(room, 3 * _THUMBNAIL**2, device=device)
        self._differs = torch.zeros(room, dtype=torch.bool, device=device)
        level = logging.INFO if room == self._images else logging.WARNING
        logger.log(
            level,
            "Features of %d training images, %.3f GiB: %d in memory, %d in %s, %d computed in every epoch.",
            self._images,
            self._images * size / _GIB,
            in_memory,
            in_file,
            self.folder or "no file",
            self._images - room,
        )

    def _keep(
        self, paths: Sequence[str], new: Sequence[int], features: Sequence[torch.Tensor], looks: torch.Tensor
    ) -> None:
        """Keep the features of the new images, which stand first, as far as there is room."""
        chosen = {}
        for index, place in enumerate(new):
            if paths[place] not in self._rows and len(self._rows) < len(self._differs):
                chosen[len(self._rows)] = index
                self._rows[paths[place]] = len(self._rows)
        for tier in self._tiers:
            rows = [row for row in chosen if row in tier.rows]
            if rows:
                tier.put(rows, [_selected(feature, [chosen[row] for row in rows]) for feature in features])
        if chosen:
            first = _selected(looks, [new[index] for index in chosen.values()])
            self._thumbnails.index_copy_(0, _index(list(chosen), looks.device), first)

    def _compare(self, paths: Sequence[str], looks: torch.Tensor) -> None:
        """Mark the kept images that do not look as they did; the marks stay on the device until the epoch's end."""
        kept = [place for place, path in enumerate(paths) if path in self._rows]
        if kept:
            rows = _index([self._rows[paths[place]] for place in kept], looks.device)
            first, now = self._thumbnails.index_select(0, rows), _selected(looks, kept)
            differs = ((now - first).abs() > _TOLERANCE * (1 + first.abs())).any(dim=1)
            self._differs.index_copy_(0, rows, self._differs.index_select(0, rows) | differs)


class _Tier(NamedTuple):
    """Rows of the cache that lie in one place.

    Attributes:
        rows: Their numbers.
        stores: One (R, C_k, H_k, W_k) per scale, in the memory layout of the teacher's features.
    """

    rows: range
    stores: list[torch.Tensor]

    def take(self, rows: Sequence[int], device: torch.device) -> list[torch.Tensor]:
        """Features of some rows, (B, C_k, H_k, W_k) each, on a device."""
        places = [row - self.rows.start for row in rows]
        return [_selected(store, places, device) for store in self.stores]

    def put(self, rows: Sequence[int], features: Sequence[torch.Tensor]) -> None:
        """Keep features, (B, C_k, H_k, W_k) each, as some rows."""
        places = _index([row - self.rows.start for row in rows], self.stores[0].device)
        for store, feature in zip(self.stores, features, strict=True):
            order = _order(store)
            store.permute(order).index_copy_(0, places, feature.permute(order).to(store.device))


def unsteady_step(transform: Any) -> Any:
    """The first step of a transform that is not known to give the same result for the same image.

    Args:
        transform: A transform, possibly nested, or None.

    Returns:
        The step, or None where there is none.
    """
    if transform is None or type(transform) in _STEADY:
        return None
    if type(transform) not in _CONTAINERS:
        return transform
    steps = transform.transforms if isinstance(transform, v2.Compose) else transform
    return next((found for found in map(unsteady_step, steps) if found is not None), None)


def _augmentations(dataset: Any) -> list[Any]:
    """What a training set, possibly made of several, applies to its images."""
    if isinstance(dataset, Subset):
        return _augmentations(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return [steps for part in dataset.datasets for steps in _augmentations(part)]
    return [getattr(dataset, "augmentations", None)]


def _store(like: torch.Tensor, rows: int, folder: str | None = None) -> torch.Tensor:
    """Room for features in the layout of some, in their device's memory or in a file without a name.

    Raises:
        ValueError: If the folder has no room.
    """
    order = _order(like)
    shape = (rows, *(like.shape[dim] for dim in order[1:]))
    if folder is None or not rows:
        return torch.empty(shape, dtype=like.dtype, device=like.device).permute(_inverse(order))
    size = rows * like[0].numel() * like.element_size()
    with TemporaryFile(dir=folder) as file:  # the map keeps it open
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk is told now, and not by a signal at some later write
                os.posix_fallocate(file.fileno(), 0, size)
            data = np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,))
        except OSError as error:
            msg = f"feature_cache.folder must have room for {size / _GIB:.3f} GiB more, got {folder!r}: {error}"
            raise ValueError(msg) from error
    return torch.from_numpy(data).view(like.dtype).view(shape).permute(_inverse(order))


def _selected(tensor: torch.Tensor, places: Sequence[int], device: torch.device | None = None) -> torch.Tensor:
    """Some rows of a tensor in its memory layout, on a device; the host does not wait for a copy to a GPU."""
    order = _order(tensor)
    rows = tensor.permute(order)
    index = _index(places, tensor.device)
    if device is None or device == tensor.device:
        chosen = rows.index_select(0, index)
    else:
        chosen = torch.empty((len(places), *rows.shape[1:]), dtype=rows.dtype, pin_memory=device.type == "cuda")
        torch.index_select(rows, 0, index, out=chosen)
        chosen = chosen.to(device, non_blocking=True)
    return chosen.permute(_inverse(order))


def _index(places: Sequence[int], device: torch.device) -> torch.Tensor:
    """Numbers of rows on a device; the host does not wait for a GPU."""
    index = torch.tensor(places)
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index.to(device)


def _order(tensor: torch.Tensor) -> list[int]:
    """Dimensions by decreasing stride, the first one first: contiguous in memory where they are permuted so."""
    return [0, *sorted(range(1, tensor.ndim), key=tensor.stride, reverse=True)]


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
