"""DICOM and NIfTI on the runner: the window of the training, frames and slices, maps in the order of the file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from anomalib_scrd.edge.__main__ import main
from anomalib_scrd.edge.files import read_map
from anomalib_scrd.edge.journal import read_records
from anomalib_scrd.imaging import Preparation, VolumeOptions, Window
from tests.edge.conftest import FACTS, SIZE, build_openvino

PATIENT = ("Miller^Anna", "PID-4711", "19700101")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The known model with the window of 12-bit images, and the middle half of volumes."""
    preparation = Preparation(
        Window("values", limits=(0.0, 4000.0)), volumes=VolumeOptions(slices=(0.25, 0.75), skip_empty=False)
    )
    return build_openvino(tmp_path / "deep.xml", FACTS | {"window": preparation.to_dict()})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "results"


def save_dicom(path: Path, frames: np.ndarray, *, inverted: bool = False, **elements: object) -> None:
    """(N, H, W) of 12 bits, with a rescale intercept of -100 and a patient in the header."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientName, data.PatientID, data.PatientBirthDate = PATIENT
    data.Modality = "OT"
    data.NumberOfFrames, data.Rows, data.Columns = frames.shape
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 1, 16, 12, 11, 0
    data.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    data.RescaleIntercept, data.RescaleSlope = -100, 1
    data.PixelData = frames.astype(np.uint16).tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def test_frames_of_dicom(model: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = np.full((3, SIZE, SIZE), 100)
    frames[:, 2, 3] = (1100, 1120, 4095)
    save_dicom(tmp_path / "images" / "three.dcm", frames)
    words = [str(model), str(tmp_path / "images"), "--output", str(output), "--maps", "tiff", "--overlays"]
    assert main(words) == 0
    records = read_records(output)
    assert [record.picture for record in records] == [0, 1, 2]
    np.testing.assert_allclose([record.score for record in records], [0.25, 0.255, 3995 / 4000], rtol=1e-5)
    anomaly_map = read_map(output / records[1].map)
    assert np.unravel_index(anomaly_map.argmax(), anomaly_map.shape) == (2, 3)
    printed = capsys.readouterr()
    everything = [printed.out.encode(), printed.err.encode()]
    everything += [str(path).encode() + path.read_bytes() for path in output.rglob("*") if path.is_file()]
    for text in everything:
        assert not any(part.encode() in text for value in PATIENT for part in value.split("^"))


def test_slices_of_nifti(model: Path, output: Path, tmp_path: Path) -> None:
    """A map has the order of the stored voxels, for every orientation of the display."""
    nibabel = pytest.importorskip("nibabel")
    voxels = np.zeros((20, 24, 9), np.int16)
    voxels[4, 15, :] = np.arange(9) * 400 + 400
    (tmp_path / "images").mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1, 1, 1])), tmp_path / "images" / "head.nii.gz")
    assert main([str(model), str(tmp_path / "images"), "--output", str(output), "--maps", "npz"]) == 0
    records = read_records(output)
    assert [record.picture for record in records] == [2, 3, 4, 5, 6]  # the middle half
    scores = [record.score for record in records]
    assert scores == sorted(scores)
    for record in records:
        anomaly_map = read_map(output / record.map)
        assert anomaly_map.shape == (20, 24)
        row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
        assert abs(row - 4) <= 1
        assert abs(column - 15) <= 1


def test_a_volume_whose_name_is_no_text(
    model: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One slice, so that the pseudonym of its volume is made of its name."""
    nibabel = pytest.importorskip("nibabel")
    voxels = np.zeros((20, 24, 1), np.int16)
    voxels[4, 15] = 400
    (tmp_path / "images").mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "head.nii")
    try:
        os.rename(tmp_path / "head.nii", os.fsencode(tmp_path / "images") + b"/\xff.nii")  # noqa: PTH104 - no str
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    words = [str(tmp_path / "images"), "--salt", str(tmp_path / "salt")]
    assert main([str(model), *words, "--output", str(output), "--maps", "npz"]) == 0
    (record,) = read_records(output)
    assert record.score is not None
    capsys.readouterr()
    assert main(["names", *words]) == 0
    assert capsys.readouterr().out == f"{record.path}\t\\udcff.nii\n"


def test_a_depth_without_a_window_is_refused(model: Path, output: Path, images: Path) -> None:
    assert main([str(model), str(images), "--output", str(output), "--on-error", "skip"]) == 3
    expected = "it has 8 bits, and all training pictures had more than 8 bits"
    assert all(record.error.startswith(expected) for record in read_records(output))


def test_report_of_volumes(model: Path, output: Path, tmp_path: Path) -> None:
    frames = np.full((2, SIZE, SIZE), 100)
    frames[:, 2, 3] = 1100
    save_dicom(tmp_path / "images" / "two.dcm", frames)
    words = ["report", str(model), str(tmp_path / "images"), "--output", str(output), "--quiet", "--seconds", "0"]
    assert main(words) == 0
    text = (output / "report.html").read_text(encoding="utf-8")
    assert "two.dcm picture 1" in text
    assert json.dumps("limits") in text.replace("&quot;", '"')
    assert main(["gallery", *words[1:-2], "--salt", str(tmp_path / "salt"), "--output", str(tmp_path / "gallery")]) == 0
    for path in [*output.rglob("*"), *(tmp_path / "gallery").rglob("*")]:
        content = str(path.name).encode() + (path.read_bytes() if path.is_file() else b"")
        assert not any(part.encode() in content for value in PATIENT for part in value.split("^")), path


@pytest.mark.parametrize("directions", [[1, 0, 0, 0, 1, 0], [0, 1, 0, -1, 0, 0], [-1, 0, 0, 0, -1, 0]])
def test_padded_and_turned_pictures_have_maps_in_the_order_of_the_file(
    directions: list[float], output: Path, tmp_path: Path
) -> None:
    """Rows are twice as high as columns are wide; the picture is turned for display and padded to a square."""
    preparation = Preparation(Window("values", limits=(0.0, 4000.0)), pad_to_square=True)
    model = build_openvino(tmp_path / "padded.xml", FACTS | {"window": preparation.to_dict()})
    frames = np.full((1, 24, 20), 100)
    frames[0, 18:21, 3:6] = 3100  # as large as a pixel of the model's input
    save_dicom(tmp_path / "images" / "one.dcm", frames, ImageOrientationPatient=directions, PixelSpacing=[2, 1])
    words = [str(model), str(tmp_path / "images"), "--output", str(output), "--maps", "npz", "--overlays"]
    assert main(words) == 0
    (record,) = read_records(output)
    assert (record.height, record.width) == (24, 20)
    anomaly_map = read_map(output / record.map)
    assert anomaly_map.shape == (24, 20)
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert abs(row - 19) <= 1
    assert abs(column - 4) <= 2
    assert anomaly_map[:12].max() < 0.1  # nothing is mirrored
