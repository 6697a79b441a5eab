"""Anti-aliased resizing without torch, by Pillow, which torchvision's ``antialias=True`` reproduces."""

__all__ = ["resize"]

import numpy as np
from PIL import Image

_COLOUR = 3


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize with a triangle filter whose width grows with the reduction.

    Args:
        image: (H, W) or (H, W, C) float32, any range.
        size: (height, width).

    Returns:
        (height, width) or (height, width, C) float32; ``image`` itself if it has that size.
    """
    if image.shape[:2] == size:
        return image
    if image.ndim == _COLOUR:
        return np.stack([resize(image[..., channel], size) for channel in range(image.shape[-1])], axis=-1)
    height, width = size
    # Mode F: Pillow computes the weights in double precision and keeps the pixels in float32.
    picture = Image.fromarray(np.ascontiguousarray(image, np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
