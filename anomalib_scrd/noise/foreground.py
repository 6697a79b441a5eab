"""Which part of an image is the anatomy, or the part under inspection."""

__all__ = ["foreground_mask"]

import torch

_SHARE = 0.15


def foreground_mask(images: torch.Tensor) -> torch.Tensor:
    """Pixels that differ from the background, which is what the border of the image shows.

    A scan lies in the middle of an even background, so the median of the border is the background's value; a pixel
    belongs to the foreground where it differs from it by more than 15 % of the largest difference. Scaling and shifting
    an image, as normalisation does, changes nothing. An image that is even has no foreground.

    Args:
        images: (B, C, H, W).

    Returns:
        (B, 1, H, W) bool.
    """
    images = images.float().mean(dim=1, keepdim=True)
    border = torch.cat(
        [images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]],
        dim=-1,
    )  # (B, 1, 2 H + 2 W)
    background = border.median(dim=-1).values[..., None, None]
    difference = (images - background).abs()
    return difference > _SHARE * difference.amax(dim=(-2, -1), keepdim=True)
