"""DICOM files, frame by frame, read by pydicom and its decoders."""

__all__ = ["list_frames", "read_frame"]

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_scrd.imaging.dicom_attributes import (
    FrameHeader,
    integer,
    is_eight_bit,
    modality_values,
    pixel_spacing,
    recommended_windows,
    turned,
    valid_pixels,
)
from anomalib_scrd.imaging.dicom_silence import silent
from anomalib_scrd.imaging.errors import UnreadableImageError, missing_package
from anomalib_scrd.imaging.picture import Picture, PictureInfo, check_size

# The only elements that are read.
_PALETTE = (
    "{}PaletteColorLookupTableDescriptor",
    "{}PaletteColorLookupTableData",
    "Segmented{}PaletteColorLookupTableData",
)
_TAGS = [
    *(name.format(colour) for name in _PALETTE for colour in ("Red", "Green", "Blue")),
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
_TRUNCATED = "it is truncated: there are fewer pixels than its header declares"
_UNDEFINED = 2**32 - 1  # length of compressed pixels
_COMPRESSED = 32  # bytes that a compressed frame has at least
_DEFERRED = 2**16  # bytes from which on a value is not loaded
# Class name of a Rust decoder's error (pylibjpeg-rle) for damaged data; it is not a subclass of `Exception`.
_PANIC = "PanicException"


def list_frames(path: Path) -> list[PictureInfo]:
    """List the frames of a file from its header.

    Args:
        path: The file.

    Returns:
        One entry per frame.

    Raises:
        UnreadableImageError: If it is not a DICOM file, has no picture, or cannot hold as many frames as its header
            declares.
    """
    header = _header(path)
    count = integer(header, "NumberOfFrames", 1)
    if count < 1:
        raise UnreadableImageError.of(path, "it has no frames")
    if not _holds(path, header, count):
        raise UnreadableImageError.of(path, _TRUNCATED)
    info = PictureInfo(
        path,
        count=count,
        eight_bit=is_eight_bit(header),
        patient=str(header.get("PatientID") or ""),
        volume=str(header.get("SeriesInstanceUID") or ""),
    )
    return [replace(info, index=index) for index in range(count)]


def read_frame(info: PictureInfo) -> Picture:
    """Read one frame: decode it, apply the modality transformation, invert MONOCHROME1, turn it to the display's order.

    Args:
        info: An entry of ``list_frames``.

    Returns:
        The picture.

    Raises:
        UnreadableImageError: If the pixels cannot be decoded.
    """
    path = info.path
    data_set = _header(path)
    pixels = _decode(path, data_set, info.index)
    header = FrameHeader(data_set, info.index)
    interpretation = str(data_set.get("PhotometricInterpretation", "")).upper()
    valid, mirror = None, None
    if interpretation == "PALETTE COLOR":
        pixels = _coloured(path, data_set, pixels)
    elif pixels.ndim == 2:  # noqa: PLR2004
        valid = valid_pixels(data_set, pixels)
        pixels, ends = modality_values(header, pixels)
        if interpretation == "MONOCHROME1":
            mirror = sum(ends)
            pixels = (mirror - pixels.astype(np.float64)).astype(pixels.dtype)
    try:
        orientation = turned(header)
    except ValueError as error:
        raise UnreadableImageError.of(path, f"its orientation is unknown: {error}") from None
    spacing = pixel_spacing(header)
    return Picture(
        np.ascontiguousarray(orientation.apply(pixels)),
        info,
        None if valid is None else np.ascontiguousarray(orientation.apply(valid)),
        orientation,
        spacing[::-1] if orientation.transpose else spacing,
        tuple(recommended_windows(header)),
        mirror,
    )


def _header(path: Path) -> Any:
    """The data set of the elements above, without pixels."""
    try:
        import pydicom
    except ImportError:
        raise missing_package(path, "pydicom") from None
    if path.name.upper() == "DICOMDIR":
        raise UnreadableImageError.of(path, "it is a DICOMDIR, an index of other files")
    with silent():
        try:
            header = pydicom.dcmread(path, defer_size=_DEFERRED, specific_tags=[*_TAGS, *_PIXELS], force=True)
            for name in _TAGS:
                header.get(name)  # values are parsed, and errors raised, at access
        except FileNotFoundError:
            raise UnreadableImageError.of(path, "there is no such file") from None
        except Exception as error:  # noqa: BLE001 - damaged files raise all kinds
            reason = f"its DICOM header cannot be read ({type(error).__name__}); it may be truncated"
            raise UnreadableImageError.of(path, reason) from None
    if "Rows" not in header or "Columns" not in header or not any(name in header for name in _PIXELS):
        kind = getattr(header.get("SOPClassUID"), "name", "") or "without a class"
        known = "SOPClassUID" in header or getattr(header, "file_meta", None)
        reason = f"it is a DICOM file without PixelData ({kind})" if known else "it is not a DICOM file"
        raise UnreadableImageError.of(path, reason)
    check_size(path, integer(header, "Rows", 0), integer(header, "Columns", 0))
    return header


def _holds(path: Path, header: Any, count: int) -> bool:
    """Whether the pixels can be as many frames as the header declares, by their length."""
    import pydicom

    tags = {pydicom.datadict.tag_for_keyword(name) for name in _PIXELS}
    pixels = next(element for element in header.values() if element.tag in tags)  # by other ways, it would be loaded
    length = pixels.length if hasattr(pixels, "length") else len(pixels.value)
    size = path.stat().st_size
    if length == _UNDEFINED:
        return count <= max(1, size // _COMPRESSED)
    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", "")
    if syntax != pydicom.uid.DeflatedExplicitVRLittleEndian:
        length = min(length, size)
    shared = str(header.get("PhotometricInterpretation", "")).endswith(("420", "422"))  # pixels that share colours
    values = integer(header, "Rows", 0) * integer(header, "Columns", 0)
    values *= 1 if shared else integer(header, "SamplesPerPixel", 1)
    return count * values * integer(header, "BitsAllocated", 1) <= 8 * length


def _decode(path: Path, header: Any, index: int) -> np.ndarray:
    """One frame as it is stored, (H, W) or (H, W, 3) in RGB."""
    import pydicom
    from pydicom.pixels import pixel_array

    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
    options: dict[str, Any] = {}
    if syntax is None:  # a file without meta information, whose encoding pydicom has guessed
        implicit, little = header.original_encoding
        options["transfer_syntax_uid"] = (
            pydicom.uid.ImplicitVRLittleEndian
            if implicit
            else pydicom.uid.ExplicitVRLittleEndian
            if little
            else pydicom.uid.ExplicitVRBigEndian
        )
    with silent():
        try:
            try:
                pixels = pixel_array(path, index=index, **options)
            except (AttributeError, ValueError, RuntimeError):
                # The frame reader fails for rare files: deflated ones, or frames of several fragments.
                pixels = pixel_array(pydicom.dcmread(path, force=True), index=index, **options)
        except BaseException as error:  # damaged files raise all kinds
            if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
                raise
            raise UnreadableImageError.of(path, _reason(error, f"{getattr(syntax, 'name', syntax)}")) from None
    pixels = pixels[..., :3] if pixels.ndim == 3 else pixels  # noqa: PLR2004
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _reason(error: BaseException, syntax: str) -> str:
    """Why pixels cannot be decoded; the transfer syntax is the only value quoted from the header."""
    text = str(error)
    if isinstance(error, NotImplementedError):
        return f"transfer syntax {syntax!r} is not supported"
    if isinstance(error, AttributeError):
        return "it is a DICOM file without PixelData, or without the elements that describe it"
    if "missing dependencies" in text or "plugins are missing" in text:
        return f"pixels in {syntax!r} need a decoder: pip install 'anomalib-scrd[medical]'"
    if "less than expected" in text or "cannot reshape" in text:
        return _TRUNCATED
    return f"its pixels ({syntax}) cannot be decoded ({type(error).__name__}): they are damaged or of a rare kind"


def _coloured(path: Path, header: Any, pixels: np.ndarray) -> np.ndarray:
    """Indices of a palette as RGB, in the depth of the palette."""
    from pydicom.pixels import apply_color_lut

    try:
        coloured = apply_color_lut(pixels, header)
    except Exception as error:  # noqa: BLE001 - damaged tables raise all kinds
        raise UnreadableImageError.of(path, f"its palette cannot be applied ({type(error).__name__})") from None
    return coloured[..., :3]
