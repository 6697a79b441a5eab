"""Attributes of the pixels in the header of a DICOM file, as plain values; no pixel is decoded here.

Headers are pydicom data sets. A multi-frame file of the enhanced kind keeps some elements per frame.
"""

__all__ = [
    "FrameHeader",
    "integer",
    "is_eight_bit",
    "modality_values",
    "pixel_spacing",
    "recommended_windows",
    "turned",
    "valid_pixels",
]

from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from anomalib_scrd.imaging.orientation import Orientation, from_directions, from_letters
from anomalib_scrd.imaging.voi import ValueOfInterest, VoiTable, VoiWindow

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


class FrameHeader:
    """Header of one frame.

    Args:
        header: pydicom's data set of the file.
        index: Number of the frame.
    """

    def __init__(self, header: Any, index: int) -> None:
        self.header = header
        per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
        shared = header.get("SharedFunctionalGroupsSequence") or []
        self._groups = [*per_frame[index : index + 1], *shared[:1]]

    def get(self, sequence: str, name: str) -> Any:
        """Look up an element in the frame's functional groups, then the shared ones, then the file's data set.

        Args:
            sequence: Keyword of the functional group's sequence.
            name: Keyword of the element.

        Returns:
            The value, None if there is none.
        """
        for group in self._groups:
            items = group.get(sequence) or []
            if items and items[0].get(name) is not None:
                return items[0].get(name)
        return self.header.get(name)

    def rescaling(self) -> tuple[float, float]:
        """Look up the modality transformation.

        Returns:
            Slope and intercept, by default 1 and 0; the slope includes DoseGridScaling.
        """
        sequence = "PixelValueTransformationSequence"
        slope, intercept = (self.get(sequence, name) for name in ("RescaleSlope", "RescaleIntercept"))
        dose = self.header.get("DoseGridScaling")
        return float(1 if slope is None else slope) * float(1 if dose is None else dose), float(intercept or 0)


def integer(header: Any, name: str, default: int) -> int:
    """Look up an integer.

    Args:
        header: pydicom's data set.
        name: Keyword of the element.
        default: Value if the element is missing, empty or not a number.

    Returns:
        The number.
    """
    value = header.get(name)
    try:
        return default if value is None or value == "" else int(value)
    except (TypeError, ValueError):
        return default


def is_eight_bit(header: Any) -> bool:
    """Whether the values are ready for display: 8 bits (or a bit map), no modality transformation, no palette.

    Args:
        header: pydicom's data set.

    Returns:
        True if black is 0 and white 255.
    """
    if header.get("ModalityLUTSequence") or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return False
    bits = integer(header, "BitsStored", 8), integer(header, "BitsAllocated", 16)
    unsigned = integer(header, "PixelRepresentation", 0) == 0
    return unsigned and bits in {(8, 8), (1, 1)} and FrameHeader(header, 0).rescaling() == (1, 0)


