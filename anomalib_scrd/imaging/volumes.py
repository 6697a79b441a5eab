"""Volumes of NIfTI and other formats that nibabel reads with an affine matrix, slice by slice."""

__all__ = ["VolumeOptions", "list_slices", "matching_slice", "read_slice"]

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_scrd.imaging.errors import UnreadableImageError, missing_package
from anomalib_scrd.imaging.orientation import Orientation, from_directions
from anomalib_scrd.imaging.picture import Picture, PictureInfo, check_size
from anomalib_scrd.imaging.recent import RecentArrays

_PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # patient axis perpendicular to a slice
_FILLED = 0.01
_SAME_PLACE = 0.5  # voxels
_VOXELS = RecentArrays(2**29)  # bytes, per process


@dataclass(frozen=True)
class VolumeOptions:
    """Choice of the slices of a volume.

    Args:
        plane: axial (default), coronal or sagittal, by the volume's affine matrix; for an oblique volume the nearest.
        slices: First and last slice as shares of the volume along that axis, in the file's order, in [0, 1]; default:
            all.
        skip_empty: Whether to skip slices in which less than 1 % of the voxels exceed a tenth of the volume's range
            (from its smallest value to its 99.5th percentile), such as air above the head; default true.

    Raises:
        ValueError: If an argument is out of range; the message names it.
    """

    plane: str = "axial"
    slices: Sequence[float] = (0.0, 1.0)
    skip_empty: bool = True

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.plane not in _PLANES:
            msg = f"plane must be one of {list(_PLANES)}, got {self.plane!r}"
            raise ValueError(msg)
        valid = len(self.slices) == 2 and 0 <= self.slices[0] < self.slices[1] <= 1  # noqa: PLR2004
        if not valid:
            msg = f"slices must be two shares of the volume, 0 <= first < last <= 1, got {list(self.slices)}"
            raise ValueError(msg)
        object.__setattr__(self, "slices", (float(self.slices[0]), float(self.slices[1])))

    def to_dict(self) -> dict[str, Any]:
        """Put the options into plain lists, numbers and strings.

        Returns:
            The arguments.
        """
        return {"plane": self.plane, "slices": list(self.slices), "skip_empty": self.skip_empty}


def list_slices(path: Path, options: VolumeOptions) -> list[PictureInfo]:
    """List the slices of a volume.

    Args:
        path: The file.
        options: Which slices to take.

    Returns:
        One entry per slice, in the file's order; a series volume by volume.

    Raises:
        UnreadableImageError: If the file cannot be read, or no slice is left.
    """
    axis, _, _ = _geometry(path, options.plane)
    shape = _shape(path)
    count, series = shape[axis], int(np.prod(shape[3:]))
    first, last = (round(share * (count - 1)) for share in options.slices)
    chosen = range(first, last + 1)
    kept = [series_index * count + index for series_index in range(series) for index in chosen]
    if options.skip_empty:
        filled = _filled(path, axis)
        kept = [index for index in kept if filled[index]]
    if not kept:
        reason = f"none of the {len(chosen) * series} slices in the range {list(options.slices)} has content"
        raise UnreadableImageError.of(path, reason)
    eight_bit = _eight_bit(path)
    return [PictureInfo(path, index, count * series, eight_bit, volume=str(path)) for index in kept]


def read_slice(info: PictureInfo, plane: str) -> Picture:
    """Read one slice.

    Args:
        info: An entry of ``list_slices``.
        plane: axial, coronal or sagittal.

    Returns:
        The slice in radiological order.

    Raises:
        UnreadableImageError: If the file cannot be read.
    """
    axis, orientation, spacing = _geometry(info.path, plane)
    series, index = divmod(info.index, _shape(info.path)[axis])
    pixels = _slice(info.path, axis, index, series)
    check_size(info.path, *pixels.shape[:2])
    pixels = np.ascontiguousarray(orientation.apply(pixels), pixels.dtype.newbyteorder("="))
    return Picture(pixels, info, orientation=orientation, spacing=spacing)


def matching_slice(path: Path, info: PictureInfo, plane: str) -> int:
    """Find the slice of a mask at the place of an image's slice.

    Volumes whose axes have the same directions match by index, whatever their origins are. Otherwise, for example if
    one of them was saved again in another order, they match by place.

    Args:
        path: File of the mask, with as many slices as the image.
        info: Slice of the image, of another volume.
        plane: axial, coronal or sagittal.

    Returns:
        Index of the mask's slice in its file.

    Raises:
        UnreadableImageError: If axes have other directions, and voxels are at other places than the image's.
    """
    mask, image = _nearest(path), _nearest(info.path)
    if np.array_equal(mask, image):
        return info.index
    shape, affine = _canonical(path, mask)
    wanted, wanted_affine = _canonical(info.path, image)
    corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]).T * [[side - 1] for side in (*shape, 2)]
    away = np.abs(np.linalg.solve(wanted_affine, affine @ corners) - corners).max()
    if shape != wanted or not away <= _SAME_PLACE:
        reason = (
            f"by its affine matrix, its axes have other directions than those of its image {str(info.path)!r}, and its "
            "voxels are at other places: save it with the affine matrix of the image"
        )
        raise UnreadableImageError.of(path, reason)
    signs = [nearest[nearest[:, 0] == _PLANES[plane], 1] for nearest in (mask, image)]
    count = shape[_PLANES[plane]]
    series, index = divmod(info.index, count)
    return series * count + (index if signs[0] == signs[1] else count - 1 - index)


