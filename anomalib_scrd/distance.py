"""The one distance between teacher and student features, shared by the loss and the anomaly map."""

__all__ = ["confidence", "cosine_distance", "image_distance", "position_distance", "prototype_distance"]

from typing import Any

import torch

_EPS = 1e-8


def cosine_distance(first: torch.Tensor, second: torch.Tensor, dim: tuple[int, ...]) -> torch.Tensor:
    """One minus the cosine of the angle between two tensors over the given dimensions.

    Inputs of any precision are converted to float32: bfloat16 cannot represent the small distance of two nearly
    parallel vectors. A vector of zeros has distance 1 to everything, and a finite gradient.

    Args:
        first: Tensor of any shape.
        second: Tensor of the same shape.
        dim: Dimensions that form the vectors.

    Returns:
        float32 tensor in [0, 2] up to rounding (about -4e-7 was seen), without the dimensions ``dim``.

    Raises:
        ValueError: If the shapes differ.
    """
    _check_shapes(first, second)
    first, second = first.float(), second.float()
    if torch.is_grad_enabled() and (first.requires_grad or second.requires_grad):
        distance: torch.Tensor = _CosineDistance.apply(first, second, dim)  # type: ignore[no-untyped-call]
        return distance
    return 1.0 - _cosine(first, second, dim)[0]


def image_distance(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """One cosine distance per image, over channels, rows and columns together.

    The term inside the sums of the paper's pull and push (Li et al., ICLR 2025).

    Args:
        teacher: Features, (B, C, H, W).
        student: Features, (B, C, H, W).

    Returns:
        (B,) float32 in [0, 2] up to rounding.
    """
    return cosine_distance(teacher, student, dim=(1, 2, 3))


def position_distance(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Cosine distance at each position, over channels. Each map is one scale of the anomaly map.

    Args:
        teacher: Features, (B, C, H, W).
        student: Features, (B, C, H, W).

    Returns:
        (B, H, W) float32 in [0, 2] up to rounding.

    Raises:
        ValueError: If the shapes differ.
    """
    return cosine_distance(teacher, student, dim=(1,))


def prototype_distance(teacher: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """Cosine distance at each position to the nearest prototype, over channels.

    Args:
        teacher: Features, (B, C, H, W).
        prototypes: (P, C) float32, each of length 1.

    Returns:
        (B, H, W) float32 in [0, 2] up to rounding, as in :func:`position_distance`.
    """
    teacher = teacher.float()
    square = _squared_length(teacher, (1,))
    with torch.autocast(teacher.device.type, enabled=False):  # half precision would round a small distance to nothing
        nearest = (teacher.flatten(2).mT @ prototypes.mT).amax(dim=2).view_as(square)
    return 1.0 - nearest * square.clamp_min(_EPS**2).rsqrt()


def confidence(teacher: torch.Tensor, damping: float) -> torch.Tensor:
    """Reliability of the direction of the teacher's features at each position: ``s / (s + damping)``.

    In uniform parts of an image the teacher's standardised features are short, and their direction is noise, which
    gives a large cosine distance. The factor suppresses this distance. The student's length is not used, because a
    cosine trains directions only.

    Args:
        teacher: Features, (B, C, H, W); s is the mean square over their channels.
        damping: Mean square at which the factor is one half, above 0.

    Returns:
        (B, H, W) float32 in [0, 1].
    """
    square = _squared_length(teacher.float(), (1,)) / teacher.shape[1]
    return square / (square + damping)


class _CosineDistance(torch.autograd.Function):
    """One minus the cosine, with its gradient in closed form: half as many passes over the features as autograd.

    With ``c`` the cosine, ``d(1 - c)/db = (c b / |b| - a / |a|) / |b|``; where ``|a| |b|`` is clamped, the lengths are
    constants and the first term is absent.
    """

    @staticmethod
    def forward(ctx: Any, first: torch.Tensor, second: torch.Tensor, dim: tuple[int, ...]) -> torch.Tensor:
        cosine, inverse, squares = _cosine(first, second, dim)
        ctx.save_for_backward(first, second, cosine, inverse, *squares)
        ctx.dim = dim
        return 1.0 - cosine

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        first, second, cosine, inverse, *squares = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative needs the graph of these values
            cosine, inverse, squares = _cosine(first, second, ctx.dim)
        free = squares[0] * squares[1] > _EPS**2

        def towards(vectors: torch.Tensor, others: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
            own = torch.where(free, gradient * cosine / square, 0)
            return (vectors * _spread(own, ctx.dim)).addcmul_(others, _spread(-gradient * inverse, ctx.dim))

        wanted_first, wanted_second, _ = ctx.needs_input_grad
        return (
            towards(first, second, squares[0]) if wanted_first else None,
            towards(second, first, squares[1]) if wanted_second else None,
            None,
        )


def _cosine(
    first: torch.Tensor, second: torch.Tensor, dim: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Cosine, ``1 / (|a| |b|)`` and the squared lengths."""
    squares = _squared_length(first, dim), _squared_length(second, dim)
    inverse = (squares[0] * squares[1]).clamp_min(_EPS**2).rsqrt()
    return (first * second).sum(dim) * inverse, inverse, squares


def _check_shapes(first: torch.Tensor, second: torch.Tensor) -> None:
    if first.shape != second.shape:
        msg = f"features must have equal shapes, got {tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(msg)


def _spread(values: torch.Tensor, dim: tuple[int, ...]) -> torch.Tensor:
    """Values with the summed dimensions restored, of size 1."""
    for position in sorted(dim):
        values = values.unsqueeze(position)
    return values


def _squared_length(vectors: torch.Tensor, dim: tuple[int, ...]) -> torch.Tensor:
    if vectors.ndim - 1 in dim:
        # One pass instead of two; over channels alone it would take fifteen times as long.
        return torch.linalg.vector_norm(vectors, dim=dim).square()
    return vectors.square().sum(dim)
