"""Coloured maps, scaled so that the threshold has a fixed colour."""

__all__ = ["coloured", "heat", "opacities", "outline", "overlaid", "regions"]

import numpy as np

# Inferno of matplotlib (van der Walt and Smith, CC0) at nine places, perceptually uniform from black to light yellow.
_COLOURS = np.array(
    [
        (0, 0, 4),
        (31, 12, 72),
        (85, 15, 109),
        (136, 34, 106),
        (186, 54, 85),
        (227, 89, 51),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ],
    np.float32,
)
_OUTLINE = np.array((0, 255, 255), np.uint8)
_OPAQUE = 0.75
_NEAR_PEAK = 0.9
_FAINT = 0.375  # below three quarters of the threshold the overlay is transparent


def heat(anomaly_map: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Strength of colour, 0.5 at the threshold.

    Args:
        anomaly_map: (H, W).
        threshold: Threshold of the map, above 0.

    Returns:
        (H, W) float32 in [0, 1]: map / (2 * threshold), clipped at 1.
    """
    return np.clip(np.asarray(anomaly_map, np.float32) / np.float32(2 * threshold), 0, 1)


def coloured(strength: np.ndarray) -> np.ndarray:
    """Map strengths to colours from black over red to light yellow.

    Args:
        strength: (H, W) in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    steps = len(_COLOURS) - 1
    table = np.stack(
        [np.interp(np.linspace(0, steps, 256), range(steps + 1), _COLOURS[:, channel]) for channel in range(3)], axis=-1
    )
    return table.round().astype(np.uint8)[(strength * 255).round().astype(np.uint8)]


def opacities(strength: np.ndarray) -> np.ndarray:
    """Opacity of the map over its picture.

    Args:
        strength: (H, W) in [0, 1].

    Returns:
        (H, W) in [0, 0.75]: 0 up to three quarters of the threshold, then linear.
    """
    return _OPAQUE * np.clip((strength - _FAINT) / (1 - _FAINT), 0, 1)


def outline(region: np.ndarray) -> np.ndarray:
    """Border of a region, as pixels of the region.

    Args:
        region: (H, W) bool.

    Returns:
        (H, W) bool: pixels of the region with a neighbour above, below, left or right outside of it.
    """
    padded = np.pad(region, 1, constant_values=True)  # the edge of the picture is not a border
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner


def regions(anomaly_map: np.ndarray, threshold: float, anomalous: bool | None) -> np.ndarray:
    """Anomalous regions of a picture, consistent with its label, as in the training's masks.

    Args:
        anomaly_map: (H, W).
        threshold: Of the map.
        anomalous: Label of the picture; None without a threshold.

    Returns:
        (H, W) bool: pixels above the threshold. Empty for a normal picture; for an anomalous one without such pixels,
        those of at least 0.9 of the map's highest value.
    """
    values = np.asarray(anomaly_map)
    peak = values.max()
    if anomalous and peak <= threshold:
        return values >= peak - (1 - _NEAR_PEAK) * abs(peak)
    return (values > threshold) & (anomalous is not False)


def overlaid(
    image: np.ndarray, anomaly_map: np.ndarray, threshold: float = 0.5, anomalous: bool | None = None
) -> np.ndarray:
    """Blend a map over its picture: transparent where it is low, with an outline around the anomalous regions.

    Args:
        image: (H, W) or (H, W, 3) in [0, 1].
        anomaly_map: (H, W).
        threshold: Of the map, above 0.
        anomalous: See :func:`regions`.

    Returns:
        (H, W, 3) uint8.
    """
    grey = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)  # noqa: PLR2004
    strength = heat(anomaly_map, threshold)
    opacity = opacities(strength)[..., None]
    mixed = (1 - opacity) * (grey * 255) + opacity * coloured(strength)
    result = mixed.round().astype(np.uint8)
    result[outline(regions(anomaly_map, threshold, anomalous))] = _OUTLINE
    return result
