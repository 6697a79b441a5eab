"""DICOM files, frame by frame, through pydicom and its decoders."""

__all__ = ["list_frames", "read_frame"]

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_scrd.imaging.errors import UnreadableImageError, missing_package
from anomalib_scrd.imaging.orientation import Orientation, from_directions, from_letters
from anomalib_scrd.imaging.picture import Picture, PictureInfo, check_size
from anomalib_scrd.imaging.voi import ValueOfInterest, VoiTable, VoiWindow

# The elements that are read, and no others.
_TAGS = [
    "BitsAllocated",
    "BitsStored",
    "DoseGridScaling",
    "HighBit",
    "ImageOrientationPatient",
    "ImagerPixelSpacing",
    "ModalityLUTSequence",
    "NominalScannedPixelSpacing",
    "NumberOfFrames",
    "PatientID",
    "PatientOrientation",
    "PerFrameFunctionalGroupsSequence",
    "PhotometricInterpretation",
    "PixelAspectRatio",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "PixelRepresentation",
    "PixelSpacing",
    "PlanarConfiguration",
    *(f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "SeriesInstanceUID",
    "SharedFunctionalGroupsSequence",
    "SOPClassUID",
    "VOILUTFunction",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
]
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DEFERRED = 2**16  # bytes of a value that stays in the file
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


def list_frames(path: Path) -> list[PictureInfo]:
    """List the frames of a file from its header.

    Args:
        path: The file.

    Returns:
        One entry per frame.

    Raises:
        UnreadableImageError: If it is no DICOM file or holds no picture.
    """
    header = _header(path)
    count = _integer(header, "NumberOfFrames", 1)
    if count < 1:
        raise UnreadableImageError.of(path, "it has no frames")
    info = PictureInfo(
        path,
        count=count,
        eight_bit=_eight_bit(header),
        patient=str(header.get("PatientID") or ""),
        volume=str(header.get("SeriesInstanceUID") or ""),
    )
    return [replace(info, index=index) for index in range(count)]


def read_frame(info: PictureInfo) -> Picture:
    """Read one frame: decoded, after the modality transformation, MONOCHROME1 inverted, turned to the display's order.

    Args:
        info: An entry of ``list_frames``.

    Returns:
        The picture.

    Raises:
        UnreadableImageError: If the pixels cannot be decoded.
    """
    path = info.path
    header = _header(path)
    pixels = _decode(path, header, info.index)
    if pixels.dtype.byteorder == ">":
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    groups = _Groups(header, info.index)
    interpretation = str(header.get("PhotometricInterpretation", "")).upper()
    if interpretation == "PALETTE COLOR":
        pixels = _coloured(path, header, pixels)
    valid, mirror = None, None
    if pixels.ndim == 2:  # noqa: PLR2004
        valid = _valid(header, pixels)
        bits = _integer(header, "BitsStored", pixels.dtype.itemsize * 8)
        signed = pixels.dtype.kind == "i"
        ends = np.array([-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed) - 1])
        if bits == 1:
            pixels, ends = pixels * np.uint8(255), np.array([0, 255])
        pixels, ends = _modality(header, groups, pixels), _modality(header, groups, ends)
        if interpretation == "MONOCHROME1":
            mirror = float(ends.sum())
            turned = mirror - pixels.astype(np.float64)
            pixels = turned.astype(np.uint8 if info.eight_bit else np.float32 if pixels.dtype.kind == "f" else np.int32)
    orientation = _orientation(path, header, groups)
    spacing = _spacing(header, groups)
    return Picture(
        np.ascontiguousarray(orientation.apply(pixels)),
        info,
        None if valid is None else np.ascontiguousarray(orientation.apply(valid)),
        orientation,
        spacing[::-1] if orientation.transpose else spacing,
        tuple(_voi(header, groups)),
        mirror,
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Keep pydicom's warnings and log lines back: they quote values of the header."""
    logger = logging.getLogger("pydicom")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


def _header(path: Path) -> Any:
    """The elements above, without pixels."""
    try:
        import pydicom
    except ImportError:
        raise missing_package(path, "pydicom") from None
    if path.name.upper() == "DICOMDIR":
        raise UnreadableImageError.of(path, "it is a DICOMDIR, an index of other files")
    with _silent():
        try:
            header = pydicom.dcmread(path, defer_size=_DEFERRED, specific_tags=[*_TAGS, *_PIXELS], force=True)
            for name in _TAGS:
                header.get(name)  # values are parsed when they are asked for: here, where an error is expected
        except FileNotFoundError:
            raise UnreadableImageError.of(path, "there is no such file") from None
        except Exception as error:  # noqa: BLE001 - damaged files raise all kinds
            reason = f"its DICOM header cannot be read ({type(error).__name__}); it may be cut short"
            raise UnreadableImageError.of(path, reason) from None
    if "Rows" not in header or "Columns" not in header or not any(name in header for name in _PIXELS):
        kind = getattr(header.get("SOPClassUID"), "name", "") or "without a class"
        known = "SOPClassUID" in header or getattr(header, "file_meta", None)
        reason = f"it is a DICOM file without PixelData ({kind})" if known else "it is no DICOM file"
        raise UnreadableImageError.of(path, reason)
    check_size(path, _integer(header, "Rows", 0), _integer(header, "Columns", 0))
    return header


def _decode(path: Path, header: Any, index: int) -> np.ndarray:
    """One frame as it is stored, (H, W) or (H, W, 3) in RGB."""
    import pydicom
    from pydicom.pixels import pixel_array

    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
    options = {}
    if syntax is None:
        implicit, little = header.original_encoding
        options["transfer_syntax_uid"] = (
            pydicom.uid.ImplicitVRLittleEndian
            if implicit
            else pydicom.uid.ExplicitVRLittleEndian
            if little
            else pydicom.uid.ExplicitVRBigEndian
        )
    with _silent():
        try:
            try:
                pixels = pixel_array(path, index=index, **options)
            except (AttributeError, ValueError, RuntimeError):
                # That reads one frame of a file and trips over rare ones: deflated, or of several fragments.
                pixels = pixel_array(pydicom.dcmread(path, force=True), index=index, **options)
        except Exception as error:  # noqa: BLE001 - damaged files raise all kinds
            raise UnreadableImageError.of(path, _reason(error, f"{getattr(syntax, 'name', syntax)}")) from None
    return pixels[..., :3] if pixels.ndim == 3 else pixels  # noqa: PLR2004


def _reason(error: Exception, syntax: str) -> str:
    """Why the pixels cannot be decoded, in words that quote nothing of the header but the transfer syntax."""
    text = str(error)
    if isinstance(error, NotImplementedError):
        return f"transfer syntax {syntax!r} is not supported"
    if isinstance(error, AttributeError):
        return "it is a DICOM file without PixelData, or without what describes the pixels"
    if "missing dependencies" in text or "plugins are missing" in text:
        return f"pixels in {syntax!r} need a decoder: pip install 'anomalib-scrd[medical]'"
    if "less than expected" in text or "cannot reshape" in text:
        return "it is cut short: there are fewer pixels than its header says"
    return f"its pixels ({syntax}) cannot be decoded ({type(error).__name__}): they are damaged or of a rare kind"


def _coloured(path: Path, header: Any, pixels: np.ndarray) -> np.ndarray:
    """Indices of a palette as 8-bit RGB, or in the palette's own depth."""
    from pydicom.pixels import apply_color_lut

    try:
        coloured = apply_color_lut(pixels, header)
    except Exception as error:  # noqa: BLE001 - damaged tables raise all kinds
        raise UnreadableImageError.of(path, f"its palette cannot be applied ({type(error).__name__})") from None
    return coloured[..., :3]


class _Groups:
    """Elements that a multi-frame file of the enhanced kind keeps per frame, or once for all of them."""

    def __init__(self, header: Any, index: int) -> None:
        self.header = header
        per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
        shared = header.get("SharedFunctionalGroupsSequence") or []
        self.groups = [*per_frame[index : index + 1], *shared[:1]]

    def get(self, sequence: str, name: str) -> Any:
        """An element of a functional group, of the file itself where no group has it, or None."""
        for group in self.groups:
            items = group.get(sequence) or []
            if items and items[0].get(name) is not None:
                return items[0].get(name)
        return self.header.get(name)


def _integer(header: Any, name: str, default: int) -> int:
    value = header.get(name)
    try:
        return default if value is None or value == "" else int(value)
    except (TypeError, ValueError):
        return default


def _eight_bit(header: Any) -> bool:
    """Whether the values are ready for display: 8 bits, or one, and no modality transformation."""
    groups = _Groups(header, 0)
    slope = groups.get("PixelValueTransformationSequence", "RescaleSlope")
    intercept = groups.get("PixelValueTransformationSequence", "RescaleIntercept")
    plain = float(1 if slope is None else slope) == 1 and float(intercept or 0) == 0
    table = bool(header.get("ModalityLUTSequence")) or header.get("DoseGridScaling") is not None
    bits = _integer(header, "BitsStored", 8), _integer(header, "BitsAllocated", 16)
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return False  # the palette's depth counts, which is 16 bits as a rule
    unsigned = _integer(header, "PixelRepresentation", 0) == 0
    return plain and not table and unsigned and bits in {(8, 8), (1, 1)}


def _modality(header: Any, groups: _Groups, values: np.ndarray) -> np.ndarray:
    """Values of the modality, in integers where they are integers."""
    table = header.get("ModalityLUTSequence")
    if table:
        from pydicom.pixels import apply_modality_lut

        return apply_modality_lut(values, header)
    slope = groups.get("PixelValueTransformationSequence", "RescaleSlope")
    intercept = groups.get("PixelValueTransformationSequence", "RescaleIntercept")
    slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
    slope *= float(header.get("DoseGridScaling") or 1)
    if (slope, intercept) == (1, 0):
        return values
    if values.dtype.kind in "ui" and slope.is_integer() and intercept.is_integer():
        kind = np.int32 if values.dtype.itemsize <= 2 else np.int64  # noqa: PLR2004
        return values.astype(kind) * kind(slope) + kind(intercept)
    return values.astype(np.float64) * slope + intercept


def _valid(header: Any, pixels: np.ndarray) -> np.ndarray | None:
    """False where a pixel is padding, by the stored values; None without padding."""
    first, last = header.get("PixelPaddingValue"), header.get("PixelPaddingRangeLimit")
    if first is None or not isinstance(first, int):
        return None
    last = last if isinstance(last, int) else first
    if pixels.dtype.kind == "i":  # some write the bits of a signed value as an unsigned one
        wrap = 2 ** (8 * pixels.dtype.itemsize)
        first, last = (value - wrap if value >= wrap // 2 else value for value in (first, last))
    padding = (pixels >= min(first, last)) & (pixels <= max(first, last))
    return ~padding if padding.any() else None


def _orientation(path: Path, header: Any, groups: _Groups) -> Orientation:
    directions = groups.get("PlaneOrientationSequence", "ImageOrientationPatient")
    if directions is not None and len(directions) == 6:  # noqa: PLR2004
        values = [float(value) for value in directions]
        try:
            return from_directions(values[:3], values[3:])
        except ValueError as error:
            raise UnreadableImageError.of(path, f"its orientation is unknown: {error}") from None
    letters = header.get("PatientOrientation")
    if letters is not None and not isinstance(letters, str) and len(letters) == 2:  # noqa: PLR2004
        return from_letters(str(letters[0]), str(letters[1]))
    return Orientation()


def _spacing(header: Any, groups: _Groups) -> tuple[float, float]:
    """Height and width of a pixel, in mm or relative to each other."""
    for name in _SPACINGS:
        value = groups.get("PixelMeasuresSequence", name)
        if value is not None and not isinstance(value, str) and len(value) == 2:  # noqa: PLR2004
            height, width = float(value[0]), float(value[1])
            if height > 0 and width > 0:
                return height, width
    return 1.0, 1.0


def _voi(header: Any, groups: _Groups) -> Iterator[ValueOfInterest]:
    """Tables first, then windows, in the file's order."""
    for item in header.get("VOILUTSequence") or []:
        descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
        if descriptor is None or data is None:
            continue
        bits = int(descriptor[2])
        entries = np.frombuffer(data, "<u2" if bits > 8 else np.uint8) if isinstance(data, bytes) else np.array(data)  # noqa: PLR2004
        yield VoiTable(int(descriptor[1]), entries.astype(np.int64), bits)
    sequence = "FrameVOILUTSequence"
    centres, widths = groups.get(sequence, "WindowCenter"), groups.get(sequence, "WindowWidth")
    function = str(groups.get(sequence, "VOILUTFunction") or "LINEAR").upper()
    for centre, width in zip(_numbers(centres), _numbers(widths), strict=False):
        if function in {"LINEAR", "LINEAR_EXACT", "SIGMOID"} and width >= (1 if function == "LINEAR" else 1e-9):
            yield VoiWindow(centre, width, function)  # type: ignore[arg-type]


def _numbers(value: Any) -> list[float]:
    if value is None or value == "":
        return []
    several = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return [float(item) for item in several]
