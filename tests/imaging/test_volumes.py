"""Volumes: nibabel's own reorientation as the oracle, and which slices are taken."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

nibabel = pytest.importorskip("nibabel")

from anomalib_scrd.imaging import (  # noqa: E402
    UnreadableImageError,
    VolumeOptions,
    list_pictures,
    read_picture,
    volumes,
)
from anomalib_scrd.imaging.masks import read_mask  # noqa: E402
from anomalib_scrd.imaging.recent import RecentArrays  # noqa: E402

ALL = VolumeOptions(skip_empty=False)
SHAPE = (5, 7, 9)


def write(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3000, SHAPE).astype(np.int16)


def radiological(canonical: np.ndarray, plane: str, index: int) -> np.ndarray:
    """A slice of a volume in nibabel's canonical order (right, anterior, superior), as it is shown."""
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    shown = np.take(canonical, index, axis).T  # rows along the later axis
    return shown[::-1, ::-1]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_every_order_of_storage_shows_the_same_slices(tmp_path: Path, plane: str) -> None:
    canonical = nibabel.Nifti1Image(voxels(), np.diag([1.0, 2.0, 3.0, 1.0]))
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    spacing = {"sagittal": (3, 2), "coronal": (3, 1), "axial": (2, 1)}[plane]
    for axes, flips in product(permutations(range(3)), product([1, -1], repeat=3)):
        stored = canonical.as_reoriented(np.array(list(zip(axes, flips, strict=True))))
        path = tmp_path / f"{axes}{flips}.nii"
        nibabel.save(stored, path)
        infos = list_pictures(path, VolumeOptions(plane, skip_empty=False))
        assert len(infos) == SHAPE[axis]
        pictures = [read_picture(info, VolumeOptions(plane)) for info in infos]
        found = np.stack([picture.pixels for picture in pictures])
        expected = np.stack([radiological(canonical.get_fdata(), plane, index) for index in range(SHAPE[axis])])
        if not (found == expected).all():  # the file's order of slices may be the other way round
            expected = expected[::-1]
        assert_array_equal(found, expected)
        assert_allclose(pictures[0].spacing, spacing)
        stored_axis = axes[axis]
        undone = np.stack([picture.orientation.undo(picture.pixels) for picture in pictures], axis=stored_axis)
        assert_array_equal(undone, stored.get_fdata())


def test_oblique_volumes_take_the_nearest_axes(tmp_path: Path) -> None:
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    straight, oblique = write(tmp_path / "a.nii", voxels()), write(tmp_path / "b.nii", voxels(), affine)
    for one, other in zip(list_pictures(straight, ALL), list_pictures(oblique, ALL), strict=True):
        assert_array_equal(read_picture(one).pixels, read_picture(other).pixels)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    image = (nibabel.Nifti1Pair if suffix == ".img" else nibabel.Nifti1Image)(voxels(), np.eye(4))
    nibabel.save(image, tmp_path / f"a{suffix}")
    path = tmp_path / ("a.hdr" if suffix == ".img" else f"a{suffix}")
    infos = list_pictures(path, ALL)
    assert_array_equal(read_picture(infos[3]).pixels, radiological(voxels(), "axial", 3))
    assert infos[3].name == str(tmp_path / f"a_0003{'.hdr' if suffix == '.img' else suffix}")
    assert not infos[3].eight_bit


