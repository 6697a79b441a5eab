"""The files of examples/medical.py have the original values, for every way of storing them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from anomalib_scrd.imaging import VolumeOptions, Window, list_files, list_pictures, read_picture, read_pictures
from anomalib_scrd.imaging.masks import read_mask
from tests.conftest import ROOT

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    specification = importlib.util.spec_from_file_location("medical_example", ROOT / "examples" / "medical.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def save(root: Path, names: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (20, 24), dtype=np.uint8)).save(root / name)


def test_dicom_and_png_hold_the_same_values(example: ModuleType, tmp_path: Path) -> None:
    for seed, (part, count) in enumerate((("train/good", 16), ("test/good", 4), ("test/tumour", 5))):
        save(tmp_path / "source" / part, [f"{index}.png" for index in range(count)], seed)
    folders = example.make_dicom(tmp_path / "source", tmp_path)
    assert folders == {"normal_dir": "train", "normal_test_dir": "test/normal", "abnormal_dir": "test/anomalous"}
    inverted, patients = set(), set()
    for path in list_files(tmp_path / "dcm"):
        (info,) = list_pictures(path)
        picture = read_picture(info)
        png = Image.open(tmp_path / "png" / path.relative_to(tmp_path / "dcm").with_suffix(".png"))
        np.testing.assert_array_equal(picture.pixels, np.asarray(png))
        assert len(picture.voi) == 2
        inverted.add(picture.mirror is not None)
        patients.add(info.patient)
    assert inverted == {True, False}
    assert len(patients) == 4 + 1 + 2
    windows = [Window.decide("auto", read_pictures(list_files(tmp_path / kind / "train"))) for kind in ("dcm", "png")]
    assert windows[0] == windows[1]


def test_volumes_hold_the_slices_of_a_patient(example: ModuleType, tmp_path: Path) -> None:
    for seed, (part, patients) in enumerate((("train/good", "ab"), ("test/good", "cd"), ("test/tumor", "c"))):
        first = 4 if part == "test/tumor" else 0
        names = [f"P{patient}_{number}.png" for patient in patients for number in range(first, first + 3)]
        save(tmp_path / "source" / part, names, seed)
    (tmp_path / "source/ground_truth/tumor").mkdir(parents=True)
    for number in range(4, 7):
        mask = np.zeros((20, 24), np.uint8)
        mask[number, 2:5] = 255
        Image.fromarray(mask).save(tmp_path / f"source/ground_truth/tumor/Pc_{number}.png")
    folders = example.make_nifti(tmp_path / "source", tmp_path)
    assert folders["normal_test_dir"] == "test/normal"
    options = VolumeOptions(skip_empty=False)
    (volume,) = list_files(tmp_path / "nii/test/anomalous")
    infos = list_pictures(volume, options)
    assert len(infos) == 6
    for info, name in zip(infos, ["good/Pc_0", "good/Pc_1", "good/Pc_2", "tumor/Pc_4", "tumor/Pc_5"], strict=False):
        source = np.asarray(Image.open(tmp_path / f"source/test/{name}.png"))
        np.testing.assert_array_equal(read_picture(info, options).pixels // 16, source)
        mask = read_mask(tmp_path / "nii/masks/anomalous" / volume.name, info, options)
        number = int(name[-1])
        expected = np.zeros_like(mask)
        if number >= 4:
            expected[number, 2:5] = True
        np.testing.assert_array_equal(mask, expected)
