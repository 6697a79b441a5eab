"""Normalisation of a model's pre-processing."""

__all__ = ["normalisation"]

from typing import Any

import torch
from torch import nn
from torchvision import transforms as transforms_v1
from torchvision.transforms.v2 import Normalize

from anomalib_scrd.noise import Normalisation


def normalisation(transform: Any) -> Normalisation | None:
    """Find the mean and the standard deviation by which a pre-processing normalises images in [0, 1].

    Args:
        transform: Transform of a pre-processor, of torchvision's first or second version, possibly nested.

    Returns:
        Mean and standard deviation of all its Normalize steps combined; None if there are none.
    """
    if isinstance(transform, (Normalize, transforms_v1.Normalize)):
        mean, std = (
            torch.as_tensor(value, dtype=torch.float32).reshape(-1) for value in (transform.mean, transform.std)
        )
        return Normalisation(mean, std)
    # Compose keeps its steps in a plain list, which `modules()` does not visit.
    steps = transform if isinstance(transform, nn.Sequential) else getattr(transform, "transforms", ())
    result: Normalisation | None = None
    for step in filter(None, map(normalisation, steps)):
        # ((x - m1) / s1 - m2) / s2 = (x - (m1 + s1 m2)) / (s1 s2)
        result = step if result is None else Normalisation(result.mean + result.std * step.mean, result.std * step.std)
    return result