def test_a_range_of_slices(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", np.random.default_rng(0).random((4, 4, 11)).astype(np.float32))
    indices = [info.index for info in list_pictures(path, VolumeOptions(slices=(0.2, 0.8), skip_empty=False))]
    assert indices == [2, 3, 4, 5, 6, 7, 8]
    assert {info.count for info in list_pictures(path, VolumeOptions(slices=(0.2, 0.8)))} == {11}


def test_empty_slices_are_skipped(tmp_path: Path) -> None:
    head = np.random.default_rng(0).normal(0, 5, (20, 20, 12))
    head[5:15, 5:15, 3:9] += 1000
    path = write(tmp_path / "a.nii.gz", head.astype(np.float32))
    assert [info.index for info in list_pictures(path)] == [3, 4, 5, 6, 7, 8]
    assert [info.index for info in list_pictures(path, VolumeOptions("sagittal"))] == list(range(5, 15))
    with pytest.raises(UnreadableImageError, match=r"none of the 2 slices in the range \[0.0, 0.1\] has content"):
        list_pictures(path, VolumeOptions(slices=(0.0, 0.1)))


def test_a_series_of_volumes(tmp_path: Path) -> None:
    series = np.random.default_rng(0).integers(0, 3000, (4, 5, 3, 2)).astype(np.int16)
    infos = list_pictures(write(tmp_path / "a.nii.gz", series), ALL)
    assert [info.index for info in infos] == list(range(6))
    for info in infos:
        volume, index = divmod(info.index, 3)
        assert_array_equal(read_picture(info).pixels, radiological(series[..., volume], "axial", index))


def test_scaled_and_coloured_voxels(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(voxels(), np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nibabel.save(image, tmp_path / "a.nii")
    expected = nibabel.load(tmp_path / "a.nii").get_fdata()
    info = list_pictures(tmp_path / "a.nii", ALL)[2]
    assert_allclose(read_picture(info).pixels, radiological(expected, "axial", 2))
    colours = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    records = np.ascontiguousarray(colours).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    info = list_pictures(write(tmp_path / "b.nii", records), ALL)[2]
    assert info.eight_bit
    expected = np.stack([radiological(colours[..., c], "axial", 2) for c in range(3)], axis=-1)
    assert_array_equal(read_picture(info).pixels, expected)


def test_unreadable_files_have_a_reason(tmp_path: Path) -> None:
    def reason(path: Path) -> str:
        with pytest.raises(UnreadableImageError) as raised:
            [read_picture(info, ALL) for info in list_pictures(path, ALL)]
        assert str(path) in str(raised.value)
        return raised.value.reason

    nan = voxels().astype(np.float32)
    nan[:, :, 4] = np.nan
    assert reason(write(tmp_path / "nan.nii", nan)) == "100.0% of the pixels are NaN or infinite"
    short = write(tmp_path / "short.nii.gz", voxels())
    short.write_bytes(short.read_bytes()[:200])
    assert "truncated" in reason(short) or "nibabel cannot read it" in reason(short)
    short = write(tmp_path / "short.nii", voxels())
    short.write_bytes(short.read_bytes()[:-100])
    assert "cannot be read" in reason(short)
    (tmp_path / "text.nii").write_text("no volume")
    assert reason(tmp_path / "text.nii") == "nibabel cannot read it (ImageFileError)"
    singular = np.eye(4)
    singular[:3, 0] = 0
    image = nibabel.Nifti1Image(voxels(), None)
    image.header.set_sform(singular, 1)
    nibabel.save(image, tmp_path / "singular.nii")
    assert "the orientation is unknown" in reason(tmp_path / "singular.nii")
    complex_ = nibabel.Nifti1Image(voxels().astype(np.complex64), np.eye(4))
    nibabel.save(complex_, tmp_path / "complex.nii")
    assert "complex64 numbers" in reason(tmp_path / "complex.nii")
    assert reason(write(tmp_path / "flat.nii", voxels()[:, :, 0])).startswith("it is not a volume")
    assert "no such file" in reason(tmp_path / "nowhere.nii")


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", voxels())
    first = read_picture(list_pictures(path, ALL)[0]).pixels
    write(path, 1 + voxels())
    assert_array_equal(read_picture(list_pictures(path, ALL)[0]).pixels, first + 1)


def test_masks_take_the_slice_of_their_image(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(voxels(), np.eye(4))
    mask = nibabel.Nifti1Image((voxels() > 2000).astype(np.uint8), np.eye(4))
    path = tmp_path / "image.nii.gz"
    nibabel.save(image.as_reoriented(np.array([[1, -1], [0, 1], [2, 1]])), path)
    nibabel.save(mask.as_reoriented(np.array([[1, -1], [0, 1], [2, 1]])), tmp_path / "mask.nii")
    for info in list_pictures(path, VolumeOptions("coronal")):
        shown = read_picture(info, VolumeOptions("coronal")).pixels
        assert_array_equal(read_mask(tmp_path / "mask.nii", info, VolumeOptions("coronal")), shown > 2000)
    write(tmp_path / "other.nii", np.zeros((5, 7, 3), np.uint8))
    with pytest.raises(UnreadableImageError, match=r"this mask has 3 pictures, its image .* has 9"):
        read_mask(tmp_path / "other.nii", list_pictures(path, ALL)[0])


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_masks_in_another_order_take_the_slice_at_the_place_of_their_image(tmp_path: Path, plane: str) -> None:
    affine = np.diag([1.0, 2.0, -3.0, 1.0])
    affine[:3, 3] = 10, -20, 30
    options = VolumeOptions(plane, skip_empty=False)
    for series in ((), (2,)):
        stored = np.random.default_rng(0).integers(0, 3000, (*SHAPE, *series)).astype(np.int16)
        image = write(tmp_path / "image.nii", stored, affine)
        mask = nibabel.Nifti1Image((stored > 2000).astype(np.uint8), affine)
        for axes, flips in product(permutations(range(3)), product([1, -1], repeat=3)):
            nibabel.save(mask.as_reoriented(np.array(list(zip(axes, flips, strict=True)))), tmp_path / "mask.nii")
            for info in list_pictures(image, options):
                shown = read_picture(info, options).pixels
                assert_array_equal(read_mask(tmp_path / "mask.nii", info, options), shown > 2000)


def test_masks_that_match_neither_by_index_nor_by_place_are_refused(tmp_path: Path) -> None:
    affine = np.diag([1.0, 2.0, -3.0, 1.0])
    info = list_pictures(write(tmp_path / "image.nii", voxels(), affine), ALL)[2]
    mask = (voxels() > 2000).astype(np.uint8)
    moved = affine.copy()
    moved[:3, 3] = 10, -20, 30
    expected = read_picture(info).pixels > 2000
    assert_array_equal(read_mask(write(tmp_path / "moved.nii", mask, moved), info, ALL), expected)  # without an origin
    for other in (np.eye(4), np.diag([1.0, 2.0, 3.0, 1.0])):
        write(tmp_path / "mask.nii", mask, other)
        with pytest.raises(UnreadableImageError, match=r"mask.nii': by its affine matrix, its axes .*image.nii'"):
            read_mask(tmp_path / "mask.nii", info, ALL)


@pytest.mark.parametrize(
    "arguments", [{"plane": "oblique"}, {"slices": (0.5, 0.5)}, {"slices": (0, 3)}, {"slices": [1]}]
)
def test_wrong_options(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"(plane|slices) must be"):
        VolumeOptions(**arguments)


def test_recent_arrays_are_kept_up_to_their_bytes() -> None:
    made: list[str] = []

    def make(name: str, size: int = 40) -> np.ndarray:
        made.append(name)
        return np.zeros(size, np.uint8)

    recent = RecentArrays(100)
    for name in ("a", "b", "a", "c", "a", "b"):  # c takes the place of b, which was used before a
        recent.get(name, lambda name=name: make(name))
    assert made == ["a", "b", "c", "b"]
    assert recent.get("huge", lambda: make("huge", 101)).size == 101
    recent.get("huge", lambda: make("huge", 101))
    assert made[-2:] == ["huge", "huge"]


def test_a_compressed_volume_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.nii.gz", voxels())
    infos = list_pictures(path, ALL)
    read = []
    original = volumes._read
    monkeypatch.setattr(volumes, "_read", lambda *arguments: read.append(len(arguments[2])) or original(*arguments))
    for info in infos:
        read_picture(info)
    assert read.count(0) == 1
