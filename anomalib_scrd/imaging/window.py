"""Window of grey values from black to white, decided once on training images and used for all later images.

No image is reduced to 8 bits: a picture becomes float32 in [0, 1] in one step.
"""

__all__ = ["Window", "WindowSpec"]

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anomalib_scrd.imaging.errors import UnreadableImageError
from anomalib_scrd.imaging.picture import Picture

WindowSpec = str | Sequence[float] | Mapping[str, Any]
"""Kinds of the argument ``window``, see :meth:`Window.decide`."""

_AUTO = (0.1, 99.9)
_SAMPLED = 2**16  # pixels per picture for percentiles
_EIGHT_BIT = (0.0, 255.0)
_EXACT = 2**24


@dataclass(frozen=True)
class Window:
    """Grey values of black and white.

    Args:
        mode: ``values`` (the same limits for all pictures), ``each`` (percentiles of each picture) or ``file`` (the
            window or table that each file recommends).
        limits: Values that become 0 and 1 in pictures of more than 8 bits, for ``values``; None if the training had no
            such pictures; they are then refused.
        eight_bit: The same for 8-bit pictures; None if the training had none.
        percentiles: Percentiles of each picture, in percent, for ``each``.
        number: Index of the file's window, from 0, for ``file``.
    """

    mode: str
    limits: tuple[float, float] | None = None
    eight_bit: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    number: int = 0

    @staticmethod
    def check(spec: WindowSpec) -> None:
        """Check a window's specification before pictures are read.

        Args:
            spec: As for :meth:`decide`.

        Raises:
            ValueError: If it is none of these forms.
        """
        _parse(spec)

    @classmethod
    def decide(cls, spec: WindowSpec, pictures: Iterable[Picture]) -> "Window":
        """Decide on a window.

        Args:
            spec: One of

                - ``auto``: 8-bit pictures keep their range, 0 to 255; the limits of deeper ones are the percentiles 0.1
                  and 99.9 of the pixels of all deeper training pictures, the upper one raised by a tenth of their
                  difference, because an anomaly may be brighter than all normal pixels.
                - ``[centre, width]``: from centre - width / 2 to centre + width / 2, in the units of the modality
                  (Hounsfield units in CT).
                - ``{"percentiles": [low, high]}``: these percentiles of the pixels of all training pictures.
                - ``{"each": [low, high]}``: these percentiles of each picture, for modalities without units, such as
                  MR, or radiographs of several systems. Global brightness is lost.
                - ``file`` or ``{"file": number}``: the window that each DICOM file recommends; the first is number 0.
                  8-bit pictures without one keep their range.
            pictures: Normal training pictures. They are read one after the other. At most 65,536 evenly spaced pixels
                of each are used, without pixel padding.

        Returns:
            The window.

        Raises:
            ValueError: If ``spec`` is none of the above, the pictures do not fit it, or their pixels are all equal.
        """
        mode, value = _parse(spec)
        if mode == "each":
            return cls("each", percentiles=value)
        if mode == "file":
            return cls("file", number=value, eight_bit=_EIGHT_BIT)
        eight_bit, deep, sampled = None, None, []
        for picture in pictures:
            if picture.info.eight_bit:
                eight_bit = eight_bit or picture.info.path
            else:
                deep = deep or picture.info.path
            if mode != "limits" and (mode == "percentiles" or not picture.info.eight_bit):
                sampled.append(_sample(picture))
        if mode != "auto" and eight_bit is not None and deep is not None:
            msg = (
                f"window {spec!r} cannot fit both 8-bit pictures, such as {str(eight_bit)!r}, and deeper ones, such as "
                f"{str(deep)!r}: give window auto, or one kind of picture"
            )
            raise ValueError(msg)
        if eight_bit is None and deep is None:
            msg = "window needs at least one training picture, got none"
            raise ValueError(msg)
        limits = value
        if sampled:
            low, high = np.percentile(np.concatenate(sampled), _AUTO if mode == "auto" else value)
            if not low < high:
                msg = f"window {spec!r}: both percentiles of the training pixels are {low}"
                raise ValueError(msg)
            limits = float(low), float(high + 0.1 * (high - low) if mode == "auto" else high)
        if mode == "auto":
            return cls("values", limits=limits, eight_bit=None if eight_bit is None else _EIGHT_BIT)
        return cls("values", limits=limits) if eight_bit is None else cls("values", eight_bit=limits)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Window":
        """Rebuild a window; other keys are ignored.

        Args:
            state: From :meth:`to_dict`, also by way of JSON.

        Returns:
            The window.

        Raises:
            ValueError: If the mode is unknown: a newer version wrote it.
        """
        if state.get("mode") not in {"values", "each", "file"}:
            msg = f"the stored window has mode {state.get('mode')!r}; this version supports values, each and file"
            raise ValueError(msg)
        pairs = {
            key: None if state.get(key) is None else (float(state[key][0]), float(state[key][1]))
            for key in ("limits", "eight_bit", "percentiles")
        }
        return cls(str(state["mode"]), number=int(state.get("number", 0)), **pairs)

    def to_dict(self) -> dict[str, Any]:
        """Put a window into plain lists, numbers and strings.

        Returns:
            For JSON and checkpoints.
        """
        pairs = {key: getattr(self, key) for key in ("limits", "eight_bit", "percentiles")}
        return {
            "mode": self.mode,
            **{key: None if pair is None else list(pair) for key, pair in pairs.items()},
            "number": self.number,
        }

    def apply(self, picture: Picture) -> np.ndarray:
        """Map a picture to brightness.

        Args:
            picture: The picture.

        Returns:
            (H, W), or (H, W, 3) in colour, float32 in [0, 1]; 0 at pixel padding.

        Raises:
            UnreadableImageError: If no training picture had the picture's depth, or the mode is ``file`` and the file
                has no such window.
        """
        if self.mode == "file" and (picture.voi or not picture.info.eight_bit):
            result = self._of_file(picture)
        else:
            result = _scale(picture.pixels, *self._limits(picture))
        if picture.valid is not None:
            result[~picture.valid] = 0
        return result

    def _limits(self, picture: Picture) -> tuple[float, float]:
        if self.mode == "each":
            low, high = np.percentile(_sample(picture), list(self.percentiles or ()))
            if not low < high:
                msg = f"the percentiles {list(self.percentiles or ())} of its pixels are equal ({low})"
                raise UnreadableImageError.of(picture.info.path, msg)
            return float(low), float(high)
        limits = self.eight_bit if picture.info.eight_bit else self.limits
        if limits is None:
            this, others = "8 bits", "more than 8 bits"
            this, others = (this, others) if picture.info.eight_bit else (others, this)
            reason = (
                f"it has {this}, and all training pictures had {others}: there is no window for it. "
                "MedicalFolder trains on pictures of every depth"
            )
            raise UnreadableImageError.of(picture.info.path, reason)
        return limits

    def _of_file(self, picture: Picture) -> np.ndarray:
        if self.number >= len(picture.voi):
            reason = f"it recommends {len(picture.voi)} windows, and number {self.number} (from 0) is needed"
            raise UnreadableImageError.of(picture.info.path, reason)
        voi = picture.voi[self.number]
        if picture.mirror is None:
            return voi.apply(picture.pixels)
        return np.float32(1) - voi.apply(picture.mirror - picture.pixels.astype(np.float64))


