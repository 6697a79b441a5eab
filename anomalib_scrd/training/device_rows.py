"""Rows of tensors on the training device, chosen by the host without waiting for the device."""

__all__ = ["on_device"]

from collections.abc import Sequence

import torch


def on_device(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    """Numbers of rows on a device, (N,) int64.

    From pinned memory the copy to a GPU waits behind the kernels in its queue, and the host does not.

    Args:
        numbers: N numbers.
        device: The device.
    """
    pinned = device.type == "cuda"
    return torch.tensor(numbers, dtype=torch.int64, pin_memory=pinned).to(device, non_blocking=True)