def _image(path: Path) -> Any:
    """The opened file; its voxels are read on access."""
    return _opened(path, _stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    """Identifies a version of a file, to detect that it was replaced."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UnreadableImageError.of(path, "there is no such file") from None
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _opened(path: Path, stamp: tuple[int, int]) -> Any:
    del stamp
    try:
        import nibabel
    except ImportError:
        raise missing_package(path, "nibabel") from None
    try:
        image: Any = nibabel.load(path)
    except FileNotFoundError:
        raise UnreadableImageError.of(path, "its header or its data file is missing") from None
    except Exception as error:  # noqa: BLE001 - damaged files raise all kinds
        # The message of nibabel may quote the header.
        raise UnreadableImageError.of(path, f"nibabel cannot read it ({type(error).__name__})") from None
    if not hasattr(image, "affine") or image.affine is None or len(image.shape) < 3:  # noqa: PLR2004
        raise UnreadableImageError.of(path, f"it is not a volume ({type(image).__name__} of shape {image.shape})")
    if 0 in image.shape:
        raise UnreadableImageError.of(path, f"it has no voxels (shape {image.shape})")
    return image


def _shape(path: Path) -> tuple[int, ...]:
    return tuple(int(side) for side in _image(path).shape)


def _eight_bit(path: Path) -> bool:
    image = _image(path)
    if image.get_data_dtype().fields:  # three bytes of colour
        return True
    slope, inter = getattr(image.dataobj, "slope", 1), getattr(image.dataobj, "inter", 0)
    return bool(image.get_data_dtype() == np.uint8 and np.all(slope == 1) and np.all(inter == 0))


def _nearest(path: Path) -> np.ndarray:
    """(3, 2): the patient axis nearest to each stored axis, and 1 or -1 for its direction."""
    affine = np.asarray(_image(path).affine, float)
    import nibabel

    try:
        nearest = nibabel.orientations.io_orientation(affine)
    except (ValueError, np.linalg.LinAlgError):
        nearest = np.full((3, 2), np.nan)
    if np.isnan(nearest).any():
        raise UnreadableImageError.of(path, "its affine matrix is singular: the orientation is unknown")
    return nearest


def _canonical(path: Path, nearest: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine matrix of a volume, as if its axes were stored as right, anterior, superior."""
    import nibabel

    shape = _shape(path)[:3]
    affine = np.asarray(_image(path).affine, float) @ nibabel.orientations.inv_ornt_aff(nearest, shape)
    return tuple(shape[axis] for axis in np.argsort(nearest[:, 0])), affine


def _geometry(path: Path, plane: str) -> tuple[int, Orientation, tuple[float, float]]:
    """The stored axis of the slices, their orientation, and the spacing of rows and columns on the display."""
    nearest = _nearest(path)
    affine = np.asarray(_image(path).affine, float)
    axis = int(np.flatnonzero(nearest[:, 0] == _PLANES[plane])[0])
    rows, columns = (other for other in range(3) if other != axis)
    # nibabel's axes are right, anterior, superior; DICOM's, as `from_directions` takes them, left, posterior, superior.
    directions = np.zeros((3, 3))
    directions[np.arange(3), nearest[:, 0].astype(int)] = nearest[:, 1]
    directions *= (-1, -1, 1)
    orientation = from_directions(directions[columns].tolist(), directions[rows].tolist())
    zooms = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    spacing = float(zooms[rows]), float(zooms[columns])
    spacing = spacing[::-1] if orientation.transpose else spacing
    return axis, orientation, spacing


def _slice(path: Path, axis: int, index: int, series: int) -> np.ndarray:
    """(A, B) or (A, B, 3): one slice as it is stored."""
    image = _image(path)
    where: list[Any] = [slice(None)] * 3
    where[axis] = index
    where += list(np.unravel_index(series, image.shape[3:])) if len(image.shape) > 3 else []  # noqa: PLR2004
    # Reading a slice of a compressed file takes as long as reading the complete file, which is therefore cached.
    source = _voxels(path) if path.suffix == ".gz" else image.dataobj
    return _plain(path, _read(path, source, tuple(where)))


def _voxels(path: Path) -> np.ndarray:
    return _VOXELS.get((path, _stamp(path)), lambda: _read(path, _image(path).dataobj, ()))


def _read(path: Path, source: Any, where: tuple[Any, ...]) -> np.ndarray:
    try:
        return np.asanyarray(source[where] if where else source)
    except FileNotFoundError:
        raise UnreadableImageError.of(path, "its data file is missing") from None
    except Exception as error:  # noqa: BLE001 - damaged files raise all kinds
        reason = f"its voxels cannot be read ({type(error).__name__}); it may be truncated"
        raise UnreadableImageError.of(path, reason) from None


def _plain(path: Path, voxels: np.ndarray) -> np.ndarray:
    """Voxels of a real number type, with colours along a last axis."""
    if voxels.dtype.fields:
        if not {"R", "G", "B"} <= set(voxels.dtype.fields):
            raise UnreadableImageError.of(path, "its voxels are records")
        return np.stack([voxels[name] for name in "RGB"], axis=-1)
    if voxels.dtype.kind not in "uifb":
        raise UnreadableImageError.of(path, f"its voxels are {voxels.dtype} numbers")
    return voxels.astype(np.uint8) if voxels.dtype.kind == "b" else voxels


def _filled(path: Path, axis: int) -> list[bool]:
    """Whether each slice has content, volume by volume."""
    voxels = _plain(path, _voxels(path))
    voxels = voxels.max(axis=-1) if _image(path).get_data_dtype().fields else voxels
    voxels = voxels.reshape(*voxels.shape[:3], -1)
    with np.errstate(invalid="ignore"):
        low, high = np.nanmin(voxels), np.nanpercentile(voxels, 99.5)
        above = voxels > low + 0.1 * (float(high) - float(low))
    others = tuple(other for other in range(3) if other != axis)
    return (above.mean(axis=others).T.reshape(-1) >= _FILLED).tolist()
