"""Every image is resized by itself: a score must not depend on the other images of its batch.

anomalib enlarges images of different sizes to the largest of their batch before the pre-processor resizes them.
"""

__all__ = ["resize_each_image", "resize_of"]

import logging
from collections.abc import Iterable
from typing import Any

from anomalib.data import AnomalibDataset, PredictDataset
from anomalib.data.transforms.utils import extract_transforms_by_type
from torchvision.transforms.v2 import Compose, Resize, Transform

logger = logging.getLogger(__name__)


def resize_of(transform: Any) -> Resize | None:
    """Find the resizing of a pre-processing.

    Args:
        transform: Transform of a pre-processor, or None.

    Returns:
        Its first Resize, None where there is none.
    """
    found = [] if transform is None else extract_transforms_by_type(transform, Resize)
    return found[0] if found else None


def resize_each_image(loaders: Iterable[Any], transform: Any) -> None:
    """Give anomalib's data sets the model's resizing, as its data modules do, where loaders are passed without one.

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
                "and scores would depend on their neighbours: resize each image to %s in the data set",
                type(dataset).__name__,
                list(resize.size),
            )


def _followed_by(first: Transform | None, second: Transform) -> Transform:
    return second if first is None else Compose([first, second])
