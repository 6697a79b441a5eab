"""The one distance between teacher and student features, shared by the loss and the anomaly map."""

__all__ = ["confidence", "cosine_distance", "image_distance", "position_distance"]

import torch

_EPS = 1e-8


def cosine_distance(first: torch.Tensor, second: torch.Tensor, dim: tuple[int, ...]) -> torch.Tensor:
    """One minus the cosine of the angle between two tensors over the given dimensions.

    Computed in float32 whatever the input's precision is: the difference from one of two nearly parallel vectors
    does not survive bfloat16. A vector of zeros has distance 1 to everything, and a finite gradient.

    Args:
        first: Tensor of any shape.
        second: Tensor of the same shape.
        dim: Dimensions that form the vectors.

    Returns:
        float32 tensor in [0, 2] without the dimensions ``dim``.

    Raises:
        ValueError: If the shapes differ.
    """
    if first.shape != second.shape:
        msg = f"features must have equal shapes, got {tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(msg)
    first, second = first.float(), second.float()
    dot = (first * second).sum(dim)
    squares = _squared_length(first, dim) * _squared_length(second, dim)
    # The clamp lies under the root: rsqrt of a clamped value has gradient zero there, not infinity.
    return 1.0 - dot * squares.clamp_min(_EPS**2).rsqrt()


def image_distance(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Distance of two feature maps as wholes: the cosine over channels, rows and columns together.

    The term inside the sums of the paper's pull and push (Li et al., ICLR 2025).

    Args:
        teacher: Features, (B, C, H, W).
        student: Features, (B, C, H, W).

    Returns:
        (B,) float32 in [0, 2].
    """
    return cosine_distance(teacher, student, dim=(1, 2, 3))


def position_distance(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Distance at each position: the cosine over channels. This is one scale of the anomaly map.

    Args:
        teacher: Features, (B, C, H, W).
        student: Features, (B, C, H, W).

    Returns:
        (B, H, W) float32 in [0, 2].
    """
    return cosine_distance(teacher, student, dim=(1,))


def confidence(teacher: torch.Tensor, damping: float) -> torch.Tensor:
    """How much the direction of the teacher's features says at each position: ``|t|^2 / (|t|^2 + damping * C)``.

    Where an image shows nothing the teacher's standardised features are short, their direction is noise, and the cosine
    calls it anomalous. The distance times this factor does not. The student's length takes no part: a cosine trains
    directions only.

    Args:
        teacher: Features, (B, C, H, W).
        damping: Mean square of a channel at which half of a distance remains; 0 leaves distances as they are.

    Returns:
        (B, H, W) float32 in [0, 1].
    """
    square = teacher.float().square().mean(dim=1)
    return square / (square + damping) if damping > 0 else torch.ones_like(square)


def _squared_length(vectors: torch.Tensor, dim: tuple[int, ...]) -> torch.Tensor:
    if vectors.ndim - 1 in dim:
        # One pass where squares and their sum are two; over channels alone it would take fifteen times as long.
        return torch.linalg.vector_norm(vectors, dim=dim).square()
    return vectors.square().sum(dim)
