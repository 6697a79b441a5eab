"""Resizing of every image separately: a score must not depend on the other images of its batch.

anomalib enlarges images of different sizes to the largest of their batch before the pre-processor resizes them.
"""

__all__ = ["resize_each_image", "resize_of", "warn_of_shapes"]

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataset, PredictDataset
from anomalib.data.transforms.utils import extract_transforms_by_type
from PIL import Image
from torchvision.transforms.v2 import Compose, Resize, Transform

logger = logging.getLogger(__name__)


def resize_of(transform: Any) -> Resize | None:
    """Find the resizing of a pre-processing.

    Args:
        transform: Transform of a pre-processor, or None.

    Returns:
        Its first Resize, None if there is none.
    """
    found = [] if transform is None else extract_transforms_by_type(transform, Resize)
    return found[0] if found else None


def resize_each_image(loaders: Iterable[Any], transform: Any) -> None:
    """Add the model's resizing to anomalib's data sets in loaders that lack it, as its data modules do.

    Args:
        loaders: Data loaders.
        transform: Transform of the model's pre-processor.
    """
    resize = resize_of(transform)
    if resize is None:
        return
    for loader in loaders:
        dataset = getattr(loader, "dataset", None)
        name = {AnomalibDataset: "augmentations", PredictDataset: "transform"}
        attribute = next((value for kind, value in name.items() if isinstance(dataset, kind)), None)
        if attribute is not None:
            present = getattr(dataset, attribute)
            if resize_of(present) is None:
                setattr(dataset, attribute, _followed_by(present, resize))
        elif dataset is not None and (getattr(loader, "batch_size", 1) or 1) > 1:
            logger.warning(
                "%s: images of different sizes in one batch would be enlarged to the largest before they are resized, "
                "and scores would depend on the batch: resize each image to %s in the data set",
                type(dataset).__name__,
                list(resize.size),
            )


def warn_of_shapes(images: Iterable[str | Path], transform: Any, batch_size: int) -> None:
    """Warn if images differ in their aspect ratio and the model's resizing keeps it.

    Args:
        images: Image files that Pillow can open.
        transform: Transform of the model's pre-processor.
        batch_size: Largest number of images in a batch.
    """
    resize = resize_of(transform)
    if resize is None or batch_size == 1 or len(resize.size or ()) > 1:
        return
    first = None
    for path in images:
        with Image.open(path) as image:
            width, height = image.size
        if first is None:
            first = str(path), width / height
        elif width / height != first[1]:
            logger.warning(
                "the pre-processor's Resize to one number keeps the aspect ratio, and images of different shapes, %r "
                "and %r for example, would be stretched to the largest of their batch: scores would depend on the "
                "batch. Give a batch size of 1, or train with Resize((height, width))",
                first[0],
                str(path),
            )
            return


def _followed_by(first: Transform | None, second: Transform) -> Transform:
    return second if first is None else Compose([first, second])
