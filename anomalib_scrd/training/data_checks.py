"""Checks of the data before a run starts."""

__all__ = ["check_run", "check_size", "check_tiling"]

import logging
from typing import Any

from anomalib.data import AnomalibDataModule
from lightning.pytorch import Trainer

from anomalib_scrd.data.checks import check_data
from anomalib_scrd.data.validation import RepeatableDataModule
from anomalib_scrd.torch_model import ScaleAwareCRDModel

logger = logging.getLogger(__name__)


def check_run(trainer: Trainer, stage: str, transform: Any) -> None:
    """Refuse data that would make a run fail later.

    Args:
        trainer: The trainer, while it sets up a run.
        stage: Lightning's stage: fit, validate, test or predict.
        transform: Transform of the model's pre-processor.

    Raises:
        ValueError: If the data module has no validation images and anomalib would fail.
        UnreadableImageError: If files cannot be read as images.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if (
        stage == "fit"
        and isinstance(datamodule, AnomalibDataModule)
        and not isinstance(datamodule, RepeatableDataModule)
        and not hasattr(datamodule, "val_data")
        and trainer.limit_val_batches
    ):
        msg = (
            f"{type(datamodule).__name__} has no validation images (val_split_mode "
            f"{str(datamodule.val_split_mode.value)!r}), and anomalib fails then: give another val_split_mode, "
            "or trainer.limit_val_batches 0 for scores without threshold and normalisation"
        )
        raise ValueError(msg)
    check_data(trainer, stage, transform)


def check_size(size: tuple[int, int] | None, model: ScaleAwareCRDModel, backbone: str) -> None:
    """Refuse a pre-processor that makes images too small for a model.

    Args:
        size: (height, width) in pixels to which the pre-processor resizes; None if it does not resize.
        model: The model.
        backbone: Name of its teacher.

    Raises:
        ValueError: If the size is too small.
    """
    if size is not None and min(size) < model.minimum_size:
        msg = (
            f"the pre-processor resizes images to {size[0]} x {size[1]} pixels; backbone {backbone!r} with layers "
            f"{list(model.teacher.layers)} needs at least {model.minimum_size}"
        )
        raise ValueError(msg)


def check_tiling(model: ScaleAwareCRDModel, *, cached: bool) -> None:
    """Refuse tiles that do not fit a model, and warn about maps with seams.

    Args:
        model: The model.
        cached: Whether the teacher's features are cached.

    Raises:
        ValueError: If the tiles are too small, or the features of complete images are cached.
    """
    tiling = model.tiling
    if tiling is None:
        return
    if min(tiling.size) < model.minimum_size:
        msg = f"tile_size must be at least {model.minimum_size}, the stride of the embedding, got {tiling.size}"
        raise ValueError(msg)
    if cached:
        msg = "feature_cache keeps features of complete images, but the model is trained on tiles: give feature_cache 0"
        raise ValueError(msg)
    if any(stride == size for size, stride in zip(tiling.size, tiling.stride, strict=True)):
        logger.warning("the tiles do not overlap, so maps have seams: give the tiler a stride below its tile_size")
