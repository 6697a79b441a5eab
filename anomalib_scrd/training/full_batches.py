"""Fills up the last batch of an epoch to the size of the others, and explains the error of a too small one."""

__all__ = ["FullBatches", "explained_batch_norm_error"]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


class FullBatches:
    """Fills up a batch that is smaller than the previous one with images of that one.

    A last batch of two images would have as much weight as one of sixteen, with a noisy gradient and noisy batch norm
    statistics. The repeated images get synthetic anomalies of their own. All batches then have one size, so that a
    compiled step is compiled once.
    """

    def __init__(self) -> None:
        self._before: tuple[torch.Tensor, list[str] | None] | None = None

    def __call__(self, images: torch.Tensor, paths: Sequence[str] | None) -> tuple[torch.Tensor, list[str] | None]:
        """Fill up a batch, if necessary.

        Args:
            images: (b, 3, H, W).
            paths: Names of the images, b of them, or None.

        Returns:
            The images, followed by images of the previous batch up to its size, (B, 3, H, W), and their names.
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
    """Name the size of a batch that is too small for batch norm; torch's error does not.

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
