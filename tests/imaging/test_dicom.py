"""DICOM: transformations in the header are applied to the pixels, and unreadable files have a reason."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

pydicom = pytest.importorskip("pydicom")

from pydicom.uid import (  # noqa: E402
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from anomalib_scrd.imaging import (  # noqa: E402
    Orientation,
    UnreadableImageError,
    Window,
    list_pictures,
    pictures_of,
    read_picture,
)
from anomalib_scrd.imaging.voi import VoiTable, VoiWindow  # noqa: E402
from tests.imaging.writing import IDENTIFYING, write_dicom  # noqa: E402

RNG = np.random.default_rng(0)
UNSIGNED = RNG.integers(0, 4096, (16, 12), dtype=np.uint16)
SIGNED = RNG.integers(-2000, 2000, (16, 12), dtype=np.int16)
TWELVE = {"BitsStored": 12, "HighBit": 11}


def only(path: Path):
    (info,) = list_pictures(path)
    return read_picture(info)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.dcm"


def test_values_of_the_modality(path: Path) -> None:
    write_dicom(path, UNSIGNED, RescaleSlope=2, RescaleIntercept=-1024)
    assert_array_equal(only(path).pixels, 2 * UNSIGNED.astype(int) - 1024)
    write_dicom(path, UNSIGNED, RescaleSlope=0.5, RescaleIntercept=1.25)
    assert_allclose(only(path).pixels, 0.5 * UNSIGNED + 1.25)
    write_dicom(path, SIGNED)
    assert_array_equal(only(path).pixels, SIGNED)
    assert only(path).pixels.dtype == np.int16


def test_a_table_of_the_modality(path: Path) -> None:
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 16], (np.arange(4096)[::-1] * 3).tolist()
    item.ModalityLUTType = "US"
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    write_dicom(path, UNSIGNED, ModalityLUTSequence=[item], **TWELVE)
    assert_array_equal(only(path).pixels, (4095 - UNSIGNED.astype(int)) * 3)


@pytest.mark.parametrize(
    ("pixels", "elements", "ends"),
    [
        (UNSIGNED, TWELVE, (0, 4095)),
        (UNSIGNED, {}, (0, 65535)),
        (SIGNED, TWELVE, (-2048, 2047)),
        (UNSIGNED, {**TWELVE, "RescaleSlope": 2, "RescaleIntercept": -100}, (0, 4095)),
        (UNSIGNED.astype(np.uint8), {}, (0, 255)),
    ],
)
def test_monochrome1_is_inverted(path: Path, pixels: np.ndarray, elements: dict, ends: tuple[int, int]) -> None:
    plain = only(write_dicom(path, pixels, **elements))
    inverted = only(write_dicom(path, (sum(ends) - pixels.astype(int)).astype(pixels.dtype), **elements))
    slope, intercept = elements.get("RescaleSlope", 1), elements.get("RescaleIntercept", 0)
    picture = only(write_dicom(path, pixels, PhotometricInterpretation="MONOCHROME1", **elements))
    assert_array_equal(picture.pixels, slope * (sum(ends) - pixels.astype(int)) + intercept)
    assert picture.pixels.dtype == plain.pixels.dtype
    assert_array_equal(picture.pixels, inverted.pixels)


def test_windows_and_tables_of_the_file(path: Path) -> None:
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [16, 0, 8], list(range(0, 256, 16))
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    write_dicom(path, UNSIGNED, WindowCenter=[40, -600], WindowWidth=[400, 1500], VOILUTSequence=[item])
    table, soft, lung = only(path).voi
    assert isinstance(table, VoiTable)
    assert (table.first, table.bits, len(table.entries)) == (0, 8, 16)
    assert (soft, lung) == (VoiWindow(40, 400), VoiWindow(-600, 1500))
    write_dicom(path, UNSIGNED, WindowCenter=40, WindowWidth=1, VOILUTFunction="SIGMOID")
    assert only(path).voi == (VoiWindow(40, 1, "SIGMOID"),)
    write_dicom(path, UNSIGNED, WindowCenter=40, WindowWidth=0)
    assert only(path).voi == ()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("first", "intercept", "expected"),
    [(-2, -2, -2), (-1000, -1024, -1000), (60000, 0, 60000), (60000, -1024, 60000), (5, -2, 5)],
)
def test_a_table_begins_at_a_value_of_the_modality(
    path: Path, syntax: str, first: int, intercept: int, expected: int
) -> None:
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [4, first % 2**16, 8], [0, 85, 170, 255]
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    pixels = np.arange(UNSIGNED.size, dtype=np.uint16).reshape(UNSIGNED.shape)
    write_dicom(path, pixels, VOILUTSequence=[item], RescaleSlope=1, RescaleIntercept=intercept)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    picture = only(path)
    assert picture.voi[0].first == expected
    if first == -2:
        assert_allclose(Window("file").apply(picture)[0, :4], np.arange(4) / 3)


@pytest.mark.parametrize(
    ("pixels", "slope"), [(UNSIGNED, 100_000), (SIGNED, -100_000), (UNSIGNED.astype(np.uint32), 2**40)]
)
def test_large_slopes_do_not_overflow(path: Path, pixels: np.ndarray, slope: int) -> None:
    write_dicom(path, pixels, RescaleSlope=slope, RescaleIntercept=7)
    assert_allclose(only(path).pixels, pixels.astype(float) * slope + 7)
    write_dicom(path, pixels, RescaleSlope="1e300", RescaleIntercept=0)
    assert_allclose(only(path).pixels, pixels * 1e300)


def test_an_inverted_file_is_shown_as_pydicom_shows_it(path: Path) -> None:
    from pydicom.pixels import apply_modality_lut, apply_windowing

    elements = {"WindowCenter": 1000, "WindowWidth": 1500, "RescaleSlope": 1, "RescaleIntercept": -100, **TWELVE}
    write_dicom(path, UNSIGNED, PhotometricInterpretation="MONOCHROME1", **elements)
    data = pydicom.dcmread(path)
    shown = apply_windowing(apply_modality_lut(data.pixel_array, data), data)
    low, high = -100, 4095 - 100
    assert_allclose(Window("file").apply(only(path)), 1 - (shown - low) / (high - low), atol=1e-5)


def write_signed_padding(path: Path, pixels: np.ndarray, value: int, limit: int | None = None) -> Path:
    """Unsigned pixels, with padding of the value representation SS."""
    data = pydicom.dcmread(write_dicom(path, pixels))
    data.add_new("PixelPaddingValue", "SS", value)
    if limit is not None:
        data.add_new("PixelPaddingRangeLimit", "SS", limit)
    data.save_as(path)
    return path


def test_padding(path: Path) -> None:
    pixels = SIGNED.copy()
    pixels[:3] = -2000
    picture = only(write_dicom(path, pixels, PixelPaddingValue=-2000, RescaleSlope=1, RescaleIntercept=-1024))
    assert_array_equal(picture.valid, pixels != -2000)
    pixels[3] = -1990
    ranged = only(write_dicom(path, pixels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990))
    assert_array_equal(ranged.valid, pixels > -1990)
    assert only(write_dicom(path, SIGNED, PixelPaddingValue=-32768)).valid is None
    shifted = UNSIGNED.copy()
    shifted[:3], shifted[3] = 2**16 - 2000, 2**16 - 1995  # -2000 and -1995 as stored
    signed = only(write_signed_padding(path, shifted, -2000))
    assert_array_equal(signed.valid, shifted != 2**16 - 2000)
    assert_array_equal(only(write_signed_padding(path, shifted, -2000, -1990)).valid, shifted < 2**15)
    around = only(write_signed_padding(path, shifted, -2000, 1000))
    assert_array_equal(around.valid, (shifted > 1000) & (shifted < 2**15))
    assert only(write_signed_padding(path, UNSIGNED.astype(np.uint8), -2000)).valid is None


def test_frames(path: Path) -> None:
    frames = RNG.integers(0, 4096, (5, 16, 12), dtype=np.uint16)
    write_dicom(path, frames)
    infos = list_pictures(path)
    assert [info.index for info in infos] == [0, 1, 2, 3, 4]
    assert Path(infos[3].name).name == "a_0003.dcm"
    for info in infos:
        assert_array_equal(read_picture(info).pixels, frames[info.index])


@pytest.mark.parametrize("count", [6, 10**9])
@pytest.mark.parametrize("compressed", [False, True])
def test_more_frames_than_pixels_are_refused(path: Path, count: int, compressed: bool) -> None:
    frames = RNG.integers(0, 4096, (5, 160, 120), dtype=np.uint16)
    write_dicom(path, frames, RLELossless if compressed else ExplicitVRLittleEndian)
    data = pydicom.dcmread(path)
    data.NumberOfFrames = count
    data.save_as(path)
    if compressed and count == 6:
        with pytest.raises(UnreadableImageError, match=r"a\.dcm"):  # found when it is read
            read_picture(list_pictures(path)[5])
        return
    with pytest.raises(UnreadableImageError, match="it is truncated: there are fewer pixels than its header declares"):
        list_pictures(path)


@pytest.mark.parametrize("frames", [1, 3])
def test_frames_of_every_layout_are_listed(path: Path, frames: int) -> None:
    bits = RNG.integers(0, 256, (frames, 2, 9), dtype=np.uint8)  # 12 x 12 pixels a frame
    one = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "Rows": 12, "Columns": 12}
    assert len(list_pictures(write_dicom(path, bits, **one))) == frames
    shared = RNG.integers(0, 256, (frames, 12, 12, 2), dtype=np.uint8)
    elements = {"Rows": 12, "Columns": 12, "SamplesPerPixel": 3, "NumberOfFrames": frames, "PlanarConfiguration": 0}
    pixels = shared.reshape(frames, 12, 24)
    write_dicom(path, pixels, **elements, PhotometricInterpretation="YBR_FULL_422")
    for info in list_pictures(path):
        assert read_picture(info).pixels.shape == (12, 12, 3)
    data = pydicom.dcmread(write_dicom(path, np.zeros((frames, 160, 120), np.uint16)))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(path)
    assert path.stat().st_size < 160 * 120
    assert len(list_pictures(path)) == frames


def test_frames_with_elements_of_their_own(path: Path) -> None:
    def group(sequence: str, **elements: object) -> object:
        item, outer = pydicom.Dataset(), pydicom.Dataset()
        for name, value in elements.items():
            setattr(item, name, value)
        setattr(outer, sequence, [item])
        return outer

    shared = group("PixelMeasuresSequence", PixelSpacing=[2.0, 1.0])
    per_frame = []
    for index in range(3):
        item = group("PixelValueTransformationSequence", RescaleSlope=index + 1, RescaleIntercept=10 * index)
        item.update(group("FrameVOILUTSequence", WindowCenter=100 * index, WindowWidth=50))
        item.update(group("PlaneOrientationSequence", ImageOrientationPatient=[(-1) ** index, 0, 0, 0, 1, 0]))
        per_frame.append(item)
    frames = RNG.integers(0, 4096, (3, 16, 12), dtype=np.uint16)
    write_dicom(
        path, frames, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=per_frame, **TWELVE
    )
    for index, info in enumerate(list_pictures(path)):
        picture = read_picture(info)
        values = (index + 1) * frames[index].astype(int) + 10 * index
        assert_array_equal(picture.pixels, values[:, ::-1] if index % 2 else values)
        assert picture.voi == (VoiWindow(100.0 * index, 50),)
        assert picture.spacing == (2.0, 1.0)
        assert not info.eight_bit


def test_orientation(path: Path) -> None:
    plain = only(write_dicom(path, UNSIGNED, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    assert plain.orientation == Orientation()
    turned = UNSIGNED[::-1, ::-1].T.copy()
    write_dicom(path, turned, ImageOrientationPatient=[0, -1, 0, -1, 0, 0], PixelSpacing=[1.0, 3.0])
    picture = only(path)
    assert_array_equal(picture.pixels, UNSIGNED)
    assert_array_equal(picture.orientation.undo(picture.pixels), turned)
    assert picture.spacing == (3.0, 1.0)
    write_dicom(path, UNSIGNED[:, ::-1].copy(), PatientOrientation=["R", "F"])
    assert_array_equal(only(path).pixels, UNSIGNED)
    write_dicom(path, UNSIGNED, ImageOrientationPatient=[0, 0, 0, 0, 0, 0])
    with pytest.raises(UnreadableImageError, match="its orientation is unknown"):
        only(path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("frames", [1, 3])
def test_compressed_without_loss(path: Path, syntax: str, frames: int) -> None:
    pixels = RNG.integers(0, 4096, (frames, 16, 12), dtype=np.uint16)
    try:
        write_dicom(path, pixels[0] if frames == 1 else pixels, syntax, **TWELVE)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"no encoder: {error}")
    for info in list_pictures(path):
        assert_array_equal(read_picture(info).pixels, pixels[info.index])


def test_colour_and_depth(path: Path) -> None:
    colour = RNG.integers(0, 256, (16, 12, 3), dtype=np.uint8)
    picture = only(write_dicom(path, colour))
    assert picture.info.eight_bit
    assert_array_equal(picture.pixels, colour)
    assert only(write_dicom(path, UNSIGNED.astype(np.uint8))).info.eight_bit
    assert not only(write_dicom(path, UNSIGNED.astype(np.uint8), RescaleSlope=2, RescaleIntercept=0)).info.eight_bit
    assert not only(write_dicom(path, SIGNED)).info.eight_bit


def test_files_without_preamble_and_suffix(tmp_path: Path) -> None:
    write_dicom(tmp_path / "whole.dcm", UNSIGNED)
    bare = tmp_path / "bare.dcm"
    bare.write_bytes((tmp_path / "whole.dcm").read_bytes()[132:])
    assert_array_equal(only(bare).pixels, UNSIGNED)
    (tmp_path / "whole.dcm").rename(tmp_path / "IM0001")
    assert_array_equal(only(tmp_path / "IM0001").pixels, UNSIGNED)


def test_a_preamble_that_looks_like_an_image(tmp_path: Path) -> None:
    content = bytearray(write_dicom(tmp_path / "whole.dcm", UNSIGNED).read_bytes())
    content[:8] = b"\x89PNG\r\n\x1a\n"
    (tmp_path / "a.png").write_bytes(content)
    ((picture, count),) = pictures_of(tmp_path / "a.png")
    assert count == 1
    assert_array_equal(picture.pixels, UNSIGNED)


def test_unreadable_files_have_a_reason(path: Path) -> None:
    def reason() -> str:
        with pytest.raises(UnreadableImageError) as raised:
            only(path)
        assert str(path) in str(raised.value)
        assert raised.value.path == path
        for value in IDENTIFYING.values():
            assert value not in str(raised.value)
        return raised.value.reason

    write_dicom(path, UNSIGNED, PixelData=None)
    assert reason() == "it is a DICOM file without PixelData (CT Image Storage)"
    write_dicom(path, UNSIGNED)
    path.write_bytes(path.read_bytes()[:-100])
    assert reason() == "it is truncated: there are fewer pixels than its header declares"
    path.write_bytes(path.read_bytes()[:200])
    assert "without PixelData" in reason() or "cannot be read" in reason()
    write_dicom(path, UNSIGNED, Rows=0)
    assert reason() == "it has no pixels (0 x 12)"
    write_dicom(path, UNSIGNED, Rows=60000, Columns=60000)
    assert "60000 x 60000 pixels are more than" in reason()
    write_dicom(path, np.full((4, 4), 9, np.uint16))
    assert reason() == "all pixels are equal (9)"
    write_dicom(path, UNSIGNED)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = MPEG2MPML
    data.PixelData = pydicom.encaps.encapsulate([b"00"])
    data["PixelData"].is_undefined_length = True
    data.save_as(path)
    assert reason().startswith("transfer syntax 'MPEG2 Main Profile / Main Level' is not supported")
    path.write_bytes(b"\x30\x82" + b"an encrypted envelope" * 20)
    assert reason() == "it is not a DICOM file"


def test_headers_are_not_in_warnings_and_logs(path: Path, caplog: pytest.LogCaptureFixture, recwarn: object) -> None:
    """pydicom quotes values that break the standard."""
    with pytest.warns(UserWarning, match="PID-7731902"):
        write_dicom(path, UNSIGNED, PatientID="PID-7731902" * 8, PatientBirthDate="PID-7731902")
    recwarn.clear()
    caplog.clear()
    only(path)
    text = caplog.text + " ".join(str(item.message) for item in recwarn)
    for value in IDENTIFYING.values():
        assert value not in text


def test_the_representation_of_a_picture_tells_nothing(path: Path) -> None:
    picture = only(write_dicom(path, UNSIGNED))
    assert picture.info.patient == IDENTIFYING["PatientID"]
    for value in IDENTIFYING.values():
        assert value not in repr(picture)


def test_a_decoder_that_panics_ends_nothing(path: Path) -> None:
    """pylibjpeg-rle is written in Rust: its error for some damaged data is not an `Exception`."""
    write_dicom(path, np.random.default_rng(0).integers(0, 4096, (64, 48), dtype=np.uint16), syntax=RLELossless)
    content = path.read_bytes()
    reasons = []
    for place in range(len(content) - 400, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :])
        try:
            only(path)
        except UnreadableImageError as error:
            reasons.append(str(error))
    assert any("PanicException" in reason for reason in reasons)
