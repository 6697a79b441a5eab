"""The test files that come with pydicom and nibabel: each is read, or refused with its name and a reason.

The table below lists every one that is refused. All others must be read, so a file of a newer version that is neither
read nor listed here fails the test.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anomalib_scrd.imaging import UnreadableImageError, Window, list_pictures, read_picture

pydicom = pytest.importorskip("pydicom")
nibabel = pytest.importorskip("nibabel")

PYDICOM = Path(pydicom.__file__).parent / "data"
NIBABEL = Path(nibabel.__file__).parent / "tests/data"
NO_IMAGES = {".py", ".pyc", ".md", ".txt", ".json", ".rst", ".m"}

NO_PIXELS = "without PixelData"
UNKNOWN = "no image file of a known format"
PYDICOM_REFUSED = {
    "charset_files/chrJapMulti.dcm": NO_PIXELS,
    "charset_files/chrJapMultiExplicitIR6.dcm": NO_PIXELS,
    "charset_files/chrKoreanMulti.dcm": NO_PIXELS,
    "charset_files/chrSQEncoding.dcm": NO_PIXELS,
    "charset_files/chrSQEncoding1.dcm": NO_PIXELS,
    **{
        f"palettes/{name}.dcm": "without PixelData (Color Palette Storage)"
        for name in ("fall", "hotiron", "hotmetalblue", "pet", "pet20step", "spring", "summer", "winter")
    },
    "test_files/ExplVR_BigEndNoMeta.dcm": "without PixelData (RT Ion Plan Storage)",
    "test_files/ExplVR_LitEndNoMeta.dcm": "without PixelData (RT Ion Plan Storage)",
    "test_files/JPEG-lossy.dcm": "cannot be decoded",  # its scan header breaks the standard; no decoder takes it
    "test_files/JPEG2000-embedded-sequence-delimiter.dcm": "cannot be decoded",  # made to be broken
    "test_files/MR_truncated.dcm": "it is truncated",
    "test_files/UN_sequence.dcm": NO_PIXELS,
    "test_files/badVR.dcm": "cannot be decoded",
    "test_files/crayons.icc": UNKNOWN,
    "test_files/empty_charset_LEI.dcm": NO_PIXELS,
    "test_files/meta_missing_tsyntax.dcm": NO_PIXELS,
    "test_files/nested_priv_SQ.dcm": NO_PIXELS,
    "test_files/no_meta.dcm": "not a DICOM file",
    "test_files/no_meta_group_length.dcm": NO_PIXELS,
    "test_files/priv_SQ.dcm": NO_PIXELS,
    "test_files/reportsi.dcm": "without PixelData (Basic Text SR Storage)",
    "test_files/reportsi_with_empty_number_tags.dcm": "without PixelData (Basic Text SR Storage)",
    "test_files/rtplan.dcm": "without PixelData (RT Plan Storage)",
    "test_files/rtplan.dump": UNKNOWN,
    "test_files/rtplan_truncated.dcm": "without PixelData (RT Plan Storage)",
    "test_files/rtstruct.dcm": "without PixelData (RT Structure Set Storage)",
    "test_files/rtstruct.dump": UNKNOWN,
    "test_files/test-SR.dcm": "without PixelData (Comprehensive SR Storage)",
    "test_files/waveform_ecg.dcm": "without PixelData (12-lead ECG Waveform Storage)",
    "test_files/zipMR.gz": UNKNOWN,
    "test_files/dicomdirtests/DICOMDIR": "an index of other files",
    **{
        f"test_files/dicomdirtests/DICOMDIR-{name}": NO_PIXELS
        for name in ("bigEnd", "empty.dcm", "implicit", "nooffset", "nopatient", "reordered")
    },
    "test_files/dicomdirtests/TINY_ALPHA/DICOMDIR": "an index of other files",
    "test_files/dicomdirtests/TINY_ALPHA/README": UNKNOWN,
}
# Empty CT files that only test how DICOMDIR indexes many of them.
PYDICOM_REFUSED_BELOW = {"test_files/dicomdirtests/TINY_ALPHA/PT000000": "without PixelData (CT Image Storage)"}
NIBABEL_REFUSED = {
    "analyze.hdr": "data file is missing",
    "nifti1.hdr": "data file is missing",
    "nifti2.hdr": "data file is missing",
    "resampled_anat_moved.nii": "% of the pixels are NaN",
    "row_major.dconn.nii": "it is not a volume (Cifti2Image",
}
# Other formats than NIfTI and MGH: PAR/REC, AFNI, MINC, ECAT, and streamlines, which are not images.
NIBABEL_OTHER_FORMATS = (".PAR", ".REC", ".HEAD", ".BRIK", ".BRIK.gz", ".mnc", ".v", ".trk", ".tck", ".gitignore")


def _files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix not in NO_IMAGES)


def _read(path: Path) -> str:
    """Reason of a refusal, "" for a file that is read completely."""
    try:
        for info in list_pictures(path):
            picture = read_picture(info)
            assert picture.pixels.ndim in {2, 3}
            assert np.isfinite(picture.pixels).all()
            image = Window("each", percentiles=(0.0, 100.0)).apply(picture)
            assert image.dtype == np.float32
            assert image.min() >= 0
            assert image.max() <= 1
    except UnreadableImageError as error:
        return error.reason if str(path) in str(error) else f"without its name: {error}"
    return ""


def test_every_file_of_pydicom_is_read_or_refused_by_name() -> None:
    unexpected, read = {}, 0
    for path in _files(PYDICOM):
        name = path.relative_to(PYDICOM).as_posix()
        below = next((reason for folder, reason in PYDICOM_REFUSED_BELOW.items() if name.startswith(folder)), "")
        expected, reason = PYDICOM_REFUSED.get(name, below), _read(path)
        read += not reason
        if bool(reason) != bool(expected) or expected not in reason:
            unexpected[name] = reason or "was read"
    assert not unexpected
    assert read >= 95


def test_every_file_of_nibabel_is_read_or_refused_by_name() -> None:
    unexpected, read = {}, 0
    for path in _files(NIBABEL):
        other = path.name.endswith(NIBABEL_OTHER_FORMATS)
        expected, reason = "no " if other else NIBABEL_REFUSED.get(path.name, ""), _read(path)
        read += not reason
        if bool(reason) != bool(expected) or expected not in reason:
            unexpected[path.name] = reason or "was read"
    assert not unexpected
    assert read >= 9
