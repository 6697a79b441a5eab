"""The last batch of an epoch, filled up to the size of the others; and a batch that is too small."""

__all__ = ["FullBatches", "explained_batch_norm_error"]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


class FullBatches:
    """Fills a batch that is smaller than the one before up with images of that one.

    A last batch of two images would count as much for the student as one of sixteen: its gradient is noise, and so are
    the means that batch norm takes from it. With synthetic anomalies of their own the borrowed images are no mere
    repetition. All batches then have one size, so that a compiled step is compiled once.
    """

    def __init__(self) -> None:
        self._before: tuple[torch.Tensor, list[str] | None] | None = None

    def __call__(self, images: torch.Tensor, paths: Sequence[str] | None) -> tuple[torch.Tensor, list[str] | None]:
        """Fill a batch up, if it needs it.

        Args:
            images: (b, 3, H, W).
            paths: Names of the images, b of them, or None.

        Returns:
            The images, and behind them as many of the batch before as it had more, (B, 3, H, W), and their names.
        """
        names = None if paths is None else list(paths)
        if self._before is not None:
            others, other_names = self._before
            missing = len(others) - len(images)
            if missing > 0 and others.shape[1:] == images.shape[1:] and others.dtype == images.dtype:
                images = torch.cat([images, others[:missing]])
                names = None if names is None or other_names is None else names + other_names[:missing]
        self._before = images, names
        return images, names


@contextmanager
def explained_batch_norm_error(images: torch.Tensor) -> Iterator[None]:
    """Name the size of a batch that is too small for batch norm, which torch does not.

    Args:
        images: The batch, (B, 3, H, W).

    Raises:
        ValueError: In place of torch's error.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:  # the latter from a compiled model
        if "more than 1 value per channel" not in str(error):
            raise
        batch_size, _, height, width = images.shape
        msg = (
            f"a training batch of {batch_size} image of {height} x {width} pixels leaves one position of the "
            "embedding, and batch norm needs two: give larger images, or a train_batch_size that leaves no single "
            "image for the last batch of an epoch"
        )
        raise ValueError(msg) from error