def _scale(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Pixels from low to high as float32 from 0 to 1, clipped."""
    # float32 represents every integer of 24 bits, so equal values of any integer type give equal results; wider
    # integers and doubles are scaled in float64.
    whole = pixels.dtype.kind in "ui" and int(pixels.min()) >= -_EXACT and int(pixels.max()) <= _EXACT
    kind = np.float32 if whole or pixels.dtype == np.float32 else np.float64
    result = pixels.astype(kind)
    result -= kind(low)
    result *= kind(1 / (high - low))  # for 8 bits exactly torchvision's numbers, as in anomalib
    return np.clip(result, 0, 1, out=result).astype(np.float32, copy=False)


def _sample(picture: Picture) -> np.ndarray:
    values = picture.values
    return values[:: max(1, math.ceil(len(values) / _SAMPLED))].astype(np.float64)


def _parse(spec: WindowSpec) -> tuple[str, Any]:
    """Kind of a specification and its value, checked."""
    allowed = 'auto, file, [centre, width], {"percentiles": [low, high]}, {"each": [low, high]} or {"file": number}'
    msg = f"window must be {allowed}, got {spec!r}"
    if isinstance(spec, str) and spec in {"auto", "file"}:
        return spec, 0 if spec == "file" else None
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((mode, value),) = spec.items()
        if mode == "file" and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return "file", value
        if mode in ("percentiles", "each"):
            low, high = _pair(value, msg)
            if not 0 <= low < high <= 100:  # noqa: PLR2004
                msg = f"window {mode} must be 0 <= low < high <= 100, got {spec!r}"
                raise ValueError(msg)
            return mode, (low, high)
    elif isinstance(spec, Sequence) and not isinstance(spec, str):
        centre, width = _pair(spec, msg)
        if not width > 0:
            msg = f"window [centre, width] needs a width above 0, got {spec!r}"
            raise ValueError(msg)
        return "limits", (centre - width / 2, centre + width / 2)
    raise ValueError(msg)


def _pair(value: Any, msg: str) -> tuple[float, float]:
    numbers = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2  # noqa: PLR2004
    if not numbers or not all(isinstance(item, (int, float)) and math.isfinite(item) for item in value):
        raise ValueError(msg)
    return float(value[0]), float(value[1])
