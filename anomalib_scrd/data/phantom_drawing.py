"""Axial head slices with lesions, drawn from random parameters: no file, no data set, tensors only.

Parameters are sampled apart from drawing and know nothing of pixels: the same parameters drawn at another size show
the same head at another resolution. Lengths are in units of half the shorter image side, positions inside the head in
units of its outline (the ellipse of radius 1), intensities in [0, 1].
"""

__all__ = ["LESION_SIZES", "Anatomy", "Lesions", "draw_slices", "sample_anatomy", "sample_lesions"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

LESION_SIZES: dict[str, tuple[float, float]] = {"small": (0.05, 0.08), "medium": (0.10, 0.15), "large": (0.19, 0.27)}
"""Range of the mean radius of each kind of lesion, in units of half the shorter image side."""

_LESION_PLACES = {"small": (0.35, 0.82), "medium": (0.30, 0.72), "large": (0.15, 0.55)}
_HARMONICS = 4
_MIN_RADIUS_PX = 1.6

# Structures of the inner brain on the right side: centre, half axes, tilt in radians, and whether the size follows
# the ventricles. The left side mirrors them.
_FRONTAL_HORN = ((0.105, -0.22), (0.055, 0.17), -0.35, True)
_BODY_OF_VENTRICLE = ((0.085, 0.02), (0.035, 0.16), 0.1, True)
_OCCIPITAL_HORN = ((0.175, 0.27), (0.055, 0.19), -0.45, True)
_BASAL_GANGLIA = ((0.30, -0.08), (0.10, 0.22), -0.3, False)
_THALAMUS = ((0.16, 0.10), (0.10, 0.13), 0.3, False)


@dataclass(frozen=True)
class Anatomy:
    """What tells N heads apart.

    Args:
        centre: (N, 2) x and y of the head's centre.
        axes: (N, 2) half width and half height of the head.
        angle: (N,) rotation in radians.
        layers: (N, 4) thickness of scalp, skull, fluid and cortex, in head units.
        tissue: (N, 5) intensity of scalp, skull, fluid, grey and white matter.
        ventricles: (N, 2) relative size of the left and right ventricle.
        warp: (N, 2, 6, 6) displacement of the outline and of everything in it.
        folds: (N, 1, 18, 18) field whose zero lines are the furrows of the cortex.
        texture: (N, 1, 40, 40) fine variation of the tissue.
        shading: (N, 1, 3, 3) slow variation of the brightness.
        gain: (N,) brightness of the image.
        gamma: (N,) contrast curve of the image.
        noise: (N,) standard deviation of the scanner's noise.
    """

    centre: Tensor
    axes: Tensor
    angle: Tensor
    layers: Tensor
    tissue: Tensor
    ventricles: Tensor
    warp: Tensor
    folds: Tensor
    texture: Tensor
    shading: Tensor
    gain: Tensor
    gamma: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Lesions:
    """One lesion for each of N heads.

    Args:
        place: (N, 2) centre, in head units.
        radius: (N,) mean radius.
        amplitude: (N, 4) strength of the 2nd to 5th harmonic of the outline.
        phase: (N, 4) their phases in radians.
        contrast: (N,) brightness above white matter (positive) or below grey matter (negative).
        softness: (N,) width of the border, relative to the radius.
    """

    place: Tensor
    radius: Tensor
    amplitude: Tensor
    phase: Tensor
    contrast: Tensor
    softness: Tensor


def sample_anatomy(count: int, generator: torch.Generator) -> Anatomy:
    """Sample the parameters of heads.

    Args:
        count: Number of heads N.
        generator: Source of all randomness.

    Returns:
        The parameters.
    """

    def uniform(*ranges: tuple[float, float]) -> Tensor:
        low, high = torch.tensor(ranges).T
        return low + (high - low) * torch.rand(count, len(ranges), generator=generator)  # (N, len(ranges))

    def field(channels: int, side: int) -> Tensor:
        return torch.randn(count, channels, side, side, generator=generator)

    ventricles = uniform((0.45, 1.35)) * uniform((0.9, 1.1), (0.9, 1.1))  # both sides are alike, not equal
    return Anatomy(
        centre=uniform((-0.05, 0.05), (-0.05, 0.05)),
        axes=uniform((0.64, 0.76), (0.78, 0.90)),
        angle=uniform((-0.22, 0.22))[:, 0],
        layers=uniform((0.05, 0.09), (0.045, 0.075), (0.012, 0.035), (0.10, 0.15)),
        tissue=uniform((0.62, 0.85), (0.05, 0.12), (0.12, 0.22), (0.44, 0.53), (0.63, 0.72)),
        ventricles=ventricles,
        warp=field(2, 6),
        folds=field(1, 18),
        texture=field(1, 40),
        shading=field(1, 3),
        gain=uniform((0.88, 1.08))[:, 0],
        gamma=uniform((0.88, 1.15))[:, 0],
        noise=uniform((0.008, 0.020))[:, 0],
    )


def sample_lesions(count: int, kind: str, generator: torch.Generator) -> Lesions:
    """Sample one lesion for each head.

    Args:
        count: Number of heads N.
        kind: A key of ``LESION_SIZES``.
        generator: Source of all randomness.

    Returns:
        The parameters.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind not in LESION_SIZES:
        msg = f"kind must be one of {list(LESION_SIZES)}, got {kind!r}"
        raise ValueError(msg)

    def uniform(low: float, high: float, columns: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, columns, generator=generator)

    distance, direction = uniform(*_LESION_PLACES[kind]), uniform(0, 2 * math.pi)
    sign = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)  # noqa: PLR2004
    return Lesions(
        place=torch.cat([distance * direction.cos(), distance * direction.sin()], dim=1),
        radius=uniform(*LESION_SIZES[kind])[:, 0],
        amplitude=uniform(0, 0.30, _HARMONICS) / torch.arange(1, _HARMONICS + 1),
        phase=uniform(0, 2 * math.pi, _HARMONICS),
        contrast=(sign * uniform(0.10, 0.24))[:, 0],
        softness=uniform(0.12, 0.30)[:, 0],
    )


def draw_slices(
    anatomy: Anatomy,
    height: int,
    width: int,
    generator: torch.Generator,
    lesions: Lesions | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw heads, with a lesion each if asked for.

    Args:
        anatomy: N heads.
        height: Image height in pixels.
        width: Image width in pixels.
        generator: Source of the scanner's noise, the only part that depends on the pixels.
        lesions: One lesion for each head; None draws healthy ones.

    Returns:
        Images (N, H, W) in [0, 1], and masks (N, H, W) that are true where a lesion covers at least half of the
        tissue below it.
    """
    pixel = 2 / min(height, width)
    place = _head_coordinates(anatomy, height, width)  # (N, H, W, 2)
    radius = place.square().sum(dim=-1).sqrt()  # (N, H, W), 1 on the outline
    edge = max(0.010, 0.7 * pixel)
    image, brain = _layers(anatomy, place, radius, edge)
    image = _inner_brain(anatomy, image, place, edge)
    texture = _field(anatomy.texture, place)
    mask = torch.zeros_like(image, dtype=torch.bool)
    if lesions is not None:
        cover = _lesion_cover(anatomy, lesions, place, pixel) * brain
        image = image.lerp(_lesion_tissue(anatomy, lesions) + 0.025 * texture, 0.9 * cover)
        mask = cover >= 0.5  # noqa: PLR2004
    image = image * (1 + 0.05 * _field(anatomy.shading, place)) + 0.014 * texture * brain
    image = (_column(anatomy.gain) * image).clamp(0, 1) ** _column(anatomy.gamma)
    return _scan(image, anatomy.noise, generator), mask


def _column(values: Tensor) -> Tensor:
    return values[:, None, None]  # (N,) to (N, 1, 1)


def _inside(depth: Tensor, edge: float | Tensor) -> Tensor:
    """Soft membership, 0.5 where the depth below a border is 0."""
    return torch.sigmoid(depth / edge)


def _field(grid: Tensor, place: Tensor) -> Tensor:
    """Value of a random grid that spans the head, (N, 1, G, G) at (N, H, W, 2), as (N, H, W)."""
    return F.grid_sample(grid, place, mode="bicubic", padding_mode="reflection", align_corners=True)[:, 0]


def _head_coordinates(anatomy: Anatomy, height: int, width: int) -> Tensor:
    """Place of every pixel in units of the head's outline, (N, H, W, 2) as x and y."""
    half = min(height, width) / 2
    y = (torch.arange(height) + 0.5 - height / 2) / half
    x = (torch.arange(width) + 0.5 - width / 2) / half
    across = x[None, None, :] - _column(anatomy.centre[:, 0])  # (N, 1, W)
    down = y[None, :, None] - _column(anatomy.centre[:, 1])  # (N, H, 1)
    cos, sin = _column(anatomy.angle.cos()), _column(anatomy.angle.sin())
    u = (cos * across + sin * down) / _column(anatomy.axes[:, 0])
    v = (cos * down - sin * across) / _column(anatomy.axes[:, 1])
    u = u * (1 - 0.10 * v.clamp(-1, 1))  # heads are wider at the back
    place = torch.stack([u, v], dim=-1)
    shift = F.grid_sample(anatomy.warp, place, mode="bicubic", padding_mode="border", align_corners=True)
    return place + 0.017 * shift.permute(0, 2, 3, 1)  # (N, 2, H, W) to (N, H, W, 2)


def _layers(anatomy: Anatomy, place: Tensor, radius: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """Scalp, skull, fluid, cortex with its furrows, white matter; and the membership of the brain."""
    scalp, skull, fluid, cortex = (_column(column) for column in anatomy.layers.unbind(dim=1))
    scalp_tone, skull_tone, fluid_tone, grey, white = (_column(column) for column in anatomy.tissue.unbind(dim=1))
    folds = _field(anatomy.folds, place)
    outer = 1 - scalp - skull
    surface = outer - fluid - radius  # depth below the surface of the brain
    brain = _inside(surface, edge)

    image = scalp_tone * _inside(1 - radius, edge)
    image = image.lerp(skull_tone.expand_as(image), _inside(1 - scalp - radius, edge))
    marrow = torch.exp(-(((radius - (1 - scalp - skull / 2)) / (0.2 * skull)) ** 2))
    image = image + 0.18 * marrow
    image = image.lerp(fluid_tone.expand_as(image), _inside(outer - radius, edge))
    image = image.lerp(grey.expand_as(image), brain)
    # White matter reaches into the folds and keeps away from the furrows between them.
    border = cortex + 0.07 - 0.15 * torch.tanh(1.6 * folds.abs())
    image = image.lerp(white.expand_as(image), _inside(surface - border.clamp_min(0.05), 1.6 * edge))
    furrow = torch.exp(-((folds / 0.16) ** 2)) * _inside(0.17 - surface, 0.03) * brain
    image = image.lerp(fluid_tone.expand_as(image), 0.75 * furrow)
    across, down = place.unbind(dim=-1)
    midline = torch.exp(-((across / max(0.014, edge)) ** 2)) * _inside(down.abs() - 0.42, 0.03) * brain
    return image.lerp(fluid_tone.expand_as(image), 0.8 * midline), brain


def _inner_brain(anatomy: Anatomy, image: Tensor, place: Tensor, edge: float) -> Tensor:
    """Deep grey matter and ventricles on both sides, and the third ventricle between them."""
    fluid_tone, grey = (anatomy.tissue[:, index] for index in (2, 3))
    for structure in (_BASAL_GANGLIA, _THALAMUS, _BODY_OF_VENTRICLE, _FRONTAL_HORN, _OCCIPITAL_HORN):
        (x, y), axes, tilt, is_ventricle = structure
        tone, strength = (fluid_tone, 0.95) if is_ventricle else (grey + 0.03, 0.75)
        for side, sign in enumerate((-1, 1)):
            size = anatomy.ventricles[:, side] if is_ventricle else torch.ones_like(grey)
            cover = _ellipse(place, (sign * x, y), axes, sign * tilt, size, edge)
            image = image.lerp(_column(tone).expand_as(image), strength * cover)
    third = _ellipse(place, (0.0, 0.10), (0.016, 0.13), 0.0, anatomy.ventricles.mean(dim=1), edge)
    return image.lerp(_column(fluid_tone).expand_as(image), 0.8 * third)


def _ellipse(
    place: Tensor,
    centre: tuple[float, float],
    axes: tuple[float, float],
    tilt: float,
    size: Tensor,
    edge: float,
) -> Tensor:
    """Soft membership of an ellipse whose half axes are scaled per head by ``size`` (N,)."""
    across, down = place[..., 0] - centre[0], place[..., 1] - centre[1]
    along = (math.cos(tilt) * across + math.sin(tilt) * down) / axes[0]
    other = (math.cos(tilt) * down - math.sin(tilt) * across) / axes[1]
    depth = (_column(size) - (along.square() + other.square()).sqrt()) * min(axes)
    return _inside(depth, 0.8 * edge)


def _lesion_cover(anatomy: Anatomy, lesions: Lesions, place: Tensor, pixel: float) -> Tensor:
    """Soft membership of the lesions, (N, H, W)."""
    offset = (place - lesions.place[:, None, None, :]) * anatomy.axes[:, None, None, :]  # now in image units
    direction = torch.atan2(offset[..., 1], offset[..., 0])
    radius = lesions.radius.clamp_min(_MIN_RADIUS_PX * pixel)  # visible in the smallest images too
    outline = torch.ones_like(direction)
    for index in range(_HARMONICS):
        amplitude, phase = lesions.amplitude[:, index], lesions.phase[:, index]
        outline = outline + _column(amplitude) * torch.cos((index + 2) * direction + _column(phase))
    border = (lesions.softness * radius).clamp_min(0.3 * pixel)
    depth = _column(radius) * outline.clamp_min(0.4) - offset.square().sum(dim=-1).sqrt()
    return _inside(depth, 0.5 * _column(border))


def _lesion_tissue(anatomy: Anatomy, lesions: Lesions) -> Tensor:
    """Intensity of the lesions, (N, 1, 1)."""
    grey, white = anatomy.tissue[:, 3], anatomy.tissue[:, 4]
    return _column(torch.where(lesions.contrast > 0, white, grey) + lesions.contrast)


def _scan(image: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Magnitude image of a noisy signal (Rician noise), in [0, 1]."""
    real, imaginary = torch.randn(2, *image.shape, generator=generator) * _column(noise)
    return torch.hypot(image + real, imaginary).clamp(0, 1)
