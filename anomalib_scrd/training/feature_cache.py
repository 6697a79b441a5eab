"""The teacher's features of clean training images, kept from one epoch to the next."""

__all__ = ["FeatureCache"]

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_scrd.training.steady_images import Thumbnails, refuse_augmentations

logger = logging.getLogger(__name__)

_GIB = 2**30


class FeatureCache(Callback):
    """Keeps the teacher's features of clean training images: after the first epoch only noisy ones need a pass.

    The features are kept before their standardisation, in their precision and memory layout, so the training is the one
    without a cache up to rounding (none for ResNets on CPUs): the teacher's batches are smaller, and a library may take
    another algorithm for them. Each process keeps its own, in the memory of the model's device. Images for which there
    is no room, and those of another size than the first, are computed in every epoch. Checkpoints hold nothing of it.

    Augmentations are refused at the start where they can be seen; any other change of an image is an error at the end
    of the epoch.

    Args:
        memory: Memory in GiB.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.begin(0)

    def begin(self, images: int) -> None:
        """Forget everything and get ready for so many images."""
        self._images, self._room = images, 0
        self._kept: dict[str, list[torch.Tensor]] = {}  # by path: (C_k * H_k * W_k,) per scale
        self._size: torch.Size | None = None
        self._layouts: list[tuple[torch.Size, tuple[int, ...]]] = []  # shape and strides of a feature of one image
        self.thumbnails = Thumbnails()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse images that change from epoch to epoch or have no number, and get ready."""
        dataset: Any = getattr(trainer.train_dataloader, "dataset", None)
        refuse_augmentations(dataset, getattr(pl_module, "pre_processor", None))
        if not hasattr(dataset, "__len__"):
            msg = f"feature_cache needs one training set with a length, got {dataset!r}"
            raise ValueError(msg)
        self.begin(len(dataset))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report images that changed, in every process if in any: the others would wait for one that has stopped."""
        del pl_module
        self.thumbnails.check(lambda found: trainer.strategy.reduce_boolean_decision(found, all=False))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the memory back."""
        del trainer, pl_module
        self.begin(0)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the memory back."""
        del exception
        self.on_train_end(trainer, pl_module)

    @torch.no_grad()
    def features(
        self,
        teacher: Callable[[torch.Tensor], list[torch.Tensor]],
        images: torch.Tensor,
        noisy_images: torch.Tensor | None,
        paths: Sequence[str] | None,
    ) -> list[torch.Tensor]:
        """The teacher's features of clean and noisy images; it is asked for those that are not kept.

        Args:
            teacher: The teacher.
            images: (B, 3, H, W), clean.
            noisy_images: (b, 3, H, W), or None.
            paths: What tells the clean images apart, B of them.

        Returns:
            One (B + b, C_k, H_k, W_k) per scale.

        Raises:
            ValueError: If there are no paths.
        """
        if paths is None:
            msg = "feature_cache needs batches with image_path, which tells images apart, got None"
            raise ValueError(msg)
        noisy = [] if noisy_images is None else [noisy_images]
        self._size = self._size or images.shape[1:]
        if images.shape[1:] != self._size:
            return teacher(torch.cat([images, *noisy]))
        self.thumbnails.see(images, paths)
        new = [place for place, path in enumerate(paths) if path not in self._kept]
        shown = [torch.stack([images[place] for place in new])] if new else []
        computed = teacher(torch.cat([*shown, *noisy])) if shown or noisy else []
        if computed and not self._layouts:
            self._make_room(computed)
        # Features of each computed image, of all scales: the new ones, then the noisy ones.
        rows = [list(row) for row in zip(*(_as_rows(feature).unbind() for feature in computed), strict=True)]
        sources = [self._kept.get(path, []) for path in paths] + rows[len(new) :]
        for place, row in zip(new, rows, strict=False):
            sources[place] = row
            if paths[place] not in self._kept and len(self._kept) < self._room:
                self._kept[paths[place]] = [feature.clone() for feature in row]
        if len(new) == len(paths):
            return computed
        return [
            torch.stack([source[scale] for source in sources]).as_strided(
                (len(sources), *shape), (shape.numel(), *stride)
            )
            for scale, (shape, stride) in enumerate(self._layouts)
        ]

    def _make_room(self, features: Sequence[torch.Tensor]) -> None:
        """Decide of how many images features like these are kept."""
        self._layouts = [(feature.shape[1:], feature.stride()[1:]) for feature in map(_dense, features)]
        size = sum(shape.numel() for shape, _ in self._layouts) * features[0].element_size()
        self._room = min(self._images, int(self.memory * _GIB) // size)
        logger.log(
            logging.INFO if self._room == self._images else logging.WARNING,
            "Features of %d training images, %.3f GiB: %d in memory, %d computed in every epoch.",
            self._images,
            self._images * size / _GIB,
            self._room,
            self._images - self._room,
        )


def _dense(features: torch.Tensor) -> torch.Tensor:
    """Features whose images each lie in one piece of memory, in whatever order of dimensions."""
    last = sum((size - 1) * stride for size, stride in zip(features.shape[1:], features.stride()[1:], strict=True))
    return features if last == features[0].numel() - 1 else features.contiguous()


def _as_rows(features: torch.Tensor) -> torch.Tensor:
    """Features (B, C, H, W) as (B, C * H * W), in the order in which they lie in memory."""
    dense = _dense(features)
    return dense.as_strided((len(dense), dense[0].numel()), (dense.stride(0), 1))
