"""Folders, unreadable files, and the imports of the readers."""

import builtins
import errno
import hmac
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_scrd.imaging import (
    BadFiles,
    Pseudonyms,
    UnreadableImageError,
    list_files,
    list_pictures,
    read_pictures,
    survey,
)
from anomalib_scrd.imaging.files import may_hold_pictures

pytest.importorskip("pydicom")
from tests.imaging.writing import write_dicom

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good files of three formats, a truncated one, one without pixels, and files of other formats."""
    Image.fromarray(RNG.integers(0, 255, (40, 50), dtype=np.uint8)).save(tmp_path / "b.png")
    pixels = RNG.integers(0, 4096, (8, 8), dtype=np.uint16)
    write_dicom(tmp_path / "study/IM0001", pixels)
    write_dicom(tmp_path / "study/a.DCM", pixels)
    write_dicom(tmp_path / "study/empty.dcm", pixels, PixelData=None)
    Image.fromarray(RNG.integers(0, 255, (40, 50), dtype=np.uint8)).save(tmp_path / "short.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "short.png").read_bytes()[:600])
    for name in ("notes.txt", ".hidden.png", "DICOMDIR", "README"):
        (tmp_path / name).write_bytes(b"nothing")
    return tmp_path


def names(files: list[Path], folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files]


def test_folders_are_searched(folder: Path) -> None:
    found = names(list_files(folder), folder)
    assert found == ["b.png", "short.png", "study/IM0001", "study/a.DCM", "study/empty.dcm"]
    assert list_files(folder / "notes.txt") == [folder / "notes.txt"]
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        list_files(folder / "nowhere")


def test_dicom_files_under_any_name_are_found(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 4096, (8, 8), dtype=np.uint16)
    found = ["1.2.840.113619.2.55.3", "IM.0001", "IM0002", "a.bak", "b.txt"]
    for name in [*found, "c.dcm.part", "d.tmp", "DICOMDIR", ".e.0001"]:
        write_dicom(tmp_path / name, pixels)
    (tmp_path / "notes.0001").write_bytes(b"nothing")
    (tmp_path / "folder.0001").mkdir()
    os.mkfifo(tmp_path / "pipe.0001")  # opening it would wait for ever
    assert names(list_files(tmp_path), tmp_path) == found
    for name in ("c.dcm.part", "DICOMDIR", "notes.0001", "folder.0001", "pipe.0001", "nowhere.png"):
        assert not may_hold_pictures(tmp_path / name)
    assert len(list(read_pictures(list_files(tmp_path)))) == len(found)


def test_the_first_bad_file_stops_a_survey_with_all_names(folder: Path) -> None:
    with pytest.raises(
        UnreadableImageError, match=r"1 files cannot be read: '.*empty.dcm' \(it is a DICOM file without"
    ):
        survey(list_files(folder))  # headers only: that of the truncated file is complete


def test_bad_files_are_skipped_and_listed(folder: Path) -> None:
    bad = BadFiles("skip")
    assert names([info.path for info in survey(list_files(folder), bad_files=bad)], folder) == [
        "b.png",
        "study/IM0001",
        "study/a.DCM",
    ]
    assert {path.name: reason.split(" (")[0] for path, reason in bad.left_out.items()} == {
        "empty.dcm": "it is a DICOM file without PixelData",
        "short.png": "it is damaged",
    }
    assert bad.report().splitlines()[0] == "2 files were left out:"
    assert str(folder / "short.png") in bad.report()
    assert len(list(read_pictures(list_files(folder), bad_files=BadFiles("skip")))) == 3
    with pytest.raises(UnreadableImageError, match=r"short\.png"):
        list(read_pictures(list_files(folder)))
    with pytest.raises(ValueError, match="on_error must be raise or skip, got 'ignore'"):
        BadFiles("ignore")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.dcm", "a.nii", "a.0001"])
def test_a_file_without_permission_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Image.fromarray(RNG.integers(0, 255, (8, 9), dtype=np.uint8)).save(tmp_path / "good.png")
    (tmp_path / name).write_bytes(b"content")
    genuine = open

    def refuse(file: object, *args: object, **kwargs: object) -> object:
        if str(file) == str(tmp_path / name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return genuine(file, *args, **kwargs)  # type: ignore[call-overload]

    for module in (builtins, io):  # root may read everything
        monkeypatch.setattr(module, "open", refuse)
    bad = BadFiles("skip")
    assert [info.path.name for info in survey([tmp_path / name, tmp_path / "good.png"], bad_files=bad)] == ["good.png"]
    assert list(bad.left_out) == [tmp_path / name]
    with pytest.raises(UnreadableImageError, match=f"1 files cannot be read: .*{name}"):
        survey([tmp_path / name])


def test_a_long_report_is_cut() -> None:
    bad = BadFiles("skip")
    for index in range(150):
        bad.note(UnreadableImageError.of(f"{index}.png", "it is damaged"))
    lines = bad.report().splitlines()
    assert (len(lines), lines[0], lines[-1]) == (102, "150 files were left out:", "  and 50 more")
    assert BadFiles().report() == ""


def test_the_import_needs_numpy_and_pillow_alone() -> None:
    code = (
        "import sys, anomalib_scrd.imaging; "
        "heavy = {'torch', 'anomalib', 'pandas', 'scipy', 'pydicom', 'nibabel', 'tifffile', 'cv2'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("package", "name"), [("pydicom", "a.dcm"), ("nibabel", "a.nii"), ("tifffile", "a.tif")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str) -> None:
    import tifffile

    if name == "a.tif":
        tifffile.imwrite(tmp_path / name, np.zeros((4, 4), np.float64))
    else:
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnreadableImageError, match=rf"needs {package}; pip install 'anomalib-scrd\[medical\]'"):
        list_pictures(tmp_path / name)


def test_pseudonyms(tmp_path: Path) -> None:
    salt = tmp_path / "keys/salt"
    first, again, other = Pseudonyms(salt), Pseudonyms(salt), Pseudonyms()
    assert first.of("PID-7731902") == again.of(" PID-7731902 ") != other.of("PID-7731902")
    assert len(first.of("PID-7731902")) == 16
    assert first.of("PID-7731902") != first.of("PID-7731903")
    assert first.of("  ") == ""
    assert salt.stat().st_mode & 0o077 == 0
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match=r"the salt file .* is empty"):
        Pseudonyms(tmp_path / "empty")


def test_pseudonyms_of_any_bytes_and_without_a_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Pseudonyms().of(os.fsdecode(b"/images/\xff.nii"))
    assert len(odd) == 16
    assert odd != Pseudonyms().of(os.fsdecode(b"/images/\xfe.nii"))
    empty = hmac.new(b"", b"PID-7731902", "sha256").hexdigest()[:16]
    for value in ("", " "):
        monkeypatch.setenv("ANOMALIB_SCRD_SALT", value)
        first = Pseudonyms().of("PID-7731902")
        assert first not in {empty, hmac.new(b" ", b"PID-7731902", "sha256").hexdigest()[:16]}
        assert Pseudonyms().of("PID-7731902") == first  # also in child processes


def test_errors_can_be_pickled_in_a_worker() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(UnreadableImageError.of("a.png", "it is damaged")))
    assert str(error) == "cannot read 'a.png': it is damaged"
    assert isinstance(type(error)(str(error)), UnreadableImageError)  # as torch raises it again
