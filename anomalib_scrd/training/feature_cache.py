"""The teacher's features of clean training images, kept from one epoch to the next."""

__all__ = ["FeatureCache", "unsteady_step"]

import logging
from typing import Any

import torch
from anomalib.data.transforms import ExportableCenterCrop, SquarePad
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms import v2

from anomalib_scrd.training.device_rows import on_device

logger = logging.getLogger(__name__)

# Transforms without randomness. By exact type: a subclass may be random.
_STEADY = {ExportableCenterCrop, SquarePad, v2.CenterCrop, v2.ConvertImageDtype, v2.Grayscale, v2.Identity}
_STEADY |= {v2.Normalize, v2.Pad, v2.RGB, v2.Resize, v2.ToDtype, v2.ToImage, v2.ToPureTensor}


class FeatureCache(Callback):
    """Caches the teacher's features of clean training images: after the first epoch only noisy ones need a pass.

    The training equals one without a cache up to rounding. Each process keeps features on its device, checkpoints keep
    none. Images beyond the memory, and those of another size than the first, are computed in every epoch. Random
    transforms are refused at the start of a training, other changes of an image at the end of an epoch.

    Args:
        memory: Memory in GiB.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.begin(0)

    def begin(self, images: int) -> None:
        """Clear the cache and expect so many images."""
        self._images, self._room = images, -1  # -1: unknown until the first features
        self._size: torch.Size | None = None
        self._slots: dict[str, int] = {}  # rows of the following, by path, in the order in which images were seen
        self._kept: list[Tensor] = []  # (room, C_k, H_k, W_k) per scale, not standardised
        self._looks = torch.empty(0)  # (images, C * 4 * 4): thumbnails
        self._changes = torch.zeros(images, dtype=torch.int32)  # on the device: the host reads it once per epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse sets without a length and transforms that may be random."""
        dataset: Any = getattr(trainer.train_dataloader, "dataset", None)
        if not hasattr(dataset, "__len__"):
            msg = f"feature_cache needs one training set with a length, got {dataset!r}"
            raise ValueError(msg)
        transform = getattr(getattr(pl_module, "pre_processor", None), "transform", None)
        for name, source in (("augmentations of the training images", dataset), ("pre_processor", transform)):
            if (step := unsteady_step(source)) is not None:
                msg = f"feature_cache needs the same images in every epoch; the {name} may change them, got {step!r}"
                raise ValueError(msg)
        self.begin(len(dataset))

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Report changed images, in all processes if in any: one that goes on alone would wait for the others."""
        changed = [path for path, times in zip(self._slots, self._changes.tolist(), strict=False) if times]
        self._changes.zero_()
        if trainer.strategy.reduce_boolean_decision(bool(changed), all=False):
            rule = f"feature_cache needs the same images in every epoch, each with its own path; {len(changed)} changed"
            msg = f"{rule}, got another image for {min(changed, default='a path of another process')!r}"
            raise ValueError(msg)

    def on_train_end(self, *_: Any) -> None:
        """Free the memory."""
        self.begin(0)

    on_exception = on_train_end  # type: ignore[assignment]

    @torch.no_grad()
    def features(self, teacher: Any, images: Tensor, noisy: Tensor | None, paths: list[str] | None) -> list[Tensor]:
        """The teacher's features of clean and noisy images, computed unless they are cached.

        Args:
            teacher: The teacher, from images to a list of feature maps.
            images: (B, 3, H, W), clean.
            noisy: (b, 3, H, W), or None.
            paths: Identity of the clean images, B of them.

        Returns:
            One (B + b, C_k, H_k, W_k) per scale, in the memory layout of the teacher.

        Raises:
            ValueError: If there are no paths, or more of them than images.
        """
        if paths is None:
            msg = "feature_cache needs batches with image_path, which tells images apart, got None"
            raise ValueError(msg)
        behind = [] if noisy is None else [noisy]
        self._size = self._size or images.shape[1:]
        if images.shape[1:] != self._size:
            return teacher(torch.cat([images, *behind]))
        known = len(self._slots)
        slots = [self._slots.setdefault(path, len(self._slots)) for path in paths]
        where = on_device(slots, images.device)
        self._compare(images, where, [place for place, slot in enumerate(slots) if slot >= known])
        missing = [place for place, slot in enumerate(slots) if slot >= min(known, max(self._room, 0))]
        if not missing:
            kept = [_rows(table, where) for table in self._kept]
            return [torch.cat(pair) for pair in zip(kept, teacher(noisy), strict=True)] if behind else kept
        # Those that have no row yet, or for which there is no room.
        chosen = on_device(missing, images.device)
        new = images if len(missing) == len(paths) else images.index_select(0, chosen)
        computed = teacher(torch.cat([new, *behind]))
        self._keep(computed, [slots[place] for place in missing])
        if new is images:
            return computed
        found = []
        for table, feature in zip(self._kept, computed, strict=True):
            clean = _rows(table, where.clamp(max=self._room - 1)).index_copy_(0, chosen, feature[: len(missing)])
            found.append(torch.cat([clean, feature[len(missing) :]]) if behind else clean)
        return found

    def _compare(self, images: Tensor, where: Tensor, fresh: list[int]) -> None:
        """Count the looks at each image, by its row, that differ from the first one; ``fresh`` images have none yet."""
        looks = F.adaptive_avg_pool2d(images.float(), 4).flatten(1)
        if fresh:
            if len(self._slots) > self._images:
                rule = "feature_cache needs the same images in every epoch, each with its own path"
                msg = f"{rule}; of {self._images} images there are {len(self._slots)} paths by now"
                raise ValueError(msg)
            if not len(self._looks):
                self._looks = looks.new_empty(self._images, looks.shape[1])
                self._changes = self._changes.to(looks.device)
            places = on_device(fresh, looks.device)
            self._looks.index_copy_(0, where.index_select(0, places), looks.index_select(0, places))
        first = self._looks.index_select(0, where)
        other = ((looks - first).abs() > 1e-4 * (1 + first.abs())).any(dim=1)
        self._changes.index_add_(0, where, other.to(self._changes.dtype))

    def _keep(self, computed: list[Tensor], slots: list[int]) -> None:
        """Keep the features of clean images, which are the first ones, as far as there is room."""
        if self._room < 0:
            size = sum(feature[0].nbytes for feature in computed)
            self._room = min(self._images, int(self.memory * 2**30) // size)
            rest, needed = self._images - self._room, self._images * size / 2**30
            text = "Teacher's features of images: %d in memory, %d computed in every epoch, %.3f GiB for all"
            logger.log(logging.WARNING if rest else logging.INFO, text, self._room, rest, needed)
            self._kept = [_empty(self._room, feature) for feature in computed]
        numbers = [number for number, slot in enumerate(slots) if slot < self._room]
        if numbers:
            chosen, rows = (on_device(part, computed[0].device) for part in (numbers, [slots[n] for n in numbers]))
            for table, feature in zip(self._kept, computed, strict=True):
                table.index_copy_(0, rows, feature.index_select(0, chosen))


def _channels_last(feature: Tensor) -> bool:
    return feature.is_contiguous(memory_format=torch.channels_last) and not feature.is_contiguous()


def _empty(rows: int, like: Tensor) -> Tensor:
    """Room for features of so many images in the memory layout of others."""
    layout = torch.channels_last if _channels_last(like) else torch.contiguous_format
    return torch.empty((rows, *like.shape[1:]), dtype=like.dtype, device=like.device, memory_format=layout)


def _rows(table: Tensor, where: Tensor) -> Tensor:
    """Rows in the memory layout of a table; ``index_select`` alone makes contiguous ones."""
    if _channels_last(table):
        return table.permute(0, 2, 3, 1).index_select(0, where).permute(0, 3, 1, 2)
    return table.index_select(0, where)


def unsteady_step(source: Any) -> Any:
    """The first possibly random step of a transform, or of a data set's augmentations; None if there is none."""
    if type(source) in {v2.Compose, nn.Sequential}:
        steps = getattr(source, "transforms", source)
    elif source is None or callable(source):
        return None if source is None or type(source) in _STEADY else source
    else:  # a data set, possibly made of others
        steps = getattr(source, "datasets", [getattr(source, "dataset", getattr(source, "augmentations", None))])
    return next((step for step in map(unsteady_step, steps) if step is not None), None)
