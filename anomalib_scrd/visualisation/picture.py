"""The picture of one prediction."""

__all__ = ["Prediction", "draw"]

from functools import cache
from typing import NamedTuple

import numpy as np
from anomalib.visualization.image.functional import create_image_grid, overlay_image, visualize_mask
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from anomalib_scrd.visualisation.frame import Frame

_HEADER, _TITLE, _BAR = 26, 18, 46  # pixels
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_RED, _GREEN = (214, 40, 40), (30, 110, 60)
# Values and colours: the map is visible from halfway between the median of normal images (0.25) and the threshold.
_STOPS = (0.0, 0.375, 0.4999, 0.5, 0.65, 0.85, 1.0)
_COLOURS = (
    (70, 130, 220, 0),
    (70, 130, 220, 0),
    (90, 170, 235, 80),
    (255, 225, 60, 130),
    (250, 140, 30, 170),
    (215, 25, 28, 195),
    (130, 0, 40, 215),
)
_OUTSIDE = 0.45  # brightness outside of the model's input


class Prediction(NamedTuple):
    """Content of a picture.

    Attributes:
        score: Image score.
        threshold: Threshold of the score; None without one.
        label: Whether the image is anomalous; None without a threshold.
        anomaly_map: (H, W) calibrated, 0.5 at the pixel threshold.
        mask: (H, W) bool, predicted; or None.
        truth: (H, W) bool, or None.
    """

    score: float
    threshold: float | None
    label: bool | None
    anomaly_map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None = None
    truth: NDArray[np.bool_] | None = None


def draw(image: Image.Image, prediction: Prediction, frame: Frame, size: int = 256) -> Image.Image:
    """Draw image, map and outline next to each other, under a line with score, threshold and label.

    The map is shown in colours, next to a bar whose middle is the threshold: yellow to red above, light blue below, and
    transparent where the map is nearer to the median of normal images than to the threshold.

    Args:
        image: The image, RGB.
        prediction: The model's prediction.
        frame: Position of the map on it.
        size: Longer side of a panel, in pixels.

    Returns:
        RGB.
    """
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    base = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    box = _scaled(frame, scale)
    seen = _only_seen(base, box)
    heat = overlay_image(seen, _on_canvas(_heat(prediction.anomaly_map), box, base.size), alpha=1.0)
    panels = [("image", base), ("anomaly map", heat)]
    if prediction.mask is not None:
        panels.append(("outline", _outlined(seen, prediction.mask, box, _RED)))
    if prediction.truth is not None:
        panels.insert(1, ("truth", _outlined(seen, prediction.truth, box, _GREEN)))
    titled = [_titled(panel, title) for title, panel in panels]
    row = create_image_grid(titled, nrow=len(titled))
    picture = Image.new("RGB", (row.width + _BAR, row.height + _HEADER), _PAPER)
    picture.paste(row, (0, _HEADER))
    picture.paste(_colour_bar(height), (row.width, _HEADER + _TITLE))
    _headline(picture, prediction)
    return picture


def _headline(picture: Image.Image, prediction: Prediction) -> None:
    draw_on = ImageDraw.Draw(picture)
    font = _font(15)
    if prediction.threshold is None or prediction.label is None:
        text, colour = f"score {prediction.score:.4g}, no threshold", _INK
    else:
        word, colour = ("anomalous", _RED) if prediction.label else ("normal", _GREEN)
        text = f"{word}: score {prediction.score:.3f}, threshold {prediction.threshold:.3g}"
    draw_on.text((6, 4), text, font=font, fill=colour)


def _titled(panel: Image.Image, title: str) -> Image.Image:
    titled = Image.new("RGB", (panel.width + 4, panel.height + _TITLE), _PAPER)
    ImageDraw.Draw(titled).text((4, 1), title, font=_font(12), fill=_INK)
    titled.paste(panel.convert("RGB"), (2, _TITLE))
    return titled


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _scaled(frame: Frame, scale: float) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge * scale) for edge in frame)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _colours(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(H, W, 4) colours of calibrated values in [0, 1]."""
    channels = [np.interp(values, _STOPS, channel) for channel in zip(*_COLOURS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _heat(anomaly_map: NDArray[np.floating]) -> Image.Image:
    values = np.nan_to_num(anomaly_map.astype(np.float32), nan=0.0)
    return Image.fromarray(_colours(values), mode="RGBA")


def _colour_bar(height: int) -> Image.Image:
    values = np.linspace(1, 0, height)[:, None].repeat(14, axis=1)
    grey = Image.new("RGB", (14, height), (128, 128, 128))
    bar = Image.new("RGB", (_BAR, height), _PAPER)
    bar.paste(overlay_image(grey, Image.fromarray(_colours(values), mode="RGBA"), alpha=1.0).convert("RGB"), (4, 0))
    draw_on = ImageDraw.Draw(bar)
    for value in (0.0, 0.5, 1.0):
        row = round((1 - value) * (height - 1))
        draw_on.line([(3, row), (20, row)], fill=_INK, width=2 if value == 0.5 else 1)  # noqa: PLR2004
        draw_on.text((22, min(max(row - 7, 0), height - 14)), f"{value:.1f}", font=_font(11), fill=_INK)
    return bar


def _on_canvas(layer: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """A layer of the map's size, moved to its position on a canvas."""
    canvas = Image.new(layer.mode, size)
    placed = layer.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR)
    canvas.paste(placed, box[:2])
    return canvas


def _only_seen(base: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The image, darker outside of the model's input."""
    if box[0] <= 0 and box[1] <= 0 and box[2] >= base.width and box[3] >= base.height:
        return base
    dark = ImageEnhance.Brightness(base).enhance(_OUTSIDE)
    inside = max(box[0], 0), max(box[1], 0), min(box[2], base.width), min(box[3], base.height)
    dark.paste(base.crop(inside), inside[:2])
    return dark


def _outlined(
    base: Image.Image, mask: NDArray[np.bool_], box: tuple[int, int, int, int], colour: tuple[int, int, int]
) -> Image.Image:
    layer = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8), mode="L")
    large = _on_canvas(layer, box, base.size).point(lambda value: 255 if value >= 128 else 0)  # noqa: PLR2004
    return overlay_image(base, visualize_mask(large, mode="contour", color=colour), alpha=1.0)