def modality_values(header: FrameHeader, pixels: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Apply the modality transformation, from stored values to those of the modality (Hounsfield units in CT).

    Args:
        header: The frame's header.
        pixels: (H, W), stored values.

    Returns:
        The values, as integers if they are whole numbers, and the values of the smallest and largest number that the
        stored bits can represent.
    """
    bits = integer(header.header, "BitsStored", pixels.dtype.itemsize * 8)
    if bits == 1:  # a bit map
        return pixels * np.uint8(255), (0.0, 255.0)
    ends = _ends(bits, signed=pixels.dtype.kind == "i")
    if header.header.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        first, last = apply_modality_lut(ends, header.header)
        return apply_modality_lut(pixels, header.header), (float(first), float(last))
    slope, intercept = header.rescaling()
    first, last = ends * slope + intercept
    if (slope, intercept) != (1, 0):
        whole = pixels.dtype.kind in "ui" and slope.is_integer() and intercept.is_integer()
        reach = 2.0 ** (8 * pixels.dtype.itemsize) * abs(slope) + abs(intercept)
        small = reach < 2**31 and pixels.dtype.itemsize <= 2  # noqa: PLR2004
        kind = np.float64 if not whole or reach >= 2**63 else np.int32 if small else np.int64
        pixels = pixels.astype(kind) * kind(slope) + kind(intercept)
    return pixels, (float(first), float(last))


def valid_pixels(header: Any, pixels: np.ndarray) -> np.ndarray | None:
    """Find the pixel padding.

    Args:
        header: pydicom's data set.
        pixels: (H, W), stored values.

    Returns:
        (H, W) bool, False at padding; None without any.
    """
    first, last = header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")
    if not isinstance(first, int):
        return None
    last = last if isinstance(last, int) else first
    # Some files store a signed padding value as unsigned, or the other way round.
    half = 2 ** (8 * pixels.dtype.itemsize - 1)
    if pixels.dtype.kind == "i":
        first, last = (value - 2 * half if value >= half else value for value in (first, last))
    low, high = min(first, last), max(first, last)
    if pixels.dtype.kind == "u" and -half <= low < 0:
        low += 2 * half
        high += 2 * half if high < 0 else 0
    # A signed range around 0 is the two ends of the unsigned numbers.
    padding = (pixels >= low) & (pixels <= high) if low <= high else (pixels >= low) | (pixels <= high)
    return ~padding if padding.any() else None


def _ends(bits: int, *, signed: bool) -> np.ndarray:
    """The smallest and the largest number of some bits."""
    return np.array([-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed) - 1])


def _first_value(header: FrameHeader, value: int) -> int:
    """The first value of a VOI table, whose sign depends on the values of the modality (PS3.3 section C.11.2.1.1).

    Readers decide on the sign by the stored values: a file that is unsigned, with a negative intercept, has 65534 for
    -2.
    """
    data = header.header
    bits = integer(data, "BitsStored", integer(data, "BitsAllocated", 16))
    ends = _ends(bits, signed=integer(data, "PixelRepresentation", 0) == 1)
    slope, intercept = header.rescaling()
    low, high = sorted(ends * slope + intercept)
    if value < 2**15 or low >= 0 or data.get("ModalityLUTSequence"):
        return value
    return value - 2**16 if value - 2**16 >= low or value > high else value


def turned(header: FrameHeader) -> Orientation:
    """Find the orientation that turns a frame to the display's order.

    Args:
        header: The frame's header.

    Returns:
        The orientation; the identity if the header has none.

    Raises:
        ValueError: If the header's directions are invalid.
    """
    directions = header.get("PlaneOrientationSequence", "ImageOrientationPatient")
    if directions is not None and len(directions) == 6:  # noqa: PLR2004
        values = [float(value) for value in directions]
        return from_directions(values[:3], values[3:])
    letters = header.header.get("PatientOrientation")
    if letters is not None and not isinstance(letters, str) and len(letters) == 2:  # noqa: PLR2004
        return from_letters(str(letters[0]), str(letters[1]))
    return Orientation()


def pixel_spacing(header: FrameHeader) -> tuple[float, float]:
    """Find the size of a pixel in the file's order.

    Args:
        header: The frame's header.

    Returns:
        Height and width in mm, or relative to each other; (1, 1) if the header has none.
    """
    for name in _SPACINGS:
        value = header.get("PixelMeasuresSequence", name)
        if value is not None and not isinstance(value, str) and len(value) == 2:  # noqa: PLR2004
            height, width = float(value[0]), float(value[1])
            if height > 0 and width > 0:
                return height, width
    return 1.0, 1.0


def recommended_windows(header: FrameHeader) -> Iterator[ValueOfInterest]:
    """Find the tables and windows that the file recommends for display.

    Args:
        header: The frame's header.

    Yields:
        Tables first, then windows, in the file's order; windows without a valid width are left out.
    """
    for item in header.header.get("VOILUTSequence") or []:
        descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
        if descriptor is None or data is None:
            continue
        bits = int(descriptor[2])
        wide = bits > 8 or (isinstance(data, bytes) and len(data) > int(descriptor[0] or 2**16))  # noqa: PLR2004
        entries = np.frombuffer(data, "<u2" if wide else np.uint8) if isinstance(data, bytes) else np.array(data)
        yield VoiTable(_first_value(header, int(descriptor[1])), entries.astype(np.int64), bits)
    sequence = "FrameVOILUTSequence"
    centres, widths = (_numbers(header.get(sequence, name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(header.get(sequence, "VOILUTFunction") or "LINEAR").upper()
    for centre, width in zip(centres, widths, strict=False):
        if function == "LINEAR" and width >= 1:
            yield VoiWindow(centre, width)
        elif function in {"LINEAR_EXACT", "SIGMOID"} and width > 0:
            yield VoiWindow(centre, width, cast("Any", function))


def _numbers(value: Any) -> list[float]:
    if value is None or value == "":
        return []
    several = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return [float(item) for item in several]
